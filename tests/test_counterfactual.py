"""Facts about latent counterfactuals (Eqs. 5.3-5.4), on an autoencoder and a classifier solved by hand."""

from types import SimpleNamespace

import pytest
import torch

from difffuse_hf import (
    ResNetAutoencoder,
    SliceClassifier,
    SliceClassifierConfig,
    class_agnostic_saliency,
    latent_counterfactual,
    negative_counterfactual,
)


class Identity(torch.nn.Module):
    """An autoencoder whose latent is the image."""

    def encode(self, image):
        return image

    def decode(self, latent):
        return latent


class Linear(torch.nn.Module):
    """Logit of "lesion" = sum of w · x, logit of "healthy" = 0."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, image):
        lesion = (image * self.weight).sum((1, 2, 3))
        return SimpleNamespace(logits=torch.stack([torch.zeros_like(lesion), lesion], 1))


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    weight = torch.zeros(1, 1, 8, 8)
    weight[..., 2:4, 2:4] = 3.0
    return Identity(), Linear(weight), torch.rand(3, 1, 8, 8, generator=generator)


def test_one_step_is_gradient_descent_on_equation_5_4(problem):
    autoencoder, classifier, image = problem
    target = torch.zeros(3, dtype=torch.long)
    result = latent_counterfactual(classifier, autoencoder, image, target, num_steps=1, step_size=0.01, l1_weight=0.1)
    p_lesion = classifier(image).logits.softmax(1)[:, 1]
    gradient = p_lesion[:, None, None, None] * classifier.weight  # of -log(1 - p); the distance has none at the start
    assert torch.allclose(result.counterfactual, image - 0.01 * gradient, atol=1e-6)
    assert torch.allclose(result.objective[0], -torch.log(1 - p_lesion), atol=1e-6)


@pytest.mark.parametrize("distance", ["l1_mean", "l1_norm"])
@pytest.mark.parametrize("step_size", [1e-3, 1.0, 100.0])
def test_the_objective_never_rises(problem, distance, step_size):
    autoencoder, classifier, image = problem
    target = torch.tensor([0, 1, 0])
    result = latent_counterfactual(
        classifier, autoencoder, image, target, step_size=step_size, distance=distance, step_growth=1.5
    )
    assert result.objective.shape == (21, 3)
    assert (result.objective.diff(dim=0) <= 0).all()


def test_the_norm_with_weight_100_leaves_the_latent_where_it_is(problem):
    autoencoder, classifier, image = problem  # every |dCE/dz| is below 3, far from 100
    result = latent_counterfactual(classifier, autoencoder, image, torch.zeros(3).long(), distance="l1_norm")
    assert torch.equal(result.counterfactual, image)


def test_saliency_lies_where_the_classifier_looks_and_is_one_at_its_peak(problem):
    autoencoder, classifier, image = problem
    saliency = class_agnostic_saliency(classifier, autoencoder, image, l1_weight=0.0)
    assert saliency.shape == (3, 1, 8, 8)
    assert torch.allclose(saliency.amax((1, 2, 3)), torch.ones(3))
    assert torch.equal(saliency[0, 0] > 0, classifier.weight[0, 0] > 0)


def test_unknown_words_are_refused_with_what_is_allowed(problem):
    autoencoder, classifier, image = problem
    with pytest.raises(ValueError, match="`distance` must be one of"):
        latent_counterfactual(classifier, autoencoder, image, torch.zeros(3).long(), distance="l2")
    with pytest.raises(ValueError, match="`reference` must be one of"):
        class_agnostic_saliency(classifier, autoencoder, image, reference="mean")
    with pytest.raises(ValueError, match="`step_rule` must be one of"):
        latent_counterfactual(classifier, autoencoder, image, torch.zeros(3).long(), step_rule="adam")
    with pytest.raises(ValueError, match="`target` is missing"):
        latent_counterfactual(classifier, autoencoder, image, None)
    with pytest.raises(ValueError, match="add a batch axis"):
        class_agnostic_saliency(classifier, autoencoder, image[0])


def test_fixed_steps_are_gradient_descent_with_the_sign_of_the_way_gone(problem):
    autoencoder, classifier, image = problem
    target = torch.zeros(3, dtype=torch.long)
    result = latent_counterfactual(
        classifier, autoencoder, image, target, 4, step_size=0.05, l1_weight=2.0, step_rule="fixed"
    )
    latent = image
    for k in range(5):
        p_lesion = classifier(latent).logits.softmax(1)[:, 1]
        distance = (latent - image).abs().mean((1, 2, 3))
        assert torch.allclose(result.objective[k], -torch.log(1 - p_lesion) + 2 * distance, atol=1e-5)
        assert torch.allclose(result.distance[k], distance, atol=1e-6)
        assert torch.allclose(result.probability[k], 1 - p_lesion, atol=1e-6)
        if k < 4:
            slope = p_lesion[:, None, None, None] * classifier.weight + 2 * (latent - image).sign() / 64
            latent = latent - 0.05 * slope
    assert torch.allclose(result.counterfactual, latent, atol=1e-5)


def test_the_proximal_step_moves_where_the_slope_exceeds_the_weight_of_the_way():
    weight = torch.linspace(-3, 3, 64).view(1, 1, 8, 8)
    classifier, image = Linear(weight), torch.full((1, 1, 8, 8), 0.5)
    options = {"num_steps": 1, "step_size": 0.01, "l1_weight": 1.0, "distance": "l1_norm", "step_rule": "proximal"}
    result = latent_counterfactual(classifier, Identity(), image, torch.tensor([0]), **options)
    slope = classifier(image).logits.softmax(1)[0, 1] * weight
    expected = image - 0.01 * slope.sign() * (slope.abs() - 1).clamp_min(0)  # soft thresholding
    assert torch.allclose(result.counterfactual, expected, atol=1e-6)
    assert 0 < (result.counterfactual != image).sum() < 64


def test_the_proximal_step_moves_where_the_plain_one_stays():
    weight = torch.full((1, 1, 8, 8), 0.1)
    weight[..., 4, 4] = 2.0  # one steep pixel; the L1 term of the others outweighs what they gain
    classifier, image, target = Linear(weight), torch.full((1, 1, 8, 8), 0.5), torch.tensor([0])
    stayed, moved = (
        latent_counterfactual(classifier, Identity(), image, target, step_rule=rule, l1_weight=0.9, distance="l1_norm")
        for rule in ("halve", "proximal")
    )
    assert (stayed.distance == 0).all()
    assert (moved.objective.diff(dim=0) <= 0).all() and moved.objective[-1] < stayed.objective[-1]
    assert (moved.counterfactual != image).nonzero().tolist() == [[0, 0, 4, 4]]


@pytest.fixture
def networks():
    torch.manual_seed(0)
    config = SliceClassifierConfig(backbone="resnet10t", backbone_kwargs={"channels": [8, 8, 8, 8]}, num_labels=3)
    classifier = SliceClassifier(config).eval()
    with torch.no_grad():  # an untrained head is too flat to be moved by
        classifier.head.weight.mul_(100)
    return classifier, ResNetAutoencoder(1, channels=(4, 4, 4), strides=(2, 2, 1)).eval()


@pytest.mark.parametrize("step_rule", ["halve", "proximal"])
def test_on_real_networks_the_objective_of_scans_never_rises_and_both_images_are_decoded_codes(networks, step_rule):
    scan = torch.rand(2, 3, 1, 16, 20, generator=torch.Generator().manual_seed(1))
    options = {"num_steps": 6, "l1_weight": 0.01, "step_rule": step_rule}
    result = latent_counterfactual(*networks, scan, torch.tensor([0, 2]), **options)
    assert result.counterfactual.shape == scan.shape and result.objective.shape == (7, 2)
    assert (result.objective.diff(dim=0) <= 0).all() and (result.objective[-1] < result.objective[0]).all()
    reconstruction = networks[1](scan.flatten(0, 1)).view_as(scan)
    assert torch.allclose(result.reconstruction, reconstruction, atol=1e-5)
    probability = networks[0](result.counterfactual).logits.softmax(1)[[0, 1], [0, 2]]
    assert torch.allclose(probability, result.probability[-1], atol=1e-5)


def test_the_saliency_is_the_mean_of_a_negative_and_a_positive_counterfactual_whatever_the_classes(networks):
    """Sec. 5.5.3, on three classes: none, and two that are a lesion; the pointing map is the negative one alone."""
    image = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    options = {"num_steps": 3, "l1_weight": 0.0, "step_rule": "fixed"}
    classifier, autoencoder = networks

    def presence(image):
        probability = classifier(image).logits.softmax(1)
        return torch.stack([probability[:, 0], 1 - probability[:, 0]], 1).log()

    changes = []
    for k in range(2):
        result = latent_counterfactual(presence, autoencoder, image, torch.tensor([k, k]), **options)
        change = (image - result.counterfactual).abs()
        changes.append(change / change.amax((1, 2, 3), keepdim=True))
    mean = torch.stack(changes).mean(0)
    expected = mean / mean.amax((1, 2, 3), keepdim=True)
    assert torch.allclose(class_agnostic_saliency(*networks, image, **options), expected, atol=1e-4)
    assert torch.allclose(negative_counterfactual(*networks, image, **options), changes[0], atol=1e-4)
    assert not torch.allclose(changes[0], changes[1], atol=0.05)
    with pytest.raises(ValueError, match="`counterfactuals` must be one of negative, positive"):
        class_agnostic_saliency(*networks, image, counterfactuals=["both"])


def test_the_saliency_of_scans_does_not_depend_on_batch_or_parts(networks):
    scan = torch.rand(3, 2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    options = {"num_steps": 3, "l1_weight": 0.0, "step_rule": "fixed"}
    together = class_agnostic_saliency(*networks, scan, batch_size=4, **options)  # 4 and 2 of 6 pairs
    alone = torch.cat([class_agnostic_saliency(*networks, one[None], **options) for one in scan])
    assert together.shape == (3, 2, 1, 16, 16)
    assert torch.allclose(together, alone, atol=1e-4)
    assert together.min() >= 0 and torch.allclose(together.flatten(1).amax(1), torch.ones(3))


def test_a_saliency_map_given_along_reaches_the_classifier_with_its_own_image_and_class():
    class Guided(Linear):
        def forward(self, image, saliency=None):
            return super().forward(image * saliency)

    image = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    seen = torch.zeros(2, 1, 8, 8)
    seen[0, :, :4] = 1
    seen[1, :, 4:] = 1
    classifier = Guided(torch.ones(1, 1, 8, 8) / 8)
    saliency = class_agnostic_saliency(classifier, Identity(), image, saliency=seen, l1_weight=0.0, batch_size=3)
    assert torch.equal(saliency > 0, seen > 0)


def test_a_lower_precision_of_the_networks_leaves_the_images_in_full(networks):
    image = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    target, options = torch.tensor([0, 1]), {"num_steps": 3, "l1_weight": 0.1}
    low = latent_counterfactual(*networks, image, target, autocast_dtype=torch.bfloat16, **options)
    full = latent_counterfactual(*networks, image, target, **options)
    assert low.counterfactual.dtype == low.objective.dtype == torch.float32
    assert torch.equal(low.reconstruction, networks[1](image).detach())
    assert (low.objective.diff(dim=0) <= 0).all()
    assert torch.allclose(low.objective, full.objective, atol=0.02)
    assert not torch.equal(low.objective, full.objective)
