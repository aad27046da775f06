"""AnoDDPM (Wyatt et al. 2022): partial diffusion with simplex noise, there and back, without a mask."""

import numpy as np
import torch
from diffusers import UNet2DModel

from ..models.processing_difffuse import DifFuseProcessor
from ..schedulers.scheduling_difffuse import DifFuseScheduler
from ..schedulers.simplex import simplex_noise
from .anomaly_map import anomaly_map
from .pipeline_base import CounterfactualPipeline, to_unit_range
from .pipeline_output import CounterfactualOutput


class AnoDDPMPipeline(CounterfactualPipeline):
    """Noise an image with simplex noise up to level K and denoise it with simplex noise.

    Args:
        unet (`UNet2DModel`): noise predictor trained on healthy slices in [-1, 1] with `simplex_noise`.
        scheduler (`DifFuseScheduler`): its noise schedule. AnoDDPM's own has `variance_type="fixed_large"` and
            `clip_sample=True`.
        processor (`DifFuseProcessor`, *optional*): how scans become slices for this model.
        noise_level (`int`): K, 100 in the thesis and 200 in the paper.
        octaves (`int`), persistence (`float`), wavelength (`float`): of the noise, see `simplex_noise`.
        anomaly_channels, morphology_size: of the anomaly map, which the paper neither opens nor closes.
    """

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: DifFuseScheduler,
        processor: DifFuseProcessor | None = None,
        noise_level: int = 100,
        octaves: int = 6,
        persistence: float = 0.8,
        wavelength: float = 64.0,
        anomaly_channels: list[int] | None = None,
        morphology_size: int = 1,
    ):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, processor=processor)
        self.register_to_config(
            noise_level=noise_level,
            octaves=octaves,
            persistence=persistence,
            wavelength=wavelength,
            anomaly_channels=anomaly_channels,
            morphology_size=morphology_size,
        )

    def draw_noise(self, sample: torch.Tensor, level: int, generators, shared_by: int = 1) -> torch.Tensor:
        """Simplex noise like `sample` with the level's timestep as third coordinate, in place of Gaussian noise."""
        shape = (len(sample) // shared_by, *sample.shape[1:])
        noise = simplex_noise(
            shape,
            self.scheduler.timestep_of(level),
            generators[: shape[0]] if isinstance(generators, list) else generators,
            self.config.octaves,
            self.config.persistence,
            self.config.wavelength,
            device=sample.device,
            dtype=sample.dtype,
        )
        return noise.repeat(shared_by, 1, 1, 1)

    @torch.no_grad()
    def __call__(
        self,
        image: torch.Tensor | np.ndarray,
        noise_level: int | None = None,
        num_inference_steps: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pt",
        unet_batch_size: int = 32,
        shared_noise: bool = False,
    ) -> CounterfactualOutput:
        """Make a healthy counterfactual of each slice and the map (x_0 − x̂_0)², with both in [-1, 1].

        The published threshold on the map is 0.5.

        Args:
            image (`torch.Tensor` of shape `(B, C, H, W)`): x_0 in [0, 1].
            noise_level (`int`, *optional*): K, the model's own by default.
            num_inference_steps (`int`, *optional*): steps back; every level by default.
            generator (*optional*): one `torch.Generator`, or one per image.
            output_type (`str`): `"pt"` or `"np"`, both channels first.
            unet_batch_size (`int`): most images in one network call.
            shared_noise (`bool`): the same noise for all images, drawn from the first generator.

        Returns:
            `CounterfactualOutput`: anomaly maps in [0, 4], masks of ones.
        """
        image, predict, draw = self.begin(image, generator, unet_batch_size, shared_noise)
        self.scheduler.set_timesteps(num_inference_steps, self.setting("noise_level", noise_level))
        levels = self.scheduler.levels  # K … 0
        clean = 2 * image - 1
        sample = self.scheduler.diffuse(clean, 0, levels[0], draw(clean, levels[0]))
        with self.progress_bar(total=len(levels) - 1) as bar:
            sample = self.denoise(sample, levels, predict, bar, draw)
        counterfactuals = to_unit_range(sample)
        maps = anomaly_map(
            clean,
            2 * counterfactuals - 1,
            self.config.anomaly_channels,
            self.config.morphology_size,
            difference="squared",
        )
        return self.make_output(output_type, counterfactuals, maps, torch.ones_like(image[:, :1]))
