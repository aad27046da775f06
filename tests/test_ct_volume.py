import numpy as np
import pytest

from difffuse_hf.preprocessing.volume import (
    crop_to_head,
    pad_or_resize,
    sample_slices,
    window_hounsfield,
)

SPACING = (5.0, 0.5, 0.5)


def skull(shape=(6, 240, 200), rows=(60, 180), columns=(50, 140)):
    """Air with a shell of bone that fills these rows and columns, brain in it."""
    hounsfield = np.full(shape, -1000, np.int16)
    hounsfield[:, slice(*rows), slice(*columns)] = 800
    hounsfield[:, rows[0] + 10 : rows[1] - 10, columns[0] + 10 : columns[1] - 10] = 35
    return hounsfield


def test_the_crop_is_the_skull_and_8_mm_around_it():
    assert crop_to_head(skull(), SPACING) == (slice(60 - 16, 180 + 16), slice(50 - 16, 140 + 16))
    assert crop_to_head(skull(), (5.0, 1.0, 2.0)) == (slice(60 - 8, 180 + 8), slice(50 - 4, 140 + 4))


def test_one_box_holds_the_skull_in_every_slice():
    hounsfield = skull()
    hounsfield[4, 40:60, 90:100] = 900
    rows, columns = crop_to_head(hounsfield, SPACING)
    assert rows == slice(40 - 16, 196) and columns == slice(34, 156)


def test_a_head_holder_does_not_stretch_the_crop():
    clean = skull()
    hounsfield = clean.copy()
    hounsfield[:, 190:196, 10:190] = 200  # as bright as bone in the brain window, but no bone
    hounsfield[:, 150:240, 170:175] = 1500  # metal that does not touch the skull
    assert crop_to_head(hounsfield, SPACING) == crop_to_head(clean, SPACING)


def test_the_crop_ends_at_the_image_and_without_bone_is_the_image():
    assert crop_to_head(skull(rows=(2, 238), columns=(0, 200)), SPACING) == (slice(0, 240), slice(0, 200))
    assert crop_to_head(np.zeros((3, 20, 30), np.int16), SPACING) == (slice(0, 20), slice(0, 30))


def test_slices_are_spread_from_the_first_to_the_last():
    assert sample_slices(41).tolist() == list(range(0, 41, 4))
    assert sample_slices(11).tolist() == list(range(11))
    few = sample_slices(5)
    assert len(few) == 11 and set(few) == set(range(5)) and (np.diff(few) >= 0).all()


def test_the_window_maps_0_to_100_hounsfield_units_to_0_to_1():
    images = window_hounsfield(np.array([-1000, 0, 25, 100, 3000], np.int16))
    assert images.dtype == np.float32
    np.testing.assert_allclose(images, [0, 0, 0.25, 1, 1])
    np.testing.assert_allclose(window_hounsfield(np.array([0, 40, 80]), 0, 80), [0, 0.5, 1])


def test_a_small_head_is_padded_with_zeros_and_not_touched():
    images = np.random.default_rng(0).random((3, 301, 250), np.float32)
    canvas, scale, offset = pad_or_resize(images)
    assert canvas.shape == (3, 500, 400) and canvas.dtype == np.float32
    assert scale == (1, 1) and offset == (99, 75)
    np.testing.assert_array_equal(canvas[:, 99:400, 75:325], images)
    assert canvas.sum(dtype=float) == pytest.approx(images.sum(dtype=float))


@pytest.mark.parametrize("shape, expected", [((530, 380), 500 / 530), ((400, 520), 400 / 520), ((1000, 1000), 0.4)])
def test_a_large_head_is_shrunk_by_one_factor_and_nothing_moves_by_a_fifth_of_a_pixel(shape, expected):
    rows, columns = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    canvas, scale, offset = pad_or_resize((rows / shape[0] + 2 * columns / shape[1])[None].astype(np.float32))
    np.testing.assert_allclose(scale, (expected, expected))
    inside = [slice(int(o) + 5, int(s * (n - 1) + o) - 5) for s, o, n in zip(scale, offset, shape)]
    row, column = ((np.arange(n) - o) / s for n, o, s in zip(canvas.shape[1:], offset, scale))
    ramp = row[:, None] / shape[0] + 2 * column / shape[1]  # index on the canvas = scale * index + offset
    fifth_of_a_pixel = 0.2 / shape[0] + 0.4 / shape[1]
    np.testing.assert_allclose(canvas[0][tuple(inside)], ramp[tuple(inside)], atol=fifth_of_a_pixel)
    assert canvas[0][inside[0].start - 20].sum() == 0 or inside[0].start < 20


def test_shrinking_does_not_alias():
    stripes = np.tile(np.float32([0, 1]), (1, 1000, 500))  # one pixel wide: grey at 0.4 times the size
    canvas, _, _ = pad_or_resize(stripes)
    assert abs(canvas[0, 100:400, 10:390] - 0.5).max() < 0.1


def test_with_a_target_every_scan_has_the_same_pixels():
    for pixel_mm in (0.35, 0.6):
        images = np.ones((1, round(150 / pixel_mm), round(120 / pixel_mm)), np.float32)
        canvas, scale, _ = pad_or_resize(images, pixel_mm=(pixel_mm, pixel_mm), target_mm=0.5)
        assert pixel_mm / scale[0] == pytest.approx(0.5) and pixel_mm / scale[1] == pytest.approx(0.5)
        assert canvas.sum() == pytest.approx(300 * 240, rel=0.01)  # 150 mm x 120 mm
    with pytest.raises(ValueError, match="needs `pixel_mm`"):
        pad_or_resize(images, target_mm=0.5)


def test_pixels_that_are_not_square_become_square():
    canvas, scale, _ = pad_or_resize(np.ones((1, 100, 200), np.float32), pixel_mm=(1.0, 0.5))
    assert scale == (2, 1) and canvas.sum() == pytest.approx(200 * 200)
    canvas, scale, _ = pad_or_resize(np.ones((1, 400, 200), np.float32), pixel_mm=(1.0, 0.5))
    assert scale == (1.25, 0.625)  # shrunk to 500 rows, by one factor
