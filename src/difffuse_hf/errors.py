"""How work that cannot go on says so: in one sentence."""

import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

INTERRUPTED = "Interrupted; what was finished is kept and nothing half-written is left."


class InputError(ValueError):
    """A scan, folder or model cannot be used; the message names the file and the remedy in one sentence."""


class InstallationError(InputError):
    """The installed libraries do not work together; the message names them and the remedy in one sentence."""


def require_choice(name: str, value: object, allowed: Iterable[str]) -> None:
    """Raise an `InputError` that lists what is allowed, unless `value` is one of them."""
    allowed = tuple(allowed)
    if value not in allowed:
        raise InputError(f"`{name}` must be one of {', '.join(allowed)}, got {value!r}.")


def one_sentence(error: BaseException) -> str:
    """What an error says, on one line; an error of the operating system with its file and the remedy."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'A file'}: {error.strerror}; check the path, its permissions and the free space."
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of an error's text, which for errors of other libraries says what is wrong."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def explain_unmatched_torchvision() -> Iterator[None]:
    """Turn the failure of imports where torch and torchvision do not match into an `InstallationError`.

    torchvision registers its operators with the torch it was built for. Beside another torch its import ends in
    "operator torchvision::nms does not exist", and so do those of timm and of transformers' models, which wrap the
    error in others.
    """
    try:
        yield
    except (RuntimeError, ImportError) as error:
        cause: BaseException | None = error
        while cause is not None:
            if "torchvision::" in str(cause):
                raise InstallationError(
                    "torch and torchvision come from different builds and do not work together; install a matching "
                    "pair, for example with: pip install --force-reinstall -c constraints.txt torch torchvision."
                ) from error
            cause = cause.__cause__ or cause.__context__
        raise


@contextmanager
def signal_handled_by(number: int, handler: Any) -> Iterator[None]:
    """In here a signal is handled by `handler`, afterwards as before; nothing changes outside the main thread.

    A handler left behind would be inherited by processes that a caller forks later.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def run_script(main: Callable[[], None]) -> None:
    """Run a script's `main`; input that cannot be used and an interrupt become one sentence and exit code 1 or 130."""
    try:
        main()
    except (InputError, OSError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {one_sentence(error)}")
    except KeyboardInterrupt:
        print(f"{Path(sys.argv[0]).name}: {INTERRUPTED}", file=sys.stderr)
        sys.exit(130)
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
