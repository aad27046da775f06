import pytest
import torch

from difffuse_hf import ResNetAutoencoder
from difffuse_hf.pipelines.perceptual import feature_distance, structural_distance


@pytest.fixture
def image():
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def features(image):
    torch.manual_seed(0)
    autoencoder = ResNetAutoencoder(in_channels=3, channels=(4, 4, 4)).eval()
    with torch.no_grad():
        return [autoencoder.encode(image), image[..., ::2, ::2]]


DISTANCES = [structural_distance, lambda a, b: feature_distance(a, b, features)]


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_distance_is_symmetric_and_zero_between_equal_images(distance, image):
    other = image.flip(-1)
    forth, back = distance(image, other), distance(other, image)
    assert forth.shape == (2, 1, 16, 16) and forth.min() >= 0 and forth.max() > 0.1
    torch.testing.assert_close(forth, back, rtol=0, atol=1e-6)
    assert distance(image, image).max() < 1e-5


def test_the_structural_distance_of_two_constants_is_that_of_their_brightness():
    a, b = torch.full((1, 1, 16, 16), 0.2), torch.full((1, 1, 16, 16), 0.6)
    expected = (1 - (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)) / 2
    torch.testing.assert_close(structural_distance(a, b), torch.full_like(a, expected), rtol=0, atol=1e-3)


def test_the_structural_distance_is_local(image):
    changed = torch.cat([image] * 3, dim=-1)
    original = changed.clone()
    changed[..., 6, 6] = 1 - changed[..., 6, 6]
    distance = structural_distance(original, changed)
    assert distance[..., 6, 6].min() > 0.01 and distance[..., 32:].max() < 1e-6


def test_the_feature_distance_does_not_see_the_length_of_a_feature_vector(image):
    other = image.flip(-1)
    expected = feature_distance(image, other, lambda x: [x])
    torch.testing.assert_close(feature_distance(image, other, lambda x: [5 * x]), expected, rtol=0, atol=1e-5)
    cosine = torch.cosine_similarity(image, other, dim=1)[:, None]
    torch.testing.assert_close(expected, 2 - 2 * cosine, rtol=0, atol=1e-5)


def test_images_smaller_than_the_window_are_refused():
    with pytest.raises(ValueError, match="at least 4 pixels a side"):
        structural_distance(torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3))
