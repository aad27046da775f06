"""One patient's scan, read from a folder in the BraTS layout or from a single NIfTI file."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np

from ..errors import InputError
from .nifti import check_same_grid, find_volume, read_volume

# Interpolation undershoots by a little; a z-scored volume is negative in about half its voxels.
MAX_NEGATIVE_SHARE = 0.05


@dataclass
class Case:
    """One patient's scan: all modalities on one voxel grid, as they lie in the files (see `read_case`)."""

    name: str
    volumes: np.ndarray  # (C, X, Y, Z) float32, native intensities
    affine: np.ndarray  # (4, 4), voxel to RAS+ millimetres
    header: nibabel.Nifti1Header  # of the first modality
    reference: np.ndarray | None = None  # (X, Y, Z) uint8 labels, 0 = no lesion
    files: dict[str, Path] = field(default_factory=dict)  # modality -> file

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000


def read_case(path: str | os.PathLike, modalities: Sequence[str]) -> Case:
    """Read a case in the BraTS layout, or one NIfTI file when the model takes a single modality.

    Args:
        path: a folder with `<name>_<modality>.nii.gz` (or `.nii`) for every modality and, if there is one, a reference
            segmentation `<name>_seg.nii.gz`; or a file. Scans are skull-stripped: non-negative, 0 outside the brain.
        modalities: those of the model, in its channel order (`pipeline.processor.modalities`).

    Raises:
        InputError: names the file that cannot be used, and why.
    """
    name, files, reference_file = find_case(path, modalities)
    images, volumes, first_file = [], [], next(iter(files.values()))
    for file in files.values():
        image, volume = read_volume(file)
        check_intensities(volume, str(file))
        images.append(image)
        volumes.append(volume)
        check_same_grid(image, file, images[0], first_file)
    reference = None
    if reference_file is not None:
        image, labels = read_volume(reference_file)
        check_same_grid(image, reference_file, images[0], first_file)
        reference = labels.round().clip(0, 255).astype(np.uint8)
    return Case(name, np.stack(volumes), images[0].affine, images[0].header, reference, files)


def case_name(path: str | os.PathLike) -> str:
    """Name of a case: of its folder, or of its file without `.nii` and what follows."""
    path = Path(path)
    return path.name.split(".nii")[0] if path.is_file() else path.resolve().name


def find_case(path: str | os.PathLike, modalities: Sequence[str]) -> tuple[str, dict[str, Path], Path | None]:
    """Name of the case, file of each modality, and the reference's file if there is one; see `read_case`.

    Raises:
        InputError: names what is missing.
    """
    path, name = Path(path), case_name(path)
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    if path.is_file():
        if len(modalities) != 1:
            raise InputError(
                f"{path} is one file but the model takes {', '.join(modalities)}; give the folder that holds them."
            )
        return name, {modalities[0]: path}, None
    found = {modality: find_volume(path, modality) for modality in modalities}
    files = {modality: file for modality, file in found.items() if file is not None}
    missing = [modality for modality in modalities if modality not in files]
    if missing:
        raise InputError(
            f"{path} lacks {', '.join(missing)}: there is no file {name}_{missing[0]}.nii.gz "
            f"(the model takes {', '.join(modalities)})."
        )
    return name, files, find_volume(path, "seg")


def check_intensities(volume: np.ndarray, name: str) -> None:
    """Raise `InputError`, naming the volume, unless it holds finite and essentially non-negative intensities."""
    if not np.isfinite(volume).all():
        raise InputError(f"{name} holds NaN or infinite voxels; replace them or export the scan again.")
    if not volume.any():
        raise InputError(f"{name} is empty: all of its voxels are 0.")
    if np.count_nonzero(volume < 0) > MAX_NEGATIVE_SHARE * np.count_nonzero(volume):
        raise InputError(
            f"{name} has negative intensities, as after z-scoring; "
            "the model takes skull-stripped, non-negative intensities with a background of 0."
        )
