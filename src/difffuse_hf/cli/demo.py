"""`difffuse demo`: the main path on what comes with the package: a synthetic subject, the embedded model, a report."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .options import Device, check_device
from .results import print_results


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the synthetic subject and the results.")] = Path(
        "difffuse-demo"
    ),
    scan: Annotated[Path | None, typer.Option(help="A real case folder in the BraTS layout to run as well.")] = None,
    device: Device = None,
):
    """Run the embedded model on a synthetic subject, and on a real scan if you give one."""
    run_demo(output, scan, check_device(device))


def run_demo(
    output: str | Path, scan: str | Path | None = None, device: str = "cpu", model: str = "demo"
) -> list[dict]:
    """Draw one synthetic subject and detect its lesion, then that of a real scan if one is given; returns summaries.

    Args:
        output: gets `phantom/` (the subject, in the BraTS 2021 layout) and a folder of results per scan.
        scan: a real case in the BraTS layout.
        model: the embedded checkpoint, or another (see `load_model`).
    """
    from ..detection.load import load_model
    from ..detection.run import detect_case
    from ..phantoms.brain_phantom import draw_example
    from ..reporting.report import write_report

    output, console = Path(output), Console(highlight=False, soft_wrap=True)
    pipeline, line = load_model(model, device)
    console.print(f"Model: {model}. {line}", markup=False)
    console.print(
        "Drawing a synthetic subject: a computed brain (ICBM152 anatomy) with a computed, exactly known tumour."
    )
    sources = [draw_example(output / "phantom")]
    if scan is not None:
        sources.append(Path(scan))
    summaries: list[dict] = []
    for source in sources:
        taken = [one["case"] for one in summaries]
        summaries.append(detect_case(pipeline, source, output, write_report, model, line, taken, preset="fast"))
    print_results(summaries, console)
    for one in summaries:
        kind = "a synthetic scan, no patient" if one["synthetic"] else "a real scan"
        console.print(f"Pictures of {one['case']} ({kind}): {one['folder'] / 'overview.png'}", markup=False)
    console.print("A research tool, not a medical device.")
    return summaries
