"""Facts about class activation maps, on a one-layer network solved by hand and on the package's classifiers."""

from types import SimpleNamespace

import pytest
import torch
from test_gradients import LinearScan, OneLayer, random, scaled
from torch.nn import functional as F

from difffuse_hf import SliceClassifier, SliceClassifierConfig, grad_cam, grad_cam_plus_plus, score_cam
from difffuse_hf.models.configuration_lesion_classifier import LesionClassifierConfig
from difffuse_hf.models.modeling_lesion_classifier import LesionClassifier
from difffuse_hf.saliency.feature_maps import activation_map

METHODS = (grad_cam, grad_cam_plus_plus, score_cam)


def feature_maps(classifier, image):
    return classifier.activation(classifier.conv(classifier.to_images(image))).detach()


@pytest.mark.parametrize("shape", [(2, 2, 9, 12), (2, 3, 2, 9, 12)], ids=["slices", "scans"])
def test_grad_cam_is_cam_where_the_maps_are_pooled_and_a_linear_layer_follows(shape):
    classifier, image, target = OneLayer(stride=3, activation=torch.sigmoid), random(*shape), torch.tensor([2, 0])
    with torch.no_grad():
        classifier.head.weight[:, 0] = 1  # something positive in every class
    maps = feature_maps(classifier, image)  # (N, 4, 3, 4)
    weight = classifier.head.weight.detach()[target].repeat_interleave(len(maps) // 2, 0)
    cam = (weight[:, :, None, None] * maps).sum(1, keepdim=True).clamp_min(0)
    expected = F.interpolate(cam, size=(9, 12), mode="bilinear", align_corners=False).reshape(*shape[:-3], 1, 9, 12)
    assert torch.allclose(grad_cam(classifier, image, target), scaled(expected), atol=1e-5)


def test_what_speaks_against_a_class_is_zero_in_grad_cam_before_the_map_is_resized_and_the_peak_is_one():
    """ReLU, then resize, then divide by the maximum: negative neighbours take nothing from what is positive."""
    query = SimpleNamespace(classifier=OneLayer(), image=torch.zeros(1, 2, 8, 8))
    maps, weights = torch.tensor([[[[3.0, -9.0], [-9.0, -9.0]]]]), torch.ones(1, 1, 1, 1)
    expected = F.interpolate(torch.tensor([[[[3.0, 0], [0, 0]]]]), (8, 8), mode="bilinear", align_corners=False)
    assert torch.allclose(activation_map(query, maps, weights), expected / expected.max())
    assert activation_map(query, maps, weights).max() == 1
    assert activation_map(query, -maps.abs(), weights).max() == 0


def test_grad_cam_plus_plus_is_its_published_formula():
    classifier = OneLayer(stride=2, activation=F.leaky_relu).double()
    image, target = random(2, 2, 8, 8).double(), [1, 2]
    maps = feature_maps(classifier, image).requires_grad_()
    logits = classifier.head(maps.mean((2, 3)))
    expected = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    for n, k in enumerate(target):
        g = torch.autograd.grad(logits[n, k], maps, retain_graph=True)[0][n]
        for a, slope in zip(maps[n].detach(), g):
            alpha = slope**2 / (2 * slope**2 + a.sum() * slope**3)
            expected[n, 0] += (alpha * slope.clamp_min(0)).sum() * a
    expected = F.interpolate(expected.clamp_min(0), size=(8, 8), mode="bilinear", align_corners=False)
    saliency = grad_cam_plus_plus(classifier, image, torch.tensor(target))
    assert torch.allclose(saliency, scaled(expected).float(), atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 2, 8, 7), (2, 3, 2, 8, 7)], ids=["slices", "scans"])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_score_cam_is_its_double_loop(shape, batch_size):
    classifier, image, target = OneLayer(stride=2, activation=torch.sigmoid), random(*shape), [2, 0]
    with torch.no_grad():
        classifier.conv.weight[1], classifier.conv.bias[1] = 0, 1  # a constant map: it must weigh nothing
    expected = []
    for one, k in zip(image, target):
        shown = classifier.to_scan(feature_maps(classifier, one[None]), like=one[None])[0]  # (4, H, W) or (S, 4, H, W)
        scores, kept = [], []
        for a in shown.unbind(-3):
            if a.max() - a.min() > 1e-6:
                mask = ((a - a.min()) / (a.max() - a.min())).unsqueeze(-3)
                scores.append(classifier((one * mask)[None]).logits[0, k].detach())
                kept.append(a)
        assert len(kept) == 3
        weights = torch.stack(scores).softmax(0)
        expected.append(sum(w * a for w, a in zip(weights, kept)).clamp_min(0).unsqueeze(-3))
    saliency = score_cam(classifier, image, torch.tensor(target), batch_size=batch_size)
    assert torch.allclose(saliency, scaled(torch.stack(expected)), atol=1e-5)


@pytest.fixture(scope="module", params=["resnet", "half-brain", "convnext"])
def classifier(request):
    torch.manual_seed(0)
    if request.param == "half-brain":
        return LesionClassifier(LesionClassifierConfig(hidden_sizes=[4, 4, 6], num_pools=2)).eval()
    if request.param == "convnext":
        options = {"backbone": "convnext_atto", "backbone_kwargs": {"depths": [1, 1, 1, 1], "dims": [4, 4, 8, 8]}}
    else:
        options = {"backbone": "resnet10t", "backbone_kwargs": {"channels": [8, 8, 8, 8]}}
    return SliceClassifier(SliceClassifierConfig(num_channels=1, **options)).eval()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(2, 1, 33, 35), (1, 1, 1, 40, 34), (2, 3, 1, 32, 37)])
def test_every_classifier_gives_maps_from_0_to_1_for_any_size(method, classifier, shape):
    image = random(*shape)
    for k in range(4):
        saliency = method(classifier, image, torch.full(shape[:1], k))
        assert saliency.shape == (*shape[:-3], 1, *shape[-2:]) and saliency.dtype == torch.float32
        peak = saliency.flatten(1).amax(1)
        assert saliency.min() >= 0 and ((peak == 0) | ((peak - 1).abs() < 1e-6)).all()
        assert not saliency.requires_grad


def test_the_maps_of_a_mirrored_scan_are_mirrored_in_the_half_brain_network():
    torch.manual_seed(0)
    classifier = LesionClassifier(LesionClassifierConfig(hidden_sizes=[4, 4, 6], num_pools=2)).eval()
    with torch.no_grad():  # heads that treat both halves alike
        for head in (classifier.presence_head, classifier.side_head):
            half = head.in_features // 2
            head.weight[:, half:] = head.weight[:, :half]
    scan, target = random(2, 3, 1, 24, 22), torch.tensor([0, 2])
    for method in METHODS:
        saliency = method(classifier, scan, target)
        assert torch.allclose(method(classifier, scan.flip(-1), target), saliency.flip(-1), atol=1e-5)


class Foreign(torch.nn.Module):
    """What torchvision and timm have: logits alone, and layers with names."""

    def __init__(self, whole):
        super().__init__()
        self.whole = whole

    def forward(self, image):
        return self.whole(image).logits


@pytest.mark.parametrize("method", METHODS)
def test_the_layer_of_another_network_may_be_named(method):
    torch.manual_seed(0)
    options = {"backbone": "resnet10t", "backbone_kwargs": {"channels": [8, 8, 8, 8]}}
    ours, image = SliceClassifier(SliceClassifierConfig(num_channels=2, **options)).eval(), random(2, 2, 33, 40)
    foreign, expected = Foreign(ours), method(ours, image)
    for layer in ("whole.backbone.layer4", ours.backbone.layer4):
        assert torch.allclose(method(foreign, image, target_layer=layer), expected, atol=1e-6)
    assert not ours.backbone.layer4._forward_hooks
    for layer, why in (("layer5", "no layer 'layer5'"), ("whole.head", r"maps \(B, D, h, w\), got shape \(2, ")):
        with pytest.raises(ValueError, match=why):
            method(foreign, image, target_layer=layer)


def test_a_classifier_without_feature_maps_is_refused():
    for method in METHODS:
        with pytest.raises(ValueError, match="no convolutional feature maps .* `target_layer` .* use `gradient`"):
            method(LinearScan(torch.rand(2, 1, 4, 4)), torch.rand(1, 1, 4, 4))
