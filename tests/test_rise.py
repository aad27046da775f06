"""Facts about RISE."""

from types import SimpleNamespace

import pytest
import torch
from test_gradients import OneLayer, random, scaled

from difffuse_hf import rise


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn_masks(count, size, grid, probability):
    """The masks (count, 1, H, W) themselves: what a classifier is shown of a white image."""
    shown = []

    def classifier(images):
        shown.append(images)
        return SimpleNamespace(logits=torch.zeros(len(images), 2))

    options = {"num_masks": count, "grid": grid, "probability": probability, "generator": seeded()}
    rise(classifier, torch.ones(1, 1, *size), torch.tensor([0]), **options)
    return torch.cat(shown)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_rise_is_the_mean_of_masks_weighed_by_the_probability(batch_size):
    classifier, image, target = OneLayer(), random(2, 2, 9, 7), torch.tensor([2, 0])
    saliency = rise(
        classifier, image, target, num_masks=12, grid=3, probability=0.3, generator=seeded(), batch_size=batch_size
    )
    total = torch.zeros(2, 1, 9, 7)
    for mask in drawn_masks(12, (9, 7), 3, 0.3):
        seen = classifier(image * mask).logits.softmax(1)
        total += seen[[0, 1], target].detach()[:, None, None, None] * mask
    assert torch.allclose(saliency, scaled(total / (12 * 0.3)), atol=1e-5)


def test_rise_finds_the_pixel_that_a_model_looks_at():
    def classifier(image):
        score = 4 * image[:, 0, 5, 2] - 2
        return SimpleNamespace(logits=torch.stack([-score, score], 1))

    saliency = rise(classifier, torch.ones(1, 1, 8, 8), torch.tensor([1]), num_masks=2000, grid=8, generator=seeded())
    assert saliency[0, 0].argmax() == 5 * 8 + 2
    assert saliency[0, 0].flatten().sort().values[-2] < 0.9


def test_masks_lie_between_0_and_1_and_show_a_pixel_with_the_probability_asked_for():
    masks = drawn_masks(4000, (11, 9), 4, 0.3)
    assert masks.shape == (4000, 1, 11, 9) and masks.min() >= 0 and masks.max() <= 1
    assert (masks.mean(0) - 0.3).abs().max() < 0.03


def test_the_slices_of_a_scan_are_masked_independently():
    def classifier(scan):
        score = 6 * scan[:, 1, 0, 2, 2] - 3  # one pixel of the second slice
        return SimpleNamespace(logits=torch.stack([-score, score], 1))

    scan = torch.ones(1, 3, 1, 6, 6)
    saliency = rise(classifier, scan, torch.tensor([1]), num_masks=1500, grid=6, generator=seeded())
    assert saliency.shape == (1, 3, 1, 6, 6)
    assert saliency[0].argmax() == 36 + 2 * 6 + 2
    assert saliency[0, [0, 2]].max() < 0.75


def test_a_saliency_map_given_along_is_repeated_with_the_images():
    classifier, image, seen = OneLayer(), random(2, 2, 6, 6), random(2, 1, 6, 6, seed=1)
    options = {"num_masks": 8, "grid": 3}
    with_map = rise(classifier, image, torch.tensor([0, 1]), saliency=seen, generator=seeded(), **options)
    multiplied = rise(classifier, image * seen, torch.tensor([0, 1]), generator=seeded(), **options)
    assert torch.allclose(with_map, multiplied, atol=1e-6)


def test_settings_out_of_range_are_refused():
    classifier, image = OneLayer(), random(1, 2, 6, 6)
    for options, message in (
        ({"num_masks": 0}, "`num_masks` must be at least 1"),
        ({"grid": 7}, "`grid` must lie between 1 and the image's shorter side, 6, got 7"),
        ({"probability": 1.0, "grid": 3}, "`probability` lies between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            rise(classifier, image, **options)
