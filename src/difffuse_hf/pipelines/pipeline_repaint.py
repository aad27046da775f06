"""RePaint (Lugmayr et al. 2022) with Dif-fuse's mask (thesis Sec. 6.6.6): inpainting that goes back and forth in t."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_repaint import RePaintScheduler
from typing_extensions import Unpack

from ..errors import InputError
from ..models.modeling_autoencoder import ResNetAutoencoder
from ..models.modeling_slice_classifier import SliceClassifier
from ..models.processing_difffuse import DifFuseProcessor
from ..schedulers.scheduling_difffuse import DifFuseScheduler
from .calibration import Calibration
from .map_recipe import MapRecipe
from .pipeline_base import declared, to_unit_range
from .pipeline_masked import MaskedPipeline
from .pipeline_output import CounterfactualOutput
from .presets import Preset, choose_settings
from .sampling import Images, Sampling, SamplingKeywords, SamplingOptions

CALIBRATED_AS = "repaint"  # name of its calibration in the processor, see `settings` of the call


class RePaintPipeline(MaskedPipeline):
    """Repaint the masked tissue from pure noise; what is known is noised to every level anew.

    Args:
        unet (`UNet2DModel`): noise predictor trained on healthy slices in [-1, 1].
        scheduler (`DifFuseScheduler`): its noise schedule.
        classifier, autoencoder (*optional*): make the saliency map when the call brings neither saliency nor mask.
        processor (`DifFuseProcessor`, *optional*): how scans become slices for this model.
        noise_level (`int`, *optional*): the first level; T by default, as published, or the highest that the U-Net
            was trained on. A level below T starts with the noised image in place of noise.
        num_inference_steps (`int`): levels of the schedule.
        jump_length (`int`): levels that a jump back to more noise spans.
        num_resamples (`int`): times that each stretch of that length is gone down.
        percentile, percentile_over, saliency_options, anomaly_channels, morphology_size: as in `DifFusePipeline`.

    As Dif-fuse can, it can be calibrated (see `CALIBRATED_AS`): percentile, noise level, number of samples and map are
    then those that were chosen on validation data.
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
        num_samples: int | None = None, recipe: MapRecipe | None = None, settings: Preset | None = None,
        **sampling: Unpack[SamplingKeywords],
    ) -> CounterfactualOutput | tuple:  # fmt: skip
        """Make a healthy counterfactual of each slice and the anomaly map δ, opened and closed.

        Args:
            image (`torch.Tensor` of shape `(B, C, H, W)`): x_0 in [0, 1].
            saliency (`torch.Tensor` of shape `(B, 1, H, W)`, *optional*): in place of the pipeline's own.
            mask (`torch.Tensor` of shape `(B, 1, H, W)`, *optional*): 1 where tissue is repainted; has precedence.
            jump_length, num_resamples, percentile (*optional*): the model's own by default, as are `noise_level` and
                `num_inference_steps`.
            num_samples (`int`, *optional*): counterfactuals per image, 1 unless calibrated; the map is taken against
                their mean.
            recipe (`MapRecipe`, *optional*): how the anomaly map is made; the calibrated one by default, and without a
                calibration δ.
            settings (`Preset`, *optional*): the calibrated one, or one sample and no first look. Its `num_samples`,
                `mask_variant` and `scout_...` values count, as they do for Dif-fuse (see `fit_mask`).
            sampling: see `SamplingOptions`.
        """
        chosen = self.calibration()
        settings = choose_settings(settings or chosen.settings, num_samples=num_samples)
        recipe = recipe or chosen.recipe
        percentile = chosen.percentile if percentile is None else percentile
        run = self.begin(image, SamplingOptions.of({**sampling}))
        slices, options = run.image, run.options
        steps = self.setting("num_inference_steps", options.num_inference_steps)
        walk = jump_levels(
            self.scheduler.levels_from(options.noise_level or chosen.noise_level, steps),
            self.setting("jump_length", jump_length),
            self.setting("num_resamples", num_resamples),
        )
        given = mask is not None
        mask, saliency = self.choose_mask(slices, saliency, mask, percentile, settings.mask_variant)
        if settings.scout_samples and not given:
            look = partial(self._repaint, walk=walk, num_samples=settings.scout_samples)
            mask = self.fit_mask(run, mask, look, settings, percentile, recipe)
        samples = self._repaint(run, mask, walk, settings.num_samples)
        expected, deviation = samples.mean(1), samples.std(1) if settings.num_samples > 1 else None
        maps = self.make_map(slices, expected, deviation, recipe, saliency)
        uncertainty = None if deviation is None else deviation.mean(1, keepdim=True)
        of_samples = {"uncertainty": uncertainty, "expected": expected, "deviation": deviation}
        return self.make_output(options, samples[:, 0], maps, mask, saliency, **of_samples)

    def _repaint(self, run: Sampling, mask: torch.Tensor, walk: Sequence[int], num_samples: int) -> torch.Tensor:
        """Counterfactuals in [0, 1] along a walk over the levels, as many of each image: (B, N, C, H, W)."""

        def per_sample(tensor):  # (B, ...) -> (B·N, ...), the samples of an image side by side
            return tensor.repeat_interleave(num_samples, dim=0)

        clean, inside = per_sample(2 * run.image - 1), per_sample(mask)
        noise = run.draw(clean, walk[0])
        sample = noise if walk[0] == len(self.scheduler) else self.scheduler.diffuse(clean, 0, walk[0], noise)
        with self.bar(len(walk) - 1) as bar:
            sample = self.inpaint(sample, clean, inside, walk, run, bar)
        samples = torch.where(inside > 0, to_unit_range(sample), per_sample(run.image))
        return samples.unflatten(0, (-1, num_samples))

    @property
    def map_is_of_the_counterfactual(self) -> bool:
        plan = self.calibration()
        return plan.recipe is None and plan.settings.num_samples == 1

    def calibration(self) -> Calibration:
        """What the pipeline was calibrated to, or its own settings and one sample.

        Raises:
            InputError: the calibration in the model cannot be read.
        """
        known = getattr(self.processor, "calibrations", {})
        if CALIBRATED_AS in known:
            return Calibration.of(known[CALIBRATED_AS])
        return Calibration(
            Preset(), self.config["noise_level"] or self.scheduler.highest_level, self.config["percentile"]
        )

    @staticmethod
    def call_of(plan: Calibration) -> dict[str, Any]:
        """The arguments of a call that does as a plan says."""
        of_plan = {"noise_level": plan.noise_level, "percentile": plan.percentile, "recipe": plan.recipe}
        return {"settings": plan.settings, **of_plan}


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
