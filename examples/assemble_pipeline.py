"""Put the trained networks together as one Dif-fuse model, and choose its thresholds on the validation split.

python examples/assemble_pipeline.py --dataset data/brats_slices --classifier out/classifier \
    --autoencoder out/autoencoder --diffusion out/diffusion --output_dir out/difffuse

The anomaly threshold is the one with the best mean Dice over validation slices with a lesion; the threshold on the
lesion probability, under which `difffuse detect` leaves a slice as it is, lets through `--sensitivity` of them.

With `--calibrate PRESET` schedule and anomaly map are chosen together for that preset, from `--grid` and within
`--max_calls`, such as

    --calibrate fast --grid '{"noise_level": [350, 500], "num_inference_steps": [3, 5], "percentile": [90, 95]}'

Data with image labels only is calibrated by its healthy slices: `--labels_only --false_positives 0.01`.
"""

import argparse
import copy
import json
from dataclasses import replace
from pathlib import Path

import torch

from difffuse_hf import DifFusePipeline, DifFuseProcessor, DifFuseScheduler, ResNetAutoencoder, SliceClassifier
from difffuse_hf.data.slices import load_slices
from difffuse_hf.detection.load import fastest_dtype, to_fastest
from difffuse_hf.errors import InputError, run_script
from difffuse_hf.evaluation.anomaly import Slices, as_slices, choose_threshold, false_positive_threshold, run_method
from difffuse_hf.evaluation.calibration import Choice, schedules, search
from difffuse_hf.io.files import complete_folder
from difffuse_hf.io.model_card import model_card, write_model_card
from difffuse_hf.models.unet import UNet2DModel
from difffuse_hf.pipelines.presets import PRESETS


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("dataset", "classifier", "autoencoder", "diffusion", "output_dir"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--preset", default="exact")
    parser.add_argument("--noise_level", type=int, default=500)
    parser.add_argument("--percentile", type=float, default=90.0)
    parser.add_argument("--percentile_over", choices=["image", "foreground"], default="image")
    parser.add_argument("--anomaly_channels", type=int, nargs="*", help="channels of the anomaly map; all by default")
    parser.add_argument("--morphology_size", type=int, default=5)
    parser.add_argument("--saliency_options", type=json.loads, default={}, help="of class_agnostic_saliency, as JSON")
    parser.add_argument("--sensitivity", type=float, default=0.95)
    parser.add_argument("--false_positives", type=float, nargs="*", default=[], metavar="SHARE",
                        help="calibrate thresholds that so much healthy brain reaches, such as 0.01")  # fmt: skip
    parser.add_argument(
        "--calibrate", metavar="PRESET", choices=list(PRESETS), help="choose its schedule and map, too"
    )
    parser.add_argument("--grid", type=json.loads, default={}, help="values of the preset's settings to try, as JSON")
    parser.add_argument("--max_calls", type=float, default=30.0, help="of the U-Net, an image")
    parser.add_argument("--lesion_signs", type=json.loads, default={"flair": 1, "t2": 1, "ct": -1},
                        help="1 where lesions are brighter than healthy tissue, -1 where darker, as JSON")  # fmt: skip
    parser.add_argument("--labels_only", action="store_true", help="use no drawn lesion")
    parser.add_argument("--limit", type=int, help="validation slices of each class; all by default")
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32", help="of the saved weights")
    parser.add_argument("--training_data", default="Not stated.", help="a sentence for the model card")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)

    if args.labels_only and not args.false_positives:
        parser.error("--labels_only needs --false_positives, the share of healthy brain that may be flagged")
    pipeline = DifFusePipeline(
        unet=UNet2DModel.from_pretrained(args.diffusion, subfolder="unet"),
        scheduler=DifFuseScheduler.from_pretrained(args.diffusion, subfolder="scheduler"),
        classifier=SliceClassifier.from_pretrained(args.classifier).eval(),
        autoencoder=ResNetAutoencoder.from_pretrained(args.autoencoder),
        processor=DifFuseProcessor.from_pretrained(args.dataset),
        noise_level=args.noise_level,
        percentile=args.percentile,
        percentile_over=args.percentile_over,
        anomaly_channels=args.anomaly_channels,
        morphology_size=args.morphology_size,
        saliency_options=args.saliency_options,
        preset=args.preset,
    ).to("cuda" if torch.cuda.is_available() else "cpu")

    validation = as_slices(load_slices(args.dataset, "validation"), "validation", args.limit)
    sick = validation.labels == 1
    with torch.no_grad():
        logits = torch.cat(
            [pipeline.classifier(part.to(pipeline.device)).logits.cpu() for part in validation.images.split(64)]
        )
    probability = logits.softmax(1)[:, 1]
    pipeline.processor.lesion_probability_threshold = float(probability[sick].quantile(1 - args.sensitivity))
    specificity = float((probability[~sick] < pipeline.processor.lesion_probability_threshold).float().mean())

    trained = pipeline.unet
    pipeline.unet = to_fastest(copy.deepcopy(trained), fastest_dtype(pipeline.device))  # as `difffuse detect` will
    scores = set_thresholds(pipeline, validation, args)
    if args.calibrate:
        scores |= calibrate(pipeline, validation, args)
    pipeline.unet = trained
    card = model_card(
        name=Path(args.output_dir).name,
        description=(
            f"A Dif-fuse model for slices of {', '.join(pipeline.processor.modalities)}: it makes their healthy "
            "counterfactual and a pixel-wise anomaly map."
        ),
        training_data=args.training_data,
        scores={
            **scores,
            "sensitivity, validation slices, at the saved lesion probability": args.sensitivity,
            "specificity, the same": specificity,
        },
        repo_id=args.output_dir,
    )
    for network in (pipeline.unet, pipeline.classifier, pipeline.autoencoder):
        torch.nn.Module.to(network, dtype=getattr(torch, args.dtype))
    with complete_folder(Path(args.output_dir)) as folder:
        pipeline.save_pretrained(folder)
        write_model_card(folder, card)
    print(
        f"Saved {args.output_dir}. Validation, {int(sick.sum())} slices with a lesion: "
        + "".join(f"{what}: {value:.3f}; " for what, value in scores.items())
        + f"{args.sensitivity:.0%} of them pass at lesion probability "
        f"{pipeline.processor.lesion_probability_threshold:.3f}, {1 - specificity:.1%} of the healthy slices do too."
    )


def set_thresholds(pipeline: DifFusePipeline, validation: Slices, args: argparse.Namespace) -> dict[str, float]:
    """The anomaly thresholds of the model's preset with the thesis's map; returns what it scores."""
    healthy, scores = validation.select(validation.labels == 0), {}
    if args.false_positives:
        maps, _ = run_method(pipeline, healthy.images, args.seed, label="Healthy slices", display_steps=0)
        pipeline.processor.false_positive_thresholds = {
            f"{share:g}": false_positive_threshold(maps, healthy, share).value for share in args.false_positives
        }
    if args.labels_only:
        pipeline.processor.anomaly_threshold = pipeline.processor.threshold_for(args.false_positives[0])
        return scores
    known = validation.with_lesion()
    maps, _ = run_method(pipeline, known.images, args.seed, label="Validation slices", display_steps=0)
    threshold = choose_threshold(maps, known)
    pipeline.processor.anomaly_threshold = threshold.value
    return {"Dice, validation slices with a lesion, anomaly threshold chosen on them": threshold.dice}


def calibrate(pipeline: DifFusePipeline, validation: Slices, args: argparse.Namespace) -> dict[str, float]:
    """Schedule, map and thresholds of a preset, chosen together and kept in the processor; returns what they score."""
    diseased, healthy = (validation.select(validation.labels == label) for label in (1, 0))
    plans = schedules(pipeline, args.calibrate, args.grid)
    choices = []
    for found in search(
        pipeline, plans, diseased, healthy, args.lesion_signs, args.false_positives, not args.labels_only, args.seed
    ):
        print(describe(found[0]), flush=True)
        choices.append(found[0])
    affordable = [choice for choice in choices if choice.calls <= args.max_calls]
    if not affordable:
        raise InputError(
            f"No schedule of the grid stays within {args.max_calls:g} network calls an image; raise --max_calls."
        )
    best = max(affordable, key=lambda choice: choice.score)
    what = "share of the brain flagged in slices with a lesion" if args.labels_only else "Dice"
    by = (
        f"{len(diseased.images)} slices with a lesion and {len(healthy.images)} without of the split 'validation'; "
        f"{what} there {best.score:.3f}, {best.calls:.1f} network calls an image"
    )
    chosen = replace(best.calibration, chosen_by=by)
    pipeline.processor.calibrations = {**pipeline.processor.calibrations, args.calibrate: chosen.to_dict()}
    return {f"{what}, the same, calibrated preset `{args.calibrate}`": best.score}


def describe(choice: Choice) -> str:
    """A line about a schedule with its best map."""
    plan = choice.calibration
    values = {"noise_level": plan.noise_level, "percentile": plan.percentile, **plan.to_dict()["settings"]}
    return (
        f"{choice.score:.3f}  {choice.calls:5.1f} calls  {json.dumps(values)}  {json.dumps(plan.to_dict()['recipe'])}"
    )


if __name__ == "__main__":
    run_script(main)
