"""`difffuse demo`: the main path on what comes with the package: synthetic subjects, the embedded models, reports."""

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .options import Device, check_device
from .results import print_results

STROKE_CASE = "phantom_ct/stroke_patient"  # a case is called after its folder, a study after its day


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the synthetic subjects and the results.")] = Path(
        "difffuse-demo"
    ),
    scan: Annotated[Path | None, typer.Option(help="A real case folder in the BraTS layout to run as well.")] = None,
    ct: Annotated[
        bool,
        typer.Option("--ct/--no-ct", help="Head CT as well; needs the extra preprocess."),
    ] = True,
    device: Device = None,
):
    """Run the embedded models on synthetic subjects, MR and head CT, and on a real scan if you give one."""
    if ct and not has_dicom():
        ct = False
        print("Head CT is left out, for it needs more packages: pip install 'difffuse_hf[preprocess]'.")
    run_demo(output, scan, check_device(device), ct_model="ct" if ct else None)


def has_dicom() -> bool:
    """Whether what reads DICOM is installed."""
    return all(find_spec(name) is not None for name in ("pydicom", "SimpleITK", "pandas", "pyarrow", "sklearn"))


def run_demo(
    output: str | Path,
    scan: str | Path | None = None,
    device: str = "cpu",
    model: str = "demo",
    ct_model: str | None = None,
) -> list[dict]:
    """Draw synthetic subjects and detect their lesions, then that of a real scan if one is given; returns summaries.

    Args:
        output: gets `phantom/` (the subject, in the BraTS 2021 layout), `phantom_ct/` (the patient, in DICOM, and
            `stroke_patient/` with the study that is looked at) and a folder of results per scan.
        scan: a real case in the BraTS layout.
        model, ct_model: the embedded checkpoints, or others (see `load_model`); no CT without the second.
    """
    from ..phantoms.brain_phantom import draw_example, draw_stroke_example

    output, console = Path(output), Console(highlight=False, soft_wrap=True)
    console.print(
        "Drawing a synthetic subject: a computed brain (ICBM152 anatomy) with a computed, exactly known tumour."
    )
    sources = [draw_example(output / "phantom"), *([Path(scan)] if scan is not None else [])]
    summaries = detect_all(sources, model, output, device, console, [])
    if ct_model is not None:
        console.print("Drawing a synthetic patient in DICOM: head CT a few days after a computed stroke.")
        taken, study = [one["case"] for one in summaries], output / STROKE_CASE
        shutil.copytree(draw_stroke_example(output / "phantom_ct"), study, dirs_exist_ok=True)
        summaries += detect_all([study], ct_model, output, device, console, taken)
    print_results(summaries, console)
    for one in summaries:
        kind = "a synthetic scan, no patient" if one["synthetic"] else "a real scan"
        console.print(f"Pictures of {one['case']} ({kind}): {one['folder'] / 'overview.png'}", markup=False)
    console.print("A research tool, not a medical device.")
    return summaries


def detect_all(
    sources: list[Path], model: str, output: Path, device: str, console: Console, taken: list[str]
) -> list[dict]:
    """The summaries of the scans that one model looks at; `taken` are names of cases that are there."""
    from ..detection.load import load_model
    from ..detection.run import detect_case
    from ..reporting.report import write_report

    pipeline, line = load_model(model, device)
    console.print(f"Model: {model}. {line}", markup=False)
    summaries: list[dict] = []
    for source in sources:
        names = [*taken, *(one["case"] for one in summaries)]
        summaries.append(detect_case(pipeline, source, output, write_report, model, line, names, preset="fast"))
    return summaries
