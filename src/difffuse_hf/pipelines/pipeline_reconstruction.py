"""Counterfactuals without diffusion (thesis Ch. 6): denoising autoencoder, f-AnoGAN, or ACAT's saliency map alone."""

from functools import partial

import numpy as np
import torch

from ..models.modeling_autoencoder import ResNetAutoencoder
from ..models.modeling_denoising_ae import DenoisingAutoencoder
from ..models.modeling_fanogan import FAnoGAN, resize
from ..models.modeling_slice_classifier import SliceClassifier
from ..models.processing_difffuse import DifFuseProcessor
from ..saliency.counterfactual import class_agnostic_saliency, latent_counterfactual
from ..saliency.mask import saliency_to_mask
from .anomaly_map import residual_map
from .pipeline_base import CounterfactualPipeline
from .pipeline_output import CounterfactualOutput

HEALTHY = 0  # class index
OF_THE_MAP = ("reference", "num_classes", "batch_size")  # options of the saliency map, not of a single counterfactual


class ReconstructionPipeline(CounterfactualPipeline):
    """Reconstruct a slice with a network that knows healthy ones only; the anomaly map is what differs.

    f-AnoGAN's difference is taken at the size of its networks and then resized: at the size of the slice it would be
    the detail that its reconstruction cannot have. Without a reconstructor, the anomaly map is the class-agnostic
    saliency of classifier and autoencoder, and the counterfactual their latent one towards class 0, healthy.

    Args:
        reconstructor (`DenoisingAutoencoder` or `FAnoGAN`, *optional*): trained on healthy slices.
        classifier, autoencoder (*optional*): for the saliency map alone.
        processor (`DifFuseProcessor`, *optional*): how scans become slices for this model.
        erosion_size, median_size (`int`, *optional*): squares of `residual_map` in pixels; published are 5 and 5 for
            the denoising autoencoder, and none (1 and 1) for f-AnoGAN.
        percentile (`float`): τ of the mask that is made of a saliency map.
        saliency_options (`dict`, *optional*): arguments of `class_agnostic_saliency`.
    """

    model_cpu_offload_seq = "classifier->autoencoder->reconstructor"
    _optional_components = ["reconstructor", "classifier", "autoencoder", "processor"]

    def __init__(
        self,
        reconstructor: DenoisingAutoencoder | FAnoGAN | None = None,
        classifier: SliceClassifier | None = None,
        autoencoder: ResNetAutoencoder | None = None,
        processor: DifFuseProcessor | None = None,
        erosion_size: int | None = None,
        median_size: int | None = None,
        percentile: float = 90.0,
        saliency_options: dict | None = None,
    ):
        super().__init__()
        if reconstructor is None and (classifier is None or autoencoder is None):
            raise ValueError("The pipeline needs a `reconstructor`, or a `classifier` and an `autoencoder`.")
        if reconstructor is not None:
            reconstructor.eval()  # batch norm would mix the images of a batch
        self.register_modules(
            reconstructor=reconstructor, classifier=classifier, autoencoder=autoencoder, processor=processor
        )
        self.register_to_config(
            erosion_size=erosion_size,
            median_size=median_size,
            percentile=percentile,
            saliency_options=saliency_options,
        )

    @torch.no_grad()
    def __call__(
        self,
        image: torch.Tensor | np.ndarray,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pt",
        batch_size: int = 32,
        erosion_size: int | None = None,
        median_size: int | None = None,
    ) -> CounterfactualOutput:
        """Make a healthy counterfactual of each slice and the anomaly map between the two.

        Args:
            image (`torch.Tensor` of shape `(B, C, H, W)`): slices in [0, 1].
            generator: not used, for nothing is drawn; the pipelines share this argument.
            output_type (`str`): `"pt"` or `"np"`, both channels first.
            batch_size (`int`): most images in one call of the networks.
            erosion_size, median_size (`int`, *optional*): the pipeline's own by default; without a reconstructor,
                not used.

        Returns:
            `CounterfactualOutput`: the masks are 1 everywhere, for all of a slice is made anew, or the saliency above
            its percentile. `saliency` is None with a reconstructor.
        """
        image = self.check_image(image).to(self._execution_device)
        sizes = erosion_size or self.config.erosion_size, median_size or self.config.median_size
        make = self._saliency if self.reconstructor is None else partial(self._reconstruct, sizes=sizes)
        parts = []
        for part in self.progress_bar(image.split(batch_size)):
            parts.append(make(part))
        outputs = [None if value[0] is None else torch.cat(value).float() for value in zip(*parts)]
        return self.make_output(output_type, *outputs)

    def what_images_must_fit(self) -> tuple[str, int, int]:
        network = self.autoencoder if self.reconstructor is None else self.reconstructor
        return type(network).__name__, network.config.in_channels, 1

    def _reconstruct(self, image, sizes):
        """Counterfactual, anomaly map, mask and no saliency."""
        model = self.reconstructor
        seen, default_size = image, 5
        if isinstance(model, FAnoGAN):
            sample = model.to_sample(image.to(model.dtype))
            seen, made, default_size = sample / 2 + 0.5, model.reconstruct(sample) / 2 + 0.5, 1
        else:
            made = model(image.to(model.dtype))
        sizes = [default_size if size is None else size for size in sizes]
        anomaly = resize(residual_map(seen.float(), made.float(), *sizes), image.shape[-2:])
        made = resize(made, image.shape[-2:]).clamp(0, 1)
        return made, anomaly, torch.ones_like(anomaly), None

    def _saliency(self, image):
        """Counterfactual, saliency as the anomaly map, its mask, and the saliency."""
        options = self.config.saliency_options or {}
        of_one = {name: value for name, value in options.items() if name not in OF_THE_MAP}
        image = image.to(self.autoencoder.dtype)
        healthy = torch.full((len(image),), HEALTHY, device=image.device)
        with torch.enable_grad():  # the call is under no_grad, and saliency needs gradients
            saliency = class_agnostic_saliency(self.classifier, self.autoencoder, image, **options).detach()
            found = latent_counterfactual(self.classifier, self.autoencoder, image, healthy, **of_one)
        return found.counterfactual, saliency, saliency_to_mask(saliency, self.config.percentile), saliency
