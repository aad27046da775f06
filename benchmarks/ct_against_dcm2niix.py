"""CT pre-processing against dcm2niix, the usual converter from DICOM to NIfTI, on the same files.

pip install dcm2niix
python benchmarks/ct_against_dcm2niix.py out/dcm2niix [--dicom FOLDER]

Both run on a disk drawn by `BrainPhantom("ist3")` (synthetic throughout), or on the DICOM files below a folder. They
do not do the same: the table says what each does. The side nearest to dcm2niix is "volumes", our code up to the NIfTI
file. Every side is a process, and its time includes that of its start.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from rich.progress import track
from side_by_side import take_turns, write_results

from difffuse_hf import BrainPhantom
from difffuse_hf.errors import InputError, run_script

DOES = {
    "dcm2niix": (
        "reads headers, groups and converts every series; writes tilted and uneven ones a second time, resampled",
        "no decision, no registration, no crop, window or sampling",
    ),
    "volumes": (
        "reads headers, groups and converts every series of three slices or more, tilted and uneven ones resampled",
        "as dcm2niix; no localisers, no files of the slices as they lay",
    ),
    "difffuse preprocess": (
        "all eight steps: decisions by header and by image, registration to a template, scans, manifest, pictures",
        "decodes of a series that its header rejects three slices only; no NIfTI file of a series as it is",
    ),
    "difffuse preprocess, repeated": ("finds that nothing has changed, writes the tables again", "no series again"),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--dicom", type=Path, help="folder of DICOM files; a synthetic disk by default")
    parser.add_argument("--patients", type=int, default=2, help="of the synthetic disk")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--volumes", type=Path, help=argparse.SUPPRESS)  # write them there, and no more
    args = parser.parse_args(argv)
    dicom = args.dicom or args.output_dir / "disk" / "dicom"
    if args.volumes:
        write_volumes(dicom, args.volumes)
        return
    converter = find_dcm2niix()
    if not args.dicom and not dicom.exists():
        cohort = BrainPhantom("ist3")
        for index in track(range(args.patients), "Drawing patients"):
            list(cohort.write(dicom.parent, 1, start=index))

    this, results = [sys.executable, __file__, args.output_dir, "--dicom", dicom], args.output_dir / "results"
    preprocess = [sys.executable, "-m", "difffuse_hf.cli.main", "preprocess", dicom, results / "difffuse preprocess"]
    commands = {
        "dcm2niix": [converter, "-z", "i", "-b", "n", "-f", "%s_%j", "-o", results / "dcm2niix", dicom],
        "volumes": [*this, "--volumes", results / "volumes"],
        "difffuse preprocess": preprocess,
        "difffuse preprocess, repeated": preprocess,
    }

    def side(name: str) -> int:
        folder = results / name
        if not name.endswith("repeated"):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        # dcm2niix counts files that are no images as an error
        subprocess.run(commands[name], check=name != "dcm2niix", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        return sum(1 for _ in folder.rglob("*.nii.gz"))

    timings, volumes = take_turns({name: lambda name=name: side(name) for name in commands}, args.rounds)
    if not volumes["dcm2niix"]:
        raise InputError(f"dcm2niix made nothing of {dicom}; run it by hand to see why.")
    rows = [
        {"side": name, "files_written": volumes[name], **timings[name].row(against=timings["dcm2niix"])}
        | dict(zip(("does", "does_not"), DOES[name]))
        for name in commands
    ]
    settings = {"dicom": "synthetic" if args.dicom is None else dicom.name, "rounds": args.rounds}
    settings["files"] = sum(path.is_file() for path in dicom.rglob("*"))
    print(write_results(args.output_dir, "ct_against_dcm2niix", rows, settings))


def find_dcm2niix() -> str:
    try:
        from dcm2niix import bin
    except ImportError:
        raise InputError("dcm2niix is not installed; install it with: pip install dcm2niix.") from None
    return bin


def write_volumes(dicom: Path, folder: Path) -> None:
    """Each series of three slices or more that says how they lie, whatever it shows, as NIfTI."""
    import SimpleITK as sitk

    from difffuse_hf.preprocessing.assemble import assemble
    from difffuse_hf.preprocessing.dicom import find_files, group_series, read_headers

    for number, series in enumerate(group_series(read_headers(find_files(dicom))[0])):
        if series.has_geometry and len(series.slices) > 2 and not series.slices[0].truncated:
            sitk.WriteImage(assemble(series).to_sitk(), str(folder / f"{number}.nii.gz"), True)


if __name__ == "__main__":
    run_script(main)
