"""The control maps point at the drawn lesion, and somewhere where there is none."""

import importlib.util
from pathlib import Path

import datasets
import numpy as np
import pytest

from difffuse_hf.data.scans import load_scans
from difffuse_hf.errors import InputError

SCRIPT = Path(__file__).parents[1] / "examples" / "drawn_maps.py"


def main(*flags):
    specification = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    module.main([str(flag) for flag in flags])


def prepare(folder, lesions=True):
    """Six scans of three slices; every second has a lesion in a corner of its own."""
    image, mask = np.zeros((6, 3, 1, 8, 8), np.float32), np.zeros((6, 3, 8, 8), np.uint8)
    for i in (1, 3, 5) if lesions else ():
        mask[i, 1, i : i + 2, i : i + 2] = 1
    features = datasets.Features(
        {
            "image": datasets.Array4D((3, 1, 8, 8), "float32"),
            "mask": datasets.Array3D((3, 8, 8), "uint8"),
            "label": datasets.ClassLabel(names=["none", "left", "right", "both"]),
        }
    )
    content = {"image": list(image), "label": [0, 1] * 3}
    content["mask"] = [None if i == 0 else one for i, one in enumerate(mask)]
    for split in ("train", "validation", "test"):
        datasets.Dataset.from_dict(content, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return mask


def test_a_lesion_is_its_own_map_and_a_scan_without_one_has_another_scans(tmp_path):
    (tmp_path / "data").mkdir()
    mask = prepare(tmp_path / "data")
    main("--dataset", tmp_path / "data", "--output_dir", tmp_path / "maps", "--chunk", 4)
    scans = load_scans(str(tmp_path / "data"), "train", str(tmp_path / "maps"))
    maps = np.stack([np.asarray(scans[i]["saliency"]) for i in range(6)])[:, :, 0]
    assert maps.shape == (6, 3, 8, 8) and (maps.reshape(6, -1).max(1) == 1).all()
    for i in (1, 3, 5):
        assert maps[i].argmax() in np.flatnonzero(mask[i]) and (maps[i][mask[i] == 0] < 1).all()
    for i in (0, 2, 4):
        assert any(np.array_equal(maps[i], maps[j]) for j in (1, 3, 5))


def test_without_drawn_lesions_there_is_nothing_to_show(tmp_path):
    (tmp_path / "data").mkdir()
    prepare(tmp_path / "data", lesions=False)
    with pytest.raises(InputError, match="The split 'train' of .* has no drawn lesion"):
        main("--dataset", tmp_path / "data", "--output_dir", tmp_path / "maps")
