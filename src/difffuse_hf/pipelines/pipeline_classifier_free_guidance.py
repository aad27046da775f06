"""Classifier-free guidance (Ho & Salimans 2022): DDIM inversion, then DDIM towards the healthy class of one U-Net."""

from collections.abc import Sequence
from functools import partial

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from typing_extensions import Unpack

from ..errors import InputError
from ..models.processing_difffuse import DifFuseProcessor
from ..schedulers.scheduling_difffuse import DifFuseScheduler
from .pipeline_base import CounterfactualPipeline, declared, to_unit_range
from .pipeline_output import CounterfactualOutput
from .sampling import Images, SamplingKeywords, SamplingOptions


class ClassifierFreeGuidancePipeline(CounterfactualPipeline):
    """Encode the whole image by inversion, and decode it as healthy, away from the U-Net's unconditional prediction.

    Args:
        unet (`UNet2DModel`): class-conditional noise predictor (`num_class_embeds`), trained on slices in [-1, 1] of
            all classes with the label sometimes dropped. The last label is the null label of the dropped ones.
        scheduler (`DifFuseScheduler`): its noise schedule.
        processor (`DifFuseProcessor`, *optional*): how scans become slices for this model.
        noise_level (`int`): K.
        guidance_scale (`float`): s, 1 for the conditional model alone.
        healthy_label (`int`): class index of slices without a lesion.
        anomaly_channels, morphology_size: of the anomaly map, as in `DifFusePipeline`.
    """

    @declared
    def __init__(
        self, unet: UNet2DModel, scheduler: DifFuseScheduler, processor: DifFuseProcessor | None = None,
        noise_level: int = 500, guidance_scale: float = 3.0, healthy_label: int = 0,
        anomaly_channels: list[int] | None = None, morphology_size: int = 1,
    ):  # fmt: skip
        super().__init__()
        num_labels = unet.config["num_class_embeds"]
        if (num_labels or 0) < 2:
            raise InputError(
                "Classifier-free guidance needs a class-conditional U-Net: `num_class_embeds` counts the classes "
                f"and one null label, got {num_labels}."
            )

    @torch.no_grad()
    def __call__(
        self, image: Images, labels: Sequence[int] | torch.Tensor | None = None, guidance_scale: float | None = None,
        **sampling: Unpack[SamplingKeywords],
    ) -> CounterfactualOutput | tuple:  # fmt: skip
        """Make a healthy counterfactual of each slice and the map δ, the mean over channels of |x_0 − x̂_0|.

        Args:
            image (`torch.Tensor` of shape `(B, C, H, W)`): x_0 in [0, 1].
            labels (`torch.Tensor` of shape `(B,)`, *optional*): the images' own classes, to invert them with; the null
                label by default, since at inference the class is what one wants to know.
            guidance_scale (*optional*): the model's own by default.
            sampling: see `SamplingOptions`.

        Returns:
            `CounterfactualOutput`: with masks of ones.
        """
        run = self.begin(image, SamplingOptions.of({**sampling}))
        image, predict = run.image, partial(self.predict_noise, batch_size=run.options.unet_batch_size)
        null_label = self.unet.config["num_class_embeds"] - 1
        null = torch.full((len(image),), null_label, device=image.device)
        healthy = torch.full_like(null, self.config["healthy_label"])
        own = null if labels is None else torch.as_tensor(labels).long().to(image.device)
        if own.shape != null.shape or own.min() < 0 or own.max() > null_label:
            raise InputError(
                f"`labels` must be {len(image)} class indices from 0 to {null_label}, got {own.tolist()}."
            )
        scale = self.setting("guidance_scale", guidance_scale)

        def predict_own(sample, level):
            return predict(sample, level, class_labels=own)

        def predict_guided(sample, level):
            """ε ← ε(x_t, ∅) + s (ε(x_t, healthy) − ε(x_t, ∅)); the w of Ho & Salimans is s − 1."""
            conditional, variance_fraction = predict(sample, level, class_labels=healthy)
            if scale == 1:
                return conditional, variance_fraction
            unconditional, _ = predict(sample, level, class_labels=null)
            return unconditional + scale * (conditional - unconditional), variance_fraction

        levels = self.levels_of(run.options)  # K … 0
        with self.bar(2 * (len(levels) - 1)) as bar:
            sample = self.invert(2 * image - 1, levels[::-1], predict_own, bar)
            sample = self.denoise(sample, levels, predict_guided, bar, on_step=run.on_step)

        counterfactuals = to_unit_range(sample)
        return self.make_output(run.options, counterfactuals, self.map_of(image, counterfactuals))
