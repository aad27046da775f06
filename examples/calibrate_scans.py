"""Choose how a saved Dif-fuse model looks at the slices of a scan together, and its threshold, on whole scans.

python examples/calibrate_scans.py out/difffuse --cases data/phantom/validation --output_dir out/calibrated \
    --rules '[{}, {"smoothing_mm": 4, "together": true, "neighbour_probability": 0.5}]'

`calibrate_pipeline.py` chooses a schedule and a map on slices; this goes on from there, with scans (folders with
drawn lesions, of anatomies or patients that nothing was trained on) and exactly what `difffuse detect` does. Every
rule (values of `ScanRule`, and `percentile`) is run on every scan; those that differ in what counts alone
(`peak_saliency`, `peak_anomaly`, `peak_share`) share a run. The one with the best mean Dice over the scans with a
lesion, each scan at its own threshold where the rule says so (`peak_share`) and else all at the best one, is kept for
`--preset`; the first is what it is compared with. Thresholds for shares of healthy brain are of the brain outside the
drawn lesions. What is finished is kept in --scores: after an interrupt, repeat the command.
"""

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from difffuse_hf import DifFusePipeline, __version__
from difffuse_hf.detection.load import load_model
from difffuse_hf.detection.repainted import repaint_volume
from difffuse_hf.detection.run import MODEL_FILES, fingerprint_of
from difffuse_hf.detection.sources import files_of, read_source
from difffuse_hf.errors import InputError, run_script
from difffuse_hf.evaluation.anomaly import HEALTHY_SHARE
from difffuse_hf.evaluation.lesions import dice_of_counts, reached, share_threshold
from difffuse_hf.evaluation.statistics import mean_and_error
from difffuse_hf.io.files import complete_folder, write_whole
from difffuse_hf.io.hub import model_folder
from difffuse_hf.pipelines.calibration import Calibration, ScanRule
from difffuse_hf.pipelines.presets import PRESETS

OF_PIECES = ("peak_saliency", "peak_anomaly", "peak_share")  # what counts of the networks' work
ONE_SIGMA = 1.0  # of a map in standard deviations
REACH, STEPS = 4.0, 121  # thresholds from a quarter of the one that slices gave to four times it


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    source = model_folder(args.model)
    pipeline, _ = load_model(source, args.device)
    assert pipeline.processor is not None  # `load_model` has looked
    plan = starting_from(pipeline.calibration(args.preset), args.model)
    cases = [case for folder in args.cases for case in cases_in(folder)]
    thresholds = plan.threshold * REACH ** np.linspace(-1, 1, STEPS)
    plans = [rule_of(plan, values) for values in args.rules]
    weights = sorted(file for file in source.rglob("*") if file.suffix in MODEL_FILES)
    model = fingerprint_of(weights, json.dumps([__version__, args.preset, args.seed]))
    kept = json.loads(args.scores.read_text()) if args.scores.exists() else {}
    counts = np.zeros((len(plans), len(cases), 4, STEPS + 1))
    for number, folder in enumerate(cases):
        scan = fingerprint_of(files_of(folder, pipeline.processor)[1], model)
        names = [f"{scan} {json.dumps(of_plan(one))}" for one in plans]
        missing = [one for one, name in zip(plans, names) if name not in kept]
        for one, found in score(pipeline, folder, args.preset, missing, thresholds, args.seed):
            kept[f"{scan} {json.dumps(of_plan(one))}"] = found.tolist()
            args.scores.parent.mkdir(parents=True, exist_ok=True)
            write_whole(args.scores, lambda file: file.write_text(json.dumps(kept)))
        counts[:, number] = [kept[name] for name in names]
        for one, found in zip(plans, counts[:, number]):
            dice = dice_of_counts(found) if found[2].any() else np.full(STEPS + 1, np.nan)
            its = f"Dice {dice[-1]:.3f}" if one.scan.peak_share else f"best Dice {dice[:-1].max():.3f}"
            print(f"{folder.name}  {json.dumps(of_plan(one))}: {its}", flush=True)
    chosen = choose(plans, counts, thresholds, args.false_positives)
    pipeline.processor.calibrations = {**pipeline.processor.calibrations, args.preset: chosen.to_dict()}
    with complete_folder(args.output_dir) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        pipeline.processor.save_pretrained(folder / "processor")
    print(f"Saved {args.output_dir}. Chosen by {chosen.chosen_by}.")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model folder, a Hub repository user/name, or demo")
    parser.add_argument("--cases", type=Path, nargs="+", required=True, help="folders of scans with drawn lesions")
    parser.add_argument("--output_dir", type=Path, required=True, help="where the calibrated model goes")
    parser.add_argument("--scores", type=Path, help="JSON file of what is finished; OUTPUT_DIR.scores.json by default")
    parser.add_argument("--preset", choices=list(PRESETS), default="fast")
    parser.add_argument("--rules", type=json.loads, required=True, help="values of each rule, a JSON list of objects")
    parser.add_argument("--false_positives", type=float, nargs="*", default=[HEALTHY_SHARE], metavar="SHARE",
                        help="calibrate thresholds that so much healthy brain reaches")  # fmt: skip
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    args.scores = args.scores or args.output_dir.with_name(f"{args.output_dir.name}.scores.json")
    return args


def starting_from(plan: Calibration, model: str) -> Calibration:
    """A plan with a threshold to search around: that of its slices, or one standard deviation where they had none.

    Raises:
        InputError: the model has not been calibrated on slices.
    """
    if plan.threshold:
        return plan
    if plan.recipe is None or plan.recipe.sample_noise is None:
        raise InputError(f"{model} has no threshold of slices to start from; run calibrate_pipeline.py first.")
    return replace(plan, threshold=ONE_SIGMA)


def cases_in(folder: Path) -> list[Path]:
    """The case folders in a folder, in order.

    Raises:
        InputError: there is no such folder, or none in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give one that holds scans with drawn lesions.")
    cases = sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
    if not cases:
        raise InputError(f"{folder} holds no case folders; give a folder of scans with drawn lesions.")
    return cases


def rule_of(plan: Calibration, values: dict) -> Calibration:
    """A plan with a percentile and rule in place of its own, which stand where the values name none.

    Raises:
        InputError: there is no such value.
    """
    values = dict(values)
    percentile = values.pop("percentile", plan.percentile)
    try:
        return replace(plan, percentile=percentile, scan=replace(plan.scan or ScanRule(), **values))
    except TypeError as error:
        raise InputError(f"--rules has an unknown name ({error}); give those of a ScanRule, or percentile.") from error


def of_plan(plan: Calibration) -> dict:
    """What the rules vary."""
    return {"percentile": plan.percentile, **plan.to_dict()["scan"]}


def of_networks(plan: Calibration) -> dict:
    """What of it the networks' work depends on."""
    return {name: value for name, value in of_plan(plan).items() if name not in OF_PIECES}


def in_words(plan: Calibration) -> str:
    """What the rules vary, for a sentence."""
    plain = plan.scan in (None, ScanRule())
    return f"percentile {plan.percentile:g} of each slice by itself" if plain else json.dumps(of_plan(plan))


def score(
    pipeline: DifFusePipeline,
    folder: Path,
    preset: str,
    plans: Sequence[Calibration],
    thresholds: np.ndarray,
    seed: int,
) -> Iterator[tuple[Calibration, np.ndarray]]:
    """Voxels of a scan that reach each threshold and, last, the scan's own, see `reached`, by each of the plans; those
    that differ in what counts share what the networks made."""
    if not plans:
        return
    assert pipeline.processor is not None
    case, _ = read_source(folder, pipeline.processor)
    if case.reference is None:
        raise InputError(f"{folder} has no drawn lesion (a reference that is empty, for a scan without one).")
    before, made, last = pipeline.processor.calibrations, None, None
    try:
        for plan in sorted(plans, key=lambda one: json.dumps(of_networks(one))):
            pipeline.processor.calibrations = {**before, preset: plan.to_dict()}
            if made is None or of_networks(plan) != last:
                made = repaint_volume(pipeline, case, preset, seed=seed, progress=False, display_steps=0)
                last = of_networks(plan)
            counted = made.anomaly_in_pieces(plan.scan)
            own = made.threshold(counted, plan.scan, thresholds[-1])
            anomaly, brain = made.restore(counted), made.geometry.tissue > 0
            yield plan, reached(anomaly, case.reference > 0, brain, np.append(thresholds, own))
    finally:
        pipeline.processor.calibrations = before


def choose(
    plans: Sequence[Calibration], counts: np.ndarray, thresholds: np.ndarray, shares: Sequence[float]
) -> Calibration:
    """The rule and threshold with the best mean Dice over the scans with a lesion, and thresholds for the shares.

    Args:
        plans: of each rule.
        counts (`np.ndarray` of shape `(rules, scans, 4, thresholds + 1)`): of `reached`; the last is at the threshold
            that a rule gives each scan.
    """
    sick = counts[0, :, 2, 0] > 0  # scans
    if not sick.any():
        raise InputError("None of the scans has a drawn lesion, so nothing can be chosen.")
    dice = np.stack([[dice_of_counts(scan) for scan in rule[sick]] for rule in counts])  # (rules, scans, T + 1)
    ends = dice.mean(1)[:, :-1].argmax(1)  # of each rule, the best threshold that is the same for all
    scored = np.stack([one[:, -1 if plan.scan.peak_share else end] for plan, one, end in zip(plans, dice, ends)])
    best = int(scored.mean(1).argmax())
    by = f"{sick.sum()} whole scans with a lesion and {(~sick).sum()} without: mean Dice {scored[best].mean():.3f}"
    if len(plans) > 1:
        gain, error, _ = mean_and_error(scored[best] - scored[0])
        by += f", {gain:+.3f}{'' if error is None else f' ± {error:.3f}'} over {in_words(plans[0])}"
    limits = {f"{share:g}": share_threshold(counts[best, ..., :-1], thresholds, share) for share in shares}
    chosen = plans[best]
    return replace(
        chosen,
        threshold=float(thresholds[ends[best]]),
        false_positive_thresholds=limits,
        chosen_by=f"{chosen.chosen_by}; then {by}" if chosen.chosen_by else by,
    )


if __name__ == "__main__":
    run_script(main)
