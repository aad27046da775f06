"""The command line, `difffuse`: registers the commands, each in a file of its own, and ends with their exit code.

Heavy imports wait inside the commands, so that --help answers at once. Exit codes: 0, 1 for work that failed, 2 for
bad usage, 130 when interrupted. An error is one sentence on stderr.
"""

import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from .. import __version__
from ..errors import INTERRUPTED, InputError, explain_unmatched_torchvision, one_sentence, signal_handled_by
from .app import app as page
from .card import card
from .demo import demo
from .detect import detect
from .info import info
from .models import models
from .options import complain
from .phantom import phantom
from .prepare import prepare
from .preprocess import preprocess

app = typer.Typer(
    help="Weakly supervised lesion detection in brain scans. A research tool, not a medical device.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
UsageError: Any = typer.BadParameter.__base__  # click's own, or the copy of it that newer versions of typer carry

EXAMPLES = {
    demo: "difffuse demo --output difffuse-demo",
    phantom: "difffuse phantom data/phantom --subjects 20 --seed 0",
    preprocess: "difffuse preprocess /data/dicom data/ct --workers 8",
    prepare: "difffuse prepare wmh dataverse_files data/wmh --brain-mask pre/brain_mask.nii.gz",
    detect: "difffuse detect data/BraTS2021_00001 --model demo --output results",
    info: "difffuse info demo",
    models: "difffuse models",
    card: "difffuse card demo",
    page: "difffuse app --model demo",
}
for command, example in EXAMPLES.items():
    app.command(epilog=f"Example: {example}")(command)


@app.callback(invoke_without_command=True)
def top(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
):
    if version:
        typer.echo(f"difffuse_hf {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        # A batch system's stop (SIGTERM) cleans up as Ctrl-C does.
        with signal_handled_by(signal.SIGTERM, signal.default_int_handler), explain_unmatched_torchvision():
            code = app(args=arguments, prog_name="difffuse", standalone_mode=False)
    except UsageError as error:
        path = error.ctx.command_path if error.ctx else "difffuse"
        complain(f"{error.format_message().rstrip('.')} (see `{path} --help`).")
        return 2
    except (InputError, OSError) as error:
        complain(one_sentence(error))
        return 1
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:  # newer versions of typer turn the interrupt into this code themselves
        complain(INTERRUPTED)
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
