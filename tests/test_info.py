"""What the command line says of models, without loading them: `info`, `models`, `card`, and JSON for scripts."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download
from tiny_scans import tiny_pipeline, write_case

from difffuse_hf import DifFuseProcessor
from difffuse_hf.cli import main as cli
from difffuse_hf.io.model_card import card_section, read_card
from difffuse_hf.models.model_info import describe_model

ESCAPE = "\x1b]0;title\x07"  # would rename a terminal


def run(*arguments):
    """Exit code, stdout and stderr of a command line."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = cli.main([str(one) for one in arguments])
    return code, out.getvalue(), err.getvalue()


def changed(model, to, **values):
    """A copy of a model's folder with other values in its processor."""
    shutil.copytree(model, to)
    file = to / "processor" / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    return to


@pytest.fixture(scope="module")
def about(model):
    code, out, err = run("info", model, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_info_counts_the_parameters_of_each_network(about):
    networks = {name: getattr(tiny_pipeline(), name) for name in ("unet", "classifier", "autoencoder")}
    assert about["networks"] == {
        name: {
            "class": type(network).__name__,
            "parameters": sum(one.numel() for one in network.parameters()),
            "dtype": "float32",
        }
        for name, network in networks.items()
    }


def test_info_says_what_goes_in_and_how_the_model_is_set(about, model):
    takes, processor = about["takes"], tiny_pipeline().processor
    assert processor is not None
    assert takes.pop("kind") == processor.recipe.kind == "skull-stripped MR"
    assert takes.pop("window_hu") is None  # left out of the file
    assert takes == {name: json.loads(json.dumps(getattr(processor, name))) for name in takes}
    assert {*takes} >= {"modalities", "optional_modalities", "image_size", "pixel_spacing_mm"}
    assert (about["noise_level"], about["percentile"], about["presets"]) == (200, 50.0, {})
    assert (about["anomaly_threshold"], about["lesion_probability_threshold"]) == (0.05, 0.0)
    assert about["bytes"] == sum(one.stat().st_size for one in model.rglob("*") if one.is_file())
    assert about["card"] == "An untrained model." and about["training_data"] == about["scores"] == ""


@pytest.mark.parametrize(("body_part", "kind"), [("head", "head CT"), ("chest", "lung CT")])
def test_info_tells_the_kinds_of_ct_apart(model, tmp_path, body_part, kind):
    ct = DifFuseProcessor(modalities=("ct",), window_hu=(0, 80), body_part=body_part, image_size=(32, 48))
    folder = changed(model, tmp_path / "ct", **json.loads(ct.to_json_string()))
    _, out, _ = run("info", folder)
    assert f"takes: {kind}: ct\n" in out and "window: 0 to 80 HU" in out and "32 x 48 pixels of 1 mm" in out


def test_info_lists_calibrated_presets_with_their_thresholds_and_modalities_that_may_be_missing(model, tmp_path):
    chosen = {"threshold": 0.7, "noise_level": 350, "percentile": 90, "false_positive_thresholds": {"0.01": 0.9}}
    folder = changed(model, tmp_path / "m", calibrations={"fast": chosen}, optional_modalities=["t1"])
    assert describe_model(folder)["presets"] == {"fast": {**chosen, "chosen_by": None, "scan": None}}
    _, out, _ = run("info", folder)
    assert (
        "fast, calibrated: anomaly threshold 0.7, 0.9 for a share of 0.01 false positives, K 350, percentile 90" in out
    )
    assert "other presets: anomaly threshold 0.05, K 200, percentile 50" in out
    assert "takes: skull-stripped MR: flair, t1, t1ce, t2 (may lack: t1)" in out
    own = changed(model, tmp_path / "own", calibrations={"fast": {**chosen, "scan": {"peak_share": 0.35}}})
    _, out, _ = run("info", own)
    assert "anomaly threshold 0.7, of a whole scan 0.35 of the highest anomaly that counts, 0.9 for" in out


def test_the_demo_model_is_described_at_once_and_without_torch():
    code = (
        "import sys; from difffuse_hf.cli.main import main; main(['info', 'demo']); sys.exit('torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    for words in ("skull-stripped MR: flair, t1, t1ce, t2", "96 x 96 pixels of 2 mm", "preset fast", "No patient was"):
        assert words in shown.stdout


def test_models_lists_those_in_the_package():
    code, out, _ = run("models", "--json")
    found = {one["model"]: one for one in json.loads(out)}
    assert code == 0 and found["demo"]["kind"] == "skull-stripped MR"
    assert all({*one} == {"model", "kind", "bytes", "card"} for one in found.values())
    lines = run("models")[1].splitlines()
    assert [line.split()[0] for line in lines] == [*found] and lines[0].endswith(found["demo"]["card"])


def test_card_prints_the_card_of_a_model_and_of_a_data_set_with_its_metadata(model, tmp_path):
    (tmp_path / "README.md").write_text("---\ntags:\n- synthetic\n---\n\n# Slices\n")  # of no model
    for folder in (model, tmp_path):
        code, out, _ = run("card", folder)
        assert code == 0 and out == (folder / "README.md").read_text() + "\n" and out.startswith("---\n")
    assert run("card", "demo")[1].strip() == read_card(describe_model("demo")["folder"]).strip()


def test_a_section_of_a_card_ends_at_the_next_heading(tmp_path):
    (tmp_path / "README.md").write_text(
        "---\na: b\n---\n# M\n\nIt is.\n\n## Data\n\nx\n\n### y\n\nz\n\n## Scores\n\n1\n"
    )
    assert card_section(tmp_path, "Data") == "x\n\n### y\n\nz"
    assert card_section(tmp_path, "Scores") == "1" and card_section(tmp_path, "Use") == ""


def test_a_card_of_a_stranger_does_not_steer_the_terminal(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "m")
    (folder / "README.md").write_text(f"# M\n\nGood{ESCAPE} model.\n\n## Training data\n\nSome{ESCAPE}.\n")
    for command in ("card", "info"):
        _, out, _ = run(command, folder)
        assert "Good" in out and "\x1b" not in out and "\x07" not in out


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"modalities": [1, 2]}, "does not say how slices are cut"),
        ({"image_size": "large"}, "does not say how slices are cut"),
        ({"body_part": "knee"}, "`body_part` must be one of head, chest"),
        ({"calibrations": {"fast": 3}}, "`calibrations` in"),
    ],
    ids=["modalities", "size", "body part", "calibrations"],
)
def test_a_processor_that_makes_no_sense_is_one_sentence(model, tmp_path, values, reason):
    code, out, err = run("info", changed(model, tmp_path / "m", **values))
    assert (code, out) == (1, "") and reason in err and "preprocessor_config.json" in err and err.count("\n") == 1


def test_no_model_and_no_card_are_one_sentence(tmp_path):
    for command in ("info", "card"):
        code, out, err = run(command, tmp_path)
        assert (code, out) == (1, "") and err.count("\n") == 1 and str(tmp_path) in err
    (tmp_path / "README.md").symlink_to(Path(__file__))
    assert "is a link to" in run("card", tmp_path)[2]


def test_a_name_on_the_hub_that_is_not_in_the_cache_is_one_sentence_offline(tmp_path):
    """In a process of its own, whose environment is what a user sets."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "difffuse_hf.cli", "info", "user/name"]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert re.fullmatch(r"difffuse: .* user/name.* HF_HUB_OFFLINE .*; unset it, or .*\.\n", ended.stderr)


def test_info_and_card_of_a_name_on_the_hub(connected_hub, model):
    files = {str(one.relative_to(model)): one.read_bytes() for one in model.rglob("*") if one.is_file()}
    connected_hub.repos["tester/tiny"] = [("0" * 40, files)]
    assert run("card", "tester/tiny")[1] == (model / "README.md").read_text() + "\n"
    cached = Path(snapshot_download("tester/tiny", allow_patterns=["README.md"]))
    assert [one.name for one in cached.iterdir()] == ["README.md"]  # nothing else was fetched for it
    there, here = describe_model("tester/tiny"), describe_model(model)
    for one in (there, here):
        del one["model"], one["folder"]
    assert there == here


def test_detect_gives_a_script_json_alone_on_stdout(model, tmp_path):
    good, bad = write_case(tmp_path / "Good"), write_case(tmp_path / "Bad")
    (bad / "Bad_t2.nii.gz").unlink()
    output = tmp_path / "out"
    options = ["--output", output, "--samples", 1, "--noise-level", 4, "--device", "cpu", "--json"]
    code, out, err = run("detect", bad, good, "--model", model, *options)
    assert code == 1 and "Bad_t2.nii.gz" in err and "slices flagged" in err
    (summary,) = json.loads(out)
    assert summary.pop("folder") == str(output / "Good")
    assert summary == json.loads((output / "Good" / "summary.json").read_text())


def test_the_shell_completes_commands():
    environment = {**os.environ, "_DIFFFUSE_COMPLETE": "complete_bash", "COMP_WORDS": "difffuse de", "COMP_CWORD": "1"}
    command = [sys.executable, "-m", "difffuse_hf.cli"]
    assert subprocess.run(command, capture_output=True, text=True, env=environment).stdout.split() == [
        "demo",
        "detect",
    ]
