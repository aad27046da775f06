"""How a script of this repository ends."""

import sys
from collections.abc import Callable
from pathlib import Path

from .errors import INTERRUPTED, InputError


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
