"""`difffuse prepare`: a raw folder through its builder to Parquet, and to the Hub if asked."""

from collections import defaultdict
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import Layout, complain


class Split(str, Enum):
    train = "train"
    validation = "validation"
    test = "test"


def _option(help: str, default: str | None = None, metavar: str | None = None) -> Any:
    """An option that is left out by default; `default` says what the builder then does."""
    return typer.Option(help=help, show_default=default or False, metavar=metavar)


_KINDS = "volumes: a row per scan. slices: a row per slice. nifti (mosmed): the files."
_SIZE = "Pixels of a slice. ist3, volumes: see --image-size of difffuse preprocess."
_MASK = "wmh: template, none (skull-stripped already), or a mask file in every case folder (recommended)."
_TRUTH = "ist3: folder of <study_uid or scan_id>.nii.gz."
Kind = Annotated[str | None, _option(_KINDS, "slices for MRI, volumes for CT")]
ImageSize = Annotated[tuple[int, int] | None, _option(_SIZE, "256 256; mosmed 128 128", "HEIGHT WIDTH")]
Modalities = Annotated[list[str] | None, _option("MRI: a channel; once for each, in their order.", "all")]
PixelSpacing = Annotated[float | None, _option("Slices: side of a pixel.", "1; mosmed 3")]
SliceMargin = Annotated[
    int | None, _option("Slices: so many dropped at each end, of 155.", "25, as in the thesis; mosmed 0")
]
MinForeground = Annotated[float | None, _option("Slices: least brain in one, mosmed body, as a fraction.", "0.02")]
Division = Annotated[str | None, _option("wmh: official parts, or patient for 70-15-15.", "official")]
BrainMask = Annotated[str | None, _option(_MASK, "template")]
Labels = Annotated[Path | None, _option("ist3: CSV or TSV.", "labels.csv in RAW or above it")]
Masks = Annotated[Path | None, _option(_TRUTH, "truth/ of a phantom")]
SliceLabels = Annotated[
    str | None, _option("ist3, mosmed, slices: the label of the scan, or mask: its own, by the lesion's mask.", "scan")
]
Key = Annotated[
    str | None, _option("ist3: scan_id, series_uid, study_uid or patient_id.", "the first that the table has")
]
Columns = Annotated[
    list[str] | None, _option("ist3: a column's name in the table; repeatable.", metavar="OURS=THEIRS")
]
Values = Annotated[
    list[str] | None,
    _option("ist3: a value in the table; repeatable: lesion:1=left.", metavar="OURS:THEIRS=OURS"),
]
NumSlices = Annotated[int | None, _option("mosmed, volumes: slices of a study, evenly sampled.", "11")]
Window = Annotated[tuple[float, float] | None, _option("mosmed: HU that become 0 and 1.", "-1000 400", "LOW HIGH")]
CT1 = Annotated[str | None, _option("mosmed: what CT-1 counts as: left out, healthy or lesion.", "left out")]


def prepare(
    layout: Annotated[Layout, typer.Argument(metavar="LAYOUT", help="brats2021, wmh, ist3 or mosmed.")],
    raw: Annotated[
        Path, typer.Argument(metavar="RAW", help="The data set's folder; for ist3, the output of difffuse preprocess.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the Parquet shards, card and preprocessing.")],
    config: Kind = None,
    image_size: ImageSize = None,
    modalities: Modalities = None,
    pixel_spacing_mm: PixelSpacing = None,
    slice_margin: SliceMargin = None,
    min_foreground: MinForeground = None,
    division: Division = None,
    brain_mask: BrainMask = None,
    labels: Labels = None,
    masks: Masks = None,
    slice_labels: SliceLabels = None,
    key: Key = None,
    columns: Columns = None,
    values: Values = None,
    num_slices: NumSlices = None,
    window_hu: Window = None,
    ct1: CT1 = None,
    split: Annotated[Split | None, _option("Put every subject into this split, keeping the others.")] = None,
    split_seed: Annotated[int, typer.Option(help="Of the division 70-15-15 by patient.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes on this machine.", show_default="1")] = None,
    num_proc: Annotated[int | None, typer.Option(min=1, hidden=True)] = None,
    push_to_hub: Annotated[str | None, _option("Upload to this data set on the Hub.", metavar="USER/NAME")] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Everybody may read it there; data of patients must stay private.")
    ] = False,
):
    """Turn a raw data set, real or synthetic, into Parquet shards for training.

    Splits are by patient; folders that are separated already are added one at a time with --split.
    """
    from ..data.prepare import make_builder
    from ..data.prepare import prepare as write_parquet

    if num_proc is not None:
        complain("--num-proc is the old name of --workers and will go.")
    builder = make_builder(
        layout.value,
        raw,
        config,
        image_size=image_size,
        modalities=tuple(modalities) if modalities else None,
        pixel_spacing_mm=pixel_spacing_mm,
        slice_margin=slice_margin,
        min_foreground=min_foreground,
        division=division,
        brain_mask=brain_mask,
        labels=None if labels is None else str(labels),
        masks=None if masks is None else str(masks),
        slice_labels=slice_labels,
        key=key,
        columns=_columns(columns) if columns else None,
        values=_values(values) if values else None,
        num_slices=num_slices,
        window_hu=window_hu,
        ct1=ct1,
        split=None if split is None else split.value,
        split_seed=split_seed,
    )
    write_parquet(builder, out, workers or num_proc, push_to_hub, public)


def _columns(entries: list[str]) -> dict[str, str]:
    """`lesion=side` and the like as {our name: name in the table}."""
    pairs = [entry.partition("=") for entry in entries]
    if not all(equals for _, equals, _ in pairs):
        raise typer.BadParameter("takes lesion=side and the like", param_hint="--columns")
    return {ours: theirs for ours, _, theirs in pairs}


def _values(entries: list[str]) -> dict[str, dict[str, str]]:
    """`lesion:1=left` and the like as {our name: {value in the table: our value}}."""
    words = defaultdict(dict)
    for entry in entries:
        name, colon, word = entry.partition(":")
        theirs, equals, ours = word.rpartition("=")
        if not (colon and equals):
            raise typer.BadParameter("takes lesion:1=left and the like", param_hint="--values")
        words[name][theirs] = ours
    return dict(words)
