"""Classifier guidance (Wolleb et al. 2022): DDIM inversion, then DDIM towards what a classifier calls healthy."""

from functools import partial

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from typing_extensions import Unpack

from ..models.processing_difffuse import DifFuseProcessor
from ..schedulers.scheduling_difffuse import DifFuseScheduler
from .anomaly_map import anomaly_map, otsu_threshold
from .pipeline_base import CounterfactualPipeline, declared, to_unit_range
from .pipeline_output import CounterfactualOutput
from .sampling import Images, SamplingKeywords, SamplingOptions, images_a_call


class ClassifierGuidancePipeline(CounterfactualPipeline):
    """Encode the whole image by inversion, and decode it with the gradient of a classifier of noisy images.

    Args:
        unet (`UNet2DModel`): noise predictor trained on healthy and lesioned slices in [-1, 1]; a class-conditional
            one is given the healthy label on both ways, as in the published code.
        scheduler (`DifFuseScheduler`): its noise schedule.
        classifier (`NoisyClassifier`): `classifier(sample, timestep).logits` of x_t and the U-Net's timestep.
        processor (`DifFuseProcessor`, *optional*): how scans become slices for this model.
        noise_level (`int`): L, the level of the encoding.
        guidance_scale (`float`): s.
        healthy_label (`int`): class index of slices without a lesion.
        anomaly_channels, morphology_size: of the anomaly map, which the paper neither opens nor closes.
        otsu (`bool`): maps of 0 and 1, each cut at its own Otsu threshold, as in the paper.
    """

    model_cpu_offload_seq = "classifier->unet"

    @declared
    def __init__(
        self, unet: UNet2DModel, scheduler: DifFuseScheduler, classifier: torch.nn.Module,
        processor: DifFuseProcessor | None = None,
        noise_level: int = 500, guidance_scale: float = 100.0, healthy_label: int = 0,
        anomaly_channels: list[int] | None = None, morphology_size: int = 1, otsu: bool = False,
    ):  # fmt: skip
        super().__init__()

    def map_of(self, image: torch.Tensor, counterfactual: torch.Tensor) -> torch.Tensor:
        """Σ over channels of |x_0 − x̂_0|, `(B, 1, H, W)` in [0, C]; 0 or 1 with `otsu`."""
        return self._map(image, counterfactual, self.config["otsu"])

    def _map(self, image, counterfactual, otsu):
        channels, size = self.config["anomaly_channels"], self.config["morphology_size"]
        maps = anomaly_map(image, counterfactual, channels, size, over_channels="sum")
        return (maps > otsu_threshold(maps)).to(maps) if otsu else maps

    @torch.no_grad()
    def __call__(
        self, image: Images, guidance_scale: float | None = None, otsu: bool | None = None,
        **sampling: Unpack[SamplingKeywords],
    ) -> CounterfactualOutput | tuple:  # fmt: skip
        """Make a healthy counterfactual of each slice and the map Σ over channels of |x_0 − x̂_0|.

        Args:
            image (`torch.Tensor` of shape `(B, C, H, W)`): x_0 in [0, 1].
            guidance_scale (*optional*): the model's own by default.
            otsu (*optional*): the model's own by default.
            sampling: see `SamplingOptions`.

        Returns:
            `CounterfactualOutput`: anomaly maps in [0, C], masks of ones.
        """
        run = self.begin(image, SamplingOptions.of({**sampling}))
        image = run.image
        batch_size = run.options.unet_batch_size or images_a_call(image)
        labels = None
        if self.unet.config["num_class_embeds"] is not None:
            labels = torch.full((len(image),), self.config["healthy_label"], device=image.device)
        predict = partial(self.predict_noise, batch_size=batch_size, class_labels=labels)
        scale = self.setting("guidance_scale", guidance_scale)

        def predict_guided(sample, level):
            """ε ← ε − √(1 − ᾱ_t) s ∇ log p(healthy | x_t) (Dhariwal & Nichol 2021, Alg. 2)."""
            noise_pred, variance_fraction = predict(sample, level)
            gradient = self.log_probability_gradient(sample, level, batch_size)
            return noise_pred - (1 - self.scheduler.alpha_bar(level)) ** 0.5 * scale * gradient, variance_fraction

        levels = self.levels_of(run.options)  # L … 0
        with self.bar(2 * (len(levels) - 1)) as bar:
            sample = self.invert(2 * image - 1, levels[::-1], predict, bar)
            sample = self.denoise(sample, levels, predict_guided, bar, on_step=run.on_step)

        counterfactuals = to_unit_range(sample)
        maps = self._map(image, counterfactuals, self.setting("otsu", otsu))
        return self.make_output(run.options, counterfactuals, maps)

    def log_probability_gradient(self, sample: torch.Tensor, level: int, batch_size: int = 32) -> torch.Tensor:
        """∇ log p(healthy | x_t) of the classifier, each image's own, `(B, C, H, W)` like `sample`."""
        gradients = []
        for part in sample.split(batch_size):
            timestep = torch.full((len(part),), self.scheduler.timestep_of(level), device=sample.device)
            with torch.enable_grad():  # the call is under no_grad
                part = part.detach().to(self.classifier.dtype).requires_grad_()
                log_probability = self.classifier(part, timestep).logits.float().log_softmax(dim=1)
                healthy = log_probability[:, self.config["healthy_label"]].sum()  # images do not see each other
            gradients.append(torch.autograd.grad(healthy, part)[0])
        return torch.cat(gradients).to(sample.dtype)
