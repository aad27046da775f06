"""Dif-fuse (thesis Ch. 6, Algorithm 2): a healthy counterfactual of a slice and the map of what had to change.

Notation (<name> -> <name in the thesis>)
    sample -> x_t, from level K down to level 0; noise_pred -> ε_θ(x_t, t); mask -> m; noise_level -> K
    trajectory -> the x_t of the inversion (Eq. 6.9), kept
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from diffusers import DiffusionPipeline, UNet2DModel
from diffusers.utils.torch_utils import randn_tensor
from huggingface_hub import snapshot_download

from ..anomaly import anomaly_map
from ..errors import InputError
from ..hub import MODEL_FILES, check_model_folder, explain_download_errors
from ..models.modeling_autoencoder import ResNetAutoencoder
from ..models.modeling_slice_classifier import SliceClassifier
from ..models.processing_difffuse import DifFuseProcessor
from ..saliency.counterfactual import class_agnostic_saliency
from ..saliency.mask import saliency_to_mask
from ..schedulers.scheduling_difffuse import DifFuseScheduler
from .pipeline_output import CounterfactualOutput
from .presets import choose_settings


class DifFusePipeline(DiffusionPipeline):
    """Repaint what a classifier finds suspicious as healthy tissue, and keep the rest.

    Args:
        unet (`UNet2DModel`): noise predictor trained on healthy slices in [-1, 1].
        scheduler (`DifFuseScheduler`): its noise schedule.
        classifier, autoencoder (*optional*): make the saliency map when the call brings neither saliency nor mask.
        processor (`DifFuseProcessor`, *optional*): how scans become slices for this model.
        noise_level (`int`): K, the level from which the tissue is repainted.
        percentile (`float`): τ, of the saliency map.
        percentile_over (`str`): `"image"`, or `"foreground"` to leave out pixels that are 0 in all channels.
        anomaly_channels (`list[int]`, *optional*): channels of the anomaly map, all by default.
        morphology_size (`int`): square of the map's opening and closing, in pixels.
        saliency_options (`dict`, *optional*): arguments of `class_agnostic_saliency`.
        preset (`str`): a name in `PRESETS`.
    """

    model_cpu_offload_seq = "classifier->autoencoder->unet"
    _optional_components = ["classifier", "autoencoder", "processor"]
    _callback_tensor_inputs = ["sample", "noise_pred", "mask"]

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: DifFuseScheduler,
        classifier: SliceClassifier | None = None,
        autoencoder: ResNetAutoencoder | None = None,
        processor: DifFuseProcessor | None = None,
        noise_level: int = 500,
        percentile: float = 90.0,
        percentile_over: str = "image",
        anomaly_channels: list[int] | None = None,
        morphology_size: int = 5,
        saliency_options: dict | None = None,
        preset: str = "exact",
    ):
        super().__init__()
        self.register_modules(
            unet=unet, scheduler=scheduler, classifier=classifier, autoencoder=autoencoder, processor=processor
        )
        self.register_to_config(  # saved with the model: the defaults of the call
            noise_level=noise_level,
            percentile=percentile,
            percentile_over=percentile_over,
            anomaly_channels=anomaly_channels,
            morphology_size=morphology_size,
            saliency_options=saliency_options,
            preset=preset,
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """Load a pipeline from a folder or the Hub, in float32 unless `dtype` says otherwise."""
        check_model_folder(pretrained_model_name_or_path, passed=kwargs)
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
        return folder

    @torch.no_grad()
    def __call__(
        self,
        image: torch.Tensor | np.ndarray,
        saliency: torch.Tensor | np.ndarray | None = None,
        mask: torch.Tensor | np.ndarray | None = None,
        noise_level: int | None = None,
        num_inference_steps: int | None = None,
        percentile: float | None = None,
        num_samples: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        preset: str | None = None,
        output_type: str = "pt",
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] = ("sample",),
        background: str | None = None,
        picture_steps: int | None = None,
        mask_reading: str | None = None,
        percentile_over: str | None = None,
        unet_batch_size: int = 32,
        offload_trajectory: bool = False,
    ) -> CounterfactualOutput:
        """Make a healthy counterfactual of each slice and the anomaly map between the two.

        Arguments left at None take the model's own setting (`pipe.config`), then the preset's.

        Args:
            image (`torch.Tensor` of shape `(B, C, H, W)`): x_0 in [0, 1].
            saliency (`torch.Tensor` of shape `(B, 1, H, W)`, *optional*): in place of the pipeline's own.
            mask (`torch.Tensor` of shape `(B, 1, H, W)`, *optional*): 1 where tissue is repainted; has precedence.
            noise_level (`int`, *optional*): K, the level from which the tissue is repainted.
            num_inference_steps (`int`, *optional*): steps of the inversion, and as many back.
            percentile (`float`, *optional*): τ, 0–100.
            num_samples (`int`, *optional*): counterfactuals per image; they share one inversion.
            generator (*optional*): one `torch.Generator`, or one per image; then an image's result does not depend on
                the batch it is in.
            preset (`str`, *optional*): a name in `PRESETS`.
            output_type (`str`): `"pt"` or `"np"`, both channels first.
            callback_on_step_end (*optional*): `f(pipe, step, timestep, tensors) -> tensors` after each reverse step; a
                returned `"sample"` or `"mask"` replaces the pipeline's.
            background, picture_steps, mask_reading (*optional*): see `Preset`; `picture_steps=0` makes no extra chain.
            percentile_over (`str`, *optional*): `"image"` or `"foreground"`.
            unet_batch_size (`int`): most images, counting samples, in one network call. More are slower on a CPU; a
                large GPU may take more.
            offload_trajectory (`bool`): keep the inversion in the host's memory and in half precision.

        Returns:
            `CounterfactualOutput`: the counterfactual is the picture chain's if there is one, else the first sample.
        """
        # 1. Settings and inputs
        overrides = {
            "background": background,
            "num_inference_steps": num_inference_steps,
            "num_samples": num_samples,
            "picture_steps": picture_steps,
            "mask_reading": mask_reading,
        }
        settings = choose_settings(preset or self.config.preset, overrides)
        noise_level = self.config.noise_level if noise_level is None else noise_level
        percentile = self.config.percentile if percentile is None else percentile
        percentile_over = percentile_over or self.config.percentile_over
        if percentile_over not in ("image", "foreground"):
            raise InputError(f"`percentile_over` must be 'image' or 'foreground', got {percentile_over!r}.")
        device = self._execution_device
        image = self.check_image(image).to(device)  # (B, C, H, W)
        generators = self._generators(generator, len(image))

        # 2. Where to repaint: the mask as given, or the most salient pixels
        if saliency is not None:
            saliency = self._check_map("saliency", saliency, image).to(device)
        elif mask is None:
            saliency = self.make_saliency(image)
        if mask is not None:
            mask = self._check_map("mask", mask, image).to(device)
            if mask.min() < 0 or mask.max() > 1:
                raise InputError(f"`mask` must lie in [0, 1], got {mask.min():.3g} to {mask.max():.3g}.")
        else:
            foreground = (image > 0).any(dim=1, keepdim=True) if percentile_over == "foreground" else None
            # (B, 1, H, W)
            mask = saliency_to_mask(saliency, percentile, reading=settings.mask_reading, foreground=foreground)

        # 3. Invert once, through every level that a chain will come back to; then repaint
        chains = [settings]
        if settings.picture_steps:
            picture_steps = min(settings.picture_steps, noise_level)
            chains.append(replace(settings, num_inference_steps=picture_steps, num_samples=1))
        schedules = [self._schedule(chain, noise_level) for chain in chains]  # (scheduler, levels up, levels down)
        up = sorted({level for _, levels, _ in schedules for level in levels})
        with self.progress_bar(total=len(up) - 1 + sum(len(down) - 1 for _, _, down in schedules)) as bar:
            keep_all = settings.background == "trajectory"
            trajectory = self._invert(image, schedules[0][0], up, keep_all, offload_trajectory, unet_batch_size, bar)
            results = [
                self._repaint(
                    image,
                    trajectory,
                    mask,
                    chain,
                    scheduler,
                    down,
                    generators,
                    unet_batch_size,
                    callback_on_step_end,
                    callback_on_step_end_tensor_inputs,
                    bar,
                )
                for chain, (scheduler, _, down) in zip(chains, schedules)
            ]
        samples, reference = results[0]  # (B, N, C, H, W), (B, C, H, W)
        counterfactuals = results[-1][0][:, 0]

        # 4. What changed: the mean of the samples finds more than any one of them
        anomaly_maps = anomaly_map(
            reference, samples.mean(dim=1), self.config.anomaly_channels, self.config.morphology_size
        )  # (B, 1, H, W)
        uncertainty = samples.std(dim=1).mean(dim=1, keepdim=True) if samples.shape[1] > 1 else None

        self.maybe_free_model_hooks()
        outputs = (counterfactuals, anomaly_maps, mask, saliency, uncertainty)
        if output_type == "np":
            outputs = [None if value is None else value.cpu().numpy() for value in outputs]
        return CounterfactualOutput(*outputs)

    def make_saliency(self, image: torch.Tensor) -> torch.Tensor:
        """Class-agnostic saliency of the pipeline's own classifier and autoencoder, `(B, 1, H, W)` in [0, 1]."""
        if self.classifier is None or self.autoencoder is None:
            raise InputError("This model has no classifier and autoencoder of its own: pass `saliency` or `mask`.")
        image = image.to(self.autoencoder.dtype)
        with torch.enable_grad():  # the call is under no_grad, and saliency needs gradients
            saliency = class_agnostic_saliency(
                self.classifier, self.autoencoder, image, **(self.config.saliency_options or {})
            )
        return saliency.detach().float()

    def _invert(self, image, scheduler, up, keep_all, offload, unet_batch_size, bar):
        """x_0 to x_K along the levels `up` (Eq. 6.9); {level: x_level}, of all levels or of the last one only."""
        sample = 2 * image - 1
        trajectory = {up[0]: sample}
        for level, target in pairwise(up):
            noise_pred = self._predict_noise(sample, level, unet_batch_size)
            sample = scheduler.invert_step(noise_pred, level, target, sample)
            trajectory = trajectory if keep_all else {}
            trajectory[target] = sample.to("cpu", torch.float16) if offload else sample
            bar.update()
        return trajectory

    def _repaint(
        self,
        image,
        trajectory,
        mask,
        settings,
        scheduler,
        down,
        generators,
        unet_batch_size,
        callback,
        callback_inputs,
        bar,
    ):
        """x_K to x_0 along the levels `down` (Eq. 6.10), `settings.num_samples` times for each image.

        Returns:
            The counterfactuals, `(B, N, C, H, W)`, and what they are compared with, `(B, C, H, W)`; both in [0, 1].
        """
        num_samples = settings.num_samples

        def per_sample(tensor):  # (B, ...) -> (B·N, ...), the samples of an image side by side
            return tensor.repeat_interleave(num_samples, dim=0)

        reconstruction = trajectory[max(trajectory)].to(image)
        sample, mask = per_sample(reconstruction), per_sample(mask)  # (B·N, C, H, W), (B·N, 1, H, W)
        generators = [g for g in generators for _ in range(num_samples)] if type(generators) is list else generators
        for step, (level, target) in enumerate(pairwise(down)):
            noise_pred = self._predict_noise(sample, level, unet_batch_size)
            noise = randn_tensor(sample.shape, generators, sample.device, sample.dtype)
            background = None  # the DDIM branch of Eq. 6.10
            if settings.background == "trajectory":
                background = per_sample(trajectory[target].to(sample))
            elif settings.background == "reconstruction":
                second_pred = self._predict_noise(reconstruction, level, unet_batch_size)
                reconstruction = scheduler.step(second_pred, level, target, reconstruction)
                background = per_sample(reconstruction)
            sample = scheduler.fused_step(noise_pred, level, target, sample, mask, noise, background)
            if callback is not None:
                tensors = {"sample": sample, "noise_pred": noise_pred, "mask": mask}
                tensors = {name: tensors[name] for name in callback_inputs}
                changed = callback(self, step, scheduler.timestep_of(level), tensors)
                sample, mask = changed.get("sample", sample), changed.get("mask", mask)
            bar.update()

        counterfactuals = (sample / 2 + 0.5).clamp(0, 1)
        if settings.background == "trajectory":  # free of the rounding of [0, 1] -> [-1, 1] -> [0, 1]
            counterfactuals = torch.where(mask > 0, counterfactuals, per_sample(image))
        reference = (reconstruction / 2 + 0.5).clamp(0, 1) if settings.background == "reconstruction" else image
        return counterfactuals.unflatten(0, (len(image), num_samples)), reference

    def _schedule(self, settings, noise_level):
        """The scheduler and the levels to go through, up from the image and down to it."""
        scheduler = self.scheduler
        scheduler.set_timesteps(settings.num_inference_steps, noise_level)
        down = scheduler.levels
        up = down[::-1]
        if settings.author_chain:
            # The author's code takes the image for x_2, goes one level beyond K, and takes what it finds for x_{K-1}.
            scheduler = DifFuseScheduler.from_config(scheduler.config, clip_sample=True, variance_type="fixed_large")
            beyond = min(2 * down[0] - down[1], len(scheduler))
            up, down = [*up[2:], beyond], down[1:]
        return scheduler, up, down

    def _predict_noise(self, sample, level, batch_size=32):
        """ε_θ(x_t, t) in the sample's own precision."""
        timestep = torch.full((1,), self.scheduler.timestep_of(level), device=sample.device)
        parts = sample.to(self.unet.dtype).split(batch_size)
        return torch.cat([self.unet(part, timestep).sample for part in parts]).to(sample.dtype)

    @staticmethod
    def _generators(generator, batch_size):
        """One generator per image where there can be one, so that a batch of one is like any other batch."""
        if isinstance(generator, torch.Generator) and batch_size == 1:
            return [generator]
        if isinstance(generator, list) and len(generator) != batch_size:
            raise InputError(f"`generator` holds {len(generator)} generators for {batch_size} images; give one each.")
        return generator

    def check_image(self, image: torch.Tensor | np.ndarray) -> torch.Tensor:
        """The slices as float32, or an `InputError` that says what is wrong with them."""
        image = torch.as_tensor(image)
        channels = self.unet.config.in_channels
        if image.ndim != 4:
            raise InputError(f"`image` must have the shape (B, C, H, W), got {tuple(image.shape)}.")
        if image.shape[1] != channels:
            modalities = getattr(self.processor, "modalities", None)
            remedy = f"; stack {', '.join(modalities)} on dim 1." if modalities else "."
            raise InputError(f"`image` has {image.shape[1]} channels but the U-Net takes {channels}{remedy}")
        multiple = 2 ** (len(self.unet.config.block_out_channels) - 1)
        if image.shape[2] % multiple or image.shape[3] % multiple:
            raise InputError(
                f"`image` is {image.shape[2]} x {image.shape[3]} pixels but the U-Net takes multiples of {multiple}; "
                "pad it with zeros."
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
    def _check_map(name, values, image):
        values = torch.as_tensor(values).float()
        expected = (len(image), 1, *image.shape[2:])
        if values.shape != expected:
            raise InputError(f"`{name}` must have the shape {expected} to fit `image`, got {tuple(values.shape)}.")
        if not values.isfinite().all():
            raise InputError(f"`{name}` has pixels that are NaN or infinite.")
        return values
