"""Command lines that build on each other: each runs once, in order, several at a time where none waits for another.

A step needs every earlier step whose output its command line names, so a list of steps that a person reads from top
to bottom is also the graph of what may run side by side. What is finished is recorded with a fingerprint of its
command line and of those that it needs: a step runs again when any of them has changed, and not otherwise.
"""

import hashlib
import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..io.files import write_whole

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Step:
    """One command line: the first word is a program, `output` the file or folder that it writes."""

    name: str
    command: tuple[str, ...]
    output: str


def needs(steps: Sequence[Step]) -> dict[str, list[str]]:
    """{name: names of the earlier steps whose output, or something in it, the command line names}.

    Two steps that write to one folder both name it, so they never run at the same time.

    Raises:
        ValueError: two steps have one name.
    """
    found: dict[str, list[str]] = {}
    for number, step in enumerate(steps):
        if step.name in found:
            raise ValueError(f"`steps` has two steps called {step.name}; give every step a name of its own.")
        found[step.name] = [
            earlier.name
            for earlier in steps[:number]
            if any(word == earlier.output or word.startswith(earlier.output + "/") for word in step.command)
        ]
    return found


def fingerprints(steps: Sequence[Step]) -> dict[str, str]:
    """{name: hash of the command line and of the fingerprints of what the step needs}."""
    prints: dict[str, str] = {}
    for (name, before), step in zip(needs(steps).items(), steps):
        text = json.dumps([step.command, [prints[need] for need in before]])
        prints[name] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return prints


def command_line(step: Step, programs: Mapping[str, Sequence[str]]) -> list[str]:
    """The words that are executed: the step's program replaced by what `programs` gives for it."""
    return [*programs.get(step.command[0], step.command[:1]), *step.command[1:]]


def run_steps(
    steps: Sequence[Step],
    records: Path,
    programs: Mapping[str, Sequence[str]] | None = None,
    jobs: int = 1,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run what is not finished yet, at most `jobs` steps at a time, the first that is ready first.

    A step that fails starts no other; those that run already may end, and count. An interrupt (or SIGTERM, or a
    terminal that is closed) is passed on to the process group of every running step, a second one kills them.

    Args:
        records: JSON file of what is finished, in a folder that is made where it is missing.
        programs: words that stand for the first word of a command, `{"python": [sys.executable]}`.
        folder: where the steps run.
        environment: variables that the steps have beside those of this process.

    Raises:
        InputError: a step failed.
        KeyboardInterrupt: there was an interrupt, and all steps have ended.
    """
    before, finished = needs(steps), _Finished(records, fingerprints(steps))
    waiting = [step for step in steps if step.name not in finished.names]
    running: dict[str, subprocess.Popen] = {}
    failed: dict[str, int] = {}
    signals_sent = 0
    with _interrupts() as received, _ended_with(running):
        while running or (waiting and not failed and not received):
            ready = [step for step in waiting if finished.names.issuperset(before[step.name])]
            for step in [] if failed or received else ready[: max(jobs, 1) - len(running)]:
                waiting.remove(step)
                running[step.name] = _start(command_line(step, programs or {}), step.name, folder, environment or {})
            for number in (signal.SIGINT, signal.SIGKILL)[signals_sent : len(received)]:
                _send(number, running)
                signals_sent += 1
            time.sleep(POLL_SECONDS)
            for name, code in _take_ended(running).items():
                if code:
                    failed[name] = code
                elif not received:  # an interrupted step may end in peace and still be incomplete
                    finished.add(name)
    if received:
        raise KeyboardInterrupt
    for name, code in failed.items():
        raise InputError(f"The step {name} failed with exit code {code}; correct it and repeat the command.")


def _start(words: list[str], name: str, folder: Path | None, environment: Mapping[str, str]) -> subprocess.Popen:
    """A process in a session of its own, so that an interrupt reaches it with all its children."""
    print(f"{name}: {shlex.join(words)}", flush=True)
    settings = {"cwd": folder, "env": {**os.environ, **environment}, "stdin": subprocess.DEVNULL}
    return subprocess.Popen(words, start_new_session=True, **settings)


@contextmanager
def _ended_with(running: Mapping[str, subprocess.Popen]):
    """No step outlives the runner, whatever ends it: a program that is not there, a full disk."""
    try:
        yield
    finally:
        _send(signal.SIGINT, running)
        for process in running.values():
            process.wait()


def _take_ended(running: dict[str, subprocess.Popen]) -> dict[str, int]:
    """Exit codes of the steps that have ended, which are taken out of `running`."""
    ended = [name for name, process in running.items() if process.poll() is not None]
    return {name: running.pop(name).returncode for name in ended}


class _Finished:
    """`names` of the steps that are finished as they now are, kept in a file."""

    def __init__(self, path: Path, prints: dict[str, str]):
        self.path, self.prints = path, prints
        self.recorded = json.loads(path.read_text()) if path.exists() else {}
        self.names = {name for name, mark in prints.items() if self.recorded.get(name) == mark}

    def add(self, name: str) -> None:
        self.names.add(name)
        self.recorded[name] = self.prints[name]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, lambda path: path.write_text(json.dumps(self.recorded, indent=2) + "\n"))


@contextmanager
def _interrupts():
    """A list to which each SIGINT, SIGTERM and SIGHUP is added, instead of ending this process."""
    received: list[int] = []
    hang_up = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]  # ignored under nohup
    kinds = [signal.SIGINT, signal.SIGTERM, *hang_up]
    before = [signal.signal(kind, lambda number, _: received.append(number)) for kind in kinds]
    try:
        yield received
    finally:
        for kind, handler in zip(kinds, before):
            signal.signal(kind, handler)


def _send(number: int, running: Mapping[str, subprocess.Popen]) -> None:
    """Send a signal to the process group of every running step."""
    for process in running.values():
        with suppress(ProcessLookupError):  # it has ended in the meantime
            os.killpg(process.pid, number)
