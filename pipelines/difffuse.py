"""Dif-fuse as a custom pipeline: one file, no package but diffusers, on the noise schedule of any stock scheduler.

    pipe = DiffusionPipeline.from_pretrained(
        "user/healthy-slices", custom_pipeline="pipelines/difffuse.py", trust_remote_code=True
    )
    out = pipe(image, mask=mask, generator=torch.Generator().manual_seed(0))
    out.counterfactuals, out.anomaly_maps

"user/healthy-slices" is a repository of an unconditional `DDPMPipeline` (or `DDIMPipeline`) whose U-Net predicts the
noise of healthy slices in [-1, 1]. Method: A. Fontanella (Edinburgh 2024), Ch. 6. A research tool, not a medical
device.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor


@dataclass
class DifFuseOutput(BaseOutput):
    """`counterfactuals` (B, C, H, W) in [0, 1]; `anomaly_maps` (B, 1, H, W), change of intensity."""

    counterfactuals: torch.Tensor
    anomaly_maps: torch.Tensor


class DifFuseCustomPipeline(DiffusionPipeline):
    """Invert a slice with DDIM, then repaint it with DDPM inside a mask and keep the inversion's x_t outside it.

    Args:
        unet (`UNet2DModel`): noise predictor of healthy slices in [-1, 1].
        scheduler: any stock scheduler with `alphas_cumprod` and `prediction_type="epsilon"`; only its schedule is
            used, for no stock scheduler steps between the levels 0 ... K of a DDIM inversion.
    """

    model_cpu_offload_seq = "unet"

    def __init__(self, unet, scheduler):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        if scheduler.config.get("prediction_type", "epsilon") != "epsilon":
            raise ValueError(f"The U-Net must predict the noise, not {scheduler.config.prediction_type!r}.")

    @torch.no_grad()
    def __call__(
        self,
        image: torch.Tensor,
        mask: torch.Tensor,
        noise_level: int = 500,
        num_inference_steps: int | None = None,
        num_samples: int = 1,
        morphology_size: int = 5,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> DifFuseOutput:
        """Make a healthy counterfactual of each slice.

        Args:
            image (`torch.Tensor` of shape `(B, C, H, W)`): in [0, 1].
            mask (`torch.Tensor` of shape `(B, 1, H, W)`): 1 where tissue is repainted, 0 where it is kept.
            noise_level (`int`): K, the level to invert to.
            num_inference_steps (`int`, *optional*): steps up, and as many down; every level by default.
            num_samples (`int`): counterfactuals a slice; the map is taken against their mean, the first is returned.
            morphology_size (`int`): odd side of the square of the map's opening and closing, in pixels.
            generator (*optional*): one, or one for each image.
        """
        if image.ndim != 4 or image.shape[1] != self.unet.config.in_channels:
            raise ValueError(
                f"`image` must be (B, {self.unet.config.in_channels}, H, W) for this U-Net, got {tuple(image.shape)}."
            )
        if image.min() < 0 or image.max() > 1:
            raise ValueError(f"`image` must lie in [0, 1], got {image.min():.3g} to {image.max():.3g}.")
        if mask.shape != image[:, :1].shape:
            raise ValueError(f"`mask` must have the shape {tuple(image[:, :1].shape)}, got {tuple(mask.shape)}.")
        steps = num_inference_steps or noise_level
        if not 1 <= steps <= noise_level <= len(self.scheduler.alphas_cumprod):
            raise ValueError(f"`num_inference_steps` {steps} and `noise_level` {noise_level} do not fit the schedule.")
        device = self._execution_device
        image, mask = image.to(device, torch.float32), mask.to(device, torch.float32)
        down = [round(noise_level * i / steps) for i in range(steps, -1, -1)]  # K ... 0

        with self.progress_bar(total=2 * steps) as bar:
            trajectory = {0: 2 * image - 1}
            for level, target in pairwise(down[::-1]):  # Eq. 6.9
                sample = trajectory[level]
                trajectory[target] = self.step(self.predict_noise(sample, level), level, target, sample)
                bar.update()

            def per_sample(tensor):  # the samples of an image side by side
                return tensor.repeat_interleave(num_samples, dim=0)

            sample, repaint = per_sample(trajectory[noise_level]), per_sample(mask)
            several = isinstance(generator, list)
            generators = [one for one in generator for _ in range(num_samples)] if several else generator
            for level, target in pairwise(down):  # Eq. 6.10
                noise_pred = self.predict_noise(sample, level)
                noise = randn_tensor(sample.shape, generators, sample.device, sample.dtype)
                inside = self.step(noise_pred, level, target, sample, noise)
                sample = repaint * inside + (1 - repaint) * per_sample(trajectory[target])
                bar.update()

        made = torch.where(repaint > 0, (sample / 2 + 0.5).clamp(0, 1), per_sample(image))
        made = made.unflatten(0, (len(image), num_samples))  # (B, N, C, H, W)
        change = (image - made.mean(1)).abs().mean(1, keepdim=True)
        opened = dilate(-dilate(-change, morphology_size), morphology_size)
        closed = -dilate(-dilate(opened, morphology_size), morphology_size)
        self.maybe_free_model_hooks()
        return DifFuseOutput(made[:, 0], closed)

    def alpha_bar(self, level: int) -> float:
        """ᾱ of a level; level 0 is the clean image, level j the U-Net's timestep j - 1."""
        return 1.0 if level == 0 else float(self.scheduler.alphas_cumprod[level - 1].double())

    def predict_noise(self, sample: torch.Tensor, level: int) -> torch.Tensor:
        """ε_θ(x_t, t); the clean image is asked for at timestep 0."""
        return self.unet(sample.to(self.unet.dtype), max(level - 1, 0)).sample.to(sample.dtype)

    def step(self, noise_pred, level: int, target: int, sample, noise=None) -> torch.Tensor:
        """From one level to another (Eq. 6.8): DDIM without noise, DDPM (Eq. 6.7) with it."""
        now, then = self.alpha_bar(level), self.alpha_bar(target)
        original = (sample - (1 - now) ** 0.5 * noise_pred) / now**0.5
        variance = 0.0 if noise is None else (1 - then) / (1 - now) * (1 - now / then)
        stepped = then**0.5 * original + (1 - then - variance) ** 0.5 * noise_pred
        return stepped if noise is None or target == 0 else stepped + variance**0.5 * noise


def dilate(image: torch.Tensor, size: int) -> torch.Tensor:
    """Maximum over a square of `size` pixels."""
    return F.max_pool2d(image, size, stride=1, padding=size // 2)
