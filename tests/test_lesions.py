"""A detected mask of a whole scan against the drawn one."""

import math

import numpy as np
import pytest

from difffuse_hf.evaluation.lesions import score_scan


def boxes(*corners):
    """A mask of 12 x 12 x 6 voxels with cubes of 2 x 2 x 2 voxels at these corners."""
    mask = np.zeros((12, 12, 6), np.uint8)
    for x, y, z in corners:
        mask[x : x + 2, y : y + 2, z : z + 2] = 1
    return mask


BRAIN = np.ones((12, 12, 6), np.uint8)


def test_a_lesion_is_found_where_one_of_its_voxels_is_and_a_piece_beside_all_of_them_is_a_false_positive():
    drawn = boxes((0, 0, 0), (4, 4, 0), (8, 8, 0))
    found = boxes((1, 1, 0), (4, 4, 0), (0, 8, 4))  # one voxel column of the first, the second whole, one beside
    scores = score_scan(found, BRAIN, drawn, voxel_ml=0.5)
    assert scores["sensitivity"] == pytest.approx(2 / 3)
    assert scores["false_positives"] == 1
    assert scores["found_ml"] == scores["drawn_ml"] == 12 and scores["volume_error_ml"] == 0
    assert scores["dice"] == pytest.approx(2 * (2 + 8) / 48)
    assert scores["voxel_sensitivity"] == pytest.approx(10 / 24)
    assert scores["flagged"] == pytest.approx((24 - 10) / (12 * 12 * 6 - 24))


def test_the_slices_without_a_lesion_are_those_that_hold_brain():
    brain = BRAIN.copy()
    brain[..., 5] = 0  # not a slice of brain
    scores = score_scan(boxes((0, 0, 3)), brain, boxes((0, 0, 0)), 1.0)
    assert scores["false_slices"] == pytest.approx(2 / 3)  # 3 and 4 of 2, 3, 4


def test_a_scan_without_a_lesion_has_no_dice_and_its_flagged_share_is_of_the_whole_brain():
    scores = score_scan(boxes((0, 0, 0), (4, 4, 4)), BRAIN, np.zeros_like(BRAIN), 1.0)
    assert "dice" not in scores and "sensitivity" not in scores
    assert scores["false_positives"] == 2 and scores["drawn_ml"] == 0
    assert scores["flagged"] == pytest.approx(16 / BRAIN.size)


def test_without_a_drawn_mask_only_what_was_found_is_told():
    assert set(score_scan(boxes((0, 0, 0)), BRAIN, None, 1.0)) == {"found_ml", "flagged"}


def test_a_lesion_that_fills_every_slice_leaves_the_false_slices_undefined():
    assert math.isnan(score_scan(BRAIN, BRAIN, BRAIN, 1.0)["false_slices"])


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="different shapes"):
        score_scan(BRAIN, BRAIN[1:], None, 1.0)
