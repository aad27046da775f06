"""One patient's scan, read from a folder in the BraTS layout or from a single NIfTI file."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np

from ..errors import InputError
from .nifti import check_same_grid, find_volume, read_volume

MAX_NEGATIVE_SHARE = (
    0.05  # interpolation undershoots by a little; a z-scored volume is negative in about half its voxels
)


@dataclass
class Case:
    """One patient's scan: all modalities on one voxel grid, as they lie in the files."""

    name: str
    volumes: np.ndarray  # (C, X, Y, Z) float32, native intensities
    affine: np.ndarray  # (4, 4), voxel to RAS+ millimetres
    header: nibabel.Nifti1Header  # of the first modality
    reference: np.ndarray | None = None  # (X, Y, Z) uint8 labels, 0 = no lesion
    files: dict[str, Path] = field(default_factory=dict)  # modality -> file

    @property
    def voxel_ml(self) -> float:
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000


def read_case(path: str | os.PathLike, modalities: list[str] | tuple[str, ...]) -> Case:
    """Read a case in the BraTS layout, or one NIfTI file when the model takes a single modality.

    Args:
        path: a folder with `<name>_<modality>.nii.gz` (or `.nii`) for every modality and, if there is one, a reference
            segmentation `<name>_seg.nii.gz`; or a file.
        modalities: those of the model, in its channel order (`pipeline.processor.modalities`).

    Raises:
        InputError: names the file that cannot be used, and why.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    if path.is_file():
        if len(modalities) != 1:
            raise InputError(
                f"{path} is one file but the model takes {', '.join(modalities)}; give the folder that holds them."
            )
        files, name, reference_file = {modalities[0]: path}, path.name.split(".nii")[0], None
    else:
        files, name = {modality: find_volume(path, modality) for modality in modalities}, path.resolve().name
        missing = [modality for modality, file in files.items() if file is None]
        if missing:
            raise InputError(
                f"{path} lacks {', '.join(missing)}: there is no file {name}_{missing[0]}.nii.gz "
                f"(the model takes {', '.join(modalities)})."
            )
        reference_file = find_volume(path, "seg")

    first, volumes = None, []
    for file in files.values():
        image, volume = read_volume(file)
        check_intensities(volume, str(file))
        first = first or image
        check_same_grid(image, file, first, next(iter(files.values())))
        volumes.append(volume)
    reference = None
    if reference_file is not None:
        image, reference = read_volume(reference_file)
        check_same_grid(image, reference_file, first, next(iter(files.values())))
        reference = reference.round().clip(0, 255).astype(np.uint8)
    return Case(name, np.stack(volumes), first.affine, first.header, reference, files)


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
