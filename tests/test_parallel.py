"""Facts about running tasks: completeness, death of a worker, errors, an existing Dask cluster."""

import os
import signal

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
