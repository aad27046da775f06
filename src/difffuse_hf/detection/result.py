"""What detection found in a scan, on the scan's own voxel grid, and its NIfTI files."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..evaluation.segmentation import dice
from ..io.case import Case
from ..io.files import check_output, write_into
from ..io.nifti import write_volume

MAPS = {"anomaly": np.float32, "lesion": np.uint8, "saliency": np.float32, "mask": np.uint8}  # voxel type of each file


@dataclass
class ModelSlices:
    """What the model saw and made: the S' usable slices of a scan, from the feet up, in [0, 1]."""

    indices: torch.Tensor  # (S',), of the axial slices of the scan
    image: torch.Tensor  # (S', C, H, W), of the modalities that there are, as the next two
    counterfactual: torch.Tensor  # (S', C, H, W), the mean of the samples that the map is taken against
    pictures: torch.Tensor  # (S', C, H, W), the counterfactuals to look at; those above where none was made
    mask: torch.Tensor  # (S', 1, H, W), where tissue was repainted
    anomaly: torch.Tensor  # (S', 1, H, W), 0 where no lesion can be
    saliency: torch.Tensor | None = None  # (S', 1, H, W)
    reference: torch.Tensor | None = None  # (S', 1, H, W), 1 in the lesion; None without a reference


@dataclass
class DetectionResult:
    """What `detect_volume` found, on the voxel grid of the case; `slices` holds what the model saw and made."""

    case: Case
    counterfactual: np.ndarray  # (C, X, Y, Z) float32, native intensities; the input itself where mask is 0
    anomaly: np.ndarray  # (X, Y, Z) float32, share of the model's intensity range
    lesion: np.ndarray  # (X, Y, Z) uint8, anomaly at or above the calibrated threshold
    saliency: np.ndarray  # (X, Y, Z) float32 in [0, 1]
    mask: np.ndarray  # (X, Y, Z) uint8, where tissue was repainted
    tissue: np.ndarray  # (X, Y, Z) bool, where a lesion can be: the brain, all inside the skull, or the body
    lesion_probability: np.ndarray  # (S,) of each axial slice, inferior to superior; 0 for slices not looked at
    slices: ModelSlices
    parameters: dict[str, Any]  # everything that decides the result

    @property
    def lesion_ml(self) -> float:
        """Volume of the lesion in millilitres."""
        return float(np.count_nonzero(self.lesion)) * self.case.voxel_ml

    @property
    def dice(self) -> float | None:
        """Dice of the lesion against the whole tumour (reference > 0), None without a reference."""
        if self.case.reference is None:
            return None
        return dice(torch.from_numpy(self.lesion)[None], torch.from_numpy(self.case.reference)[None]).item()

    def save(self, folder: str | os.PathLike) -> list[Path]:
        """Write the volumes as NIfTI files with the geometry of the input; nobody finds half a file there.

        Counterfactuals get the voxel type of their input file, maps are float32, masks uint8.

        Returns:
            the files, in the order of their names.

        Raises:
            InputError: the folder cannot be written to.
        """
        folder, start = check_output(folder), self.case.name
        headers = self.case.headers

        def write(temporary: Path):
            for (modality, header), volume in zip(headers.items(), self.counterfactual):
                file = temporary / f"{start}_counterfactual_{modality}.nii.gz"
                write_volume(file, volume, header, header.get_data_dtype())
            for name, dtype in MAPS.items():
                write_volume(temporary / f"{start}_{name}.nii.gz", getattr(self, name), self.case.header, dtype)

        write_into(folder, write)
        return [folder / file for file in result_files(start, headers)]


def result_files(name: str, modalities: Iterable[str]) -> list[str]:
    """Names of the NIfTI files of a case, in their order."""
    ends = [*(f"counterfactual_{modality}" for modality in modalities), *MAPS]
    return sorted(f"{name}_{end}.nii.gz" for end in ends)
