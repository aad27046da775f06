"""Facts about the values of one slice: rescaling, padding, signs, syntaxes, and names of files."""

import os
import sys
from dataclasses import replace

import numpy as np
import pydicom
import pytest

pytest.importorskip("SimpleITK", reason="needs the extra `preprocess`")

from dicom_files import write_series  # noqa: E402
from pydicom.uid import ExplicitVRBigEndian, HTJ2KLossless, JPEG2000Lossless  # noqa: E402

from difffuse_hf.preprocessing.assemble import UnreadableSeries, decode_series  # noqa: E402
from difffuse_hf.preprocessing.dicom import group_series, read_headers  # noqa: E402
from difffuse_hf.preprocessing.pixels import decode_slice, same_pixels  # noqa: E402

OUTSIDE = np.hypot(*np.meshgrid(np.arange(40) - 19.5, np.arange(40) - 19.5)) > 19


def head(num_slices=3, seed=0):
    return np.random.default_rng(seed).integers(-1000, 1500, (num_slices, 40, 40))


def decoded(paths):
    headers, failed = read_headers(paths)
    assert not failed
    return np.stack([decode_slice(header) for header in headers])


def test_each_slice_has_its_own_slope_and_intercept(tmp_path):
    slopes, hounsfield = [0.5, 0.53, 2.0], head()
    paths = write_series(
        tmp_path, hounsfield, RescaleSlope=lambda i: slopes[i], RescaleIntercept=lambda i: -1024 + 10 * i,
        PixelRepresentation=0,
    )  # fmt: skip
    assert abs(decoded(paths) - hounsfield).max() <= 1


def store(paths, where, value, **tags):
    """Write a stored value into pixels of files that are there."""
    for path in paths:
        dataset = pydicom.dcmread(path)
        stored = dataset.pixel_array.copy()
        stored[where] = value
        dataset.PixelData = stored.tobytes()
        for name, (vr, number) in tags.items():
            dataset.add_new(name, vr, number)
        dataset.save_as(path)


PADDING = {
    "-2000 without a sign, declared": (0, 63536, {"PixelPaddingValue": ("US", 63536)}),
    "-2000 without a sign, not declared": (0, 63536, {}),
    "-2000, declared without its sign": (1, -2000, {"PixelPaddingValue": ("US", 63536)}),
    "white corners": (0, 4095, {"PixelPaddingValue": ("US", 4095)}),
    "a range": (1, -1990, {"PixelPaddingValue": ("SS", -2000), "PixelPaddingRangeLimit": ("SS", -1900)}),
}


@pytest.mark.parametrize("signed, value, tags", PADDING.values(), ids=PADDING)
def test_padding_becomes_air(tmp_path, signed, value, tags):
    hounsfield = head(4)
    paths = write_series(tmp_path, hounsfield, PixelRepresentation=signed)
    store(paths, OUTSIDE, value, **tags)
    (series,) = group_series(read_headers(paths)[0])
    images = decode_series(series).hounsfield
    np.testing.assert_allclose(images[:, ~OUTSIDE], hounsfield[:, ~OUTSIDE], atol=2)  # the darkest value is estimated
    assert images[:, OUTSIDE].max() < -900


def test_padding_that_is_declared_as_tissue_stays_where_it_does_not_fill_the_corners(tmp_path):
    hounsfield = head()
    hounsfield[:, 18:22, 18:22] = 0
    paths = write_series(tmp_path, hounsfield)
    store(paths, np.zeros((40, 40), bool), 0, PixelPaddingValue=("SS", 1024))
    np.testing.assert_array_equal(decoded(paths), hounsfield)


def test_numbers_that_lost_their_sign_get_it_back(tmp_path):
    hounsfield = head()
    paths = write_series(tmp_path, hounsfield, PixelRepresentation=1, RescaleIntercept=0)
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.PixelRepresentation = 0
        dataset.save_as(path)
    np.testing.assert_array_equal(decoded(paths), hounsfield)


def test_big_endian_decodes_identically(tmp_path):
    paths = write_series(tmp_path, head())
    for path in paths:
        dataset = pydicom.dcmread(path)
        swapped = pydicom.Dataset()
        swapped.update({element.tag: element for element in dataset})
        swapped.PixelData = dataset.pixel_array.astype(">i2").tobytes()
        swapped.file_meta = dataset.file_meta
        swapped.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        swapped.save_as(path, implicit_vr=False, little_endian=False)
    np.testing.assert_array_equal(decoded(paths), head())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_no_text_does_no_harm(tmp_path):
    (path,) = write_series(tmp_path, head(1))
    odd = os.path.join(os.fsencode(tmp_path), b"\xb5\xce.dcm")
    os.rename(path, odd)
    np.testing.assert_array_equal(decoded([os.fsdecode(odd)]), head(1))


def test_a_syntax_that_cannot_be_decoded_is_named_with_a_remedy(tmp_path):
    paths = write_series(tmp_path, head(), written_as=HTJ2KLossless)
    (header,) = read_headers(paths[:1])[0]
    with pytest.raises(UnreadableSeries, match="HTJ2K, which needs `pip install pylibjpeg-openjpeg`, or another"):
        decode_slice(header)
    (series,) = group_series(read_headers(paths)[0])
    with pytest.raises(UnreadableSeries, match="3 of 3 slices cannot be decoded: a file is in HTJ2K"):
        decode_series(series)
    with pytest.raises(UnreadableSeries, match="a file cannot be decoded"):
        decode_slice(replace(header, transfer_syntax=JPEG2000Lossless))
    paths[0].unlink()
    with pytest.raises(UnreadableSeries):
        decode_slice(header)


def test_copies_show_the_same_however_they_are_written(tmp_path):
    one, two = write_series(tmp_path / "a", head(2)), write_series(tmp_path / "b", head(2), RescaleIntercept=0)
    headers = read_headers([*one, *two])[0]
    assert same_pixels(headers[0], headers[2]) and not same_pixels(headers[0], headers[1])
    for path in one:
        path.write_bytes(path.read_bytes()[:-20])
    assert same_pixels(headers[0], headers[0]) and not same_pixels(headers[0], headers[2])
