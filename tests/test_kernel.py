import time
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

pydicom = pytest.importorskip("pydicom", reason="needs the extra `preprocess`")
sitk = pytest.importorskip("SimpleITK", reason="needs the extra `preprocess`")

from dicom_files import write_series  # noqa: E402

from difffuse_hf.preprocessing.dicom import find_files, group_series, read_headers  # noqa: E402
from difffuse_hf.preprocessing.kernel import kernel_from_header, kernel_from_image, kernel_name  # noqa: E402

REAL = Path(__file__).parents[2] / "shared" / "data" / "ct_dicom"
SPACING = (5.0, 0.45, 0.45)


def header_verdict(folder, **tags):
    (series,) = group_series(read_headers(write_series(folder, np.zeros((3, 4, 4)), **tags))[0])
    return kernel_from_header(series)


@pytest.mark.parametrize(
    "manufacturer, soft, bone",
    [
        ("SIEMENS", ["H30s", "J40s", "Hr38", ["H31s", "3"]], ["H60s", "H70h", "U75u", "Hr64", ["J70h", "3"]]),
        ("GE MEDICAL SYSTEMS", ["STANDARD", "SOFT", "STD+", "DETAIL"], ["BONE", "BONEPLUS", "EDGE", "LUNG"]),
        ("Philips", ["UB", "B", "UC"], ["YA", "YD", "D", "E"]),
        ("Picker International, Inc.", ["B"], ["D"]),
        ("TOSHIBA", ["FC21", "FC26", "FC64"], ["FC30", "FC31", "FC81"]),
        ("Canon Medical Systems", ["FC26"], ["FC80"]),
        ("SHIMADZU", ["BRAIN"], ["BONE"]),
        ("", ["H30s", "UB", "FC21", "STANDARD"], ["H60s", "YA", "FC30", "BONE"]),
    ],
)
def test_kernels_of_each_vendor(tmp_path, manufacturer, soft, bone):
    for verdict, names in (("soft", soft), ("bone", bone)):
        for name in names:
            assert header_verdict(tmp_path, Manufacturer=manufacturer, ConvolutionKernel=name) == verdict, name


@pytest.mark.parametrize(
    "tags, verdict",
    [
        ({"WindowWidth": 2500, "WindowCenter": 900}, "bone"),
        ({"WindowWidth": [2500, 80], "WindowCenter": [900, 40]}, "bone"),
        ({"SeriesDescription": "BONE BRAIN 1MM"}, "bone"),
        ({"WindowWidth": 80, "WindowCenter": 40}, None),  # what a sharp series is looked at with as well
        ({"WindowWidth": None, "SeriesDescription": None}, None),
        ({"ConvolutionKernel": "??", "SeriesDescription": "BONEY"}, None),
    ],
)
def test_without_a_known_kernel_only_bone_is_taken_from_the_header(tmp_path, tags, verdict):
    assert header_verdict(tmp_path, **{"ConvolutionKernel": None, **tags}) == verdict


def test_a_known_kernel_outweighs_window_and_description(tmp_path):
    assert header_verdict(tmp_path, ConvolutionKernel="UB", WindowWidth=2500, SeriesDescription="BONE") == "soft"


def test_only_a_vendors_name_of_a_kernel_is_repeated():
    assert kernel_name("H30s\\3") == "H30S" and kernel_name("BONEPLUS") == "BONEPLUS"
    assert kernel_name("Miller, Ann") == kernel_name("") == ""


@pytest.fixture(scope="module")
def head():
    """A synthetic skull (1000 HU) around brain (35 HU) at 0.45 mm, without noise: (7, 400, 400)."""
    radius = np.hypot(*np.ogrid[-200:200, -200:200]) * SPACING[1]  # mm
    disc = np.select([radius < 68, radius < 75, radius < 80], [35.0, 1000.0, 20.0], -1000.0)
    return np.repeat(disc[None], 7, axis=0)


def scan(head, blur_mm, seed=0):
    """The head as a kernel of this width shows it: white noise and edges are smoothed alike, noise of 8 HU."""
    noise = np.random.default_rng(seed).normal(size=head.shape)
    images, noise = (ndimage.gaussian_filter(a, (0, *(blur_mm / mm for mm in SPACING[1:]))) for a in (head, noise))
    return (images + 8 * noise / noise.std()).round().astype(np.int16)


def test_a_smooth_kernel_is_soft_and_a_sharp_one_bone(head):
    for blur_mm, verdict in ((0.8, "soft"), (0.6, "soft"), (0.25, "bone")):
        assert kernel_from_image(scan(head, blur_mm), SPACING)[0] == verdict


def test_added_noise_lowers_the_autocorrelation_but_not_the_edges(head):
    smooth = scan(head, 0.7)
    noisy = smooth + np.random.default_rng(1).normal(0, 30, head.shape).astype(np.int16)
    (_, before), (verdict, after) = kernel_from_image(smooth, SPACING), kernel_from_image(noisy, SPACING)
    assert after["autocorrelation_1mm"] < 0.05 < before["autocorrelation_1mm"]
    assert after["edge_hu_per_mm"] == pytest.approx(before["edge_hu_per_mm"], rel=0.1)
    assert verdict == "review"


def test_the_autocorrelation_of_white_noise_is_that_of_the_filter():
    """Noise is what remains of an image after its mean over 5 x 5 pixels (2.5 mm) is subtracted."""
    image = 40 + np.random.default_rng(0).normal(0, 10, (5, 300, 300))
    image[:, 20:30, 20:30] = image[:, 270:280, 270:280] = 400  # bone in two corners
    _, measures = kernel_from_image(image.round().astype(np.int16), (5, 0.5, 0.5))
    left = -np.ones((5, 5)) / 25
    left[2, 2] += 1
    expected = (left[2:] * left[:-2]).sum() / (left**2).sum()  # two pixels are 1 mm
    assert measures["autocorrelation_1mm"] == pytest.approx(expected, abs=0.01)


def test_the_edge_of_a_ramp_is_its_slope():
    ramp = np.clip(np.arange(200) * 0.5 * 600 - 30000, -1000, 1000)  # 600 HU/mm at 0.5 mm
    volume = np.broadcast_to(ramp, (5, 200, 200)).astype(np.int16)
    assert kernel_from_image(volume, (5, 0.5, 0.5))[1]["edge_hu_per_mm"] == pytest.approx(600, abs=1)


def test_a_scan_without_bone_is_for_review():
    empty = np.full((5, 64, 64), -1000, np.int16)
    assert kernel_from_image(empty, SPACING) == ("review", {"autocorrelation_1mm": None, "edge_hu_per_mm": None})


def test_a_large_scan_takes_a_fifth_of_a_second(head):
    large = np.repeat(scan(head, 0.7), 6, axis=0)[:40]
    large = np.pad(large, ((0, 0), (56, 56), (56, 56)), constant_values=-1000)  # 40 x 512 x 512
    start = time.process_time()
    kernel_from_image(large, SPACING)
    assert time.process_time() - start < 0.2


@pytest.mark.skipif(not REAL.exists(), reason="needs ../shared/data/ct_dicom")
@pytest.mark.parametrize(
    "folder, verdict",
    [
        ("GE_HiSpeedDual_head_STD_base_and_vault_tilted", "soft"),
        ("Philips_IngenuityCT_phantom_UB_5mm_JPEGLS", "soft"),
        ("Philips_IngenuityCT_phantom_YA_bone_1mm_JPEG2000", "bone"),
    ],
)
def test_the_image_alone_tells_the_real_kernels(folder, verdict):
    (series,) = group_series(read_headers(find_files(REAL / folder))[0])
    images = [sitk.GetArrayFromImage(sitk.ReadImage(str(header.path)))[0] for header in series.slices]
    spacing = (5.0, *series.slices[0].pixel_spacing_mm)
    assert kernel_from_image(np.stack(images).astype(np.int16), spacing)[0] == verdict
    assert kernel_from_header(series) == verdict
