"""The preprocessing of volumes that is saved beside a Dif-fuse model's weights (thesis Secs. 3.5 and 6.5).

How a volume is cut into slices, and put together again, is in `data/axial_slices.py`; here it gets a file, the
calibrated thresholds and the manners of an image processor.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import (
    BaseImageProcessor,
    BatchFeature,
    ImageProcessingMixin,  # noqa: F401  diffusers looks for this name in the module of a component
)

from ..data.axial_slices import SliceGeometry, SliceRecipe, cut_labels
from ..data.slice_settings import LESION_PROBABILITY
from ..errors import InputError, require_choice
from ..io.hub import private_by_default

TENSORS = ("pt", "np")  # what `return_tensors` may be


@private_by_default
class DifFuseProcessor(BaseImageProcessor):
    """Turns skull-stripped MR, head CT or lung CT into the slices a Dif-fuse model was trained on, and maps back.

    Args:
        modalities, image_size, pixel_spacing_mm: as in `SliceSettings`, which says how they are used.
        reference_intensity, slice_margin, min_foreground, window_hu, optional_modalities, body_part: likewise.
        anomaly_threshold (`float`, *optional*): calibrated on validation data; a voxel above it is lesion.
        false_positive_thresholds (`dict[str, float]`, *optional*): share of healthy brain to the anomaly threshold
            that no larger share reaches, on healthy validation slices, `{"0.01": 0.08}`.
        calibrations (`dict[str, dict]`, *optional*): what was chosen on validation data for each preset, by its name,
            with a threshold of its own; see `difffuse_hf.pipelines.calibration.Calibration`.
        lesion_probability_threshold (`float`): slices that the classifier finds less suspicious are left as they are.
    """

    model_input_names = ["pixel_values"]

    def __init__(
        self,
        modalities: list[str] | tuple[str, ...] = SliceRecipe.modalities,
        image_size: list[int] | tuple[int, ...] = SliceRecipe.image_size,
        pixel_spacing_mm: float = SliceRecipe.pixel_spacing_mm,
        reference_intensity: float = SliceRecipe.reference_intensity,
        slice_margin: int = SliceRecipe.slice_margin,
        min_foreground: float = SliceRecipe.min_foreground,
        anomaly_threshold: float | None = None,
        false_positive_thresholds: dict[str, float] | None = None,
        lesion_probability_threshold: float = LESION_PROBABILITY,
        calibrations: dict[str, dict[str, Any]] | None = None,
        window_hu: list[float] | tuple[float, ...] | None = None,
        optional_modalities: list[str] | tuple[str, ...] = (),
        body_part: str = SliceRecipe.body_part,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.modalities = tuple(modalities)
        self.image_size = tuple(image_size)
        self.pixel_spacing_mm = pixel_spacing_mm
        self.reference_intensity = reference_intensity
        self.slice_margin = slice_margin
        self.min_foreground = min_foreground
        self.window_hu = None if window_hu is None else tuple(window_hu)
        self.optional_modalities = tuple(optional_modalities)
        self.body_part = body_part
        self.anomaly_threshold = anomaly_threshold
        self.false_positive_thresholds = dict(false_positive_thresholds or {})
        self.lesion_probability_threshold = lesion_probability_threshold
        self.calibrations = dict(calibrations or {})
        self.recipe  # noqa: B018  checks the values
        for threshold in (anomaly_threshold, lesion_probability_threshold, *self.false_positive_thresholds.values()):
            if threshold is not None and not math.isfinite(threshold):
                raise InputError(f"A threshold of the processor is {threshold}; calibrate the model again.")

    @property
    def recipe(self) -> SliceRecipe:
        """How slices are cut, from the attributes as they are now."""
        return SliceRecipe(
            self.modalities,
            self.image_size,
            self.pixel_spacing_mm,
            self.reference_intensity,
            self.slice_margin,
            self.min_foreground,
            self.window_hu,
            self.optional_modalities,
            self.body_part,
        )

    def threshold_for(self, false_positives: float) -> float:
        """The anomaly threshold calibrated for at most this share of healthy brain.

        Raises:
            InputError: it was not calibrated for that share.
        """
        return calibrated_threshold(self.false_positive_thresholds, false_positives)

    def preprocess(  # pyright: ignore[reportIncompatibleMethodOverride]  the base takes pictures
        self, volumes: np.ndarray, affine: np.ndarray, return_tensors: str = "pt"
    ) -> BatchFeature:
        """`processor(volumes, affine)`: `pixel_values`, all axial slices of a scan as (S, C, H, W).

        Args:
            volumes, affine: as in `preprocess_volume`.
            return_tensors (`str`): "pt" for PyTorch tensors, "np" for NumPy arrays.
        """
        require_choice("return_tensors", return_tensors, TENSORS)
        return BatchFeature({"pixel_values": self.preprocess_volume(volumes, affine)[0]}, tensor_type=return_tensors)

    def preprocess_volume(
        self, volumes: np.ndarray, affine: np.ndarray, given: Sequence[str] | None = None
    ) -> tuple[torch.Tensor, SliceGeometry]:
        """All axial slices (S, C, H, W) of a scan (K, X, Y, Z), and the way back: see `SliceRecipe.cut`.

        Raises:
            InputError: the scan is not what the recipe is for, or none of its slices is usable.
        """
        slices, geometry = self.recipe.cut(volumes, affine, given)
        self.recipe.check_usable(slices, affine)
        return slices, geometry

    def preprocess_labels(self, labels: np.ndarray, geometry: SliceGeometry) -> torch.Tensor:
        """A label volume (X, Y, Z), lesion > 0, as slices (S, H, W) of uint8: 1 where lesion fills half the pixel."""
        return cut_labels(labels, geometry)

    def restore(self, maps: torch.Tensor, geometry: SliceGeometry) -> np.ndarray:
        """Maps on all slices (S, K, H, W) on the native voxel grid: float32 (K, X, Y, Z), 0 outside the slices."""
        return geometry.to_volume(maps)

    def usable_slices(self, slices: torch.Tensor) -> torch.Tensor:
        """Indices of the slices (S, C, H, W) that the model is meant for: inside the margin and with enough brain."""
        return self.recipe.usable(slices)


def calibrated_threshold(thresholds: Mapping[str, float], share: float) -> float:
    """The anomaly threshold that at most this share of healthy brain reaches, of those calibrated: `{"0.01": 0.08}`.

    Raises:
        InputError: there is none for that share.
    """
    for known, threshold in thresholds.items():
        if float(known) == share:
            return threshold
    raise InputError(
        f"The model is not calibrated for a share of {share:g} false positives (it is for: "
        f"{', '.join(thresholds) or 'none'}); calibrate it with examples/assemble_pipeline.py --false_positives."
    )
