"""`difffuse preprocess`: head CT in DICOM to model-ready scans (thesis Ch. 3)."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .options import RegistrationQuality, check_finite, needs_extra


def preprocess(
    dicom_dir: Annotated[Path, typer.Argument(metavar="DICOM_DIR", help="Searched with all the folders in it.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for scans, manifest, tables and pictures.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    dask: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Scheduler of a running Dask cluster, such as tcp://node1:8786; --workers is then ignored.",
        ),
    ] = None,
    merge_split: Annotated[
        bool, typer.Option("--merge-split", help="Join base and vault that were scanned apart; left out otherwise.")
    ] = False,
    template: Annotated[
        Path | None,
        typer.Option(help="Skull-stripped NIfTI template, up to 72 years.", show_default="the built-in ICBM152"),
    ] = None,
    template_old: Annotated[
        Path | None, typer.Option(help="The same for older patients.", show_default="as for the younger")
    ] = None,
    pixel_mm: Annotated[
        float | None,
        typer.Option(min=0.1, help="Resample to this pixel size.", show_default="pad or shrink to --image-size"),
    ] = None,
    image_size: Annotated[
        tuple[int, int], typer.Option(metavar="HEIGHT WIDTH", help="Pixels of the canvas that a head is put on.")
    ] = (500, 400),
    window: Annotated[
        tuple[float, float],
        typer.Option(
            metavar="LOW HIGH", help="Hounsfield units that become 0 and 1; 15 60 brings out early infarcts."
        ),
    ] = (0, 100),
    min_nmi: Annotated[
        float, typer.Option(min=1, max=2, help="Mutual information below which registration has failed.")
    ] = 1.187,
    max_rotation: Annotated[float, typer.Option(min=0, max=180, help="Degrees a head may be turned by.")] = 30.0,
    registration_qc: Annotated[
        RegistrationQuality,
        typer.Option(help="scan: each fit by itself. mixture: clusters of the whole cohort as well."),
    ] = RegistrationQuality.scan,
    headers_only: Annotated[
        bool, typer.Option("--headers-only", help="Only the decisions that headers allow; no scans.")
    ] = False,
    linkage: Annotated[
        bool, typer.Option("--linkage", help="Write private/linkage.csv, which leads back to the patients.")
    ] = False,
):
    """Turn head CT in DICOM into model-ready scans, and say why a scan was left out.

    Running the same command again continues where it was stopped.
    """
    check_finite(pixel_mm=pixel_mm, window=sum(window), min_nmi=min_nmi, max_rotation=max_rotation)
    with needs_extra("preprocess"):
        from ..preprocessing.ct import preprocess_ct
        from ..preprocessing.manifest import print_summary
        from ..preprocessing.steps import CTPreprocessConfig

    try:
        config = CTPreprocessConfig(
            merge_split=merge_split,
            template=None if template is None else str(template.resolve()),
            template_old=None if template_old is None else str(template_old.resolve()),
            pixel_mm=pixel_mm,
            image_size=image_size,
            window_hu=window,
            min_nmi=min_nmi,
            max_rotation_deg=max_rotation,
            registration_qc=registration_qc.value,
            headers_only=headers_only,
        )
    except ValueError as error:
        raise typer.BadParameter(f"{error}") from error
    manifest = preprocess_ct(dicom_dir, out, config, workers, dask, linkage)
    print_summary(manifest, out, Console())
