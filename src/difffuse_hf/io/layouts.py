"""The file names that people give to the modalities of a case, and the files of one case by them.

    BraTS 2018-2021    <case>_flair  _t1  _t1ce  _t2  _seg
    BraTS 2023-2025    <case>-t2f  -t1n  -t1c  -t2w  -seg
    BIDS               sub-<label>[/ses-<label>]/anat/sub-..._FLAIR  _T1w  _ce-<agent>_T1w  _T2w
    plain names        FLAIR, T1, T1_Gd, T2w and the like, alone or after a name
    nnU-Net            <case>_0000 and so on, where a dataset.json says which channel is which

Case and format do not matter. A case is read by one of these, the first that has all modalities of the model.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ..errors import InputError
from .volume_file import stem, volume_files

Source: TypeAlias = "str | os.PathLike | Mapping[str, str | os.PathLike]"  # a folder, a file, or files by modality

REFERENCE = "seg"
ENDINGS = {  # of the names, without the format; a modality that is not named here ends in its own name
    "BraTS 2018-2021": {},
    "BraTS 2023-2025": {"flair": "-t2f", "t1": "-t1n", "t1ce": "-t1c", "t2": "-t2w", REFERENCE: "-seg"},
    "BIDS": {"flair": "_FLAIR", "t1": "_T1w", "t1ce": "_ce-gadolinium_T1w", "t2": "_T2w", REFERENCE: "_dseg"},
    "plain names": {},
}
BIDS = {
    "flair": r"sub-.*_flair",
    "t1": r"sub-(?:(?!_ce-).)*_t1w",
    "t1ce": r"sub-.*_ce-.*_t1w",
    "t2": r"sub-.*_t2w",
    REFERENCE: r"sub-.*_d?seg",
}
PLAIN = {
    "flair": r"t2f|flair",
    "t1": r"t1|t1n|t1w|t1[ _-]?pre",
    "t1ce": r"t1ce|t1c|t1cw|t1gd|t1[ _-](?:ce|c|gd|post|contrast)|(?:ce|gd|post)[ _-]?t1w?",
    "t2": r"t2|t2w",
    REFERENCE: r"d?seg|segmentation",
}
MANY = 12  # files or folders that a sentence lists at most


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case: `files` in the channel order of the model, `reference` if there is one, and by which
    names they were found."""

    name: str
    files: dict[str, Path]
    reference: Path | None
    read_as: str


def case_name(source: Source) -> str:
    """Name of a case: of its folder, of its file without the format, or what the names of its files begin with."""
    if isinstance(source, Mapping):
        stems = [stem(Path(file)) for file in source.values()]
        begin = os.path.commonprefix(stems)
        if begin not in stems:  # whole words only
            begin = re.sub(r"[^_\-. ]*$", "", begin)
        return begin.strip("_-. ") or Path(next(iter(source.values()))).resolve().parent.name
    path = Path(source)
    if path.is_file():
        return stem(path) if stem(path).strip(". ") else path.name  # `...zip` would lead out of the output folder
    path = path.resolve()
    if path.name == "anat":
        path = path.parent
    if path.name.startswith("ses-") and path.parent.name.startswith("sub-"):
        return f"{path.parent.name}_{path.name}"
    return path.name


def find_case(source: Source, modalities: Sequence[str], optional: Sequence[str] = ()) -> CaseFiles:
    """The file of each modality that there is, and the reference's if there is one.

    Args:
        source: a case folder (see this module), a file where one modality is enough, or the file of each modality.
        modalities: those of the model, in its channel order.
        optional: those of them that may be missing. Of the layouts in which none of the others is missing, the one
            counts in which most are found.

    Raises:
        InputError: a modality is missing or there twice; the sentence lists what was found.
    """
    if isinstance(source, Mapping):
        return _named_files(source, modalities, optional)
    needed = [one for one in modalities if one not in optional]
    path, name = Path(source), case_name(source)
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    if path.is_file():
        return _one_file(path, name, modalities, needed)
    found = volumes_of(path)
    layouts = {layout: {one: _matching(found, layout, one) for one in (*modalities, REFERENCE)} for layout in ENDINGS}
    usable = [layout for layout, files in layouts.items() if all(files[one] for one in needed)]
    if usable:
        best = max(
            usable, key=lambda layout: sum(bool(layouts[layout][one]) for one in modalities)
        )  # the first of ties
        return _one_of_each(path, name, layouts[best], best)
    numbered = _by_channel_numbers(path, found, modalities, needed)
    if numbered is not None:
        return _one_of_each(path, name, numbered, "nnU-Net numbers, as dataset.json says")
    raise InputError(_what_is_missing(path, name, found, modalities, needed))


def _one_file(path: Path, name: str, modalities: Sequence[str], needed: Sequence[str]) -> CaseFiles:
    """A file by itself, for a model to which one modality is enough; a name that says another one is not that."""
    says = [one for one in PLAIN if one in modalities and _matching([path], "plain names", one)]
    if len(needed) != 1 or (says and needed[0] not in says):
        is_one = f"{path} is {'one file' if len(needed) != 1 else says[0]}"
        raise InputError(
            f"{is_one} but the model takes {_takes(modalities, needed)}; give the folder that holds them, "
            f"or name each by --image {needed[0] if needed else modalities[0]}=PATH."
        )
    return CaseFiles(
        name, {needed[0]: path}, None, "one file" if len(modalities) == 1 else f"one file, of {needed[0]}"
    )


def _takes(modalities: Sequence[str], needed: Sequence[str]) -> str:
    """What a model takes, in words."""
    optional = [one for one in modalities if one not in needed]
    if not optional:
        return ", ".join(modalities)
    return f"{', '.join(needed) or 'any'}, and if there are {', '.join(optional)}"


def _named_files(
    source: Mapping[str, str | os.PathLike], modalities: Sequence[str], optional: Sequence[str]
) -> CaseFiles:
    needed = [one for one in modalities if one not in optional]
    takes = f"the model takes {_takes(modalities, needed)}"
    unknown = [one for one in source if one not in (*modalities, REFERENCE)]
    missing = [one for one in needed if one not in source]
    if unknown or missing:
        wrong = f"names {unknown[0]}" if unknown else f"lacks {', '.join(missing)}"
        raise InputError(f"--image {wrong}, but {takes} (and {REFERENCE}, a reference, if there is one).")
    files = {one: Path(file) for one, file in source.items()}
    for file in files.values():
        if not file.is_file():
            raise InputError(f"{file} does not exist.")
    return CaseFiles(
        case_name(source),
        {one: files[one] for one in modalities if one in files},
        files.get(REFERENCE),
        "files named one by one",
    )


def volumes_of(folder: Path) -> list[Path]:
    """The volumes of a case folder: in it, or where BIDS puts them, in `anat` of a subject or of its only session."""
    places = [folder, folder / "anat", *sorted(folder.glob("ses-*/anat"))]
    for place in places:
        if place.is_dir() and (found := volume_files(place)):
            others = [one.parent.name for one in places[2:] if one != place]
            if place in places[2:] and others:
                sessions = ", ".join([place.parent.name, *others])
                raise InputError(f"{folder} holds several sessions ({sessions}); give one of them.")
            return found
    return []


def _matching(found: Iterable[Path], layout: str, modality: str) -> list[Path]:
    """The files that are named as a layout names a modality."""
    if layout == "BIDS":
        pattern = BIDS.get(modality, rf"sub-.*_{re.escape(modality)}")
    elif layout == "plain names":
        pattern = rf"(?:.*[_\-. ])?(?:{PLAIN.get(modality, re.escape(modality))})"
    else:
        pattern = f".*{re.escape(_ending(layout, modality))}"
    return [file for file in found if re.fullmatch(pattern, stem(file), re.IGNORECASE)]


def _ending(layout: str, modality: str) -> str:
    return ENDINGS[layout].get(modality, f"_{modality}")


def _one_of_each(path: Path, name: str, files: Mapping[str, list[Path]], layout: str) -> CaseFiles:
    for modality, some in files.items():
        if len(some) > 1:
            raise InputError(
                f"{path} holds more than one {modality} file: {', '.join(file.name for file in some)}; keep one of "
                f"them there, or name the files by --image {modality}=PATH."
            )
    reference = files[REFERENCE][0] if files[REFERENCE] else None
    return CaseFiles(
        name, {one: some[0] for one, some in files.items() if some and one != REFERENCE}, reference, layout
    )


def _channel_numbers(path: Path) -> dict[str, int] | None:
    """The number of each channel by what a dataset.json beside a folder's files or above calls it, if there is one."""
    description = next((one / "dataset.json" for one in (path, *path.resolve().parents[:2])
                        if (one / "dataset.json").is_file()), None)  # fmt: skip
    if description is None:
        return None
    try:
        content = json.loads(description.read_text(encoding="utf-8"))
        channels = dict(content.get("channel_names") or content["modality"])
        return {str(name): int(number) for number, name in channels.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{description} does not say in `channel_names` which channel is which.") from error


def _number_of(modality: str, channels: Mapping[str, int]) -> int | None:
    pattern = PLAIN.get(modality, re.escape(modality))
    return next((at for name, at in channels.items() if re.fullmatch(pattern, name, re.IGNORECASE)), None)


def _by_channel_numbers(
    path: Path, found: Sequence[Path], modalities: Sequence[str], needed: Sequence[str]
) -> dict[str, list[Path]] | None:
    """Files ..._0000, ..._0001 by what a dataset.json beside them or above says that the channels are."""
    if not any(re.search(r"_\d{4}$", stem(file)) for file in found):
        return None
    channels = _channel_numbers(path) or {}
    files: dict[str, list[Path]] = {REFERENCE: []}
    for modality in modalities:
        number = _number_of(modality, channels)
        files[modality] = [file for file in found if number is not None and stem(file).endswith(f"_{number:04d}")]
    return files if all(files[modality] for modality in needed) else None


def _what_channel_is_missing(
    path: Path, found: Sequence[Path], channels: Mapping[str, int], modalities: Sequence[str], there: str
) -> str:
    """The sentence on numbered files of which a dataset.json says what they are."""
    for modality in modalities:
        number = _number_of(modality, channels)
        if number is None:
            return f"The dataset.json of {path} names no channel {modality}, only {', '.join(channels)} ({there})."
        if not any(stem(file).endswith(f"_{number:04d}") for file in found):
            return (
                f"{path} lacks {modality}: there is no file ..._{number:04d}, the number that dataset.json gives it "
                f"({there})."
            )
    raise AssertionError("none is missing")


def _what_is_missing(
    path: Path, name: str, found: Sequence[Path], modalities: Sequence[str], needed: Sequence[str]
) -> str:
    """The sentence on a folder that lacks modalities: which, what would be read, and what is there."""
    takes = f"the model takes {_takes(modalities, needed)}"
    if not found:
        folders = sorted(one.name for one in path.iterdir() if one.is_dir() and not one.name.startswith("."))
        inside = f"only the folders {_some(folders)}; give one of them" if folders else "no file of a known format"
        return f"{path} holds no scan ({takes}, as {name}_{modalities[0]}.nii.gz for example), {inside}."
    remedy = f"name the files by --image {modalities[0]}=PATH"
    there = f"it holds {_some([file.name for file in found])}"
    if any(re.search(r"_\d{4}$", stem(file)) for file in found):
        if (channels := _channel_numbers(path)) is not None:
            return _what_channel_is_missing(path, found, channels, needed, f"{takes}; {there}")
        return (
            f"The files of {path} are numbered, and no dataset.json says by `channel_names` which of them is which "
            f"({takes}; {there}); {remedy}."
        )
    lacks = {layout: [one for one in needed if not _matching(found, layout, one)] for layout in ENDINGS}
    layout = min(lacks, key=lambda one: len(lacks[one]))
    layout = "BraTS 2018-2021" if layout == "plain names" and len(lacks[layout]) == len(needed) else layout
    missing = lacks[layout]
    wanted = missing[0].upper() if layout == "plain names" else name + _ending(layout, missing[0])
    like_others = found[0].name[len(stem(found[0])) :]  # the ending of their format
    return (
        f"{path} lacks {', '.join(missing)}: there is no file {wanted}{like_others} "
        f"({takes}; {there}); name the file by --image {missing[0]}=PATH if it has another name."
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MANY} more" if len(names) > MANY else ""
    return ", ".join(names[:MANY]) + more
