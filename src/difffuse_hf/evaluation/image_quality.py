"""Do counterfactuals look like healthy slices (kernel inception distance, thesis Sec. 6.6; grain), like one volume?"""

import warnings
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from ..models.backbone import FeatureModifier


def kid(
    real: torch.Tensor,
    generated: torch.Tensor,
    extractor: Callable[[torch.Tensor], torch.Tensor],
    subset_size: int | None = None,
    subsets: int = 100,
    batch_size: int = 32,
) -> tuple[float, float]:
    """Kernel inception distance (Bińkowski et al. 2018) of two sets of slices: mean and standard deviation.

        MMD² with k(x, y) = (xᵀy / d + 1)³ over features of d numbers, unbiased: 0 on average for equal sets

    The features are in the figure's name: "KID" alone means Inception's pooled features (`inception_features`).

    Args:
        real, generated (`torch.Tensor` of shape `(N, C, H, W)` and `(M, C, H, W)`): in [0, 1].
        extractor: `(B, C, H, W) -> (B, d)`, such as `inception_features()` or `classifier_features(classifier)`.
        subset_size (`int`, *optional*): slices drawn from each set for an estimate; by default all of the smaller set.
        subsets (`int`): how many estimates mean and deviation are of. They are drawn from torch's own generator.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    smallest = min(len(real), len(generated))
    if smallest < 2 or (subset_size or 2) > smallest:
        raise ValueError(
            f"The sets have {len(real)} and {len(generated)} slices, but an estimate takes "
            f"{subset_size or 'at least 2'} of each; lower `subset_size` or bring more slices."
        )
    whole = subset_size is None and len(real) == len(generated)  # every subset would be the same one
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*will save all extracted features")
        distance = KernelInceptionDistance(
            feature=_AsModule(extractor), subsets=1 if whole else subsets, subset_size=subset_size or smallest
        )
    with torch.no_grad():
        for images, is_real in ((real, True), (generated, False)):
            for batch in images.split(batch_size):
                distance.update(batch, real=is_real)
    mean, deviation = distance.compute()
    return float(mean), 0.0 if whole else float(deviation)


def flicker(images: torch.Tensor, counterfactuals: torch.Tensor) -> float:
    """How much the change of neighbouring slices differs: mean |Δ_s (x̂ − x)| over the brain that both slices show.

    A change that goes on from slice to slice as it is has none, whatever the anatomy does in between.

    Args:
        images, counterfactuals (`torch.Tensor` of shape `(S, C, H, W)`): the slices of one scan, in order.
    """
    brain = (images > 0).any(1, keepdim=True)
    both = (brain[1:] & brain[:-1]).expand_as(images[1:])
    step = (counterfactuals - images).diff(dim=0).abs()[both]
    return float(step.mean()) if step.numel() else 0.0


def grain(images: torch.Tensor, counterfactuals: torch.Tensor, masks: torch.Tensor) -> float:
    """Gradient energy of what was repainted, over that of the tissue on the other side of the image.

    About 1 for a fill as rough as healthy tissue, above it a grainy one, below it a smooth one. Differences to the
    next pixel count where both pixels are inside: of the counterfactual in the mask, of the image in the mask mirrored
    left to right where nothing was repainted. The first channel counts.

    Args:
        images, counterfactuals (`torch.Tensor` of shape `(B, C, H, W)`): slices, in [0, 1].
        masks (`torch.Tensor` of shape `(B, 1, H, W)`): > 0 where tissue was repainted.

    Returns:
        the ratio over all slices together; NaN where nothing was repainted, or nothing lies opposite.
    """
    repainted, tissue = masks > 0, images[:, :1] > 0
    here = _gradient_energy(counterfactuals[:, :1], repainted & tissue)
    opposite = _gradient_energy(images[:, :1], repainted.flip(-1) & ~repainted & tissue)
    return here / opposite if opposite else float("nan")


def _gradient_energy(images: torch.Tensor, inside: torch.Tensor) -> float:
    """Mean square of the differences to the next row's and the next column's pixel, both of them inside."""
    squares = [images.diff(dim=axis)[inside.narrow(axis, 1, inside.shape[axis] - 1)
                                     & inside.narrow(axis, 0, inside.shape[axis] - 1)].square()
               for axis in (2, 3)]  # fmt: skip
    return float(torch.cat(squares).mean())


def classifier_features(classifier) -> Callable[[torch.Tensor], torch.Tensor]:
    """The last feature maps of a classifier of this package, averaged over the image: a stand-in for Inception's.

    A classifier trained on the data at hand sees what matters there, but its distances compare with no one else's.
    """

    class Last(FeatureModifier):
        def features(self, stage, maps):
            self.maps = maps
            return maps

    def extract(images):
        last = Last()
        classifier(images.to(classifier.device), feature_modifier=last)
        return last.maps.mean((2, 3)).float().cpu()

    return extract


def inception_features(channel: int = 0) -> Callable[[torch.Tensor], torch.Tensor]:
    """Inception's 2048 pooled features of one channel, shown as grey; needs `torch-fidelity` and its weights.

    torch-fidelity fetches the weights when they are first used, or finds them in torch's cache of downloads.
    """
    try:
        from torchmetrics.image.fid import NoTrainInceptionV3

        network = NoTrainInceptionV3(name="inception-v3-compat", features_list=["2048"])
    except (ImportError, ModuleNotFoundError) as error:
        raise ImportError('Inception needs torch-fidelity: pip install "torchmetrics[image]".') from error

    def extract(images):
        grey = images[:, channel : channel + 1].expand(-1, 3, -1, -1)
        grey = F.interpolate(grey, size=(299, 299), mode="bilinear", antialias=True)
        return network((grey * 255).round().byte()).float()

    return extract


class _AsModule(nn.Module):
    """A function as the module that torchmetrics asks for."""

    num_features = None

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, images):
        return self.function(images)
