"""`difffuse phantom`: synthetic subjects in the folders of a real data set."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .options import PhantomLayout, needs_extra


def phantom(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write the subjects into.")],
    layout: Annotated[
        PhantomLayout, typer.Option(help="The data set whose folders are imitated.")
    ] = PhantomLayout.brats2021,
    subjects: Annotated[int, typer.Option(min=1, help="How many.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same subjects.")] = 0,
    anatomies: Annotated[
        Path | None,
        typer.Option(help="Folder of label maps in FreeSurfer numbering.", show_default="the built-in ICBM152 maps"),
    ] = None,
    incidence: Annotated[
        Path | None,
        typer.Option(
            help="For ist3: NIfTI map in MNI space of how often lesions lie where.", show_default="even in a territory"
        ),
    ] = None,
    arrays: Annotated[
        bool,
        typer.Option(
            "--arrays", help="For ist3: two scans of each subject as arrays of 2 mm, without DICOM, ready to train on."
        ),
    ] = False,
    infarct_contrast: Annotated[
        tuple[float, float, float, float],
        typer.Option(
            min=0.01, help="For --arrays: factors on how much darker infarcts of sizes 1 to 4 are than healthy tissue."
        ),
    ] = (1, 1, 1, 1),
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine; the subjects are the same.")] = 1,
):
    """Write synthetic subjects with exactly known lesions, in the folders of a real data set.

    Running the same command again continues where it was stopped.
    """
    from rich.progress import track

    from ..phantoms.brain_phantom import BrainPhantom

    if incidence is not None and layout is not PhantomLayout.ist3:
        raise typer.BadParameter("is for --layout ist3", param_hint="--incidence")
    if arrays and layout is not PhantomLayout.ist3:
        raise typer.BadParameter("is for --layout ist3", param_hint="--arrays")
    if arrays and incidence is not None:
        raise typer.BadParameter("takes no --incidence", param_hint="--arrays")
    if set(infarct_contrast) != {1} and not arrays:
        raise typer.BadParameter("is for --arrays", param_hint="--infarct-contrast")
    console = Console()
    with needs_extra("preprocess"):
        cohort = BrainPhantom(layout.value, anatomies, seed, incidence)
        if arrays:
            from ..phantoms.ist3_arrays import write_cohort

            write_cohort(out, range(subjects), seed, cohort.anatomies, infarct_contrast, workers)
            return console.print(f"{2 * subjects} synthetic scans in {out}", markup=False, highlight=False)
        places = cohort.write(out, subjects, workers=workers)
        for _ in track(places, "Drawing subjects", total=subjects, console=console):
            pass
    console.print(f"{subjects} synthetic subjects in {out}", markup=False, highlight=False, soft_wrap=True)
