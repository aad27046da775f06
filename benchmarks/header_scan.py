"""The header scan of `difffuse preprocess`: the first one, a second one, and one after 1 % of the files have changed.

python benchmarks/header_scan.py out/header_scan --files 50000

Writes a disk of small synthetic DICOM files (or takes that of an earlier run) and scans it, each scan in a process of
its own: with the headers kept for the next run, and without, where every header is read and held in memory. A scan
ends with the series that were found, and all scans must find the same ones.

For a million files, time is that of a file times a million. Memory is that of the disk, plus what each further file
adds: the difference to a disk of a fifth of the files, times the files that a million has more.
"""

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pydicom
from rich.progress import track
from side_by_side import Timing, cpu_seconds, peak_gb, take_turns, write_results

import difffuse_hf.preprocessing.ct  # noqa: F401  so that the imports are those of a run
from difffuse_hf.errors import run_script
from difffuse_hf.preprocessing.dicom import find_files, group_series, read_headers
from difffuse_hf.preprocessing.header_cache import HeaderCache
from difffuse_hf.preprocessing.parallel import Workers
from difffuse_hf.preprocessing.scan import Disk

SERIES_OF_A_STUDY, SLICES = 4, 40
SCANS = ["without cache", "first scan", "resume", "resume, 1 % changed"]
MILLION = 1_000_000


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--files", type=int, default=50_000, help="rounded up to whole series")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scan", choices=SCANS, help=argparse.SUPPRESS)  # this one, and no more, in this process
    args = parser.parse_args(argv)
    if args.scan:
        folder, files = args.output_dir, args.files
        print(json.dumps(scan(args.scan, folder / f"disk_{files}", folder / f"kept_{files}")))
        return
    small = {name: scan_apart(name, args.output_dir, args.files // 5) for name in SCANS}
    found = {name: [] for name in SCANS}

    sides = {
        name: lambda name=name: found[name].append(scan_apart(name, args.output_dir, args.files)) for name in SCANS
    }
    take_turns(sides, args.rounds, warm_up=False)
    if len({result["series"] for results in found.values() for result in results}) > 1:
        raise SystemExit(f"The scans found different series: {found}")
    rows = [row(name, results, found[SCANS[0]], small[name]) for name, results in found.items()]
    print(write_results(args.output_dir, "header_scan", rows, {"rounds": args.rounds, "slices_of_a_series": SLICES}))


def scan_apart(name: str, folder: Path, num_files: int) -> dict:
    """What `scan` says, from a process of its own; the disk is written or changed first where that is called for."""
    disk, kept = folder / f"disk_{num_files}", folder / f"kept_{num_files}"
    if not disk.exists():
        write_disk(disk, num_files)
    if name == "first scan":
        shutil.rmtree(kept, ignore_errors=True)
    if name == "resume, 1 % changed":
        touch(disk)
    command = [sys.executable, __file__, str(folder), "--files", str(num_files), "--scan", name]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def row(name: str, results: list[dict], without: list[dict], small: dict) -> dict:
    timings = [Timing(*([one[which] for one in some] for which in ("wall_s", "cpu_s"))) for some in (results, without)]
    last, times = results[-1], timings[0].row(against=timings[1])
    a_file_mb = (last["peak_mb"] - small["peak_mb"]) / (last["files"] - small["files"])
    return {
        "scan": name,
        "files": last["files"],
        "headers_read": last["headers_read"],
        **times,
        "files_per_s": last["files"] / times["wall_s"],
        "imports_mb": last["imports_mb"],
        "peak_mb": last["peak_mb"],
        "cache_bytes_per_file": last["cache_bytes"] / last["files"],
        "million_cpu_s": times["cpu_s"] / last["files"] * MILLION,
        "million_mb": last["peak_mb"] + a_file_mb * (MILLION - last["files"]),
    }


def scan(name: str, folder: Path, kept: Path) -> dict:
    """Time and memory of one scan, in a process that has done nothing else."""
    imports_mb, cpu, wall = 1000 * peak_gb(), cpu_seconds(), time.perf_counter()
    if name == "without cache":
        files = find_files(folder)
        headers, _ = read_headers(files)
        keys = [series.key for series in group_series(headers)]
        num_files = num_read = len(files)
    else:
        salt = b"benchmark"
        disk = Disk(folder, salt, HeaderCache(kept))
        num_files, num_read = len(disk.files), len(disk.unread)
        with Workers(1) as pool:
            disk.read(pool)
        keys = [disk.scan_id(series) for series in disk.find_series()]
    return {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": cpu_seconds() - cpu,
        "peak_mb": 1000 * peak_gb(),
        "imports_mb": imports_mb,
        "files": num_files,
        "headers_read": num_read,
        "series": len(set(keys)),
        "cache_bytes": sum(path.stat().st_size for path in kept.glob("*")),
    }


def write_disk(disk: Path, num_files: int) -> None:
    """Axial series of `SLICES` files, four in a study; complete or not at all."""
    template = _template()
    for index in track(range(-(-num_files // SLICES)), "Writing files"):
        study, number = divmod(index, SERIES_OF_A_STUDY)
        folder = disk.with_name("writing") / f"patient_{study:06d}" / "20050102" / f"series_{number}"
        folder.mkdir(parents=True)
        content = template.replace(b"9.9.9999999", f"9.9.{study:07d}".encode())
        content = content.replace(b"PATIENT-999999", f"PATIENT-{study:06d}".encode())
        content = content.replace(b"8.88", f"8.{number:02d}".encode())
        for i in range(SLICES):
            here = content.replace(b"7.7777", f"7.{i:04d}".encode()).replace(b"666666.6", f"{5 * i:08.1f}".encode())
            (folder / f"IM{i:06d}").write_bytes(here.replace(b"123456", f"{i + 1:06d}".encode()))
    disk.with_name("writing").rename(disk)


def _template() -> bytes:
    """One slice; the figures that differ between files stand at fixed places, for `write_disk` to replace."""
    dataset = pydicom.Dataset()
    dataset.SOPClassUID = pydicom.uid.CTImageStorage
    dataset.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.9.9.9999999"
    dataset.SeriesInstanceUID = f"{dataset.StudyInstanceUID}.8.88"
    dataset.SOPInstanceUID = f"{dataset.SeriesInstanceUID}.7.7777"
    dataset.FrameOfReferenceUID = f"{dataset.StudyInstanceUID}.1"
    dataset.PatientName, dataset.PatientID, dataset.PatientAge = "SYNTHETIC^HEAD", "PATIENT-999999", "070Y"
    dataset.StudyDate, dataset.AcquisitionTime, dataset.Modality = "20050102", "101530.000000", "CT"
    dataset.Manufacturer, dataset.ConvolutionKernel = "SYNTHETIC", "UB"
    dataset.SeriesDescription = "SYNTHETIC BRAIN"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    for name in ("InstitutionName", "ReferringPhysicianName", "StationName", "StudyDescription", "ProtocolName"):
        setattr(dataset, name, "SYNTHETIC")  # passed over by a scan, as real files have them
    for name in ("KVP", "ExposureTime", "XRayTubeCurrent", "Exposure", "TableHeight", "ReconstructionDiameter"):
        setattr(dataset, name, 120)
    dataset.AcquisitionNumber, dataset.InstanceNumber, dataset.SliceThickness = 1, "123456", 5
    dataset.PixelSpacing, dataset.ImageOrientationPatient = [0.5, 0.5], [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = ["-20", "-20", "666666.6"]
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME2", 1
    dataset.Rows = dataset.Columns = 8
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.WindowCenter, dataset.WindowWidth = 40, 80
    dataset.PixelData = bytes(128)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def touch(disk: Path) -> None:
    """Every hundredth file is newer than it was."""
    for path in find_files(disk)[::100]:
        os.utime(path)


if __name__ == "__main__":
    run_script(main)
