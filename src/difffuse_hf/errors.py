"""How work that cannot go on says so: in one sentence."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

INTERRUPTED = "Interrupted; what was finished is kept and nothing half-written is left."


class InputError(ValueError):
    """A scan, folder or model cannot be used; the message names the file and the remedy in one sentence."""


def require_choice(name: str, value: object, allowed: Iterable[str]) -> None:
    """Raise an `InputError` that lists what is allowed, unless `value` is one of them."""
    allowed = tuple(allowed)
    if value not in allowed:
        raise InputError(f"`{name}` must be one of {', '.join(allowed)}, got {value!r}.")


def run_script(main: Callable[[], None]) -> None:
    """Run a script's `main`; input that cannot be used and an interrupt become one sentence and exit code 1 or 130."""
    try:
        main()
    except (InputError, FileNotFoundError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
    except KeyboardInterrupt:
        print(f"{Path(sys.argv[0]).name}: {INTERRUPTED}", file=sys.stderr)
        sys.exit(130)
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
