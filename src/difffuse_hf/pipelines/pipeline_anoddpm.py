"""AnoDDPM (Wyatt et al. 2022): partial diffusion with simplex noise, there and back, without a mask."""

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from typing_extensions import Unpack

from ..models.processing_difffuse import DifFuseProcessor
from ..schedulers.scheduling_difffuse import DifFuseScheduler, Predictor
from ..schedulers.simplex import simplex_noise
from .anomaly_map import anomaly_map
from .pipeline_base import CounterfactualPipeline, declared, to_unit_range
from .pipeline_output import CounterfactualOutput
from .sampling import Generators, Images, SamplingKeywords, SamplingOptions


class AnoDDPMPipeline(CounterfactualPipeline):
    """Noise an image with simplex noise up to level K and denoise it with simplex noise.

    Args:
        unet (`UNet2DModel`): noise predictor trained on healthy slices in [-1, 1] with `simplex_noise`.
        scheduler (`DifFuseScheduler`): its noise schedule. AnoDDPM's own has `variance_type="fixed_large"`, and its
            predicted x_0 is not clipped (`clip_sample=False`, as by default here).
        processor (`DifFuseProcessor`, *optional*): how scans become slices for this model.
        noise_level (`int`): K, 100 in the thesis and 200 in the paper.
        octaves (`int`), persistence (`float`), wavelength (`float`): of the noise, see `simplex_noise`.
        anomaly_channels, morphology_size: of the anomaly map, which the paper neither opens nor closes.
        clamp_sample (`bool`): x_t in [-1, 1] where x̂_0 is computed of it, as in the public code, of which the paper
            says nothing: x̂_0 = (clamp(x_t) − √(1 − ᾱ_t) ε_θ(x_t, t)) / √ᾱ_t. The step down stays that of x_t and x̂_0.
    """

    @declared
    def __init__(
        self, unet: UNet2DModel, scheduler: DifFuseScheduler, processor: DifFuseProcessor | None = None,
        noise_level: int = 100, octaves: int = 6, persistence: float = 0.8, wavelength: float = 64.0,
        anomaly_channels: list[int] | None = None, morphology_size: int = 1, clamp_sample: bool = False,
    ):  # fmt: skip
        super().__init__()

    def draw_noise(self, sample: torch.Tensor, level: int, generators: Generators, shared_by: int = 1) -> torch.Tensor:
        """Simplex noise like `sample` with the level's timestep as third coordinate, in place of Gaussian noise."""
        shape = (len(sample) // shared_by, *sample.shape[1:])
        noise = simplex_noise(
            shape,
            self.scheduler.timestep_of(level),
            generators[: shape[0]] if isinstance(generators, list) else generators,
            self.config["octaves"],
            self.config["persistence"],
            self.config["wavelength"],
            device=sample.device,
            dtype=sample.dtype,
        )
        return noise.repeat(shared_by, 1, 1, 1)

    def clamped(self, predict: Predictor) -> Predictor:
        """The noise with which x_t leads to the x̂_0 of clamp(x_t): ε + (x_t − clamp(x_t)) / √(1 − ᾱ_t)."""

        def predict_clamped(sample, level):
            noise_pred, variance_fraction = predict(sample, level)
            beyond = sample - sample.clamp(-1, 1)
            return noise_pred + beyond / (1 - self.scheduler.alpha_bar(level)) ** 0.5, variance_fraction

        return predict_clamped

    def map_of(self, image: torch.Tensor, counterfactual: torch.Tensor) -> torch.Tensor:
        """(x_0 − x̂_0)² with both in [-1, 1], the mean over channels, `(B, 1, H, W)` in [0, 4]."""
        config = self.config
        return anomaly_map(
            2 * image - 1, 2 * counterfactual - 1, config["anomaly_channels"], config["morphology_size"], "squared"
        )

    @torch.no_grad()
    def __call__(self, image: Images, **sampling: Unpack[SamplingKeywords]) -> CounterfactualOutput | tuple:
        """Make a healthy counterfactual of each slice and the map (x_0 − x̂_0)², with both in [-1, 1].

        The published threshold on the map is 0.5.

        Args:
            image (`torch.Tensor` of shape `(B, C, H, W)`): x_0 in [0, 1].
            sampling: see `SamplingOptions`.

        Returns:
            `CounterfactualOutput`: anomaly maps in [0, 4], masks of ones.
        """
        run = self.begin(image, SamplingOptions.of({**sampling}))
        levels = self.levels_of(run.options)  # K … 0
        clean = 2 * run.image - 1
        sample = self.scheduler.diffuse(clean, 0, levels[0], run.draw(clean, levels[0]))
        with self.bar(len(levels) - 1) as bar:
            predict = self.clamped(run.predict) if self.config["clamp_sample"] else run.predict
            sample = self.denoise(sample, levels, predict, bar, run.draw, run.on_step)
        counterfactuals = to_unit_range(sample)
        return self.make_output(run.options, counterfactuals, self.map_of(run.image, counterfactuals))
