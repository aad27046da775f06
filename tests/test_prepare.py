"""From a builder to a folder of Parquet, and to the Hub and back against a stub on this machine."""

import filecmp
import importlib.util
import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

datasets = pytest.importorskip("datasets", reason="needs the extra `train`")

from test_brats2021 import SETTINGS, write_case  # noqa: E402

from difffuse_hf.cli.main import main as difffuse  # noqa: E402
from difffuse_hf.cli.scripts import prepare_script  # noqa: E402
from difffuse_hf.data.brats2021 import BraTS2021  # noqa: E402
from difffuse_hf.data.builder import classifier_config, preview  # noqa: E402
from difffuse_hf.data.prepare import make_builder, prepare  # noqa: E402
from difffuse_hf.data.slices import load_slices  # noqa: E402
from difffuse_hf.errors import InputError  # noqa: E402
from difffuse_hf.models.processing_acat import ACATProcessor  # noqa: E402
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
    settings = {name: value for name, value in SETTINGS.items() if name != "min_lesion_pixels"}
    DifFuseProcessor(**settings).save_pretrained(tmp_path / "saved")
    written = tmp_path / "out" / "preprocessor_config.json"
    assert filecmp.cmp(written, tmp_path / "saved" / "preprocessor_config.json", shallow=False)
    assert DifFuseProcessor.from_pretrained(tmp_path / "out").recipe == original.config.recipe


@pytest.mark.parametrize("num_slices", [None, 11])
def test_the_preprocessing_of_ct_is_what_its_processor_saves(tmp_path, num_slices):
    ACATProcessor(image_size=(20, 16), num_slices=num_slices).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved == classifier_config((20, 16), num_slices)


def test_a_row_comes_with_a_picture_that_says_nothing_else_and_that_training_does_not_see(builder, tmp_path):
    prepare(builder(split="train"), tmp_path / "out")
    rows = load(tmp_path / "out", tmp_path, split="train")
    picture, image = rows[0]["preview"], np.asarray(rows[0]["image"])
    shown = np.asarray(picture, np.float32) / 255
    assert shown.shape == (image.shape[1], image.shape[0] * image.shape[2]) and picture.format == "JPEG"
    assert np.abs(shown - np.hstack(image)).mean() < 0.02
    assert not picture.getexif() and "comment" not in picture.info
    stored = rows.cast_column("preview", datasets.Image(decode=False))[0]["preview"]
    assert stored["path"] is None and b"BraTS2021" not in stored["bytes"]
    assert "preview" not in load_slices(str(tmp_path / "out"), "train").column_names


def test_the_picture_of_a_scan_shows_four_slices_and_a_large_one_is_made_small():
    scan = np.linspace(0, 1, 11, dtype=np.float32)[:, None, None, None] * np.ones((1, 1, 500, 400), np.float32)
    picture = np.asarray(Image.open(BytesIO(preview(scan))))
    assert picture.shape == (128, 410)
    np.testing.assert_allclose(picture[64, 50::103], [51, 102, 153, 204], atol=3)


def test_nifti_files_travel_inside_the_parquet(cases, builder, tmp_path):
    moved = tmp_path / "moved"
    for i in range(2):
        write_case(moved, f"BraTS2021_{i:05d}", seed=i)
    prepare(builder("volumes", data_dir=moved, split="train"), tmp_path / "out")
    (moved / "BraTS2021_00000" / "BraTS2021_00000_t1.nii.gz").unlink()
    row = load(tmp_path / "out", tmp_path, split="train")[0]
    assert row["t1"].shape == (40, 40, 12) and row["t1"].get_data_dtype() == np.int16


def test_two_processes_write_a_shard_each_also_after_torch_has_computed_on_several_threads(builder, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.rand(1000, 1000) @ torch.rand(1000, 1000)
        prepare(builder(split="train"), tmp_path / "out", num_proc=2)  # OpenMP would hang here
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert shards(tmp_path / "out") == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    assert len(set(load(tmp_path / "out", tmp_path, split="train")["subject"])) == 6


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
    metadata = yaml.safe_load(metadata)
    splits = {split["name"]: split["num_examples"] for split in metadata["dataset_info"]["splits"]}
    assert [entry["split"] for entry in metadata["configs"][0]["data_files"]] == ["train", "validation", "test"]
    assert metadata["task_categories"] == ["image-classification", "image-segmentation"]
    assert metadata["license_link"] == "https://www.synapse.org/brats2021"
    for split, rows in load(tmp_path / "out", tmp_path).items():
        assert splits[split] == len(rows)
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
from difffuse_hf.cli.main import main

cases, out = sys.argv[1:]
def prepare(repository, *options):
    size = "--image-size 48 48 --slice-margin 0 --modalities flair --modalities t1".split()
    return main(["prepare", "brats2021", cases, out, *size, "--push-to-hub", repository, *options])

assert prepare("tester/slices") == 0
here, there = datasets.load_dataset(out), datasets.load_dataset("tester/slices")
assert {split: rows[:] for split, rows in here.items()} == {split: rows[:] for split, rows in there.items()}
streamed = next(iter(datasets.load_dataset("tester/slices", split="test", streaming=True)))
assert streamed["subject"] == here["test"][0]["subject"]
assert prepare("tester/public", "--public") == 0
assert prepare("tester/public") == 1
"""


@pytest.mark.slow
def test_a_pushed_folder_is_private_unless_said_and_comes_back_the_same(cases, hub, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("not for the Hub")
    client = [sys.executable, "-c", CLIENT, str(cases), str(tmp_path / "out")]
    done = subprocess.run(client, env=hub.environment(tmp_path / "home"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "tester/public on the Hub is public" in done.stderr and "`--public`" in done.stderr
    assert "/tester/slices/commit/" in done.stdout
    assert hub.private == {"tester/slices"}
    names = {*shards(tmp_path / "out"), "README.md", "preprocessor_config.json"}
    assert set(hub.files("tester/slices")) == names


def test_a_hub_that_cannot_be_reached_is_one_sentence(builder, tmp_path):
    with pytest.raises(InputError, match="out is complete, but the Hub did not take it as tester/slices") as caught:
        prepare(builder(split="train"), tmp_path / "out", push_to_hub="tester/slices")  # the tests are offline
    assert "\n" not in str(caught.value)


def test_a_raw_folder_becomes_parquet_on_the_command_line_and_with_the_scripts_spelling(cases, tmp_path, capsys):
    options = "--pixel-spacing-mm 1.5 --slice-margin 0 --split test --modalities t1 --modalities flair".split()
    command = ["prepare", "brats2021", str(cases), str(tmp_path / "one"), "--image-size", "32", "32", *options]
    assert difffuse(command) == 0
    assert "test: " in capsys.readouterr().out
    spelling = "--image_size 32 --pixel_spacing_mm=1.5 --slice_margin 0 --split test --modalities t1 flair".split()
    assert prepare_script("brats2021", [str(cases), str(tmp_path / "two"), *spelling, "--num_proc", "1"]) == 0
    assert "--num-proc is the old name of --workers" in capsys.readouterr().err
    for name in (*shards(tmp_path / "one"), "preprocessor_config.json"):
        assert filecmp.cmp(tmp_path / "one" / name, tmp_path / "two" / name, shallow=False)
    processor = DifFuseProcessor.from_pretrained(tmp_path / "two")
    assert (processor.modalities, processor.image_size, processor.pixel_spacing_mm) == (("t1", "flair"), (32, 32), 1.5)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["brats2020", "in", "out"], 2, "brats2020"),
        (["wmh", "in", "out", "--ct1", "lesion"], 1, "`ct1` is no option of the layout wmh; it belongs to mosmed."),
        (["ist3", "in", "out", "--slice-margin", "3"], 1, "it belongs to brats2021, wmh, mosmed."),
        (["wmh", "in", "out", "--config", "nifti"], 1, "`config` must be one of volumes, slices, got 'nifti'"),
        (["wmh", "in", "out", "--division", "site"], 1, "`division` must be one of official, patient, got 'site'"),
        (["mosmed", "in", "out", "--ct1", "mild"], 1, "`ct1` must be one of left out, healthy, lesion, got 'mild'"),
        (["ist3", "in", "out", "--columns", "lesion"], 2, "takes lesion=side and the like"),
        (["ist3", "in", "out", "--values", "lesion=left"], 2, "takes lesion:1=left and the like"),
        (["mosmed", "nowhere", "out"], 1, "nowhere holds no study"),
    ],
)
def test_what_does_not_fit_is_one_sentence(tmp_path, monkeypatch, capsys, arguments, code, sentence):
    monkeypatch.chdir(tmp_path)
    assert difffuse(["prepare", *arguments]) == code
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_the_words_of_a_table_of_labels_may_be_given_one_by_one_or_together(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("difffuse_hf.data.prepare.make_builder", lambda *_, **options: seen.append(options))
    monkeypatch.setattr("difffuse_hf.data.prepare.prepare", lambda *_: None)
    words = "--columns lesion=side time=visit --values lesion:0=none lesion:1=left time:scan=baseline".split()
    assert prepare_script("ist3", ["in", "out", *words]) == 0
    assert seen[0]["columns"] == {"lesion": "side", "time": "visit"}
    assert seen[0]["values"] == {"lesion": {"0": "none", "1": "left"}, "time": {"scan": "baseline"}}


def test_an_unknown_layout_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(InputError, match="`layout` must be one of brats2021, wmh, ist3, mosmed, got 'adni'"):
        make_builder("adni", tmp_path)


@pytest.mark.slow
def test_a_phantom_goes_to_parquet_in_one_go(tmp_path):
    path = Path(__file__).parents[1] / "datasets_scripts" / "make_phantom.py"
    specification = importlib.util.spec_from_file_location(path.stem, path)
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    command = [str(tmp_path / "phantom"), "--subjects", "1", "--prepare", str(tmp_path / "out"), "--config", "volumes"]
    assert script.main(command) == 0
    rows = load(tmp_path / "out", tmp_path)
    assert {row["subject"] for split in rows.values() for row in split} == {"BraTS2021_00000"}
    assert "SYNTHETIC" in (tmp_path / "out" / "README.md").read_text()
