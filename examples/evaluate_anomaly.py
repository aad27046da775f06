"""Score Dif-fuse, its ablations and its competitors on slices with drawn lesions (thesis Table 6.1).

python examples/evaluate_anomaly.py --output_dir out/anomaly --cohort brats \\
    --method Dif-fuse out/difffuse-0 data/slices-0 --method Dif-fuse out/difffuse-1 data/slices-1 \\
    --method DDIM-DDPM out/unmasked-0 data/slices-0 '{"noise_level": 350}'

The same NAME again is another seed of the same method; the last argument are options of the pipeline's call. Every
threshold is the best on the run's validation split; the test split chooses nothing. `--out_of_domain` scores the same
models with the same thresholds on a data set that they have never seen. `--classifier` judges whether counterfactuals
pass as healthy, and its features make a kernel distance to healthy slices (`--inception` takes Inception's instead).
What is finished is kept: after an interrupt, repeat the command.
"""

import argparse
import json
import re
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console

from difffuse_hf import load_classifier
from difffuse_hf.data.cards import is_synthetic
from difffuse_hf.data.slices import load_slices
from difffuse_hf.errors import InputError, run_script
from difffuse_hf.evaluation import anomaly as scores
from difffuse_hf.evaluation.image_quality import classifier_features, inception_features, kid
from difffuse_hf.io.files import write_whole
from difffuse_hf.pipelines.auto import load_pipeline
from difffuse_hf.reporting.figures import methods_figure
from difffuse_hf.reporting.tables import Column, measures_table, write_tables

OVERLAP = [
    Column("dice", "Dice", digits=3),
    Column("iou", "IoU", digits=3),
    Column("best_dice", "best-possible Dice", digits=3),
    Column("auprc", "AUPRC", digits=3),
    *(Column(f"dice_{size}", f"Dice, {size} lesions", digits=3) for size in scores.SIZES),
    Column("volume_dice", "Dice by volume", digits=3),
]
PICTURE = [
    Column("change_outside", "change outside the lesion", digits=4, best="smallest"),
    Column("healthy_change", "change of healthy slices", digits=4, best="smallest"),
    Column("false_positives", "healthy brain flagged, %", 100, best="smallest"),
    Column("flip_rate", "pass as healthy, %", 100, digits=1),
    Column("kid", "KID", digits=4, best="smallest"),
    Column("seconds_per_slice", "s per slice", digits=2, best="smallest"),
]
COHORTS = {"brats": ("Table 6.1, BraTS",), "wmh": ("Table 6.1, WMH",)}
SHOWN = 4  # slices in the figure


class Run(NamedTuple):
    """One seed of a method."""

    model: str
    dataset: str
    options: str = "{}"


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    output = Path(args.output_dir)
    (output / "runs").mkdir(parents=True, exist_ok=True)
    methods = {}
    for name, *run in [*args.method, *(one for pair in args.all for one in listed(*pair))]:
        methods.setdefault(name, []).append(Run(*run))
    results, tiles = {}, {}
    elsewhere = {dataset: {} for dataset in args.out_of_domain}
    for name, runs in methods.items():
        stem = re.sub(r"[^\w.-]+", "_", name)
        for number, run in enumerate(runs):
            path = output / "runs" / f"{stem}_{number}.json"
            done = finished(path, run, args) or evaluate(name, number, run, path, args)
            results.setdefault(name, []).append(done["test"])
            for dataset in args.out_of_domain:
                elsewhere[dataset].setdefault(name, []).append(done["out_of_domain"][dataset])
            if number == 0:
                tiles[name] = path.with_suffix(".npz")

    synthetic = any(is_synthetic(run.dataset) for runs in methods.values() for run in runs)
    where = f"split 'test'{f', at most {args.limit} slices of a class' if args.limit else ''}"
    where += ", synthetic data" if synthetic else ""
    thesis = COHORTS.get(args.cohort, ())
    tables = [
        measures_table(results, OVERLAP, f"Lesions found, {where}.", thesis),
        measures_table(results, PICTURE, f"Counterfactuals, {where}; KID over {features_of(args)}."),
    ]
    for dataset, found in elsewhere.items():
        kind = "synthetic data" if is_synthetic(dataset) else "real data"
        caption = f"Lesions found in {Path(dataset).name} ({kind}), seen by no model, thresholds as before."
        tables.append(measures_table(found, OVERLAP, caption, COHORTS.get(args.out_of_domain_cohort, ())))
    data = {"limit": args.limit, "synthetic": synthetic, "results": results, "out_of_domain": elsewhere}
    write_tables(tables, data, output, "anomaly")
    shown = {name: dict(np.load(path)) for name, path in tiles.items()}
    title = f"Counterfactuals and what changed{', synthetic data' if synthetic else ''}"
    methods_figure(shown, title, output / "anomaly.png")
    Console().print(tables[0].markdown())
    print(f"All tables: {output / 'anomaly.md'}; slices and their counterfactuals: {output / 'anomaly.png'}")


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", nargs="+", action="append", default=[], metavar="VALUE",
                        help="NAME MODEL DATASET [OPTIONS]; again for a seed or a method more")  # fmt: skip
    parser.add_argument("--all", nargs=2, action="append", default=[], metavar=("METHODS", "DATASET"),
                        help="every method in a folder of assemble_competitors.py; again for a seed")  # fmt: skip
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--cohort", choices=list(COHORTS), help="print the thesis's figures for it beside ours")
    parser.add_argument("--out_of_domain", nargs="*", default=[], metavar="DATASET",
                        help="data sets whose test splits are scored as well")  # fmt: skip
    parser.add_argument("--out_of_domain_cohort", choices=list(COHORTS), help="as --cohort, for these tables")
    parser.add_argument("--classifier", help="that judges the counterfactuals")
    parser.add_argument("--inception", action="store_true", help="KID over Inception's features, fetched if missing")
    parser.add_argument("--limit", type=int, help="slices of each class and split; all by default")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling; a run's number is added")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--overwrite", action="store_true", help="score again what is there already")
    args = parser.parse_args(argv)
    for values in args.method:
        if len(values) not in (3, 4):
            parser.error(f"--method takes NAME MODEL DATASET [OPTIONS], got {' '.join(values)}")
    if not args.method and not args.all:
        parser.error("give a --method or --all")
    return args


def listed(folder: str, dataset: str) -> list[tuple[str, str, str, str]]:
    """Name, model, data set and options of the methods in a folder of assemble_competitors.py."""
    path = Path(folder) / "methods.json"
    if not path.exists():
        raise InputError(f"{folder} holds no methods.json; make it with examples/assemble_competitors.py.")
    return [(one["name"], one["model"], dataset, json.dumps(one["options"])) for one in json.loads(path.read_text())]


def origin(run: Run, args) -> dict:
    """What a result depends on."""
    names = ("out_of_domain", "classifier", "inception", "limit", "seed")
    return {**run._asdict(), **{name: getattr(args, name) for name in names}}


def finished(path: Path, run: Run, args) -> dict | None:
    """A result from before, if it is of the same model, data and settings and newer than the model."""
    if args.overwrite or not path.exists() or not path.with_suffix(".npz").exists():
        return None
    done = json.loads(path.read_text())
    index = Path(run.model) / "model_index.json"
    newer = index.exists() and path.stat().st_mtime > index.stat().st_mtime
    return done if newer and done["origin"] == origin(run, args) else None


def evaluate(name: str, number: int, run: Run, path: Path, args) -> dict:
    """Threshold from the validation split, scores of the test split and of the other data set; kept in `path`."""
    try:
        options = json.loads(run.options)
    except json.JSONDecodeError as error:
        raise InputError(f"The options of {name}, {run.options}, are no JSON ({error}).") from error
    pipeline = load_pipeline(run.model, args.device)
    seed, sampling = args.seed + number, {"batch_size": args.batch_size, **options}
    validation, test = (
        scores.as_slices(load_slices(run.dataset, split), split, args.limit) for split in ("validation", "test")
    )
    sick = validation.with_lesion()
    maps, _ = scores.run_method(pipeline, sick.images, seed, label=f"{name}, validation", **sampling)
    threshold, edges = scores.choose_threshold(maps, sick), scores.size_edges(sick)
    judge = load_classifier(args.classifier).eval().to(args.device) if args.classifier else None
    result = {"origin": origin(run, args), "threshold": threshold.value, "validation_dice": threshold.dice}
    result["test"], shown = score(pipeline, name, test, threshold, edges, seed, sampling, judge, args)
    result["out_of_domain"] = {}
    for dataset in args.out_of_domain:
        foreign = scores.as_slices(load_slices(dataset, "test"), "test", args.limit).with_lesion()
        result["out_of_domain"][dataset], _ = score(
            pipeline, name, foreign, threshold, edges, seed, sampling, judge, args
        )
    write_whole(path.with_suffix(".npz"), lambda file: save_arrays(file, shown))
    write_whole(path, lambda file: file.write_text(json.dumps(result, indent=2)))
    return result


def score(pipeline, name, slices, threshold, edges, seed, sampling, judge, args) -> tuple[dict, dict]:
    """All measures on one set of slices, and a few of its slices with what the method made of them."""
    sick, healthy = slices.with_lesion(), slices.select(slices.labels == 0)
    start = time.perf_counter()
    maps, made = scores.run_method(pipeline, sick.images, seed, label=f"{name}, {slices.split}", **sampling)
    measures = {"threshold": threshold.value, "seconds_per_slice": (time.perf_counter() - start) / len(sick.images)}
    measures |= scores.score_maps(maps, sick, threshold, edges)
    measures |= scores.score_counterfactuals(made, sick, judge)
    if len(healthy.images):
        kept_maps, kept = scores.run_method(pipeline, healthy.images, seed, label=f"{name}, healthy", **sampling)
        measures |= scores.score_healthy(kept_maps, kept, healthy, threshold)
        if args.inception or judge is not None:
            extractor = inception_features() if args.inception else classifier_features(judge)
            measures["kid"] = kid(healthy.images, made, extractor)[0]
    few = torch.linspace(0, len(maps) - 1, min(SHOWN, len(maps))).long()
    return measures, {
        "image": sick.images[few, :1].numpy(),
        "lesion": sick.masks[few].numpy(),
        "counterfactual": made[few, :1].numpy(),
        "map": maps[few].numpy(),
        "threshold": np.array(threshold.value),
    }


def save_arrays(path: Path, arrays: dict) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def features_of(args) -> str:
    if args.inception:
        return "Inception's features"
    return f"features of {args.classifier}, not Inception's" if args.classifier else "nothing (no --classifier)"


if __name__ == "__main__":
    run_script(main)
