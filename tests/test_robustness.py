"""Sanity checks of saliency maps, and how far noise in the input travels."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("skimage", reason="needs scikit-image")

from difffuse_hf import (
    ACATClassifier,
    LesionClassifier,
    LesionClassifierConfig,
    SliceClassifier,
    SliceClassifierConfig,
)  # noqa: E402, I001
from difffuse_hf.evaluation.robustness import (  # noqa: E402
    layers_in_order,
    preactivation_variances,
    randomisation_check,
    randomise,
    rank_correlation,
    similarity,
)
from difffuse_hf.models.backbone import FeatureModifier  # noqa: E402
from difffuse_hf.saliency.gradient import gradient  # noqa: E402


class LinearClassifier(nn.Module):
    """Two linear layers on the pixels of 12 x 12 images; its gradient is their product, whatever the image."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.head, self.body = nn.Linear(8, 2), nn.Linear(144, 8)  # the order of definition is not that of use
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)

    def forward(self, image):
        return SimpleNamespace(logits=self.head(self.body(image.flatten(1))))


def gradient_of_class_1(classifier, image):
    return gradient(classifier, image, torch.ones(len(image), dtype=torch.long))


def edges(classifier, image):
    return F.pad((image[..., 1:] - image[..., :-1]).abs(), (0, 1))


@pytest.fixture
def images():
    return torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mode", ["cascade", "independent"])
def test_the_gradient_of_a_linear_model_changes_with_its_weights_and_an_edge_detector_does_not(images, mode):
    classifier = LinearClassifier()
    before = gradient_of_class_1(classifier, images)
    changed = randomisation_check(gradient_of_class_1, classifier, images, mode=mode)
    assert [step["layers"] for step in changed] == [["head"], ["body"]]
    for step in changed:
        assert abs(step["spearman"]) < 0.5 and step["ssim"] < 0.5
    for step in randomisation_check(edges, classifier, images, mode=mode):
        assert step["spearman"] == pytest.approx(1) and step["ssim"] == pytest.approx(1)
    torch.testing.assert_close(gradient_of_class_1(classifier, images), before)  # the classifier itself is untouched


def test_a_cascade_goes_on_from_the_layer_before_and_independent_steps_start_anew(images):
    seen = []

    def spy(classifier, image):
        seen.append([classifier.head.weight.clone(), classifier.body.weight.clone()])
        return edges(classifier, image)

    classifier = LinearClassifier()
    randomisation_check(spy, classifier, images, mode="cascade")
    changed = [[not torch.equal(a, b) for a, b in zip(step, seen[0])] for step in seen]
    assert changed == [[False, False], [True, False], [True, True]]
    seen.clear()
    randomisation_check(spy, classifier, images, mode="independent")
    changed = [[not torch.equal(a, b) for a, b in zip(step, seen[0])] for step in seen]
    assert changed == [[False, False], [True, False], [False, True]]


def test_layers_are_randomised_together_in_so_many_steps_as_asked(images):
    classifier = LesionClassifier(LesionClassifierConfig(hidden_sizes=[4] * 7)).eval()
    steps = randomisation_check(edges, classifier, images, num_steps=4)
    named = [name for step in steps for name in step["layers"]]
    assert len(steps) == 4 and named == layers_in_order(classifier, images)[::-1]
    assert sorted(named[:2]) == ["presence_head", "side_head"] and named[-1] == "backbone.stages.0.conv"
    with pytest.raises(ValueError, match='`mode` is "cascade" or "independent", got \'random\''):
        randomisation_check(edges, classifier, images, mode="random")


def test_the_layers_of_acat_are_listed_in_the_order_of_use(images):
    acat = ACATClassifier.from_baseline(LesionClassifier(LesionClassifierConfig(hidden_sizes=[4] * 7))).eval()
    order = layers_in_order(acat, images, saliency=images)
    names = ("base.backbone.stages.0.norm", "branch.stages.0.norm", "spatial_attention.0.conv")
    places = [order.index(name) for name in (*names, "base.backbone.stages.1.conv", "fusion.conv", "base.side_head")]
    assert places == sorted(places)


def test_noise_keeps_the_mean_and_the_spread_of_the_weights_and_constants_stay():
    layer = nn.Linear(100, 100)
    nn.init.normal_(layer.weight, 2.0, 0.5)
    nn.init.constant_(layer.bias, 3.0)
    before = layer.weight.detach().clone()
    randomise(layer, torch.Generator().manual_seed(0))
    after = layer.weight.detach()
    assert after.mean().item() == pytest.approx(2.0, abs=0.02) and after.std().item() == pytest.approx(0.5, abs=0.02)
    assert abs(np.corrcoef(before.ravel(), after.ravel())[0, 1]) < 0.05
    assert (layer.bias == 3).all()


def test_a_rank_correlation_sees_the_order_of_the_pixels_only():
    maps = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert rank_correlation(maps, maps**3) == pytest.approx(1)
    assert rank_correlation(maps, 1 - maps) == pytest.approx(-1)
    small = torch.tensor([[[[0.1, 0.2], [0.3, 0.4]]]])
    other = torch.tensor([[[[0.2, 0.1], [0.3, 0.4]]]])
    assert rank_correlation(small, other) == pytest.approx(1 - 6 * 2 / (4 * 15))  # 1 - 6 Σd² / (n (n² - 1))
    constant = torch.zeros(2, 1, 8, 8)
    assert rank_correlation(constant, constant) == 1 and np.isnan(rank_correlation(maps, constant))


def test_structural_similarity_is_1_for_equal_maps_of_any_size_and_less_for_others():
    maps = torch.rand(2, 3, 1, 9, 5, generator=torch.Generator().manual_seed(0))
    assert similarity(maps, maps) == pytest.approx(1)
    assert similarity(maps, 1 - maps) < 0


class LinearStage(nn.Module):
    """One stage that doubles the image and negates it: no rectifier."""

    num_stages = 1

    def forward(self, images, feature_modifier=None):
        maps = (feature_modifier or FeatureModifier()).features(1, torch.cat([2 * images, -images], dim=1))
        return SimpleNamespace(logits=maps.mean((2, 3)))


def test_a_linear_stage_passes_variance_on_by_the_square_of_its_weights(images):
    noise = 0.5 * torch.randn(images.shape, generator=torch.Generator().manual_seed(7))
    found = preactivation_variances(LinearStage(), images, 0.5, generator=torch.Generator().manual_seed(7))
    clean, noisy = images.var(correction=0).item(), (images + noise).var(correction=0).item()
    assert len(found) == 1 and found[0]["stage"] == 1
    assert found[0]["clean"] == pytest.approx((4 + 1) / 2 * clean, rel=1e-5)
    assert found[0]["noisy"] == pytest.approx((4 + 1) / 2 * noisy, rel=1e-5)
    assert found[0]["ratio"] == pytest.approx(noisy / clean, rel=1e-5)
    assert noisy == pytest.approx(clean + 0.25, rel=0.15)  # independent noise adds its variance


def test_without_noise_nothing_changes_and_the_size_of_the_batches_does_not_matter():
    classifier = SliceClassifier(SliceClassifierConfig(backbone="resnet10t", num_channels=1, num_labels=2)).eval()
    scans = torch.rand(3, 2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    one, three = (preactivation_variances(classifier, scans, 0.0, batch_size=size) for size in (1, 3))
    assert len(one) == 4 and all(step["ratio"] == 1 for step in one)
    assert [step["clean"] for step in one] == pytest.approx([step["clean"] for step in three], rel=1e-4)


def test_what_is_measured_comes_before_the_last_rectifier_of_a_stage():
    classifier = LesionClassifier(LesionClassifierConfig(hidden_sizes=[4] * 7)).eval()
    scans = torch.rand(2, 2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    first, second = classifier.backbone.stages[:2]
    with torch.no_grad():
        maps = first.norm(first.conv(classifier.to_images(scans)))
        later = second.norm(second.conv(first.pool(first.activation(maps))))
    found = preactivation_variances(classifier, scans, 0.1)
    for step, expected in zip(found, (maps, later)):
        variances = expected.transpose(0, 1).flatten(1).var(1, correction=0)
        assert step["clean"] == pytest.approx(variances.mean().item(), rel=1e-4)
    acat = ACATClassifier.from_baseline(classifier).eval()
    guided = preactivation_variances(acat, scans, 0.1, saliency=torch.zeros(2, 2, 1, 16, 16))
    assert guided[0]["clean"] == pytest.approx(found[0]["clean"], rel=1e-5)  # attention comes after stage 1
    with pytest.raises(ValueError, match="`noise_std` is a standard deviation"):
        preactivation_variances(classifier, scans, -1.0)
