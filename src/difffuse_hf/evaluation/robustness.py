"""Is a saliency map about the network at all? Sanity checks by randomised parameters, and noise in the input (Ch. 5).

A map that stays the same when the weights are replaced by noise shows edges of the image, not what the network looks
for (Adebayo et al. 2018, https://arxiv.org/abs/1810.03292).
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from ..models.backbone import FeatureModifier

_RECTIFIERS = (nn.ReLU, nn.LeakyReLU)


def layers_in_order(classifier: nn.Module, image: torch.Tensor, saliency: torch.Tensor | None = None) -> list[str]:
    """Names of the modules that hold parameters of their own, in the order in which a forward pass reaches them.

    Modules that it does not reach are not listed; one that it reaches twice has its last place.
    """
    order: dict[str, None] = {}

    def reached(name):
        def note(*_):
            order.pop(name, None)
            order[name] = None

        return note

    handles = [
        module.register_forward_pre_hook(reached(name))
        for name, module in classifier.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    try:
        with torch.no_grad():
            classifier(image) if saliency is None else classifier(image, saliency=saliency)
    finally:
        for handle in handles:
            handle.remove()
    return list(order)


@torch.no_grad()
def randomise(module: nn.Module, generator: torch.Generator) -> None:
    """Replace a module's own parameters, in place, by normal noise of the same mean and standard deviation.

    Running statistics stay, and so does a parameter that is the same everywhere, such as a bias of zeros.
    """
    for parameter in module.parameters(recurse=False):
        noise = torch.randn(parameter.shape, generator=generator).to(parameter)
        parameter.copy_(parameter.mean() + noise * parameter.std(correction=0))


def randomisation_check(
    method: Callable[[nn.Module, torch.Tensor], torch.Tensor],
    classifier: nn.Module,
    image: torch.Tensor,
    saliency: torch.Tensor | None = None,
    mode: str = "cascade",
    num_steps: int | None = None,
    generator: torch.Generator | None = None,
) -> list[dict]:
    """How like the trained network's map is the map of a network whose parameters are partly noise?

    Args:
        method: `method(classifier, image)` gives maps (B, 1, H, W) or (B, S, 1, H, W); with the target fixed, or the
            randomised network would choose another one.
        classifier: in eval mode; it stays as it is.
        image (`torch.Tensor` of shape `(B, C, H, W)` or `(B, S, C, H, W)`): slices or scans in [0, 1].
        saliency (`torch.Tensor`, *optional*): what the classifier needs beside the image.
        mode (`str`): "cascade" randomises from the last layer on, more at every step; "independent" one layer, or
            group of layers, at a time.
        num_steps (`int`, *optional*): neighbouring layers are randomised together, in so many steps; by default each
            layer is a step.
        generator (`torch.Generator`, *optional*): on the CPU; seeded with 0 by default.

    Returns:
        One dictionary a step, the last layers first: `layers` (names), and the means over the batch of `spearman`
        (rank correlation of the pixels, -1 to 1) and `ssim` (structural similarity of the slices), 1 for equal maps.
        A map that is constant has no ranks: `spearman` is NaN, or 1 if the other is constant too.
    """
    if mode not in ("cascade", "independent"):
        raise ValueError(f'`mode` is "cascade" or "independent", got {mode!r}.')
    generator = generator or torch.Generator().manual_seed(0)
    layers = layers_in_order(classifier, image, saliency)[::-1]
    groups = [part.tolist() for part in np.array_split(layers, min(num_steps or len(layers), len(layers)))]
    before = method(classifier, image)
    noisy, steps = copy.deepcopy(classifier), []
    for group in groups:
        if mode == "independent":
            noisy = copy.deepcopy(classifier)
        for name in group:
            randomise(noisy.get_submodule(name), generator)
        after = method(noisy, image)
        steps.append({"layers": group, "spearman": rank_correlation(before, after), "ssim": similarity(before, after)})
    return steps


def rank_correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    """Spearman's correlation of the pixels of two batches of maps (B, ...), mean over the batch; -1 to 1."""
    return float(np.mean([_spearman(one, other) for one, other in zip(_maps(first), _maps(second))]))


def similarity(first: torch.Tensor, second: torch.Tensor) -> float:
    """Structural similarity (Wang et al. 2004) of two batches of maps (B, ..., H, W) in [0, 1], mean over slices.

    Windows are 7 pixels wide (scikit-image's default), or less in images that are smaller.
    """
    from skimage.metrics import structural_similarity

    height, width = first.shape[-2:]
    window = min(7, height - (height + 1) % 2, width - (width + 1) % 2)  # odd
    values = [
        structural_similarity(one, other, win_size=window, data_range=1.0)
        for one, other in zip(*(_maps(maps).reshape(-1, height, width) for maps in (first, second)))
    ]
    return float(np.mean(values))


def preactivation_variances(
    classifier: nn.Module,
    images: torch.Tensor,
    noise_std: float,
    saliency: torch.Tensor | None = None,
    batch_size: int = 4,
    generator: torch.Generator | None = None,
) -> list[dict]:
    """Variance of what each stage of the convolutional base passes to its last rectifier, without and with noise.

    How far noise in the input travels (Sec. 5.6.9, Table 5.6). The variance of a channel is over all images and
    positions; the figure of a stage is the mean over its channels, our reading. A stage without a ReLU or leaky ReLU
    module is judged by its output.

    Args:
        classifier: with `num_stages` and `feature_modifier`; in eval mode.
        images (`torch.Tensor` of shape `(B, C, H, W)` or `(B, S, C, H, W)`): in [0, 1].
        noise_std (`float`): of the Gaussian noise added to the images; they are not clipped afterwards.
        saliency (`torch.Tensor`, *optional*): what the classifier needs beside the images; no noise is added to it.
        batch_size (`int`): images or scans at a time; it does not change the result.
        generator (`torch.Generator`, *optional*): of the noise, on the CPU; seeded with 0 by default.

    Returns:
        One dictionary a stage: `stage` (1, 2, ...), `clean`, `noisy` and `ratio` (noisy / clean).
    """
    if noise_std < 0:
        raise ValueError(f"`noise_std` is a standard deviation, 0 or more, got {noise_std}.")
    if classifier.num_stages == 0:
        raise ValueError("`classifier` has no stages: a vision transformer has no feature maps.")
    generator = generator or torch.Generator().manual_seed(0)
    noise = noise_std * torch.randn(images.shape, generator=generator).to(images)
    clean = _stage_variances(classifier, images, saliency, batch_size)
    noisy = _stage_variances(classifier, images + noise, saliency, batch_size)
    return [
        {"stage": stage, "clean": before, "noisy": after, "ratio": after / before if before > 0 else float("nan")}
        for stage, (before, after) in enumerate(zip(clean, noisy), start=1)
    ]


class _Variances(FeatureModifier):
    """Sums of the values and of their squares, channel by channel, stage by stage."""

    def __init__(self, num_stages: int):
        self.sums: list = [0.0] * num_stages  # each becomes (3, D): count, sum, sum of squares
        self.latest: torch.Tensor | None = None

    def activation(self, _module, inputs):
        self.latest = self._sum(inputs[0])

    def features(self, stage, maps):
        self.sums[stage - 1] = self.sums[stage - 1] + (self._sum(maps) if self.latest is None else self.latest)
        self.latest = None
        return maps

    def variances(self) -> list[float]:
        return [float((squares / count - (total / count) ** 2).mean()) for count, total, squares in self.sums]

    @staticmethod
    def _sum(maps):
        maps = maps.detach().double()
        axes = [axis for axis in range(maps.ndim) if axis != 1]
        count = torch.full_like(maps[0].flatten(1)[:, 0], maps.numel() / maps.shape[1])
        return torch.stack([count, maps.sum(axes), maps.square().sum(axes)])


@torch.no_grad()
def _stage_variances(classifier, images, saliency, batch_size) -> list[float]:
    variances = _Variances(classifier.num_stages)
    base = getattr(classifier, "base", classifier)  # what ACAT and its competitors add is no part of the base
    base = getattr(base, "backbone", base)
    handles = [
        module.register_forward_pre_hook(variances.activation)
        for module in base.modules()
        if isinstance(module, _RECTIFIERS)
    ]
    try:
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            options = {} if saliency is None else {"saliency": saliency[part]}
            classifier(images[part], feature_modifier=variances, **options)
    finally:
        for handle in handles:
            handle.remove()
    return variances.variances()


def _maps(maps: torch.Tensor) -> np.ndarray:
    return maps.detach().float().cpu().numpy()


def _spearman(first: np.ndarray, second: np.ndarray) -> float:
    from scipy.stats import spearmanr

    constant = np.ptp(first) == 0, np.ptp(second) == 0
    if any(constant):
        return 1.0 if all(constant) else np.nan
    return float(spearmanr(first.ravel(), second.ravel())[0])  # pyright: ignore[reportArgumentType]
