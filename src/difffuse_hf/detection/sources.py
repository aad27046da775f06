"""What people give to `difffuse detect`, as the case that the model takes.

folder, file or named files of MR volumes -> one grid, brain only (`preprocessing/mr_case.py`)
CT: a volume in Hounsfield units          -> as it is
MR in DICOM: several series of a folder   -> the same, by way of NIfTI (`preprocessing/mr_dicom.py`)
head CT: DICOM folder, Enhanced CT file   -> its native slices (`dicom_case.py`)
zip of one of these                       -> unpacked for as long as the case is worked on
"""

import errno
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import islice
from pathlib import Path

import numpy as np

from ..data.slice_settings import CHEST
from ..errors import InputError, first_line
from ..io.case import Case, looks_like, read_case
from ..io.hub import EMBEDDED, model_folder
from ..io.layouts import REFERENCE, Source, case_name, find_case, volumes_of
from ..io.volume_file import ENDINGS, VolumeFile, read_volume_file, volume_files
from ..models.processing_difffuse import DifFuseProcessor
from ..preprocessing.mr_case import prepare_case
from ..preprocessing.walk import find_files, walk_files

MOST_BYTES = 16_000_000_000  # of an unpacked archive
MANY_FILES = 200  # of a folder, to see whether it holds DICOM
BAD_NAMES = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)  # of files in an archive


@contextmanager
def opened(source: Source) -> Iterator[Source]:
    """The source itself, or the folder in which a zip file is unpacked while one is in here.

    Raises:
        InputError: the archive cannot be read, or would be too large. Those raised in here name the archive, too.
    """
    file = zip_file_of(source)
    if file is None:
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="difffuse-") as temporary:
        folder = Path(temporary, case_name(file))
        try:
            with zipfile.ZipFile(file) as archive:
                size = sum(one.file_size for one in archive.infolist())
                if size > MOST_BYTES:
                    raise InputError(f"{file} would take {size / 1e9:.0f} GB; unpack it, and give one scan's folder.")
                archive.extractall(folder)  # which leads no name out of the folder
        except InputError:
            raise
        except Exception as error:  # damaged or encrypted: each way to pack has errors of its own
            if isinstance(error, OSError) and error.errno not in BAD_NAMES:  # the disk is full, for example
                raise
            raise InputError(
                f"{file} cannot be unpacked ({_why(error)[:200]}); unpack it yourself, and give the folder."
            ) from None
        try:
            yield folder
        except InputError as error:  # the folder is nobody's to look for
            raise InputError(str(error).replace(str(folder), str(file))) from None


def _why(error: Exception) -> str:
    """Without the name of a temporary file."""
    return (error.strerror if isinstance(error, OSError) else None) or first_line(error)


def zip_file_of(source: Source) -> Path | None:
    """The source if it is a zip file, else None."""
    if isinstance(source, Mapping) or not Path(source).is_file() or not zipfile.is_zipfile(Path(source)):
        return None
    return Path(source)


def is_dicom(source: Source) -> bool:
    """Does a folder or file hold DICOM, and no volume in a format that is read otherwise?"""
    if isinstance(source, Mapping):
        return False
    path = Path(source)
    if path.is_file():
        return not path.name.lower().endswith(ENDINGS) and _starts_as_dicom(path)
    if not path.is_dir() or volume_files(path):
        return False
    return any(_starts_as_dicom(Path(entry)) for entry in islice(walk_files(path), MANY_FILES))


def files_of(source: Source, processor: DifFuseProcessor) -> tuple[list[str], list[Path]]:
    """The modalities of a case's result, and the files that decide it: of a zip, itself; see `read_source`."""
    if zip_file_of(source) or is_dicom(source):
        path = Path(source)  # pyright: ignore[reportArgumentType]  it is no mapping
        return list(processor.modalities), find_files(path)
    with told_of_another_kind(source, processor):
        found = find_case(source, processor.modalities, processor.optional_modalities)
    return list(found.files), [*found.files.values(), *([found.reference] if found.reference else [])]


def read_source(
    source: Source,
    processor: DifFuseProcessor,
    register: bool = True,
    brain_extraction: bool = True,
    series: Sequence[str] = (),
) -> tuple[Case, dict[str, np.ndarray]]:
    """The case, and a picture (H, W, 3) uint8 of each step of its preparation, by its name.

    Args:
        source: see this module; a zip file goes through `opened` first.
        processor: of the model, which takes skull-stripped MR, head CT or lung CT.
        register, brain_extraction: as in `prepare_case`, for MR.
        series: of DICOM, the SeriesInstanceUID of the CT that is meant; of MR, `MODALITY=UID` where the description
            of a series does not say what it is.

    Raises:
        InputError: the case cannot be used, or is of another kind than the model takes.
    """
    takes_ct = processor.window_hu is not None
    if is_dicom(source):
        path = Path(source)  # pyright: ignore[reportArgumentType]  it is no mapping
        if processor.body_part == CHEST:
            raise InputError(
                f"{path} holds DICOM, of which only heads are read, and the model takes lung CT; convert the study to "
                "one NIfTI file in Hounsfield units, for example with dcm2niix."
            )
        try:
            if not takes_ct:
                return _read_mr_dicom(path, processor, series, register, brain_extraction)
            if len(series) > 1 or "=" in "".join(series):
                raise InputError("--series names the one CT series that is meant, by its SeriesInstanceUID.")
            return _read_ct_dicom(path, series), {}
        except ImportError as error:
            raise InputError(f'DICOM needs more packages ({error}): pip install "difffuse_hf[preprocess]".') from error
    if series:
        raise InputError(f"--series names a series of DICOM files, and {source} holds none.")
    with told_of_another_kind(source, processor):
        if takes_ct:
            return read_case(source, processor.modalities), {}
        return prepare_case(source, processor.modalities, register, brain_extraction, processor.optional_modalities)


@contextmanager
def told_of_another_kind(source: Source, processor: DifFuseProcessor) -> Iterator[None]:
    """Where volumes cannot be used in here, and look like MR to a model of CT or the reverse, that is what is said."""
    try:
        yield
    except InputError as error:
        takes = "MR" if processor.window_hu is None else "CT"
        volume = _first_volume(source)
        kind = None if volume is None else looks_like(volume.voxels)
        if volume is None or kind in (None, takes):
            raise InputError(f"{error}{does_with_less(source, processor)}") from error
        low, high = volume.voxels.min(), volume.voxels.max()
        remedy = " (CT is taken in Hounsfield units, with bone and air)" if takes == "CT" else ""
        raise InputError(
            f"{volume.file} looks like {kind}: its values go from {low:g} to {high:g}; the model takes "
            f"{processor.recipe.kind} ({', '.join(processor.modalities)}), so choose a model of {kind}{remedy}."
        ) from None


def does_with_less(source: Source, processor: DifFuseProcessor) -> str:
    """Of a case that lacks modalities, the end of a sentence: a model of the package that does without them."""
    if _can_be_found(source, processor):
        return ""
    for name in EMBEDDED:
        other = DifFuseProcessor.from_pretrained(model_folder(name), subfolder="processor")
        if set(other.modalities) < set(processor.modalities) and _can_be_found(source, other):
            return f" A model of the package needs {', '.join(other.modalities)} alone: --model {name}."
    return ""


def _can_be_found(source: Source, processor: DifFuseProcessor) -> bool:
    """Whether the files that a model takes are there."""
    try:
        find_case(source, processor.modalities, processor.optional_modalities)
    except InputError:
        return False
    return True


def _first_volume(source: Source) -> VolumeFile | None:
    """The first volume of a case that is no reference; None where there is none, or it cannot be read."""
    try:
        if isinstance(source, Mapping):
            files = [Path(file) for modality, file in source.items() if modality != REFERENCE]
        else:
            files = [Path(source)] if Path(source).is_file() else volumes_of(Path(source))
            files = [file for file in files if REFERENCE not in file.name.lower()]
        return read_volume_file(files[0]) if files else None
    except InputError:
        return None


def _read_ct_dicom(path: Path, series: Sequence[str]) -> Case:
    """The head CT of a folder or file."""
    try:
        return import_module(".dicom_case", __package__).read_dicom_case(path, *series)
    except InputError:
        found = import_module("..preprocessing.native", __package__).find_series(path)
        kinds = {one.slices[0].modality for one, *_ in found}
        if "CT" in kinds or "MR" not in kinds:
            raise
        raise InputError(
            f"{path} holds MR in DICOM and no CT, and the model takes head CT; choose a model of MR."
        ) from None


def _read_mr_dicom(
    path: Path, processor: DifFuseProcessor, series: Sequence[str], register: bool, brain_extraction: bool
) -> tuple[Case, dict[str, np.ndarray]]:
    """The MR series of a folder, by way of NIfTI files that are gone afterwards."""
    reader = import_module("..preprocessing.mr_dicom", __package__)
    found, modalities, optional = reader.mr_series(path), processor.modalities, processor.optional_modalities
    takes = f"the model takes MR volumes ({', '.join(modalities)})"
    if not found:
        raise InputError(f"{path} holds DICOM but no MR, and {takes}; if it is CT, choose a model of CT.")
    named = dict(one.split("=", 1) for one in series if "=" in one)
    if len(named) < len(series):
        raise InputError(f"--series takes MODALITY=UID here, once for each modality, for {takes}.")
    chosen = reader.choose_series(path, found, modalities, named, optional)
    with tempfile.TemporaryDirectory(prefix="difffuse-") as temporary:
        files = {modality: Path(temporary, f"{modality}.nii.gz") for modality in chosen}
        for modality, one in chosen.items():
            reader.write_nifti(one, files[modality])
        try:
            case, pictures = prepare_case(files, modalities, register, brain_extraction, optional)
        except InputError as error:
            raise InputError(str(error).replace(temporary, str(path))) from None
    case.name, case.files, case.read_as = case_name(path), dict.fromkeys(chosen, path), "MR in DICOM"
    case.notes += [f"{modality}: it is the series {one.slices[0].description}." for modality, one in chosen.items()]
    return case, pictures


def _starts_as_dicom(file: Path) -> bool:
    """The mark after 128 bytes, or a group 0008 at the start, as files of old scanners have it."""
    with file.open("rb") as stream:
        start = stream.read(132)
    return start[128:] == b"DICM" or start[:2] in (b"\x08\x00", b"\x00\x08")
