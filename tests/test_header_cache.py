"""Facts about the headers that a run keeps: the same series and decisions as without, and nothing of the patient."""

import shutil
from itertools import product

import numpy as np
import pandas
import pytest

pytest.importorskip("pydicom", reason="needs the extra `preprocess`")
pytest.importorskip("distributed", reason="needs the extra `preprocess`")

from dicom_files import write_enhanced, write_series  # noqa: E402
from pydicom.uid import generate_uid  # noqa: E402
from test_dicom import ODD  # noqa: E402

from difffuse_hf.errors import InputError  # noqa: E402
from difffuse_hf.preprocessing import scan  # noqa: E402
from difffuse_hf.preprocessing.conceal import conceal  # noqa: E402
from difffuse_hf.preprocessing.ct import preprocess_ct  # noqa: E402
from difffuse_hf.preprocessing.dicom import find_files, group_series, merge_split, read_headers  # noqa: E402
from difffuse_hf.preprocessing.header_cache import HeaderCache  # noqa: E402
from difffuse_hf.preprocessing.headers import NOT_DICOM  # noqa: E402
from difffuse_hf.preprocessing.identity import pseudonym  # noqa: E402
from difffuse_hf.preprocessing.parallel import Workers  # noqa: E402
from difffuse_hf.preprocessing.rules import header_exclusion  # noqa: E402
from difffuse_hf.preprocessing.scan import Disk  # noqa: E402
from difffuse_hf.preprocessing.steps import CTPreprocessConfig  # noqa: E402

SALT = b"salt of the tests"
COMMON = {"StudyInstanceUID": "1.2.3", "FrameOfReferenceUID": "1.2.4"}


def pixels(num_slices=28, size=8):
    return np.full((num_slices, size, size), 40)


def read(root, kept):
    """The disk, all read, and the paths that were."""
    disk = Disk(root, SALT, HeaderCache(kept))
    paths = [disk.files.path(number) for number in disk.unread]
    with Workers(1) as pool:
        disk.read(pool)
    return disk, paths


@pytest.fixture(scope="module")
def odd_disk(tmp_path_factory):
    """Series of every odd kind, two scans under one UID, a UID for each slice, parts of a head, the same key twice."""
    root = tmp_path_factory.mktemp("odd")
    for number, (tags, _) in enumerate(ODD.values()):
        write_series(root / f"odd {number:02d}", pixels(10), **tags)
    twice = {"ImagePositionPatient": lambda i: (0, 0, 5 * (i % 28)), "AcquisitionTime": lambda i: f"10{i:02d}00.5"}
    write_series(root / "two", pixels(56), **twice, InstanceNumber=None, AcquisitionNumber=None)
    write_series(root / "alone", pixels(), **COMMON, SeriesInstanceUID=lambda i: generate_uid())
    write_series(root / "base", pixels(14), (4, 0.5, 0.5), (0, 0, 4), **COMMON, SeriesInstanceUID="1.2.5")
    write_series(root / "vault", pixels(12), (7, 0.5, 0.5), (0, 0, 46), **COMMON, SeriesInstanceUID="1.2.6")
    for study in ("1.2.7", "1.2.8"):
        write_series(root / study, pixels(), StudyInstanceUID=study, SeriesInstanceUID="1.2.9", PatientID="P")
    write_series(root / "no uids", pixels(), StudyInstanceUID="", SeriesInstanceUID="", PatientID="", StudyDate="?")
    write_series(root / "huge number", pixels(3), InstanceNumber=lambda i: str(10**9 + i), SliceThickness=None)
    write_enhanced(root / "enhanced.dcm", pixels(), SeriesTime="1015")
    write_enhanced(root / "dynamic.dcm", pixels(60), times=[i // 20 for i in range(60)])
    for name in ("a", "b"):  # two patients, nothing of their identifiers but the folder
        blank = dict.fromkeys(["StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID"], "")
        write_series(root / "blank" / name, pixels(), **blank)
    mixed = {**COMMON, "SeriesInstanceUID": "1.2.10", "AcquisitionNumber": None}
    for number in range(2):
        write_series(root / "mixed" / f"{number}", pixels() + number, **mixed)
        write_series(root / "copies" / f"{number}", pixels(), **{**mixed, "SeriesInstanceUID": "1.2.11"})
    (root / "notes.txt").write_text("no image")
    (root / "odd 00" / "0030.dcm").write_bytes((root / "odd 00" / "0003.dcm").read_bytes()[:600])
    return root


@pytest.fixture(scope="module")
def odd_headers(odd_disk, tmp_path_factory):
    """Read plainly, and as the disk keeps them: just read, and from what is kept."""
    kept = tmp_path_factory.mktemp("kept")
    first, paths = read(odd_disk, kept)
    assert paths == find_files(odd_disk)
    resumed, paths = read(odd_disk, kept)
    assert paths == []
    return read_headers(find_files(odd_disk)), (first, resumed)


@pytest.mark.parametrize("again", [False, True], ids=["first", "resumed"])
@pytest.mark.parametrize("join", [False, True], ids=["apart", "joined"])
def test_kept_headers_give_the_same_series_keys_and_decisions_as_the_files(odd_headers, join, again):
    (headers, failed), disks = odd_headers
    plain, disk = merge_split(group_series(headers)) if join else group_series(headers), disks[again]
    found = disk.find_series(join)
    assert [disk.scan_id(one) for one in found] == [pseudonym(one.key, SALT) for one in plain]
    assert join == any("+" in one.key for one in found) and any("|2" in one.key for one in found)
    assert disk.unreadable() == failed and len(failed) == 2
    for one, expected in zip(map(disk.load, found), plain):
        assert [header.path for header in one.slices] == [header.path for header in expected.slices]
        assert (one.dropped, one.problem) == (expected.dropped, expected.problem)
        assert [header.frame for header in one.slices] == [header.frame for header in expected.slices]
        assert one.series_uids == tuple(pseudonym(uid, SALT) for uid in expected.series_uids)
        assert one.patient_id == pseudonym(expected.patient_id, SALT)
        assert header_exclusion(one, join) == header_exclusion(expected, join)
        for kept, header in zip(one.slices, expected.slices):
            assert kept.position == header.position and kept.instance == header.instance
            assert (kept.photometric, kept.slope, kept.intercept) == (
                header.photometric,
                header.slope,
                header.intercept,
            )


def test_the_manifest_is_the_same_with_and_without_kept_headers(odd_disk, tmp_path):
    config, tables = CTPreprocessConfig(headers_only=True, merge_split=True), []
    for forgotten in ((), ("records.jsonl",), ("records.jsonl", "private/headers")):
        for name in forgotten:
            path = tmp_path / "out" / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        manifest = preprocess_ct(odd_disk, tmp_path / "out", config, linkage=True, progress=False)
        linkage = (tmp_path / "out" / "private" / "linkage.csv").read_text()
        tables.append((manifest.drop(columns=["seconds", "cpu_seconds"]), linkage))
    assert len(tables[0][0]) > len(ODD)
    for manifest, linkage in tables[1:]:
        pandas.testing.assert_frame_equal(manifest, tables[0][0])
        assert linkage == tables[0][1]


def test_only_new_and_changed_files_are_read_and_deleted_ones_are_gone(tmp_path):
    paths = write_series(tmp_path / "disk" / "one", pixels(6), AcquisitionNumber=1)
    read(tmp_path / "disk", tmp_path / "kept")
    changed = write_series(tmp_path / "disk" / "one", pixels(1), AcquisitionNumber=2)
    new = write_series(tmp_path / "disk" / "two", pixels(3))
    paths[5].unlink()
    disk, again = read(tmp_path / "disk", tmp_path / "kept")
    assert again == [*changed, *new]
    headers = {header.path: header for header in disk.headers(np.arange(len(disk.files)))}
    assert list(headers) == [*paths[:5], *new] and headers[paths[0]].acquisition == 2
    assert read(tmp_path / "disk", tmp_path / "kept")[1] == []
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_a_file_that_is_no_image_is_tried_again_when_it_changes_and_one_that_does_not_open_always(tmp_path):
    (image,) = write_series(tmp_path / "elsewhere", pixels(1))
    root = tmp_path / "disk"
    root.mkdir()
    (root / "a").write_text("no image")
    (root / "b").symlink_to(tmp_path / "later")
    for expected in ([root / "a", root / "b"], [root / "b"]):
        disk, paths = read(root, tmp_path / "kept")
        assert paths == expected and not disk.has_header().any()
        (a, why), (b, gone) = disk.unreadable()
        assert (a, b, why) == (root / "a", root / "b", NOT_DICOM) and "No such file" in gone
    shutil.copy(image, root / "a")
    shutil.copy(image, tmp_path / "later")
    disk, paths = read(root, tmp_path / "kept")
    assert len(paths) == 2 and disk.has_header().all() and disk.unreadable() == []


def test_an_interrupted_scan_keeps_what_it_has_read(tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "_FILES_PER_TASK", 4)
    paths = write_series(tmp_path / "disk", pixels(10))

    def interrupt(count):
        raise KeyboardInterrupt

    disk = Disk(tmp_path / "disk", SALT, HeaderCache(tmp_path / "kept"))
    with Workers(1) as pool, pytest.raises(KeyboardInterrupt):
        disk.read(pool, interrupt)
    assert read(tmp_path / "disk", tmp_path / "kept")[1] == paths[4:]


DAMAGE = {
    "cut short": lambda part: part.write_bytes(part.read_bytes()[:-100]),
    "empty": lambda part: part.write_bytes(b""),
    "a bit flipped": lambda part: part.write_bytes(
        part.read_bytes().replace(b"\x28\xb5\x2f\xfd", b"\x28\xb5\x2f\xfc")
    ),
    "a text": lambda part: part.write_text("a letter"),
    "another table": lambda part: pandas.DataFrame({"file": [1]}).to_parquet(part),
    "another name": lambda part: part.rename(part.with_name("other.parquet")),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_or_foreign_file_is_removed_with_a_sentence_and_made_again(tmp_path, capsys, damage):
    paths = write_series(tmp_path / "disk", pixels(5))
    read(tmp_path / "disk", tmp_path / "kept")
    (part,) = (tmp_path / "kept").iterdir()
    damage(part)
    assert read(tmp_path / "disk", tmp_path / "kept")[1] == paths
    sentence = capsys.readouterr().err
    assert "is damaged or from another version" in sentence and sentence.count("\n") == 1
    assert read(tmp_path / "disk", tmp_path / "kept")[1] == [] and capsys.readouterr().err == ""


def test_two_scans_into_one_folder_at_once_leave_it_whole(tmp_path, capsys):
    write_series(tmp_path / "disk", pixels(5))
    disks = [Disk(tmp_path / "disk", SALT, HeaderCache(tmp_path / "kept")) for _ in range(2)]
    with Workers(1) as pool:
        for disk in disks:
            disk.read(pool)
    assert [len(disk.find_series()) for disk in disks] == [1, 1]
    assert read(tmp_path / "disk", tmp_path / "kept")[1] == [] and capsys.readouterr().err == ""


def test_a_file_that_vanishes_before_it_is_asked_for_again_is_named(tmp_path):
    paths = write_series(tmp_path / "disk", pixels(1))
    disk, _ = read(tmp_path / "disk", tmp_path / "kept")
    paths[0].unlink()
    with pytest.raises(InputError, match="0000.dcm has changed during the run"):
        disk.read_again([0])


def test_what_is_kept_is_its_owners_alone_and_another_salt_finds_nothing_in_it(tmp_path):
    paths = write_series(tmp_path / "disk", pixels(3))
    read(tmp_path / "disk", tmp_path / "kept")
    assert [oct(part.stat().st_mode & 0o777) for part in (tmp_path / "kept").iterdir()] == ["0o600"]
    assert len(Disk(tmp_path / "disk", b"other", HeaderCache(tmp_path / "kept")).unread) == len(paths)


def test_concealed_times_keep_their_order_and_days_their_distance(tmp_path):
    times = ["", "0930", "093000", "093000.5", "09300", "235959.999999", "10:15:30", "093000"]
    dates = ["20050102", "20050109", "19991231", "20040229", "", "someday", "20050102", "20050103"]
    tags = {"AcquisitionTime": lambda i: times[i], "StudyDate": lambda i: dates[i], "StudyInstanceUID": "1.2"}
    headers, _ = read_headers(write_series(tmp_path, pixels(len(times)), **tags))
    concealed = [conceal(header, SALT) for header in headers]
    for (one, kept), (other, also) in product(zip(headers, concealed), repeat=2):
        assert (one.acquisition_time < other.acquisition_time) == (kept.acquisition_time < also.acquisition_time)
        assert (one.acquisition_time == other.acquisition_time) == (kept.acquisition_time == also.acquisition_time)
        if one.study_day is None or other.study_day is None:
            assert kept.study_day is None or also.study_day is None
        else:
            assert kept.study_day - also.study_day == one.study_day - other.study_day
    assert all(kept.study_date == "" and kept.acquisition_time not in times for kept in concealed)
