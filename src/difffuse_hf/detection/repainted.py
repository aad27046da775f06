"""A scan through the networks: classified, looked at, repainted; what `detect_volume` makes its result of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from ..io.case import Case
from ..models.processing_difffuse import SliceGeometry
from ..pipelines.calibration import Calibration, ScanRule
from ..pipelines.pipeline_difffuse import DifFusePipeline
from .pieces import salient_pieces
from .slices import Made, ScanSlices, Tell, find_suspicious


@dataclass
class Repainted:
    """What the networks made of a scan, on the model's S slices."""

    scan: ScanSlices
    geometry: SliceGeometry  # from the slices back to the scan's grid
    channels: list[int]  # of the modalities that there are
    usable: torch.Tensor  # indices of the slices that count
    probability: torch.Tensor  # (S,), of a lesion
    suspicious: torch.Tensor  # indices of the slices that were repainted
    drawn: torch.Tensor  # indices of those whose mask was drawn by hand
    made: Made

    def anomaly_in_pieces(self, rule: ScanRule) -> torch.Tensor:
        """The anomaly map (S, 1, H, W) in those pieces that the rule counts; what was drawn by hand is kept (see
        `salient_pieces`)."""
        if not rule.peak_saliency and not rule.peak_anomaly:
            return self.made.anomaly
        salient = (self.made.saliency >= rule.peak_saliency) & (self.made.anomaly >= rule.peak_anomaly)
        salient[self.drawn] = True
        return torch.from_numpy(salient_pieces(self.made.anomaly[:, 0].numpy(), salient[:, 0].numpy()))[:, None]

    def threshold(self, anomaly: torch.Tensor, rule: ScanRule, otherwise: float) -> float:
        """From where on an anomaly map (S, 1, H, W) is lesion: the rule's share of its highest value in the tissue, or
        `otherwise` for a rule or a map without one. What was drawn by hand does not move it, if there is more."""
        assert self.scan.pipeline.processor is not None  # there are slices
        tissue = self.scan.pipeline.processor.preprocess_labels(self.geometry.tissue, self.geometry)[:, None]
        found = anomaly * tissue
        by_model = found.clone()
        by_model[self.drawn] = 0
        peak = float((by_model if by_model.any() else found).max())
        return rule.peak_share * peak or otherwise

    def restore(self, one: torch.Tensor) -> np.ndarray:
        """A map (S, 1, H, W) on the scan's grid (X, Y, Z), 0 outside of where a lesion can be."""
        processor = self.scan.pipeline.processor
        assert processor is not None  # there are slices
        return processor.restore(one, self.geometry)[0] * self.geometry.tissue


@torch.no_grad()
def repaint_volume(
    pipeline: DifFusePipeline,
    case: Case,
    preset: str | None = None,
    batch_size: int = 8,
    seed: int = 0,
    all_slices: bool = False,
    progress: bool | Tell = True,
    slice_smoothing_sigma: float | None = None,
    masks: Mapping[int, np.ndarray] | None = None,
    **call_arguments: Any,
) -> Repainted:
    """The classifier on every usable slice, Dif-fuse on the suspicious ones; arguments as of `detect_volume`.

    Raises:
        InputError: the scan is not what the model takes.
    """
    plan, processor = pipeline.calibration(preset), pipeline.processor
    if processor is None:
        raise InputError("The model has no processor, so its modalities and slice size are not known.")
    given = list(case.files) or list(processor.modalities)
    channels = channels_given(pipeline, plan, given)
    slices, geometry = processor.preprocess_volume(case.volumes, case.affine, given)  # (S, C, H, W)
    usable = processor.usable_slices(slices)
    scan = ScanSlices(pipeline, slices, plan, batch_size, seed, progress)
    probability = scan.classify(usable)  # (S,)
    rule, least = plan.scan or ScanRule(), processor.lesion_probability_threshold
    suspicious = usable if all_slices else find_suspicious(probability, usable, least, rule.neighbour_probability)
    scan.shared_noise = slice_smoothing_sigma is not None
    if scan.shared_noise or rule.smoothing_mm or rule.together:
        sigma = rule.smoothing_mm / geometry.step_mm(case.affine)
        sigma = sigma if slice_smoothing_sigma is None else slice_smoothing_sigma
        scan.look_through(suspicious, sigma, rule.together, call_arguments.get("percentile"))
    drawn = checked(masks or {}, usable, slices)
    suspicious = torch.cat([suspicious, drawn]).unique()
    made = scan.repaint(suspicious, {"preset": preset, **call_arguments}, masks)
    return Repainted(scan, geometry, channels, usable, probability, suspicious, drawn, made)


def checked(masks: Mapping[int, np.ndarray], usable: torch.Tensor, slices: torch.Tensor) -> torch.Tensor:
    """The indices of the slices that masks were drawn on.

    Raises:
        InputError: one is of a slice that the model does not use, or does not lie on the model's pixels.
    """
    drawn = torch.tensor(sorted(masks), dtype=torch.long)
    if not torch.isin(drawn, usable).all():
        raise InputError(f"`masks` has slices that the model does not use; it uses {usable.tolist()}.")
    for index, mask in masks.items():
        if mask.shape != slices.shape[2:]:
            raise InputError(f"The mask of slice {index} has the shape {mask.shape}; slices are {slices.shape[2:]}.")
    return drawn


def channels_given(pipeline: DifFusePipeline, plan: Calibration, given: Sequence[str]) -> list[int]:
    """The channels of the modalities of a scan.

    Raises:
        InputError: one is missing on which the anomaly map is made, or that the model cannot do without.
    """
    assert pipeline.processor is not None  # checked before
    channels = pipeline.processor.recipe.channels_of(given)
    of_map = plan.recipe.channels if plan.recipe else pipeline.config["anomaly_channels"] or channels
    if missing := [pipeline.processor.modalities[one] for one in of_map if one not in channels]:
        raise InputError(f"The model's anomaly map is made on {', '.join(missing)}, which the scan lacks.")
    return channels
