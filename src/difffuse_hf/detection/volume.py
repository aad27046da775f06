"""A whole scan through the pipeline: NIfTI in, NIfTI out, on the grid of the input."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import torch
from rich.progress import track

from ..errors import InputError
from ..evaluation.segmentation import dice
from ..io.case import Case, check_intensities, read_case  # noqa: F401
from ..io.nifti import check_same_grid, find_volume, read_volume  # noqa: F401
from ..saliency.mask import smooth_through_slices


@dataclass
class DetectionResult:
    """What `detect_volume` found, on the voxel grid of the case; `slices` holds what the model saw and made."""

    case: Case
    counterfactual: np.ndarray  # (C, X, Y, Z) float32, native intensities; the input itself where mask is 0
    anomaly: np.ndarray  # (X, Y, Z) float32, share of the model's intensity range
    lesion: np.ndarray  # (X, Y, Z) uint8, anomaly at or above the calibrated threshold
    saliency: np.ndarray  # (X, Y, Z) float32 in [0, 1]
    mask: np.ndarray  # (X, Y, Z) uint8, where tissue was repainted
    lesion_probability: np.ndarray  # (S,) of each axial slice, inferior to superior; 0 for slices not looked at
    slices: dict[str, torch.Tensor | None]  # usable slices: image, counterfactual (S', C, H, W); saliency, mask,
    # anomaly, reference (S', 1, H, W), the last None without a reference; indices (S',)
    parameters: dict  # everything that decides the result

    @property
    def lesion_ml(self) -> float:
        return float(np.count_nonzero(self.lesion)) * self.case.voxel_ml

    @property
    def dice(self) -> float | None:
        """Dice of the lesion against the whole tumour (reference > 0), None without a reference."""
        if self.case.reference is None:
            return None
        return dice(torch.from_numpy(self.lesion)[None], torch.from_numpy(self.case.reference)[None]).item()

    def save(self, folder: str | os.PathLike) -> list[Path]:
        """Write the volumes as NIfTI files with the geometry of the input; all of them appear at once, or none."""
        folder = check_output(folder)
        inputs = {modality: nibabel.load(file) for modality, file in self.case.files.items()}
        maps = {"anomaly": np.float32, "lesion": np.uint8, "saliency": np.float32, "mask": np.uint8}
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            start = Path(temporary, self.case.name)
            for (modality, image), volume in zip(inputs.items(), self.counterfactual):
                _write(volume, image.header, _own_type(image), f"{start}_counterfactual_{modality}.nii.gz")
            for name, dtype in maps.items():
                _write(getattr(self, name), self.case.header, dtype, f"{start}_{name}.nii.gz")
            folder.mkdir(exist_ok=True)
            written = sorted(Path(temporary).iterdir())
            for file in written:
                file.replace(folder / file.name)
        return [folder / file.name for file in written]


@torch.no_grad()
def detect_volume(
    pipeline,
    case: Case,
    preset: str | None = None,
    batch_size: int = 16,
    seed: int = 0,
    all_slices: bool = False,
    progress: bool = True,
    through_slices: float | None = None,
    **call_arguments,
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
        through_slices (`float`, *optional*): volume-consistent mode, beyond the thesis: saliency is smoothed by a
            Gaussian of so many slices, and all slices share their noise, so that the counterfactual flickers less from
            slice to slice (see `flicker`).
        call_arguments: further arguments of the pipeline's call (`percentile`, `noise_level`, ...).

    Raises:
        InputError: the scan is not what the model takes, or the model lacks what detection needs.
    """
    processor = pipeline.processor
    if processor is None or processor.anomaly_threshold is None or pipeline.classifier is None:
        raise InputError(
            "The model cannot detect: it needs a classifier and a processor with `anomaly_threshold`, "
            "chosen on validation data and saved with the weights."
        )
    slices, geometry = processor.preprocess_volume(case.volumes, case.affine)
    usable = processor.usable_slices(slices)
    probability = torch.zeros(len(slices))
    for index in track(_batches(usable, batch_size), "Classifying slices", disable=not progress):
        images = slices[index].to(pipeline.device, pipeline.classifier.dtype)
        probability[index] = pipeline.classifier(images).logits.float().softmax(dim=1)[:, 1].cpu()
    suspicious = usable if all_slices else usable[probability[usable] >= processor.lesion_probability_threshold]

    counterfactual = slices.clone()
    anomaly, mask, saliency = (torch.zeros_like(slices[:, :1]) for _ in range(3))  # (S, 1, H, W)
    pipeline.set_progress_bar_config(disable=True)
    consistent = through_slices is not None
    if consistent:
        for index in track(_batches(suspicious, batch_size), "Looking at slices", disable=not progress):
            saliency[index] = pipeline.make_saliency(slices[index].to(pipeline.device)).cpu()
        smooth = smooth_through_slices(saliency, through_slices)
    for index in track(_batches(suspicious, batch_size), "Making counterfactuals", disable=not progress):
        generators = [_generator(seed, 0 if consistent else i) for i in index.tolist()]
        given = {"saliency": smooth[index]} if consistent else {}
        output = pipeline(
            slices[index].to(pipeline.device),
            generator=generators,
            preset=preset,
            output_type="pt",
            **given,
            **call_arguments,
        )
        counterfactual[index] = output.counterfactuals.float().cpu()
        anomaly[index] = output.anomaly_maps.float().cpu()
        mask[index] = output.masks.float().cpu()
        if output.saliency is not None:
            saliency[index] = output.saliency.float().cpu()

    brain = (case.volumes > 0).any(axis=0)
    native_anomaly, native_saliency, blend = (
        processor.restore(torch.cat([anomaly, saliency, mask], dim=1), geometry) * brain
    )
    reference = (
        None if case.reference is None else processor.preprocess_labels(case.reference, geometry)[:, None].float()
    )
    stacks = {
        "image": slices,
        "counterfactual": counterfactual,
        "saliency": saliency,
        "mask": mask,
        "anomaly": anomaly,
    }
    return DetectionResult(
        case=case,
        counterfactual=_compose(case.volumes, processor.restore(counterfactual - slices, geometry), blend, geometry),
        anomaly=native_anomaly,
        lesion=(native_anomaly >= processor.anomaly_threshold).astype(np.uint8) * brain,
        saliency=native_saliency,
        mask=(blend > 0).astype(np.uint8),
        lesion_probability=probability.numpy(),
        slices={
            **{name: stack[usable] for name, stack in stacks.items()},
            "reference": None if reference is None else reference[usable],
            "indices": usable,
        },
        parameters={
            **{k: v for k, v in pipeline.config.items() if not k.startswith("_") and k not in pipeline.components},
            **call_arguments,
            "preset": preset or pipeline.config.get("preset"),
            "unet_dtype": str(pipeline.unet.dtype).removeprefix("torch."),
            "seed": seed,
            "batch_size": batch_size,
            "all_slices": all_slices,
            "through_slices": through_slices,
            "modalities": list(processor.modalities),
            "image_size": list(processor.image_size),
            "pixel_spacing_mm": processor.pixel_spacing_mm,
            "anomaly_threshold": processor.anomaly_threshold,
            "lesion_probability_threshold": processor.lesion_probability_threshold,
            "repainted_slices": suspicious.tolist(),
        },
    )


def check_output(folder: str | os.PathLike) -> Path:
    """The folder as a path, if files can be written there; raises `InputError` otherwise and creates nothing."""
    folder = Path(folder)
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return folder
    except OSError as error:
        raise InputError(f"{folder} cannot be written to ({error.strerror}); choose another output folder.") from error


def _compose(volumes, change, blend, geometry):
    """The counterfactual in native intensities: the model's change added where it repainted, with soft edges.

    The model sees intensities up to 1; brighter voxels start from there, or what was clipped would stay as a ghost.
    """
    scale = geometry.intensity_scale[:, None, None, None]
    repainted = np.minimum(volumes, 1 / scale) + change / scale
    return np.where(blend > 0, np.maximum(volumes + blend * (repainted - volumes), 0), volumes).astype(np.float32)


def _batches(indices, size):
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def _generator(seed, index):
    """One stream of random numbers per slice, the same on every device and for every batch size."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, index]).generate_state(1)[0]))


def _own_type(image):
    """The file's integer type if it holds plain integers, else float32."""
    plain = image.get_data_dtype().kind in "iu" and (image.dataobj.slope, image.dataobj.inter) == (1, 0)
    return image.get_data_dtype() if plain else np.dtype(np.float32)


def _write(volume, header, dtype, file):
    header = header.copy()
    header.set_data_dtype(dtype)
    header["cal_min"] = header["cal_max"] = 0  # a display window of other intensities
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        volume = np.rint(volume).clip(limits.min, limits.max)
    nibabel.save(nibabel.Nifti1Image(volume.astype(dtype), None, header), file)
