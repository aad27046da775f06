"""Dif-fuse (thesis Ch. 6, Algorithm 2): a healthy counterfactual of a slice and the map of what had to change.

Notation (<name> -> <name in the thesis>)
    sample -> x_t, from level K down to level 0; noise_pred -> ε_θ(x_t, t); mask -> m; noise_level -> K
    trajectory -> the x_t of the inversion (Eq. 6.9), kept; outside -> x_t outside the mask
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from typing_extensions import Unpack

from ..models.modeling_autoencoder import ResNetAutoencoder
from ..models.modeling_slice_classifier import SliceClassifier
from ..models.processing_difffuse import DifFuseProcessor
from ..schedulers.scheduling_difffuse import DifFuseScheduler
from .calibration import Calibration
from .map_recipe import MapRecipe
from .outside import outside_of
from .pipeline_base import declared, to_unit_range
from .pipeline_masked import FirstLook, MaskedPipeline
from .pipeline_output import CounterfactualOutput
from .presets import Preset, choose_settings
from .sampling import Generators, Images, RunKeywords, Sampling, SamplingOptions


class DifFusePipeline(MaskedPipeline):
    """Repaint what a classifier finds suspicious as healthy tissue, and keep the rest.

    Args:
        unet (`UNet2DModel`): noise predictor trained on healthy slices in [-1, 1].
        scheduler (`DifFuseScheduler`): its noise schedule.
        classifier, autoencoder (*optional*): make the saliency map when the call brings neither saliency nor mask.
        processor (`DifFuseProcessor`, *optional*): how scans become slices for this model.
        noise_level (`int`): K, the level from which the tissue is repainted.
        percentile (`float`): τ, of the saliency map.
        percentile_over (`str`): `"image"`, or `"foreground"` for where a lesion can be: pixels that are not 0 in all
            channels, and on head CT those inside the skull.
        anomaly_channels (`list[int]`, *optional*): channels of the anomaly map, all by default.
        morphology_size (`int`): square of the map's opening and closing, in pixels.
        saliency_options (`dict`, *optional*): arguments of `class_agnostic_saliency`, or of another saliency function
            that its entry `"method"` names, such as `{"method": "grad_cam"}`.
        preset (`str`): a name in `PRESETS`.
    """

    @declared
    def __init__(
        self, unet: UNet2DModel, scheduler: DifFuseScheduler, classifier: SliceClassifier | None = None,
        autoencoder: ResNetAutoencoder | None = None, processor: DifFuseProcessor | None = None,
        noise_level: int = 500, percentile: float = 90.0, percentile_over: str = "image",
        anomaly_channels: list[int] | None = None, morphology_size: int = 5, saliency_options: dict | None = None,
        preset: str = "exact",
    ):  # fmt: skip
        super().__init__()

    @torch.no_grad()
    def __call__(
        self, image: Images, saliency: Images | None = None, mask: Images | None = None,
        noise_level: int | None = None, num_inference_steps: int | None = None, percentile: float | None = None,
        num_samples: int | None = None, generator: Generators = None, preset: str | Preset | None = None,
        output_type: str = "pt", return_dict: bool = True, callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("sample",), display_steps: int | None = None,
        background: str | None = None, recipe: MapRecipe | None = None, **running: Unpack[RunKeywords],
    ) -> CounterfactualOutput | tuple:  # fmt: skip
        """Make a healthy counterfactual of each slice and the anomaly map between the two.

        Arguments left at None take what the model was calibrated to for the preset (see `Calibration`), else its own
        setting (`pipe.config`), else the preset's.

        Args:
            image (`torch.Tensor` of shape `(B, C, H, W)`): x_0 in [0, 1].
            saliency (`torch.Tensor` of shape `(B, 1, H, W)`, *optional*): in place of the pipeline's own.
            mask (`torch.Tensor` of shape `(B, 1, H, W)`, *optional*): 1 where tissue is repainted; has precedence.
            noise_level (`int`, *optional*): K, the level from which the tissue is repainted.
            num_inference_steps (`int`, *optional*): steps of the inversion, and as many back.
            percentile (`float`, *optional*): τ, 0–100.
            num_samples (`int`, *optional*): counterfactuals per image; they share one inversion.
            preset (`str` or `Preset`, *optional*): a name in `PRESETS`, or settings of one's own.
            display_steps (`int`, *optional*): steps of the chain that makes the counterfactual to look at, see
                `Preset`; 0 makes no such chain.
            background (`str`, *optional*): what stays outside the mask, see `Preset`; `"late"` puts the image back at
                the end only.
            recipe (`MapRecipe`, *optional*): how the anomaly map is made; the calibrated one by default, and without a
                calibration the thesis's map of the model's `anomaly_channels` and `morphology_size`.
            generator, output_type, return_dict, callback_on_step_end, callback_on_step_end_tensor_inputs, running: see
                `SamplingOptions`.

        Returns:
            `CounterfactualOutput`: the counterfactual is the display chain's if there is one, else the first sample.

        Raises:
            InputError: the image, map or mask does not fit the model, or a word is unknown.
        """
        # 1. Settings and inputs
        options = SamplingOptions.of(
            {
                "generator": generator,
                "output_type": output_type,
                "return_dict": return_dict,
                "callback_on_step_end": callback_on_step_end,
                "callback_on_step_end_tensor_inputs": callback_on_step_end_tensor_inputs,
                **running,
            }
        )
        chosen = self.calibration(preset)
        settings = choose_settings(
            chosen.settings,
            num_inference_steps=num_inference_steps,
            num_samples=num_samples,
            display_steps=display_steps,
            background=background,
        )
        first = chosen.noise_level if noise_level is None else noise_level  # K
        percentile = chosen.percentile if percentile is None else percentile
        recipe = recipe or chosen.recipe
        run = self.begin(image, options)

        # 2. Where to repaint: the mask as given, or the most salient pixels, or what a first look makes of them
        given = mask is not None
        mask, saliency = self.choose_mask(run.image, saliency, mask, percentile, settings.mask_variant)
        if settings.scout_samples and not given:
            mask = self.fit_mask(run, mask, self._first_look(settings, first), settings, percentile, recipe)

        # 3. Invert once, through every level that a chain will come back to; then repaint
        chains = [self._chain(settings, first)]
        if settings.display_steps:
            chains.append(self._chain(settings.display(first), first))
        up = sorted({level for chain in chains for level in chain.up})
        with self.bar(len(up) - 1 + sum(len(chain.down) - 1 for chain in chains)) as bar:
            trajectory = self._invert(run, chains[0], up, bar.update)
            samples, reference = self._repaint(run, chains[0], trajectory, mask, bar.update)

            # 4. What changed: the mean of the samples (B, N, C, H, W) finds more than any one of them
            expected = samples.mean(dim=1)
            deviation = samples.std(dim=1) if samples.shape[1] > 1 else None
            anomaly_maps = self.make_map(reference, expected, deviation, recipe, saliency)

            # 5. The counterfactual to look at
            counterfactuals = samples[:, 0]
            if settings.display_steps:
                if settings.background == "forward":
                    run = replace(run, image=without_found(run.image, expected, anomaly_maps, chosen.threshold))
                counterfactuals = self._repaint(run, chains[1], trajectory, mask, bar.update)[0][:, 0]
        uncertainty, agreement = None if deviation is None else deviation.mean(dim=1, keepdim=True), None
        in_sigmas = recipe is not None and recipe.sample_noise is not None  # which one sample alone has none of
        if deviation is not None and chosen.threshold is not None and not in_sigmas:
            alone = [self.make_map(reference, one, None, recipe, saliency) for one in samples.unbind(1)]
            agreement = torch.stack([one >= chosen.threshold for one in alone]).float().mean(0)
        of_samples = {"uncertainty": uncertainty, "agreement": agreement, "expected": expected, "deviation": deviation}
        return self.make_output(options, counterfactuals, anomaly_maps, mask, saliency, **of_samples)

    @property
    def map_is_of_the_counterfactual(self) -> bool:
        plan = self.calibration()
        plain = plan.recipe is None and plan.settings.background != "reconstruction"
        return plain and plan.settings.num_samples == 1

    def calibration(self, preset: str | Preset | None = None) -> Calibration:
        """What the model was calibrated to for a preset, or the preset as it is with the model's own settings.

        Args:
            preset (`str` or `Preset`, *optional*): the model's own by default; a `Preset` is never calibrated.

        Raises:
            InputError: there is no such preset, or the calibration in the model cannot be read.
        """
        preset = self.config["preset"] if preset is None else preset
        known = getattr(self.processor, "calibrations", {})
        if isinstance(preset, str) and preset in known:
            return Calibration.of(known[preset])
        return Calibration(
            choose_settings(preset),  # pyright: ignore[reportArgumentType]  a saved preset is a name
            self.config["noise_level"],
            self.config["percentile"],
            threshold=getattr(self.processor, "anomaly_threshold", None),
            false_positive_thresholds=getattr(self.processor, "false_positive_thresholds", {}),
        )

    @staticmethod
    def call_of(plan: Calibration) -> dict[str, Any]:
        """The arguments of a call that does as a plan says, without a chain for the eye."""
        of_plan = {"noise_level": plan.noise_level, "percentile": plan.percentile, "recipe": plan.recipe}
        return {"preset": plan.settings, **of_plan, "display_steps": 0}

    def _chain(self, settings: Preset, noise_level: int) -> "Chain":
        """The scheduler of a chain, and the levels it goes through, up from the image and down to it."""
        scheduler = self.scheduler
        down = scheduler.levels_from(noise_level, settings.num_inference_steps, settings.spacing)
        up = [0] if settings.background == "forward" else down[::-1]
        if settings.author_chain:
            # The author's code takes the image for x_2, goes one level beyond K, and takes what it finds for x_{K-1}.
            scheduler = DifFuseScheduler.from_config(scheduler.config, clip_sample=True, variance_type="fixed_large")
            beyond = min(2 * down[0] - down[1], len(scheduler))
            up, down = [*up[2:], beyond], down[1:]
        return Chain(settings, scheduler, up, down)

    def _first_look(self, settings: Preset, noise_level: int) -> FirstLook:
        """Counterfactuals as the call makes them, of `scout_samples` samples, for `fit_mask`."""
        chain = self._chain(replace(settings, num_samples=settings.scout_samples), noise_level)

        def look(run: Sampling, mask: torch.Tensor) -> torch.Tensor:
            return self._repaint(run, chain, self._invert(run, chain, chain.up, no_bar), mask, no_bar)[0]

        return look

    def _invert(
        self, run: Sampling, chain: "Chain", up: list[int], on_step: Callable[[], object]
    ) -> dict[int, torch.Tensor]:
        """x_0 to x_K along the levels `up` (Eq. 6.9); {level: x_level}, of all levels or of the last one only."""
        clean = 2 * run.image - 1
        trajectory = {up[0]: clean}
        for level, sample in chain.scheduler.inversion(clean, up, run.predict):
            if chain.settings.background != "trajectory":
                trajectory = {}
            trajectory[level] = sample.to("cpu", torch.float16) if run.options.offload_trajectory else sample
            on_step()
        return trajectory

    def _repaint(
        self,
        run: Sampling,
        chain: "Chain",
        trajectory: dict[int, torch.Tensor],
        mask: torch.Tensor,
        on_step: Callable[[], object],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x_K to x_0 along the levels of a chain (Eq. 6.10), as many times for each image as it has samples.

        Returns:
            The counterfactuals, `(B, N, C, H, W)`, and what they are compared with, `(B, C, H, W)`; both in [0, 1].
        """
        image, num_samples, kind = run.image, chain.settings.num_samples, chain.settings.background

        def per_sample(tensor):  # (B, ...) -> (B·N, ...), the samples of an image side by side
            return tensor.repeat_interleave(num_samples, dim=0)

        outside = outside_of(kind, run, chain.scheduler, trajectory, chain.down[0])
        sample, mask = per_sample(outside.first), per_sample(mask)  # (B·N, C, H, W), (B·N, 1, H, W)
        if kind == "forward":  # inside the mask each sample starts from noise of its own
            inside = chain.scheduler.diffuse(
                per_sample(2 * image - 1), 0, chain.down[0], run.draw(sample, chain.down[0])
            )
            sample = mask * inside + (1 - mask) * sample
        for step, (level, target) in enumerate(pairwise(chain.down)):
            noise_pred, variance_fraction = run.predict(sample, level)
            noise = run.draw(sample, level)
            kept = outside.step(level, target)  # None: the DDIM branch of Eq. 6.10
            background = None if kept is None else per_sample(kept)
            here = torch.ones_like(mask) if kind == "late" else mask
            sample = chain.scheduler.fused_step(
                noise_pred, level, target, sample, here, noise, background, variance_fraction
            )
            tensors = run.on_step(step, level, {"sample": sample, "noise_pred": noise_pred, "mask": mask})
            sample, mask = tensors["sample"], tensors["mask"]
            on_step()

        counterfactuals = to_unit_range(sample)
        if kind == "late":
            counterfactuals = mask * counterfactuals + (1 - mask) * per_sample(image)
        if kind in ("trajectory", "forward"):  # free of the rounding of [0, 1] -> [-1, 1] -> [0, 1]
            counterfactuals = torch.where(mask > 0, counterfactuals, per_sample(image))
        return counterfactuals.unflatten(0, (len(image), num_samples)), outside.reference


def without_found(
    image: torch.Tensor, expected: torch.Tensor, anomaly_maps: torch.Tensor, threshold: float | None
) -> torch.Tensor:
    """What a chain for the eye starts from: the image, and where a lesion was found the mean of the samples instead.

    Noise up to K = 350 leaves a bright lesion bright, and a single sample that starts from it may keep some of it.

    Args:
        image, expected (`torch.Tensor` of shape `(B, C, H, W)`): in [0, 1].
        anomaly_maps (`torch.Tensor` of shape `(B, 1, H, W)`): of the change between the two.
        threshold (`float`, *optional*): from where on it is lesion; without one the image stays as it is.
    """
    return image if threshold is None else torch.where(anomaly_maps >= threshold, expected, image)


@dataclass(frozen=True)
class Chain:
    """One way down from the inverted image.

    Args:
        settings (`Preset`): its background and number of samples.
        scheduler (`DifFuseScheduler`): the pipeline's, or the author's variant of it.
        up, down (`list[int]`): levels of the inversion that it needs, 0 … K, and its own, K … 0.
    """

    settings: Preset
    scheduler: DifFuseScheduler
    up: list[int]
    down: list[int]


def no_bar() -> None:
    """What a first look counts its steps with."""
