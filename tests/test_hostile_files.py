"""Files that hospitals and strangers send: a scan, a decision or a sentence, in bounded memory, nothing outside."""

import gzip
import importlib.util
import multiprocessing
import os
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
from dicom_files import write_series
from pydicom.uid import DeflatedExplicitVRLittleEndian
from tiny_scans import everything_in, tiny_pipeline, tiny_volumes, write_case

from difffuse_hf.detection.cohort import detect_cases
from difffuse_hf.detection.run import Run
from difffuse_hf.detection.sources import opened
from difffuse_hf.errors import InputError
from difffuse_hf.io.volume_file import read_volume_file
from difffuse_hf.preprocessing.dicom import find_files, read_headers

specification = importlib.util.spec_from_file_location(
    "hostile", Path(__file__).parents[1] / "benchmarks" / "hostile.py"
)
hostile = importlib.util.module_from_spec(specification)
specification.loader.exec_module(hostile)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("start", range(0, 60, 20))
def test_malformed_scans_end_in_a_scan_a_decision_or_one_sentence(start, tmp_path, monkeypatch):
    """Twenty of the inputs of benchmarks/hostile.py, which tries ten thousand."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    for number in range(start, start + 20):
        outcome, said = hostile.try_one(7, number, tmp_path / "top")
        assert outcome in ("read", "decided", "sentence"), f"input {number}: {said}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", [764, 2927, 7559])  # an axis to nowhere, no voxels, names of bytes in an archive
def test_what_was_once_a_crash_is_a_sentence(number, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert hostile.try_one(0, number, tmp_path / "top") == ("sentence", "")


@pytest.mark.parametrize(
    "program, said",
    [("while True: pass", "computed over 0.3 s"), ("import time; time.sleep(60)", "waited over 0.3 s")],
)
def test_a_process_that_computes_on_or_waits_without_end_hangs(program, said, monkeypatch):
    """The clock's limit is out of the way of the one that computes, and the CPU's of the one that sleeps."""
    monkeypatch.setattr(hostile, "MOST_SECONDS", 0.3)
    ours, theirs = multiprocessing.Pipe()
    with subprocess.Popen([sys.executable, "-S", "-c", program]) as process:
        try:
            assert hostile.hang_of(ours, process.pid) == said
            theirs.send("an answer")
            assert hostile.hang_of(ours, process.pid) is None
        finally:
            process.kill()


def refuse_to_read(*_):
    pytest.fail("the voxels were read")


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.nii.gz", gzip.compress(hostile.bomb_header((1024, 1024, 1000)))),
        ("a.nii", hostile.bomb_header((32767, 32767, 32767))),
        ("a.nrrd", b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 9999 9999 9999\nencoding: raw\n\n\x1f\x8b"),
        (
            "a.mha",
            b"ObjectType = Image\nNDims = 3\nDimSize = 9999 9999 999\nElementType = MET_SHORT\n"
            b"ElementDataFile = LOCAL\n",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_volume_larger_than_any_scan_is_refused_by_its_header(name, content, tmp_path, monkeypatch):
    (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(nibabel.arrayproxy.ArrayProxy, "__array__", refuse_to_read)
    with pytest.raises(InputError, match=rf"{name} says that it has \d+ x \d+ x \d+ voxels"):
        read_volume_file(tmp_path / name)


def test_a_file_that_unpacks_to_more_than_its_header_says_is_not_unpacked_to_the_end(tmp_path, monkeypatch):
    file = tmp_path / "a.nii.gz"
    file.write_bytes(gzip.compress(hostile.bomb_header((8, 8, 8))) + 200 * hostile.ZEROS)  # 3 GB
    read = []
    monkeypatch.setattr(
        gzip.GzipFile,
        "read",
        lambda self, size=-1, read_some=gzip.GzipFile.read: read.append(size) or read_some(self, size),
    )
    with pytest.raises(InputError, match="holds much more than its header says"):
        read_volume_file(file)
    assert len(read) < 100  # megabytes


def test_pipes_and_links_to_them_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.dcm")
    (tmp_path / "link.dcm").symlink_to("pipe.dcm")
    (tmp_path / "nowhere.dcm").symlink_to("missing")
    (tmp_path / "loop").symlink_to(tmp_path)
    headers, failed = read_headers(find_files(tmp_path))
    assert headers == [] and [path.name for path, _ in failed] == ["nowhere.dcm"]
    with pytest.raises(InputError, match="no plain file"):
        read_volume_file(tmp_path / "pipe.dcm")


def test_headers_of_absurd_pictures_and_deflated_bombs_are_counted_and_end_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("difffuse_hf.preprocessing.headers.MOST_DEFLATED_BYTES", 2**21)
    good, huge, bomb = write_series(tmp_path, np.zeros((3, 8, 8)), transfer_syntax=DeflatedExplicitVRLittleEndian)
    (large,) = write_series(tmp_path / "large", np.zeros((1, 8, 8)))
    content = large.read_bytes()
    for tag in (b"\x28\x00\x10\x00US\x02\x00", b"\x28\x00\x11\x00US\x02\x00"):  # Rows and Columns
        content = content.replace(tag + b"\x08\x00", tag + (20000).to_bytes(2, "little"))
    huge.write_bytes(content)
    whole = bomb.read_bytes()
    start = 144 + int.from_bytes(whole[140:144], "little")
    packer = zlib.compressobj(1, wbits=-15)
    bomb.write_bytes(whole[:start] + packer.compress(bytes(2**23)) + packer.flush())
    headers, failed = read_headers([good, huge, bomb])
    assert [header.path for header in headers] == [good]
    assert [why for _, why in failed] == [
        "the file says that it has 20000 x 20000 pixels, which no CT has",
        "its deflated data are far larger than a scan",
    ]


def test_a_damaged_archive_is_a_sentence_and_leads_nowhere(tmp_path):
    rng = np.random.default_rng(3)
    place = hostile.write_zip(tmp_path, rng)
    whole = place.read_bytes()
    for cut in (30, 60, len(whole) // 2):
        place.write_bytes(whole[:40] + bytes([255]) * 8 + whole[48 + cut % 3 :])
        try:
            with opened(place):
                pass
        except InputError as error:
            assert str(error).count("\n") == 0
    assert everything_in(tmp_path) == ["case.zip"] and not (tmp_path.parent / "evil").exists()


def test_one_bad_case_of_each_kind_does_not_end_a_cohort(tmp_path):
    tiny_pipeline(("flair",)).save_pretrained(tmp_path / "model")
    spoilt = {
        "negative": {"dim": [3, -4, 32, 10, 1, 1, 1, 1]},
        "huge": {"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]},
        "offset": {"vox_offset": 3e38},
        "pipe": {},
        "ok": {},
    }
    cases = [write_case(tmp_path / name, {"flair": tiny_volumes()["flair"]}, reference=False) for name in spoilt]
    for case, fields in zip(cases, spoilt.values()):
        file = case / f"{case.name}_flair.nii.gz"
        content = bytearray(gzip.decompress(file.read_bytes()))
        header = nibabel.Nifti1Header(bytes(content[:348]), check=False)
        for field, value in fields.items():
            header[field] = value
        content[:348] = header.binaryblock
        file.write_bytes(gzip.compress(content))
    (cases[3] / "pipe_flair.nii.gz").unlink()
    os.mkfifo(cases[3] / "pipe_flair.nii.gz")
    options = {"noise_level": 10, "num_inference_steps": 2}
    run = Run(str(tmp_path / "model"), tmp_path / "out", lambda *_, **__: {}, options=options)
    summaries, failures = detect_cases(run, cases)
    assert [summary["folder"].name for summary in summaries] == ["ok"] and everything_in(tmp_path / "out")[0] == "ok"
    assert len(failures) == 4 and not [
        sentence for sentence in failures if "\n" in sentence or "worked on" in sentence
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", [b"1e400 ", b"inf   ", b"no-one"])
def test_a_number_of_a_header_that_is_none_is_as_if_it_were_not_there(number, tmp_path):
    paths = write_series(tmp_path, np.zeros((3, 8, 8)), AcquisitionNumber=12345)
    paths[1].write_bytes(paths[1].read_bytes().replace(b"12345 ", number))
    headers, failed = read_headers(paths)
    assert [header.acquisition for header in headers] == [12345, None, 12345] and not failed
