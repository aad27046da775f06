"""From a builder to a folder of Parquet, and to the Hub and back against a stub on this machine."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

datasets = pytest.importorskip("datasets", reason="needs the extra `train`")

from test_brats2021 import SETTINGS, write_case  # noqa: E402

from difffuse_hf.data.brats2021 import BraTS2021  # noqa: E402
from difffuse_hf.data.prepare import prepare, push  # noqa: E402
from difffuse_hf.errors import InputError  # noqa: E402
from difffuse_hf.models.processing_difffuse import DifFuseProcessor  # noqa: E402


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    root = tmp_path_factory.mktemp("cases")
    for i in range(6):
        write_case(root, f"BraTS2021_{i:05d}", seed=i, lesion=i % 3 > 0)
    return root


@pytest.fixture
def builder(cases, tmp_path):
    def builder(name="slices", data_dir=cases, **changes):
        return BraTS2021(name, data_dir=data_dir, cache_dir=str(tmp_path / "cache"), **{**SETTINGS, **changes})

    return builder


def shards(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".parquet")


def load(folder, tmp_path, **options):
    return datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "loaded"), **options)


def test_the_folder_loads_back_as_the_builder_has_it_plain_and_streaming(builder, tmp_path):
    prepare(builder(), tmp_path / "out")
    assert shards(tmp_path / "out") == [f"{split}-00000-of-00001.parquet" for split in ("test", "train", "validation")]
    original = builder()
    original.download_and_prepare()
    for split, rows in load(tmp_path / "out", tmp_path).items():
        expected = original.as_dataset(split=split)
        assert rows.features == expected.features and rows[:] == expected[:]
        first = next(iter(load(tmp_path / "out", tmp_path, split=split, streaming=True)))
        np.testing.assert_array_equal(first["image"], np.asarray(expected[0]["image"]))
    assert DifFuseProcessor.from_pretrained(tmp_path / "out").image_size == (48, 48)


def test_nifti_files_travel_inside_the_parquet(cases, builder, tmp_path):
    moved = tmp_path / "moved"
    for i in range(2):
        write_case(moved, f"BraTS2021_{i:05d}", seed=i)
    prepare(builder("volumes", data_dir=moved, split="train"), tmp_path / "out")
    (moved / "BraTS2021_00000" / "BraTS2021_00000_t1.nii.gz").unlink()
    row = load(tmp_path / "out", tmp_path, split="train")[0]
    assert row["t1"].shape == (40, 40, 12) and row["t1"].get_data_dtype() == np.int16


def test_two_processes_write_a_shard_each(builder, tmp_path):
    prepare(builder(split="train"), tmp_path / "out", num_proc=2)
    assert shards(tmp_path / "out") == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    assert len(set(load(tmp_path / "out", tmp_path, split="train")["subject"])) == 6


def test_processes_start_after_torch_has_computed_on_several_threads(builder, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.rand(1000, 1000) @ torch.rand(1000, 1000)
        prepare(builder(split="train"), tmp_path / "out", num_proc=2)  # OpenMP would hang here
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_one_split_at_a_time_keeps_the_others_and_replaces_its_own(builder, tmp_path):
    prepare(builder(split="train"), tmp_path / "out", num_proc=2)
    prepare(builder(split="test"), tmp_path / "out")
    prepare(builder(split="train"), tmp_path / "out")
    assert shards(tmp_path / "out") == ["test-00000-of-00001.parquet", "train-00000-of-00001.parquet"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| train | 60 | 6 |" in card and "| test | 60 | 6 |" in card
    with pytest.raises(InputError, match="train-00000-of-00001.parquet was made with other columns or sizes"):
        prepare(builder(split="test", image_size=(32, 32)), tmp_path / "out")


def test_a_failure_leaves_the_folder_as_it_was(builder, tmp_path):
    prepare(builder(split="train"), tmp_path / "out")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    damaged = tmp_path / "damaged"
    write_case(damaged, "BraTS2021_00000", seed=0)
    (damaged / "BraTS2021_00000" / "BraTS2021_00000_t1.nii.gz").write_bytes(b"not a scan")
    write_case(damaged, "BraTS2021_00001", seed=1)
    for num_proc in (1, 2):
        with pytest.raises(InputError, match="BraTS2021_00000_t1.nii.gz"):
            prepare(builder(data_dir=damaged, split="train"), tmp_path / "out", num_proc)
    with pytest.raises(InputError, match="Nothing of .* is left with these options"):
        prepare(builder(split="train", min_foreground=0.99), tmp_path / "out")
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_the_card_counts_rows_people_and_labels_and_says_what_must_stay_private(builder, tmp_path):
    prepare(builder(), tmp_path / "out")
    _, metadata, text = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    files = yaml.safe_load(metadata)["configs"][0]["data_files"]
    assert [entry["split"] for entry in files] == ["train", "validation", "test"]
    for rows in load(tmp_path / "out", tmp_path).values():
        lesions = sum(rows["label"])
        assert f"| {len(rows)} | {len(set(rows['subject']))} | {len(rows) - lesions} | {lesions} |" in text
    for line in (
        "Patient data: keep this data set private",
        "register at https://www.synapse.org",
        "| slice_margin | `0` |",
    ):
        assert line in text
    assert "SYNTHETIC" not in text and str(tmp_path / "cases") not in text


def test_the_card_of_a_phantom_says_synthetic(cases, builder, tmp_path):
    phantom = tmp_path / "phantom"
    write_case(phantom, "BraTS2021_00000", seed=0)
    (phantom / "subjects.csv").write_text("subject,group,seed,lesion_ml\nBraTS2021_00000,icbm152,0,1.0\n")
    prepare(builder(data_dir=phantom, split="train"), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "**SYNTHETIC: subjects in the layout of BraTS2021" in card and "- synthetic" in card
    assert "Patient data: keep" not in card


CLIENT = """
import sys
import datasets
from difffuse_hf.data.prepare import push
from difffuse_hf.errors import InputError

assert "/tester/slices/commit/" in push(sys.argv[1], "tester/slices")
here, there = datasets.load_dataset(sys.argv[1]), datasets.load_dataset("tester/slices")
assert {split: rows[:] for split, rows in here.items()} == {split: rows[:] for split, rows in there.items()}
streamed = next(iter(datasets.load_dataset("tester/slices", split="test", streaming=True)))
assert streamed["subject"] == here["test"][0]["subject"]

push(sys.argv[1], "tester/public", private=False)
try:
    push(sys.argv[1], "tester/public")
except InputError as error:
    assert "tester/public on the Hub is public" in str(error), error
else:
    raise AssertionError("patient data went to a public data set")
"""


@pytest.mark.slow
def test_a_pushed_folder_is_private_and_comes_back_the_same(builder, hub, tmp_path):
    prepare(builder(), tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("not for the Hub")
    client = [sys.executable, "-c", CLIENT, str(tmp_path / "out")]
    done = subprocess.run(client, env=hub.environment(tmp_path / "home"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert hub.private == {"tester/slices"}
    names = {*shards(tmp_path / "out"), "README.md", "preprocessor_config.json"}
    assert set(hub.files("tester/slices")) == names


def test_a_hub_that_cannot_be_reached_is_one_sentence(builder, tmp_path):
    prepare(builder(split="train"), tmp_path / "out")
    with pytest.raises(InputError, match="out is complete, but the Hub did not take it as tester/slices") as caught:
        push(tmp_path / "out", "tester/slices")  # the tests are offline
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_phantom_goes_to_parquet_in_one_go(tmp_path):
    path = Path(__file__).parents[1] / "datasets_scripts" / "make_phantom.py"
    specification = importlib.util.spec_from_file_location(path.stem, path)
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    script.main(
        [str(tmp_path / "phantom"), "--subjects", "2", "--prepare", str(tmp_path / "out"), "--config", "volumes"]
    )
    rows = load(tmp_path / "out", tmp_path)
    assert {row["subject"] for split in rows.values() for row in split} == {"BraTS2021_00000", "BraTS2021_00001"}
    assert "SYNTHETIC" in (tmp_path / "out" / "README.md").read_text()
