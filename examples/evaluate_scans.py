"""Detect in whole scans and score what is found against drawn lesions: volumes, lesions one by one, what is wrong.

python examples/evaluate_scans.py demo --cases data/phantom/test --group_by kind --seeds 0 1 2 --output_dir out/scans
python examples/evaluate_scans.py demo --cases data/MS_26 data/BraTS2021_96692 --modalities flair --pictures \
    --output_dir out/real

A folder of `--cases` is a case, or holds cases. Nothing is chosen here: schedule and threshold are the model's. With
`--group_by`, a column of the cohort's `subjects.csv`, each of its values has a row; with several `--seeds` of the
sampling, figures are their mean and standard error. What is finished is kept: after an interrupt, repeat the command.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from difffuse_hf import DifFusePipeline, __version__
from difffuse_hf.detection.load import load_model
from difffuse_hf.detection.result import DetectionResult
from difffuse_hf.detection.run import MODEL_FILES, fingerprint_of
from difffuse_hf.detection.sources import files_of, is_dicom, read_source
from difffuse_hf.detection.volume import detect_volume
from difffuse_hf.errors import InputError, run_script
from difffuse_hf.evaluation.image_quality import grain
from difffuse_hf.evaluation.lesions import score_scan
from difffuse_hf.io.files import own_folder, write_whole
from difffuse_hf.io.hub import model_folder
from difffuse_hf.io.layouts import find_case, volumes_of
from difffuse_hf.io.nifti import SYNTHETIC
from difffuse_hf.io.subjects import SUBJECTS, read_subjects
from difffuse_hf.reporting.coverage import coverage_of
from difffuse_hf.reporting.scan_tables import write_scan_tables
from difffuse_hf.reporting.shown_slices import select_slices, write_overview


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    source = model_folder(args.model)
    pipeline, _ = load_model(source, args.device)
    if pipeline.processor is None:
        raise InputError(f"{args.model} has no processor, so its modalities and slice size are not known.")
    cases = find_cases(args.cases)
    groups = {folder: group_of(folder, args.group_by) for folder in cases}
    weights = sorted(file for file in source.rglob("*") if file.suffix in MODEL_FILES)
    deciding = [__version__, str(pipeline.unet.dtype), args.preset, args.modalities, args.all_slices, args.pictures]
    made_with = fingerprint_of(weights, json.dumps(deciding))
    output = Path(args.output_dir)
    results: dict[str, list[dict]] = {}
    with own_folder(output):
        for folder in cases:
            kept = output / "scans" / f"{folder.name}.json"
            made_from = fingerprint_of(files_of(folder, pipeline.processor)[1], made_with)
            done = read_kept(kept, made_from)
            for seed in args.seeds:
                if str(seed) not in done:
                    done[str(seed)] = score_case(pipeline, folder, seed, args)
                    kept.parent.mkdir(exist_ok=True)
                    text = json.dumps({"made_from": made_from, "seeds": done}, indent=2)
                    write_whole(kept, lambda file, text=text: file.write_text(text))
            results[folder.name] = [done[str(seed)] for seed in args.seeds]
        names = {folder.name: group for folder, group in groups.items() if group is not None}
        tables = write_scan_tables(results, names, output, args.model, args.modalities)
    for table in tables:
        Console().print(table.markdown())


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model folder, a Hub repository user/name, or the name of an embedded model")
    parser.add_argument("--cases", type=Path, nargs="+", required=True, help="case folders, or folders of these")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--group_by", help="column of the subjects.csv beside the cases: a row for each value")
    parser.add_argument("--modalities", nargs="+", help="take these alone of each case, as if no other was acquired")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--all_slices", action="store_true", help="repaint slices that the classifier passes, too")
    parser.add_argument("--pictures", action="store_true", help="an overview of each scan as PNG, of the first seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the sampling")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


def find_cases(folders: Sequence[Path]) -> list[Path]:
    """The case folders among these and in them.

    Raises:
        InputError: one does not exist, or two cases have the same name.
    """
    cases: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder; give case folders, or folders that hold some.")
        inside = sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
        cases += [folder] if not inside or volumes_of(folder) or is_dicom(folder) else inside
    names = [one.name for one in cases]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"Two cases are named {twice}; score them in two runs.")
    return cases


def group_of(folder: Path, column: str | None) -> str | None:
    """What the cohort's table says of a case in a column.

    Raises:
        InputError: there is no table, or it has no such column or case.
    """
    if column is None:
        return None
    groups = read_subjects(folder.parent, column)
    if folder.name not in groups:
        raise InputError(f"{folder.parent / SUBJECTS} has no {column} of {folder.name}.")
    return groups[folder.name]


def read_kept(path: Path, made_from: str) -> dict[str, dict]:
    """The scores of a case by seed, if an earlier run of the same files, model and settings has left some."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    return kept["seeds"] if kept.get("made_from") == made_from else {}


def score_case(pipeline: DifFusePipeline, folder: Path, seed: int, args: argparse.Namespace) -> dict:
    """The measures of one scan, and with `--pictures` its overview beside them."""
    assert pipeline.processor is not None  # looked at before
    source: Path | Mapping[str, Path] = folder
    if args.modalities is not None:
        found = find_case(folder, pipeline.processor.modalities, pipeline.processor.optional_modalities)
        source = {one: file for one, file in found.files.items() if one in args.modalities}
        source |= {"seg": found.reference} if found.reference else {}
    case, _ = read_source(source, pipeline.processor)
    case.name = folder.name
    shown = args.pictures and seed == args.seeds[0]
    for_the_eye: dict[str, Any] = {} if shown else {"display_steps": 0}
    result = detect_volume(
        pipeline, case, args.preset, args.batch_size, seed, args.all_slices, progress=False, **for_the_eye
    )
    scores = score_scan(result.lesion, result.tissue, case.reference, case.voxel_ml)
    usable = len(result.slices.indices)
    scores |= {"repainted": len(result.parameters["repainted_slices"]) / usable if usable else math.nan}
    if shown:
        show(result, Path(args.output_dir) / f"{folder.name}.png")
        scores |= {"grain": grain_of_pictures(result)}
    return {**scores, "synthetic": case.header["descrip"].item() == SYNTHETIC}


def show(result: DetectionResult, path: Path) -> None:
    """The overview that `difffuse detect` makes."""
    slices = select_slices(result, 5)
    if slices:
        write_overview(result, slices, coverage_of(result).in_words(), path)


def grain_of_pictures(result: DetectionResult) -> float:
    """`grain` of the counterfactuals that were made to be looked at."""
    slices = result.slices
    made = (slices.pictures != slices.counterfactual).flatten(1).any(1)
    return grain(slices.image[made], slices.pictures[made], slices.mask[made])


if __name__ == "__main__":
    run_script(main)
