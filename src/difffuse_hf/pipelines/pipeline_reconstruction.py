"""Counterfactuals without diffusion (thesis Ch. 6): denoising autoencoder, f-AnoGAN, or ACAT's saliency map alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..errors import InputError, require_choice
from ..models.modeling_autoencoder import ResNetAutoencoder
from ..models.modeling_denoising_ae import DenoisingAutoencoder
from ..models.modeling_fanogan import FAnoGAN, resize
from ..models.modeling_slice_classifier import SliceClassifier
from ..models.processing_difffuse import DifFuseProcessor
from ..saliency.counterfactual import latent_counterfactual
from ..saliency.mask import BLUR_KERNEL, gaussian_blur
from .anomaly_map import residual_map
from .pipeline_base import declared
from .pipeline_masked import MaskedPipeline
from .pipeline_output import CounterfactualOutput
from .sampling import Generators, Images, SamplingOptions

HEALTHY = 0  # class index
OF_THE_MAP = ("reference", "counterfactuals", "batch_size")  # options of the map, not of a single counterfactual
SALIENCY_AS = ("map", "blurred", "mask")


class ReconstructionPipeline(MaskedPipeline):
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
        percentile, percentile_over: of the mask that is made of the saliency map, as in `DifFusePipeline`.
        saliency_options (`dict`, *optional*): arguments of `class_agnostic_saliency`.
        saliency_as (`str`): what the anomaly map is made of: `"mask"`, the most salient pixels, is the thesis's ACAT
            ("thresholded as in our approach", Sec. 6.6.2); `"blurred"` is the map that this mask is cut from, which
            leaves a threshold to be chosen; `"map"` is the saliency as it is.
        anomaly_channels (`list[int]`, *optional*): channels of a reconstructor's anomaly map, all by default.
    """

    model_cpu_offload_seq = "classifier->autoencoder->reconstructor"
    _optional_components = ["reconstructor", "classifier", "autoencoder", "processor"]

    @declared
    def __init__(
        self, reconstructor: DenoisingAutoencoder | FAnoGAN | None = None, classifier: SliceClassifier | None = None,
        autoencoder: ResNetAutoencoder | None = None, processor: DifFuseProcessor | None = None,
        erosion_size: int | None = None, median_size: int | None = None, percentile: float = 90.0,
        saliency_options: dict | None = None, percentile_over: str = "image", saliency_as: str = "map",
        anomaly_channels: list[int] | None = None,
    ):  # fmt: skip
        super().__init__()
        require_choice("saliency_as", saliency_as, SALIENCY_AS)
        if reconstructor is None and (classifier is None or autoencoder is None):
            raise InputError("The pipeline needs a `reconstructor`, or a `classifier` and an `autoencoder`.")

    reconstructor: DenoisingAutoencoder | FAnoGAN | None
    classifier: SliceClassifier | None
    autoencoder: ResNetAutoencoder | None

    @property
    def map_is_of_the_counterfactual(self) -> bool:
        return False  # it is of the reconstruction before that is cut to [0, 1], or of the saliency

    @torch.no_grad()
    def __call__(
        self, image: Images, generator: Generators = None, output_type: str = "pt", return_dict: bool = True,
        batch_size: int = 32, erosion_size: int | None = None, median_size: int | None = None,
        percentile: float | None = None,
    ) -> CounterfactualOutput | tuple:  # fmt: skip
        """Make a healthy counterfactual of each slice and the anomaly map between the two.

        Args:
            image (`torch.Tensor` of shape `(B, C, H, W)`): slices in [0, 1].
            generator: not used, for nothing is drawn; the pipelines share this argument.
            output_type (`str`), return_dict (`bool`): see `SamplingOptions`.
            batch_size (`int`): most images in one call of the networks.
            erosion_size, median_size (`int`, *optional*): the pipeline's own by default; without a reconstructor,
                not used.
            percentile (`float`, *optional*): the pipeline's own by default; with a reconstructor, not used.

        Returns:
            `CounterfactualOutput`: the masks are 1 everywhere, for all of a slice is made anew, or the saliency above
            its percentile. `saliency` is None with a reconstructor.
        """
        options = SamplingOptions(output_type=output_type, return_dict=return_dict)
        slices = self.check_image(image).to(self._execution_device)
        sizes = erosion_size or self.config["erosion_size"], median_size or self.config["median_size"]
        parts, outputs = slices.split(batch_size), []
        with self.bar(len(parts)) as bar:
            for part in parts:
                if self.reconstructor is None:
                    outputs.append(self._saliency(self.classifier, self.autoencoder, part, percentile))
                else:
                    with evaluating(self.reconstructor):  # batch norm would mix the images of a batch
                        outputs.append(self._reconstruct(self.reconstructor, part, sizes))
                bar.update()
        joined = [None if value[0] is None else torch.cat(value).float() for value in zip(*outputs)]
        return self.make_output(options, *joined)

    def what_images_must_fit(self) -> tuple[str, int, int]:
        network: Any = self.autoencoder if self.reconstructor is None else self.reconstructor
        return type(network).__name__, network.config["in_channels"], 1

    def _reconstruct(self, model, image, sizes):
        """Counterfactual, anomaly map, mask and no saliency."""
        seen, default_size = image, 5
        if isinstance(model, FAnoGAN):
            sample = model.to_sample(image.to(model.dtype))
            seen, made, default_size = sample / 2 + 0.5, model.reconstruct(sample) / 2 + 0.5, 1
        else:
            made = model(image.to(model.dtype))
        sizes = [default_size if size is None else size for size in sizes]
        anomaly = residual_map(seen.float(), made.float(), *sizes, self.config["anomaly_channels"])
        anomaly = resize(anomaly, image.shape[-2:])
        made = resize(made, image.shape[-2:]).clamp(0, 1)
        return made, anomaly, torch.ones_like(anomaly), None

    def _saliency(self, classifier, autoencoder, image, percentile):
        """Counterfactual, anomaly map, mask, and the saliency that both are made of."""
        saliency = self.make_saliency(image)
        mask, _ = self.choose_mask(image, saliency, percentile=percentile)
        anomaly = mask if self.config["saliency_as"] == "mask" else saliency
        if self.config["saliency_as"] == "blurred":
            anomaly = gaussian_blur(saliency, BLUR_KERNEL)
            if self.config["percentile_over"] == "foreground":
                anomaly = anomaly * self.foreground(image)
        options = self.config["saliency_options"] or {}
        of_one = {name: value for name, value in options.items() if name not in OF_THE_MAP}
        healthy = torch.full((len(image),), HEALTHY, device=image.device)
        with torch.enable_grad():  # the call is under no_grad, and the search needs gradients
            found = latent_counterfactual(classifier, autoencoder, image.to(autoencoder.dtype), healthy, **of_one)
        return found.counterfactual, anomaly, mask, saliency


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """The model in eval mode inside the block, and as it was after it."""
    was = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in was.items():
            module.training = training
