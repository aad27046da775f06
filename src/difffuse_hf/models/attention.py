"""The attention modules of ACAT (thesis Secs. 5.5.2 and 5.6.2) and of its competitors, one small module each."""

import math

import torch
from torch import nn

from .backbone import LEAKY_SLOPE, resize_maps, starts_at


def modulate(features: torch.Tensor, attention: torch.Tensor, residual: bool = True) -> torch.Tensor:
    """G = F + F ⊙ S (Eq. 5.2: ∂G/∂F = 1 + S, so that what the map overlooks is damped and never lost).

    Args:
        features (`torch.Tensor` of shape `(N, D, h, w)`): F.
        attention (`torch.Tensor` of shape `(N, 1, h, w)`): S in [0, 1].
        residual (`bool`): without it G = F ⊙ S, an ablation.
    """
    return features + features * attention if residual else features * attention


class SpatialAttention(nn.Module):
    """S_s = σ(conv3x3(max over channels of S)) (Eq. 5.1); the author's code has a batch norm before the sigmoid."""

    def __init__(self, batch_norm: bool = False):
        super().__init__()
        self.conv = starts_at(0.0, nn.Conv2d(1, 1, 3, padding=1))
        self.norm = nn.BatchNorm2d(1) if batch_norm else nn.Identity()

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Attention (N, 1, h, w) in [0, 1] of feature maps (N, D, h, w)."""
        return self.norm(self.conv(maps.amax(1, keepdim=True))).sigmoid()


class AttentionFusion(nn.Module):
    """S_f = conv1x1([S_1, S_2, S_3]), the masks averaged down to one size first (Sec. 5.5.2); no sigmoid."""

    def __init__(self, num_masks: int):
        super().__init__()
        self.conv = starts_at(0.0, nn.Conv2d(num_masks, 1, 1))

    def forward(self, masks: list[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        """Fused attention (N, 1, h', w') of masks (N, 1, h, w); `size` is (h', w')."""
        return self.conv(torch.cat([resize_maps(mask, size) for mask in masks], dim=1))


class SliceAttention(nn.Module):
    """How much a slice counts in the mean over its scan: an MLP with one hidden layer and a sigmoid (Sec. 5.6.2).

    With `num_slices` as in the author's code: the MLP sees all slices of a scan together, and its weights are those of
    a sum. Its result here is the weight times the number of slices, so that the mean over them is that sum.
    """

    def __init__(self, num_features: int, hidden_size: int, dropout: float, num_slices: int | None = None):
        super().__init__()
        self.num_slices = num_slices
        self.hidden = nn.Linear(num_features * (num_slices or 1), hidden_size)
        self.activation = nn.LeakyReLU(LEAKY_SLOPE)
        self.dropout = nn.Dropout(dropout)
        first = -math.log(num_slices - 1) if num_slices else 0.0  # a sigmoid of 1 / S, whose sum is the mean
        self.out = starts_at(first, nn.Linear(hidden_size, num_slices or 1))

    def forward(self, maps: torch.Tensor, num_views: int = 1) -> torch.Tensor:
        """Weights (N,) of images from their maps (N, D, h, w), which are `num_views` of each slice of a scan."""
        pooled = maps.mean((2, 3))
        if self.num_slices is None:
            return self._weights(pooled)[:, 0]
        if len(pooled) % (self.num_slices * num_views):
            raise ValueError(
                f"The slice attention was made for scans of {self.num_slices} slices and got "
                f"{len(pooled) // num_views} slices in all; give whole scans, or set `num_slices`."
            )
        scans = pooled.unflatten(0, (-1, self.num_slices, num_views)).transpose(1, 2).flatten(2)  # [B,V,S*D]
        return self.num_slices * self._weights(scans).transpose(1, 2).flatten()

    def _weights(self, features: torch.Tensor) -> torch.Tensor:
        return self.out(self.dropout(self.activation(self.hidden(features)))).sigmoid()


def weighted_mean(values: torch.Tensor, weights: torch.Tensor | None, dim: int = 1) -> torch.Tensor:
    """Mean over slices, Σ_s w_s v_s / Σ_s w_s; the plain mean without weights, so that equal weights change nothing.

    Args:
        values (`torch.Tensor` of shape `(B, S, ...)`): what the slices have.
        weights (`torch.Tensor`, *optional*): broadcastable to `values` from the left.
    """
    if weights is None:
        return values.mean(dim)
    weights = weights.reshape(*weights.shape, *[1] * (values.ndim - weights.ndim))
    return (values * weights).sum(dim) / weights.sum(dim).clamp_min(1e-6)


class SelfAttention(nn.Module):
    """Self-attention of SAGAN (Zhang 2019): F + γ Σ_j softmax_j(θ(F_i)·φ(F_j)) g(F_j), with γ = 0 at the start."""

    def __init__(self, channels: int):
        super().__init__()
        self.query = nn.Conv2d(channels, max(1, channels // 8), 1, bias=False)  # θ
        self.key = nn.Conv2d(channels, max(1, channels // 8), 1, bias=False)  # φ
        self.value = nn.Conv2d(channels, max(1, channels // 2), 1, bias=False)  # g
        self.out = nn.Conv2d(max(1, channels // 2), channels, 1, bias=False)
        self.gain = nn.Parameter(torch.zeros(1))  # γ

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        query, key, value = (layer(maps).flatten(2) for layer in (self.query, self.key, self.value))  # [N,c,hw]
        weights = (query.transpose(1, 2) @ key).softmax(-1)  # [N,hw,hw]
        attended = (value @ weights.transpose(1, 2)).unflatten(2, maps.shape[-2:])
        return maps + self.gain * self.out(attended)
