"""`difffuse prepare`: a raw folder through its builder to Parquet, and to the Hub if asked."""

from collections import defaultdict
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from .options import Layout


class Split(str, Enum):
    train = "train"
    validation = "validation"
    test = "test"


def prepare(
    layout: Annotated[Layout, typer.Argument(metavar="LAYOUT", help="brats2021, wmh, ist3 or mosmed.")],
    raw: Annotated[
        Path, typer.Argument(metavar="RAW", help="The data set's folder; for ist3, the output of difffuse preprocess.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the Parquet shards, card and preprocessing.")],
    config: Annotated[
        str | None,
        typer.Option(
            help="volumes: a row per scan. slices: a row per slice. nifti (mosmed): the files.",
            show_default="slices for MRI, volumes for CT",
        ),
    ] = None,
    image_size: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="HEIGHT WIDTH", help="Pixels of a slice.", show_default="256 256; mosmed 128 128"),
    ] = None,
    modalities: Annotated[
        list[str] | None, typer.Option(help="MRI: a channel; once for each, in their order.", show_default="all")
    ] = None,
    pixel_spacing_mm: Annotated[float | None, typer.Option(help="MRI: side of a pixel.", show_default="1")] = None,
    slice_margin: Annotated[
        int | None, typer.Option(help="MRI: slices dropped at each end, of 155.", show_default="25, as in the thesis")
    ] = None,
    min_foreground: Annotated[
        float | None, typer.Option(help="MRI: least brain in a slice, as a fraction.", show_default="0.02")
    ] = None,
    division: Annotated[
        str | None,
        typer.Option(help="wmh: official training and test, or patient for 70-15-15.", show_default="official"),
    ] = None,
    brain_mask: Annotated[
        str | None,
        typer.Option(
            help="wmh: template, none (skull-stripped already), or a mask file in every case folder (recommended).",
            show_default="template",
        ),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="ist3: CSV or TSV.", show_default="labels.csv in RAW or above it")
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(help="ist3: folder of <study_uid or scan_id>.nii.gz.", show_default="truth/ of a phantom"),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            help="ist3: scan_id, series_uid, study_uid or patient_id.", show_default="the first that the table has"
        ),
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option(metavar="OURS=THEIRS", help="ist3: a column's name in the table; repeatable.")
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option(metavar="OURS:THEIRS=OURS", help="ist3: a value in the table; repeatable: lesion:1=left."),
    ] = None,
    num_slices: Annotated[
        int | None, typer.Option(help="mosmed: slices of a study, evenly sampled.", show_default="11")
    ] = None,
    window_hu: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="LOW HIGH", help="mosmed: HU that become 0 and 1.", show_default="-1000 400"),
    ] = None,
    ct1: Annotated[
        str | None,
        typer.Option(help="mosmed: what CT-1 counts as: left out, healthy or lesion.", show_default="left out"),
    ] = None,
    split: Annotated[Split | None, typer.Option(help="Put every subject into this split, keeping the others.")] = None,
    split_seed: Annotated[int, typer.Option(help="Of the division 70-15-15 by patient.")] = 0,
    num_proc: Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="1")] = None,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="USER/NAME", help="Upload to this data set on the Hub.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Everybody may read it there; data of patients must stay private.")
    ] = False,
):
    """Turn a raw data set, real or synthetic, into Parquet shards for training.

    Splits are by patient; folders that are separated already are added one at a time with --split.
    """
    from ..data.prepare import make_builder
    from ..data.prepare import prepare as write_parquet

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
        key=key,
        columns=_columns(columns) if columns else None,
        values=_values(values) if values else None,
        num_slices=num_slices,
        window_hu=window_hu,
        ct1=ct1,
        split=None if split is None else split.value,
        split_seed=split_seed,
    )
    write_parquet(builder, out, num_proc, push_to_hub, public)


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


_SEVERAL = ("--modalities", "--columns", "--values")  # followed by several values in the scripts


def run_script(layout: str, arguments: list[str]) -> int:
    """`difffuse prepare LAYOUT` with the scripts' spelling of its options; returns the exit code.

    `--image_size 96` is a square, `--modalities flair t1` names several at once, and underscores are hyphens.
    """
    from .main import main

    return main(["prepare", layout, *_as_command(arguments)])


def _as_command(arguments: list[str]) -> list[str]:
    command, option, taken = [], "", 0
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            option, taken = name.replace("_", "-"), 0
            command += [option, value] if equals else [option]
            continue
        if option in _SEVERAL and taken:
            command.append(option)
        command.append(argument)
        taken += 1
    if "--image-size" in command:  # one number is both sides
        side = command.index("--image-size") + 1
        following = command[side + 1 : side + 2]
        if not (following and following[0].isdigit()):
            command.insert(side, command[side])
    return command
