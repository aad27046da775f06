"""One task per series, on this machine or on a Dask cluster, through one loop.

A worker that dies takes down the attempts at what it held: Dask starts them again elsewhere and gives up on a series
whose attempts have seen several workers die. A series is given up for good when it has killed them by itself.
"""

import itertools
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from ..errors import InputError, signal_handled_by

_POLL_SECONDS, _LOOK_SECONDS = 0.01, 1.0  # for a result, and for the workers
_MISSING_SECONDS = 20.0  # a worker that has died is back by then, or never
_PER_WORKER = 8  # tasks in flight for each worker: enough to keep it busy, few enough to hold in memory

# One thread a process; and the C library keeps the memory of one volume for the next instead of handing it back page
# by page (Dask's default does the opposite), which makes the workers of one machine a third faster.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": 1,
    "MKL_NUM_THREADS": 1,
    "OPENBLAS_NUM_THREADS": 1,
    "MALLOC_MMAP_THRESHOLD_": 2**30,
    "MALLOC_TRIM_THRESHOLD_": 2**31 - 1,
    "MALLOC_TOP_PAD_": 2**26,
}


class Workers(AbstractContextManager):
    """Where tasks run: in this process (one worker), in processes of this machine, or on a running Dask cluster.

    Args:
        workers (`int`): processes on this machine; with 1, everything runs in the calling process.
        dask_address (`str`, *optional*): of a scheduler, such as `tcp://node1:8786`. Its workers need this package
            and the same paths to the files; `workers` is then ignored.
    """

    def __init__(self, workers: int = 1, dask_address: str | None = None):
        if workers < 1:
            raise ValueError(f"`workers` is at least 1, got {workers}.")
        self.workers, self.dask_address = workers, dask_address
        self._stack, self._client = ExitStack(), None
        self._cluster: Any = None  # on this machine; its methods are coroutines to a type checker

    def __enter__(self):
        if self.dask_address or self.workers > 1:
            import dask.config
            from dask.distributed import Client, LocalCluster

            if self.dask_address:
                try:
                    self._client = self._stack.enter_context(Client(self.dask_address, timeout="5s"))
                except (OSError, ValueError) as error:  # a refused connection, an unknown host, a malformed address
                    raise InputError(f"No Dask scheduler answers at {self.dask_address} ({error}).") from error
            else:
                # Processes started in here leave Ctrl-C to this one, which stops them in good order.
                deaf = signal_handled_by(signal.SIGINT, signal.SIG_IGN)
                with deaf, dask.config.set({"distributed.nanny.pre-spawn-environ": _ENVIRONMENT}):
                    options = {"threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
                    self._cluster = self._stack.enter_context(LocalCluster(n_workers=self.workers, **options))
                self._client = self._stack.enter_context(Client(self._cluster))
        return self

    def __exit__(self, *details):
        return self._stack.__exit__(*details)

    def map(self, function: Callable, tasks: Iterable) -> Iterator[tuple]:
        """`(task, result)` in the order of completion; `result` is a `WorkerDied` where the task killed its workers.

        Dask blames a death on everything that the worker held, so that a task which waited behind a deadly one is
        given up with it. Such tasks have another try at the end, each by itself, where nobody else is to blame.

        Other exceptions are raised here, after which the rest of the tasks is given up.
        """
        if self._client is None:
            yield from ((task, function(task)) for task in tasks)
            return
        suspects = []
        for task, result in self._together(function, iter(tasks), _PER_WORKER * max(self._present(), self.workers)):
            if isinstance(result, WorkerDied):
                suspects.append(task)
            else:
                yield task, result
        for task in suspects:
            yield from self._together(function, iter([task]), 1)

    def _together(self, function: Callable, tasks: Iterator, in_flight: int) -> Iterator[tuple]:
        """`map` with so many tasks in flight, and as Dask blames them."""
        from dask.distributed import as_completed
        from distributed.scheduler import KilledWorker

        client: Any = self._client
        waiting, running = as_completed(with_results=True, raise_errors=False), {}

        def submit(count):
            for task in itertools.islice(tasks, count):
                future = client.submit(function, task, pure=False)
                running[future.key] = task
                waiting.add(future)

        submit(in_flight)
        for future, result in self._completed(waiting):
            task = running.pop(future.key)
            submit(1)
            if future.status == "error":
                _, error, traceback = result
                if not isinstance(error, KilledWorker):
                    raise error.with_traceback(traceback)
                yield task, WorkerDied()
            else:
                yield task, result

    def _present(self) -> int:
        """How many workers there are."""
        client: Any = self._client
        return len(client.nthreads())

    def _completed(self, waiting) -> Iterator[tuple]:
        """Futures with their results as they come; workers that stay away are replaced.

        A worker that is killed in the moment it has started is not started again by Dask's nanny, and when it was the
        last one its tasks would wait for ever.
        """
        looked, complete = time.monotonic(), time.monotonic()
        while waiting.count():
            if done := waiting.next_batch(block=False):
                yield from done
                continue
            time.sleep(_POLL_SECONDS)
            if time.monotonic() - looked < _LOOK_SECONDS:
                continue
            looked = time.monotonic()
            missing = self.workers - self._present()
            if missing <= 0:
                complete = looked
            elif self._cluster is not None and looked - complete > _MISSING_SECONDS:
                self._cluster.scale(len(self._cluster.worker_spec) + missing)
                complete = looked


class WorkerDied(Exception):
    """The processes that tried this task died, of too little memory or a crash in a library."""
