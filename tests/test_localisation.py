"""Where saliency maps point, by hand."""

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="needs scikit-learn")

from difffuse_hf.evaluation.localisation import (  # noqa: E402
    average_precision,
    chance_level,
    energy_inside,
    known_mask,
    localise,
    pointing_game,
    pointing_game_by_slice,
)


@pytest.fixture
def mask():
    """Two slices of 4 x 5 pixels; a lesion of 2 x 2 in the second."""
    mask = np.zeros((2, 4, 5), np.uint8)
    mask[1, 1:3, 2:4] = 1
    return mask


def one_peak(index, size=(2, 1, 4, 5)):
    saliency = torch.full(size, 0.1)
    saliency[index] = 1.0
    return saliency


def test_a_scan_is_hit_where_its_one_maximum_lies_in_the_lesion(mask):
    assert pointing_game(one_peak((1, 0, 2, 3)), mask) == 1
    assert pointing_game(one_peak((1, 0, 3, 3)), mask) == 0  # one row below
    assert pointing_game(one_peak((0, 0, 2, 3)), mask) == 0  # the same place, in the other slice


def test_the_second_best_pixel_counts_for_nothing(mask):
    saliency = one_peak((0, 0, 0, 0))
    saliency[1, 0, 2, 3] = 0.999
    assert pointing_game(saliency, mask) == 0
    assert pointing_game(one_peak((1, 0, 2, 3)) + 0.999 * one_peak((0, 0, 0, 0)), mask) == 1


def test_a_maximum_may_miss_by_the_tolerance_within_its_slice(mask):
    below, diagonal = one_peak((1, 0, 3, 3)), one_peak((1, 0, 3, 4))
    assert pointing_game(below, mask, tolerance=1) == 1
    assert pointing_game(diagonal, mask, tolerance=1) == 0 and pointing_game(diagonal, mask, tolerance=1.5) == 1
    assert pointing_game(one_peak((0, 0, 2, 3)), mask, tolerance=10) == 0


def test_of_tied_maxima_the_share_in_the_lesion_counts(mask):
    saliency = one_peak((1, 0, 2, 3))
    saliency[0, 0, 0, :3] = 1.0
    assert pointing_game(saliency, mask) == 1 / 4
    assert pointing_game(torch.ones(2, 1, 4, 5), mask) == pytest.approx(4 / 40)


def test_every_slice_with_lesion_plays_by_itself(mask):
    mask[0, 0, 0] = 1
    saliency = one_peak((1, 0, 2, 3))
    np.testing.assert_array_equal(pointing_game_by_slice(saliency, mask), [1 / 20, 1])
    mask[0] = 0
    np.testing.assert_array_equal(pointing_game_by_slice(saliency, mask), [1])


def test_the_energy_is_the_share_of_the_sum(mask):
    saliency = np.zeros((2, 1, 4, 5), np.float32)
    saliency[1, 0, 1, 2], saliency[1, 0, 0, 0], saliency[0, 0, 1, 2] = 0.75, 0.5, 0.25
    assert energy_inside(saliency, mask) == pytest.approx(0.75 / 1.5)


def test_average_precision_is_that_of_the_ranked_pixels():
    """Ranked: lesion, not, lesion, not. Precision 1 at recall 1/2, 2/3 at recall 1."""
    saliency, mask = np.array([[[0.9, 0.8], [0.7, 0.1]]]), np.array([[1, 0], [1, 0]])
    assert average_precision(saliency, mask) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_map_that_is_the_same_everywhere_scores_chance_in_every_measure(mask, value):
    measures = localise(np.full((2, 1, 4, 5), value, np.float32), mask)
    for name in ("pointing", "energy", "auprc"):
        assert measures[name] == pytest.approx(measures["chance"]) == pytest.approx(4 / 40)
    assert (
        measures["pointing_slices"] == measures["chance_slices"] == pytest.approx(4 / 20)
    )  # only the slice with the lesion plays


def test_chance_in_the_head_counts_the_pixels_above_0_of_any_channel(mask):
    image = torch.zeros(2, 2, 4, 5)
    image[1, 0, :, :4] = 0.5  # 16 pixels, the lesion among them
    image[0, 1, 0, :] = 0.1  # 5 more
    assert localise(one_peak((1, 0, 2, 3)), mask, image)["chance_head"] == pytest.approx(4 / 21)
    assert chance_level(mask, image.amax(1)) == pytest.approx(4 / 21)


def test_a_slice_is_a_scan_of_its_own(mask):
    saliency = one_peak((1, 0, 2, 3))
    assert localise(saliency[1], mask[1]) == pytest.approx(localise(saliency[1:], mask[1:]))


def test_a_scan_without_a_lesion_is_an_error_and_so_are_shapes_that_do_not_fit(mask):
    with pytest.raises(ValueError, match="`mask` is empty.*leave it out"):
        pointing_game(torch.ones(2, 1, 4, 5), np.zeros((2, 4, 5)))
    with pytest.raises(ValueError, match=r"\(S, 1, H, W\) and `mask` \(S, H, W\).*got \(2, 4, 5\) and \(2, 4, 5\)"):
        energy_inside(torch.ones(2, 4, 5), mask)
    with pytest.raises(ValueError, match=r"got \(2, 1, 4, 4\)"):
        average_precision(torch.ones(2, 1, 4, 4), mask)


def test_a_mask_is_known_where_it_is_drawn_and_not_empty(mask):
    np.testing.assert_array_equal(known_mask({"mask": mask.tolist()}), mask > 0)
    for unknown in ({}, {"mask": None}, {"mask": torch.full((2, 4, 5), torch.nan)}, {"mask": np.zeros((2, 4, 5))}):
        assert known_mask(unknown) is None
