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
from diffusers import UNet2DModel

from ..models.modeling_autoencoder import ResNetAutoencoder
from ..models.modeling_slice_classifier import SliceClassifier
from ..models.processing_difffuse import DifFuseProcessor
from ..schedulers.scheduling_difffuse import DifFuseScheduler
from .anomaly_map import anomaly_map
from .pipeline_base import to_unit_range
from .pipeline_masked import MaskedPipeline
from .pipeline_output import CounterfactualOutput
from .presets import choose_settings


class DifFusePipeline(MaskedPipeline):
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
        saliency_options (`dict`, *optional*): arguments of `class_agnostic_saliency`, or of another saliency function
            that its entry `"method"` names, such as `{"method": "grad_cam"}`.
        preset (`str`): a name in `PRESETS`.
    """

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
        shared_noise: bool = False,
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
            shared_noise (`bool`): the same noise for all images, drawn from the first generator, so that neighbouring
                slices of a scan are repainted alike (see also `smooth_through_slices`).

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
        noise_level = self.setting("noise_level", noise_level)
        image = self.check_image(image).to(self._execution_device)  # (B, C, H, W)
        generators = self.check_generators(generator, len(image))

        # 2. Where to repaint: the mask as given, or the most salient pixels
        mask, saliency = self.choose_mask(image, saliency, mask, percentile, percentile_over, settings.mask_reading)

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
                    shared_noise,
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
        def map_of(made):  # (B, 1, H, W)
            return anomaly_map(reference, made, self.config.anomaly_channels, self.config.morphology_size)

        anomaly_maps = map_of(samples.mean(dim=1))
        uncertainty = samples.std(dim=1).mean(dim=1, keepdim=True) if samples.shape[1] > 1 else None
        threshold, agreement = getattr(self.processor, "anomaly_threshold", None), None
        if uncertainty is not None and threshold is not None:
            agreement = torch.stack([map_of(made) >= threshold for made in samples.unbind(1)]).float().mean(0)

        return self.make_output(output_type, counterfactuals, anomaly_maps, mask, saliency, uncertainty, agreement)

    def _invert(self, image, scheduler, up, keep_all, offload, unet_batch_size, bar):
        """x_0 to x_K along the levels `up` (Eq. 6.9); {level: x_level}, of all levels or of the last one only."""
        sample = 2 * image - 1
        trajectory = {up[0]: sample}
        for level, target in pairwise(up):
            noise_pred, _ = self.predict_noise(sample, level, unet_batch_size)
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
        shared_noise,
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
            noise_pred, variance_fraction = self.predict_noise(sample, level, unet_batch_size)
            noise = self.draw_noise(sample, level, generators, shared_by=len(image) if shared_noise else 1)
            background = None  # the DDIM branch of Eq. 6.10
            if settings.background == "trajectory":
                background = per_sample(trajectory[target].to(sample))
            elif settings.background == "reconstruction":
                second_pred, _ = self.predict_noise(reconstruction, level, unet_batch_size)
                reconstruction = scheduler.step(second_pred, level, target, reconstruction)
                background = per_sample(reconstruction)
            here = torch.ones_like(mask) if settings.background == "late" else mask
            sample = scheduler.fused_step(
                noise_pred, level, target, sample, here, noise, background, variance_fraction
            )
            if callback is not None:
                tensors = {"sample": sample, "noise_pred": noise_pred, "mask": mask}
                tensors = {name: tensors[name] for name in callback_inputs}
                changed = callback(self, step, scheduler.timestep_of(level), tensors)
                sample, mask = changed.get("sample", sample), changed.get("mask", mask)
            bar.update()

        counterfactuals = to_unit_range(sample)
        if settings.background == "late":
            counterfactuals = mask * counterfactuals + (1 - mask) * per_sample(image)
        if settings.background == "trajectory":  # free of the rounding of [0, 1] -> [-1, 1] -> [0, 1]
            counterfactuals = torch.where(mask > 0, counterfactuals, per_sample(image))
        reference = to_unit_range(reconstruction) if settings.background == "reconstruction" else image
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
