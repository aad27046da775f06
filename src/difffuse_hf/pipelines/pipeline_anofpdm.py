"""AnoFPDM (Che et al. 2024): what a healthy class would change at every noise level on the way up, and no way back.

Notation (<name> -> <name in the paper>)
    null -> prediction without a class; divergence -> M_t, by how much the healthy class changes the prediction of x_0
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d import UNet2DModel
from typing_extensions import Unpack

from ..errors import InputError
from ..models.processing_difffuse import DifFuseProcessor
from ..schedulers.scheduling_difffuse import DifFuseScheduler
from .anomaly_map import median_filter
from .pipeline_base import CounterfactualPipeline, declared
from .pipeline_output import CounterfactualOutput
from .sampling import Images, Sampling, SamplingKeywords, SamplingOptions

QUANTILES = (0.98, 0.90)  # of a map's pixels: the threshold where the divergence is 0, and where it is the largest


@dataclass(frozen=True)
class ForwardProcess:
    """What the way up has shown of B images.

    Args:
        maps (`torch.Tensor` of shape `(B, C, H, W)`): mean over the levels up to each channel's own of (x̂_0 − x_0)².
        divergence (`torch.Tensor` of shape `(B, C)`): the largest M_t of each channel, which decides on its level.
        similarity (`torch.Tensor` of shape `(B,)`): cosine between the errors of x̂_0 level by level, healthy and null.
        predicted (`torch.Tensor` of shape `(B, C, H, W)`): the healthy x̂_0 of each channel's level, in [-1, 1].
    """

    maps: torch.Tensor
    divergence: torch.Tensor
    similarity: torch.Tensor
    predicted: torch.Tensor


class AnoFPDMPipeline(CounterfactualPipeline):
    """Invert without a class, and at every level compare what it and the healthy class predict the image to be.

    Noise level and threshold are chosen for each image, and `calibrate_by_labels` needs image labels alone. The model
    is that of classifier-free guidance.

    Args:
        unet (`UNet2DModel`): class-conditional noise predictor; the last label is the null label.
        scheduler (`DifFuseScheduler`): its noise schedule.
        processor (`DifFuseProcessor`, *optional*): how scans become slices for this model.
        noise_level (`int`): the highest level that is looked at; 600 in the public code.
        guidance_scale (`float`): s; 3 is the published w = 2 on BraTS, for s = w + 1.
        healthy_label (`int`): class index of slices without a lesion.
        anomaly_channels (`list[int]`, *optional*): all by default; FLAIR and T2 in the paper.
        median_size (`int`): side of the square of the median filter, in pixels.
        own_threshold (`bool`): maps of 0 and 1, each cut at its own threshold, as in the paper.
        largest_divergence (`list[float]`, *optional*), similarity_threshold (`float`, *optional*): chosen by
            `calibrate_by_labels`; an image more similar than that is healthy, and nothing of it is marked.
    """

    @declared
    def __init__(
        self, unet: UNet2DModel, scheduler: DifFuseScheduler, processor: DifFuseProcessor | None = None,
        noise_level: int = 600, guidance_scale: float = 3.0, healthy_label: int = 0,
        anomaly_channels: list[int] | None = None, median_size: int = 5, own_threshold: bool = False,
        largest_divergence: list[float] | None = None, similarity_threshold: float | None = None,
    ):  # fmt: skip
        super().__init__()
        if (unet.config["num_class_embeds"] or 0) < 2:
            raise InputError("AnoFPDM needs a class-conditional U-Net with a null label, as classifier-free guidance.")

    @property
    def map_is_of_the_counterfactual(self) -> bool:
        return False  # it is of all levels

    @torch.no_grad()
    def __call__(
        self, image: Images, guidance_scale: float | None = None, **sampling: Unpack[SamplingKeywords]
    ) -> CounterfactualOutput | tuple:
        """Make the anomaly map of each slice, the median filter of the mean over levels and channels of (x̂_0 − x_0)².

        Args:
            image (`torch.Tensor` of shape `(B, C, H, W)`): x_0 in [0, 1].
            guidance_scale (*optional*): the model's own by default.
            sampling: see `SamplingOptions`; nothing is drawn, and there is no step down to call back after.

        Returns:
            `CounterfactualOutput`: the counterfactual is the healthy x̂_0 at the level chosen; masks, once calibrated,
            are the pixels that reach the image's own threshold, and 1 everywhere before that.
        """
        run = self.begin(image, SamplingOptions.of({**sampling}))
        seen = self.forward_process(run, self.setting("guidance_scale", guidance_scale))
        channels = self.config["anomaly_channels"]
        chosen = seen.maps if channels is None else seen.maps[:, list(channels)]
        maps, masks = median_filter(chosen.mean(1, keepdim=True), self.config["median_size"]), None
        if self.config["largest_divergence"] is not None:
            masks = (maps >= self.own_thresholds(seen)).to(maps)
            healthy = seen.similarity > self.config["similarity_threshold"]
            masks = masks.masked_fill(healthy.view(-1, 1, 1, 1), 0)
        if self.config["own_threshold"]:
            if masks is None:
                raise InputError("AnoFPDM has no threshold of its own yet: choose it with `calibrate_by_labels`.")
            maps = masks
        return self.make_output(run.options, seen.predicted / 2 + 0.5, maps, masks)

    def forward_process(self, run: Sampling, scale: float) -> ForwardProcess:
        """The way up by DDIM inversion of the null label, from the second level on; two network calls a level.

        The public code reaches its first level by noise, and averages up to the level chosen without that level.
        """
        null_label = self.unet.config["num_class_embeds"] - 1
        null = torch.full((len(run.image),), null_label, device=run.image.device)
        healthy = torch.full_like(null, self.config["healthy_label"])
        clean = sample = 2 * run.image - 1
        levels = self.levels_of(run.options)[::-1]  # 0 … K
        total = maps = predicted = torch.zeros_like(clean)
        divergence = torch.full(clean.shape[:2], -1.0, device=clean.device)  # (B, C)
        errors = []
        with self.bar(len(levels) - 1) as bar:
            noise_pred = self._predict(run, sample, levels[0], null)
            for count, (level, target) in enumerate(pairwise(levels), start=1):
                sample = self.scheduler.invert_step(noise_pred, level, target, sample)
                noise_pred = self._predict(run, sample, target, null)
                conditional = self._predict(run, sample, target, healthy)
                guided_pred = noise_pred + scale * (conditional - noise_pred)
                plain, guided = (
                    self.scheduler.predict_original(one, target, sample).clamp(-1, 1)
                    for one in (noise_pred, guided_pred)
                )
                total = total + (guided - clean) ** 2
                diverged = (guided - plain).square().mean((2, 3))  # M_t, (B, C)
                largest = (diverged > divergence)[..., None, None]
                divergence = torch.maximum(diverged, divergence)
                maps, predicted = torch.where(largest, total / count, maps), torch.where(largest, guided, predicted)
                errors.append(torch.stack([self._error(one, clean) for one in (guided, plain)]))
                bar.update()
        of_levels = torch.stack(errors, -1)  # (2, B, levels)
        return ForwardProcess(maps, divergence, F.cosine_similarity(*of_levels, dim=-1, eps=1e-6), predicted)

    def own_thresholds(self, seen: ForwardProcess) -> torch.Tensor:
        """Each image's threshold, `(B, 1, 1, 1)`: a quantile of its map, lower the more the classes diverge.

        q = 0.98 − 0.08 · M / largest M, rounded to 0.0008 as in the public code; the mean over the channels.
        """
        channels = self.config["anomaly_channels"]
        index = list(range(seen.maps.shape[1]) if channels is None else channels)
        largest = torch.tensor(self.config["largest_divergence"], device=seen.maps.device)[index]
        share = (seen.divergence[:, index] / largest).clamp(0, 1).mul(100).round() / 100
        quantiles = QUANTILES[0] - (QUANTILES[0] - QUANTILES[1]) * share  # (B, channels)
        maps = seen.maps[:, index].flatten(2)
        thresholds = [
            torch.stack([one.quantile(q) for one, q in zip(pixels, some)]).mean()
            for pixels, some in zip(maps, quantiles.to(maps))
        ]
        return torch.stack(thresholds).view(-1, 1, 1, 1)

    @torch.no_grad()
    def calibrate_by_labels(
        self,
        images: Images,
        labels: Sequence[int] | torch.Tensor,
        guidance_scale: float | None = None,
        noise_level: int | None = None,
        num_inference_steps: int | None = None,
        batch_size: int = 16,
    ) -> None:
        """Choose by image labels alone, and keep: the largest divergence of lesions, and what is similar enough.

        The similarity that parts the classes with the fewest slices on the wrong side, from image labels; between two
        that do as well, the lower.

        Args:
            images (`torch.Tensor` of shape `(N, C, H, W)`): slices in [0, 1], from the validation split.
            labels (`torch.Tensor` of shape `(N,)`): class indices, of both kinds.
            guidance_scale, noise_level, num_inference_steps: as the calls will have them.
            batch_size (`int`): slices at a time.
        """
        images = self.check_image(images)
        sick = torch.as_tensor(labels) != self.config["healthy_label"]
        if len(sick) != len(images) or sick.all() or not sick.any():
            raise InputError("AnoFPDM is calibrated on slices of both classes, with a label for each.")
        options = SamplingOptions(noise_level, num_inference_steps, unet_batch_size=batch_size)
        scale: float = self.setting("guidance_scale", guidance_scale)
        seen = [self.forward_process(self.begin(part, options), scale) for part in images.split(batch_size)]
        self.maybe_free_model_hooks()
        divergence = torch.cat([one.divergence for one in seen]).cpu()
        similarity = torch.cat([one.similarity for one in seen]).cpu()
        candidates = similarity.unique()
        wrong = [int(((similarity <= limit) != sick).sum()) for limit in candidates]
        largest = divergence[sick].amax(0).clamp_min(1e-12)
        threshold = float(candidates[wrong.index(min(wrong))])
        self.register_to_config(largest_divergence=largest.tolist(), similarity_threshold=threshold)

    def _predict(self, run: Sampling, sample: torch.Tensor, level: int, labels: torch.Tensor) -> torch.Tensor:
        """ε_θ(x_t, t, class)."""
        return self.predict_noise(sample, level, run.options.unet_batch_size, labels)[0]

    def _error(self, predicted: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Mean of (x̂_0 − x_0)² over the channels that count and the pixels, (B,)."""
        channels = self.config["anomaly_channels"]
        error = (predicted - clean).square().mean((2, 3))
        return (error if channels is None else error[:, list(channels)]).mean(1)
