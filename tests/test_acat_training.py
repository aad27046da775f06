"""The scripts of chapters 4 and 5 on tiny scans: three stages, maps of a whole data set, ACAT and its competitors."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_examples import run
from tiny_trainings import SCAN_SHAPE, write_scans

from difffuse_hf import ACATClassifier, ACATProcessor, LesionClassifier, load_classifier
from difffuse_hf.data.scans import load_scans
from difffuse_hf.errors import InputError

ROOT = Path(__file__).parents[1]
CPU = ("--cpu", "--report_to", "none")
QUICK = ("--batch_size", 4, "--epochs", 1, "--log_every", 1, *CPU)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Data, a half-brain classifier trained in three short stages, an autoencoder, maps of all splits."""
    root = tmp_path_factory.mktemp("acat")
    write_scans(root / "data")
    network = ("--backbone", "half_brain", "--num_pools", 2, "--stage_epochs", 1, 1, 1)
    run("examples/train_classifier.py", "--dataset", root / "data", *network, "--output_dir", root / "classifier",
        "--batch_size", 4, *CPU)  # fmt: skip
    run("examples/train_autoencoder.py", "--dataset", root / "data", "--channels", 4, 4, 4, "--max_steps", 2,
        "--output_dir", root / "autoencoder", "--batch_size", 4, *CPU)  # fmt: skip
    run("examples/compute_saliency.py", *saliency_flags(root), "--output_dir", root / "saliency")
    return root


def saliency_flags(root):
    models = ("--classifier", root / "classifier", "--autoencoder", root / "autoencoder")
    return ("--dataset", root / "data", *models, "--options", '{"num_steps": 2}', "--chunk", 3, "--cpu")


def acat_flags(root, output, *flags):
    models = ("--classifier", root / "classifier", "--saliency", root / "saliency")
    return [str(flag) for flag in ("--dataset", root / "data", *models, "--output_dir", output, *flags)]


def history(folder):
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def test_the_half_brain_classifier_goes_through_its_three_stages(root):
    stages = [load_classifier(root / "classifier" / name) for name in ("halves", "heads", "")]
    assert [type(stage) for stage in stages] == [LesionClassifier] * 3
    assert [stage.config.stage for stage in stages] == ["halves", "fused", "fused"]
    convolutions = [stage.backbone.stages[0].conv.weight for stage in stages]
    assert torch.equal(convolutions[0], convolutions[1])  # only the heads learn in the second
    assert not torch.equal(convolutions[1], convolutions[2])
    summary = json.loads((root / "classifier" / "training.json").read_text())
    counts = {name: count for name, count in summary["validation"].items() if name.startswith("confusion/")}
    assert len(counts) == 16 and sum(counts.values()) == 8
    assert ACATProcessor.from_pretrained(root / "classifier").num_slices == 2


def test_a_half_brain_classifier_killed_before_its_push_is_pushed_by_the_next_run(root, tmp_path):
    """The Hub is out of reach here; that it was asked is the fact."""
    shutil.copytree(root / "classifier", tmp_path / "classifier")
    network = ("--backbone", "half_brain", "--num_pools", 2, "--stage_epochs", 1, 1, 1)
    with pytest.raises(InputError, match="is complete, but the Hub did not take it as tester/new"):
        run("examples/train_classifier.py", "--dataset", root / "data", *network, "--batch_size", 4, *CPU,
            "--output_dir", tmp_path / "classifier", "--resume_from_checkpoint", "latest",
            "--push_to_hub", "tester/new")  # fmt: skip
    assert not list((tmp_path / "classifier").glob("**/checkpoint-*"))  # no stage was trained again


def test_saliency_of_the_whole_data_set_goes_on_where_it_stopped(root, tmp_path):
    flags = (*saliency_flags(root), "--splits", "train", "--output_dir", tmp_path / "maps")
    run("examples/compute_saliency.py", *flags)
    files = sorted((tmp_path / "maps").glob("train-*"))
    before = [file.read_bytes() for file in files]
    assert len(files) == 4
    files[1].unlink()
    kept = files[0].stat().st_mtime_ns
    run("examples/compute_saliency.py", *flags, "--batch_size", 2)
    assert [file.read_bytes() for file in files] == before and files[0].stat().st_mtime_ns == kept
    maps = load_scans(str(root / "data"), "train", str(tmp_path / "maps"))[:]["saliency"]
    assert maps.shape == (12, *SCAN_SHAPE) and maps.flatten(1).amax(1).tolist() == [1.0] * 12


def test_acat_becomes_the_classifier_of_a_second_round_of_maps(root, tmp_path):
    run("examples/train_acat.py", *acat_flags(root, tmp_path / "acat", *QUICK))
    model = load_classifier(tmp_path / "acat")
    assert type(model) is ACATClassifier
    flags = ("--dataset", root / "data", "--classifier", tmp_path / "acat", "--saliency", root / "saliency")
    for method in ("gradient", "grad_cam"):
        run("examples/compute_saliency.py", *flags, "--method", method, "--splits", "test", "--cpu",
            "--output_dir", tmp_path / method)  # fmt: skip
        maps = load_scans(str(root / "data"), "test", str(tmp_path / method))[:]["saliency"]
        assert maps.isfinite().all() and maps.max() == 1


@pytest.mark.parametrize("method", ["smic", "salclassnet", "hsm", "spatt", "seatt"])
def test_every_competitor_trains_by_its_name(root, tmp_path, method):
    run("examples/train_acat.py", *acat_flags(root, tmp_path / method, "--method", method, *QUICK))
    assert type(load_classifier(tmp_path / method)).__name__.lower() == f"{method}classifier"


def test_an_ablation_and_a_limited_set_are_flags(root, tmp_path):
    flags = ("--options", '{"attention_stages": [3], "fusion": false}', "--train_scans", 4, *QUICK)
    run("examples/train_acat.py", *acat_flags(root, tmp_path / "acat", *flags))
    assert load_classifier(tmp_path / "acat").config.attention_stages == [3]
    assert json.loads((tmp_path / "acat" / "training.json").read_text())["training_scans"] == 4


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--options", "{"), "is no JSON"),
        (("--options", '{"fusoin": false}'), "ACATClassifier has no option fusoin; its options are attention, "),
        (("--options", '{"fusion": "no"}'), "Field 'fusion' expected bool, got str"),
        (("--classifier", "nowhere"), "No classifier could be loaded from 'nowhere'"),
        (("--saliency", "nowhere"), "no folder nowhere of saliency maps"),
        (("--train_scans", 1000), "has 12 in its training split"),
    ],
)
def test_wrong_flags_are_one_sentence(root, tmp_path, flags, sentence):
    with pytest.raises(InputError, match=sentence):
        run("examples/train_acat.py", *acat_flags(root, tmp_path / "acat", *QUICK, *flags))


@pytest.mark.slow
def test_accelerate_launch_starts_the_script(root, tmp_path):
    launcher = Path(sys.executable).with_name("accelerate")
    command = [launcher, "launch", "--cpu", "examples/train_acat.py", *acat_flags(root, tmp_path / "acat", *QUICK)]
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"`accelerate` needs a torchvision that goes with torch ({error})")
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    assert (tmp_path / "acat" / "model.safetensors").exists()
