"""Facts about latent shift, on an autoencoder and classifiers solved by hand."""

from types import SimpleNamespace

import pytest
import torch
from test_gradients import LinearScan, OneLayer, random, scaled
from torch import nn

from difffuse_hf.saliency.latent_shift import SHIFTS, latent_shift


class Logit(nn.Module):
    """The latent is the image's logit, so that the decoder is not linear."""

    def encode(self, image):
        return torch.logit(image, eps=1e-4)

    def decode(self, latent):
        return latent.sigmoid()


class Identity(nn.Module):
    def encode(self, image):
        return image

    def decode(self, latent):
        return latent


@pytest.mark.parametrize("shifts", [(0.1,), SHIFTS])
def test_a_linear_classifier_and_decoder_leave_its_weight_whatever_the_shift(shifts):
    weight = torch.stack([torch.zeros(2, 5, 6), random(2, 5, 6) - 0.5])
    image = random(3, 2, 5, 6, seed=1)
    saliency = latent_shift(LinearScan(weight), Identity(), image, torch.tensor([1, 1, 0]), shifts=shifts)
    expected = scaled((weight[1] - weight[0]).abs().sum(0)[None, None])
    assert torch.allclose(saliency, expected.expand(3, 1, 5, 6), atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 2, 6, 6), (1, 3, 2, 6, 6)], ids=["slice", "scan"])
@pytest.mark.parametrize("probability_drop", [0.02, 0.15])
def test_it_is_the_published_search_written_as_a_loop(shape, probability_drop):
    classifier, autoencoder = OneLayer(activation=torch.tanh, labels=2), Logit()
    with torch.no_grad():
        classifier.head.weight.mul_(20)
    image = random(*shape) * 0.8 + 0.1
    latent = autoencoder.encode(image).requires_grad_()
    initial = classifier(autoencoder.decode(latent)).logits.softmax(1)[0, 1]
    direction = torch.autograd.grad(initial, latent)[0]
    latent, initial = latent.detach(), initial.item()
    last, shifts = initial, tuple(2.0**k for k in range(-1, 12))
    for shift in shifts:
        current = classifier(autoencoder.decode(latent - shift * direction)).logits.softmax(1)[0, 1].item()
        if current > last or initial - current > probability_drop:
            break
        last = current
    assert shifts[0] < shift < shifts[-1]
    frames = [autoencoder.decode(latent - shift * i / 10 * direction) for i in range(1, 11)]
    change = torch.stack([(frame - autoencoder.decode(latent)).abs() for frame in frames]).amax(0)
    options = {"shifts": shifts, "probability_drop": probability_drop}
    saliency = latent_shift(classifier, autoencoder, image, torch.tensor([1]), **options)
    assert torch.allclose(saliency, scaled(change.sum(-3, keepdim=True)), atol=1e-4)


def test_in_chapter_4_it_walks_until_the_probability_is_below_one_hundredth():
    weight = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
    image, seen = torch.full((1, 1, 2, 2), 0.5), []

    class Recorded(LinearScan):
        def forward(self, image, saliency=None):
            output = super().forward(image)
            seen.append(output.logits.softmax(1)[0, 1].item())
            return output

    latent_shift(Recorded(weight), Identity(), image, torch.tensor([1]), shifts=range(1, 100), until=0.01)
    assert seen[-1] < 0.01 <= seen[-2] and seen[0] - seen[-2] > 0.15  # far beyond where the published search ends


def test_the_search_ends_where_the_probability_rises_again():
    def classifier(image):  # the probability of class 1 is least where the mean is 0.4
        distance = image.mean((1, 2, 3)) - 0.4
        score = 200 * distance**2
        return SimpleNamespace(logits=torch.stack([-score, score], 1))

    image = torch.full((1, 1, 4, 4), 0.5)
    image[0, 0, 0, 0] = 0.6
    near = latent_shift(classifier, Logit(), image, torch.tensor([1]), shifts=(1.0, 20.0, 80.0), probability_drop=0.9)
    far = latent_shift(
        classifier, Logit(), image, torch.tensor([1]), shifts=(1.0, 20.0, 80.0, 5000.0), probability_drop=0.9
    )
    assert torch.equal(near, far)  # probabilities 0.99, 0.99, 0.63, 1.00: 5000 is never tried


def test_no_shift_at_all_is_refused():
    with pytest.raises(ValueError, match="must name at least one"):
        latent_shift(OneLayer(), Identity(), random(1, 2, 6, 6), shifts=())
