"""Processes of this machine that load a model once and then do one task after the other.

The pools of Python's library do not do: with one, the task of a process that was killed is waited for for ever, with
the other such a process takes all tasks with it; and neither lets a process that is told to stop tidy up first.
"""

import ctypes
import multiprocessing
import os
import platform
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

import torch

from ..errors import InputError, signal_handled_by

GRACE_SECONDS = 20  # for a process that was told to stop
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h


@dataclass(frozen=True)
class ProcessDied:
    """In the place of a result: the process at work on the task was killed, or a library crashed."""

    process_id: int | None


def keep_memory() -> None:
    """Let glibc keep what this process frees for its next use, instead of handing it back to the system in between.

    Blocks of 32 MB and more, the most that glibc can be told, are volumes and go back at once.

    What MALLOC_TRIM_THRESHOLD_ and its neighbours in the environment do for a process that is to be started.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in {M_MMAP_THRESHOLD: 2**25, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**26}.items():
            mallopt(parameter, value)


def give_back_memory() -> None:
    """What `keep_memory` has kept goes back to the system: after the networks, before volumes are made."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def run_in_processes(
    load: Callable[[str], Callable[[Any], Any]], devices: Sequence[str], tasks: Sequence[Any]
) -> Iterator[tuple[int, Any]]:
    """`(number of the task, result)` in the order in which they are finished, by one process for each device.

    Where a process died, the result of its task is `ProcessDied`, and a new process goes on. When the iteration is
    left early, by an interrupt for example, all processes are told to stop and waited for.

    Args:
        load: called in each process with its device; makes the function that does a task. All can be pickled.
        devices: as many as there are to be processes; these share the threads that torch has in this one.

    Raises:
        InputError: raised by `load` or in a task.
        RuntimeError: anything else that was raised there, with its traceback.
    """
    waiting = deque(enumerate(tasks))
    running: dict[Connection, tuple[SpawnProcess, str, int]] = {}

    def give(connection: Connection, process: SpawnProcess, device: str) -> None:
        """The next task to a process; without one, its end."""
        if not waiting:
            connection.close()
            process.join()
            return
        number, task = waiting.popleft()
        running[connection] = process, device, number
        with suppress(OSError):  # it has died, which is found out when its result is read
            connection.send(task)

    try:
        for device in devices[: len(tasks)]:
            give(*_start(load, device, len(devices)), device)
        while running:
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                process, device, number = running[connection]
                try:
                    result, error = connection.recv()
                except (EOFError, OSError):
                    del running[connection]
                    process.join()
                    yield number, ProcessDied(process.pid)
                    if waiting:
                        give(*_start(load, device, len(devices)), device)
                    continue
                if error is not None:
                    raise error
                yield number, result
                del running[connection]
                give(connection, process, device)
    finally:
        _stop([process for process, _, _ in running.values()])


def _start(load, device: str, processes: int) -> tuple[Connection, SpawnProcess]:
    """A process, and our end of the pipe to it."""
    context = multiprocessing.get_context("spawn")
    threads = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // processes))}
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, load, device))
    with _environment(threads), signal_handled_by(signal.SIGINT, signal.SIG_IGN):  # Ctrl-C is for this process
        process.start()
    theirs.close()
    return ours, process


def _stop(processes: Sequence[SpawnProcess]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(GRACE_SECONDS)
        process.kill()
        process.join()


def _serve(connection: Connection, load: Callable[[str], Callable[[Any], Any]], device: str) -> None:
    """What a process does: tasks, until the pipe is closed or a signal comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_memory()
    try:
        work = load(device)
        while True:
            try:
                task = connection.recv()
            except EOFError:
                return
            connection.send((work(task), None))
    except InputError as error:
        connection.send((None, error))
    except Exception:
        connection.send((None, RuntimeError(f"In a process of its own:\n{traceback.format_exc()}")))


def _leave(number: int, _frame: Any) -> None:
    """Unwind, so that nothing half-written is left; a second signal would disturb that."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Variables for the processes that are started in here."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
