"""Facts about gradient saliency, on classifiers solved by hand."""

from types import SimpleNamespace

import pytest
import torch
from captum.attr import GuidedBackprop, Saliency
from torch import nn
from torch.nn import functional as F

from difffuse_hf import gradient, guided_backprop, integrated_gradients, smooth_grad
from difffuse_hf.saliency.common import Query
from difffuse_hf.saliency.integrated_gradients import signed_integrated_gradients

METHODS = (gradient, smooth_grad, guided_backprop, integrated_gradients)


class OneLayer(nn.Module):
    """Convolution, activation, mean over positions and slices, linear head; a map given along multiplies the image."""

    num_stages = 1

    def __init__(self, channels=2, maps=4, labels=3, activation=F.relu, stride=1, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(channels, maps, 3, stride=stride, padding=1)
        self.head = nn.Linear(maps, labels)
        self.activation = activation

    def forward(self, pixel_values, saliency=None, labels=None, feature_modifier=None):
        if saliency is not None:
            pixel_values = pixel_values * saliency
        maps = self.activation(self.conv(self.to_images(pixel_values)))
        if feature_modifier is not None:
            maps = feature_modifier.features(1, maps)
        pooled = maps.mean((2, 3))
        if pixel_values.ndim == 5:
            pooled = pooled.unflatten(0, pixel_values.shape[:2]).mean(1)
        return SimpleNamespace(logits=self.head(pooled))

    def to_images(self, pixel_values):
        return pixel_values.flatten(0, 1) if pixel_values.ndim == 5 else pixel_values

    def to_scan(self, maps, like):
        maps = F.interpolate(maps, size=like.shape[-2:], mode="bilinear", align_corners=False)
        return maps.unflatten(0, like.shape[:2]) if like.ndim == 5 else maps


class LinearScan(nn.Module):
    """Logits of a slice: sums of w_k · x (weight (K, C, H, W)); those of a scan are the mean of its slices'."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, pixel_values, saliency=None, labels=None, feature_modifier=None):
        logits = torch.einsum("...chw,kchw->...k", pixel_values, self.weight)
        return SimpleNamespace(logits=logits.mean(1) if pixel_values.ndim == 5 else logits)


def random(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def scaled(maps):
    return maps / maps.flatten(1).amax(1).view(-1, *[1] * (maps.ndim - 1))


def options_of(method):
    return {"num_samples": 6, "generator": torch.Generator().manual_seed(5)} if method is smooth_grad else {}


@pytest.mark.parametrize("method", [gradient, smooth_grad])
def test_the_gradient_of_a_linear_model_is_its_weight_with_noise_and_without(method):
    weight = random(2, 3, 6, 7) - 0.5
    target = torch.tensor([1, 0])
    saliency = method(LinearScan(weight), random(2, 3, 6, 7, seed=1), target, **options_of(method))
    expected = scaled(weight[[1, 0]].abs().sum(1, keepdim=True))
    assert torch.allclose(saliency, expected, atol=1e-5)


def test_the_gradient_is_captums():
    classifier, image, target = OneLayer(), random(2, 2, 9, 8), torch.tensor([2, 0])
    theirs = Saliency(lambda x: classifier(x).logits).attribute(image, target=target).sum(1, keepdim=True)
    assert torch.allclose(gradient(classifier, image, target), scaled(theirs), atol=1e-6)


def test_smooth_grad_is_the_mean_of_signed_gradients_at_noisy_images():
    classifier, image, target = OneLayer(activation=torch.tanh), random(1, 2, 5, 5), torch.tensor([1])
    saliency = smooth_grad(
        classifier, image, target, num_samples=7, noise=0.3, generator=torch.Generator().manual_seed(2), batch_size=3
    )
    generator = torch.Generator().manual_seed(2)
    total = torch.zeros_like(image)
    for _ in range(7):
        epsilon = 0.3 * (image.max() - image.min()) * torch.randn(image.shape[1:], generator=generator)
        noisy = (image + epsilon).requires_grad_()
        total += torch.autograd.grad(classifier(noisy).logits[0, 1], noisy)[0]
    assert torch.allclose(saliency, scaled(total.abs().sum(1, keepdim=True)), atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 2, 6, 6), (2, 3, 2, 6, 6)], ids=["slices", "scans"])
def test_integrated_gradients_sum_to_the_difference_from_black(shape):
    classifier, image = OneLayer(activation=torch.tanh), random(*shape)
    target = torch.arange(shape[0])
    attribution = signed_integrated_gradients(Query.of(classifier, image, target), num_steps=30, batch_size=7)
    logits = classifier(image).logits - classifier(torch.zeros_like(image)).logits
    assert attribution.shape == image.shape
    assert torch.allclose(attribution.flatten(1).sum(1), logits[torch.arange(len(image)), target], atol=1e-5)


def test_integrated_gradients_of_a_linear_model_are_weight_times_image():
    weight, image = random(2, 3, 4, 5) - 0.5, random(2, 3, 4, 5, seed=1)
    attribution = signed_integrated_gradients(Query.of(LinearScan(weight), image, torch.tensor([0, 1])), num_steps=5)
    assert torch.allclose(attribution, weight * image, atol=1e-6)
    assert torch.allclose(
        integrated_gradients(LinearScan(weight), image, torch.tensor([0, 1])),
        scaled((weight * image).abs().sum(1, keepdim=True)),
        atol=1e-5,
    )


class Perceptron(nn.Module):
    """Two leaky layers on the four pixels of a 2 x 2 image; one logit, the sum of the last one, for class 1."""

    def __init__(self, as_modules):
        super().__init__()
        self.first = torch.tensor([[1.0, -2.0, 0.5, 1.0], [-1.0, -1.0, 1.0, -2.0], [2.0, 1.0, -1.0, 0.5]])
        self.second = torch.tensor([[1.0, 2.0, -1.5], [-1.0, 1.0, 0.5]])
        self.rectify = nn.LeakyReLU(0.2, inplace=True) if as_modules else lambda x: F.leaky_relu(x, 0.2)

    def forward(self, image):
        hidden = self.rectify(image.flatten(1) @ self.first.T)
        out = self.rectify(hidden @ self.second.T)
        return SimpleNamespace(logits=out.sum(1, keepdim=True))


@pytest.mark.parametrize("as_modules", [True, False])
def test_guided_backprop_through_two_leaky_layers_by_hand(as_modules):
    image = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]])
    # before the first activation: 1.75, -1.5, 1.75; after it: 1.75, -0.3, 1.75
    # before the second: 1.75 - 0.6 - 2.625 = -1.475 and -1.75 - 0.3 + 0.875 = -1.175: both shut
    network = Perceptron(as_modules)
    assert guided_backprop(network, image, torch.tensor([1])).abs().max() == 0
    # with the second layer's signs turned both are open: 1.475 and 1.175
    network.second = -network.second
    # gradient at the first layer's outputs: (-1, -2, 1.5) + (1, -1, -0.5) = (0, -3, 1); open inputs: first and third;
    # so only the third passes on, with 1: its row of weights is the gradient
    expected = torch.tensor([[[[2.0, 1.0], [1.0, 0.5]]]]) / 2
    assert torch.allclose(guided_backprop(network, image, torch.tensor([1])), expected)


def test_guided_backprop_is_captums_on_a_network_of_relu_modules():
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()]
    layers = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(64, 2))
    image, target = random(2, 1, 8, 8), torch.tensor([0, 1])
    with pytest.warns(UserWarning, match="hooks"):
        theirs = GuidedBackprop(layers).attribute(image, target=target)
    saliency = guided_backprop(lambda x: SimpleNamespace(logits=layers(x)), image, target)
    assert torch.allclose(saliency, scaled(theirs.abs()), atol=1e-6)


def test_guided_backprop_leaves_the_network_as_it_was():
    classifier, image = OneLayer(activation=F.leaky_relu), random(2, 2, 6, 6)
    before = gradient(classifier, image)
    assert not torch.allclose(guided_backprop(classifier, image), before)
    assert torch.equal(gradient(classifier, image), before)


def test_guided_backprop_needs_a_rectifier():
    with pytest.raises(ValueError, match="has no ReLU to guide; use `gradient`"):
        guided_backprop(OneLayer(activation=F.gelu), random(1, 2, 6, 6))


@pytest.mark.parametrize("method", [gradient, smooth_grad, integrated_gradients])
def test_a_scan_in_a_mean_over_slices_has_the_maps_of_its_slices_on_one_scale(method):
    weight, scan = random(2, 2, 6, 5) - 0.5, random(1, 3, 2, 6, 5, seed=1)
    saliency = method(LinearScan(weight), scan, torch.tensor([1]), **options_of(method))
    slices = method(LinearScan(weight), scan[0], torch.tensor([1, 1, 1]), **options_of(method))
    assert torch.allclose(scaled(saliency[0]), slices, atol=1e-5)
    assert saliency.max() == 1
