"""Score classifiers on a test split: the tables of chapters 4 and 5 that are about classification.

python examples/evaluate_classification.py --output_dir out/classification --cohort ist3 \\
    --method baseline out/classifier-0 data/ist3-0 --method baseline out/classifier-1 data/ist3-1 \\
    --method ACAT out/acat-0 data/ist3-0 data/ist3-0_saliency --method ACAT out/acat-1 data/ist3-1 data/ist3-1_saliency

The same NAME again is another seed of the same method; the other methods are compared with the first, seed by seed.
The decision is the class of highest probability: the test split chooses nothing. `--readers` is a CSV with the columns
`key` and one for each reader, for Krippendorff's alpha with and without the model (Tables 4.4 and 4.5). `--curve`
gives accuracy against the number of training scans (Sec. 5.5), with models that were trained on N scans.
"""

import argparse
import re
from pathlib import Path
from typing import NamedTuple

import pandas
import torch

from difffuse_hf import load_classifier
from difffuse_hf.data.cards import is_synthetic
from difffuse_hf.data.scans import load_scans
from difffuse_hf.errors import InputError, run_script
from difffuse_hf.evaluation import classification as scores
from difffuse_hf.evaluation.agreement import read_readers, reader_agreement
from difffuse_hf.io.files import write_whole
from difffuse_hf.reporting.charts import draw_confusions, draw_lines
from difffuse_hf.reporting.tables import (
    COHORTS,
    Column,
    Table,
    interval_text,
    mean_and_error,
    measures_table,
    write_tables,
)

ACCURACY = Column("accuracy", "accuracy, %", 100)
MACRO = [
    Column("macro_sensitivity", "macro sensitivity, %", 100),
    Column("macro_specificity", "macro specificity, %", 100),
]
LESION = [
    Column("lesion_sensitivity", "lesion sensitivity, %", 100),
    Column("lesion_specificity", "lesion specificity, %", 100),
]
AUC = Column("auc", "AUC", digits=3)
SCANS = Column("scans", "scans", digits=0, best=None, spread=False)
SUBGROUP = [SCANS, *(Column(one.measure, one.heading, 100, digits=1, best=None) for one in (ACCURACY, *LESION))]
SUBGROUP.append(Column("auc", "AUC (of lesions alone: against all without)", digits=3, best=None))
AGREEMENT = [Column("alpha", "α", digits=3, best=None), Column("change_from_readers", "change", digits=3, best=None)]


class Run(NamedTuple):
    """One seed of a method."""

    model: str
    dataset: str
    saliency: str | None = None


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    methods, curves = {}, {}
    for name, *run in args.method:
        methods.setdefault(name, []).append(Run(*run))
    for name, size, *run in args.curve:
        curves.setdefault((name, int(size)), []).append(Run(*run))
    datasets = {run.dataset for runs in [*methods.values(), *curves.values()] for run in runs}
    synthetic = any(map(is_synthetic, datasets))
    where = f"split '{args.split}'{', synthetic data' if synthetic else ''}"

    predictions = predict_all(methods, output, args)
    on_curve = predict_all({f"{name}-{size}-scans": runs for (name, size), runs in curves.items()}, output, args)
    every_table = [table for seeds in [*predictions.values(), *on_curve.values()] for table in seeds]
    classes = sorted({tuple(scores.class_names(table)) for table in every_table})
    if len(classes) > 1:
        different = " against ".join(", ".join(names) for names in classes)
        raise InputError(f"The models tell different classes apart ({different}); score them in separate runs.")

    data = {"split": args.split, "synthetic": synthetic, "bootstrap": args.bootstrap, "classes": list(classes[0])}
    tables = []
    if methods:
        tables += score_methods(methods, predictions, data, where, args)
    if args.readers:
        tables += score_readers(predictions, data, where, args)
    if curves:
        tables += score_curves(dict(zip(curves, on_curve.values())), data, where, args)
    write_tables(tables, data, output, "classification")
    print(tables[0].markdown())
    print(f"All tables: {output / 'classification.md'}")


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    several = {"nargs": "+", "action": "append", "default": [], "metavar": "VALUE"}
    parser.add_argument("--method", **several, help="NAME MODEL DATASET [SALIENCY]; again for a seed or a method more")
    parser.add_argument(
        "--curve", **several, help="NAME N MODEL DATASET [SALIENCY], trained on N scans; again as above"
    )
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--readers", help="CSV with the column `key` and one for each reader")
    parser.add_argument("--cohort", choices=list(COHORTS), help="print the thesis's figures for it beside ours")
    parser.add_argument("--bootstrap", type=int, default=1000, help="samples of the patients; 0 for no intervals")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--overwrite", action="store_true", help="predict again where predictions are there already")
    args = parser.parse_args(argv)
    for values in args.method:
        if len(values) not in (3, 4):
            parser.error(f"--method takes NAME MODEL DATASET [SALIENCY], got {' '.join(values)}")
    for values in args.curve:
        if len(values) not in (4, 5) or not values[1].isdigit():
            usage = "--curve takes NAME N MODEL DATASET [SALIENCY] with a whole number N"
            parser.error(f"{usage}, got {' '.join(values)}")
    if not args.method and (args.readers or not args.curve):
        parser.error("give a --method to compare the readers with" if args.readers else "give a --method or a --curve")
    return args


def predict_all(methods, output, args):
    """Predictions of every seed of every method, `{name: [table, ...]}`, from files that are up to date or anew."""
    stems = {name: re.sub(r"[^\w.-]+", "_", name) for name in methods}
    if len(set(stems.values())) < len(stems):
        raise InputError(f"The names {', '.join(stems)} do not all give different file names; rename a method.")
    predictions = {}
    for name, runs in methods.items():
        paths = [output / f"predictions_{stems[name]}_{i}.parquet" for i in range(len(runs))]
        predictions[name] = [predictions_of(run, path, args) for run, path in zip(runs, paths)]
    return predictions


def predictions_of(run, path, args):
    """Predictions from `path` if they are of this model and data and newer than both, or else from the model."""
    origin = {**run._asdict(), "split": args.split}
    if path.exists() and not args.overwrite:
        known = pandas.read_parquet(path)
        if known.attrs == origin and all(path.stat().st_mtime > changed(source) for source in run if source):
            return known
    classifier = load_classifier(run.model).to(args.device)
    dataset = load_scans(run.dataset, args.split, saliency=run.saliency)
    table = scores.predict(classifier, dataset, args.batch_size, text=path.stem.removeprefix("predictions_"))
    table.attrs = origin
    write_whole(path, table.to_parquet)
    return table


def changed(source):
    """When the newest file of a folder was written; 0 for what is not on this disk."""
    return max((file.stat().st_mtime for file in Path(source).rglob("*") if file.is_file()), default=0.0)


def score_methods(methods, predictions, data, where, args):
    """The main table, the comparisons with the first method, a table of subgroups each, and two figures."""
    bootstrap = {"num_bootstrap": args.bootstrap, "seed": args.seed}
    names, output = data["classes"], Path(args.output_dir)
    results, groups, matrices = {}, {}, {}
    for name, seeds in predictions.items():
        results[name] = [scores.evaluate(table, **bootstrap) for table in seeds]
        groups[name] = [scores.subgroup_table(table, **bootstrap) for table in seeds]
        matrices[name] = [scores.confusion_matrix(table) for table in seeds]
    data["methods"] = {
        name: [
            run._asdict()
            | {"scans": len(predictions[name][i]), "patients": predictions[name][i]["patient"].nunique()}
            | {"measures": results[name][i], "by_class": scores.by_class(predictions[name][i])}
            | {"confusion": matrices[name][i], "subgroups": groups[name][i].to_dict("records")}
            for i, run in enumerate(runs)
        ]
        for name, runs in methods.items()
    }
    caption = f"Classes {', '.join(names)}: {sizes([t for seeds in predictions.values() for t in seeds])}, {where}."
    columns = [ACCURACY, *(MACRO if len(names) > 2 else []), *LESION, AUC]
    rows = {name: list(map(flat, seeds)) for name, seeds in results.items()}
    tables = [measures_table(rows, columns, caption, COHORTS.get(args.cohort, ()), label="tab:classification")]
    tables += compare_with_first(predictions, data, where, bootstrap)
    for name, seeds in groups.items():
        caption = f"{name} in subgroups, {where}. An en dash: there is no scan of which it could be said."
        tables.append(measures_table(subgroup_rows(seeds), SUBGROUP, caption, row_heading="subgroup"))

    totals = {name: sum(seeds) for name, seeds in matrices.items()}
    draw_confusions(totals, names, f"Scans by class, all seeds, {where}", output / "confusion_matrices.png")
    draw_grades(groups, where, output / "sensitivity_by_size.png")
    return tables


def compare_with_first(predictions, data, where, bootstrap):
    """One table, a row for each other method and seed; seeds that were scored on other scans are left out aloud."""
    (first, firsts), *others = predictions.items()
    rows, data["comparisons"] = [], []
    for name, seeds in others:
        for i, (one, other) in enumerate(zip(firsts, seeds)):
            if set(one["key"]) != set(other["key"]):
                print(f"Seed {i} of {name} and of {first} are not compared: they were scored on other scans.")
                continue
            result = scores.compare(one, other, **bootstrap)
            data["comparisons"].append({"first": first, "second": name, "seed": i, **result})
            difference = interval_text(result["difference"], result["low"], result["high"])
            counts = [str(result[f"only_{side}"]) for side in ("first", "second")]
            rows.append([f"{name} − {first}, seed {i}", difference, *counts, f"{result['p_value']:.3g}"])
    if not rows:
        return []
    caption = f"Accuracy against {first} on the same scans, {where}: interval over patients, McNemar's exact test."
    head = ["methods", "difference, %", f"only {first} right", "only the other right", "p (McNemar)"]
    return [Table(caption, head, rows)]


def subgroup_rows(seeds):
    """`{"infarct size: 1": [measures of each seed]}`; a seed without such scans has none."""
    rows = {}
    for i, table in enumerate(seeds):
        for row in table.to_dict("records"):
            title = f"{row['group']}: {row['value']}" if row["value"] else row["group"]
            rows.setdefault(title, [{} for _ in seeds])[i] = row
    return rows


def draw_grades(groups, where, path):
    """Sensitivity by infarct size, or by severity, where the data set knows either."""
    for group in scores.GRADES.values():
        lines = {}
        for name, seeds in groups.items():
            graded = pandas.concat(table[(table["group"] == group) & (table["lesions"] > 0)] for table in seeds)
            graded = graded[~graded["value"].str.startswith("small")]
            values = graded.groupby("value")["lesion_sensitivity"]
            lines[name] = {grade: mean_and_error(list(sensitivity))[:2] for grade, sensitivity in values}
        if any(lines.values()):
            draw_lines(lines, (group, "lesion sensitivity, %"), f"Sensitivity by {group}, {where}", path)
            return
    print("The data set knows neither infarct size nor severity, so there is no figure of sensitivity by size.")


def score_readers(predictions, data, where, args):
    """A table of Krippendorff's alpha for each method."""
    readers = read_readers(args.readers, data["classes"])
    tables, data["agreement"] = [], {}
    for name, seeds in predictions.items():
        if name in readers:
            raise InputError(f"{args.readers} has a reader called '{name}', as a method is; rename one of them.")
        panels = []
        for table in seeds:
            decisions = pandas.Series(scores.decide(table), index=table["key"], name=name)
            both = readers.join(decisions, how="inner")
            if both.empty:
                raise InputError(f"No `key` of {args.readers} is that of a scan in the split '{args.split}'.")
            panels.append(reader_agreement(both, name, num_bootstrap=args.bootstrap, seed=args.seed))
        data["agreement"][name] = [panel.to_dict("records") for panel in panels]
        rows = {row: [panel.loc[i].to_dict() for panel in panels] for i, row in enumerate(panels[0]["panel"])}
        panel = f"{len(readers.columns)} readers and {name} on {len(both)} scans"
        caption = f"Krippendorff's α (nominal) of {panel}, {where}; change: against the readers alone."
        tables.append(measures_table(rows, AGREEMENT, caption, row_heading="panel"))
    return tables


def score_curves(predictions, data, where, args):
    """Accuracy against the number of training scans, as a table and a figure (Sec. 5.5)."""
    results = {
        key: [flat(scores.evaluate(table, args.bootstrap, args.seed)) for table in seeds]
        for key, seeds in sorted(predictions.items())
    }
    data["curve"] = [{"method": name, "training_scans": n, "seeds": seeds} for (name, n), seeds in results.items()]
    lines = {}
    for (name, size), seeds in results.items():
        lines.setdefault(name, {})[size] = mean_and_error([seed["accuracy"] for seed in seeds])[:2]
    path = Path(args.output_dir) / "accuracy_by_training_scans.png"
    draw_lines(lines, ("training scans", "accuracy, %"), f"Accuracy, {where}", path)
    caption = f"Accuracy against the number of training scans, {where}."
    rows = {f"{name}, {size} scans": seeds for (name, size), seeds in results.items()}
    column = Column("accuracy", "accuracy, %", 100, best=None)
    return [measures_table(rows, [column], caption, row_heading="method, training scans")]


def flat(results):
    """`{"accuracy": ..., "accuracy_low": ..., "accuracy_high": ...}` of what `evaluate` gives."""
    ends = {"value": "", "low": "_low", "high": "_high"}
    return {f"{name}{end}": result[key] for name, result in results.items() for key, end in ends.items()}


def sizes(tables):
    """ "120 scans of 80 patients", with the range where seeds differ."""
    counts = [sorted({len(t) for t in tables}), sorted({t["patient"].nunique() for t in tables})]
    texts = [str(c[0]) if len(c) == 1 else f"{c[0]} to {c[-1]}" for c in counts]
    return f"{texts[0]} scans of {texts[1]} patients"


if __name__ == "__main__":
    run_script(main)
