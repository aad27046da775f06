"""THOR (Bercea et al. 2024, "Diffusion models with implicit guidance"): healthy tissue is put back on the way down.

Notation (<name> -> <name in the paper>)
    predicted -> x̂_0 at step t; disagreement -> anomaly map m_t of a step; region -> m_t closed and widened
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from typing_extensions import Unpack

from ..models.processing_difffuse import DifFuseProcessor
from ..saliency.mask import gaussian_blur
from ..schedulers.scheduling_difffuse import DifFuseScheduler
from .anomaly_map import anomaly_map, closing, dilation
from .perceptual import structural_distance
from .pipeline_base import CounterfactualPipeline, declared, to_unit_range
from .pipeline_output import CounterfactualOutput
from .sampling import Images, SamplingKeywords, SamplingOptions

HARMONIZATION_LEVELS = [300, 150, 50]  # of the public code's brain experiment with Gaussian noise
BLUR = 11  # pixels; a Gaussian of σ = 2 pixels


class THORPipeline(CounterfactualPipeline):
    """Noise, come back by DDPM, and at some levels blend x̂_0 with the image where the two agree.

        x̃_0 = m ⊙ x̂_0 + (1 − m) ⊙ x_0,   x_t = √ᾱ_t x̃_0 + √(1 − ᾱ_t) ε   with the ε of the way up

    The anomaly map is the harmonic mean of the steps' maps: a pixel must differ at all of them.

    Args:
        unet (`UNet2DModel`): noise predictor trained on healthy slices in [-1, 1].
        scheduler (`DifFuseScheduler`): its noise schedule.
        processor (`DifFuseProcessor`, *optional*): how scans become slices for this model.
        noise_level (`int`): K; 350 in the public code's brain experiment.
        harmonization_levels (`list[int]`, *optional*): levels below K at which the image is blended in; a step that
            crosses several does so once. 300, 150 and 50 by default, as there.
        map_spacing (`int`): between levels whose maps enter the harmonic mean, besides those and the last step.
        region_size (`int`): side of the squares that close and widen the map before blending, in pixels; 13 there, at
            128 x 128.
        anomaly_channels (`list[int]`, *optional*): the channels that count, all by default; the paper has one.
    """

    @declared
    def __init__(
        self, unet: UNet2DModel, scheduler: DifFuseScheduler, processor: DifFuseProcessor | None = None,
        noise_level: int = 350, harmonization_levels: list[int] | None = None, map_spacing: int = 50,
        region_size: int = 13, anomaly_channels: list[int] | None = None,
    ):  # fmt: skip
        super().__init__()

    @property
    def map_is_of_the_counterfactual(self) -> bool:
        return False  # it is of all levels, and decides what is blended

    @torch.no_grad()
    def __call__(
        self, image: Images, region_size: int | None = None, perceptual: Callable = structural_distance,
        **sampling: Unpack[SamplingKeywords],
    ) -> CounterfactualOutput | tuple:  # fmt: skip
        """Make a healthy counterfactual of each slice, and the harmonic mean of the steps' anomaly maps.

        The public code returns to the level that it has just left; here the blended image gets the noise of the level
        that the step has reached.

        Args:
            image (`torch.Tensor` of shape `(B, C, H, W)`): x_0 in [0, 1].
            region_size (*optional*): the model's own by default.
            perceptual: `(a, b) -> (B, 1, H, W)` on images in [0, 1]. The paper's is LPIPS, whose weights are not
                shipped: the default, `structural_distance`, is a stand-in (see `difffuse_hf.pipelines.perceptual`).
            sampling: see `SamplingOptions`.

        Returns:
            `CounterfactualOutput`: maps in [0, 1], with masks of ones.
        """
        run = self.begin(image, SamplingOptions.of({**sampling}))
        size: int = self.setting("region_size", region_size)
        blended = self.config["harmonization_levels"] or HARMONIZATION_LEVELS
        levels = self.levels_of(run.options)  # K … 0
        spaced = range(self.config["map_spacing"], levels[0], self.config["map_spacing"])
        blended = {level for level in blended if level < levels[0]}
        clean = 2 * run.image - 1
        way_up = run.draw(clean, levels[0])
        sample = self.scheduler.diffuse(clean, 0, levels[0], way_up)
        inverse, count = torch.zeros_like(run.image[:, :1]), 0
        with self.bar(len(levels) - 1) as bar:
            for step, (level, target) in enumerate(pairwise(levels)):
                # 1. A step down, by DDPM
                noise_pred, variance_fraction = run.predict(sample, level)
                predicted = to_unit_range(self.scheduler.predict_original(noise_pred, level, sample))
                noise = run.draw(sample, level)
                sample = self.scheduler.reverse_step(noise_pred, level, target, sample, 1.0, noise, variance_fraction)
                crossed = {mark for mark in {1, *blended, *spaced} if target < mark <= level}
                if crossed:
                    # 2. Where what is seen so far and the image disagree
                    disagreement = self.disagreement(run.image, predicted, perceptual)
                    inverse, count = inverse + 1 / disagreement, count + 1
                    if crossed & blended:
                        # 3. The image elsewhere, noised as on the way up
                        region = widened(disagreement, size)
                        healed = region * (2 * predicted - 1) + (1 - region) * clean
                        sample = self.scheduler.diffuse(healed, 0, target, way_up)
                sample = run.on_step(step, level, {"sample": sample, "noise_pred": noise_pred})["sample"]
                bar.update()
        return self.make_output(run.options, to_unit_range(sample), count / inverse)

    def disagreement(self, image: torch.Tensor, predicted: torch.Tensor, perceptual: Callable) -> torch.Tensor:
        """m_t: the blurred perceptual distance times |x̂_0 − x_0|, of 1 where it is the largest; `(B, 1, H, W)`."""
        residual = anomaly_map(image, predicted, self.config["anomaly_channels"], morphology_size=1)
        product = gaussian_blur(perceptual(image, predicted), BLUR).clamp(0, 1) * residual
        return (product / (product.amax((1, 2, 3), keepdim=True) + 1e-8)).clamp(0, 1)


def widened(disagreement: torch.Tensor, size: int) -> torch.Tensor:
    """The map with its holes closed, and half as strong around it: the mean of itself and of its dilated closing."""
    return (dilation(closing(disagreement, size), size) + disagreement) / 2
