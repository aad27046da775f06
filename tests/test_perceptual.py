import pytest
import torch

from difffuse_hf.pipelines.perceptual import structural_distance


@pytest.fixture
def image():
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_a_distance_is_symmetric_and_zero_between_equal_images(image):
    other = image.flip(-1)
    forth, back = structural_distance(image, other), structural_distance(other, image)
    assert forth.shape == (2, 1, 16, 16) and forth.min() >= 0 and forth.max() > 0.1
    torch.testing.assert_close(forth, back, rtol=0, atol=1e-6)
    assert structural_distance(image, image).max() < 1e-5


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


def test_images_smaller_than_the_window_are_refused():
    with pytest.raises(ValueError, match="at least 4 pixels a side"):
        structural_distance(torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3))
