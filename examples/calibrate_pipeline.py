"""Choose the schedule and the anomaly map of a saved Dif-fuse model together, on the validation split of a data set.

python examples/calibrate_pipeline.py out/difffuse --dataset data/brats_slices --output_dir out/calibrated \
    --grid '{"noise_level": [350, 500], "num_inference_steps": [3, 5], "percentile": [90, 95]}'

Every schedule of the grid is run once, every map of it is scored, and the cheapest that is as good as the best is kept
for `--preset`, with its thresholds: `difffuse detect` uses exactly what was chosen. Without `--output_dir` the model's
own processor is replaced. Data with image labels only is calibrated by its healthy slices: `--labels_only
--false_positives 0.01`. The threshold with the best Dice over slices with a lesion flags much of a scan that has few
of them; `--healthy_threshold` takes the one that 1 % of healthy brain reaches, and `--label_threshold` the one whose
Dice is the best that image labels let one estimate (see `label_threshold`), without any drawn lesion. A model that
will see other scanners than its training data had (one trained on synthetic subjects, say) is better chosen with
`--scanner_spread 0.35`.
"""

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

from difffuse_hf import DifFusePipeline
from difffuse_hf.data.slices import load_slices
from difffuse_hf.detection.load import load_model
from difffuse_hf.errors import InputError, run_script
from difffuse_hf.evaluation.anomaly import HEALTHY_SHARE, Slices, as_slices
from difffuse_hf.evaluation.calibration import LESION_SIGNS, Choice, as_other_scanners, decide, schedules, search
from difffuse_hf.io.files import complete_folder
from difffuse_hf.io.hub import model_folder
from difffuse_hf.pipelines.calibration import Calibration
from difffuse_hf.pipelines.presets import PRESETS


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model folder, a Hub repository user/name, or demo")
    parser.add_argument("--dataset", required=True, help="with a validation split of both classes")
    parser.add_argument(
        "--output_dir", type=Path, help="where the calibrated model goes; the model's own folder by default"
    )
    parser.add_argument("--preset", choices=list(PRESETS), default="fast")
    parser.add_argument("--grid", type=json.loads, default={}, help="values of the preset's settings to try, as JSON")
    parser.add_argument("--max_calls", type=float, default=30.0, help="of the U-Net, an image")
    parser.add_argument("--lesion_signs", type=json.loads, default=LESION_SIGNS,
                        help="1 where lesions are brighter than healthy tissue, -1 where darker, as JSON")  # fmt: skip
    parser.add_argument("--false_positives", type=float, nargs="*", default=[HEALTHY_SHARE], metavar="SHARE",
                        help="calibrate thresholds that so much healthy brain reaches")  # fmt: skip
    parser.add_argument("--labels_only", action="store_true", help="use no drawn lesion")
    parser.add_argument("--healthy_threshold", action="store_true",
                        help="take the first of --false_positives for the threshold")  # fmt: skip
    parser.add_argument("--label_threshold", action="store_true",
                        help="take the threshold whose Dice, estimated from image labels, is the best")  # fmt: skip
    parser.add_argument("--scanner_spread", type=float, default=0.0,
                        help="vary the contrast of the validation slices, see `as_other_scanners`")  # fmt: skip
    parser.add_argument("--channels", type=int, nargs="*",
                        help="every other slice keeps these channels only, as a scan that lacks some")  # fmt: skip
    parser.add_argument("--limit", type=int, help="validation slices of each class; all by default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)

    if args.healthy_threshold and args.label_threshold:
        parser.error("--healthy_threshold and --label_threshold choose one threshold each; give one of them")
    source = model_folder(args.model)
    pipeline, _ = load_model(source, args.device)  # in the precision that `difffuse detect` computes in
    validation = as_slices(load_slices(args.dataset, "validation"), "validation", args.limit)
    validation = as_other_scanners(validation, args.scanner_spread, args.seed).given(args.channels, every=2)
    chosen = calibrate(pipeline, validation, args)
    pipeline.processor.calibrations = {**pipeline.processor.calibrations, args.preset: chosen.to_dict()}
    with complete_folder(args.output_dir or source) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        pipeline.processor.save_pretrained(folder / "processor")
    print(f"Saved {args.output_dir or source}. Chosen by {chosen.chosen_by}.")


def calibrate(pipeline: DifFusePipeline, validation: Slices, args: argparse.Namespace) -> Calibration:
    """What is chosen for the preset; prints a line for each schedule with its best map."""
    diseased = validation.with_lesion() if args.labels_only else validation.with_drawn_lesion()
    healthy = validation.select(validation.labels == 0)
    choices: list[Choice] = []
    for found in search(
        pipeline,
        schedules(pipeline, args.preset, args.grid),
        diseased,
        healthy,
        args.lesion_signs,
        args.false_positives,
        with_masks=not args.labels_only,
        seed=args.seed,
    ):
        print(describe(found[0]), flush=True)
        choices += found
    best = decide(choices, args.max_calls)
    print("Chosen:", describe(best))
    what = "share of the brain flagged in slices with a lesion" if args.labels_only else "Dice"
    varied = f", contrast varied by {args.scanner_spread:g}" if args.scanner_spread else ""
    varied += "" if args.channels is None else f", every other one with the channels {args.channels} alone"
    by = (
        f"{len(diseased.images)} slices with a lesion and {len(healthy.images)} without of the validation split"
        f"{varied}: {what} {best.score:.3f}, {best.calls:.1f} network calls an image"
    )
    if args.healthy_threshold:
        share = args.false_positives[0]
        by += f"; threshold: {share:.0%} of healthy brain reaches it"
        return replace(best.calibration, chosen_by=by, threshold=best.calibration.threshold_for(share))
    if args.label_threshold:
        if best.by_labels is None:
            raise InputError("Slices with a lesion are flagged no more than healthy ones; labels choose no threshold.")
        return replace(best.calibration, chosen_by=f"{by}; threshold by image labels", threshold=best.by_labels)
    return replace(best.calibration, chosen_by=by)


def describe(choice: Choice) -> str:
    """A line about a schedule with a map."""
    plan = choice.calibration.to_dict()
    values = {"noise_level": plan["noise_level"], "percentile": plan["percentile"], **plan["settings"]}
    return f"{choice.score:.3f}  {choice.calls:5.1f} calls  {json.dumps(values)}  {json.dumps(plan['recipe'])}"


if __name__ == "__main__":
    run_script(main)
