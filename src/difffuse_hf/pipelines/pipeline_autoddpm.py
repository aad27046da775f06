"""AutoDDPM (Bercea et al. 2023, "Mask, stitch, and re-sample"): the mask comes from a coarse reconstruction.

Notation (<name> -> <name in the paper>)
    coarse -> pseudo-healthy reconstruction; initial map -> product of perceptual distance and residual
"""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from typing_extensions import Unpack

from ..errors import InputError, require_choice
from ..models.processing_difffuse import DifFuseProcessor
from ..schedulers.scheduling_difffuse import DifFuseScheduler
from .anomaly_map import anomaly_map, closing, dilation, opening
from .perceptual import structural_distance
from .pipeline_base import CounterfactualPipeline, declared, to_unit_range
from .pipeline_output import CounterfactualOutput
from .sampling import Images, SamplingKeywords, SamplingOptions

INPAINT_FROM = ("stitched", "reconstruction")


class AutoDDPMPipeline(CounterfactualPipeline):
    """Mask where a coarse reconstruction differs, stitch it into the image there, and resample the seam.

    `calibrate` chooses the threshold of the mask on healthy slices; it is saved with the model. The thesis puts a
    threshold of 0.1, chosen on validation data, on the final map.

    Args:
        unet (`UNet2DModel`): noise predictor trained on healthy slices in [-1, 1].
        scheduler (`DifFuseScheduler`): its noise schedule.
        processor (`DifFuseProcessor`, *optional*): how scans become slices for this model.
        noise_level (`int`): level of the coarse reconstruction.
        inpaint_level (`int`): level from which the stitched image is resampled.
        num_resamples (`int`): DDPM steps at each level of the resampling.
        mask_threshold (`float`, *optional*): on the initial map. The paper's 0.13 belongs to LPIPS.
        dilation_size (`int`): side of the square that widens the mask, in pixels.
        anomaly_channels, morphology_size: of the anomaly map, which the paper neither opens nor closes.
        inpaint_from (`str`): what is noised to `inpaint_level`: the `"stitched"` image, for the paper resamples from
            the joint noised distribution of image and reconstruction, or the `"reconstruction"` everywhere, as in the
            public code. Only the first network call sees the difference: later the image is outside the mask in both.
    """

    @declared
    def __init__(
        self, unet: UNet2DModel, scheduler: DifFuseScheduler, processor: DifFuseProcessor | None = None,
        noise_level: int = 200, inpaint_level: int = 50, num_resamples: int = 5, mask_threshold: float | None = None,
        dilation_size: int = 3, anomaly_channels: list[int] | None = None, morphology_size: int = 1,
        inpaint_from: str = "stitched",
    ):  # fmt: skip
        super().__init__()
        require_choice("inpaint_from", inpaint_from, INPAINT_FROM)

    @property
    def map_is_of_the_counterfactual(self) -> bool:
        return False  # the residual also decides on the mask

    @torch.no_grad()
    def __call__(
        self, image: Images, inpaint_level: int | None = None, num_inpaint_steps: int | None = None,
        mask_threshold: float | None = None, perceptual: Callable = structural_distance,
        **sampling: Unpack[SamplingKeywords],
    ) -> CounterfactualOutput | tuple:  # fmt: skip
        """Make a healthy counterfactual of each slice and the map |x_0 − x̂_0| · initial map.

        Args:
            image (`torch.Tensor` of shape `(B, C, H, W)`): x_0 in [0, 1].
            inpaint_level, mask_threshold (*optional*): the model's own by default.
            num_inpaint_steps (`int`, *optional*): levels of the resampling; every level by default.
            perceptual: `(a, b) -> (B, 1, H, W)` on images in [0, 1]. The paper's is LPIPS, whose weights are not
                shipped: the default, `structural_distance`, is a stand-in (see `difffuse_hf.pipelines.perceptual`).
            sampling: see `SamplingOptions`; noise level, steps and callback are those of the coarse reconstruction,
                the first two, and of the resampling, the last.

        Returns:
            `CounterfactualOutput`: `masks` can also be repainted by another method.
        """
        threshold = self.setting("mask_threshold", mask_threshold)
        if threshold is None:
            raise InputError(
                "AutoDDPM has no `mask_threshold`: choose it on healthy slices with `calibrate`, or pass one."
            )
        run = self.begin(image, SamplingOptions.of({**sampling}))
        slices, down = run.image, self.levels_of(run.options)
        repeated = self.scheduler.levels_from(self.setting("inpaint_level", inpaint_level), num_inpaint_steps)
        walk = [repeated[0]]
        for level, target in pairwise(repeated):  # down, and up again for each further sample
            walk += [target, level] * (self.config["num_resamples"] - 1) + [target]

        with self.bar(len(down) + len(walk) - 2) as bar:
            # 1. Mask: where the coarse reconstruction differs
            coarse, initial_map = self._coarse(run, down, perceptual, bar)
            mask = dilation((initial_map > threshold).float(), self.config["dilation_size"])
            # 2. Stitch, and 3. resample
            stitched = self.config["inpaint_from"] == "stitched"
            start = 2 * (mask * coarse + (1 - mask) * slices if stitched else coarse) - 1
            sample = self.scheduler.diffuse(start, 0, walk[0], run.draw(start, walk[0]))
            sample = self.inpaint(sample, 2 * slices - 1, mask, walk, run, bar)

        counterfactuals = torch.where(mask > 0, to_unit_range(sample), slices)
        size = self.config["morphology_size"]
        maps = self._residual(slices, counterfactuals) * initial_map
        return self.make_output(run.options, counterfactuals, closing(opening(maps, size), size), mask)

    @torch.no_grad()
    def calibrate(
        self,
        images: Images,
        false_positive_rate: float = 0.05,
        noise_level: int | None = None,
        num_inference_steps: int | None = None,
        perceptual: Callable = structural_distance,
        generator: torch.Generator | list[torch.Generator] | None = None,
        batch_size: int = 16,
    ) -> float:
        """Choose the `mask_threshold` that just no more than a share of healthy pixels exceed, and keep it.

        Counted are pixels above 0 in some channel, over all slices together and before the mask is dilated.

        Args:
            images (`torch.Tensor` of shape `(N, C, H, W)`): healthy slices in [0, 1], from the validation split.
            false_positive_rate (`float`): that share, 0–1; 0.05 in the paper.
            noise_level, num_inference_steps, perceptual: as the calls will have them.
            generator (*optional*): one `torch.Generator`, or one per image.
            batch_size (`int`): slices at a time.

        Returns:
            The threshold; also the new default of the calls, saved with the model.
        """
        if not 0 <= false_positive_rate < 1:
            raise InputError(f"`false_positive_rate` must lie between 0 and 1, got {false_positive_rate}.")
        images = self.check_image(images)
        self.check_generators(generator, len(images))
        options = SamplingOptions(noise_level, num_inference_steps, unet_batch_size=batch_size)
        down = self.levels_of(options)
        values = []
        starts = range(0, len(images), batch_size)
        with self.bar(len(starts) * (len(down) - 1)) as bar:
            for start in starts:
                part = slice(start, start + batch_size)
                generators = generator[part] if isinstance(generator, list) else generator
                run = self.begin(images[part], replace(options, generator=generators))
                _, initial_map = self._coarse(run, down, perceptual, bar)
                values.append(initial_map[(run.image > 0).any(1, keepdim=True)].cpu())
        self.maybe_free_model_hooks()
        healthy = torch.cat(values)
        if len(healthy) == 0:
            raise InputError("The healthy slices are black: there is nothing to choose a threshold on.")
        rank = max(1, math.ceil((1 - false_positive_rate) * len(healthy)))
        limit = healthy.kthvalue(rank).values
        # The limit is the value of a pixel, which comes out a few rounding errors higher or lower with another batch
        # size or number of threads: it would be counted at one time and not at another. So the threshold lies in the
        # middle between it and the next value above.
        above = healthy[healthy > limit]
        threshold = float((limit + above.min()) / 2 if len(above) else torch.nextafter(limit, limit + 1))
        self.register_to_config(mask_threshold=threshold)
        return threshold

    def _coarse(self, run, levels, perceptual, bar):
        """Reconstruction from level `levels[0]`, and the initial map: perceptual distance · clip(|residual| / P95)."""
        image = run.image
        clean = 2 * image - 1
        sample = self.scheduler.diffuse(clean, 0, levels[0], run.draw(clean, levels[0]))
        coarse = to_unit_range(self.denoise(sample, levels, run.predict, bar, run.draw))
        residual = self._residual(image, coarse)
        percentile_95 = torch.stack([one.quantile(0.95) for one in residual.flatten(1)]).view(-1, 1, 1, 1)  # per image
        residual = (residual / percentile_95.clamp_min(1e-8)).clamp(0, 1)
        return coarse, perceptual(coarse, image) * residual

    def _residual(self, image, counterfactual):
        return anomaly_map(image, counterfactual, self.config["anomaly_channels"], morphology_size=1)
