"""What all pipelines that make a healthy counterfactual share: loading, input, noise, the way up and the way back.

Notation (<name> -> <name in the thesis>)
    image -> x_0 in [0, 1]; sample -> x_t, which starts from 2 x_0 − 1; noise_pred -> ε_θ(x_t, t); noise_level -> K
"""

import importlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor
from huggingface_hub import snapshot_download

from ..errors import InputError
from ..io.hub import MODEL_FILES, check_model_folder, explain_download_errors
from .pipeline_output import CounterfactualOutput


class CounterfactualPipeline(DiffusionPipeline):
    """Base of `pipe(image, ...) -> CounterfactualOutput`; a subclass registers `unet`, `scheduler` and `processor`."""

    model_cpu_offload_seq = "unet"
    _optional_components = ["processor"]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """Load a pipeline from a folder or the Hub, in float32 unless `dtype` says otherwise."""
        check_model_folder(pretrained_model_name_or_path, passed=kwargs)
        import_our_components(pretrained_model_name_or_path)
        if "torch_dtype" not in kwargs:
            kwargs.setdefault("dtype", torch.float32)
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def download(cls, pretrained_model_name, **kwargs):
        """Fetch a whole repository: diffusers' own `download` looks for our classes as code files in it."""
        names = ("cache_dir", "force_download", "token", "revision", "local_files_only")
        options = {name: kwargs[name] for name in names if kwargs.get(name) is not None}
        with explain_download_errors(pretrained_model_name):
            folder = snapshot_download(pretrained_model_name, allow_patterns=MODEL_FILES, **options)
        check_model_folder(folder, passed=kwargs)
        import_our_components(folder)
        return folder

    def setting(self, name: str, value):
        """An argument of the call, or the model's own value of it where the call leaves it at None."""
        return self.config[name] if value is None else value

    def what_images_must_fit(self) -> tuple[str, int, int]:
        """Name of the network that sees the image, its channels, and what height and width are multiples of."""
        return "U-Net", self.unet.config.in_channels, 2 ** (len(self.unet.config.block_out_channels) - 1)

    def check_image(self, image: torch.Tensor | np.ndarray) -> torch.Tensor:
        """The slices as float32, or an `InputError` that says what is wrong with them."""
        image = torch.as_tensor(image)
        network, channels, multiple = self.what_images_must_fit()
        if image.ndim != 4 or 0 in image.shape:
            raise InputError(f"`image` must have the shape (B, C, H, W), got {tuple(image.shape)}.")
        if image.shape[1] != channels:
            modalities = getattr(self.processor, "modalities", None)
            remedy = f"; stack {', '.join(modalities)} on dim 1." if modalities else "."
            raise InputError(f"`image` has {image.shape[1]} channels but the {network} takes {channels}{remedy}")
        if image.shape[2] % multiple or image.shape[3] % multiple:
            raise InputError(
                f"`image` is {image.shape[2]} x {image.shape[3]} pixels but the {network} takes multiples of "
                f"{multiple}; pad it with zeros."
            )
        image = image.float()
        if not image.isfinite().all():
            raise InputError("`image` has voxels that are NaN or infinite; replace them before the slices are scaled.")
        if image.min() < 0 or image.max() > 1:
            raise InputError(
                f"`image` must lie in [0, 1], got {image.min():.3g} to {image.max():.3g}; "
                "scale it as the model's training slices were (see `DifFuseProcessor`)."
            )
        return image

    @staticmethod
    def check_generators(generator, batch_size: int):
        """One generator per image where there can be one, so that a batch of one is like any other batch."""
        if isinstance(generator, torch.Generator) and batch_size == 1:
            return [generator]
        if isinstance(generator, list) and len(generator) != batch_size:
            raise InputError(f"`generator` holds {len(generator)} generators for {batch_size} images; give one each.")
        return generator

    def begin(self, image, generator, unet_batch_size: int, shared_noise: bool):
        """The checked image, and `predict(sample, level)` and `draw(sample, level)` of the noise, for one call."""
        image = self.check_image(image).to(self._execution_device)
        generators = self.check_generators(generator, len(image))
        predict = partial(self.predict_noise, batch_size=unet_batch_size)
        draw = partial(self.draw_noise, generators=generators, shared_by=len(image) if shared_noise else 1)
        return image, predict, draw

    def predict_noise(
        self, sample: torch.Tensor, level: int, batch_size: int = 32, class_labels: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """ε_θ(x_t, t) in the sample's own precision, and the fraction v of a learned variance or None.

        Args:
            sample (`torch.Tensor` of shape `(B, C, H, W)`): x_t.
            level (`int`): its noise level.
            batch_size (`int`): most images in one network call.
            class_labels (`torch.Tensor` of shape `(B,)`, *optional*): of a class-conditional U-Net.
        """
        timestep = torch.full((1,), self.scheduler.timestep_of(level), device=sample.device)
        parts = sample.to(self.unet.dtype).split(batch_size)
        if class_labels is None:
            outputs = [self.unet(part, timestep).sample for part in parts]
        else:
            labels = class_labels.split(batch_size)
            outputs = [self.unet(part, timestep, class_labels=some).sample for part, some in zip(parts, labels)]
        return self.scheduler.read_prediction(torch.cat(outputs).to(sample.dtype), level, sample)

    def draw_noise(self, sample: torch.Tensor, level: int, generators, shared_by: int = 1) -> torch.Tensor:
        """Gaussian noise z like `sample`, at any level; with `shared_by` B, the B images have the first one's."""
        shape = (len(sample) // shared_by, *sample.shape[1:])
        generators = generators[: shape[0]] if isinstance(generators, list) else generators
        return randn_tensor(shape, generators, sample.device, sample.dtype).repeat(shared_by, 1, 1, 1)

    def invert(self, sample: torch.Tensor, levels: Sequence[int], predict: Callable, bar) -> torch.Tensor:
        """Up along `levels` by DDIM inversion (Eq. 6.9); `predict(sample, level)` as `predict_noise`."""
        for level, target in pairwise(levels):
            noise_pred, _ = predict(sample, level)
            sample = self.scheduler.invert_step(noise_pred, level, target, sample)
            bar.update()
        return sample

    def denoise(
        self, sample: torch.Tensor, levels: Sequence[int], predict: Callable, bar, draw: Callable | None = None
    ) -> torch.Tensor:
        """Down along `levels`: by DDPM (Eq. 6.7) with noise from `draw(sample, level)`, else by DDIM (Eq. 6.8)."""
        eta = 0.0 if draw is None else 1.0
        for level, target in pairwise(levels):
            noise_pred, variance_fraction = predict(sample, level)
            noise = None if draw is None else draw(sample, level)
            sample = self.scheduler.step(noise_pred, level, target, sample, eta, noise, variance_fraction)
            bar.update()
        return sample

    def inpaint(
        self,
        sample: torch.Tensor,
        image: torch.Tensor,
        mask: torch.Tensor,
        levels: Sequence[int],
        predict: Callable,
        draw: Callable,
        bar,
    ) -> torch.Tensor:
        """Along `levels`: they fall by DDPM steps inside the mask and rise by fresh noise (Lugmayr 2022, Alg. 1).

        Outside the mask x_t is drawn from q(x_t | x_0) at every step, with the noise of the step inside: no pixel of a
        binary mask sees both.

        Args:
            sample (`torch.Tensor` of shape `(B, C, H, W)`): x_t at the first level.
            image (`torch.Tensor` of shape `(B, C, H, W)`): 2 x_0 − 1, known outside the mask.
            mask (`torch.Tensor` of shape `(B, 1, H, W)`): 1 where tissue is repainted.
        """
        for level, target in pairwise(levels):
            noise = draw(sample, level)
            if target > level:
                sample = self.scheduler.diffuse(sample, level, target, noise)
            else:
                noise_pred, variance_fraction = predict(sample, level)
                known = self.scheduler.diffuse(image, 0, target, noise)
                sample = self.scheduler.fused_step(
                    noise_pred, level, target, sample, mask, noise, known, variance_fraction
                )
            bar.update()
        return sample

    def make_output(
        self, output_type: str, counterfactuals, anomaly_maps, masks, saliency=None, uncertainty=None, agreement=None
    ) -> CounterfactualOutput:
        """The results as tensors, or as arrays with `output_type` `"np"`; ends the call."""
        self.maybe_free_model_hooks()
        outputs = (counterfactuals, anomaly_maps, masks, saliency, uncertainty, agreement)
        if output_type == "np":
            outputs = [None if value is None else value.cpu().numpy() for value in outputs]
        return CounterfactualOutput(*outputs)


def to_unit_range(sample: torch.Tensor) -> torch.Tensor:
    """From the [-1, 1] of the diffusion process to the [0, 1] of images."""
    return (sample / 2 + 0.5).clamp(0, 1)


def import_our_components(folder: str | Path) -> None:
    """Import the modules of ours that a saved pipeline names; diffusers finds classes in loaded modules only."""
    index = Path(folder) / "model_index.json"
    if not index.is_file():
        return
    for value in json.loads(index.read_text(encoding="utf-8")).values():
        module = value[0] if isinstance(value, list) and value else None
        if isinstance(module, str) and module.startswith(f"{__package__.partition('.')[0]}."):
            importlib.import_module(module)
