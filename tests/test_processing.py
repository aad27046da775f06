import nibabel
import numpy as np
import pytest
import torch
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from difffuse_hf.errors import InputError
from difffuse_hf.models.processing_difffuse import DifFuseProcessor

ONE = {"modalities": ("flair",), "slice_margin": 0}


def ellipsoid(shape, centre=None, radii=None):
    """A boolean ellipsoid in the middle of a volume, or elsewhere."""
    centre = centre or [(n - 1) / 2 for n in shape]
    radii = radii or [0.35 * n for n in shape]
    axes = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return sum(((x - c) / r) ** 2 for x, c, r in zip(axes, centre, radii)) <= 1


def brain(shape=(48, 56, 12), seed=0):
    """(1, X, Y, Z): noise of 100 to 300 inside an ellipsoid, 0 outside."""
    values = np.random.default_rng(seed).uniform(100, 300, shape).astype(np.float32)
    return (values * ellipsoid(shape))[None]


def smooth(shape=(48, 56, 12)):
    """A smooth bump on the RAS grid that is not symmetric in any axis."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return np.exp(-((x - 0.2) ** 2 + (y + 0.1) ** 2 + (z - 0.3) ** 2) / 0.3).astype(np.float32)


def reorient(volume, affine, codes):
    """The same scan stored along other axes."""
    transform = ornt_transform(io_orientation(affine), axcodes2ornt(codes))
    return apply_orientation(volume, transform), affine @ nibabel.orientations.inv_ornt_aff(transform, volume.shape)


def test_the_thesis_geometry_pads_240_pixels_to_256_and_changes_nothing_else():
    volume = np.zeros((1, 240, 240, 2), dtype=np.float32)
    volume[0, 60:180, 70:200] = np.random.default_rng(0).uniform(50, 60, (120, 130, 2))
    slices, geometry = DifFuseProcessor(modalities=("flair",)).preprocess_volume(volume, np.diag([-1, -1, 1, 1]))
    assert slices.shape == (2, 1, 256, 256) and slices.dtype == torch.float32
    expected = np.pad(volume[0] * geometry.intensity_scale, ((8, 8), (8, 8), (0, 0))).transpose(2, 1, 0)  # LPS
    np.testing.assert_array_equal(slices[:, 0].numpy(), expected)
    np.testing.assert_array_equal(geometry.to_volume(slices), volume * geometry.intensity_scale)


def test_pixels_of_two_millimetres_are_means_of_two_by_two():
    volume = brain((64, 64, 4))
    processor = DifFuseProcessor(image_size=(32, 32), pixel_spacing_mm=2.0, **ONE)
    slices, geometry = processor.preprocess_volume(volume, np.diag([-1, -1, 1, 1]))
    means = (volume[0] * geometry.intensity_scale).reshape(32, 2, 32, 2, 4).mean(axis=(1, 3)).transpose(2, 1, 0)
    np.testing.assert_allclose(slices[:, 0].numpy(), means, atol=1e-6)


def test_the_median_of_the_brain_has_the_reference_intensity_and_the_background_stays_zero():
    slices, _ = DifFuseProcessor(image_size=(64, 64), **ONE).preprocess_volume(brain(), np.eye(4))
    assert slices[slices > 0].median().item() == pytest.approx(0.35, rel=1e-3)
    assert slices.min() == 0 and (slices == 0).float().mean() > 0.5


def test_scaling_a_scan_does_not_change_its_slices():
    processor = DifFuseProcessor(image_size=(64, 64), **ONE)
    one, _ = processor.preprocess_volume(brain(), np.eye(4))
    other, _ = processor.preprocess_volume(brain() * 7, np.eye(4))
    torch.testing.assert_close(one, other)


def test_intensities_far_above_the_median_are_clipped_to_one():
    volume = brain()
    volume[0, 24, 28, 6] = 1e5
    slices, _ = DifFuseProcessor(image_size=(64, 64), **ONE).preprocess_volume(volume, np.eye(4))
    assert slices.max() == 1


def test_row_zero_is_anterior_and_column_zero_is_the_patients_right():
    volume = brain() * 0 + ellipsoid((48, 56, 12))
    volume[0, 24:, 28:, 6:] *= 2  # right, anterior, superior in RAS+
    slices, _ = DifFuseProcessor(image_size=(64, 64), **ONE).preprocess_volume(volume.astype(np.float32), np.eye(4))
    bright = (slices[:, 0] > 0.5).nonzero().float().mean(dim=0)  # slice, row, column
    assert bright[0] > 5.5 and bright[1] < 31.5 and bright[2] < 31.5


@pytest.mark.parametrize("codes", ["LPS", "LIA", "RAS", "PIR"])
def test_the_same_scan_in_another_orientation_gives_the_same_slices(codes):
    affine = np.array([[1.0, 0, 0, -20], [0, 1.0, 0, 5], [0, 0, 3.0, 7], [0, 0, 0, 1]])
    processor = DifFuseProcessor(image_size=(32, 24), pixel_spacing_mm=2.0, **ONE)
    volume = brain()[0]
    expected, _ = processor.preprocess_volume(volume[None], affine)
    turned, turned_affine = reorient(volume, affine, codes)
    slices, geometry = processor.preprocess_volume(turned[None], turned_affine)
    torch.testing.assert_close(slices, expected)
    assert processor.restore(slices, geometry).shape == (1, *turned.shape)


@pytest.mark.parametrize("codes", ["LPS", "LIA", "RAS", "PIR"])
@pytest.mark.parametrize("pixel_spacing_mm, size, tolerance", [(1.0, 64, 1e-6), (2.0, 30, 0.02), (0.7, 90, 0.02)])
def test_restoring_slices_of_a_smooth_field_gives_the_field(codes, pixel_spacing_mm, size, tolerance):
    volume, affine = reorient(smooth() * ellipsoid((48, 56, 12)), np.diag([1.0, 1.0, 3.0, 1.0]), codes)
    processor = DifFuseProcessor(image_size=(size, size), pixel_spacing_mm=pixel_spacing_mm, **ONE)
    _, geometry = processor.preprocess_volume(volume[None], affine)
    field, _ = reorient(smooth(), np.diag([1.0, 1.0, 3.0, 1.0]), codes)
    restored = processor.restore(geometry.to_slices(field[None]), geometry)[0]
    inside, _ = reorient(ellipsoid((48, 56, 12)), np.diag([1.0, 1.0, 3.0, 1.0]), codes)
    assert np.abs(restored - field)[inside].max() < tolerance


def test_an_oblique_scan_is_read_along_its_nearest_axes():
    angle = np.deg2rad(12)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    oblique = nibabel.affines.from_matvec(turn @ np.diag([-1.0, -1.0, 5.0]), [3, 4, 5])
    processor = DifFuseProcessor(image_size=(64, 64), **ONE)
    slices, _ = processor.preprocess_volume(brain(), oblique)
    straight, _ = processor.preprocess_volume(brain(), np.diag([-1.0, -1.0, 5.0, 1.0]))
    torch.testing.assert_close(slices, straight)


def test_an_oblique_header_on_the_same_voxels_moves_no_slice():
    """Where the middle of an axis falls between two pixels, rounding noise of a turned affine must not decide."""
    volume, processor = brain((91, 75, 6)), DifFuseProcessor(image_size=(48, 48), pixel_spacing_mm=2.0, **ONE)
    straight, geometry = processor.preprocess_volume(volume, np.diag([-1.0, -1.0, 2.0, 1.0]))
    for degrees in range(-20, 20, 3):
        cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ np.diag([-1.0, -1.0, 2.0])
        affine = nibabel.affines.from_matvec(turn.astype(np.float32), [7, 8, 9])
        slices, turned = processor.preprocess_volume(volume, affine)
        np.testing.assert_allclose([turned.rows, turned.columns], [geometry.rows, geometry.columns], atol=1e-4)
        torch.testing.assert_close(slices, straight, atol=1e-4, rtol=0)


def test_a_scan_without_a_usable_slice_is_refused():
    processor = DifFuseProcessor(image_size=(64, 64), min_foreground=0.6, **ONE)
    with pytest.raises(InputError, match="None of the 12 axial slices can be looked at: at most .* needs 60.0%"):
        processor.preprocess_volume(brain(), np.eye(4))


def test_a_scan_larger_than_the_image_is_cropped_around_its_brain():
    volume = np.zeros((1, 100, 100, 3), dtype=np.float32)
    volume[0, 60:90, 5:35] = 1
    slices, _ = DifFuseProcessor(image_size=(40, 40), **ONE).preprocess_volume(volume, np.diag([-1, -1, 1, 1]))
    assert slices[0, 0, 5:35, 5:35].min() > 0 and slices.count_nonzero() == 3 * 30 * 30


def test_labels_become_lesion_pixels_where_they_fill_half_of_them():
    volume, labels = np.ones((1, 64, 64, 1), dtype=np.float32) * ellipsoid((64, 64, 1), radii=(25, 25, 1)), None
    labels = np.zeros((64, 64, 1), dtype=np.uint8)
    labels[20:24, 20:24] = 4  # four whole pixels of two by two voxels
    labels[40, 40] = 1  # a quarter of a pixel
    processor = DifFuseProcessor(image_size=(32, 32), pixel_spacing_mm=2.0, **ONE)
    _, geometry = processor.preprocess_volume(volume, np.diag([-1, -1, 1, 1]))
    mask = processor.preprocess_labels(labels, geometry)
    assert mask.dtype == torch.uint8 and mask[0, 10:12, 10:12].all() and mask.sum() == 4


def test_the_margin_of_the_thesis_drops_25_slices_at_each_end_of_a_brats_volume():
    slices = torch.ones(155, 1, 4, 4)
    assert DifFuseProcessor(modalities=("flair",)).usable_slices(slices).tolist() == list(range(25, 130))
    assert DifFuseProcessor(**ONE).usable_slices(slices).tolist() == list(range(155))


def test_slices_without_enough_brain_are_not_usable():
    slices = torch.zeros(3, 2, 10, 10)
    slices[1, 1, :5] = 0.3
    slices[2, 0, 0, 0] = 0.3
    processor = DifFuseProcessor(modalities=("flair", "t1"), slice_margin=0, min_foreground=0.1)
    assert processor.usable_slices(slices).tolist() == [1]


def test_the_processor_survives_saving(tmp_path):
    processor = DifFuseProcessor(
        modalities=("flair", "t1"), image_size=(96, 80), pixel_spacing_mm=2.0, anomaly_threshold=0.07, slice_margin=0
    )
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "preprocessor_config.json").exists()
    assert DifFuseProcessor.from_pretrained(tmp_path).to_dict() == processor.to_dict()


def test_calling_the_processor_gives_pixel_values():
    processor = DifFuseProcessor(image_size=(64, 64), **ONE)
    assert processor(brain(), np.eye(4))["pixel_values"].shape == (12, 1, 64, 64)


def z_scored():
    volume = brain()
    return np.where(volume > 0, (volume - 200) / 60, 0)


def shifted(value):
    return brain() + np.float32(value)


def not_stripped():
    return np.random.default_rng(0).uniform(1, 5, (1, 48, 56, 12)).astype(np.float32)


@pytest.mark.parametrize(
    "volume, sentence",
    [
        (np.full((1, 8, 8, 8), np.nan), "NaN"),
        (np.full((1, 8, 8, 8), np.inf), "infinite"),
        (np.zeros((1, 8, 8, 8)), "empty"),
        (z_scored(), "negative intensities"),
        (shifted(-3), "constant background of -3 instead of 0"),
        (shifted(-1024), "constant background of -1024 instead of 0"),
        (shifted(100), "constant background of 100 instead of 0"),
        (not_stripped(), "skull-stripped"),
        (brain().repeat(4, axis=0), "1 three-dimensional volumes"),
        (brain()[0], "1 three-dimensional volumes"),
    ],
)
def test_unusable_volumes_are_refused_in_one_sentence(volume, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        DifFuseProcessor(image_size=(64, 64), **ONE).preprocess_volume(volume, np.eye(4))
    assert "\n" not in str(error.value)


def test_a_little_undershoot_of_interpolation_is_taken_as_background():
    volume = brain()
    volume[0, 2, 2] = -5
    slices, _ = DifFuseProcessor(image_size=(64, 64), **ONE).preprocess_volume(volume, np.eye(4))
    assert slices.min() == 0


def test_a_brain_larger_than_the_field_of_view_points_to_the_voxel_size():
    with pytest.raises(InputError, match="check the voxel size"):
        DifFuseProcessor(image_size=(64, 64), **ONE).preprocess_volume(brain(), np.diag([4, 4, 4, 1]))


def test_a_singular_affine_is_refused():
    with pytest.raises(InputError, match="singular"):
        DifFuseProcessor(image_size=(64, 64), **ONE).preprocess_volume(brain(), np.diag([0, 1, 1, 1]))


@pytest.mark.parametrize("wrong", [{"image_size": (96,)}, {"pixel_spacing_mm": 0}, {"reference_intensity": 1.5}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DifFuseProcessor(**wrong)


@pytest.mark.parametrize(("kind", "expected"), [("pt", torch.Tensor), ("np", np.ndarray)])
def test_a_call_gives_the_arrays_that_are_asked_for(kind, expected):
    processor = DifFuseProcessor(image_size=(64, 64), **ONE)
    pixels = processor(brain(), np.eye(4), return_tensors=kind)["pixel_values"]
    assert type(pixels) is expected
    np.testing.assert_array_equal(np.asarray(pixels), processor(brain(), np.eye(4))["pixel_values"].numpy())
    with pytest.raises(InputError, match="`return_tensors` must be one of pt, np, got 'tf'"):
        processor(brain(), np.eye(4), return_tensors="tf")
