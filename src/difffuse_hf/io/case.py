"""One patient's scan: all modalities of a model as they lie in their files, on one voxel grid."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from ..errors import InputError
from .layouts import CaseFiles, Source, find_case
from .nifti import along_axes_of, check_same_grid
from .volume_file import VolumeFile, read_volume_file

# Interpolation undershoots by a little; a z-scored volume is negative in about half its voxels.
MAX_NEGATIVE_SHARE = 0.05
CT = "ct"  # the modality that is in Hounsfield units
AIR_HU, BONE_HU = -500, 300
MIN_AIR_SHARE = 0.05  # of the voxels of CT; MR that interpolation made negative has less that is so dark


@dataclass
class Case:
    """One patient's scan: all modalities on one voxel grid, as they lie in the files (see `read_case`)."""

    name: str
    volumes: np.ndarray  # (C, X, Y, Z) float32, native intensities of the modalities that there are
    affine: np.ndarray  # (4, 4), voxel to RAS+ millimetres
    header: nibabel.Nifti1Header  # of this grid, in millimetres
    reference: np.ndarray | None = None  # (X, Y, Z) uint8 labels, 0 = no lesion
    files: dict[str, Path] = field(default_factory=dict)  # modality -> file, in the order of `volumes`
    headers: dict[str, nibabel.Nifti1Header] = field(default_factory=dict)  # modality -> `header` with its voxel type
    read_as: str = ""  # by which names the files were found
    notes: list[str] = field(default_factory=list)  # what was decided or done in reading it, a sentence each
    dicom: tuple[Any, ...] = ()  # of CT in DICOM: the `SliceHeader` of each slice, the last axis of the volumes

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000


def read_case(source: Source, modalities: Sequence[str], optional: Sequence[str] = ()) -> Case:
    """Read a case whose modalities lie on one grid, as they are.

    Args:
        source: a folder with a file for every modality and, if there is one, a reference segmentation, named as
            `io/layouts.py` says; a file, for a model of one modality; or the file of each modality, by its name.
            Scans are skull-stripped: non-negative, 0 outside the brain.
        modalities: those of the model, in its channel order (`pipeline.processor.modalities`).
        optional: those of them that may be missing; the case then holds the others.

    Raises:
        InputError: names the file that cannot be used, and why.
    """
    found = find_case(source, modalities, optional)
    volumes, reference = read_files(found)
    first = next(iter(volumes.values()))
    for volume in volumes.values():
        check_same_grid(volume, first)
    return make_case(found, volumes, reference)


def read_files(found: CaseFiles) -> tuple[dict[str, VolumeFile], VolumeFile | None]:
    """The volume of each modality and the reference, along the axes of the first; their grids may still differ.

    Raises:
        InputError: a file cannot be read or does not hold intensities that a model takes.
    """
    volumes: dict[str, VolumeFile] = {}
    for modality, file in found.files.items():
        volume = read_volume_file(file)
        (check_hounsfield if modality == CT else check_intensities)(volume.voxels, str(file))
        volumes[modality] = along_axes_of(volume, next(iter(volumes.values()), volume))
    reference = None
    if found.reference is not None:
        reference = along_axes_of(read_volume_file(found.reference), next(iter(volumes.values())))
    return volumes, reference


def make_case(
    found: CaseFiles, volumes: Mapping[str, VolumeFile], reference: VolumeFile | None, notes: Iterable[str] = ()
) -> Case:
    """The case of volumes on one grid, that of the first of them.

    Raises:
        InputError: the reference lies on another grid.
    """
    first = next(iter(volumes.values()))
    labels = None
    if reference is not None:
        check_same_grid(reference, first)
        labels = reference.voxels.round().clip(0, 255).astype(np.uint8)
    return Case(
        name=found.name,
        volumes=np.stack([volume.voxels for volume in volumes.values()]),
        affine=first.affine,
        header=first.header,
        reference=labels,
        files=dict(found.files),
        headers={modality: volume.header for modality, volume in volumes.items()},
        read_as=found.read_as,
        notes=[*_notes_of(volumes), *notes],
    )


def _notes_of(volumes: Mapping[str, VolumeFile]) -> list[str]:
    """What was decided in reading the files, each sentence once, with the modalities that it is about."""
    about: dict[str, list[str]] = {}
    for modality, volume in volumes.items():
        for note in volume.notes:
            about.setdefault(note, []).append(modality)
    return [f"{', '.join(some)}: {note}." for note, some in about.items()]


def check_intensities(volume: np.ndarray, name: str) -> None:
    """Raise `InputError`, naming the volume, unless it holds finite and essentially non-negative intensities."""
    if not np.isfinite(volume).all():
        raise InputError(f"{name} holds NaN or infinite voxels; replace them or export the scan again.")
    if not volume.any():
        raise InputError(f"{name} is empty: all of its voxels are 0.")
    background = constant_background(volume)
    negative = np.count_nonzero(volume < 0) > MAX_NEGATIVE_SHARE * np.count_nonzero(volume)
    if background > 0 or (background < 0 and negative):
        raise InputError(
            f"{name} has a constant background of {background:g} instead of 0; set those voxels to 0, or subtract the "
            "value from all voxels if the whole scan was shifted by it."
        )
    if negative:
        raise InputError(
            f"{name} has negative intensities, as after z-scoring; the model takes skull-stripped, non-negative "
            "intensities with a background of 0 (where only the noise of the air is negative, set it to 0)."
        )


def check_hounsfield(volume: np.ndarray, name: str) -> None:
    """Raise `InputError`, naming the volume, unless it can be CT in Hounsfield units: air, tissue and bone."""
    if not np.isfinite(volume).all():
        raise InputError(f"{name} holds NaN or infinite voxels; replace them or export the scan again.")
    low, high = float(volume.min()), float(volume.max())
    if low > AIR_HU or high < BONE_HU:
        raise InputError(
            f"{name} is not in Hounsfield units: its values go from {low:g} to {high:g}, and CT has air below "
            f"{AIR_HU} and bone above {BONE_HU}; apply the rescale slope and intercept, and keep bone and air."
        )


def looks_like(volume: np.ndarray) -> str | None:
    """ "CT" or "MR" where the intensities of a volume say so: Hounsfield units, or values that are not negative.

    CT that was shifted until it is not negative is taken for MR.
    """
    if not np.isfinite(volume).all():
        return None
    if volume.max() >= BONE_HU and (volume <= AIR_HU).mean() >= MIN_AIR_SHARE:
        return "CT"
    negative = np.count_nonzero(volume < 0) > MAX_NEGATIVE_SHARE * np.count_nonzero(volume)
    return None if negative or not volume.any() else "MR"


def constant_background(volume: np.ndarray) -> float:
    """The value that most voxels on the edges of the volume's box have, 0 if no value has most of them."""
    ends = [0, -1]
    x, y = volume[ends], volume[:, ends]
    edges = np.concatenate([part.ravel() for part in (x[:, ends], x[:, :, ends], y[:, :, ends])])
    values, counts = np.unique(edges, return_counts=True)
    return float(values[counts.argmax()]) if counts.max() > edges.size / 2 else 0.0
