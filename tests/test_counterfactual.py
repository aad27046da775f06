"""Facts about latent counterfactuals (Eqs. 5.3-5.4), on an autoencoder and a classifier solved by hand."""

from types import SimpleNamespace

import pytest
import torch

from difffuse_hf import class_agnostic_saliency, latent_counterfactual


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


def test_saliency_does_not_depend_on_the_batch(problem):
    autoencoder, classifier, image = problem
    together = class_agnostic_saliency(classifier, autoencoder, image)
    alone = torch.cat([class_agnostic_saliency(classifier, autoencoder, one[None]) for one in image])
    assert torch.allclose(together, alone, atol=1e-6)


def test_unknown_readings_are_refused(problem):
    autoencoder, classifier, image = problem
    with pytest.raises(ValueError, match="`distance` is one of"):
        latent_counterfactual(classifier, autoencoder, image, torch.zeros(3).long(), distance="l2")
    with pytest.raises(ValueError, match="`reference` is one of"):
        class_agnostic_saliency(classifier, autoencoder, image, reference="mean")
