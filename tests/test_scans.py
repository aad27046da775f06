"""Scans with what is known of them, and the store of saliency maps beside a data set."""

import datasets
import numpy as np
import pytest
import torch

from difffuse_hf.data.scans import SaliencyStore, load_scans
from difffuse_hf.errors import InputError

SHAPE = (3, 1, 6, 5)


@pytest.fixture
def folder(tmp_path):
    features = {
        "image": datasets.Array4D(SHAPE, "float32"),
        "label": datasets.ClassLabel(names=["none", "left", "right", "both"]),
        "scan_id": datasets.Value("string"),
        "territory": datasets.Value("string"),
    }
    columns = {
        "image": list(np.random.default_rng(0).random((5, *SHAPE), np.float32)),
        "label": [0, 1, 2, 3, 0],
        "scan_id": [f"scan{i}" for i in range(5)],
        "territory": ["", "MCA left", "PCA right", "MCA left;PCA right", None],
    }
    rows = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    datasets.DatasetDict(train=rows, test=rows.select([4, 2])).save_to_disk(tmp_path / "data")
    return tmp_path / "data"


def test_scans_are_tensors_and_what_is_known_of_them_stays(folder):
    scans = load_scans(str(folder), "train")
    row = scans[3]
    assert row["pixel_values"].shape == SHAPE and row["pixel_values"].dtype == torch.float32
    assert (row["key"], int(row["label"]), row["territory"]) == ("scan3", 3, "MCA left;PCA right")
    assert scans.features["label"].names == ["none", "left", "right", "both"]
    assert scans[:2]["pixel_values"].shape == (2, *SHAPE)


def test_slices_of_a_scan_have_keys_of_their_own(tmp_path):
    features = datasets.Features(
        {
            "image": datasets.Array3D((1, 4, 4), "float32"),
            "label": datasets.ClassLabel(names=["healthy", "lesion"]),
            "subject": datasets.Value("string"),
            "slice": datasets.Value("int32"),
        }
    )
    columns = {"image": [np.zeros((1, 4, 4), np.float32)] * 3, "label": [0, 1, 1], "subject": ["a", "a", "b"]}
    rows = datasets.Dataset.from_dict({**columns, "slice": [3, 4, 3]}, features=features)
    datasets.DatasetDict(train=rows).save_to_disk(tmp_path / "slices")
    assert list(load_scans(str(tmp_path / "slices"), "train")["key"]) == ["a_003", "a_004", "b_003"]


def test_maps_come_back_with_their_scans_whatever_the_order_of_files(folder, tmp_path):
    maps = torch.rand(5, *SHAPE)
    store = SaliencyStore(tmp_path / "maps", "train", {"method": "gradient"}, chunk=2)
    keys = [f"scan{i}" for i in range(5)]
    for rows in reversed(store.missing(5)):
        store.write(rows, keys[rows.start : rows.stop], maps[rows.start : rows.stop])
    assert store.missing(5) == []
    scans = load_scans(str(folder), "train", str(tmp_path / "maps"))
    torch.testing.assert_close(scans[:]["saliency"], maps, rtol=0, atol=1 / 65535)
    assert scans.select([4, 0])[1]["key"] == "scan0"


def test_a_run_that_was_stopped_goes_on_with_what_is_missing(tmp_path):
    settings = {"method": "gradient"}
    SaliencyStore(tmp_path, "train", settings, chunk=2).write(range(2, 4), ["c", "d"], torch.rand(2, *SHAPE))
    (tmp_path / ".123-train-00000.safetensors").write_bytes(b"half")  # a process was killed while it wrote
    again = SaliencyStore(tmp_path, "train", settings, chunk=2)
    assert again.missing(5) == [range(0, 2), range(4, 5)]
    with pytest.raises(InputError, match="made with another method .gradient, now rise."):
        SaliencyStore(tmp_path, "train", {"method": "rise"}, chunk=2)


def test_missing_maps_and_maps_of_another_size_are_one_sentence(folder, tmp_path):
    with pytest.raises(InputError, match="no folder .* of saliency maps"):
        load_scans(str(folder), "train", str(tmp_path / "nowhere"))
    store = SaliencyStore(tmp_path / "maps", "train", {}, chunk=8)
    store.write(range(0, 4), ["scan0", "scan1", "scan2", "scan3"], torch.rand(4, *SHAPE))
    with pytest.raises(
        InputError, match="no saliency map for 1 of 5 scans of the split 'train', the first being scan4"
    ):
        load_scans(str(folder), "train", str(tmp_path / "maps"))
    other = SaliencyStore(tmp_path / "other", "test", {}, chunk=8)
    other.write(range(0, 2), ["scan4", "scan2"], torch.rand(2, 3, 1, 8, 8))
    with pytest.raises(InputError, match="make them again"):
        load_scans(str(folder), "test", str(tmp_path / "other"))
