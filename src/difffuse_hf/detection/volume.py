"""A whole scan through the pipeline: a case in, a result on the same voxel grid out.

slices ─ classifier ─ suspicious slices ─ Dif-fuse ─ counterfactual, anomaly, mask ─ back on the scan's grid
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.progress import track

from ..errors import InputError
from ..io.case import Case
from ..models.processing_difffuse import DifFuseProcessor, SliceGeometry
from ..pipelines.pipeline_difffuse import DifFusePipeline
from ..saliency.mask import smooth_through_slices
from .result import DetectionResult, ModelSlices


@torch.no_grad()
def detect_volume(
    pipeline: DifFusePipeline,
    case: Case,
    preset: str | None = None,
    batch_size: int = 16,
    seed: int = 0,
    all_slices: bool = False,
    progress: bool = True,
    slice_smoothing_sigma: float | None = None,
    anomaly_threshold: float | None = None,
    **call_arguments: Any,
) -> DetectionResult:
    """Find the lesions of a scan: classifier on every usable slice, Dif-fuse on the suspicious ones.

    Args:
        pipeline (`DifFusePipeline`): with classifier, autoencoder and a processor that holds a calibrated threshold.
        case (`Case`): see `read_case`.
        preset (`str`, *optional*): of the pipeline; its own by default.
        batch_size (`int`): slices at a time. Memory and speed only: every slice draws from its own generator.
        seed (`int`): with the slice's index, the seed of that generator.
        all_slices (`bool`): repaint every usable slice, whatever the classifier says.
        progress (`bool`): show progress bars.
        slice_smoothing_sigma (`float`, *optional*): volume-consistent mode, beyond the thesis: saliency is smoothed by
            a Gaussian of so many slices, and all slices share their noise, so that the counterfactual flickers less
            from slice to slice (see `flicker`).
        anomaly_threshold (`float`, *optional*): of the anomaly map, from where on it is lesion; the processor's
            calibrated one by default.
        call_arguments: further arguments of the pipeline's call (`percentile`, `noise_level`, ...).

    Raises:
        InputError: the scan is not what the model takes, or the model lacks what detection needs.
    """
    processor, threshold = _check_model(pipeline, anomaly_threshold)
    slices, geometry = processor.preprocess_volume(case.volumes, case.affine)  # (S, C, H, W)
    usable = processor.usable_slices(slices)
    probability = _classify(pipeline, slices, usable, batch_size, progress)  # (S,)
    suspicious = usable if all_slices else usable[probability[usable] >= processor.lesion_probability_threshold]
    smoothed = None
    if slice_smoothing_sigma is not None:
        looked_at = _look(pipeline, slices, suspicious, batch_size, progress)
        smoothed = smooth_through_slices(looked_at, slice_smoothing_sigma)
    call = {"preset": preset, **call_arguments}
    made = _repaint(pipeline, slices, suspicious, batch_size, seed, smoothed, progress, call)

    brain = (case.volumes > 0).any(axis=0)
    maps = torch.cat([made.anomaly, made.saliency, made.mask], dim=1)
    anomaly, saliency, blend = processor.restore(maps, geometry) * brain
    return DetectionResult(
        case=case,
        counterfactual=_compose(
            case.volumes, processor.restore(made.counterfactual - slices, geometry), blend, geometry
        ),
        anomaly=anomaly,
        lesion=(anomaly >= threshold).astype(np.uint8) * brain,
        saliency=saliency,
        mask=(blend > 0).astype(np.uint8),
        lesion_probability=probability.numpy(),
        slices=_usable_only(slices, made, _reference_slices(processor, case, geometry), usable),
        parameters={
            **{k: v for k, v in pipeline.config.items() if not k.startswith("_") and k not in pipeline.components},
            **call_arguments,
            "preset": preset or pipeline.config.get("preset"),
            "unet_dtype": str(pipeline.unet.dtype).removeprefix("torch."),
            "seed": seed,
            "batch_size": batch_size,
            "all_slices": all_slices,
            "slice_smoothing_sigma": slice_smoothing_sigma,
            "modalities": list(processor.modalities),
            "image_size": list(processor.image_size),
            "pixel_spacing_mm": processor.pixel_spacing_mm,
            "anomaly_threshold": threshold,
            "lesion_probability_threshold": processor.lesion_probability_threshold,
            "repainted_slices": suspicious.tolist(),
        },
    )


@dataclass
class _Made:
    """What Dif-fuse makes of all S slices of a scan; slices that are not repainted stay as they are."""

    counterfactual: torch.Tensor  # (S, C, H, W)
    anomaly: torch.Tensor  # (S, 1, H, W), as the next two
    mask: torch.Tensor
    saliency: torch.Tensor


def _check_model(pipeline: DifFusePipeline, threshold: float | None) -> tuple[DifFuseProcessor, float]:
    """The processor and the threshold of a model that can detect."""
    processor = pipeline.processor
    if processor is not None and threshold is None:
        threshold = processor.anomaly_threshold
    if processor is None or threshold is None or pipeline.classifier is None:
        raise InputError(
            "The model cannot detect: it needs a classifier and a processor with `anomaly_threshold`, "
            "chosen on validation data and saved with the weights."
        )
    return processor, threshold


def _classify(pipeline, slices, usable, batch_size, progress) -> torch.Tensor:
    """Probability of a lesion in each axial slice (S,), 0 for those that are not usable."""
    probability = torch.zeros(len(slices))
    for index in _track_batches(usable, batch_size, "Classifying slices", progress):
        images = slices[index].to(pipeline.device, pipeline.classifier.dtype)
        probability[index] = pipeline.classifier(images).logits.float().softmax(dim=1)[:, 1].cpu()
    return probability


def _look(pipeline, slices, suspicious, batch_size, progress) -> torch.Tensor:
    """Saliency of the suspicious slices (S, 1, H, W), 0 in the others."""
    saliency = torch.zeros_like(slices[:, :1])
    for index in _track_batches(suspicious, batch_size, "Looking at slices", progress):
        saliency[index] = pipeline.make_saliency(slices[index].to(pipeline.device)).cpu()
    return saliency


def _repaint(pipeline, slices, suspicious, batch_size, seed, saliency, progress, call) -> _Made:
    """Dif-fuse on the suspicious slices; with given saliency (S, 1, H, W) all of them share their noise."""
    made = _Made(slices.clone(), *(torch.zeros_like(slices[:, :1]) for _ in range(3)))
    with _without_progress_bar(pipeline):
        for index in _track_batches(suspicious, batch_size, "Making counterfactuals", progress):
            given = {} if saliency is None else {"saliency": saliency[index]}
            output = pipeline(
                slices[index].to(pipeline.device),
                generator=[_generator(seed, i if saliency is None else 0) for i in index.tolist()],
                output_type="pt",
                **given,
                **call,
            )
            made.counterfactual[index] = output.counterfactuals.float().cpu()
            made.anomaly[index] = output.anomaly_maps.float().cpu()
            made.mask[index] = output.masks.float().cpu()
            if output.saliency is not None:
                made.saliency[index] = output.saliency.float().cpu()
    return made


def _compose(volumes: np.ndarray, change: np.ndarray, blend: np.ndarray, geometry: SliceGeometry) -> np.ndarray:
    """The counterfactual in native intensities: the model's change added where it repainted, with soft edges.

    The model sees intensities up to 1; brighter voxels start from there, or what was clipped would stay as a ghost.
    """
    scale = geometry.intensity_scale[:, None, None, None]
    repainted = np.minimum(volumes, 1 / scale) + change / scale
    return np.where(blend > 0, np.maximum(volumes + blend * (repainted - volumes), 0), volumes).astype(np.float32)


def _reference_slices(processor: DifFuseProcessor, case: Case, geometry: SliceGeometry) -> torch.Tensor | None:
    """The reference on the model's slices (S, 1, H, W), if there is one."""
    return None if case.reference is None else processor.preprocess_labels(case.reference, geometry)[:, None].float()


def _usable_only(slices: torch.Tensor, made: _Made, reference: torch.Tensor | None, usable) -> ModelSlices:
    return ModelSlices(
        indices=usable,
        image=slices[usable],
        counterfactual=made.counterfactual[usable],
        mask=made.mask[usable],
        anomaly=made.anomaly[usable],
        saliency=made.saliency[usable],
        reference=None if reference is None else reference[usable],
    )


def _track_batches(indices: torch.Tensor, size: int, doing: str, progress: bool) -> Iterable[torch.Tensor]:
    batches: Sequence[torch.Tensor] = [indices[start : start + size] for start in range(0, len(indices), size)]
    return track(batches, doing, disable=not progress)


@contextmanager
def _without_progress_bar(pipeline: DifFusePipeline) -> Iterator[None]:
    """The pipeline's own bar, of one chain, is switched off in here; it is the caller's to choose elsewhere."""
    before = getattr(pipeline, "_progress_bar_config", {})  # diffusers has no public way to ask
    pipeline.set_progress_bar_config(**{**before, "disable": True})
    try:
        yield
    finally:
        pipeline.set_progress_bar_config(**before)


def _generator(seed: int, index: int) -> torch.Generator:
    """One stream of random numbers per slice, the same on every device and for every batch size."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, index]).generate_state(1)[0]))
