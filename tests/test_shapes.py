"""Facts about boolean arrays: pieces and depths."""

import numpy as np

from difffuse_hf.preprocessing.shapes import depth, label_pieces, largest_piece


def test_the_largest_piece_is_the_one_with_the_most_voxels():
    mask = np.array([[1, 0, 1, 1], [0, 0, 0, 1], [1, 0, 0, 0]], bool)
    assert label_pieces(mask)[1] == 3
    assert np.array_equal(largest_piece(mask), [[0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]])


def test_one_piece_or_none_is_left_as_it_is():
    for mask in (np.zeros((3, 3), bool), np.eye(3, k=2, dtype=bool)):
        assert np.array_equal(largest_piece(mask), mask)


def test_the_depth_counts_voxels_of_the_given_size_to_the_nearest_one_outside():
    inside = np.array([0, 1, 1, 1, 0, 1], bool)
    assert depth(inside).tolist() == [0, 1, 2, 1, 0, 1]
    assert depth(inside, voxel_mm=2.0).tolist() == [0, 2, 4, 2, 0, 2]
