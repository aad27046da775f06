"""Facts about reading one scan with its own slices: Enhanced CT, the choice of a series, where slices come from."""

import numpy as np
import pytest

pytest.importorskip("SimpleITK", reason="needs the extra `preprocess`")

from dicom_files import write_enhanced, write_series  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless  # noqa: E402
from synthetic_head import SPACING, turn, turned_head  # noqa: E402

from difffuse_hf.errors import InputError  # noqa: E402
from difffuse_hf.preprocessing import pixels as pixels_module  # noqa: E402
from difffuse_hf.preprocessing.assemble import decode_series  # noqa: E402
from difffuse_hf.preprocessing.dicom import DYNAMIC, group_series, read_headers  # noqa: E402
from difffuse_hf.preprocessing.exclusion import Exclusion  # noqa: E402
from difffuse_hf.preprocessing.native import find_series, read_dicom  # noqa: E402
from difffuse_hf.preprocessing.rules import header_exclusion  # noqa: E402


def noise(num_slices=24, size=8, seed=0):
    return np.random.default_rng(seed).integers(-1000, 2000, (num_slices, size, size))


def frames(path):
    headers, failed = read_headers([path])
    assert not failed
    return headers


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless])
def test_the_frames_of_a_multi_frame_file_are_slices_with_their_own_places_and_values(tmp_path, syntax):
    hounsfield = noise()
    (series,) = group_series(frames(write_enhanced(tmp_path / "a", hounsfield, transfer_syntax=syntax)))
    assert header_exclusion(series)[0] is None and series.coverage_mm == 23 * 5
    assert [header.frame for header in series.slices] == list(range(24))
    np.testing.assert_array_equal(decode_series(series).hounsfield, hounsfield)


def test_frames_that_only_gdcm_decodes_are_the_same(tmp_path, monkeypatch):
    path = write_enhanced(tmp_path / "a", noise(size=32), transfer_syntax=RLELossless)
    monkeypatch.setattr(pixels_module, "get_decoder", lambda syntax: type("Decoder", (), {"is_available": False}))
    (series,) = group_series(frames(path))
    np.testing.assert_array_equal(decode_series(series).hounsfield, noise(size=32))


def test_each_frame_has_its_own_slope(tmp_path):
    hounsfield = 6 * (noise() // 6)
    path = write_enhanced(tmp_path / "a", hounsfield + 2, slopes=[1 + i % 3 for i in range(24)])
    (series,) = group_series(frames(path))
    np.testing.assert_allclose(decode_series(series).hounsfield, hounsfield + 2, atol=2)
    np.testing.assert_array_equal(decode_series(series).hounsfield[::3], hounsfield[::3] + 2)


def test_points_in_time_of_one_file_are_scans_of_their_own(tmp_path):
    path = write_enhanced(tmp_path / "a", noise(72), times=[i // 24 + 1 for i in range(72)])
    series = group_series(frames(path))
    assert [len(one.slices) for one in series] == [24] * 3 and {one.problem for one in series} == {DYNAMIC}
    assert {header_exclusion(one)[0] for one in series} == {Exclusion.CONTRAST}


def test_a_multi_frame_file_tells_of_contrast_and_projection_in_its_own_way(tmp_path):
    agent = Dataset()
    agent.CodeMeaning = "Iohexol"
    contrast = write_enhanced(tmp_path / "a", noise(), ContrastBolusAgentSequence=[agent])
    projection = write_enhanced(tmp_path / "b", noise(), VolumeBasedCalculationTechnique="MAX_IP")
    found = [header_exclusion(one)[0] for path in (contrast, projection) for one in group_series(frames(path))]
    assert found == [Exclusion.CONTRAST, Exclusion.DERIVED]


def test_a_multi_frame_file_without_places_has_no_geometry_and_is_told_so(tmp_path):
    (series,) = group_series(frames(write_enhanced(tmp_path / "a", noise(), placed=False)))
    exclusion, detail, _ = header_exclusion(series)
    assert exclusion is Exclusion.NO_GEOMETRY and "does not say where its frames lie" in detail


def test_a_multi_frame_file_that_describes_other_frames_than_it_holds_is_named(tmp_path):
    path = write_enhanced(tmp_path / "a", noise(), times=[1] * 24)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"(\x00\x08\x00IS\x02\x0024", b"(\x00\x08\x00IS\x02\x0025"))
    assert read_headers([path])[1] == [(path, "the file describes 24 frames and holds 25")]


@pytest.fixture(scope="module")
def head():
    return turned_head(turn("y", 4))[0].hounsfield


@pytest.mark.parametrize("enhanced", [False, True], ids=["slices", "one file"])
def test_a_scan_is_read_with_its_own_slices_and_where_they_come_from(tmp_path, head, enhanced):
    tags = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.4"}
    if enhanced:
        paths = [write_enhanced(tmp_path / "a", head, SPACING, **tags)] * len(head)
    else:
        paths = write_series(tmp_path, head[::-1], SPACING, **tags,
                             ImagePositionPatient=lambda i: (-20, -20, 128.0 - 4 * i))[::-1]  # fmt: skip
    scan = read_dicom(paths[0] if enhanced else tmp_path)
    np.testing.assert_array_equal(scan.hounsfield, head)
    assert scan.exclusion is None and scan.registration is not None and scan.volume.hounsfield.shape == head.shape
    assert [one.path for one in scan.slices] == paths
    assert [one.frame for one in scan.slices] == (list(range(48)) if enhanced else [0] * 48)
    assert [one.position for one in scan.slices] == [(-20, -20, -60 + 4 * i) for i in range(48)]
    assert all(one.orientation == (1, 0, 0, 0, 1, 0) and one.sop_instance_uid for one in scan.slices)
    assert len({(one.sop_instance_uid, one.frame) for one in scan.slices}) == 48


def test_the_scan_has_to_be_named_where_there_are_several(tmp_path):
    for name in "12":
        write_series(tmp_path / name, noise(28), SeriesInstanceUID=f"1.2.{name}")
    write_series(tmp_path / "bone", noise(28), SeriesInstanceUID="1.2.3", ConvolutionKernel="BONE")
    assert [why for _, why, _ in find_series(tmp_path)] == [None, None, Exclusion.BONE_KERNEL]
    with pytest.raises(InputError, match=r"2 head scans; name one of them: 1\.2\.1 \(28 slices\), 1\.2\.2"):
        read_dicom(tmp_path)
    with pytest.raises(InputError, match="No series in .* is a head scan to use: .* are those of bone"):
        read_dicom(tmp_path, "1.2.3")
    with pytest.raises(InputError, match="holds no series 1.2.9"):
        read_dicom(tmp_path, "1.2.9")
    with pytest.raises(InputError, match="is not to be used .not-hounsfield.: air and soft tissue"):
        read_dicom(tmp_path, "1.2.1")


def test_what_is_no_dicom_is_said(tmp_path):
    (tmp_path / "scans.zip").write_bytes(b"PK\x03\x04" + bytes(200))
    with pytest.raises(InputError, match="holds no readable DICOM image .1 files.*scans.zip is an archive; unpack it"):
        read_dicom(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        read_dicom(tmp_path / "nowhere")
