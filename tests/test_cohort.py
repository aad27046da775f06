"""Detection over many cases: several processes make what one makes, and what was made before is kept on demand."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout

import pytest
from test_cli import FAST
from tiny_scans import everything_in, tiny_pipeline, tiny_volumes, write_case

from difffuse_hf.cli import main as cli
from difffuse_hf.detection.cohort import detect_cases
from difffuse_hf.detection.run import Run
from difffuse_hf.detection.workers import run_in_processes
from difffuse_hf.errors import InputError
from difffuse_hf.reporting.report import summarise_scan


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Three cases, of which the second lacks its T2, and a namesake of the first."""
    folder = tmp_path_factory.mktemp("inputs")
    cases = [write_case(folder / name, tiny_volumes(seed)) for seed, name in enumerate(("A", "Bad", "C"))]
    (cases[1] / "Bad_t2.nii.gz").unlink()
    return [*cases, write_case(folder / "elsewhere" / "A")]


def run_command(inputs, model, output, *options, launcher=()):
    command = [sys.executable, *launcher, "-m", "difffuse_hf.cli", "detect", *map(str, inputs)]
    command += ["--model", str(model), "--output", str(output), *FAST, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=no_gpu())


def no_gpu():
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def alone(inputs, model, tmp_path_factory):
    """What this process makes of the inputs: folder, exit code, what it printed and what it complained of."""
    output, printed, complained = tmp_path_factory.mktemp("alone") / "out", io.StringIO(), io.StringIO()
    with redirect_stdout(printed), redirect_stderr(complained):
        code = cli.main(["detect", *map(str, inputs), "--model", str(model), "--output", str(output), *FAST])
    return output, code, printed.getvalue(), complained.getvalue()


def content(folder):
    """Every file of the results by name, without the seconds that it took and the day."""
    found = {}
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        text = file.read_bytes()
        if file.name == "summary.json":
            text = {name: value for name, value in json.loads(text).items() if name != "seconds"}
        elif file.suffix == ".html":
            text = re.sub(rb"\d+ <small>s</small>|\d{4}-\d\d-\d\d", b"", text)
        found[str(file.relative_to(folder))] = text
    return found


def words(printed, output):
    """What was printed from the table on, without the seconds."""
    lines = printed[printed.index("case ") :].replace(str(output), "").splitlines()
    return [line.split()[:-1] if "of 10" in line else line.split() for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "launcher"),
    [(("--workers", "2"), ()), ((), ("-m", "torch.distributed.run", "--nproc_per_node", "2"))],
    ids=["workers", "torchrun"],
)
def test_several_processes_make_what_one_makes(alone, inputs, model, tmp_path, options, launcher):
    output, ended = tmp_path / "out", run_command(inputs, model, tmp_path / "out", *options, launcher=launcher)
    folder, code, printed, complained = alone
    assert ended.returncode == code == 1
    assert content(output) == content(folder) and {"A", "C"} == {path.name for path in output.iterdir()}
    assert words(ended.stdout, output) == words(printed, folder)
    failures, theirs = (
        [line for line in text.splitlines() if line.startswith("difffuse: ")] for text in (ended.stderr, complained)
    )
    assert failures == theirs and len(failures) == 2
    assert "Bad_t2" in failures[0] and "same name as an earlier input" in failures[1]


@pytest.mark.slow
def test_an_interrupt_ends_all_workers_and_leaves_nothing_half_written(inputs, model, tmp_path):
    output = tmp_path / "out"
    endless = ["--preset", "exact", "--samples", "200", "--noise-level", "900", "--device", "cpu", "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "difffuse_hf.cli", "detect", str(inputs[0]), str(inputs[2])]
        + ["--model", str(model), "--output", str(output), *endless],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=no_gpu(),
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    )
    while not output.exists() or len(list(output.iterdir())) < 2:  # both are at work
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does: to all of its processes
    _, errors = process.communicate(timeout=120)  # ends when no process is left that holds the pipe
    assert process.returncode == 130 and errors.decode().startswith("difffuse: Interrupted")
    assert errors.count(b"\n") == 1 and everything_in(output) == []


def quick_report(result, folder, *, model, seconds, **details):
    """The figures without the pictures."""
    summary = summarise_scan(result, model, seconds)
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "report.html").write_text("")
    return summary


def make_run(model, output, resume=False, write_report=quick_report, **options):
    options = {"num_samples": 1, "noise_level": 20, "seed": 0, **options}
    return Run(str(model), output, write_report, resume=resume, options=options)


def made(run, *sources):
    """Names of the cases that were made, not kept."""
    summaries, failures = detect_cases(run, sources)
    assert not failures and len(summaries) == len(sources)
    return [one["case"] for one in summaries if "resumed" not in one]


def test_resume_keeps_what_the_same_model_and_settings_have_made(inputs, model, tmp_path, capsys):
    cases, output = [shutil.copytree(inputs[i], tmp_path / "in" / inputs[i].name) for i in (0, 2)], tmp_path / "out"
    assert made(make_run(model, output), cases[0]) == ["A"]
    before = content(output)
    assert made(make_run(model, output, resume=True, batch_size=3), *cases) == ["C"]
    assert {name: value for name, value in content(output).items() if name.startswith("A")} == before
    command = ["detect", *map(str, cases), "--model", str(model), "--output", str(output), "--resume", *FAST]
    assert cli.main(command) == 0 and "kept" not in capsys.readouterr().out  # the preset was chosen: other settings
    assert cli.main(command) == 0 and "2 of 2 cases were made before and kept" in capsys.readouterr().out
    assert made(make_run(model, output), *cases) == ["A", "C"]  # without resume


def test_resume_makes_a_case_again_that_anything_has_changed(inputs, model, tmp_path):
    case, output = shutil.copytree(inputs[0], tmp_path / "A"), tmp_path / "out"
    run = make_run(model, output, resume=True)
    assert made(run, case) == ["A"] and made(run, case) == []
    assert made(make_run(model, output, resume=True, seed=1), case) == ["A"]
    other = tiny_pipeline()
    other.register_to_config(percentile=60.0)
    other.save_pretrained(tmp_path / "other")
    assert made(make_run(tmp_path / "other", output, resume=True, seed=1), case) == ["A"]
    assert made(run, case) == ["A"] and made(run, case) == []
    (output / "A" / "A_lesion.nii.gz").unlink()
    assert made(run, case) == ["A"] and made(run, case) == []
    shutil.copy(case / "A_t2.nii.gz", case / "A_t1.nii.gz")
    assert made(run, case) == ["A"] and made(run, case) == []
    (output / "A" / "summary.json").write_text("{")
    assert made(run, case) == ["A"]


def test_a_launcher_and_workers_together_are_refused(model, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="leave out --workers"):
        detect_cases(make_run(model, tmp_path), [tmp_path], workers=2)


def report_of_a_killed_process(result, folder, **details):
    if result.case.name == "A":
        os.kill(os.getpid(), signal.SIGKILL)
    return quick_report(result, folder, **details)


@pytest.mark.slow
def test_a_process_that_is_killed_costs_its_case_and_no_other(inputs, model, tmp_path):
    run = make_run(model, tmp_path / "out", write_report=report_of_a_killed_process)
    second = shutil.copytree(inputs[0], tmp_path / "Again")
    for file in second.iterdir():
        file.rename(file.with_name(file.name.replace("A_", "Again_")))
    summaries, failures = detect_cases(run, [inputs[0], second], workers=2)
    assert [one["case"] for one in summaries] == ["Again"]
    assert failures == [
        f"{inputs[0]}: the process at work on it died, perhaps of too little memory; try fewer --workers."
    ]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["Again"]  # nothing half-written


def load_quotients(device):
    if device == "none":
        raise InputError("There is no such device.")
    return quotient


def quotient(number):
    return 1 / (number - 5)


@pytest.mark.slow
def test_an_error_in_a_process_reaches_the_caller():
    with pytest.raises(InputError, match="no such device"):
        list(run_in_processes(load_quotients, ["none"], [0, 1]))
    results = run_in_processes(load_quotients, ["cpu"], [6, 7, 5])
    assert [next(results), next(results)] == [(0, 1.0), (1, 0.5)]  # in order
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        next(results)
