"""The networks that all classifiers stand on, and the one place where their maps are changed (thesis Chs. 4-5).

Every competing classifier is a base network and something that happens to its feature maps after a stage: attention
(ACAT), a product (SMIC, HSM), self-attention (SeAtt), or a look at them (Grad-CAM). That something is a
`FeatureModifier`.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import initialization as init

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)
LEAKY_SLOPE = 0.01  # Table 4.1: leaky ReLU; its slope is PyTorch's
# Table 4.1: AvgPool2D, 2 x 2, stride 2. "max" is what this package had before it read so; see docs/results.md.
POOLINGS = {"average": nn.AvgPool2d, "max": nn.MaxPool2d}


class FeatureModifier:
    """What may happen to the maps inside a base network; this one changes nothing."""

    def features(self, stage: int, maps: torch.Tensor) -> torch.Tensor:
        """Takes the maps (N, D, h, w) that stage 1, 2, ... has made; what it returns goes on."""
        return maps

    def slice_weights(self, maps: torch.Tensor) -> torch.Tensor | None:
        """Weights (N,) of the images in the mean over a scan's slices, from the last maps; `None`: all alike."""
        return None


class ModifierChain(FeatureModifier):
    """Several modifiers, one after the other; the first that weighs the slices decides."""

    def __init__(self, *modifiers: FeatureModifier):
        self.modifiers = modifiers

    def features(self, stage, maps):
        for modifier in self.modifiers:
            maps = modifier.features(stage, maps)
        return maps

    def slice_weights(self, maps):
        weights = (modifier.slice_weights(maps) for modifier in self.modifiers)
        return next((weight for weight in weights if weight is not None), None)


class ConvStage(nn.Module):
    """3x3 convolution without bias, batch norm, leaky ReLU, and 2x2 pooling of a key of `POOLINGS`, or none."""

    def __init__(self, in_channels: int, out_channels: int, pooling: str | None):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.activation = nn.LeakyReLU(LEAKY_SLOPE)
        # With `ceil_mode` no image is too small, and no row or column is lost.
        self.pool = nn.Identity() if pooling is None else POOLINGS[pooling](2, stride=2, ceil_mode=True)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.pool(self.activation(self.norm(self.conv(maps))))


class HalfBrainCNN(nn.Module):
    """The seven convolutions of Table 4.1, a pooling between each and the next."""

    def __init__(self, num_channels: int, hidden_sizes: Sequence[int], num_pools: int, pooling: str):
        super().__init__()
        widths = [num_channels, *hidden_sizes]
        self.stages = nn.ModuleList(
            ConvStage(narrow, wide, pooling if i < num_pools else None)
            for i, (narrow, wide) in enumerate(zip(widths, widths[1:]))
        )
        self.gradient_checkpointing = False

    def forward(self, images: torch.Tensor, feature_modifier: FeatureModifier) -> torch.Tensor:
        """Last feature maps (N, D, h, w) of images (N, C, H, W)."""
        maps = images
        for number in range(1, len(self.stages) + 1):
            maps = feature_modifier.features(number, self.step(number, maps))
        return maps

    def step(self, stage: int, maps: torch.Tensor) -> torch.Tensor:
        """Maps after stage 1, 2, ... from those before it, which are the images for the first."""
        return run_stage(self, self.stages[stage - 1], maps)


class ResNetTrunk(nn.Module):
    """A timm ResNet without its head, a stage at a time."""

    def __init__(self, network: Any):
        super().__init__()
        self.network = network
        self.gradient_checkpointing = False

    def step(self, stage: int, maps: torch.Tensor) -> torch.Tensor:
        """Maps after stage 1, 2, ... from those before it, which are the images for the first."""
        maps = resnet_stem(self.network, maps) if stage == 1 else maps
        return run_stage(self, getattr(self.network, f"layer{stage}"), maps)


def resnet_stem(network: Any, images: torch.Tensor) -> torch.Tensor:
    """What a timm ResNet does before its four stages."""
    return network.maxpool(network.act1(network.bn1(network.conv1(images))))


class TimmStages:
    """A timm network as stages with maps to change: the four of a ResNet, or the last maps of any other.

    It holds no parameters: the network stays a child of the classifier under its own names.
    """

    def __init__(self, network: Any):
        self.network = network
        self.layers = [getattr(network, f"layer{i}", None) for i in range(1, 5)]
        self.is_resnet = all(layer is not None for layer in self.layers) and hasattr(network, "maxpool")
        self.channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"
        self.has_maps = not hasattr(network, "cls_token")  # a transformer's head may see its class token alone
        self.num_stages = 4 if self.is_resnet else int(self.has_maps)

    def stage_widths(self) -> list[int]:
        """Channels of the maps after each stage."""
        if self.is_resnet:
            return [info["num_chs"] for info in self.network.feature_info][-4:]
        return [self.network.num_features] * self.num_stages

    def readers(self, stage: int) -> list[nn.Conv2d]:
        """The convolutions of a ResNet that read the maps after a stage but the last."""
        block = self.layers[stage][0]  # type: ignore[index]
        return [block.conv1, *(layer for layer in block.downsample.modules() if isinstance(layer, nn.Conv2d))]

    def __call__(
        self, owner: nn.Module, images: torch.Tensor, feature_modifier: FeatureModifier
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Pooled features (N, D) of images (N, C, H, W), and the maps (N, D, h, w) before pooling, if any."""
        network = self.network
        if self.is_resnet:
            maps = resnet_stem(network, images)
            for number, layer in enumerate(self.layers, start=1):
                maps = feature_modifier.features(number, run_stage(owner, layer, maps))
            return network.forward_head(maps, pre_logits=True), maps
        maps = network.forward_features(images)
        if not self.has_maps:
            return network.forward_head(maps, pre_logits=True), None
        if self.channels_last:
            seen = feature_modifier.features(1, maps.permute(0, 3, 1, 2))
            return network.forward_head(seen.permute(0, 2, 3, 1), pre_logits=True), seen
        seen = feature_modifier.features(1, maps)
        return network.forward_head(seen, pre_logits=True), seen


def run_stage(owner: nn.Module, stage: Any, maps: torch.Tensor) -> Any:
    """A stage, computed again in the backward pass where its owner has gradient checkpointing on."""
    if owner.gradient_checkpointing and owner.training and torch.is_grad_enabled():
        return checkpoint(stage, maps, use_reentrant=False)
    return stage(maps)


def as_scan(pixel_values: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) slices as scans of one slice; scans (B, S, C, H, W) as they are."""
    return pixel_values if pixel_values.ndim == 5 else pixel_values[:, None]


def check_pixel_values(pixel_values: torch.Tensor, num_channels: int) -> None:
    """Raise a `ValueError` unless these are slices or scans of the right number of channels."""
    if pixel_values.ndim not in (4, 5):
        raise ValueError(
            f"`pixel_values` are slices (B, C, H, W) or scans (B, S, C, H, W), got shape {tuple(pixel_values.shape)}."
        )
    if pixel_values.shape[-3] != num_channels:
        raise ValueError(
            f"`pixel_values` has {pixel_values.shape[-3]} channels but the classifier takes {num_channels}; "
            "stack the modalities on the channel axis: (B, C, H, W) or (B, S, C, H, W)."
        )


def check_channels(image: torch.Tensor, expected: int, network: str, name: str = "image") -> None:
    """Raise a `ValueError` unless slices (B, C, H, W) have the channels that a network takes."""
    if image.shape[1] != expected:
        raise ValueError(f"`{name}` has {image.shape[1]} channels but the {network} takes {expected}.")


def check_labels(labels: torch.Tensor, num_labels: int) -> None:
    """Raise a `ValueError` for class indices that the classifier does not have."""
    if labels.device.type == "cpu" and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_labels:
        wrong = labels[(labels < 0) | (labels >= num_labels)][0]
        raise ValueError(f"`labels` holds the class {int(wrong)}, but the classifier knows 0 to {num_labels - 1}.")


def resize_maps(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Maps (N, K, h, w) on a grid of another size, bilinear; averaged over area where it is coarser."""
    height, width = size
    if tuple(maps.shape[-2:]) == (height, width):
        return maps
    if maps.shape[-2] >= height and maps.shape[-1] >= width:
        return F.interpolate(maps, size=(height, width), mode="area")
    return F.interpolate(maps, size=(height, width), mode="bilinear", align_corners=False)


def starts_at(value: float, layer: Layer) -> Layer:
    """A convolution or linear layer whose output is `value` everywhere until it has learnt something."""
    layer.first_value = value  # pyright: ignore[reportArgumentType]  a plain attribute, read by `initialise`
    return layer


def initialise(module: nn.Module) -> None:
    """He initialisation of a convolution or linear layer, unless it `starts_at` a value; of a norm ones and zeros."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        first = getattr(module, "first_value", None)
        if first is None:
            init.kaiming_normal_(module.weight, a=LEAKY_SLOPE, nonlinearity="leaky_relu")
        else:
            init.zeros_(module.weight)
        if module.bias is not None:
            init.constant_(module.bias, first or 0.0)
    elif isinstance(module, (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)):
        if module.weight is not None:
            init.ones_(module.weight)
            init.zeros_(module.bias)
        statistics = dict(module.named_buffers(recurse=False))  # of a batch norm; transformers makes them empty
        if "running_mean" in statistics:
            init.zeros_(statistics["running_mean"])
            init.ones_(statistics["running_var"])
            init.zeros_(statistics["num_batches_tracked"])
