import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy.ndimage import minimum_filter

pytest.importorskip("SimpleITK", reason="needs the extra `preprocess`")

import pydicom  # noqa: E402
import SimpleITK  # noqa: E402
from dicom_files import tilted, write_series  # noqa: E402
from pydicom import uid  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402

from difffuse_hf.preprocessing.assemble import UnreadableSeries, assemble, decode_slice, regular_step  # noqa: E402
from difffuse_hf.preprocessing.dicom import group_series, read_headers  # noqa: E402

CT = Path(__file__).parents[2] / "shared" / "data" / "ct_dicom"
GE = "GE_HiSpeedDual_head_STD_"
needs_ct = pytest.mark.skipif(not CT.exists(), reason="needs ../shared/data/ct_dicom")
SPACING = (5.0, 0.5, 0.5)


def series_of(paths):
    headers, failed = read_headers(paths)
    assert not failed
    (series,) = group_series(headers)
    return series


def coordinates(volume):
    """LPS coordinates (3, S, H, W) of the voxels."""
    index = np.indices(volume.hounsfield.shape)[::-1] * np.reshape(volume.spacing_mm[::-1], (3, 1, 1, 1))
    return np.tensordot(volume.direction, index, 1) + volume.origin_mm[:, None, None, None]


def head(shape=(6, 24, 20), seed=0):
    return np.random.default_rng(seed).integers(-1000, 2000, shape)


def test_a_regular_series_comes_out_as_it_went_in(tmp_path):
    hounsfield = head()
    volume = assemble(series_of(reversed(write_series(tmp_path, hounsfield, SPACING, (-3.0, -4.0, 50.0)))))
    np.testing.assert_array_equal(volume.hounsfield, hounsfield)
    assert volume.hounsfield.dtype == np.int16 and volume.spacing_mm == SPACING
    np.testing.assert_array_equal(volume.origin_mm, [-3, -4, 50])
    np.testing.assert_array_equal(volume.direction, np.eye(3))


def test_a_sheared_stack_of_a_ramp_comes_out_a_ramp(tmp_path):
    slope = np.array([3.0, 8.0, 4.0])  # HU per mm towards left, posterior, superior
    for degrees in (18.5, -25.0):
        orientation = np.reshape(tilted(degrees), (2, 3))
        row, column = np.indices((40, 30)) * 0.5
        starts = np.array([[-7.0, -9.0, 5.0 * i] for i in range(9)])
        points = starts[:, None, None] + column[..., None] * orientation[0] + row[..., None] * orientation[1]
        paths = write_series(
            tmp_path / f"{degrees}",
            (points @ slope).round(),
            SPACING,
            ImageOrientationPatient=tilted(degrees),
            ImagePositionPatient=lambda i, starts=starts: tuple(starts[i]),
        )
        volume = assemble(series_of(paths))
        np.testing.assert_allclose(volume.direction.T @ volume.direction, np.eye(3), atol=1e-6)
        assert volume.spacing_mm[0] == pytest.approx(5 * np.cos(np.deg2rad(degrees)))
        where = coordinates(volume)
        down = np.tensordot(orientation[1], where - starts.T[:, :, None, None], 1)  # mm from the slice's first row
        inside = (down >= 0) & (down <= 39 * 0.5)
        assert inside.mean() > 0.5
        ramp = np.tensordot(slope, where, 1)
        np.testing.assert_allclose(volume.hounsfield[inside], ramp[inside], atol=1.01)  # rounded twice


def test_shifts_by_whole_pixels_are_copies(tmp_path):
    hounsfield = head()
    paths = write_series(tmp_path, hounsfield, SPACING, ImageOrientationPatient=(1, 0, 0, 0, 0.8, -0.6))
    volume = assemble(series_of(paths))  # 5 mm along z are 3 mm in the plane, 6 pixels, and 4 mm across
    assert volume.hounsfield.shape == (6, 24 + 5 * 6, 20) and volume.spacing_mm[0] == pytest.approx(4)
    for i, image in enumerate(volume.hounsfield):
        start = 30 - 6 * i
        np.testing.assert_array_equal(image[start : start + 24], hounsfield[i])
        assert (np.delete(image, slice(start, start + 24), axis=0) == hounsfield.min()).all()


def test_a_table_that_moves_sideways_is_followed(tmp_path):
    hounsfield = head()
    paths = write_series(
        tmp_path, hounsfield, SPACING, ImagePositionPatient=lambda i: (-20.0 - (i == 4) * 1.5, -20.0, 5.0 * i)
    )
    volume = assemble(series_of(paths))
    np.testing.assert_array_equal(volume.hounsfield[4, :, :20], hounsfield[4])
    np.testing.assert_array_equal(volume.hounsfield[3, :, 3:], hounsfield[3])
    assert volume.origin_mm[0] == -21.5


def test_thin_base_and_thick_vault_come_out_at_the_thinner_step(tmp_path):
    z = [0, 4, 8, 12, 16, 17, 24, 31, 38, 45]
    slope, base = 7, head((1, 24, 20))
    hounsfield = base.clip(-800, 1500) + slope * np.array(z)[:, None, None]
    paths = write_series(tmp_path, hounsfield, SPACING, ImagePositionPatient=lambda i: (0.0, 0.0, float(z[i])))
    volume = assemble(series_of(paths))
    assert volume.spacing_mm[0] == 4 and len(volume.hounsfield) == 12
    np.testing.assert_array_equal(volume.hounsfield[:5], hounsfield[:5])
    expected = hounsfield[0] + slope * 4 * np.arange(12)[:, None, None]
    np.testing.assert_array_equal(volume.hounsfield, expected)


def test_a_missing_slice_is_the_mean_of_its_neighbours(tmp_path):
    hounsfield = 2 * (head((8, 24, 20)) // 2)
    paths = write_series(tmp_path, hounsfield, SPACING)
    volume = assemble(series_of(paths[:4] + paths[5:]))
    assert len(volume.hounsfield) == 8
    np.testing.assert_array_equal(np.delete(volume.hounsfield, 4, axis=0), np.delete(hounsfield, 4, axis=0))
    np.testing.assert_array_equal(volume.hounsfield[4], (hounsfield[3] + hounsfield[5]) // 2)


def test_steps_that_are_even_but_for_rounding_are_not_interpolated():
    assert regular_step(np.arange(20) * 5 + np.tile([0, 0.004], 10)) is None
    assert regular_step(np.array([0, 5, 10, 20, 25])) == 5
    assert regular_step(np.array([0, 1, 2, 3, 8, 13])) == 2  # thinner than eleven slices can show


@pytest.mark.parametrize(
    "orientation, start, turn",
    [
        ((-1, 0, 0, 0, -1, 0), (1, 1), lambda image: image[::-1, ::-1]),  # prone
        ((1, 0, 0, 0, -1, 0), (0, 1), lambda image: image[::-1]),
        ((0, 1, 0, 1, 0, 0), (0, 0), lambda image: image.T),
        ((0, -1, 0, 1, 0, 0), (0, 1), lambda image: image[::-1].T),
    ],
)
def test_rows_run_to_posterior_and_columns_to_the_left_however_they_were_stored(tmp_path, orientation, start, turn):
    hounsfield = head((5, 24, 20))
    x, y = -3 + start[0] * 19 * 0.5, -4 + start[1] * 23 * 0.6
    transposed = orientation[0] == 0
    paths = write_series(
        tmp_path,
        np.stack([turn(image) for image in hounsfield])[::-1],  # feet first: from the top
        (5.0, 0.5, 0.6) if transposed else (5.0, 0.6, 0.5),
        ImageOrientationPatient=orientation,
        ImagePositionPatient=lambda i: (x, y, 70.0 - 5 * i),
    )
    volume = assemble(series_of(paths))
    np.testing.assert_array_equal(volume.hounsfield, hounsfield)
    np.testing.assert_allclose(volume.origin_mm, [-3, -4, 50])
    np.testing.assert_array_equal(volume.direction, np.eye(3))
    assert volume.spacing_mm == (5.0, 0.6, 0.5)  # pixels that are not square stay so


def test_the_simpleitk_image_has_the_same_geometry(tmp_path):
    volume = assemble(series_of(write_series(tmp_path, head(), ImageOrientationPatient=tilted(20))))
    image = volume.to_sitk()
    assert image.GetSize() == volume.hounsfield.shape[::-1]
    np.testing.assert_allclose(
        image.TransformIndexToPhysicalPoint((7, 11, 3)), coordinates(volume)[:, 3, 11, 7], atol=1e-6
    )


def test_an_orientation_rounded_to_two_digits_gives_right_angles(tmp_path):
    paths = write_series(tmp_path, head(), ImageOrientationPatient=(1.0, 0.01, 0.0, 0.0, 0.95, -0.32))
    direction = assemble(series_of(paths)).direction
    np.testing.assert_allclose(direction.T @ direction, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(direction[:, 1], [0, 0.95, -0.32], atol=0.01)


@pytest.mark.parametrize(
    "syntax",
    [
        uid.DeflatedExplicitVRLittleEndian,
        uid.RLELossless,
        uid.JPEGLSLossless,
    ],
    ids=lambda syntax: syntax.name,
)
@pytest.mark.parametrize("signed", [0, 1])
def test_every_transfer_syntax_decodes_identically(tmp_path, syntax, signed):
    hounsfield = head((3, 32, 32))
    try:
        paths = write_series(tmp_path, hounsfield, transfer_syntax=syntax, PixelRepresentation=signed)
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"pydicom cannot write {syntax.name} here: {error}")
    np.testing.assert_array_equal(assemble(series_of(paths)).hounsfield, hounsfield)


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000"])  # lossless both; pydicom writes neither by itself
@pytest.mark.parametrize("signed", [0, 1])
def test_what_itk_compresses_without_loss_decodes_identically(tmp_path, compressor, signed):
    hounsfield = head((2, 32, 32))
    paths = write_series(tmp_path / "a", hounsfield, PixelRepresentation=signed)
    for path in paths:
        dataset = pydicom.dcmread(path)
        writer = SimpleITK.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.SetFileName(str(tmp_path / path.name))
        writer.UseCompressionOn()
        writer.SetCompressor(compressor)
        writer.Execute(SimpleITK.GetImageFromArray(dataset.pixel_array[None]))
        made = pydicom.dcmread(tmp_path / path.name)
        dataset.PixelData, dataset["PixelData"].is_undefined_length = made.PixelData, True
        dataset.file_meta.TransferSyntaxUID = made.file_meta.TransferSyntaxUID
        assert dataset.file_meta.TransferSyntaxUID in (uid.JPEGLosslessSV1, uid.JPEG2000Lossless)
        dataset.save_as(path)
    np.testing.assert_array_equal(assemble(series_of(paths)).hounsfield, hounsfield)


def test_implicit_vr_decodes_identically(tmp_path):
    hounsfield = head((3, 32, 32))
    paths = write_series(tmp_path, hounsfield)
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian
        dataset.save_as(path, implicit_vr=True)
    np.testing.assert_array_equal(assemble(series_of(paths)).hounsfield, hounsfield)


@needs_ct
@pytest.mark.parametrize("copy", ["base_only_RLE", "vault_only_JPEGLosslessSV1", "missing_slices_JPEG2000"])
def test_the_compressed_copies_of_a_real_scan_decode_to_the_same_values(copy):
    by_position = {
        header.position: header for header in read_headers((CT / f"{GE}base_and_vault_tilted").iterdir())[0]
    }
    headers = read_headers((CT / f"{GE}{copy}").iterdir())[0]
    assert len(headers) >= 14
    for header in headers:
        np.testing.assert_array_equal(decode_slice(header), decode_slice(by_position[header.position]))


@needs_ct
@pytest.mark.parametrize("syntax", [uid.JPEGLSLossless, uid.RLELossless], ids=["JPEG-LS", "RLE"])
def test_real_slices_that_are_compressed_here_keep_every_voxel(tmp_path, syntax):
    pytest.importorskip("jpeg_ls", reason="needs pyjpegls, which comes with the extra `dicom`")
    headers = read_headers(sorted((CT / f"{GE}base_and_vault_tilted").iterdir())[::9])[0]
    for header in headers:
        dataset = pydicom.dcmread(header.path)
        size = len(dataset.PixelData)
        dataset.compress(syntax, generate_instance_uid=False)
        assert len(dataset.PixelData) < size
        dataset.save_as(tmp_path / "slice.dcm")
        (written,), _ = read_headers([tmp_path / "slice.dcm"])
        np.testing.assert_array_equal(decode_slice(written), decode_slice(header))


@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("bits", [12, 16])
def test_monochrome1_changes_the_display_and_not_the_values(tmp_path, signed, bits):
    hounsfield = head().clip(-1000, 1000)
    paths = write_series(
        tmp_path, hounsfield, PhotometricInterpretation="MONOCHROME1", PixelRepresentation=signed, BitsStored=bits
    )
    np.testing.assert_array_equal(assemble(series_of(paths)).hounsfield, hounsfield)


def test_a_fractional_slope_is_applied_and_rounded(tmp_path):
    hounsfield = head()
    paths = write_series(tmp_path, hounsfield, RescaleSlope=0.5, RescaleIntercept=-1000.5)
    assert abs(assemble(series_of(paths)).hounsfield - hounsfield).max() <= 1


@pytest.mark.parametrize("constant", [-1500, -2000, -32768])
def test_padding_becomes_air_before_anything_is_interpolated(tmp_path, constant):
    air = np.random.default_rng(0).normal(-1000, 8, (6, 40, 40)).round()
    y, x = np.indices((40, 40)) - 19.5
    outside = np.hypot(x, y) > 20
    paths = write_series(
        tmp_path, np.where(outside, constant, air), RescaleIntercept=0, ImageOrientationPatient=tilted(20)
    )
    volume = assemble(series_of(paths))
    assert volume.measures["padding"] == constant
    assert -1040 < volume.hounsfield.min() and volume.hounsfield.max() < -960


def test_air_that_a_wrong_intercept_has_darkened_is_not_padding(tmp_path):
    air = np.random.default_rng(0).normal(-2024, 8, (6, 40, 40)).round()
    volume = assemble(series_of(write_series(tmp_path, air, RescaleIntercept=-2048, PixelRepresentation=1)))
    assert volume.measures["padding"] is None
    np.testing.assert_array_equal(volume.hounsfield, air)


def spoil(path):
    dataset = pydicom.dcmread(path)
    dataset.PixelData = encapsulate([b"no picture"])
    dataset.save_as(path)


def test_a_file_that_does_not_decode_is_dropped_and_counted(tmp_path):
    hounsfield = head((8, 24, 20))
    paths = write_series(tmp_path, hounsfield, SPACING, transfer_syntax=uid.RLELossless)
    spoil(paths[3])
    volume = assemble(series_of(paths))
    assert volume.measures["files_failed"] == 1 and len(volume.hounsfield) == 8
    np.testing.assert_array_equal(np.delete(volume.hounsfield, 3, axis=0), np.delete(hounsfield, 3, axis=0))


def test_a_series_with_three_such_files_is_unreadable(tmp_path):
    paths = write_series(tmp_path, head((8, 24, 20)), transfer_syntax=uid.RLELossless)
    for path in paths[2:5]:
        spoil(path)
    with pytest.raises(UnreadableSeries, match="3 of 8 slices cannot be decoded, the first is .*0002.dcm") as raised:
        assemble(series_of(paths))
    assert raised.value.reason == "3 of 8 slices cannot be decoded"


@needs_ct
def test_a_real_tilted_scan_with_two_steps_fills_a_regular_grid():
    volume = assemble(series_of((CT / f"{GE}base_and_vault_tilted").iterdir()))
    assert volume.hounsfield.shape == (37, 611, 512)
    np.testing.assert_allclose(volume.spacing_mm, (4.0, 0.488, 0.488), atol=0.01)
    assert volume.measures["padding"] == -1500 and volume.hounsfield.min() > -1100
    tilt = np.rad2deg(np.arccos(volume.direction[2, 2]))
    assert tilt == pytest.approx(18.5, abs=0.1)


@needs_ct
def test_dcm2niix_straightens_a_real_tilted_scan_to_the_same_values(tmp_path):
    converter = pytest.importorskip("dcm2niix", reason="needs the package dcm2niix").bin
    base = series_of((CT / f"{GE}base_only_RLE").iterdir())
    subprocess.run(
        [converter, "-b", "n", "-z", "n", "-f", "x", "-o", tmp_path, base.slices[0].path.parent],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    image = nibabel.load(tmp_path / "x_Tilt_1.nii")
    theirs, ours = image.get_fdata().transpose(2, 1, 0)[:, ::-1], assemble(base)
    first = image.affine @ [0, theirs.shape[1] - 1, 0, 1]  # RAS, rows from posterior
    np.testing.assert_allclose(ours.origin_mm, [-first[0], -first[1], first[2]], atol=1e-3)
    np.testing.assert_allclose(ours.spacing_mm, image.header.get_zooms()[::-1], atol=1e-3)
    measured = minimum_filter(theirs, size=(1, 5, 5)) > -1100  # they keep the padding and blur its border
    assert abs(theirs - ours.hounsfield)[measured].max() <= 1
