"""Ctrl-C and SIGTERM during a training: it notes them and ends after a step; a second signal ends it at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

STOPPING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def signals_noted() -> Iterator[list[int]]:
    """Note a signal that asks to stop in the list this gives, instead of stopping; the second one does stop.

    The handlers that were there before come back at the end.
    """
    received: list[int] = []

    def note(signum, _frame):
        received.append(signum)
        for name in STOPPING:
            signal.signal(name, signal.SIG_DFL)

    before = {name: signal.signal(name, note) for name in STOPPING}
    try:
        yield received
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def ignore_interrupts(_worker: int = 0) -> None:
    """For the processes that read slices: Ctrl-C reaches them too, but the training process decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
