"""Facts about running tasks: completeness, death of a worker, errors, an existing Dask cluster."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("distributed", reason="needs the extra `preprocess`")

from difffuse_hf.errors import InputError  # noqa: E402
from difffuse_hf.preprocessing.parallel import WorkerDied, Workers  # noqa: E402


def square(task):
    return task**2


def square_or_die(task):
    """The square of a number, after killing the worker once (`path` is a file) or always (`path` is "always")."""
    number, path = task
    if path == "always":
        os.kill(os.getpid(), signal.SIGKILL)
    if path and not os.path.exists(path):
        open(path, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


def refuse(task):
    raise OSError(28, "No space left on device", f"file{task}")


INTERRUPTED = """
import pathlib, sys, time
from difffuse_hf.errors import run_script
from difffuse_hf.preprocessing.parallel import Workers

def nap(flag):
    pathlib.Path(flag).touch()
    time.sleep(600)

def main():
    with Workers(2) as pool:
        list(pool.map(nap, sys.argv[1:]))

if __name__ == "__main__":
    run_script(main)
"""


@pytest.mark.slow
def test_an_interrupt_of_several_workers_is_one_sentence(tmp_path):
    (tmp_path / "script.py").write_text(INTERRUPTED)
    flags = [tmp_path / "one", tmp_path / "two"]
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), *map(str, flags)],
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    )
    while not all(flag.exists() for flag in flags):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does: to all of its processes
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and errors.decode().strip().count("\n") == 0


def test_one_worker_runs_in_this_process():
    with Workers(1) as pool:
        assert dict(pool.map(lambda task: os.getpid(), [0])) == {0: os.getpid()}


@pytest.mark.slow
def test_a_killed_worker_loses_one_attempt_and_a_deadly_task_loses_itself(tmp_path):
    tasks = [(number, "") for number in range(12)]
    tasks[3], tasks[5] = (3, str(tmp_path / "flag")), (5, "always")
    with Workers(2) as pool:
        results = {number: result for (number, _), result in pool.map(square_or_die, tasks)}
    assert isinstance(results.pop(5), WorkerDied)
    assert results == {number: number**2 for number in range(12) if number != 5}
    assert (tmp_path / "flag").exists()


@pytest.mark.slow
def test_a_task_that_waits_behind_a_deadly_one_is_not_lost_with_it(tmp_path):
    """One worker holds both, so that Dask gives up on both."""
    from distributed import LocalCluster

    tasks = [(0, "always"), (1, ""), (2, "")]
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster:
        with Workers(dask_address=cluster.scheduler_address) as pool:
            results = {number: result for (number, _), result in pool.map(square_or_die, tasks)}
    assert isinstance(results.pop(0), WorkerDied) and results == {1: 1, 2: 4}


@pytest.mark.slow
def test_a_running_cluster_takes_the_same_tasks_and_an_error_reaches_the_caller():
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        with Workers(dask_address=cluster.scheduler_address) as pool:
            assert sorted(pool.map(square, range(20))) == [(number, number**2) for number in range(20)]
            with pytest.raises(OSError, match="No space left on device"):
                list(pool.map(refuse, range(3)))


def test_a_scheduler_that_does_not_answer_is_named():
    with pytest.raises(InputError, match="tcp://127.0.0.1:9"):
        with Workers(dask_address="tcp://127.0.0.1:9"):
            pass
