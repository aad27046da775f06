"""AutoDDPM (Bercea et al. 2023, "Mask, stitch, and re-sample"): the mask comes from a coarse reconstruction.

Notation (<name> -> <name in the paper>)
    coarse -> pseudo-healthy reconstruction; initial map -> product of perceptual distance and residual
"""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from diffusers import UNet2DModel

from ..errors import InputError
from ..models.processing_difffuse import DifFuseProcessor
from ..schedulers.scheduling_difffuse import DifFuseScheduler
from .anomaly_map import anomaly_map, closing, dilation, opening
from .perceptual import structural_distance
from .pipeline_base import CounterfactualPipeline, to_unit_range
from .pipeline_output import CounterfactualOutput


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
    """

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: DifFuseScheduler,
        processor: DifFuseProcessor | None = None,
        noise_level: int = 200,
        inpaint_level: int = 50,
        num_resamples: int = 5,
        mask_threshold: float | None = None,
        dilation_size: int = 3,
        anomaly_channels: list[int] | None = None,
        morphology_size: int = 1,
    ):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, processor=processor)
        self.register_to_config(
            noise_level=noise_level,
            inpaint_level=inpaint_level,
            num_resamples=num_resamples,
            mask_threshold=mask_threshold,
            dilation_size=dilation_size,
            anomaly_channels=anomaly_channels,
            morphology_size=morphology_size,
        )

    @torch.no_grad()
    def __call__(
        self,
        image: torch.Tensor | np.ndarray,
        noise_level: int | None = None,
        num_inference_steps: int | None = None,
        inpaint_level: int | None = None,
        num_inpaint_steps: int | None = None,
        mask_threshold: float | None = None,
        perceptual: Callable = structural_distance,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pt",
        unet_batch_size: int = 32,
        shared_noise: bool = False,
    ) -> CounterfactualOutput:
        """Make a healthy counterfactual of each slice and the map |x_0 − x̂_0| · initial map.

        Args:
            image (`torch.Tensor` of shape `(B, C, H, W)`): x_0 in [0, 1].
            noise_level, inpaint_level, mask_threshold (*optional*): the model's own by default.
            num_inference_steps, num_inpaint_steps (`int`, *optional*): steps of the coarse reconstruction, and levels
                of the resampling; every level by default.
            perceptual: `(a, b) -> (B, 1, H, W)` on images in [0, 1]. The paper's is LPIPS, whose weights are not
                shipped: the default, `structural_distance`, is a stand-in (see `difffuse_hf.pipelines.perceptual`).
            generator (*optional*): one `torch.Generator`, or one per image.
            output_type (`str`): `"pt"` or `"np"`, both channels first.
            unet_batch_size (`int`): most images in one network call.
            shared_noise (`bool`): the same noise for all images, drawn from the first generator.

        Returns:
            `CounterfactualOutput`: `masks` can also be repainted by another method.
        """
        threshold = self.setting("mask_threshold", mask_threshold)
        if threshold is None:
            raise InputError(
                "AutoDDPM has no `mask_threshold`: choose it on healthy slices with `calibrate`, or pass one."
            )
        image, predict, draw = self.begin(image, generator, unet_batch_size, shared_noise)
        down = self._levels(num_inference_steps, self.setting("noise_level", noise_level))
        repeated = self._levels(num_inpaint_steps, self.setting("inpaint_level", inpaint_level))
        walk = [repeated[0]]
        for level, target in pairwise(repeated):  # down, and up again for each further sample
            walk += [target, level] * (self.config.num_resamples - 1) + [target]

        with self.progress_bar(total=len(down) + len(walk) - 2) as bar:
            # 1. Mask: where the coarse reconstruction differs
            coarse, initial_map = self._coarse(image, down, predict, draw, perceptual, bar)
            mask = dilation((initial_map > threshold).float(), self.config.dilation_size)
            # 2. Stitch, and 3. resample
            stitched = 2 * (mask * coarse + (1 - mask) * image) - 1
            sample = self.scheduler.diffuse(stitched, 0, walk[0], draw(stitched, walk[0]))
            sample = self.inpaint(sample, 2 * image - 1, mask, walk, predict, draw, bar)

        counterfactuals = torch.where(mask > 0, to_unit_range(sample), image)
        size = self.config.morphology_size
        maps = self._residual(image, counterfactuals) * initial_map
        return self.make_output(output_type, counterfactuals, closing(opening(maps, size), size), mask)

    @torch.no_grad()
    def calibrate(
        self,
        images: torch.Tensor | np.ndarray,
        false_positive_rate: float = 0.05,
        noise_level: int | None = None,
        num_inference_steps: int | None = None,
        perceptual: Callable = structural_distance,
        generator: torch.Generator | list[torch.Generator] | None = None,
        batch_size: int = 16,
    ) -> float:
        """Choose the smallest `mask_threshold` that no more than a share of healthy pixels exceed, and keep it.

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
        down = self._levels(num_inference_steps, self.setting("noise_level", noise_level))
        values = []
        starts = range(0, len(images), batch_size)
        with self.progress_bar(total=len(starts) * (len(down) - 1)) as bar:
            for start in starts:
                part = slice(start, start + batch_size)
                generators = generator[part] if isinstance(generator, list) else generator
                image, predict, draw = self.begin(images[part], generators, batch_size, shared_noise=False)
                _, initial_map = self._coarse(image, down, predict, draw, perceptual, bar)
                values.append(initial_map[(image > 0).any(1, keepdim=True)].cpu())
        self.maybe_free_model_hooks()
        values = torch.cat(values)
        if len(values) == 0:
            raise InputError("The healthy slices are black: there is nothing to choose a threshold on.")
        rank = max(1, math.ceil((1 - false_positive_rate) * len(values)))
        threshold = values.kthvalue(rank).values.item()
        self.register_to_config(mask_threshold=threshold)
        return threshold

    def _levels(self, num_inference_steps, noise_level):
        self.scheduler.set_timesteps(num_inference_steps, noise_level)
        return self.scheduler.levels

    def _coarse(self, image, levels, predict, draw, perceptual, bar):
        """Reconstruction from level `levels[0]`, and the initial map: perceptual distance · clip(|residual| / P95)."""
        clean = 2 * image - 1
        sample = self.scheduler.diffuse(clean, 0, levels[0], draw(clean, levels[0]))
        coarse = to_unit_range(self.denoise(sample, levels, predict, bar, draw))
        residual = self._residual(image, coarse)
        percentile_95 = torch.stack([one.quantile(0.95) for one in residual.flatten(1)]).view(-1, 1, 1, 1)  # per image
        residual = (residual / percentile_95.clamp_min(1e-8)).clamp(0, 1)
        return coarse, perceptual(coarse, image) * residual

    def _residual(self, image, counterfactual):
        return anomaly_map(image, counterfactual, self.config.anomaly_channels, morphology_size=1)
