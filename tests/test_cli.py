"""The command line on tiny models and scans: what it writes, prints and returns."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from tiny_scans import AFFINE, everything_in, tiny_pipeline, tiny_volumes, write_case

from difffuse_hf.cli import main as cli
from difffuse_hf.detection import demo
from difffuse_hf.phantoms.common import SYNTHETIC

FAST = ["--samples", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# Tiny\n\nAn untrained model. It is tiny.\n")
    return folder


def test_help_imports_no_torch_and_names_every_command():
    start = time.perf_counter()
    code = "import sys; from difffuse_hf.cli.main import main; main(['--help']); sys.exit('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0, shown.stderr
    assert time.perf_counter() - start < 10  # a loaded machine; half a second on a free one
    assert all(command in shown.stdout for command in ("demo", "phantom", "detect"))


def test_the_installed_command_ends_with_the_code_of_main(tmp_path):
    code = "import sys; from difffuse_hf.cli.main import main; sys.exit(main())"
    ended = subprocess.run(
        [sys.executable, "-c", code, "detect", "x", "--output", str(tmp_path)], capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert ended.stderr == "difffuse: Missing option '--model' (see `difffuse detect --help`).\n"


@pytest.mark.parametrize("command", ["demo", "phantom", "detect"])
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
        ["phantom", "o", "--layout", "brats1812"],
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
    assert found["parameters"]["noise_level"] == 200 and found["parameters"]["preset"] == "fast"
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


def test_a_synthetic_scan_is_called_synthetic_wherever_it_is_shown(run):
    assert summary(run.output / "Drawn")["synthetic"] and not summary(run.output / "Good")["synthetic"]
    assert "Synthetic scan" in (run.output / "Drawn" / "report.html").read_text()
    assert "Synthetic scan" not in (run.output / "Good" / "report.html").read_text()
    assert "Drawn (synthetic)" in run.out


def test_the_report_quotes_the_first_sentence_of_the_model_card(run):
    report = (run.output / "Good" / "report.html").read_text()
    assert "An untrained model." in report and "It is tiny." not in report


def test_running_again_gives_the_same_map_and_a_lower_threshold_finds_more(model, tmp_path):
    case, output = write_case(tmp_path / "Case", reference=False), tmp_path / "out"
    command = ["detect", str(case), "--model", str(model), "--output", str(output), *FAST, "--threshold"]
    assert cli.main([*command, "0.2"]) == 0
    first, first_ml = read(output / "Case", "anomaly").get_fdata(), summary(output / "Case")["lesion_ml"]
    (output / "Case" / "stale.txt").write_text("from an older version")
    assert cli.main([*command, "0.01"]) == 0
    assert np.array_equal(first, read(output / "Case", "anomaly").get_fdata())
    assert summary(output / "Case")["lesion_ml"] > first_ml
    assert "Case/stale.txt" not in everything_in(output) and len(list(output.iterdir())) == 1


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=["by Ctrl-C", "by a batch system"])
def test_an_interrupt_ends_with_130_and_leaves_what_was_there(stop, model, tmp_path):
    case, output = write_case(tmp_path / "Case"), tmp_path / "out"
    (output / "Case").mkdir(parents=True)
    (output / "Case" / "report.html").write_text("the old report")
    # Slow on purpose: every step of a chain of 1000, in batches of one slice.
    command = ["detect", str(case), "--model", str(model), "--output", str(output), "--preset", "exact"]
    code = "import sys; from difffuse_hf.cli.main import main; sys.exit(main())"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command, "--noise-level", "1000", "--batch-size", "1", "--device", "cpu"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    )
    try:
        deadline = time.time() + 60
        while len(list(output.iterdir())) < 2 and time.time() < deadline:  # the temporary folder: work has begun
            time.sleep(0.05)
        process.send_signal(stop)
        error = process.communicate(timeout=30)[1]
    finally:
        process.kill()
    assert process.returncode == 130, error
    assert error.splitlines()[-1].startswith("difffuse: Interrupted")
    assert everything_in(output) == ["Case", "Case/report.html"]
    assert (output / "Case" / "report.html").read_text() == "the old report"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """One synthetic subject, where the demo looks for its own."""
    folder = tmp_path_factory.mktemp("demo") / "phantom"
    assert cli.main(["phantom", str(folder), "--subjects", "1", "--seed", str(demo.SEED)]) == 0
    return folder


@pytest.mark.slow
def test_phantom_writes_the_folders_of_brats_and_a_list_of_subjects(cohort):
    names = [f"BraTS2021_00000/BraTS2021_00000_{suffix}.nii.gz" for suffix in ("flair", "seg", "t1", "t1ce", "t2")]
    assert everything_in(cohort) == ["BraTS2021_00000", *names, "subjects.csv"]


@pytest.mark.slow
def test_the_demo_shows_its_synthetic_subject_and_the_scan_it_is_given(cohort, tmp_path, capsys):
    pipeline = tiny_pipeline()
    pipeline.processor.pixel_spacing_mm = 8.0  # a whole head on 32 pixels
    pipeline.processor.slice_margin = 72
    pipeline.save_pretrained(tmp_path / "coarse")
    scan = write_case(tmp_path / "Scan")
    drawn, given = demo.run_demo(cohort.parent, scan, model=str(tmp_path / "coarse"))
    assert drawn["synthetic"] and not given["synthetic"]
    assert (drawn["case"], given["case"]) == ("BraTS2021_00000", "Scan")
    assert all((one["folder"] / "report.html").is_file() for one in (drawn, given))
    printed = capsys.readouterr().out
    assert "no patient" in printed and "not a medical device" in printed
