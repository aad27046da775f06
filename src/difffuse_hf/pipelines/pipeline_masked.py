"""What the pipelines that repaint inside a mask share: the saliency of their own classifier, and the mask from it."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from ..data.slice_settings import CHEST, LESION_PROBABILITY
from ..errors import InputError, require_choice
from ..models.modeling_autoencoder import ResNetAutoencoder
from ..models.modeling_slice_classifier import SliceClassifier
from ..preprocessing.intracranial import BONE_HU, inside_skull
from ..saliency.common import class_logits
from ..saliency.counterfactual import class_agnostic_saliency
from ..saliency.mask import saliency_to_mask
from ..saliency.methods import WITH_AUTOENCODER, saliency_method
from .map_recipe import MapRecipe, map_by_recipe, widened
from .pipeline_base import CounterfactualPipeline, as_tensor
from .presets import Preset
from .sampling import Images, Sampling, images_a_call, leave

PERCENTILE_OVER = ("image", "foreground")
SOFT_TISSUE_HU = 80  # fresh blood reaches it; what is denser is bone or calcified
ROUNDING = 1e-3  # of the top of the window, by the weights of resampling
FirstLook = Callable[[Sampling, torch.Tensor], torch.Tensor]  # images, mask (B, 1, H, W) -> samples (B, N, C, H, W)


class MaskedPipeline(CounterfactualPipeline):
    """Base of the pipelines with a mask; a subclass registers `classifier` and `autoencoder`, too, or None for them.

    Its config holds `percentile`, `percentile_over` and `saliency_options`.
    """

    model_cpu_offload_seq = "classifier->autoencoder->unet"
    _optional_components = ["classifier", "autoencoder", "processor"]
    _callback_tensor_inputs = ["sample", "noise_pred", "mask"]

    classifier: SliceClassifier | None
    autoencoder: ResNetAutoencoder | None

    def make_saliency(self, image: torch.Tensor) -> torch.Tensor:
        """Saliency of the pipeline's own classifier (and autoencoder), `(B, 1, H, W)` in [0, 1].

        Class-agnostic, from latent counterfactuals; or what `saliency_options["method"]` names (see `METHODS`), of the
        class that the classifier predicts.
        """
        options = dict(self.config["saliency_options"] or {})
        name = options.pop("method", class_agnostic_saliency.__name__)
        if self.classifier is None or (name in WITH_AUTOENCODER and self.autoencoder is None):
            raise InputError("This model has no classifier and autoencoder of its own: pass `saliency` or `mask`.")
        if name == class_agnostic_saliency.__name__ and image.device.type == "cpu":
            options.setdefault("batch_size", images_a_call(image))
        method = saliency_method(name, self.classifier, self.autoencoder, **options)
        with torch.enable_grad():  # the call is under no_grad, and saliency needs gradients
            saliency = method(image.to(self.classifier.dtype, memory_format=torch.channels_last))  # convolves faster
        return saliency.detach().float()

    @property
    def pixel_mm(self) -> float:
        """Side of a pixel of the model's slices in millimetres; 1 where the model does not say."""
        return getattr(self.processor, "pixel_spacing_mm", 1.0)

    @property
    def lesion_probability_threshold(self) -> float:
        """The lesion probability from which on a slice is taken for diseased."""
        return getattr(self.processor, "lesion_probability_threshold", LESION_PROBABILITY)

    def foreground(self, image: torch.Tensor) -> torch.Tensor:
        """Where a lesion can be in images (B, C, H, W): all that is not black, on head CT inside the skull only.

        Bone is what reaches the top of the window, if that leaves all soft tissue below. Boolean, `(B, 1, H, W)`.
        """
        window = getattr(self.processor, "window_hu", None)
        chest = getattr(self.processor, "body_part", None) == CHEST
        if window is None or chest or window[1] < SOFT_TISSUE_HU:
            return (image > 0).any(dim=1, keepdim=True)
        planes = torch.where(image[:, 0] >= 1 - ROUNDING, BONE_HU + 1.0, 0.0).cpu().numpy()
        inside = [inside_skull(plane[None], self.pixel_mm) for plane in planes]  # (1, H, W): each slice by itself
        return torch.from_numpy(np.stack(inside)).to(image.device)

    @torch.no_grad()
    def lesion_probability(self, image: torch.Tensor) -> torch.Tensor:
        """What the classifier thinks of images (B, C, H, W) in [0, 1]: probabilities (B,) in float32.

        Raises:
            InputError: the model has no classifier, or one that answers NaN.
        """
        if self.classifier is None:
            raise InputError("This model has no classifier to say whether a slice passes as healthy.")
        logits = class_logits(self.classifier, image.to(self.classifier.device, self.classifier.dtype))
        probability = logits.float().softmax(dim=1)[:, 1]
        if not probability.isfinite().all():
            raise InputError("The classifier answers NaN, so nothing is known of the slice; copy the model again.")
        return probability

    def looks_diseased(self, image: torch.Tensor) -> torch.Tensor:
        """Which images (B, C, H, W) the classifier finds suspicious: boolean, (B,)."""
        return self.lesion_probability(image) >= self.lesion_probability_threshold

    def make_map(
        self,
        reference: torch.Tensor,
        expected: torch.Tensor,
        deviation: torch.Tensor | None,
        recipe: MapRecipe | None,
        saliency: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The map by a recipe, or the thesis's map without one, of the model's own channels and square."""
        if recipe is None:
            return self.map_of(reference, expected)
        return map_by_recipe(reference, expected, deviation, recipe, self.pixel_mm, saliency)

    def choose_mask(
        self,
        image: torch.Tensor,
        saliency: Images | None = None,
        mask: Images | None = None,
        percentile: float | None = None,
        mask_variant: str = "thesis",
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Where to repaint: the mask as given, or the most salient pixels.

        Args:
            image (`torch.Tensor` of shape `(B, C, H, W)`): in [0, 1].
            saliency, mask (`torch.Tensor` of shape `(B, 1, H, W)`, *optional*): a mask has precedence; with neither,
                the saliency is the pipeline's own.
            percentile (`float`, *optional*): τ, the model's own by default.
            mask_variant (`str`): see `saliency_to_mask`.

        Returns:
            The mask, and the saliency if there is one; both `(B, 1, H, W)`.
        """
        percentile_over = self.config["percentile_over"]
        require_choice("percentile_over", percentile_over, PERCENTILE_OVER)
        if saliency is not None:
            saliency = check_map("saliency", saliency, image)
        if mask is not None:
            mask = check_map("mask", mask, image)
            if mask.min() < 0 or mask.max() > 1:
                raise InputError(f"`mask` must lie in [0, 1], got {mask.min():.3g} to {mask.max():.3g}.")
            return mask, saliency
        if saliency is None:
            saliency = self.make_saliency(image)
        foreground = self.foreground(image) if percentile_over == "foreground" else None
        share: float = self.setting("percentile", percentile)
        return saliency_to_mask(saliency, share, variant=mask_variant, foreground=foreground), saliency

    def fit_mask(
        self,
        run: Sampling,
        mask: torch.Tensor,
        look: FirstLook,
        settings: Preset,
        percentile: float,
        recipe: MapRecipe | None,
    ) -> torch.Tensor:
        """A first look with few samples fits the mask to the lesion: wider where it misses some, then tight around it.

        Where the classifier does not take the first look for healthy, the most salient pixels of the counterfactual
        join the mask and are repainted in turn, `scout_rounds` times at most. What has changed by `scout_threshold`
        then becomes the mask, with a margin; where nothing has changed so much, the wide mask stays.

        Args:
            run (`Sampling`): the images.
            mask (`torch.Tensor` of shape `(B, 1, H, W)`): the most salient pixels.
            look (`FirstLook`): repaints inside a mask, with `scout_samples` samples.
            settings (`Preset`): with the other `scout_...` values.
            percentile (`float`): τ, of the saliency of the counterfactuals.
            recipe (`MapRecipe`, *optional*): what counts as a change; it is taken without the samples' disagreement.

        Returns:
            `torch.Tensor` of shape `(B, 1, H, W)`: 1 where tissue is repainted, else 0.
        """
        run = replace(run, on_step=leave)
        samples = look(run, mask)
        for _ in range(settings.scout_rounds):
            seen = samples.mean(1)
            sick = self.looks_diseased(seen).nonzero()[:, 0]
            if not len(sick):
                break
            salient, _ = self.choose_mask(seen[sick], percentile=percentile, mask_variant=settings.mask_variant)
            mask = mask.index_copy(0, sick, torch.maximum(mask[sick], salient))
            samples = samples.index_copy(0, sick, look(run.of(sick), mask[sick]))
        if not settings.scout_threshold:
            return mask
        plain = None if recipe is None else replace(recipe, sample_noise=None, weighted=False)
        found = self.make_map(run.image, samples.mean(1), None, plain) >= settings.scout_threshold
        tight = widened(found.to(mask), settings.scout_margin_mm, self.pixel_mm)
        return torch.where(found.flatten(1).any(1).view(-1, 1, 1, 1), tight, mask)


def check_map(name: str, values: Images, image: torch.Tensor) -> torch.Tensor:
    """A map that a caller brings, as float32 beside `image`, or an `InputError`."""
    values = as_tensor(name, values).float()
    expected = (len(image), 1, *image.shape[2:])
    if values.shape != expected:
        raise InputError(f"`{name}` must have the shape {expected} to fit `image`, got {tuple(values.shape)}.")
    if not values.isfinite().all():
        raise InputError(f"`{name}` has pixels that are NaN or infinite.")
    return values.to(image.device)
