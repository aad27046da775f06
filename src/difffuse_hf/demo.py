"""The main path on data that comes with the package: a synthetic subject, the embedded model, a report."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from .data.phantom import BrainPhantom
from .detect import DEMO_MODEL, detect_case, load_model, results_table

SEED = 2024  # any will do: the demo model never saw the ICBM152 anatomy that the subject is drawn on


def run_demo(
    output: str | Path, scan: str | Path | None = None, device: str = "cpu", console: Console | None = None
) -> list[dict]:
    """Draw one synthetic subject, detect its lesion, do the same for a real scan if one is given; returns summaries.

    Args:
        output: gets `phantom/` (the subject, in the BraTS 2021 layout) and a folder of results per scan.
        scan: a real case in the BraTS layout.
    """
    output, console = Path(output), console or Console()
    pipeline, line = load_model(DEMO_MODEL, device)
    console.print(f"Model: the embedded demo checkpoint. {escape(line)}", highlight=False)
    console.print(
        "Drawing a synthetic subject: a computed brain on the ICBM152 anatomy, which the model was not trained on, "
        "with a computed tumour whose outline is known exactly.",
        highlight=False,
    )
    sources = list(BrainPhantom(layout="brats2021", seed=SEED).write(output / "phantom", 1))
    if scan is not None:
        console.print(f"Real scan: {escape(str(scan))}", highlight=False, soft_wrap=True)
        sources.append(Path(scan))
    summaries = []
    for source in sources:
        taken = [one["case"] for one in summaries]
        model = "difffuse_hf embedded demo checkpoint"
        summaries.append(detect_case(pipeline, source, output, model, line, taken, preset="fast"))
    console.print(results_table(summaries))
    for one in summaries:
        kind = "synthetic scan" if one["synthetic"] else "real scan"
        console.print(f"{one['case']} ({kind}): {one['folder'] / 'overview.png'}", markup=False, soft_wrap=True)
    console.print("A research tool, not a medical device.")
    return summaries
