"""Put the trained networks together as one Dif-fuse model, and choose its thresholds on the validation split.

python examples/assemble_pipeline.py --dataset data/brats_slices --classifier out/classifier \
    --autoencoder out/autoencoder --diffusion out/diffusion --output_dir out/difffuse

The anomaly threshold is the one with the best mean Dice over validation slices with a drawn lesion, or where none is
drawn that of the first share of `--false_positives`; the threshold on the lesion probability, under which `difffuse
detect` leaves a slice as it is, lets through `--sensitivity` of the slices with a lesion.
"""

import argparse
import copy
import json
from math import isfinite, isnan
from pathlib import Path

import torch

from difffuse_hf import DifFusePipeline, DifFuseProcessor, DifFuseScheduler, ResNetAutoencoder, SliceClassifier
from difffuse_hf.data.slices import load_slices
from difffuse_hf.errors import run_script
from difffuse_hf.evaluation.anomaly import (
    Slices,
    Threshold,
    as_slices,
    choose_threshold,
    false_positive_threshold,
    run_method,
)
from difffuse_hf.io.files import complete_folder
from difffuse_hf.io.model_card import model_card, write_model_card
from difffuse_hf.models.precision import fastest_dtype, to_fastest
from difffuse_hf.models.unet import load_unet

UNDRAWN = "not known: no lesion is drawn"


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
    parser.add_argument("--limit", type=int, help="validation slices of each class; all by default")
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32", help="of the saved weights")
    parser.add_argument("--training_data", default="Not stated.", help="a sentence for the model card")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--optional_modalities", nargs="*", default=[],
                        help="that scans may lack, for networks trained with --modality_dropout")  # fmt: skip
    args = parser.parse_args(argv)

    processor = DifFuseProcessor.from_pretrained(args.dataset)
    processor.optional_modalities = tuple(args.optional_modalities)
    pipeline = DifFusePipeline(
        unet=load_unet(Path(args.diffusion, "unet")),
        scheduler=DifFuseScheduler.from_pretrained(args.diffusion, subfolder="scheduler"),
        classifier=SliceClassifier.from_pretrained(args.classifier).eval(),
        autoencoder=ResNetAutoencoder.from_pretrained(args.autoencoder),
        processor=processor,
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
    for some in (validation.with_lesion, validation.without_lesion):
        some()  # or a sentence says that there is none
    probability = torch.cat(
        [pipeline.lesion_probability(part.to(pipeline.device)).cpu() for part in validation.images.split(64)]
    )
    pipeline.processor.lesion_probability_threshold = float(probability[sick].quantile(1 - args.sensitivity))
    specificity = float((probability[~sick] < pipeline.processor.lesion_probability_threshold).float().mean())

    trained = pipeline.unet
    pipeline.unet = to_fastest(copy.deepcopy(trained), fastest_dtype(pipeline.device))  # as `difffuse detect` will
    threshold = choose(pipeline, validation, args)
    pipeline.unet = trained
    pipeline.processor.anomaly_threshold = threshold.value if isfinite(threshold.value) else None  # of maps of zeros
    card = model_card(
        name=Path(args.output_dir).name,
        description=(
            f"A Dif-fuse model for slices of {pipeline.processor.recipe.kind} "
            f"({', '.join(pipeline.processor.modalities)}): it makes their healthy counterfactual and a pixel-wise "
            "anomaly map."
        ),
        training_data=args.training_data,
        scores={
            "Dice, validation slices with a lesion, anomaly threshold chosen on them": UNDRAWN
            if isnan(threshold.dice)
            else threshold.dice,
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
        f"Saved {args.output_dir}. Validation, {int(sick.sum())} slices with a lesion: {in_words(threshold)}; "
        f"{args.sensitivity:.0%} of them pass at lesion probability "
        f"{pipeline.processor.lesion_probability_threshold:.3f}, {1 - specificity:.1%} of the healthy slices do too."
    )


def in_words(threshold: Threshold) -> str:
    """Such as "Dice 0.612 at the anomaly threshold 0.0412"."""
    found = f"Dice {UNDRAWN}" if isnan(threshold.dice) else f"Dice {threshold.dice:.3f}"
    chosen = isfinite(threshold.value)
    return f"{found} " + (
        f"at the anomaly threshold {threshold.value:.4f}" if chosen else "and no anomaly threshold, for all maps are 0"
    )


def choose(pipeline: DifFusePipeline, validation: Slices, args: argparse.Namespace) -> Threshold:
    """The anomaly threshold, with a Dice of NaN where no lesion is drawn; those for false positives are set, too."""
    threshold = None
    if validation.drawn.any() or not args.false_positives:
        known = validation.with_drawn_lesion()
        maps, _ = run_method(pipeline, known.images, args.seed, label="Validation slices", display_steps=0)
        threshold = choose_threshold(maps, known)
    limits = {}
    if args.false_positives:
        healthy = validation.without_lesion()
        maps, _ = run_method(pipeline, healthy.images, args.seed, label="Healthy slices", display_steps=0)
        limits = {share: false_positive_threshold(maps, healthy, share) for share in args.false_positives}
        pipeline.processor.false_positive_thresholds = {f"{share:g}": one.value for share, one in limits.items()}
    return threshold or limits[args.false_positives[0]]


if __name__ == "__main__":
    run_script(main)
