import csv
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="needs the extra `preprocess`")

import pydicom  # noqa: E402
from dicom_files import AXIAL, tilted, write_series, write_slice  # noqa: E402
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless, generate_uid  # noqa: E402

from difffuse_hf.preprocessing.dicom import find_files, group_series, merge_split, read_headers  # noqa: E402
from difffuse_hf.preprocessing.exclusion import Exclusion  # noqa: E402
from difffuse_hf.preprocessing.headers import ARCHIVE, NOT_DICOM  # noqa: E402
from difffuse_hf.preprocessing.rules import header_exclusion, regular_steps  # noqa: E402
from difffuse_hf.preprocessing.walk import walk_files  # noqa: E402

REAL = Path(__file__).parents[2] / "shared" / "data" / "ct_dicom"
SAGITTAL, CORONAL = (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1)
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def pixels(num_slices=28, size=8):
    return np.full((num_slices, size, size), 40)


def along_z(positions):
    return lambda i: (-20.0, -20.0, float(positions[i]))


@pytest.fixture
def write(tmp_path):
    """Write a series of 28 slices of 5 mm into the test's folder; returns the paths."""
    count = iter(range(100))

    def write(hounsfield=None, **options):
        return write_series(tmp_path / f"{next(count)}", pixels() if hounsfield is None else hounsfield, **options)

    return write


@pytest.fixture
def series(tmp_path):
    def series(merge=False):
        grouped = group_series(read_headers(find_files(tmp_path))[0])
        return merge_split(grouped) if merge else grouped

    return series


def decisions(all_series, merge=False):
    return [header_exclusion(one, merge)[0] for one in all_series]


def positions_of(one):
    return [header.position[2] for header in one.slices]


# Files and headers


def test_hidden_files_and_dicomdir_are_not_looked_at(write, tmp_path):
    paths = write(pixels(3))
    for name in ("._0000.dcm", ".hidden", "DICOMDIR"):
        (paths[0].parent / name).write_bytes(paths[0].read_bytes())
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "0000.dcm").write_bytes(paths[0].read_bytes())
    assert find_files(tmp_path) == paths


def test_text_and_empty_files_are_not_dicom_and_do_no_harm(write, tmp_path, series):
    write()
    (tmp_path / "0" / "readme.txt").write_text("scans of 2005, see the archive for the others " * 10)
    (tmp_path / "0" / "0099.dcm").write_bytes(b"")
    headers, failed = read_headers(find_files(tmp_path))
    assert len(headers) == 28 and {why for _, why in failed} == {NOT_DICOM} and len(failed) == 2
    assert decisions(series()) == [None]


def test_links_are_followed_once_and_to_nowhere_they_are_named(write, tmp_path):
    paths = write(pixels(3))
    disk = tmp_path / "disk"
    (disk / "a").mkdir(parents=True)
    for name, target in (("b", paths[0].parent), ("c", paths[0].parent), ("loop", disk), ("lost", "nowhere"),
                         ("one.dcm", paths[0])):  # fmt: skip
        (disk / "a" / name).symlink_to(target)
    os.mkfifo(disk / "pipe")
    found = find_files(disk)
    expected = [f"a/b/{path.name}" for path in paths] + ["a/lost", "a/one.dcm"]
    assert [path.relative_to(disk).as_posix() for path in found] == expected
    headers, failed = read_headers(found)
    assert len(headers) == 4 and [path.name for path, _ in failed] == ["lost"] and "No such file" in failed[0][1]


def test_a_folder_that_cannot_be_listed_is_told(tmp_path, monkeypatch):
    closed = []
    assert list(walk_files(tmp_path / "gone", lambda path, error: closed.append((path, str(error))))) == []
    ((path, why),) = closed
    assert path == str(tmp_path / "gone") and "No such file" in why


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\x1f\x8b\x08", b"7z\xbc\xaf\x27\x1c"])
def test_an_archive_is_named_with_what_to_do(tmp_path, start):
    (tmp_path / "scans").write_bytes(start + bytes(500))
    assert read_headers([tmp_path / "scans"])[1] == [(tmp_path / "scans", ARCHIVE)]


def test_a_damaged_byte_costs_its_file_and_no_more(write):
    paths = write(pixels(24))
    content = paths[3].read_bytes()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        damaged = bytearray(content)
        damaged[rng.integers(132, len(content) - 128)] = rng.integers(256)
        paths[3].write_bytes(damaged)
        headers, failed = read_headers(paths)
        assert len(headers) + len(failed) == 24 and len(failed) <= 1
        group_series(headers)
    paths[3].write_bytes(content.replace(b"\x20\x00\x13\x00IS", b"\x20\x00\x13\x00I\x82"))
    headers, failed = read_headers(paths)
    assert [path for path, _ in failed] == [paths[3]] and "Unknown Value Representation" in failed[0][1]
    assert decisions(group_series(headers)) == [None]


def test_a_file_that_ends_in_its_header_is_named(write):
    paths = write(pixels(3))
    paths[1].write_bytes(paths[1].read_bytes()[:600])
    headers, failed = read_headers(paths)
    assert [header.path for header in headers] == [paths[0], paths[2]]
    assert failed == [(paths[1], "the file ends in its header")]


def test_a_file_without_preamble_is_read(write, series):
    for path in write():
        dataset = pydicom.dcmread(path)
        del dataset.preamble, dataset.file_meta
        dataset.save_as(path, implicit_vr=True, little_endian=True)
    assert decisions(series()) == [None]


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, RLELossless])
def test_the_header_does_not_depend_on_the_transfer_syntax(write, syntax):
    plain, other = (
        read_headers(write(pixels(3), transfer_syntax=one, SeriesInstanceUID="1.2", StudyInstanceUID="1.3",
                           FrameOfReferenceUID="1.4", SOPInstanceUID=lambda i: f"1.5.{i}"))[0]
        for one in (pydicom.uid.ExplicitVRLittleEndian, syntax)
    )  # fmt: skip
    assert plain == [replace(header, path=same.path) for header, same in zip(other, plain)]


@pytest.mark.parametrize(
    "tags, years",
    [
        ({"PatientAge": "072Y"}, 72),
        ({"PatientAge": "030M"}, 2.5),
        ({"PatientAge": None, "PatientBirthDate": "19300102", "StudyDate": "20050102"}, 75),
        ({"PatientAge": "", "PatientBirthDate": ""}, None),
        ({"PatientAge": None}, None),
    ],
)
def test_the_age_comes_from_its_tag_or_from_the_dates(write, tags, years):
    assert read_headers(write(pixels(1), **tags))[0][0].age_years == pytest.approx(years, abs=0.01)


def test_values_that_are_no_numbers_count_as_absent(write):
    paths = write(pixels(1))
    content = paths[0].read_bytes().replace(b"\x50\x00DS\x04\x005.0 ", b"\x50\x00DS\x04\x00thin")
    paths[0].write_bytes(content)
    assert read_headers(paths)[0][0].thickness_mm is None


# One series in order


def test_slices_are_sorted_from_below_whatever_their_numbers(write, series):
    write(InstanceNumber=lambda i: 28 - i, ImagePositionPatient=lambda i: (0, 0, 5.0 * (9 * i % 28)))
    (one,) = series()
    assert positions_of(one) == sorted(positions_of(one)) and one.coverage_mm == 135
    assert decisions([one]) == [None]


def test_the_tilt_comes_from_the_orientation_and_the_tag_may_lie(write, series):
    write(ImageOrientationPatient=tilted(18.5), GantryDetectorTilt=-18.5)
    write(ImageOrientationPatient=tilted(-18.5))
    first, second = series()
    assert first.tilt_deg == pytest.approx(-second.tilt_deg) and abs(first.tilt_deg) == pytest.approx(18.5)
    np.testing.assert_allclose(first.spacings_mm, 5 * np.cos(np.deg2rad(18.5)))
    assert decisions([first, second]) == [None, None]


def test_keys_are_distinct_and_do_not_depend_on_the_order_of_files(write, tmp_path):
    write(pixels(56), ConvolutionKernel=lambda i: "YA" if i % 2 else "UB")
    write(pixels(28), ImagePositionPatient=lambda i: (0, 0, 5 * (i % 14)), AcquisitionNumber=lambda i: i // 14)
    headers = read_headers(find_files(tmp_path))[0]
    keys = {one.key for one in group_series(headers)}
    assert len(keys) == 4 and keys == {one.key for one in group_series(headers[::-1])}


def test_a_key_stays_when_a_slice_is_added(write, series):
    common = {"SeriesInstanceUID": "1.2", "StudyInstanceUID": "1.3", "FrameOfReferenceUID": "1.4"}
    write(pixels(27), **common)
    (before,) = series()
    write(pixels(1), **common, ImagePositionPatient=(-20, -20, 75), InstanceNumber=28)
    (after,) = series()
    assert len(after.slices) == 28 and after.key == before.key


# Odd series: what remains of them, and what is decided


ODD = {
    "z jitter of 4 um": ({"ImagePositionPatient": lambda i: (0, 0, 5 * i + 4e-3 * (-1) ** i)}, None),
    "all instance numbers 1": ({"InstanceNumber": 1}, None),
    "no instance numbers": ({"InstanceNumber": None}, None),
    "acquisition new for every slice": ({"AcquisitionNumber": lambda i: i + 1}, None),
    "image type changes": ({"ImageType": lambda i: ["ORIGINAL", "PRIMARY", "AXIAL"] + ["ADD"] * (i % 2)}, None),
    "derived, yet axial": ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL"]}, None),
    "pixels are not square": ({"PixelSpacing": [0.5, 0.4]}, None),
    "feet first, turned": ({"ImageOrientationPatient": (-1, 0, 0, 0, 1, 0)}, None),
    "no image type and no kernel": ({"ImageType": None, "ConvolutionKernel": None, "SeriesDescription": None}, None),
    "no rescale tags": ({"RescaleSlope": None, "RescaleIntercept": None}, None),
    "no kind of object, but CT": ({"Modality": "CT"}, None),
    "tilt without its tag": ({"ImageOrientationPatient": tilted(-16.5)}, None),
    "a report or secondary capture": ({"SOPClassUID": SECONDARY_CAPTURE}, Exclusion.NOT_CT),
    "dose sheet": ({"ImageType": ["DERIVED", "SECONDARY", "DOSE_INFO"]}, Exclusion.NOT_CT),
    "burned-in text": ({"BurnedInAnnotation": "YES"}, Exclusion.NOT_CT),
    "no orientation": ({"ImageOrientationPatient": None}, Exclusion.NO_GEOMETRY),
    "orientation of zeros": ({"ImageOrientationPatient": (0, 0, 0, 0, 0, 0)}, Exclusion.NO_GEOMETRY),
    "no position": ({"ImagePositionPatient": None}, Exclusion.NO_GEOMETRY),
    "no pixel spacing": ({"PixelSpacing": None}, Exclusion.NO_GEOMETRY),
    "localiser by image type": ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, Exclusion.LOCALISER),
    "Siemens topogram": ({"ImageType": ["ORIGINAL", "PRIMARY", "TOPOGRAM"]}, Exclusion.LOCALISER),
    "sagittal": ({"ImageOrientationPatient": SAGITTAL,
                  "ImagePositionPatient": lambda i: (5 * i, 0, 0)}, Exclusion.NOT_AXIAL),
    "coronal": ({"ImageOrientationPatient": CORONAL,
                 "ImagePositionPatient": lambda i: (0, 5 * i, 0)}, Exclusion.NOT_AXIAL),
    "tilted by 35 degrees": ({"ImageOrientationPatient": tilted(35)}, Exclusion.NOT_AXIAL),
    "bone kernel": ({"ConvolutionKernel": "BONE"}, Exclusion.BONE_KERNEL),
    "bone window, no kernel": ({"ConvolutionKernel": None, "WindowWidth": 2500}, Exclusion.BONE_KERNEL),
    "shifted midway": ({"ImagePositionPatient": lambda i: (9 * (i > 9), 0, 5 * i)}, Exclusion.INCONSISTENT_GEOMETRY),
    "two thicknesses": ({"SliceThickness": lambda i: 4 + 3 * (i > 13)}, Exclusion.SPLIT_BASE_VAULT),
    "two steps": ({"ImagePositionPatient": lambda i: (0, 0, 4 * i + 3 * max(i - 13, 0))}, Exclusion.SPLIT_BASE_VAULT),
    "half a head": ({"ImagePositionPatient": lambda i: (0, 0, 2 * i)}, Exclusion.INCOMPLETE_HEAD),
    "8-bit pixels": ({"BitsAllocated": 8, "PixelRepresentation": 0, "RescaleIntercept": 0}, Exclusion.NOT_HOUNSFIELD),
    "slope differs in one slice": ({"RescaleSlope": lambda i: 1 + (i == 5)}, None),
    "colour": ({"PhotometricInterpretation": "RGB"}, Exclusion.NOT_HOUNSFIELD),
    "contrast agent": ({"ContrastBolusAgent": "ULTRAVIST 370"}, Exclusion.CONTRAST),
    "contrast agent: none": ({"ContrastBolusAgent": "NONE"}, None),
    "contrast agent by mouth": ({"ContrastBolusAgent": "TELEBRIX", "ContrastBolusRoute": "ORAL"}, None),
    "angiography": ({"SeriesDescription": "HEAD_CTA_0.6"}, Exclusion.CONTRAST),
    "perfusion": ({"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 DYN"]}, Exclusion.CONTRAST),
    "with contrast, in words": ({"SeriesDescription": "HEAD POST CONTRAST"}, Exclusion.CONTRAST),
    "without contrast, in words": ({"SeriesDescription": "HEAD W/O CONTRAST"}, None),
    "projection": ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 MIP"]}, Exclusion.DERIVED),
    "perfusion map": ({"ImageType": ["DERIVED", "SECONDARY", "CBF"]}, Exclusion.DERIVED),
    "axial reformat": ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 MPR"]}, None),
    "head and neck": ({"ImagePositionPatient": lambda i: (0, 0, 10 * i)}, Exclusion.BEYOND_HEAD),
    "private transfer syntax": ({"written_as": "1.2.840.113619.5.2"}, Exclusion.UNREADABLE),
    "decubitus": ({"ImageOrientationPatient": (0, 1, 0, -1, 0, 0)}, None),
}  # fmt: skip


@pytest.mark.parametrize("tags, reason", ODD.values(), ids=ODD)
def test_an_odd_series_is_one_series_and_the_decision_is(write, series, tags, reason):
    write(**tags)
    (one,) = series()
    assert len(one.slices) == 28 and one.dropped == {}
    exclusion, detail, measures = header_exclusion(one)
    assert exclusion is reason and bool(detail) == bool(reason)
    assert all(value is None or type(value) in (int, float, str, bool) for value in measures.values())


def test_a_multi_frame_file_says_what_to_do_with_it(write, series):
    write(pixels(1), SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1", NumberOfFrames=40, PixelSpacing=None)
    (one,) = series()
    one = replace(one, slices=tuple(replace(header, truncated=False) for header in one.slices))
    exclusion, detail, _ = header_exclusion(one)
    assert exclusion is Exclusion.NO_GEOMETRY and "one file per slice" in detail


def test_fewer_than_three_slices_without_image_type_are_a_localiser(write, series):
    write(pixels(2), ImageType=None)
    assert decisions(series()) == [Exclusion.LOCALISER]


def test_neither_details_nor_measures_repeat_free_text_of_the_header(write, series):
    write(ConvolutionKernel="MILLER", SeriesDescription="MILLER BONE", Manufacturer="MILLER", ImageType="MILLER")
    _, detail, measures = header_exclusion(series()[0])
    assert "MILLER" not in detail + str(measures) and measures["kernel"] == ""


def test_a_few_truncated_files_are_dropped_and_the_gap_is_noted(write, series):
    paths = write()
    for path in paths[10:12]:
        path.write_bytes(path.read_bytes()[:-20])
    (one,) = series()
    exclusion, _, measures = header_exclusion(one)
    assert one.dropped == {"truncated": 2} and len(one.slices) == 26
    assert exclusion is None and measures["missing_slices"] == 2 and measures["missing_mm"] == 10


def test_a_series_of_truncated_files_is_unreadable(write, series):
    for path in write(pixels(3)):
        path.write_bytes(path.read_bytes()[:-20])
    assert decisions(series()) == [Exclusion.UNREADABLE]


@pytest.mark.parametrize(
    "missing, reason",
    [((12,), None), ((12, 13), None), ((5, 12, 20), None), ((12, 13, 14), Exclusion.MISSING_SLICES),
     ((3, 4, 10, 11, 18, 19), Exclusion.MISSING_SLICES)],
)  # fmt: skip
def test_small_gaps_are_bridged_and_large_ones_are_not(write, series, missing, reason):
    present = [i for i in range(31) if i not in missing]
    write(pixels(len(present)), ImagePositionPatient=along_z([5 * i for i in present]))
    exclusion, _, measures = header_exclusion(series()[0])
    assert exclusion is reason and measures["missing_slices"] == len(missing)


def test_two_slices_of_10_mm_are_too_much_to_bridge(write, series):
    write(pixels(13), ImagePositionPatient=along_z(10 * np.delete(np.arange(15), [6, 7])), SliceThickness=10)
    assert decisions(series()) == [Exclusion.MISSING_SLICES]


def test_a_thick_vault_is_no_gap_in_a_thin_base():
    steps = np.array([4, 4, 4, 8, 4, 4, 4, 1.1, 8, 8, 8, 16, 8, 8, 8])  # one slice of each part is missing
    np.testing.assert_array_equal(regular_steps(steps), [4] * 7 + [8] * 8)


def test_stray_slices_of_another_orientation_are_dropped(write, series):
    turned = {3: SAGITTAL, 20: CORONAL}
    write(pixels(30), ImageOrientationPatient=lambda i: turned.get(i, AXIAL))
    (one,) = series()
    assert len(one.slices) == 28 and one.dropped == {"stray orientation": 2}


def test_a_stray_slice_of_another_size_is_dropped(write, series):
    paths = write(pixels(29))
    tags = {element.keyword: element.value for element in pydicom.dcmread(paths[28], stop_before_pixels=True)}
    write_slice(paths[28], pixels(1, size=16)[0], **tags)
    (one,) = series()
    assert one.dropped == {"stray size": 1} and decisions([one]) == [None]


def test_two_sizes_in_one_series_are_two_series(write, series):
    common = {"SeriesInstanceUID": "1.2", "StudyInstanceUID": "1.3", "FrameOfReferenceUID": "1.4"}
    write(pixels(20), **common)
    write(pixels(8, size=16), ImagePositionPatient=lambda i: (0, 0, 40 + 5 * i), **common)
    assert decisions(series()) == [Exclusion.SPLIT_BASE_VAULT, Exclusion.SPLIT_BASE_VAULT]


def test_a_slice_sent_twice_is_used_once(write, series):
    paths = write()
    (paths[0].parent / "copy.dcm").write_bytes(paths[7].read_bytes())
    (one,) = series()
    assert len(one.slices) == 28 and one.dropped == {"copies": 1} and decisions([one]) == [None]


def test_a_slice_scanned_again_at_its_position_is_used_once(write, series):
    write(pixels(30), ImagePositionPatient=along_z([5 * min(i, 27) for i in range(30)]))
    (one,) = series()
    assert len(one.slices) == 28 and one.dropped == {"duplicate position": 2}
    assert one.slices[-1].instance == 28


def test_two_kernels_in_one_series_are_two_series(write, series):
    write(
        pixels(56),
        ConvolutionKernel=lambda i: "YA" if i % 2 else "UB",
        ImagePositionPatient=lambda i: (0, 0, 5 * (i // 2)),
    )
    assert decisions(series()) == [None, Exclusion.BONE_KERNEL]


ACQUISITIONS = {
    "numbered": lambda i: 1 + i // 28,
    "numbered slice by slice": lambda i: i + 1,
    "not numbered": None,
}


@pytest.mark.parametrize("acquisition", ACQUISITIONS.values(), ids=ACQUISITIONS)
def test_two_scans_of_the_same_places_are_two_series(write, series, acquisition):
    write(pixels(56), ImagePositionPatient=lambda i: (0, 0, 5 * (i % 28)), AcquisitionNumber=acquisition)
    one, two = series()
    assert decisions([one, two]) == [None, None] and one.key != two.key
    assert {header.instance for header in one.slices} == set(range(1, 29))


def test_an_aborted_scan_and_its_repetition_are_not_mixed(write, series):
    write(pixels(40), ImagePositionPatient=lambda i: (0, 0, 5 * (i if i < 12 else i - 12)),
          AcquisitionNumber=lambda i: 1 + (i >= 12))  # fmt: skip
    assert sorted(len(one.slices) for one in series()) == [12, 28]


def test_slices_that_each_have_their_own_series_are_put_together_by_geometry(write, series):
    write(SeriesInstanceUID=lambda i: generate_uid())
    write(SeriesInstanceUID=lambda i: generate_uid())  # another study
    one, two = series()
    assert decisions([one, two]) == [None, None] and len(one.series_uids) == 28


def test_slices_without_a_series_or_frame_of_reference_are_not_guessed(write, series):
    write(pixels(5), SeriesInstanceUID=lambda i: generate_uid(), FrameOfReferenceUID=lambda i: generate_uid())
    assert decisions(series()) == [Exclusion.LOCALISER] * 5


# Base and vault


@pytest.fixture
def base_and_vault(write):
    def base_and_vault(vault_from=60.0, study="1.3", **vault_tags):
        common = {"StudyInstanceUID": "1.3", "FrameOfReferenceUID": "1.4"}
        write(pixels(14), spacing_mm=(4, 0.5, 0.5), origin_mm=(0, 0, 4), **common)
        vault_tags = {**common, "StudyInstanceUID": study, **vault_tags}
        write(pixels(12), spacing_mm=(7, 0.5, 0.5), origin_mm=(0, 0, vault_from), **vault_tags)

    return base_and_vault


def test_base_and_vault_are_excluded_as_in_the_thesis_and_joined_on_request(base_and_vault, series):
    base_and_vault()
    assert decisions(series()) == [Exclusion.SPLIT_BASE_VAULT] * 2
    (joined,) = series(merge=True)
    assert len(joined.slices) == 26 and len(joined.series_uids) == 2 and joined.coverage_mm == 60 - 4 + 77
    assert decisions([joined], merge=True) == [None]


def test_where_base_and_vault_overlap_the_base_is_kept(base_and_vault, series):
    base_and_vault(vault_from=46)
    (joined,) = series(merge=True)
    assert joined.dropped == {"overlap": 2} and positions_of(joined)[13:15] == [56, 60]


APART = {
    "a gap of two steps": {"vault_from": 70.5},
    "another study": {"study": "1.5"},
    "another frame of reference": {"FrameOfReferenceUID": "1.6"},
    "another kernel": {"ConvolutionKernel": "B"},
    "another field of view": {"PixelSpacing": [0.4, 0.4]},
    "another tilt": {"ImageOrientationPatient": tilted(10)},
    "shifted sideways": {"ImagePositionPatient": lambda i: (30, 0, 60 + 7 * i)},
}


@pytest.mark.parametrize("difference", APART.values(), ids=APART)
def test_parts_are_not_joined_across(base_and_vault, series, difference):
    base_and_vault(**difference)
    assert decisions(series(merge=True), merge=True) == [Exclusion.SPLIT_BASE_VAULT] * 2


def test_a_base_is_not_joined_where_two_vaults_would_follow(base_and_vault, write, series):
    base_and_vault()
    common = {"StudyInstanceUID": "1.3", "FrameOfReferenceUID": "1.4"}
    write(pixels(12), spacing_mm=(7, 0.5, 0.5), origin_mm=(0, 0, 60), **common)
    assert decisions(series(merge=True), merge=True) == [Exclusion.SPLIT_BASE_VAULT] * 3


def test_two_whole_heads_of_one_study_are_not_joined(write, series):
    for start in (0, 140):
        write(StudyInstanceUID="1.3", FrameOfReferenceUID="1.4", origin_mm=(0, 0, start))
    assert len(series(merge=True)) == 2


def test_a_part_scanned_twice_is_not_joined_with_itself(write, series):
    for _ in range(2):
        write(pixels(14), StudyInstanceUID="1.3", FrameOfReferenceUID="1.4")
    assert decisions(series(merge=True), merge=True) == [Exclusion.SPLIT_BASE_VAULT] * 2


# Real scanners


REASONS = {
    "GE_HiSpeedDual_head_STD_missing_slices_JPEG2000": Exclusion.MISSING_SLICES,
    "Philips_IngenuityCT_phantom_surview_localizer": Exclusion.LOCALISER,
    "Philips_IngenuityCT_phantom_YA_bone_1mm_JPEG2000": Exclusion.BONE_KERNEL,
    "Philips_IngenuityCT_phantom_coronal_reformat_Deflated": Exclusion.NOT_AXIAL,
}


@pytest.mark.skipif(not REAL.exists(), reason="needs ../shared/data/ct_dicom")
@pytest.mark.parametrize("merge", [False, True])
def test_the_real_series_are_decided_as_their_manifest_says(merge):
    headers, failed = read_headers(find_files(REAL))
    all_series = group_series(headers)
    all_series = merge_split(all_series) if merge else all_series
    found = {header.path.parent.name: header_exclusion(one, merge)[0] for one in all_series for header in one.slices}
    with open(REAL / "manifest.csv", newline="") as file:
        expected = {row["series"]: row["expected_decision"] for row in csv.DictReader(file)}
    assert [path.name for path, _ in failed] == ["manifest.csv"] and set(found) == set(expected)
    for name, decision in expected.items():
        split = not merge and "base" in name or not merge and "vault" in name
        assert found[name] is (Exclusion.SPLIT_BASE_VAULT if split else REASONS.get(name)), name
        assert split or (found[name] is None) == (decision == "keep")
