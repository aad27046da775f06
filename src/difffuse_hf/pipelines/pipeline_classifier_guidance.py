"""Classifier guidance (Wolleb et al. 2022): DDIM inversion, then DDIM towards what a classifier calls healthy."""

from functools import partial

import numpy as np
import torch
from diffusers import UNet2DModel

from ..models.processing_difffuse import DifFuseProcessor
from ..schedulers.scheduling_difffuse import DifFuseScheduler
from .anomaly_map import anomaly_map, otsu_threshold
from .pipeline_base import CounterfactualPipeline, to_unit_range
from .pipeline_output import CounterfactualOutput


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
    """

    model_cpu_offload_seq = "classifier->unet"

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: DifFuseScheduler,
        classifier: torch.nn.Module,
        processor: DifFuseProcessor | None = None,
        noise_level: int = 500,
        guidance_scale: float = 100.0,
        healthy_label: int = 0,
        anomaly_channels: list[int] | None = None,
        morphology_size: int = 1,
    ):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, classifier=classifier, processor=processor)
        self.register_to_config(
            noise_level=noise_level,
            guidance_scale=guidance_scale,
            healthy_label=healthy_label,
            anomaly_channels=anomaly_channels,
            morphology_size=morphology_size,
        )

    @torch.no_grad()
    def __call__(
        self,
        image: torch.Tensor | np.ndarray,
        noise_level: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        otsu: bool = False,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pt",
        unet_batch_size: int = 32,
    ) -> CounterfactualOutput:
        """Make a healthy counterfactual of each slice and the map Σ over channels of |x_0 − x̂_0|.

        Args:
            image (`torch.Tensor` of shape `(B, C, H, W)`): x_0 in [0, 1].
            noise_level, guidance_scale (*optional*): the model's own by default.
            num_inference_steps (`int`, *optional*): steps up, and as many back; every level by default.
            otsu (`bool`): maps of 0 and 1, thresholded each at its own Otsu threshold, as in the paper.
            generator (*optional*): not used, since no step is random; every pipeline takes one.
            output_type (`str`): `"pt"` or `"np"`, both channels first.
            unet_batch_size (`int`): most images in one call of either network.

        Returns:
            `CounterfactualOutput`: anomaly maps in [0, C], masks of ones.
        """
        image, predict, _ = self.begin(image, generator, unet_batch_size, shared_noise=False)
        if self.unet.config.num_class_embeds is not None:
            labels = torch.full((len(image),), self.config.healthy_label, device=image.device)
            predict = partial(predict, class_labels=labels)
        scale = self.setting("guidance_scale", guidance_scale)

        def predict_guided(sample, level):
            """ε ← ε − √(1 − ᾱ_t) s ∇ log p(healthy | x_t) (Dhariwal & Nichol 2021, Alg. 2)."""
            noise_pred, variance_fraction = predict(sample, level)
            gradient = self.log_probability_gradient(sample, level, unet_batch_size)
            return noise_pred - (1 - self.scheduler.alpha_bar(level)) ** 0.5 * scale * gradient, variance_fraction

        self.scheduler.set_timesteps(num_inference_steps, self.setting("noise_level", noise_level))
        levels = self.scheduler.levels  # L … 0
        with self.progress_bar(total=2 * (len(levels) - 1)) as bar:
            sample = self.invert(2 * image - 1, levels[::-1], predict, bar)
            sample = self.denoise(sample, levels, predict_guided, bar)

        counterfactuals = to_unit_range(sample)
        maps = anomaly_map(
            image, counterfactuals, self.config.anomaly_channels, self.config.morphology_size, over_channels="sum"
        )
        if otsu:
            maps = (maps > otsu_threshold(maps)).to(maps)
        return self.make_output(output_type, counterfactuals, maps, torch.ones_like(image[:, :1]))

    def log_probability_gradient(self, sample: torch.Tensor, level: int, batch_size: int = 32) -> torch.Tensor:
        """∇ log p(healthy | x_t) of the classifier, each image's own, `(B, C, H, W)` like `sample`."""
        gradients = []
        for part in sample.split(batch_size):
            timestep = torch.full((len(part),), self.scheduler.timestep_of(level), device=sample.device)
            with torch.enable_grad():  # the call is under no_grad
                part = part.detach().to(self.classifier.dtype).requires_grad_()
                log_probability = self.classifier(part, timestep).logits.float().log_softmax(dim=1)
                healthy = log_probability[:, self.config.healthy_label].sum()  # images do not see each other
            gradients.append(torch.autograd.grad(healthy, part)[0])
        return torch.cat(gradients).to(sample.dtype)
