"""Put trained networks together as every method of Table 6.1, each tuned on the validation split.

python examples/assemble_competitors.py --dataset data/slices --output_dir out/methods --num_inference_steps 50 \\
    --classifier out/classifier --autoencoder out/autoencoder --diffusion out/diffusion \\
    --simplex out/diffusion_simplex --conditional out/diffusion_conditional \\
    --noisy_classifier out/noisy_classifier --denoising_autoencoder out/denoising_ae --fanogan out/fanogan \\
    --itermask out/itermask

A method whose networks are not given is left out. What is tuned is the method's own main setting (`GRIDS`) together
with the channels of its anomaly map (all, or FLAIR alone), by the mean Dice of `--limit` validation slices with a
lesion at their best threshold. Where the best value is the last of its grid, the search goes on (`BEYOND`). With
`--without_masks` no drawn lesion is looked at: what counts is the Dice that image labels let one estimate
(`label_threshold`), of `--limit` healthy slices as well.

Rows beyond the papers, each with what the one before has: "Dif-fuse, few steps" is the preset `fast`, of several short
samples; "calibrated" has a map that is chosen with schedule and samples as `calibrate_pipeline.py` does, such as a
signed one in standard deviations; "adaptive mask" has the choice to narrow the mask by a first look. RePaint has both
too. `methods.json` lists folders, options and every value tried, and is what `evaluate_anomaly.py --all` reads.
Folders that are there are kept: repeat the command after an interrupt.
"""

import argparse
import copy
import json
import math
from itertools import product
from pathlib import Path

import torch

import difffuse_hf as package
from difffuse_hf import (
    DenoisingAutoencoder,
    DifFuseProcessor,
    DifFuseScheduler,
    FAnoGAN,
    IterMaskNetwork,
    NoisyClassifier,
    ResNetAutoencoder,
    load_classifier,
)
from difffuse_hf.data.slices import load_slices
from difffuse_hf.errors import run_script
from difffuse_hf.evaluation.anomaly import (
    HEALTHY_SHARE,
    Slices,
    as_slices,
    choose_threshold,
    label_threshold,
    run_method,
)
from difffuse_hf.evaluation.calibration import LESION_SIGNS, decide, schedules, search
from difffuse_hf.io.files import complete_folder, write_whole
from difffuse_hf.models.precision import fastest_dtype, to_fastest
from difffuse_hf.models.unet import load_unet
from difffuse_hf.pipelines.pipeline_repaint import CALIBRATED_AS

HEALTHY, SALIENCY, LEVELS = ("unet",), ("classifier", "autoencoder"), {"noise_level": [100, 200, 350, 500]}
MASK = HEALTHY + SALIENCY
METHODS = {  # name in the tables: pipeline, its networks, settings of its own
    "f-AnoGAN": ("ReconstructionPipeline", ("fanogan",), {}),
    "DenoisingAE": ("ReconstructionPipeline", ("denoising_autoencoder",), {}),
    "IterMask2": ("IterMask2Pipeline", ("itermask",), {"own_mask": True}),
    "IterMask2, calibrated map": ("IterMask2Pipeline", ("itermask",), {}),
    "CG": ("ClassifierGuidancePipeline", ("conditional", "noisy_classifier"), {}),
    "CG, Otsu per image": ("ClassifierGuidancePipeline", ("conditional", "noisy_classifier"), {"otsu": True}),
    "CFG": ("ClassifierFreeGuidancePipeline", ("conditional",), {}),
    "AnoFPDM": ("AnoFPDMPipeline", ("conditional",), {"own_threshold": True}),
    "AnoFPDM, calibrated map": ("AnoFPDMPipeline", ("conditional",), {}),
    "AnoDDPM": ("AnoDDPMPipeline", ("simplex",), {}),
    "AutoDDPM": ("AutoDDPMPipeline", HEALTHY, {}),
    "THOR": ("THORPipeline", HEALTHY, {}),
    "DDPM": ("UnmaskedPipeline", HEALTHY, {"forward": "noise", "reverse": "ddpm"}),
    "DDIM-DDPM": ("UnmaskedPipeline", HEALTHY, {"forward": "inversion", "reverse": "ddpm"}),
    "DDPM-DDIM": ("UnmaskedPipeline", HEALTHY, {"forward": "noise", "reverse": "ddim"}),
    "DDIM": ("UnmaskedPipeline", HEALTHY, {"forward": "inversion", "reverse": "ddim"}),
    "RePaint": ("RePaintPipeline", MASK, {}),
    "RePaint, calibrated": ("RePaintPipeline", MASK, {}),
    "RePaint, adaptive mask": ("RePaintPipeline", MASK, {}),
    "ACAT": ("ReconstructionPipeline", SALIENCY, {"saliency_as": "mask"}),  # "thresholded as in our approach", 6.6.2
    "ACAT, calibrated map": ("ReconstructionPipeline", SALIENCY, {"saliency_as": "blurred"}),
    "Dif-fuse, Grad-CAM masks": ("DifFusePipeline", MASK, {"saliency_options": {"method": "grad_cam"}}),
    "Dif-fuse, gradient masks": ("DifFusePipeline", MASK, {"saliency_options": {"method": "gradient"}}),
    "Dif-fuse, Algorithm 2": ("DifFusePipeline", MASK, {"preset": "thesis"}),
    "Dif-fuse": ("DifFusePipeline", MASK, {}),
    "Dif-fuse, few steps": ("DifFusePipeline", MASK, {"preset": "fast"}),
    "Dif-fuse, calibrated": ("DifFusePipeline", MASK, {"preset": "fast"}),
    "Dif-fuse, adaptive mask": ("DifFusePipeline", MASK, {"preset": "fast"}),
}
CALIBRATED = {  # name in the tables: preset whose values the grid is put in place of; the map is chosen with them
    "RePaint, calibrated": ("exact", CALIBRATED_AS),
    "RePaint, adaptive mask": ("exact", CALIBRATED_AS),
    "Dif-fuse, calibrated": ("fast", "fast"),
    "Dif-fuse, adaptive mask": ("fast", "fast"),
}
OWN_STEPS = ("Dif-fuse, few steps", *CALIBRATED)  # theirs, and not --num_inference_steps
PERCENTILES = [80.0, 90.0, 95.0]  # of every mask
FIRST_LOOK = {"scout_samples": [0, 2], "scout_threshold": [0.08], "scout_margin_mm": [6.0]}  # or none
SQUARES = {"erosion_size": [1, 3, 5], "median_size": [1, 3, 5]}
GRIDS = {  # settings tried for each method or pipeline; Dif-fuse's published 90 is a percentile of the image
    "f-AnoGAN": SQUARES,
    "DenoisingAE": SQUARES,
    "IterMask2Pipeline": {"healthy_share": [0.02, 0.05, 0.1, 0.2]},
    "ClassifierGuidancePipeline": {"noise_level": [200, 500], "guidance_scale": [3.0, 10.0, 30.0, 100.0]},
    "ClassifierFreeGuidancePipeline": {"noise_level": [200, 500], "guidance_scale": [1.5, 3.0, 6.0]},
    "AnoFPDMPipeline": {"guidance_scale": [2.0, 3.0, 6.0]},  # the noise level is chosen for each image
    "AnoDDPMPipeline": {"noise_level": [50, 100, 200, 300]},
    "AutoDDPMPipeline": LEVELS,
    "THORPipeline": {"noise_level": [200, 350, 500], "region_size": [5, 13]},
    "UnmaskedPipeline": LEVELS,
    "ACAT": {"percentile": PERCENTILES},
    "RePaint, calibrated": {"num_samples": [4], "percentile": PERCENTILES},
    "RePaint, adaptive mask": {"num_samples": [4], "percentile": [80.0, 90.0], **FIRST_LOOK},
    "RePaintPipeline": {"percentile": PERCENTILES},
    "Dif-fuse, adaptive mask": {"noise_level": [200, 350, 500], "percentile": [80.0, 90.0], **FIRST_LOOK},
    "DifFusePipeline": {"noise_level": [200, 350, 500], "percentile": PERCENTILES},
}
BEYOND = {  # where a search goes on, one value at a time, that finds its best one at the end of its grid
    "noise_level": [25, 50, 350, 500, 700],
    "percentile": [50.0, 70.0, 98.0],
    "guidance_scale": [1.0, 1.5, 2.0, 10.0, 30.0, 100.0, 300.0],
    "healthy_share": [0.005, 0.01, 0.3, 0.4],
    "region_size": [1, 3, 21],
    "erosion_size": [7],
    "median_size": [7],
}
OF_CALIBRATION = ("healthy_share",)  # settings of `calibrate` that a call does not take
CHOSEN_WITHOUT_MASKS = ("mask_threshold", "largest_divergence", "similarity_threshold")  # by `calibrate`
UNFILTERED = ("AnoFPDMPipeline", "THORPipeline", "IterMask2Pipeline")  # their maps are neither opened nor closed
STRIDED = (
    "UnmaskedPipeline",
    "AnoFPDMPipeline",
    "AnoDDPMPipeline",
    "AutoDDPMPipeline",
    "THORPipeline",
    "ClassifierGuidancePipeline",
    "ClassifierFreeGuidancePipeline",
    "DifFusePipeline",
)  # fmt: skip  take --num_inference_steps in their call


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("dataset", "output_dir"):
        parser.add_argument(f"--{name}", required=True)
    networks = ("classifier", "autoencoder", "diffusion", "simplex", "conditional", "noisy_classifier",
                "denoising_autoencoder", "fanogan", "itermask")  # fmt: skip
    for name in networks:
        parser.add_argument(f"--{name}")
    parser.add_argument("--without_masks", action="store_true", help="tune by image labels, as if nothing were drawn")
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--num_inference_steps", type=int, help="of the diffusion pipelines; every level by default")
    parser.add_argument("--repaint_steps", type=int, nargs=3, metavar=("STEPS", "JUMP", "RESAMPLES"),
                        default=[250, 10, 10])  # fmt: skip
    parser.add_argument("--preset", default="exact", help="of Dif-fuse")
    parser.add_argument("--saliency_options", type=json.loads, default={}, help="of class_agnostic_saliency, as JSON")
    parser.add_argument("--percentile_over", choices=["image", "foreground"], default="image")
    parser.add_argument("--anomaly_channels", type=int, nargs="*", help="of the anomaly map; tuned by default")
    parser.add_argument("--morphology_size", type=int, help="of the anomaly map; each method's own by default")
    parser.add_argument("--limit", type=int, default=100, help="validation slices of each class used for tuning")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "auto"], default="float32",
                        help="of the U-Net while it tunes; auto: the fastest that the device has")  # fmt: skip
    args = parser.parse_args(argv)

    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    validation = as_slices(load_slices(args.dataset, "validation"), "validation", args.limit)
    load = {
        "unet": (args.diffusion, lambda folder: load_unet(Path(folder, "unet"))),
        "simplex": (args.simplex, lambda folder: load_unet(Path(folder, "unet"))),
        "conditional": (args.conditional, lambda folder: load_unet(Path(folder, "unet"))),
        "classifier": (args.classifier, lambda folder: load_classifier(folder).eval()),
        "autoencoder": (args.autoencoder, ResNetAutoencoder.from_pretrained),
        "noisy_classifier": (args.noisy_classifier, NoisyClassifier.from_pretrained),
        "denoising_autoencoder": (args.denoising_autoencoder, DenoisingAutoencoder.from_pretrained),
        "fanogan": (args.fanogan, FAnoGAN.from_pretrained),
        "itermask": (args.itermask, IterMaskNetwork.from_pretrained),
    }
    listed, left_out = [], []
    for name in args.methods:
        kind, parts, settings = METHODS[name]
        if any(load[part][0] is None for part in parts):
            left_out.append(name)
            continue
        folder, record = output / name, output / name / "tuning.json"
        options = call_options(name, kind, args.num_inference_steps)
        if not record.exists():
            networks = {part: load[part][1](load[part][0]).float() for part in parts}  # stored in 16 bits or not
            pipeline = build(kind, networks, settings, args).to(args.device)
            trained = getattr(pipeline, "unet", None)
            if trained is not None and args.dtype == "auto":
                pipeline.unet = to_fastest(copy.deepcopy(trained), fastest_dtype(args.device))
            grid = learned(pipeline, GRIDS.get(name, GRIDS.get(kind, {})))
            if name in CALIBRATED:
                tried = calibrate(name, pipeline, validation, grid, args)
            else:
                tried, best = tune(name, pipeline, validation, options, grid, args)
                pipeline.register_to_config(**{**dict(pipeline.config), **best})
            if trained is not None:
                pipeline.unet = trained
            with complete_folder(folder) as temporary:
                pipeline.save_pretrained(temporary)
                (temporary / "tuning.json").write_text(json.dumps(tried, indent=2))
        tuning = json.loads(record.read_text())
        listed.append({"name": name, "model": str(folder), "options": options, "tuning": tuning})
        write_whole(output / "methods.json", lambda path: path.write_text(json.dumps(listed, indent=2)))
    print(f"{len(listed)} methods in {output / 'methods.json'}.")
    if left_out:
        print(f"Left out for want of a network: {', '.join(left_out)}.")


def call_options(name: str, kind: str, steps: int | None) -> dict:
    """Arguments of the method's call; a calibrated schedule has its own steps, but for the chain for the eye."""
    if name in OWN_STEPS:
        return {"display_steps": steps} if kind == "DifFusePipeline" and steps else {}
    options = {"num_inference_steps": steps} if kind in STRIDED else {}
    options |= {"display_steps": 0} if kind == "DifFusePipeline" else {}
    if kind == "AutoDDPMPipeline" and steps:
        options["num_inpaint_steps"] = max(2, steps // 4)  # 50 of the 200 levels
    return options


def build(kind: str, networks: dict, settings: dict, args):
    """A pipeline of one kind around its networks."""
    common = {"anomaly_channels": args.anomaly_channels}
    if args.morphology_size is not None:
        common["morphology_size"] = args.morphology_size
    processor = DifFuseProcessor.from_pretrained(args.dataset)
    masked = {"percentile_over": args.percentile_over, "saliency_options": args.saliency_options}
    if kind == "ReconstructionPipeline":
        reconstructor = networks.pop("fanogan", None) or networks.pop("denoising_autoencoder", None)
        common = {"anomaly_channels": args.anomaly_channels} | masked
        return package.ReconstructionPipeline(reconstructor, **networks, processor=processor, **common, **settings)
    if kind == "IterMask2Pipeline":
        channels = {"anomaly_channels": args.anomaly_channels}
        return package.IterMask2Pipeline(networks["itermask"], processor, **channels, **settings)
    (unet,) = (networks.pop(part) for part in ("unet", "simplex", "conditional") if part in networks)
    of_classes = "Guidance" in kind or kind == "AnoFPDMPipeline"
    source = {"AnoDDPMPipeline": args.simplex}.get(kind, args.conditional if of_classes else args.diffusion)
    if "noisy_classifier" in networks:
        networks["classifier"] = networks.pop("noisy_classifier")
    if kind == "RePaintPipeline":
        names = ("num_inference_steps", "jump_length", "num_resamples")
        common |= dict(zip(names, args.repaint_steps)) | masked
    if kind in UNFILTERED:
        common.pop("morphology_size", None)
    if kind == "DifFusePipeline":
        common |= masked | {"preset": args.preset}
    scheduler = DifFuseScheduler.from_pretrained(source, subfolder="scheduler")
    pipeline = getattr(package, kind)(unet=unet, scheduler=scheduler, processor=processor, **networks,
                                      **(common | settings))  # fmt: skip
    if (pipeline.config["noise_level"] or 0) > scheduler.highest_level:  # the method's own, where it is not tuned
        pipeline.register_to_config(noise_level=scheduler.highest_level)
    return pipeline


def tune(name: str, pipeline, validation: Slices, options: dict, grid: dict, args) -> tuple[list[dict], dict]:
    """Every setting of the grid, with every choice of channels, with its validation Dice; and the best one."""
    sick, healthy = validation.with_lesion(), validation.select(validation.labels == 0)
    some_slices = [sick, healthy] if args.without_masks else [sick]
    channels, tried = channel_choices(pipeline, args.anomaly_channels), []
    waiting = [dict(zip(grid, values)) for values in product(*grid.values())]
    while waiting:
        setting, made = waiting.pop(0), None
        of_the_call = {one: value for one, value in setting.items() if one not in OF_CALIBRATION}
        for some in channels:
            pipeline.register_to_config(anomaly_channels=some)
            if made is not None and pipeline.map_is_of_the_counterfactual:
                made = [(pipeline.map_of(slices.images, one), one) for slices, (_, one) in zip(some_slices, made)]
            else:
                choose_own(pipeline, validation, healthy, setting, options, args.seed)
                label, how = f"{name} {json.dumps(setting)}", {"batch_size": args.batch_size, **of_the_call, **options}
                made = [run_method(pipeline, slices.images, args.seed, label=label, **how) for slices in some_slices]
            chosen = {**setting, "anomaly_channels": some}
            chosen |= {one: pipeline.config[one] for one in CHOSEN_WITHOUT_MASKS if one in pipeline.config}
            maps = [one for one, _ in made]
            best_here = (
                label_threshold(maps[0], sick, maps[1], healthy)
                if args.without_masks
                else choose_threshold(maps[0], sick)
            )
            tried.append({"setting": chosen, "dice": best_here.dice})
        best = max(tried, key=lambda one: one["dice"])["setting"]
        if not waiting:
            waiting = further(best, [one["setting"] for one in tried], list(grid), learned(pipeline, BEYOND))
    return tried, best


def learned(pipeline, values: dict) -> dict:
    """Values to try, without the noise levels that the pipeline's U-Net has not learned."""
    highest = getattr(getattr(pipeline, "scheduler", None), "highest_level", math.inf)
    levels = [one for one in values.get("noise_level", ()) if one <= highest]
    return {**values, "noise_level": levels} if levels else values


def further(best: dict, tried: list[dict], names: list[str], beyond: dict = BEYOND) -> list[dict]:
    """Where the best value of a setting is the lowest or highest tried, the same with the next one beyond it."""
    found = []
    for name in names:
        values, here = [one[name] for one in tried], {one: best[one] for one in names}
        lower = [one for one in beyond.get(name, ()) if one < min(values)]
        higher = [one for one in beyond.get(name, ()) if one > max(values)]
        if lower and best[name] == min(values):
            found.append({**here, name: max(lower)})
        if higher and best[name] == max(values):
            found.append({**here, name: min(higher)})
    return found


def choose_own(pipeline, validation: Slices, healthy: Slices, setting: dict, options: dict, seed: int) -> None:
    """Let a method choose what its paper chooses, on healthy slices or by image labels."""
    steps = {name: options[name] for name in ("num_inference_steps",) if name in options}
    if hasattr(pipeline, "calibrate"):
        pipeline.calibrate(healthy.images, generator=torch.Generator().manual_seed(seed), **steps, **setting)
    if hasattr(pipeline, "calibrate_by_labels"):
        pipeline.calibrate_by_labels(validation.images, validation.labels, **steps, **setting)


def channel_choices(pipeline, given: list[int] | None) -> list[list[int] | None]:
    """Channels of the anomaly map to try: as given, or all of them and FLAIR alone; a saliency map has no choice."""
    modalities = pipeline.processor.modalities
    of_saliency = getattr(pipeline, "reconstructor", True) is None
    if given is not None or of_saliency or len(modalities) == 1 or "flair" not in modalities:
        return [given]
    return [None, [modalities.index("flair")]]


def calibrate(name: str, pipeline, validation: Slices, grid: dict, args) -> list[dict]:
    """Schedule and map chosen together and kept in the pipeline; the best map of every schedule."""
    sick, healthy = validation.with_lesion(), validation.select(validation.labels == 0)
    preset, saved_as = CALIBRATED[name]
    plans = schedules(pipeline, preset, grid)
    how: dict = {"seed": args.seed, "batch_size": args.batch_size, "with_masks": not args.without_masks}
    if args.without_masks:
        how["false_positives"] = [HEALTHY_SHARE]
    found = list(search(pipeline, plans, sick, healthy, LESION_SIGNS, **how))
    best = decide([choice for choices in found for choice in choices])
    pipeline.processor.calibrations = {saved_as: best.calibration.to_dict()}
    shown = [choices[0] for choices in found if best not in choices] + [best]
    return [{"setting": one.calibration.to_dict(), "dice": one.score, "chosen": one is best} for one in shown]


if __name__ == "__main__":
    run_script(main)
