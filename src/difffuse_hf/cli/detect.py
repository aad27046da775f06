"""`difffuse detect`: lesions of scans, with a report for each."""

import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from .options import (
    CounterfactualsOf,
    Device,
    DtypeName,
    PresetName,
    check_device,
    check_finite,
    complain,
    print_json,
)
from .results import print_results

if TYPE_CHECKING:
    from ..io.layouts import Source

Inputs = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="INPUT...",
        help="Case folders (BraTS, BIDS or plain names), files for a one-modality model, or head CT in DICOM.",
    ),
]
Image = Annotated[
    list[str] | None,
    typer.Option(metavar="MODALITY=PATH", help="The file of a modality, in place of INPUT; once for each of them."),
]
Register = Annotated[
    bool, typer.Option("--register/--no-register", help="Bring modalities that lie apart onto one grid.")
]
BrainExtraction = Annotated[
    bool,
    typer.Option("--brain-extraction/--no-brain-extraction", help="Take the skull off where there is one, on the T1."),
]
Model = Annotated[str, typer.Option(help="Model folder, Hub repository user/name, or embedded: demo (MR) or ct.")]
Output = Annotated[Path, typer.Option(help="Each case gets a folder of its own in here.")]
Preset = Annotated[
    PresetName,
    typer.Option(help="fast: few steps, several samples. exact: every step. thesis, reference_code: as published."),
]
Dtype = Annotated[DtypeName, typer.Option(help="Of the U-Net; auto: bfloat16 where the device computes in it.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Slices at a time.")]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same result.")]
Workers = Annotated[
    int, typer.Option(min=1, help="Processes, each with whole cases; they share the cores, or the GPUs.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Keep cases that the same model and settings have made; replaced otherwise.")
]
AllSlices = Annotated[
    bool, typer.Option("--all-slices", help="Repaint every slice, not only those the classifier finds suspicious.")
]
Samples = Annotated[
    int | None, typer.Option(min=1, help="Counterfactuals per slice, averaged.", show_default="from the preset")
]
NoiseLevel = Annotated[
    int | None, typer.Option(min=1, help="K, how far the slice is noised.", show_default="from the model")
]
Percentile = Annotated[
    float | None,
    typer.Option(min=0, max=100, help="Of the saliency, above which is repainted.", show_default="from the model"),
]
Threshold = Annotated[
    float | None, typer.Option(min=0, help="Of the anomaly map, above which is lesion.", show_default="from the model")
]
FalsePositives = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, metavar="SHARE", help="Take the threshold that so much healthy brain reaches, such as 0.01."
    ),
]
SliceSmoothingSigma = Annotated[
    float | None,
    typer.Option(min=0, metavar="SIGMA", help="Smooth saliency over so many slices and share noise: less flicker."),
]

Counterfactuals = Annotated[
    CounterfactualsOf, typer.Option(help="Make counterfactuals for the eye of the slices shown, or of all repainted.")
]
OffloadTrajectory = Annotated[
    bool,
    typer.Option("--offload-trajectory", help="Keep inversions in the host's memory, in half precision (exact)."),
]
Series = Annotated[
    list[str] | None,
    typer.Option(
        metavar="UID", help="DICOM: SeriesInstanceUID of the CT that is meant; of MR MODALITY=UID, repeatable."
    ),
]
DicomOut = Annotated[
    bool, typer.Option("--dicom-out", help="CT in DICOM: write the result as DICOM too, with the patient's identity.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the summaries as a JSON array on stdout; all else goes to stderr.")
]
Deidentify = Annotated[bool, typer.Option("--deidentify", help="With --dicom-out: without the patient's identity.")]


def detect(
    model: Model,
    output: Output,
    inputs: Inputs = None,
    image: Image = None,
    register: Register = True,
    brain_extraction: BrainExtraction = True,
    preset: Preset = PresetName.fast,
    device: Device = None,
    dtype: Dtype = DtypeName.auto,
    batch_size: BatchSize = 8,
    seed: Seed = 0,
    workers: Workers = 1,
    resume: Resume = False,
    all_slices: AllSlices = False,
    samples: Samples = None,
    noise_level: NoiseLevel = None,
    percentile: Percentile = None,
    threshold: Threshold = None,
    false_positives: FalsePositives = None,
    slice_smoothing_sigma: SliceSmoothingSigma = None,
    counterfactuals: Counterfactuals = CounterfactualsOf.shown,
    offload_trajectory: OffloadTrajectory = False,
    series: Series = None,
    dicom_out: DicomOut = False,
    deidentify: Deidentify = False,
    as_json: AsJson = False,
):
    """Find lesions: healthy counterfactual, anomaly map, lesion mask and a report for each scan."""
    if threshold is not None and false_positives is not None:
        raise typer.BadParameter("--threshold and --false-positives both choose the threshold; give one of them.")
    check_finite(
        percentile=percentile,
        threshold=threshold,
        false_positives=false_positives,
        slice_smoothing_sigma=slice_smoothing_sigma,
    )
    if deidentify and not dicom_out:
        raise typer.BadParameter("--deidentify is about the files of --dicom-out; give both.")
    sources = choose_sources(inputs, image)
    device = check_device(device)
    import torch

    from ..detection.cohort import detect_cases, process_rank
    from ..detection.run import Run
    from ..detection.workers import keep_memory
    from ..reporting.report import write_report

    keep_memory()
    chosen = {"num_samples": samples, "noise_level": noise_level, "percentile": percentile}
    run = Run(
        model,
        output,
        write_report,
        dtype=None if dtype is DtypeName.auto else getattr(torch, dtype.value),
        false_positives=false_positives,
        resume=resume,
        options={
            "preset": preset.value,
            "batch_size": batch_size,
            "seed": seed,
            "all_slices": all_slices,
            "slice_smoothing_sigma": slice_smoothing_sigma,
            "anomaly_threshold": threshold,
            "counterfactuals": counterfactuals.value,
            "offload_trajectory": offload_trajectory,
            "register": register,
            "brain_extraction": brain_extraction,
            "series": tuple(series or ()),
            "dicom_out": dicom_out,
            "deidentify": deidentify,
            **{name: value for name, value in chosen.items() if value is not None},
        },
    )
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        summaries, failures = detect_cases(run, sources, device, workers)
        if summaries:
            print_results(summaries, Console())
    if as_json and process_rank() == 0:
        print_json(summaries)
    end_with(failures)


def end_with(failures: list[str]) -> None:
    """Say why cases failed; exit code 1 if any did."""
    for failure in failures:
        complain(failure)
    if failures:
        raise typer.Exit(1)


def choose_sources(inputs: list[Path] | None, images: list[str] | None) -> "list[Source]":
    """The cases to work on: as they were given, or the one whose files were named one by one."""
    if bool(inputs) == bool(images):
        raise typer.BadParameter("Give cases, or the files of one case by --image MODALITY=PATH.")
    files: dict[str, Path] = {}
    for one in images or []:
        modality, _, path = one.partition("=")
        if not modality or not path:
            raise typer.BadParameter(f"{one!r} is not MODALITY=PATH", param_hint="--image")
        if modality in files:
            raise typer.BadParameter(f"{modality} is named twice", param_hint="--image")
        files[modality] = Path(path)
    return [files] if files else [*(inputs or [])]
