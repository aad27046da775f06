"""RePaint (Lugmayr et al. 2022) with Dif-fuse's mask (thesis Sec. 6.6.6): inpainting that goes back and forth in t."""

from collections.abc import Sequence

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_repaint import RePaintScheduler
from typing_extensions import Unpack

from ..errors import InputError
from ..models.modeling_autoencoder import ResNetAutoencoder
from ..models.modeling_slice_classifier import SliceClassifier
from ..models.processing_difffuse import DifFuseProcessor
from ..schedulers.scheduling_difffuse import DifFuseScheduler
from .pipeline_base import declared, to_unit_range
from .pipeline_masked import MaskedPipeline
from .pipeline_output import CounterfactualOutput
from .sampling import Images, SamplingKeywords, SamplingOptions


class RePaintPipeline(MaskedPipeline):
    """Repaint the masked tissue from pure noise; what is known is noised to every level anew.

    Args:
        unet (`UNet2DModel`): noise predictor trained on healthy slices in [-1, 1].
        scheduler (`DifFuseScheduler`): its noise schedule.
        classifier, autoencoder (*optional*): make the saliency map when the call brings neither saliency nor mask.
        processor (`DifFuseProcessor`, *optional*): how scans become slices for this model.
        noise_level (`int`, *optional*): the first level; T by default, as published. A lower one starts with the
            noised image in place of noise, for a U-Net that was not trained on all levels.
        num_inference_steps (`int`): levels of the schedule.
        jump_length (`int`): levels that a jump back to more noise spans.
        num_resamples (`int`): times that each stretch of that length is gone down.
        percentile, percentile_over, saliency_options, anomaly_channels, morphology_size: as in `DifFusePipeline`.
    """

    @declared
    def __init__(
        self, unet: UNet2DModel, scheduler: DifFuseScheduler, classifier: SliceClassifier | None = None,
        autoencoder: ResNetAutoencoder | None = None, processor: DifFuseProcessor | None = None,
        noise_level: int | None = None, num_inference_steps: int = 250, jump_length: int = 10, num_resamples: int = 10,
        percentile: float = 90.0, percentile_over: str = "image", saliency_options: dict | None = None,
        anomaly_channels: list[int] | None = None, morphology_size: int = 5,
    ):  # fmt: skip
        super().__init__()

    @torch.no_grad()
    def __call__(
        self, image: Images, saliency: Images | None = None, mask: Images | None = None,
        jump_length: int | None = None, num_resamples: int | None = None, percentile: float | None = None,
        **sampling: Unpack[SamplingKeywords],
    ) -> CounterfactualOutput | tuple:  # fmt: skip
        """Make a healthy counterfactual of each slice and the anomaly map δ, opened and closed.

        Args:
            image (`torch.Tensor` of shape `(B, C, H, W)`): x_0 in [0, 1].
            saliency (`torch.Tensor` of shape `(B, 1, H, W)`, *optional*): in place of the pipeline's own.
            mask (`torch.Tensor` of shape `(B, 1, H, W)`, *optional*): 1 where tissue is repainted; has precedence.
            jump_length, num_resamples, percentile (*optional*): the model's own by default, as are `noise_level` and
                `num_inference_steps`.
            sampling: see `SamplingOptions`.
        """
        run = self.begin(image, SamplingOptions.of({**sampling}))
        slices, options = run.image, run.options
        steps = self.setting("num_inference_steps", options.num_inference_steps)
        walk = jump_levels(
            self.scheduler.levels_from(self.setting("noise_level", options.noise_level), steps),
            self.setting("jump_length", jump_length),
            self.setting("num_resamples", num_resamples),
        )
        mask, saliency = self.choose_mask(slices, saliency, mask, percentile)

        clean = 2 * slices - 1
        noise = run.draw(clean, walk[0])
        sample = noise if walk[0] == len(self.scheduler) else self.scheduler.diffuse(clean, 0, walk[0], noise)
        with self.bar(len(walk) - 1) as bar:
            sample = self.inpaint(sample, clean, mask, walk, run, bar)

        counterfactuals = torch.where(mask > 0, to_unit_range(sample), slices)
        return self.make_output(options, counterfactuals, self.map_of(slices, counterfactuals), mask, saliency)


def jump_levels(levels: Sequence[int], jump_length: int, num_resamples: int) -> list[int]:
    """RePaint's walk over noise levels, by the schedule of jumps of diffusers' `RePaintScheduler`.

    Every `jump_length` steps on the way down it jumps back up that far, `num_resamples` − 1 times in each place.

    Args:
        levels (`Sequence[int]`): falling, K … 0.

    Returns:
        The levels in the order of the visit, from K to 0. Each move is to the next level down or up of `levels`.
    """
    if jump_length < 1 or num_resamples < 1:
        raise InputError(
            f"`jump_length` and `num_resamples` must be at least 1, got {jump_length} and {num_resamples}."
        )
    steps = len(levels) - 1
    stock = RePaintScheduler(num_train_timesteps=steps)
    stock.set_timesteps(steps, jump_length, num_resamples)
    rising = list(levels)[::-1]
    return [rising[index] for index in (steps, *stock.timesteps.tolist())]
