"""A whole scan through the pipeline: a case in, a result on the same voxel grid out.

slices ─ classifier ─ suspicious slices ─ Dif-fuse ─ counterfactual, anomaly, mask ─ back on the scan's grid
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from ..errors import InputError, require_choice
from ..io.case import Case
from ..models.processing_difffuse import DifFuseProcessor, SliceGeometry
from ..pipelines.calibration import Calibration, ScanRule
from ..pipelines.pipeline_difffuse import DifFusePipeline
from .repainted import repaint_volume
from .result import DetectionResult, ModelSlices
from .shown import choose_slices
from .slices import Made, Tell
from .workers import give_back_memory

COUNTERFACTUALS = ("shown", "all")
NUM_SHOWN = 5  # slices in a report


@torch.no_grad()
def detect_volume(
    pipeline: DifFusePipeline,
    case: Case,
    preset: str | None = None,
    batch_size: int = 8,
    seed: int = 0,
    all_slices: bool = False,
    progress: bool | Tell = True,
    slice_smoothing_sigma: float | None = None,
    anomaly_threshold: float | None = None,
    false_positives: float | None = None,
    counterfactuals: str = "shown",
    num_shown: int = NUM_SHOWN,
    masks: Mapping[int, np.ndarray] | None = None,
    **call_arguments: Any,
) -> DetectionResult:
    """Find the lesions of a scan: classifier on every usable slice, Dif-fuse on the suspicious ones.

    Args:
        pipeline (`DifFusePipeline`): with classifier, autoencoder and a processor that holds a calibrated threshold.
        case (`Case`): see `read_case`.
        preset (`str`, *optional*): of the pipeline; its own by default.
        batch_size (`int`): slices at a time, fewer where their trajectories would take more than `TRAJECTORY_BYTES`.
            Memory and speed only: every slice draws from its own generator.
        seed (`int`): with the slice's index, the seed of that generator.
        all_slices (`bool`): repaint every usable slice, whatever the classifier says.
        progress (`bool` or `Tell`): show progress bars, or be told of each batch; see `ScanSlices`.
        slice_smoothing_sigma (`float`, *optional*): volume-consistent mode, beyond the thesis: saliency is smoothed by
            a Gaussian of so many slices, and all slices share their noise, so that the counterfactual flickers less
            from slice to slice (see `flicker`). Has precedence over what the model was calibrated to (`ScanRule`).
        anomaly_threshold (`float`, *optional*): of the anomaly map, from where on it is lesion; by default the one
            that the model was calibrated to, or the scan's own if it was calibrated to that (`ScanRule.peak_share`).
        false_positives (`float`, *optional*): in its place, a share of healthy brain that the model is calibrated for.
        counterfactuals (`str`): of which slices a counterfactual is made for the eye, if the preset has a chain for
            it: `"shown"`, the `num_shown` slices worth showing, or `"all"` that are repainted. The others have the
            mean of the samples that the map is taken against, which is smoother; so has the volume, unless `"all"`.
        num_shown (`int`): how many slices are worth showing at most.
        masks (`dict[int, np.ndarray]`, *optional*): by the index of an axial slice, where it is repainted: (H, W) on
            the model's pixels, 0 to 1; whatever the classifier says of it. The other slices go as without.
        call_arguments: further arguments of the pipeline's call (`percentile`, `noise_level`, ...).

    Raises:
        InputError: the scan is not what the model takes, or the model lacks what detection needs.
    """
    require_choice("counterfactuals", counterfactuals, COUNTERFACTUALS)
    plan = pipeline.calibration(preset)
    if false_positives is not None and anomaly_threshold is None:
        anomaly_threshold = plan.threshold_for(false_positives)
    processor, threshold = _check_model(pipeline, plan.threshold if anomaly_threshold is None else anomaly_threshold)
    rule = plan.scan or ScanRule()
    repainted = repaint_volume(
        pipeline, case, preset, batch_size, seed, all_slices, progress, slice_smoothing_sigma, masks, **call_arguments
    )
    geometry, usable, channels = repainted.geometry, repainted.usable, repainted.channels
    made, slices = repainted.made, repainted.scan.slices
    every, made.anomaly = made.anomaly, repainted.anomaly_in_pieces(rule)
    if anomaly_threshold is None:
        threshold = repainted.threshold(made.anomaly, rule, threshold)

    reference = _reference_slices(processor, case, geometry)
    found = made.anomaly * processor.preprocess_labels(geometry.tissue, geometry)[:, None]  # as it will be restored
    pictures = made.counterfactual
    if plan.settings.display_steps and call_arguments.get("display_steps") != 0:
        worth = repainted.suspicious
        if counterfactuals != "all":
            worth = _worth_showing(found, reference, usable, repainted.suspicious, num_shown)
        pictures = repainted.scan.picture(worth, made, call_arguments, threshold)
        if counterfactuals == "all":
            made.counterfactual = pictures

    give_back_memory()
    brain = geometry.tissue
    anomaly, saliency, blend = (repainted.restore(one) for one in (made.anomaly, made.saliency, made.mask))
    lesion = (anomaly >= threshold) & brain
    uncounted = 0 if every is made.anomaly else np.count_nonzero((repainted.restore(every) >= threshold) & ~lesion)
    return DetectionResult(
        case=case,
        counterfactual=_compose(case.volumes, (made.counterfactual - slices)[:, channels], blend, geometry),
        anomaly=anomaly,
        lesion=lesion.astype(np.uint8),
        saliency=saliency,
        mask=(blend > 0).astype(np.uint8),
        tissue=brain,
        lesion_probability=repainted.probability.numpy(),
        slices=_usable_only(slices, made, found, pictures, reference, usable, channels),
        parameters={
            **_parameters(pipeline, plan),
            "modalities": [processor.modalities[channel] for channel in channels],
            **call_arguments,
            "preset": preset or pipeline.config.get("preset"),
            "counterfactuals": counterfactuals,
            "seed": seed,
            "batch_size": batch_size,
            "all_slices": all_slices,
            "slice_smoothing_sigma": slice_smoothing_sigma,
            "anomaly_threshold": threshold,
            "repainted_slices": repainted.suspicious.tolist(),
            "uncounted_ml": round(uncounted * case.voxel_ml, 3),
            **({"drawn_masks": sorted(masks)} if masks else {}),
        },
    )


def _check_model(pipeline: DifFusePipeline, threshold: float | None) -> tuple[DifFuseProcessor, float]:
    """The processor and the threshold of a model that can detect."""
    if pipeline.processor is None or threshold is None or pipeline.classifier is None:
        raise InputError(
            "The model cannot detect: it needs a classifier and a processor with `anomaly_threshold`, "
            "chosen on validation data and saved with the weights."
        )
    if not np.isfinite([threshold, pipeline.processor.lesion_probability_threshold]).all():
        raise InputError(f"The anomaly threshold is {threshold:g}, above which nothing lies; give a finite one.")
    return pipeline.processor, threshold


def _parameters(pipeline: DifFusePipeline, plan: Calibration) -> dict[str, Any]:
    """What the model and its calibration decide."""
    processor, recipe = pipeline.processor, plan.recipe
    assert processor is not None  # checked before
    settings = {k: v for k, v in pipeline.config.items() if not k.startswith("_") and k not in pipeline.components}
    return {
        **settings,
        **asdict(plan.settings),
        "noise_level": plan.noise_level,
        "percentile": plan.percentile,
        "anomaly_map": "thesis" if recipe is None else recipe.to_dict(),
        "anomaly_shows": None if recipe is None else recipe.in_words(processor.modalities),
        "calibrated": plan.chosen_by or None,
        "slices_together": None if plan.scan is None else asdict(plan.scan),
        "unet_dtype": str(pipeline.unet.dtype).removeprefix("torch."),
        "image_size": list(processor.image_size),
        "pixel_spacing_mm": processor.pixel_spacing_mm,
        "slice_margin": processor.slice_margin,
        "min_foreground": processor.min_foreground,
        "window_hu": None if processor.window_hu is None else list(processor.window_hu),
        "body_part": processor.body_part,
        "lesion_probability_threshold": processor.lesion_probability_threshold,
    }


def _worth_showing(
    anomaly: torch.Tensor, reference: torch.Tensor | None, usable: torch.Tensor, repainted: torch.Tensor, count: int
) -> torch.Tensor:
    """Indices of the slices that a report shows, but for those that were not repainted."""
    drawn = None if reference is None else reference[usable, 0].numpy()
    seen = torch.isin(usable, repainted)
    chosen = choose_slices(anomaly[usable, 0].numpy(), drawn, seen.numpy(), count)
    chosen = torch.tensor(chosen, dtype=torch.long)
    return usable[chosen[seen[chosen]]]


def _compose(volumes: np.ndarray, change: torch.Tensor, blend: np.ndarray, geometry: SliceGeometry) -> np.ndarray:
    """The counterfactual in native intensities: the change of slices (S, C, H, W) where they were repainted, with
    soft edges.

    The model sees intensities up to 1; brighter voxels start from there, or what was clipped would stay as a ghost.
    """
    counterfactual = np.empty_like(volumes)
    scales = zip(geometry.intensity_scale, geometry.intensity_offset)
    for index, (volume, (scale, offset)) in enumerate(zip(volumes, scales)):  # one at a time: memory
        made = geometry.to_volume(change[:, index, None])[0]
        made /= scale
        made += np.minimum(volume, (1 - offset) / scale)
        made -= volume
        made *= blend
        made += volume
        darkest = np.minimum(volume, -offset / scale)  # what is as dark as the model can show, or darker already
        np.maximum(made, darkest, out=made)
        counterfactual[index] = volume
        np.copyto(counterfactual[index], made, where=blend > 0)
    return counterfactual


def _reference_slices(processor: DifFuseProcessor, case: Case, geometry: SliceGeometry) -> torch.Tensor | None:
    """The reference on the model's slices (S, 1, H, W), if there is one."""
    return None if case.reference is None else processor.preprocess_labels(case.reference, geometry)[:, None].float()


def _usable_only(
    slices: torch.Tensor,
    made: Made,
    anomaly: torch.Tensor,
    pictures: torch.Tensor,
    reference: torch.Tensor | None,
    usable: torch.Tensor,
    channels: list[int],
) -> ModelSlices:
    return ModelSlices(
        indices=usable,
        image=slices[usable][:, channels],
        counterfactual=made.counterfactual[usable][:, channels],
        pictures=pictures[usable][:, channels],
        mask=made.mask[usable],
        anomaly=anomaly[usable],
        saliency=made.saliency[usable],
        reference=None if reference is None else reference[usable],
    )
