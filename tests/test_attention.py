"""Equations of the attention modules on tensors small enough to do by hand (thesis Secs. 5.5.2 and 5.6.2)."""

import pytest
import torch
from torch import nn

from difffuse_hf.models.attention import (
    AttentionFusion,
    SelfAttention,
    SliceAttention,
    SpatialAttention,
    modulate,
    weighted_mean,
)


def constant_conv(layer: nn.Conv2d, weight: float, bias: float):
    nn.init.constant_(layer.weight, weight)
    nn.init.constant_(layer.bias, bias)


def test_spatial_attention_is_the_sigmoid_of_a_convolution_of_the_maximum_over_channels():
    attention = SpatialAttention()
    nn.init.zeros_(attention.conv.weight)
    attention.conv.weight.data[0, 0, 1, 1] = 2.0  # the centre of the 3x3 window alone
    attention.conv.bias.data[0] = -1.0
    maps = torch.tensor([[[[0.0, 1.0]], [[0.5, -3.0]]]])  # (1, 2, 1, 2): maxima 0.5 and 1
    expected = torch.tensor([[[[2 * 0.5 - 1, 2 * 1.0 - 1]]]]).sigmoid()
    torch.testing.assert_close(attention(maps), expected)


def test_the_gradient_of_the_modulated_features_is_one_plus_the_attention():
    features = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    attention = torch.rand(2, 1, 4, 5, dtype=torch.float64)
    modulate(features, attention).sum().backward()
    torch.testing.assert_close(features.grad, (1 + attention).expand_as(features))  # Eq. 5.2


def test_without_the_residual_what_the_attention_does_not_see_is_lost():
    features, attention = torch.ones(1, 1, 1, 2), torch.tensor([[[[0.0, 0.25]]]])
    assert modulate(features, attention, residual=False).flatten().tolist() == [0.0, 0.25]
    assert modulate(features, attention).flatten().tolist() == [1.0, 1.25]


def test_fusion_averages_the_masks_down_to_one_size_and_mixes_them():
    fusion = AttentionFusion(2)
    fusion.conv.weight.data = torch.tensor([1.0, -2.0]).view(1, 2, 1, 1)
    fusion.conv.bias.data[0] = 0.5
    large = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]])  # mean 0.5
    small = torch.full((1, 1, 1, 1), 0.25)
    assert fusion([large, small], (1, 1)).item() == pytest.approx(0.5 - 2 * 0.25 + 0.5)
    assert fusion([large, 4 * small], (1, 1)).item() == pytest.approx(-1.0)  # a plain convolution: no sigmoid


def test_slice_attention_is_an_mlp_on_pooled_maps():
    attention = SliceAttention(num_features=1, hidden_size=2, dropout=0.5).eval()
    attention.hidden.weight.data = torch.tensor([[1.0], [-1.0]])
    attention.hidden.bias.data = torch.zeros(2)
    attention.out.weight.data = torch.tensor([[3.0, 100.0]])
    attention.out.bias.data = torch.tensor([1.0])
    maps = torch.tensor([[[[1.0, 3.0]]]])  # pooled to 2; the hidden layer gives 2 and, leaky, -0.02
    assert attention(maps).tolist() == pytest.approx([torch.tensor(3 * 2 - 100 * 0.02 + 1).sigmoid().item()])


def test_the_slice_attention_of_the_authors_code_sees_all_slices_and_sums():
    attention = SliceAttention(num_features=1, hidden_size=1, dropout=0.5, num_slices=2).eval()
    attention.hidden.weight.data = torch.tensor([[1.0, -2.0]])
    attention.hidden.bias.data = torch.zeros(1)
    attention.out.weight.data = torch.tensor([[1.0], [3.0]])
    attention.out.bias.data = torch.tensor([0.5, 0.0])
    maps = torch.tensor([5.0, 9.0, 2.0, 4.0]).view(4, 1, 1, 1)  # slice 1 left and right, slice 2 left and right
    hidden = [5 - 2 * 2, 9 - 2 * 4]
    expected = [torch.tensor(w).sigmoid().item() for w in (*(h + 0.5 for h in hidden), *(3.0 * h for h in hidden))]
    assert attention(maps, num_views=2).tolist() == pytest.approx([2 * weight for weight in expected])
    with pytest.raises(ValueError, match="made for scans of 2 slices and got 3"):
        attention(maps[:3])


def test_equal_weights_give_the_mean_and_a_weight_of_zero_leaves_a_slice_out():
    values = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [100.0, 200.0]]])  # (B=1, S=3, 2)
    torch.testing.assert_close(weighted_mean(values, torch.full((1, 3), 0.3)), values.mean(1))
    torch.testing.assert_close(weighted_mean(values, None), values.mean(1))
    torch.testing.assert_close(weighted_mean(values, torch.tensor([[1.0, 3.0, 0.0]])), torch.tensor([[2.5, 3.5]]))


def test_self_attention_starts_as_the_identity_and_then_adds_a_weighted_sum_of_all_places():
    layer = SelfAttention(8)
    maps = torch.randn(2, 8, 3, 2)
    assert torch.equal(layer(maps), maps)
    layer.gain.data[0] = 0.7
    query, key, value = (conv(maps).flatten(2) for conv in (layer.query, layer.key, layer.value))
    expected = maps.clone()
    for image in range(2):
        for place in range(6):
            weights = torch.stack([query[image, :, place] @ key[image, :, other] for other in range(6)]).softmax(0)
            attended = sum(weight * value[image, :, other] for other, weight in enumerate(weights))
            out = layer.out.weight[:, :, 0, 0] @ attended
            expected[image, :, place // 2, place % 2] += 0.7 * out
    torch.testing.assert_close(layer(maps), expected, rtol=1e-4, atol=1e-5)
