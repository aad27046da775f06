"""Facts about scans that share identifiers: no kept scan holds slices of two patients, phases or acquisitions."""

import random
from collections import Counter, defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("SimpleITK", reason="needs the extra `preprocess`")

from dicom_files import write_series  # noqa: E402

from difffuse_hf.preprocessing.acquisitions import sweeps, tell_apart  # noqa: E402
from difffuse_hf.preprocessing.dicom import MIXED, group_series, read_headers, series_of  # noqa: E402
from difffuse_hf.preprocessing.exclusion import Exclusion  # noqa: E402
from difffuse_hf.preprocessing.mixture import mixture  # noqa: E402
from difffuse_hf.preprocessing.rules import header_exclusion  # noqa: E402

COLUMN, ROW = np.meshgrid(np.linspace(-1, 1, 24), np.linspace(-1, 1, 24))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The header of a slice that every rule lets pass."""
    return read_headers(write_series(tmp_path_factory.mktemp("base"), np.full((1, 8, 8), 40)))[0][0]


def picture(source, height, rng):
    """(24, 24) HU of a head at a height between 0 (base) and 1 (vertex); sources differ in brightness and a ball."""
    radius = np.hypot(COLUMN / 0.7, ROW / 0.9) / np.sqrt(1 - ((height - 0.4) / 0.62) ** 2)
    image = np.select([radius < 0.85, radius < 1], [30 + 15 * source, 900], -1000)
    ball = np.hypot(COLUMN - (-0.3, 0.3, 0)[source], ROW + 0.2 - (height - 0.5) / 2) < 0.2
    return (image + 45 * (ball & (radius < 0.85)) + rng.normal(0, 5, image.shape)).astype(np.int16)


def draw(base, seed):
    """Headers of two or three heads in random order, and for the path of each its head and picture.

    What tells the heads apart is drawn for each identifier: their own, the same for all, or blank."""
    rng = random.Random(seed)
    noise = np.random.default_rng(seed)
    count, patients = rng.choice([2, 2, 3]), rng.random() < 0.4
    names = ("owner", "study", "series", "frame", "acquisition", "time", "object")
    kept = {name: rng.choice(["own", "same", "blank"]) for name in names}
    if not patients:  # phases or acquisitions of one
        kept |= {name: "same" for name in names[:4] if kept[name] == "own"}
    numbering = rng.choice(["each", "on", "none", "shuffled", "same", "interleaved"])
    offset = rng.choice([0, 0, 1.25, 2.0, 2.5, 7.0, 40.0, None])  # None: each on top of the last
    folders, start, before = rng.random() < 0.5, 0.0, 0
    headers, heads = [], {}
    for source in range(count):
        num_slices = rng.randint(20, 30)
        order = rng.sample(range(num_slices), num_slices)

        def told(name, own, same, blank=""):
            return {"own": own, "same": same, "blank": blank}[kept[name]]

        for i in range(num_slices):
            path = Path(f"/{source if folders else 0}/{rng.random()}")
            numbers = {"each": i + 1, "on": before + i + 1, "none": None, "shuffled": order[i] + 1, "same": 1}
            frame, series = told("frame", f"F{source}", "F"), told("series", f"S{source}", "S")
            headers.append(
                replace(
                    base,
                    path=path,
                    owner=told("owner", f"P{source}", "P"),
                    patient_id=told("owner", f"P{source}", "P"),
                    study_uid=told("study", f"T{source}", "T"),
                    series_uid=series,
                    frame_of_reference_uid=frame,
                    session=frame,
                    acquisition=told("acquisition", source + 1, 1, None),
                    acquisition_time=told("time", f"1{source}00{i:02d}", f"1000{i:02d}"),
                    sop_instance_uid=told("object", f"O{source}.{i}", f"O{i}"),
                    instance=numbers.get(numbering, i * count + source + 1),
                    position=(0.0, 0.0, start + 5.0 * i),
                    series_key=f"{series}|",
                )
            )
            heads[path] = source, picture(source, i / (num_slices - 1), noise)
        before += num_slices
        start = start + 5.0 * num_slices if offset is None else offset * (source + 1)
    return sorted(headers, key=lambda header: header.path), heads


def same_picture(heads, one, other):
    return np.array_equal(heads[one.path][1], heads[other.path][1])


@pytest.mark.parametrize("seeds", [range(start, start + 40) for start in (0, 100, 200, 300)], ids=str)
def test_no_kept_scan_is_a_mixture_and_every_slice_is_in_a_series_or_counted(base, seeds):
    pure = 0
    for seed in seeds:
        headers, heads = draw(base, seed)
        groups = defaultdict(list)
        for header in headers:
            folder = None if header.series_uid else header.path.parent
            groups[header.owner, header.study_uid, header.series_uid, folder].append(header)
        all_series = list(series_of(list(groups.values()), partial(same_picture, heads)))
        assert sum(len(one.slices) + sum(one.dropped.values()) for one in all_series) == len(headers), seed
        for one in all_series:
            sources = Counter(heads[header.path][0] for header in one.slices)
            if header_exclusion(one)[0] is None:
                found = mixture(np.stack([heads[header.path][1] for header in one.slices]))
                assert len(sources) == 1 or found, (seed, sources)
                assert len(sources) > 1 or not found, (seed, found)
                pure += len(sources) == 1
    assert pure > len(seeds) / 2


def placed(base, *scans):
    """Slices with their places, of (acquisition, first number or None, places)."""
    return [
        (replace(base, acquisition=acquisition, instance=None if first is None else first + i, acquisition_time=""), z)
        for acquisition, first, places in scans
        for i, z in enumerate(places)
    ]


def spans(scans):
    return scans and [(min(z for _, z in scan), max(z for _, z in scan), len(scan)) for scan in scans]


LOW, HIGH, WHOLE = range(0, 45, 5), range(45, 150, 5), range(0, 140, 5)
TOLD = {
    "one scan": ([(1, 1, WHOLE)], [(0, 135, 28)]),
    "numbered downwards": ([(1, 1, WHOLE[::-1])], [(0, 135, 28)]),
    "an acquisition for each slice": ([(i, i, [5 * i]) for i in range(28)], [(0, 135, 28)]),
    "base and vault": ([(1, 1, LOW), (2, 1, HIGH)], [(0, 145, 30)]),
    "vault, then base": ([(1, 1, HIGH), (2, 1, LOW)], [(0, 145, 30)]),
    "base, vault, five again": ([(1, 1, LOW), (2, 1, HIGH), (3, 1, HIGH[-5:])], [(0, 145, 30), (125, 145, 5)]),
    "base and vault, twice": ([(1, 1, LOW), (2, 1, HIGH), (3, 1, LOW), (4, 1, HIGH)], [(0, 145, 30)] * 2),
    "two bases, then two vaults": ([(1, 1, LOW), (2, 20, LOW), (3, 40, HIGH), (4, 70, HIGH)], None),
    "two heads on each other": ([(1, 1, WHOLE), (2, 1, range(140, 280, 5))], [(0, 135, 28), (140, 275, 28)]),
    "two acquisitions that interleave": ([(1, 1, WHOLE), (2, 1, range(2, 142, 5))], [(0, 135, 28), (2, 137, 28)]),
    "two numberings that interleave": ([(1, 1, WHOLE), (1, 40, range(2, 142, 5))], [(0, 135, 28), (2, 137, 28)]),
    "two scans, numbered on": ([(1, 1, WHOLE), (1, 29, WHOLE)], [(0, 135, 28)] * 2),
    "two scans, numbered alike": ([(1, 1, WHOLE), (1, 1, WHOLE)], None),
    "two scans without numbers": ([(None, None, WHOLE), (None, None, WHOLE)], None),
    "place by place": ([(1, 1, sorted([*WHOLE, *WHOLE]))], None),
}


@pytest.mark.parametrize("scans, expected", TOLD.values(), ids=TOLD)
def test_numbers_part_scans_where_they_can_and_nothing_is_guessed(base, scans, expected):
    assert spans(tell_apart(placed(base, *scans))) == expected


def test_a_sweep_ends_where_the_order_turns_back():
    blocks = [[(None, float(z))] for z in (0, 5, 10, 5, 0, 20)]
    assert [len(sweep) for sweep in sweeps(blocks)] == [3, 2, 1]


# From files


def test_a_patient_without_identifiers_of_series_is_not_joined_with_another(tmp_path):
    blank = {"StudyInstanceUID": "", "SeriesInstanceUID": "", "FrameOfReferenceUID": ""}
    hounsfield = np.full((28, 8, 8), 40)
    for number, name in enumerate("AB"):  # in one folder, between each other's slices
        for path in write_series(tmp_path / name, hounsfield, origin_mm=(0, 0, 2.5 * number), PatientID=name, **blank):
            path.rename(tmp_path / f"{path.name}{name}")
    series = group_series(read_headers(path for path in tmp_path.iterdir() if path.is_file())[0])
    assert {tuple({header.patient_id for header in one.slices}) for one in series} == {("A",), ("B",)}
    assert [header_exclusion(one)[0] for one in series] == [None, None]


@pytest.mark.parametrize(
    ("plane", "orientation", "step"),
    [("coronal", (1, 0, 0, 0, 0, -1), (0, 5, 0)), ("sagittal", (0, 1, 0, 0, 0, -1), (5, 0, 0)),
     ("oblique", (1, 0, 0, 0, 0.6, -0.8), (0, 4, 3))],
)  # fmt: skip
def test_slices_that_are_not_axial_are_rejected_by_their_plane(tmp_path, plane, orientation, step):
    """Sec. 3.4.4, step 3."""
    tags = {"ImageOrientationPatient": list(orientation), "ImageType": ["ORIGINAL", "PRIMARY"]}
    tags["ImagePositionPatient"] = lambda i: [float(i * s) for s in step]
    (one,) = group_series(read_headers(write_series(tmp_path, np.full((28, 8, 8), 40), **tags))[0])
    reason, detail, _ = header_exclusion(one)
    assert (reason, detail) == (Exclusion.NOT_AXIAL, f"the slices are {plane}")


@pytest.mark.parametrize("left", [{"PatientID": "A"}, {"PatientID": "A", "InstanceNumber": None}, {}], ids=str)
def test_without_an_identifier_a_series_needs_a_patient_and_running_numbers(tmp_path, left):
    blank = dict.fromkeys(
        ["PatientID", "PatientName", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"], ""
    )
    (one,) = group_series(read_headers(write_series(tmp_path, np.full((28, 8, 8), 40), **blank | left))[0])
    expected = None if left == {"PatientID": "A"} else Exclusion.MIXED
    assert header_exclusion(one)[0] is expected


def test_slices_with_one_identifier_and_other_pixels_are_no_copies(tmp_path):
    same = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.3", "FrameOfReferenceUID": "1.4"}
    paths = []
    for number in range(2):
        tags = same | {"SOPInstanceUID": lambda i: f"1.5.{i}", "AcquisitionNumber": None}
        paths += write_series(tmp_path / f"{number}", np.full((28, 8, 8), 30 + 25 * number), **tags)
    (one,) = group_series(read_headers(paths)[0])
    assert one.problem == MIXED and len(one.slices) == 56 and one.dropped == {}
    exclusion, detail, _ = header_exclusion(one)
    assert exclusion is Exclusion.MIXED and "several scans or patients" in detail


def test_a_place_with_two_slices_that_nothing_tells_apart_is_left_out(tmp_path):
    same = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.3", "FrameOfReferenceUID": "1.4"}
    paths = write_series(tmp_path / "0", np.full((28, 8, 8), 30), **same)
    paths += write_series(tmp_path / "1", np.full((28, 8, 8), 55), **same)[9:10]
    (one,) = group_series(read_headers(paths)[0])
    assert len(one.slices) == 27 and one.dropped == {"of one place, untold": 2}
    assert header_exclusion(one)[0] is None


def test_another_session_or_contrast_in_a_series_is_another_series(tmp_path):
    same = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.3", "FrameOfReferenceUID": "1.4"}
    hounsfield = np.full((28, 8, 8), 40)
    paths = write_series(tmp_path / "0", hounsfield, **same)
    paths += write_series(tmp_path / "1", hounsfield, **same, SeriesTime="101500")
    paths += write_series(tmp_path / "2", hounsfield, **same, ContrastBolusAgent="IOHEXOL")
    series = group_series(read_headers(paths)[0])
    assert [header_exclusion(one)[0] for one in series] == [None, None, Exclusion.CONTRAST]


# Pictures


def test_a_head_is_no_mixture_with_slices_missing_or_black(base):
    rng = np.random.default_rng(0)
    head = np.stack([picture(0, i / 29, rng) for i in range(30)])
    for spoilt in (head, np.delete(head, [12, 13], axis=0), np.where(np.arange(30)[:, None, None] == 14, -1000, head)):
        assert mixture(spoilt) == ""
    other = np.stack([picture(1, i / 29, rng) for i in range(30)])
    assert "alternate" in mixture(np.stack([head, other], 1).reshape(-1, 24, 24))
    assert "one head ends" in mixture(np.concatenate([head, other]))
