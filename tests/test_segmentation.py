"""Facts about overlap measures and the choice of a threshold."""

import pytest
import torch

from difffuse_hf import dice, iou
from difffuse_hf.evaluation.segmentation import best_dice, best_threshold


def test_dice_and_iou_of_two_half_overlapping_squares():
    prediction, reference = torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    prediction[0, 0, :2], reference[0, 0, 1:3] = 1, 1
    assert dice(prediction, reference).tolist() == [0.5, 1.0]  # the second pair is empty and agrees
    assert iou(prediction, reference)[0] == pytest.approx(1 / 3)


def test_iou_is_d_over_two_minus_d():
    masks = torch.rand(2, 20, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.6
    d, j = dice(*masks), iou(*masks)
    union = (masks[0] | masks[1]).flatten(1).sum(1)
    assert torch.allclose(j, (masks[0] & masks[1]).flatten(1).sum(1) / union)
    assert torch.allclose(j, d / (2 - d))


def test_the_best_threshold_separates_what_can_be_separated():
    reference = torch.zeros(3, 1, 16, 16)
    reference[:, :, 4:9, 4:9] = 1
    maps = 0.2 * torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0)) + 0.5 * reference
    threshold, score = best_threshold(maps, reference)
    assert 0.2 < threshold <= 0.55 and score > 0.99


def test_the_ceiling_is_never_below_the_common_threshold():
    generator = torch.Generator().manual_seed(0)
    reference = (torch.rand(5, 1, 8, 8, generator=generator) > 0.7).float()
    maps = torch.rand(5, 1, 8, 8, generator=generator) + torch.arange(5).view(5, 1, 1, 1) * reference
    assert best_dice(maps, reference) >= best_threshold(maps, reference)[1]


def test_maps_that_are_zero_have_no_threshold():
    with pytest.raises(ValueError, match="no threshold to choose"):
        best_threshold(torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4))


def tried(maps, reference):
    """Every value above 0 as a threshold, and the Dice of each image there, `(T, B)`."""
    thresholds = maps[maps > 0].unique()
    return thresholds, torch.stack([dice(maps >= threshold, reference) for threshold in thresholds])


@pytest.mark.parametrize("levels", [8, 1000])
def test_ceiling_and_threshold_are_those_of_every_value_tried(levels):
    generator = torch.Generator().manual_seed(levels)
    reference = torch.rand(4, 1, 9, 7, generator=generator) > 0.7
    reference[2] = False
    maps = torch.rand(4, 1, 9, 7, generator=generator) + 0.3 * reference - 0.2
    maps = (maps * levels).floor().clamp_min(0) / levels  # zeros, and many equal values where levels are few
    maps[3] = 0
    thresholds, scores = tried(maps, reference)
    value, score = best_threshold(maps, reference)
    assert value == thresholds[scores.mean(1).argmax()] and score == pytest.approx(scores.mean(1).max().item())
    best = scores.amax(0)
    best[2] = 1  # nothing is drawn: above all values, nothing is flagged
    assert best_dice(maps, reference) == pytest.approx(best.mean().item())


def test_a_small_lesion_in_a_dense_map_is_found_to_the_last_pixel():
    # 50 of 10,000 values are the lesion's: the steps between 200 quantiles would hold as many each.
    order = torch.randperm(10_000, generator=torch.Generator().manual_seed(0)) + 1.0
    maps = (order / 10_000).view(1, 1, 100, 100)
    reference = (maps > 0.9925) & (maps <= 0.9975)
    for best in (best_dice(maps, reference), best_threshold(maps, reference)[1]):
        assert best == pytest.approx(2 * 50 / (75 + 50))
