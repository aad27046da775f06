"""What holds for every saliency method, whatever it computes; each method's own facts stand in a file of their own."""

import functools

import pytest
import torch
from test_gradients import OneLayer, random
from test_latent_shift import Identity

from difffuse_hf import ResNetAutoencoder
from difffuse_hf.errors import InputError
from difffuse_hf.saliency.common import read_logits
from difffuse_hf.saliency.methods import METHODS, WITH_AUTOENCODER, saliency_method

COUNTERFACTUAL = {"num_steps": 2, "l1_weight": 0.0, "step_rule": "fixed"}
OPTIONS = {
    "class_agnostic_saliency": COUNTERFACTUAL,
    "negative_counterfactual": COUNTERFACTUAL,
    "latent_shift": {"shifts": (1, 10, 100, 1000)},
    "smooth_grad": {"num_samples": 6},
    "integrated_gradients": {"num_steps": 10},
    "rise": {"num_masks": 10, "grid": 3},
}
DRAWS = ("smooth_grad", "rise")  # noise of their own
OF_ONE_CLASS = tuple(name for name in METHODS if OPTIONS.get(name) is not COUNTERFACTUAL)


@pytest.fixture(params=METHODS)
def name(request):
    return request.param


def saliency_of(name, classifier, autoencoder, *inputs, **given):
    options = OPTIONS.get(name, {})
    if name in DRAWS:
        options = {**options, "generator": torch.Generator().manual_seed(5)}
    return saliency_method(name, classifier, autoencoder, **options)(*inputs, **given)


@functools.cache
def autoencoder():
    torch.manual_seed(0)
    return ResNetAutoencoder(in_channels=2, channels=(4, 4, 4), strides=(2, 2, 1)).eval()


@pytest.mark.parametrize("shape", [(3, 2, 7, 12), (3, 3, 2, 7, 12)], ids=["slices", "scans"])
def test_a_map_does_not_depend_on_its_batch_and_lies_between_0_and_1(name, shape):
    networks, image, target = (OneLayer(seed=1), autoencoder()), random(*shape), torch.tensor([0, 1, 2])
    together = saliency_of(name, *networks, image, target)
    alone = torch.cat([saliency_of(name, *networks, one[None], k[None]) for one, k in zip(image, target)])
    assert together.shape == (*shape[:-3], 1, 7, 12) and together.dtype == torch.float32
    assert not together.requires_grad
    assert torch.allclose(together, alone, atol=1e-4)
    peak = together.flatten(1).amax(1)
    assert together.min() >= 0 and ((peak == 1) | (peak == 0)).all() and peak.max() == 1


def test_a_scan_of_one_slice_is_the_slice(name):
    networks, image = (OneLayer(), autoencoder()), random(2, 2, 5, 7)
    scan = saliency_of(name, *networks, image[:, None])
    assert torch.allclose(scan[:, 0], saliency_of(name, *networks, image), atol=1e-4)


@pytest.mark.parametrize("name", OF_ONE_CLASS)
def test_the_default_target_is_the_predicted_class(name):
    classifier, image = OneLayer(), random(3, 2, 6, 6)
    predicted = classifier(image).logits.argmax(1)
    given = saliency_of(name, classifier, Identity(), image, predicted)
    assert torch.equal(saliency_of(name, classifier, Identity(), image), given)


@pytest.mark.parametrize("name", [name for name in METHODS if "cam" not in name and name != "rise"])
def test_a_saliency_map_given_along_reaches_the_classifier_with_its_own_image(name):
    """Where the classifier sees nothing there is no gradient; feature maps and random masks are coarser than that."""
    classifier, image, seen = OneLayer(), random(2, 2, 6, 6), torch.zeros(2, 1, 6, 6)
    seen[0, :, :3] = 1  # the classifier sees the upper half of the first and the lower half of the second image
    seen[1, :, 3:] = 1
    saliency = saliency_of(name, classifier, Identity(), image, saliency=seen)
    assert saliency[0, :, 3:].max() == 0 and saliency[1, :, :3].max() == 0 and saliency.amax() == 1


def test_shapes_that_do_not_fit_are_refused_in_one_sentence(name):
    networks, image = (OneLayer(), Identity()), random(2, 2, 6, 6)
    with pytest.raises(ValueError, match="add a batch axis"):
        saliency_of(name, *networks, image[0])
    with pytest.raises(ValueError, match=r"`saliency` must have the shape \(2, 1, 6, 6\)"):
        saliency_of(name, *networks, image, saliency=image)
    if name in OF_ONE_CLASS:
        with pytest.raises(ValueError, match="one class index for each of 2 images"):
            saliency_of(name, *networks, image, torch.tensor([1]))


def test_a_method_is_named_and_has_what_it_needs():
    assert set(WITH_AUTOENCODER) < set(METHODS)
    with pytest.raises(InputError, match="`method` must be one of class_agnostic_saliency, .*, got 'wishes'"):
        saliency_method("wishes", OneLayer())
    with pytest.raises(InputError, match="The saliency method latent_shift needs an autoencoder"):
        saliency_method("latent_shift", OneLayer())


class Bare(torch.nn.Module):
    """What torchvision and timm return: the logits themselves; one of them, where the network ends in a sigmoid."""

    def __init__(self, columns):
        super().__init__()
        self.whole, self.columns = OneLayer(seed=1), columns

    def forward(self, image):
        return self.whole(image).logits[:, self.columns]


WITHOUT_MAPS = tuple(name for name in METHODS if "cam" not in name)


@pytest.mark.parametrize("name", WITHOUT_MAPS)
def test_logits_may_be_returned_alone(name):
    image, target = random(2, 2, 5, 7), torch.tensor([0, 2])
    alone, whole = (
        saliency_of(name, one, autoencoder(), image, target) for one in (Bare([0, 1, 2]), OneLayer(seed=1))
    )
    assert torch.equal(alone, whole)


@pytest.mark.parametrize("name", WITHOUT_MAPS)
def test_one_logit_speaks_for_class_1_against_class_0(name):
    image = random(2, 2, 5, 7)
    networks = Bare([1]), autoencoder()
    for target in (torch.zeros(2, dtype=torch.long), torch.ones(2, dtype=torch.long)):
        maps = saliency_of(name, *networks, image, target)
        assert maps.flatten(1).std(1).min() > 0
    z = torch.tensor([[1.5], [-0.3]])
    torch.testing.assert_close(read_logits(z).softmax(1)[:, 1], z[:, 0].sigmoid())


@pytest.mark.parametrize("name", [name for name in METHODS if name not in WITHOUT_MAPS])
def test_a_network_whose_feature_maps_cannot_be_reached_is_refused(name):
    with pytest.raises(ValueError, match="Bare.* no convolutional feature maps that can be reached"):
        saliency_of(name, Bare([0, 1, 2]), autoencoder(), random(2, 2, 5, 7))


def test_what_is_no_logits_is_refused():
    with pytest.raises(ValueError, match=r"must return logits \(B, K\).* got tuple"):
        read_logits((torch.zeros(2, 2),))
