"""The command line on tiny models and scans: what it writes, prints and returns."""

import io
import json
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from nibabel.freesurfer.mghformat import MGHImage
from tiny_scans import AFFINE, everything_in, tiny_pipeline, tiny_volumes, write_case
from torch.nn.modules.module import register_module_forward_pre_hook

from difffuse_hf.cli import demo, detect
from difffuse_hf.cli import main as cli
from difffuse_hf.phantoms.brain_phantom import EXAMPLE_SEED
from difffuse_hf.phantoms.common import SYNTHETIC

FAST = ["--samples", "1", "--noise-level", "20", "--device", "cpu"]
COMMANDS = ("demo", "phantom", "preprocess", "prepare", "detect", "info", "models", "card", "app")


def test_help_imports_no_torch_and_names_every_command():
    code = "import sys; from difffuse_hf.cli.main import main; main(['--help']); sys.exit('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert all(command in shown.stdout for command in COMMANDS)


def test_the_module_is_the_command_and_ends_with_the_code_of_main(tmp_path):
    command = [sys.executable, "-m", "difffuse_hf.cli", "detect", "x", "--output", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr == "difffuse: Missing option '--model' (see `difffuse detect --help`).\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command, capsys):
    assert cli.main([command, "--help"]) == 0
    assert f"Example: difffuse {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["detect", "x", "--model", "m", "--output", "o", "--preset", "quick"],
        ["detect", "x", "--model", "m", "--output", "o", "--device", "abacus"],
        ["detect", "x", "--model", "m", "--output", "o", "--percentile", "101"],
        ["detect", "x", "--model", "m", "--output", "o", "--batch-size", "0"],
        ["detect", "--model", "m", "--output", "o"],
        ["detect", "x", "--model", "m", "--output", "o", "--false-positives", "0.1", "--threshold", "1"],
        ["detect", "x", "--model", "m", "--output", "o", "--image", "t1=a.nii"],
        ["detect", "--model", "m", "--output", "o", "--image", "t1"],
        ["detect", "--model", "m", "--output", "o", "--image", "t1=a.nii", "--image", "t1=b.nii"],
        ["phantom", "o", "--layout", "brats1812"],
        ["phantom", "o", "--arrays"],
        ["phantom", "o", "--layout", "ist3", "--infarct-contrast", "2", "2", "1", "1"],
        ["diagnose"],
    ],
    ids=lambda arguments: " ".join(arguments[-2:]),
)
def test_bad_usage_is_one_sentence_and_code_2(arguments, capsys):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("difffuse: ") and error.count("\n") == 1 and "--help" in error


def test_no_command_prints_the_help(capsys):
    assert cli.main([]) == 2
    assert "detect" in capsys.readouterr().out


def test_the_caller_keeps_its_own_handling_of_signals(capsys):
    """A handler left behind would reach the processes that it forks later, whose pools end them by SIGTERM."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        for arguments in (["--help"], ["diagnose"]):
            cli.main(arguments)
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        with ThreadPoolExecutor() as pool:  # where no handler may be set
            assert pool.submit(cli.main, ["diagnose"]).result() == 2
    finally:
        signal.signal(signal.SIGTERM, before)


def write_oddly(case):
    """The same T1 as an MGZ file, and the same T2 with a header in metres."""
    t1, t2 = (nibabel.load(case / f"{case.name}_{name}.nii.gz") for name in ("t1", "t2"))
    nibabel.save(MGHImage(np.asarray(t1.dataobj), t1.affine), case / f"{case.name}_t1.mgz")
    (case / f"{case.name}_t1.nii.gz").unlink()
    t2 = nibabel.Nifti1Image(np.asarray(t2.dataobj), np.diag([0.001, 0.001, 0.001, 1]) @ t2.affine)
    t2.header.set_xyzt_units("meter")
    nibabel.save(t2, case / f"{case.name}_t2.nii.gz")


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    """One run over four inputs: a good case, one without its T2, a synthetic one, and a namesake of the first."""
    folder = tmp_path_factory.mktemp("run")
    inputs = [
        write_case(folder / "Good"),
        write_case(folder / "Bad"),
        write_case(folder / "Drawn", reference=False, descrip=SYNTHETIC),
        write_case(folder / "elsewhere" / "Good", tiny_volumes(seed=1)),
    ]
    (inputs[1] / "Bad_t2.nii.gz").unlink()
    write_oddly(inputs[0])
    output, out, err = folder / "new" / "results", io.StringIO(), io.StringIO()
    command = ["detect", *map(str, inputs), "--model", str(model), "--output", str(output), *FAST]
    with redirect_stdout(out), redirect_stderr(err):
        code = cli.main(command)
    return SimpleNamespace(inputs=inputs, output=output, code=code, out=out.getvalue(), err=err.getvalue())


def read(folder, name):
    return nibabel.load(folder / f"{folder.name}_{name}.nii.gz")


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_detect_writes_one_complete_folder_per_case_and_nothing_else(run):
    names = [f"counterfactual_{m}" for m in ("flair", "t1", "t1ce", "t2")] + ["anomaly", "lesion", "mask", "saliency"]
    expected = []
    for case in ("Drawn", "Good"):
        files = [f"{case}_{name}.nii.gz" for name in names] + ["report.html", "overview.png", "summary.json"]
        expected += [case, *(f"{case}/{file}" for file in files)]
    assert everything_in(run.output) == sorted(expected)


def test_detect_keeps_the_geometry_of_the_scan(run):
    anomaly = read(run.output / "Good", "anomaly")
    assert np.array_equal(anomaly.affine, AFFINE) and anomaly.shape == (32, 32, 10)


def test_the_summary_holds_what_the_files_hold(run):
    found = summary(run.output / "Good")
    lesion = np.asarray(read(run.output / "Good", "lesion").dataobj)
    assert found["lesion_ml"] == pytest.approx(lesion.sum() / 1000) and lesion.any()  # voxels of 1 mm³
    assert 0 < found["dice"] <= 1 and summary(run.output / "Drawn")["dice"] is None
    assert found["parameters"]["noise_level"] == 20 and found["parameters"]["preset"] == "fast"
    assert found["slices_flagged"] == found["slices"] == 10


def test_detect_prints_a_line_per_case_and_the_path_of_its_report(run):
    lines = [line.rstrip() for line in run.out.splitlines()]
    for case in ("Good", "Drawn"):
        assert any(line.startswith(case) and "10 of 10" in line for line in lines)
        assert str(run.output / case / "report.html") in lines
    assert "no reference" in run.out


def test_bad_cases_are_reported_after_the_good_ones_are_written_with_code_1(run):
    assert run.code == 1
    missing, namesake = run.err.splitlines()
    assert "Bad_t2.nii.gz" in missing and str(run.inputs[3]) in namesake


def test_of_two_inputs_with_one_name_the_first_is_kept(run):
    assert summary(run.output / "Good")["inputs"]["flair"] == str(run.inputs[0] / "Good_flair.nii.gz")


def test_what_was_decided_in_reading_a_case_is_said_everywhere(run):
    folder, note = run.output / "Good", "t2: the header is in metres, and was read so."
    assert f"Good: {note}" in run.out and "Drawn: " not in run.out
    found = summary(folder)
    assert found["read_as"] == "BraTS 2018-2021" and found["notes"] == [note]
    assert found["inputs"]["t1"].endswith("Good_t1.mgz")
    assert note in (folder / "report.html").read_text()
    np.testing.assert_allclose(read(folder, "counterfactual_t2").affine, AFFINE, atol=1e-5)
    assert read(folder, "counterfactual_t1").get_data_dtype() == np.int16


def test_the_files_of_one_case_may_be_named_in_place_of_cases():
    assert detect.choose_sources(None, ["t1=a.nii", "flair=b=c.nii"]) == [
        {"t1": Path("a.nii"), "flair": Path("b=c.nii")}
    ]
    assert detect.choose_sources([Path("a"), Path("b")], None) == [Path("a"), Path("b")]


def test_a_synthetic_scan_is_called_synthetic_wherever_it_is_shown(run):
    assert summary(run.output / "Drawn")["synthetic"] and not summary(run.output / "Good")["synthetic"]
    assert "Synthetic scan" in (run.output / "Drawn" / "report.html").read_text()
    assert "Synthetic scan" not in (run.output / "Good" / "report.html").read_text()
    assert "Drawn (synthetic)" in run.out


def test_the_report_quotes_the_first_sentence_of_the_model_card(run):
    report = (run.output / "Good" / "report.html").read_text()
    assert "An untrained model." in report and "It is tiny." not in report


def test_running_again_replaces_the_folder_and_a_lower_threshold_finds_more(run, model):
    again = run.inputs[2], run.output.parent / "again"
    shutil.copytree(run.output / "Drawn", again[1] / "Drawn")
    (again[1] / "Drawn" / "stale.txt").write_text("from an older version")
    command = ["detect", str(again[0]), "--model", str(model), "--output", str(again[1]), *FAST, "--threshold", "0.01"]
    assert cli.main(command) == 0
    maps = [read(output / "Drawn", "anomaly").get_fdata() for output in (run.output, again[1])]
    assert np.array_equal(*maps)
    assert summary(again[1] / "Drawn")["lesion_ml"] > summary(run.output / "Drawn")["lesion_ml"]
    assert summary(again[1] / "Drawn")["parameters"]["anomaly_threshold"] == 0.01
    assert everything_in(again[1]) == [file for file in everything_in(run.output) if file.startswith("Drawn")]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=["by Ctrl-C", "by a batch system"])
def test_an_interrupt_ends_with_130_and_leaves_what_was_there(stop, run, model, tmp_path, capsys):
    output = tmp_path / "out"
    (output / "Good").mkdir(parents=True)
    (output / "Good" / "report.html").write_text("the old report")
    found = []

    def stop_in_the_unet(module, inputs):
        if type(module).__name__ == "UNet2DModel":
            found.extend(output.iterdir())  # the temporary folder and its lock as well: work has begun
            signal.raise_signal(stop)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    hook = register_module_forward_pre_hook(stop_in_the_unet)
    try:
        command = ["detect", str(run.inputs[0]), "--model", str(model), "--output", str(output), *FAST]
        assert cli.main(command) == 130
    finally:
        hook.remove()
        signal.signal(signal.SIGINT, before)
    assert len(found) == 3
    assert capsys.readouterr().err.splitlines()[-1].startswith("difffuse: Interrupted")
    assert everything_in(output) == ["Good", "Good/report.html"]
    assert (output / "Good" / "report.html").read_text() == "the old report"


def test_torch_and_torchvision_that_do_not_match_are_one_sentence(monkeypatch, capsys, tmp_path):
    def import_of_timm(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(detect, "check_device", import_of_timm)
    assert cli.main(["detect", "x", "--model", "m", "--output", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "install a matching pair" in error


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """One synthetic subject, where the demo looks for its own."""
    folder = tmp_path_factory.mktemp("demo") / "phantom"
    assert cli.main(["phantom", str(folder), "--subjects", "1", "--seed", str(EXAMPLE_SEED)]) == 0
    return folder


@pytest.mark.slow
def test_phantom_writes_the_folders_of_brats_and_a_list_of_subjects(cohort):
    names = [f"BraTS2021_00000/BraTS2021_00000_{suffix}.nii.gz" for suffix in ("flair", "seg", "t1", "t1ce", "t2")]
    assert everything_in(cohort) == ["BraTS2021_00000", *names, "subjects.csv"]


@pytest.mark.slow
def test_the_demo_shows_its_synthetic_subject_and_the_scan_it_is_given(cohort, tmp_path, capsys):
    pipeline = tiny_pipeline()
    pipeline.processor.pixel_spacing_mm = 8.0  # a whole head on 32 pixels
    pipeline.processor.slice_margin = 69
    pipeline.save_pretrained(tmp_path / "coarse")
    scan = write_case(tmp_path / "Scan")
    for file in scan.iterdir():  # as large as a head
        nibabel.save(nibabel.Nifti1Image(np.asarray(nibabel.load(file).dataobj), np.diag([-6, -6, 6, 1])), file)
    drawn, given = demo.run_demo(cohort.parent, scan, model=str(tmp_path / "coarse"))
    assert drawn["synthetic"] and not given["synthetic"]
    assert (drawn["case"], given["case"]) == ("BraTS2021_00000", "Scan")
    assert all((one["folder"] / "report.html").is_file() for one in (drawn, given))
    printed = capsys.readouterr().out
    assert "no patient" in printed and "not a medical device" in printed
