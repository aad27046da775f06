"""Where do saliency maps point? Pointing game, energy inside the lesion, precision and recall (thesis Ch. 5).

python examples/evaluate_saliency.py --output_dir out/saliency \\
    --run out/classifier-0 out/autoencoder-0 data/ist3-0 --run out/classifier-1 out/autoencoder-1 data/ist3-1 \\
    --acat out/acat-0 data/ist3-0_saliency --acat out/acat-1 data/ist3-1_saliency \\
    --options '{"rise": {"num_masks": 500}}' --randomise 4

A run is a seed: a classifier, an autoencoder and the data set whose test split is looked at. Every scan with a lesion
counts once: by its drawn lesion (`mask`), and with `--atlas` also by the territory that its reader named. `--acat`
gives each run the model trained on the maps in a folder: ACAT as its own classifier, the second round. `--randomise`
asks how like its map the map of a network with random weights is, on so many scans of the first run; `--noise_std`
how the variance of the pre-activations grows when noise is added to those scans.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.progress import track
from torch import nn

from difffuse_hf import ResNetAutoencoder
from difffuse_hf.data.cards import is_synthetic
from difffuse_hf.data.scans import load_scans
from difffuse_hf.errors import InputError, run_script
from difffuse_hf.evaluation.atlas import load_atlas, regions_of_scan, territory_mask
from difffuse_hf.evaluation.localisation import THESIS_POINTING_GAME, known_mask, localise
from difffuse_hf.evaluation.robustness import preactivation_variances, randomisation_check
from difffuse_hf.io.files import write_whole
from difffuse_hf.models.auto import load_classifier
from difffuse_hf.reporting.figures import REFERENCE, SALIENCY_COLOURS, crop_to_foreground, grey_window, overview_figure
from difffuse_hf.reporting.tables import (
    THESIS_HEADING,
    UNDEFINED,
    Column,
    Table,
    measures_table,
    write_tables,
)
from difffuse_hf.saliency.methods import METHODS, saliency_method

SECOND_ROUND = "acat_own_classifier"
CHANCE = {  # rows of the tables: what a map scores that is the same in the whole image, or in the head alone
    "chance, image": {"pointing": "chance", "pointing_slices": "chance_slices", "energy": "chance", "auprc": "chance"},
    "chance, head": {"pointing": "chance_head", "energy": "chance_head", "auprc": "chance_head"},
}
COLUMNS = [
    Column("pointing", "pointing game, %", 100),
    Column("pointing_slices", "pointing game by slice, %", 100),
    Column("energy", "energy inside, %", 100),
    Column("auprc", "AUPRC", digits=3),
]
SCANS = Column("scans", "scans", digits=0, best=None, spread=False)
SMALL_SIZES = (1, 2)  # of an infarct, IST-3's grades
LIKENESS = [
    Column("cascade_spearman", "ρ, all layers", best=None),
    Column("cascade_ssim", "SSIM, all layers", best=None),
    Column("independent_spearman", "ρ, one group", best=None),
    Column("independent_ssim", "SSIM, one group", best=None),
]


class Scan(NamedTuple):
    """A scan with a lesion: `image` ((S,) C, H, W), `saliency` for ACAT, and what is known of the lesion."""

    key: str
    image: torch.Tensor
    saliency: torch.Tensor | None
    label: int
    size: int | None
    mask: np.ndarray | None
    territory: np.ndarray | None


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    runs, scans_of_run, seen = [], [], None
    for number, (classifier, autoencoder, dataset) in enumerate(args.run):
        acat, maps = args.acat[number] if args.acat else (None, None)
        scans = load_lesions(dataset, maps, args)
        methods = make_methods(classifier, autoencoder, acat, args)
        pictures = {}  # of the scans of the figure
        runs.append({})
        for name, (method, model) in methods.items():
            runs[-1][name] = []
            for index, scan in enumerate(track(scans, f"run {number + 1}, {name}")):
                found = method(model, *batch_of(scan, args.device))[0].cpu()
                runs[-1][name].append(measure(scan, found, args.tolerance))
                if number == 0 and index in shown(scans, args.figure_scans):
                    pictures.setdefault(index, {})[name] = found
        scans_of_run.append([scan.key for scan in scans])
        seen = seen or (methods, scans, pictures)

    methods, scans, pictures = seen
    synthetic = any(is_synthetic(dataset) for _, _, dataset in args.run)
    where = f"split '{args.split}'" + (", synthetic data" if synthetic else "")
    tables = lesion_tables(runs, where)
    data = {"synthetic": synthetic, "arguments": vars(args), "scans": scans_of_run, "runs": runs}
    if args.randomise:
        data["randomised"] = randomised_maps(methods, scans[: args.randomise], args)
        tables.append(likeness_table(data["randomised"], args))
    if args.noise_std is not None:
        data["variances"] = noise_variances(methods, scans[: args.randomise or 4], args)
        tables.append(variance_table(data["variances"], args))
    output = Path(args.output_dir)
    write_tables(tables, data, output, "saliency")
    if pictures:
        write_whole(output / "saliency.png", lambda path: save_figure(scans, pictures, path))
    print(tables[0].markdown())
    print(f"All tables: {output / 'saliency.md'}")


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run", nargs=3, action="append", required=True, metavar=("CLASSIFIER", "AUTOENCODER", "DATASET")
    )
    parser.add_argument("--acat", nargs=2, action="append", default=[], metavar=("MODEL", "SALIENCY"),
                        help="one for each run, in the same order")  # fmt: skip
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD",
                        help=f"of {', '.join(METHODS)}; all by default")  # fmt: skip
    parser.add_argument("--options", type=json.loads, default={}, help="of the methods, JSON: {method: {name: value}}")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, help="scans of each run, evenly spaced; all by default")
    parser.add_argument("--target", choices=["label", "predicted"], default="label", help="class that is explained")
    parser.add_argument("--tolerance", type=float, default=0.0, help="pixels by which the maximum may miss")
    parser.add_argument("--atlas", help='NIfTI label map in MNI space, or "jhu" for the one in the package rapidtide')
    parser.add_argument("--randomise", type=int, default=0, metavar="SCANS", help="for the sanity checks; 0: none")
    parser.add_argument("--randomise_steps", type=int, default=8, help="groups of layers")
    parser.add_argument("--noise_std", type=float, help="of the noise, for the variances of pre-activations")
    parser.add_argument("--figure_scans", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the methods that draw at random, for every scan")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    if args.acat and len(args.acat) != len(args.run):
        parser.error(f"--acat is given once for each --run, got {len(args.acat)} for {len(args.run)} runs")
    unknown = [name for name in args.options if name not in METHODS]
    if unknown:
        parser.error(f"--options names {unknown[0]}; the methods are {', '.join(METHODS)}")
    return args


def load_lesions(dataset: str, saliency: str | None, args) -> list[Scan]:
    """Scans (or slices) of the split whose lesion is drawn, or whose territory the atlas knows; `--limit` of them."""
    rows = load_scans(dataset, args.split, saliency)
    atlas = args.atlas and load_atlas(None if args.atlas == "jhu" else args.atlas)
    sick = np.flatnonzero(np.asarray(rows["label"][:]) > 0)
    about = [name for name in ("infarct_size", "territory", "to_mni_mm", "source_slices") if name in rows.column_names]
    facts = rows.select_columns(about).with_format(None) if about else None
    masks = rows.select_columns(["mask"]).with_format("numpy") if "mask" in rows.column_names else None
    images = rows.with_format("torch", columns=[n for n in ("pixel_values", "saliency") if n in rows.column_names])

    def look(index: int) -> Scan | None:
        fact, tensors = (facts[index] if facts else {}), images[index]
        mask, territory = None if masks is None else known_mask(masks[index]), None
        if atlas and fact.get("territory"):
            row = {**fact, "pixel_values": tensors["pixel_values"]}
            territory = territory_mask(regions_of_scan(row, atlas), atlas, fact["territory"])
        if territory is not None and not territory.any():
            territory = None
        if mask is None and territory is None:
            return None
        image, given = tensors["pixel_values"], tensors.get("saliency")
        label, size = int(rows["label"][index]), fact.get("infarct_size")
        return Scan(rows["key"][index], image, given, label, size, mask, territory)

    known = [scan for scan in map(look, sick.tolist()) if scan is not None]
    if not known:
        raise InputError(
            f"No scan in the split '{args.split}' of {dataset} has a drawn lesion (column `mask`) or, with --atlas, a "
            "territory that the atlas knows; prepare the data set with masks."
        )
    if args.limit:
        known = [known[i] for i in np.linspace(0, len(known) - 1, min(args.limit, len(known))).round().astype(int)]
    return known


def make_methods(classifier: str, autoencoder: str, acat: str | None, args) -> dict[str, tuple[Callable, nn.Module]]:
    """{name: (method, model)}: `method(model, image, label, saliency)` gives the maps of a batch."""
    network = load_classifier(classifier).requires_grad_(False)
    autoencoder = ResNetAutoencoder.from_pretrained(autoencoder).eval().requires_grad_(False).to(args.device)
    num_labels = network.config.num_labels

    def make(name: str, guided: bool = False) -> Callable:
        def method(model, image, label, saliency):
            torch.manual_seed(args.seed)  # for SmoothGrad and RISE: every scan and every network gets the same noise
            target = label.clamp(max=num_labels - 1) if args.target == "label" else None  # two classes: lesion or not
            given = {"saliency": saliency} if guided else {}
            function = saliency_method(name, model, autoencoder, **args.options.get(name, {}))
            return function(image, target, **given)

        return method

    methods = {name: (make(name), network.to(args.device)) for name in args.methods}
    if acat:
        model = load_classifier(acat).requires_grad_(False).to(args.device)
        methods[SECOND_ROUND] = (make("class_agnostic_saliency", guided=True), model)
    return methods


def batch_of(scan: Scan, device: str) -> tuple:
    """Image, label and saliency of a scan as a batch of one."""
    saliency = None if scan.saliency is None else scan.saliency[None].to(device)
    return scan.image[None].to(device), torch.tensor([scan.label], device=device), saliency


def measure(scan: Scan, saliency: torch.Tensor, tolerance: float) -> dict:
    """What is said of one map, the lesion's measures and, with `territory_` before them, the territory's."""
    measures = {"infarct_size": scan.size}
    for region, prefix in ((scan.mask, ""), (scan.territory, "territory_")):
        if region is not None:
            measures |= localise(saliency, region, scan.image, tolerance, prefix)
    return measures


def lesion_tables(runs: list[dict], where: str) -> list[Table]:
    """All lesions, small ones, and territories, each where there are any, with the two levels of chance as rows."""
    tables = []
    for caption, prefix, sizes in (
        (f"Maps against the drawn lesion: {where}.", "", None),
        (f"Small lesions only (infarct size {' and '.join(map(str, SMALL_SIZES))}): {where}.", "", SMALL_SIZES),
        (f"Maps against the territory that the reader named: {where}.", "territory_", None),
    ):
        results = {}
        for run in runs:
            for name, scans in run.items():
                chosen = [s for s in scans if prefix + "pointing" in s and (not sizes or s["infarct_size"] in sizes)]
                if chosen:
                    for row, measures in {name: {one.measure: one.measure for one in COLUMNS}, **CHANCE}.items():
                        means = {
                            ours: np.mean([s[prefix + theirs] for s in chosen]) for ours, theirs in measures.items()
                        }
                        results.setdefault(row, {})[id(run)] = {**means, "scans": len(chosen)}
        if results:
            rows, chance = {}, {}
            for name, seeds in results.items():
                (chance if name in CHANCE else rows)[name] = list(seeds.values())
            table = measures_table(rows, [*COLUMNS, SCANS], caption)
            table.rows += measures_table(chance, [*COLUMNS, SCANS], caption).rows  # never the best, never bold
            tables.append(table if sizes or prefix else with_thesis(table))
    return tables


def with_thesis(table: Table) -> Table:
    """The thesis's figures in a column of their own, after the pointing game."""
    rows = []
    for row in table.rows:
        figure = THESIS_POINTING_GAME.get(row[0])
        rows.append([*row[:2], UNDEFINED if figure is None else f"{figure:.2f}", *row[2:]])
    head = [*table.head[:2], f"pointing game, {THESIS_HEADING}", *table.head[2:]]
    return Table(table.caption, head, rows, {(i, j + (j >= 2)) for i, j in table.bold})


def randomised_maps(methods: dict, scans: list[Scan], args) -> dict[str, list[dict]]:
    """{method: the steps of both modes for each scan}."""
    checks = {}
    for name, (method, model) in methods.items():
        checks[name] = []
        for scan in track(scans, f"randomised, {name}"):
            image, label, saliency = batch_of(scan, args.device)
            given = saliency if name == SECOND_ROUND else None

            def maps(network, batch, method=method, label=label, saliency=saliency):
                return method(network, batch, label, saliency)

            checks[name].append(
                {
                    mode: randomisation_check(maps, model, image, given, mode, args.randomise_steps)
                    for mode in ("cascade", "independent")
                }
            )
    return checks


def likeness_table(checks: dict[str, list[dict]], args) -> Table:
    """Maps of the trained network against those of the wholly random one, and the mean over one random group."""
    results = {}
    for name, scans in checks.items():
        results[name] = [
            {
                f"{mode}_{measure}": np.mean([s[mode][-1][measure] if mode == "cascade" else
                                              np.mean([step[measure] for step in s[mode]])])
                for mode in ("cascade", "independent")
                for measure in ("spearman", "ssim")
            }
            for s in scans
        ]  # fmt: skip
    caption = (
        "Likeness of the maps of the trained network and of one with random weights (1: the map does not see the "
        f"weights), {args.randomise_steps} groups of layers; each scan counts as one of the seeds."
    )
    return measures_table(results, LIKENESS, caption)


def noise_variances(methods: dict, scans: list[Scan], args) -> dict[str, list[dict]]:
    """{classifier: its stages} of the first run's classifier, and of ACAT."""
    images = torch.stack([scan.image for scan in scans]).to(args.device)
    variances = {}
    for name, (_, model) in methods.items():
        key = "ACAT" if name == SECOND_ROUND else "classifier"
        if key not in variances and model.num_stages:
            maps = torch.stack([scan.saliency for scan in scans]).to(args.device) if key == "ACAT" else None
            variances[key] = preactivation_variances(model, images, args.noise_std, maps)
    return variances


def variance_table(variances: dict[str, list[dict]], args) -> Table:
    rows = [
        [name, str(step["stage"]), *(f"{step[key]:.4g}" for key in ("clean", "noisy", "ratio"))]
        for name, stages in variances.items()
        for step in stages
    ]
    caption = f"Variance of the pre-activations without and with noise of standard deviation {args.noise_std:g}."
    return Table(caption, ["network", "stage", "clean", "noisy", "ratio"], rows)


def shown(scans: list[Scan], count: int) -> list[int]:
    """Scans of the figure, evenly spread over those whose lesion is drawn."""
    drawn = [index for index, scan in enumerate(scans) if scan.mask is not None]
    if not drawn or count < 1:
        return []
    return [drawn[i] for i in np.linspace(0, len(drawn) - 1, min(count, len(drawn))).round().astype(int)]


def save_figure(scans: list[Scan], pictures: dict[int, dict[str, torch.Tensor]], path: Path) -> None:
    """A row per scan: the slice with most of the lesion, and every method's map on it, the lesion outlined."""
    rows = []
    for index, maps in pictures.items():
        scan = scans[index]
        image, mask = (
            array.reshape(-1, *array.shape[-2:]) for array in (scan.image[..., :1, :, :].numpy(), scan.mask)
        )
        best = int(mask.sum((1, 2)).argmax())
        down, right = crop_to_foreground(image[best][None, None])
        window = {"image": image[best][down, right], "white": grey_window(image[best])}
        window["outlines"] = [(mask[best][down, right], REFERENCE)]
        tiles = [window]
        for found in maps.values():
            plane = found.reshape(-1, *found.shape[-2:])[best].numpy()[down, right]
            tiles.append({**window, "colour": plane, "colours": SALIENCY_COLOURS, "opacity": 0.65})
        rows.append((f"{scan.key[:8]}, slice {best}", tiles))
    columns = ["image", *(name.replace("_", " ") for name in next(iter(pictures.values())))]
    bars = [(SALIENCY_COLOURS, 1.0, "saliency; 1 is the maximum of the scan")]
    overview_figure(rows, columns, "Saliency maps", bars, {"lesion": REFERENCE}, path)


if __name__ == "__main__":
    run_script(main)
