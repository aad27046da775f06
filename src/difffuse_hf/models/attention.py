"""The attention modules of ACAT (thesis Secs. 5.5.2 and 5.6.2) and of its competitors, one small module each."""

import torch
from torch import nn

from .backbone import LEAKY_SLOPE, resize_maps


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
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.norm = nn.BatchNorm2d(1) if batch_norm else nn.Identity()

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Attention (N, 1, h, w) in [0, 1] of feature maps (N, D, h, w)."""
        return self.norm(self.conv(maps.amax(1, keepdim=True))).sigmoid()


class AttentionFusion(nn.Module):
    """S_f = σ(conv1x1([S_1, S_2, S_3])), the masks averaged down to one size first (Sec. 5.5.2)."""

    def __init__(self, num_masks: int):
        super().__init__()
        self.conv = nn.Conv2d(num_masks, 1, 1)

    def forward(self, masks: list[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        """Fused attention (N, 1, h', w') in [0, 1] of masks (N, 1, h, w); `size` is (h', w')."""
        return self.conv(torch.cat([resize_maps(mask, size) for mask in masks], dim=1)).sigmoid()


class SliceAttention(nn.Module):
    """How much a slice counts in the mean over its scan: an MLP with one hidden layer and a sigmoid (Sec. 5.6.2)."""

    def __init__(self, num_features: int, hidden_size: int, dropout: float):
        super().__init__()
        self.hidden = nn.Linear(num_features, hidden_size)
        self.activation = nn.LeakyReLU(LEAKY_SLOPE)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden_size, 1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Weights (N,) in [0, 1] of images from their maps (N, D, h, w)."""
        pooled = maps.mean((2, 3))
        return self.out(self.dropout(self.activation(self.hidden(pooled))))[:, 0].sigmoid()


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
