"""Facts about a whole run over a disk: decisions, resuming, deaths, a full disk, and what leaves the hospital."""

import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pandas
import pydicom
import pytest

pytest.importorskip("SimpleITK", reason="needs the extra `preprocess`")
pytest.importorskip("distributed", reason="needs the extra `preprocess`")

from dicom_files import write_series  # noqa: E402
from pydicom.datadict import DicomDictionary  # noqa: E402
from synthetic_head import SPACING, turn, turned_head  # noqa: E402

from difffuse_hf.cli.main import main as difffuse  # noqa: E402
from difffuse_hf.errors import InputError  # noqa: E402
from difffuse_hf.preprocessing.ct import preprocess_ct  # noqa: E402
from difffuse_hf.preprocessing.exclusion import Exclusion  # noqa: E402
from difffuse_hf.preprocessing.steps import CTPreprocessConfig  # noqa: E402

SHARED = Path(__file__).parents[2] / "shared" / "data" / "ct_dicom"
TEXT = {"PN", "LO", "SH", "ST", "LT", "UT", "UC", "AE"}
HEADS = {"soft": "", "soft follow-up": ""}
EXPECTED = {
    **HEADS,
    "bone": "bone-kernel",
    "localiser": "localiser",
    "coronal": "not-axial",
    "base": "split-base-vault",
    "vault": "split-base-vault",
    "flipped": "ill-positioned",
    "report": "not-ct",
}


def study(number):
    return {"StudyInstanceUID": f"1.2.3.{number}", "FrameOfReferenceUID": f"1.2.3.{number}.1"}


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A small hospital disk: one series for most reasons, in folders of those names, and some files that are none.

    The two that are kept lie in `heads/`, base and vault of a third head in `split/`."""
    root = tmp_path_factory.mktemp("disk")
    head = turned_head(turn("y", 4))[0].hounsfield
    other = turned_head(turn("y", -6), 0.95)[0].hounsfield
    write_series(root / "heads" / "soft", head, SPACING, **study(1), StudyDate="20050102")
    write_series(root / "heads" / "soft follow-up", other, SPACING, **study(2), StudyDate="20050109")
    write_series(root / "bone", head, SPACING, **study(1), Manufacturer="SIEMENS", ConvolutionKernel="H70s")
    write_series(root / "localiser", head[:1], SPACING, **study(1), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    coronal = {
        "ImageOrientationPatient": (1.0, 0, 0, 0, 0, -1.0),
        "ImagePositionPatient": lambda i: (-120.0, 4.0 * i, 100.0),
    }
    write_series(root / "coronal", head, SPACING, **study(1), **coronal)
    split = {"PatientID": "SYNTHETIC-2", **study(3)}
    write_series(root / "split" / "base", head[:24], SPACING, **split)
    write_series(root / "split" / "vault", head[24:], SPACING, origin_mm=(-20, -20, 36), **split)
    flipped = turned_head(turn("y", 180))[0].hounsfield
    write_series(root / "flipped", flipped, SPACING, PatientID="SYNTHETIC-3", **study(4))
    write_series(root / "report", head[:1], SPACING, **study(1), SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    (root / "notes.txt").write_text("not a DICOM file")
    (root / "empty.dcm").touch()
    return root


@pytest.fixture(scope="module")
def finished(disk, tmp_path_factory):
    output = tmp_path_factory.mktemp("finished") / "out"
    return output, preprocess_ct(disk, output, linkage=True, progress=False)


def reasons(output):
    """{folder: reason} of a finished run."""
    linkage = pandas.read_csv(output / "private" / "linkage.csv")
    manifest = pandas.read_parquet(output / "manifest.parquet")
    rows = linkage.merge(manifest[manifest["merged_into"] == ""], on="scan_id")
    return {Path(row.folder).name: row.reason for row in rows.itertuples()}


def command(disk, output, *options):
    return [sys.executable, "-m", "difffuse_hf.cli.main", "preprocess", str(disk), str(output), "--linkage", *options]


STOP = """
import os, time
import nibabel

def save(image, path, save=nibabel.save):
    if os.listdir(os.path.dirname(path)):
        open(path, "wb").write(b"half of it")
        open(os.environ["REACHED"], "w").close()
        time.sleep(600)
    save(image, path)

nibabel.save = save
"""


@pytest.fixture
def stopped(disk, tmp_path):
    """A run over the two heads that has written one of them, and stands still amid the other: process and output."""
    (tmp_path / "sitecustomize.py").write_text(STOP)  # which Python imports by itself
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        command(disk / "heads", tmp_path / "out"),
        env={**os.environ, "PYTHONPATH": path, "REACHED": str(tmp_path / "reached")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    )
    while not (tmp_path / "reached").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    yield process, tmp_path / "out"
    process.kill()
    process.communicate()


def check_continued(disk, finished, output):
    """Repeating a run that was stopped keeps its records and completes it."""
    records = (output / "records.jsonl").read_bytes() if (output / "records.jsonl").exists() else b""
    preprocess_ct(disk / "heads", output, linkage=True, progress=False)
    assert (output / "records.jsonl").read_bytes().startswith(records)
    assert reasons(output) == HEADS and pixels(output) == pixels(finished[0])


def test_every_series_is_kept_or_rejected_for_its_reason(finished):
    assert reasons(finished[0]) == EXPECTED


def test_base_and_vault_are_joined_on_demand(disk, tmp_path):
    merge = CTPreprocessConfig(merge_split=True)
    manifest = preprocess_ct(disk / "split", tmp_path / "out", merge, linkage=True, progress=False)
    assert reasons(tmp_path / "out") == {"base": "", "vault": ""}
    joined = manifest[manifest["merged_into"] != ""]
    assert len(joined) == 1 and joined["merged_into"].isin(manifest["scan_id"]).all()
    whole = manifest[manifest["scan_id"] == joined["scan_id"].item()].iloc[0]
    assert whole["num_files"] == 48 and (tmp_path / "out" / whole["file"]).exists()


def test_a_scan_is_eleven_slices_of_500_by_400_between_0_and_1_with_its_scale(finished):
    output, manifest = finished
    for row in manifest[manifest["decision"] == "keep"].itertuples():
        scan = nibabel.load(output / row.file)
        images = np.asarray(scan.dataobj)
        assert scan.shape == (400, 500, 11) and nibabel.aff2axcodes(scan.affine) == ("L", "P", "S")
        assert images.min() == 0 and images.max() == pytest.approx(1)
        assert scan.header.get_zooms()[0] == pytest.approx(row.pixel_mm) == 2.0
        brain = images[(images > 0.15) & (images < 0.5)]
        assert 0.25 < np.median(brain) < 0.4  # 25 to 40 HU


def test_another_window_of_hounsfield_units_is_an_option_of_the_command(finished, disk, tmp_path, capsys):
    soft = str(disk / "heads" / "soft")
    assert difffuse(["preprocess", soft, str(tmp_path / "out"), "--window", "15", "60"]) == 0
    file = pandas.read_parquet(tmp_path / "out" / "manifest.parquet")["file"].item()
    narrow = np.asarray(nibabel.load(tmp_path / "out" / file).dataobj)
    kept = finished[1][finished[1]["decision"] == "keep"].sort_values("study_day")
    hounsfield = 100 * np.asarray(nibabel.load(finished[0] / kept["file"].iloc[0]).dataobj)
    assert narrow == pytest.approx(np.clip((hounsfield - 15) / 45, 0, 1), abs=2e-3)
    assert difffuse(["preprocess", soft, str(tmp_path / "wrong"), "--window", "60", "15"]) == 2
    assert "`window_hu` is (low, high)" in capsys.readouterr().err
    assert not (tmp_path / "wrong").exists()


def test_the_midline_leans_as_the_head_does(finished):
    """The first head rolls by 4 degrees to one side, the second by 6 to the other."""
    kept = finished[1][finished[1]["decision"] == "keep"].sort_values("study_day")
    lean = kept["midline_per_slice"] * kept["pixel_mm"] / kept["slice_spacing_mm"]  # mm to the side per mm upwards
    assert np.degrees(np.arctan(lean)).abs().tolist() == pytest.approx([4, 6], abs=1)
    assert lean.iloc[0] * lean.iloc[1] < 0
    assert kept["midline_per_row"].abs().max() < 0.03
    assert (kept["midline_template"] - 199.5).abs().max() < 5 and (kept["midline_centre"] == 199.5).all()


def test_a_scan_says_where_its_pixels_lie_in_the_patient_and_in_mni_space(finished):
    """The head of study 1 rolls by 4 degrees about y, that of study 2 by -6 degrees and is smaller; both are known."""
    kept = finished[1][finished[1]["decision"] == "keep"].sort_values("study_day")
    for row, (_, matrix, offset) in zip(
        kept.itertuples(), (turned_head(turn("y", 4)), turned_head(turn("y", -6), 0.95))
    ):
        to_patient, to_mni = (np.reshape(numbers, (3, 4)) for numbers in (row.to_patient_mm, row.to_mni_mm))
        corner = np.array([-20.0, -20, -60])  # of the first pixel of the files, LPS
        pixels = np.array([[190.0, 240, 20, 1], [230, 250, 30, 1], [200, 290, 15, 1]])
        patient, mni = (points * (-1, -1, 1) for points in (pixels @ to_patient.T, pixels @ to_mni.T))  # RAS to LPS
        in_template = (patient - corner - offset) @ np.linalg.inv(matrix).T
        assert np.linalg.norm(mni - in_template, axis=1).max() < 5
        np.testing.assert_allclose(patient[:, 2], -60 + 4 * pixels[:, 2])
        middle = np.mean([row.source_slices[0], row.source_slices[-1]])
        assert to_mni[0] @ [row.midline_template, 249.5, middle, 1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("pixel_mm, overlap", [(None, 1.0), (1.3, 0.85)], ids=["copied", "enlarged"])
def test_the_mask_of_a_bright_cube_lands_on_the_cube_though_the_gantry_is_tilted(tmp_path, pixel_mm, overlap):
    """A stack that is sheared by one pixel a slice; its mask has the sheared affine of the files."""
    ist3 = pytest.importorskip("difffuse_hf.data.ist3", reason="needs the extra `train`")
    head = turned_head(np.eye(3))[0].hounsfield
    cube = np.zeros(head.shape, bool)
    cube[18:29, 40:52, 66:80] = True
    angle = np.arctan2(2, 4)  # a row of 2 mm for a slice of 4 mm
    sheared, mask = (
        np.stack([np.pad(plane, ((i, len(head) - i), (0, 0)), constant_values=fill) for i, plane in enumerate(stack)])
        for stack, fill in ((np.where(cube, 90, head), -1000), (cube, False))
    )
    step, corner = 4 / np.cos(angle), np.array([-120.0, -90, -400])
    where = {"ImagePositionPatient": lambda i: (corner[0], corner[1], corner[2] + i * step)}
    orientation = (1.0, 0.0, 0.0, 0.0, np.cos(angle), -np.sin(angle))
    write_series(tmp_path / "disk", sheared, SPACING, ImageOrientationPatient=orientation, **study(1), **where)
    axes = np.column_stack([[2, 0, 0], 2 * np.array(orientation[3:]), [0, 0, step], corner])
    affine = np.diag([-1.0, -1, 1, 1]) @ np.vstack([axes, [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(mask.transpose(2, 1, 0).astype(np.uint8), affine), tmp_path / "mask.nii.gz")

    row = preprocess_ct(
        tmp_path / "disk", tmp_path / "out", CTPreprocessConfig(pixel_mm=pixel_mm), progress=False
    ).iloc[0]
    assert row["decision"] == "keep" and row["unsheared_mm"] == pytest.approx(94, abs=0.1)
    scan = np.asarray(nibabel.load(tmp_path / "out" / row["file"]).dataobj).transpose(2, 1, 0)
    to_patient_mm = np.reshape(row["to_patient_mm"], (3, 4))
    found = ist3.resample_mask(tmp_path / "mask.nii.gz", to_patient_mm, row["source_slices"], scan.shape) > 0
    inside = [i for i, source in enumerate(row["source_slices"]) if 18 <= source < 29]
    assert len(inside) == 3 and np.flatnonzero(found.any((1, 2))).tolist() == inside
    box = (
        slice(min(np.nonzero(found)[1]) - 5, max(np.nonzero(found)[1]) + 6),
        slice(min(np.nonzero(found)[2]) - 5, max(np.nonzero(found)[2]) + 6),
    )
    for index in inside:
        bright = scan[index][box] > 0.65  # half way from 40 to 90 HU
        assert (bright & found[index][box]).sum() >= overlap * (bright | found[index][box]).sum()


def test_the_days_between_studies_are_told_and_the_dates_are_not(finished):
    output, manifest = finished
    kept = manifest[manifest["decision"] == "keep"]
    assert sorted(kept["study_day"]) == [0, 7] and kept["patient"].nunique() == 1
    assert "20050102" not in (output / "manifest.csv").read_text()


def test_a_second_run_repeats_nothing_and_another_configuration_is_refused(disk, finished):
    output, manifest = finished
    before = {path: path.stat().st_mtime_ns for path in (output / "scans").iterdir()}
    again = preprocess_ct(disk, output, progress=False)
    assert {path: path.stat().st_mtime_ns for path in (output / "scans").iterdir()} == before
    pandas.testing.assert_frame_equal(again, manifest)
    with pytest.raises(InputError, match="num_slices = 11, not 5"):
        preprocess_ct(disk, output, CTPreprocessConfig(num_slices=5), progress=False)


def test_headers_alone_give_the_headers_decisions(disk, tmp_path):
    preprocess_ct(disk, tmp_path / "out", CTPreprocessConfig(headers_only=True), linkage=True, progress=False)
    assert reasons(tmp_path / "out") == {**EXPECTED, "flipped": ""}
    assert not any((tmp_path / "out" / "scans").iterdir())


def test_folders_that_cannot_be_meant_are_refused(disk, tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        preprocess_ct(tmp_path / "nowhere", tmp_path / "out", progress=False)
    with pytest.raises(InputError, match="lies inside the folder of the DICOM files"):
        preprocess_ct(disk, disk / "out", progress=False)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("text")
    with pytest.raises(InputError, match="no readable DICOM image"):
        preprocess_ct(tmp_path / "texts", tmp_path / "out2", progress=False)
    (tmp_path / "scans.zip").write_bytes(b"PK\x03\x04" + bytes(200))
    with pytest.raises(InputError, match="scans.zip is an archive; unpack it"):
        preprocess_ct(tmp_path / "scans.zip", tmp_path / "out3", progress=False)


def test_files_with_odd_names_one_damaged_and_archives_are_read_or_counted(disk, tmp_path, capsys):
    root, names = tmp_path / "disk", sorted((disk / "heads" / "soft").iterdir())
    root.mkdir()
    for path in names:
        os.symlink(path, os.path.join(os.fsencode(root), b"\xb5\xce" + os.fsencode(path.name)))
    damaged = os.path.join(os.fsencode(root), b"\xb5\xce0020.dcm")
    os.unlink(damaged)
    content = names[20].read_bytes().replace(b"\x20\x00\x13\x00IS", b"\x20\x00\x13\x00I\x82")
    Path(os.fsdecode(damaged)).write_bytes(content)
    (root / "more.zip").write_bytes(b"PK\x03\x04" + bytes(200))
    (root / "notes.txt").write_text("not an image")
    assert difffuse(["preprocess", str(root), str(tmp_path / "out"), "--linkage"]) == 0
    row = pandas.read_parquet(tmp_path / "out" / "manifest.parquet").iloc[0]
    assert (row["decision"], row["num_files"], row["missing_slices"]) == ("keep", 47, 1)
    unreadable = (tmp_path / "out" / "private" / "unreadable.csv").read_text()
    assert "\\xb5\\xce0020.dcm" in unreadable and unreadable.count("\n") == 4
    assert "Files without an image: 1 (" in capsys.readouterr().out
    assert "| not a DICOM file | 1 |" in (tmp_path / "out" / "exclusions.md").read_text()


def test_a_series_is_done_again_when_its_slices_are_others(tmp_path):
    config, same = CTPreprocessConfig(headers_only=True), {"SeriesInstanceUID": "1.2", "StudyInstanceUID": "1.3"}
    rows = []
    for patient in "AAB":
        tags = same | {"PatientID": patient, "SOPInstanceUID": lambda i, patient=patient: f"1.4.{ord(patient)}.{i}"}
        write_series(tmp_path / "disk", np.full((28, 8, 8), 40), **tags, FrameOfReferenceUID="1.5")
        rows.append(preprocess_ct(tmp_path / "disk", tmp_path / "out", config, progress=False).iloc[0])
    assert (tmp_path / "out" / "records.jsonl").read_text().count("\n") == 2
    assert rows[0]["patient"] == rows[1]["patient"] != rows[2]["patient"] and rows[0]["content"] != rows[2]["content"]


def test_a_series_that_failed_is_tried_again_and_one_that_is_done_is_not(tmp_path):
    config, out = CTPreprocessConfig(headers_only=True), tmp_path / "out"
    write_series(tmp_path / "disk", np.full((28, 8, 8), 40))
    preprocess_ct(tmp_path / "disk", out, config, progress=False)
    done = (out / "records.jsonl").read_text()
    row = json.loads(done)
    failed = row | {"decision": "reject", "reason": Exclusion.FAILED.value}
    (out / "records.jsonl").write_text(json.dumps(failed) + "\n")
    for _ in range(2):  # the second time there is nothing left to do
        manifest = preprocess_ct(tmp_path / "disk", out, config, progress=False)
        assert (out / "records.jsonl").read_text().count("\n") == 2
        assert manifest["reason"].tolist() == [row["reason"]] != [Exclusion.FAILED.value]


def test_patients_without_a_number_are_told_apart_and_have_no_days_in_common(tmp_path):
    dates = {"ANN": "20050102", "BEA": "20070305"}
    for number, (name, date) in enumerate(dates.items()):
        tags = {"PatientID": "", "PatientName": name, "StudyDate": date}
        write_series(tmp_path / "disk" / name, np.full((28, 8, 8), 40), **study(number), **tags)
    config = CTPreprocessConfig(headers_only=True)
    manifest = preprocess_ct(tmp_path / "disk", tmp_path / "out", config, progress=False)
    assert manifest["patient"].nunique() == 2 and manifest["study_day"].tolist() == [0, 0]


def test_no_text_of_the_header_is_in_any_output(tmp_path):
    """Every text tag of the DICOM dictionary holds an identifier; folder and file names do as well."""
    planted = {
        entry[4]: f"PLANTED {number}"
        for number, (tag, entry) in enumerate(sorted(DicomDictionary.items()))
        if entry[0] in TEXT and entry[4] and not entry[3] and tag >> 16 > 0x0002
    }
    assert len(planted) > 600 and {"PatientName", "PatientID", "ReferringPhysicianName"} <= set(planted)
    planted["ConvolutionKernel"] = "UB"
    planted["ContrastBolusAgent"] = "NONE"
    del planted["Manufacturer"]
    uids = study(77) | {"SeriesInstanceUID": "1.2.3.77.9", "PatientBirthDate": "19331122", "StudyDate": "20060504"}
    head = turned_head(turn("y", 4))[0].hounsfield
    write_series(tmp_path / "disk" / "PLANTED FOLDER", head, SPACING, **{**planted, **uids})
    broken = {**planted, **uids, "SeriesInstanceUID": "1.2.3.77.10", "ImageOrientationPatient": None}
    for file in write_series(tmp_path / "disk" / "broken", head, SPACING, **broken):
        dataset = pydicom.dcmread(file)
        dataset.private_block(0x0011, "PLANTED MAKER", create=True).add_new(0x01, "LO", "PLANTED privately")
        step = pydicom.Dataset()
        step.ScheduledPerformingPhysicianName = step.RequestedProcedureDescription = "PLANTED in a sequence"
        dataset.RequestAttributesSequence = [step]
        dataset.save_as(file)
    preprocess_ct(tmp_path / "disk", tmp_path / "out", progress=False)
    outputs = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert sum(path.name.endswith(".nii.gz") for path in outputs) == 1
    for path in outputs:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if path.suffix == ".parquet":
            content += pandas.read_parquet(path).to_csv().encode()
        for secret in (b"PLANTED", b"1.2.3.77", b"19331122", b"20060504"):
            assert secret not in content, f"{secret} in {path}"


@pytest.mark.slow
def test_two_workers_make_the_same_scans(disk, finished, tmp_path):
    subprocess.run(command(disk / "heads", tmp_path / "out", "--workers", "2"), check=True, capture_output=True)
    assert reasons(tmp_path / "out") == HEADS
    assert pixels(tmp_path / "out") == pixels(finished[0])


def pixels(output):
    """{source folder: stored voxels} of the kept scans; their names differ between outputs, as the salts do."""
    linkage = pandas.read_csv(output / "private" / "linkage.csv")
    scans = {Path(row.folder).name: output / "scans" / f"{row.scan_id}.nii.gz" for row in linkage.itertuples()}
    return {name: np.asarray(nibabel.load(path).dataobj).tobytes() for name, path in scans.items() if path.exists()}


def test_a_killed_run_is_continued_where_it_stopped(disk, finished, stopped):
    process, output = stopped
    process.kill()
    process.wait()
    assert (output / "records.jsonl").read_bytes().count(b"\n") == 1 and not (output / "manifest.csv").exists()
    check_continued(disk, finished, output)


def test_an_interrupt_says_one_sentence_and_leaves_nothing_half_written(stopped):
    process, output = stopped
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors.decode().strip().count("\n") == 0
    assert not [path for path in output.rglob(".*") if path.name != ".lock"]
    assert len(list((output / "scans").iterdir())) == 1


@pytest.mark.slow
def test_a_full_disk_stops_the_run_in_one_sentence_and_loses_nothing(disk, finished, tmp_path):
    """A limit on the size of files stands for the disk: the first scan does not fit, what is smaller does."""
    output = tmp_path / "out"

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, resource.RLIM_INFINITY))

    stopped = subprocess.run(command(disk / "heads", output), capture_output=True, text=True, preexec_fn=limit)
    assert stopped.returncode == 1
    assert "File too large" in stopped.stderr and "free space" in stopped.stderr and "Traceback" not in stopped.stderr
    assert not list((output / "scans").iterdir())
    check_continued(disk, finished, output)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the sample DICOM series in ../shared/data/ct_dicom")
def test_the_real_series_are_decided_as_their_table_says(tmp_path):
    """With one exception: the skull phantom without a brain passes by its header, and its pixels reject it."""
    table = pandas.read_csv(SHARED / "manifest.csv").set_index("series")
    manifest = preprocess_ct(
        SHARED, tmp_path / "merged", CTPreprocessConfig(merge_split=True), linkage=True, progress=False
    )
    linkage = pandas.read_csv(tmp_path / "merged" / "private" / "linkage.csv")
    linkage.index = [Path(folder).name for folder in linkage["folder"]]
    rows = manifest[manifest["merged_into"] == ""].set_index("scan_id")
    decisions = linkage.join(rows, on="scan_id", rsuffix="_hashed")
    assert len(decisions) == len(table) == 8
    for name, expected in table["expected_decision"].items():
        assert decisions.loc[name, "header_decision"] == expected
    reason = decisions["reason"].to_dict()
    brainless = "Philips_IngenuityCT_phantom_UB_5mm_JPEGLS"
    assert reason.pop(brainless) == "no-brain"
    assert {name: why for name, why in reason.items() if why} == {
        "GE_HiSpeedDual_head_STD_missing_slices_JPEG2000": "missing-slices",
        "Philips_IngenuityCT_phantom_YA_bone_1mm_JPEG2000": "bone-kernel",
        "Philips_IngenuityCT_phantom_coronal_reformat_Deflated": "not-axial",
        "Philips_IngenuityCT_phantom_surview_localizer": "localiser",
    }
    preprocess_ct(SHARED, tmp_path / "thesis", CTPreprocessConfig(headers_only=True), linkage=True, progress=False)
    split = {folder for folder, why in reasons(tmp_path / "thesis").items() if why == "split-base-vault"}
    assert split == {
        "GE_HiSpeedDual_head_STD_base_and_vault_tilted",
        "GE_HiSpeedDual_head_STD_base_only_RLE",
        "GE_HiSpeedDual_head_STD_vault_only_JPEGLosslessSV1",
    }
