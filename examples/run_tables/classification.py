"""Chapters 4 and 5: classifiers, saliency maps, ACAT and its competitors; and Fig. 4.3."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from difffuse_hf.errors import require_choice

from .steps import Steps


@dataclass(frozen=True)
class ClassificationSize:
    """Chapters 4 and 5: what differs between a smoke test and the thesis's sizes."""

    subjects: int
    seeds: Sequence[int]
    image: tuple[int, int]  # pixels of a CT slice
    lung: int  # pixels of a side of a lung slice
    epochs: int  # of ACAT, of its competitors, and more of the baseline
    stages: tuple[int, int, int]  # epochs of the three stages of the half-brain classifier; all others have the sum
    patches: tuple[int, int, int]  # pixels of a patch of the ViT: chapter 4, chapter 5 on IST-3, on MosMed
    counts: Sequence[int]  # training scans of Table 5.5
    steps: int  # of the counterfactual search
    masks: int  # of RISE
    checks: int  # scans of the sanity checks
    narrow: str = ""
    pools: str = ""
    autoencoder: str = ""
    # Few scans need more random changes and higher rates than the thesis's, and the contrast of a narrower window.
    rates: str = "--stage_learning_rates 1e-3 5e-4 1e-4 --dropout 0.2"
    changes: str = (
        "--shift_augmentation 2 --rotation_augmentation 8 --zoom_augmentation 0.08 --intensity_augmentation 0.05"
    )
    window: str = "--window 15 60"  # HU
    device: str = "--cpu"
    vit: str = ',"embed_dim":64,"depth":4,"num_heads":4'
    swin: str = ',"window_size":4,"embed_dim":24,"depths":[2,2,2,2],"num_heads":[1,2,4,8]'


CLASSIFICATION = {
    "smoke": ClassificationSize(
        24, [0], (48, 40), 48, 1, (1, 1, 1), (8, 4, 8), [8], steps=2, masks=20, checks=1,
        narrow="--channels 8 8 16 16", pools="--num_pools 3",
        autoencoder="--channels 8 16 16 --strides 2 2 1 --max_steps 20",
    ),
    "night": ClassificationSize(
        300, [0, 1, 2], (96, 80), 96, 20, (30, 10, 10), (8, 16, 16), [50, 100, 200], steps=10, masks=200, checks=2,
        narrow="--channels 16 32 64 128", pools="--num_pools 4",
        autoencoder="--channels 16 32 32 --strides 2 2 1 --max_steps 3000",
    ),
    "full": ClassificationSize(
        1000, [0, 1, 2], (500, 400), 128, 100, (100, 50, 50), (25, 50, 16), [50, 100, 200, 300, 400, 500],
        steps=20, masks=1000, checks=4, rates="", changes="", window="", device="", vit="", swin="",
    ),
}  # fmt: skip
COMPETITORS = {  # of chapter 5: name in the tables, flags of train_acat.py
    "ACAT": ["--method", "acat"],
    "SMIC": ["--method", "smic"],
    "SalClassNet": ["--method", "salclassnet"],
    "HSM": ["--method", "hsm"],
    "SpAtt": ["--method", "spatt"],
    "SeAtt": ["--method", "seatt"],
}
STAGES_LEFT = {"ist3": ([1, 3], [1]), "mosmed": ([1, 2], [1])}  # without the late stage, and then the middle one
SOURCES = ("gradient", "latent_shift", "integrated_gradients", "grad_cam")  # of other maps for ACAT (Sec. 5.6.7)
MORE_EPOCHS = "baseline, more epochs"
NOISE_STD = 1.0  # N(0, 1) in Table 5.6


def variants(cohort: str) -> dict[str, list[str]]:
    """ACAT with a part taken away (Secs. 5.6.7, 5.6.9), and what is fair to it: name, flags of train_acat.py."""
    no_late, no_middle = ({"fusion": False, "attention_stages": stages} for stages in STAGES_LEFT[cohort])
    options = {
        "ACAT − fusion": {"fusion": False},  # each of the three on top of the one before
        "ACAT − fusion − late": no_late,
        "ACAT − fusion − late − middle": no_middle,
        "ACAT, no slice attention": {"slice_attention": False},
        "ACAT, no residual": {"residual": False},
        "dropout 0.2 instead of attention": {"attention": "dropout", "dropout": 0.2},
        "dropout 0.6 instead of attention": {"attention": "dropout", "dropout": 0.6},
    }
    flags = {name: ["--options", json.dumps(some)] for name, some in options.items()}
    return {MORE_EPOCHS: ["--method", "baseline"], **flags, "ACAT from scratch": ["--from_scratch"]}


def other_classifiers(size: ClassificationSize, cohort: str) -> dict[str, list[str]]:
    """What the classifier of chapter 4 is compared with: name in the tables, flags of train_classifier.py."""
    pixels = f"{size.image[0]},{size.image[1]}" if cohort == "ist3" else f"{size.lung},{size.lung}"
    attention = "--learning_rate 3e-4 --warmup_steps 200".split()  # transformers do not start at the CNNs' rate

    def vit(patch: int) -> list[str]:
        options = f'{{"img_size":[{pixels}],"patch_size":{patch}{size.vit}}}'
        return [*attention, "--backbone", "vit", "--backbone_kwargs", options]

    flags = {
        "ResNet-18": ["--backbone", "resnet18", *size.narrow.split()],
        "ResNet-50": ["--backbone", "resnet50", *size.narrow.split()],
        "ViT": vit(size.patches[1 if cohort == "ist3" else 2]),
        "Swin": [*attention, "--backbone", "swin", "--backbone_kwargs", f'{{"img_size":[{pixels}]{size.swin}}}'],
    }
    if cohort == "mosmed":
        del flags["ResNet-50"]  # there it is the baseline itself
    else:
        flags["ViT of chapter 4"] = vit(size.patches[0])
        flags["whole brain"] = ["--backbone", "whole_brain", *size.pools.split(), *size.rates.split()]
    return flags


def baseline_flags(size: ClassificationSize, cohort: str) -> list:
    """Of train_classifier.py, for the network that ACAT and its competitors stand on."""
    if cohort == "ist3":
        half_brain = f"--backbone half_brain {size.pools} --stage_epochs".split()
        return [*half_brain, *size.stages, *size.rates.split()]
    return f"--backbone resnet50 {size.narrow} --epochs {sum(size.stages)}".split()


def classification(name: str, out: str, anatomies: str, cases: str | None) -> Steps:
    """Chapters 4 and 5: stroke CT (layout IST-3) and lung CT (layout MosMed)."""
    require_choice("SIZE", name, CLASSIFICATION)
    size, steps = CLASSIFICATION[name], Steps()
    add_stroke_data(steps, size, out, anatomies)
    lungs = f"{out}/lungs"
    steps.add("lungs", "python", "datasets_scripts/make_phantom.py", lungs, "--layout", "mosmed",
              "--subjects", size.subjects, "--opacity", 0.02, 0.08, to=lungs)  # fmt: skip
    for seed in size.seeds:
        data = f"{out}/mosmed/{seed}/data"
        steps.add(f"mosmed/{seed}/data", "python", "datasets_scripts/prepare_mosmed.py", lungs, data,
                  "--split_seed", seed, "--image_size", size.lung, to=data)  # fmt: skip
    for cohort in ("ist3", "mosmed"):
        for seed in size.seeds:
            add_classifiers(steps, size, cohort, seed, f"{out}/{cohort}/{seed}")
        add_classification_tables(steps, size, cohort, out)
    return steps


def add_stroke_data(steps: Steps, size: ClassificationSize, out: str, anatomies: str) -> None:
    """One cohort of stroke patients, dealt anew to train, validation and test for each seed."""
    stroke = f"{out}/stroke"
    steps.add("stroke", "python", "datasets_scripts/make_phantom.py", stroke, "--layout", "ist3",
              "--subjects", size.subjects, "--anatomies", anatomies, to=stroke)  # fmt: skip
    steps.add("stroke/scans", "difffuse", "preprocess", f"{stroke}/dicom", f"{stroke}/scans", "--linkage",
              "--image-size", size.image, size.window.split(), to=f"{stroke}/scans")  # fmt: skip
    for seed in size.seeds:
        data = f"{out}/ist3/{seed}/data"
        steps.add(f"ist3/{seed}/data", "python", "datasets_scripts/prepare_ist3.py", f"{stroke}/scans", data,
                  "--split_seed", seed, to=data)  # fmt: skip


def training_loop(size: ClassificationSize) -> list[str]:
    return [*size.device.split(), *"--report_to none --batch_size 4 --resume_from_checkpoint latest".split()]


def layers(name: str, out: str, anatomies: str, cases: str | None) -> Steps:
    """Fig. 4.3: accuracy of the half-brain CNN by its number of convolutions."""
    require_choice("SIZE", name, CLASSIFICATION)
    size, steps, rows = CLASSIFICATION[name], Steps(), []
    add_stroke_data(steps, size, out, anatomies)
    for count in range(1, 9):
        for seed in size.seeds:
            to, data = f"{out}/layers/{seed}/{count}", f"{out}/ist3/{seed}/data"
            flags = ["--backbone", "half_brain", "--num_layers", count, "--stage_epochs", *size.stages]
            steps.add(f"layers/{seed}/{count}", "launch", "examples/train_classifier.py", "--dataset", data,
                      "--seed", seed, flags, size.rates.split(), size.changes.split(), training_loop(size),
                      "--output_dir", to, to=to)  # fmt: skip
            rows += ["--method", f"{count} layers", to, data]
    tables = f"{out}/layers/tables"
    steps.add(
        "layers/tables", "python", "examples/evaluate_classification.py", rows, "--output_dir", tables, to=tables
    )
    return steps


def atlas_if_there() -> list[str]:
    """Flags of evaluate_saliency.py for territories too, where the package that holds the atlas is installed."""
    return ["--atlas", "jhu"] if find_spec("rapidtide") else []


def counterfactual_options(num_steps: int) -> dict:
    return {"num_steps": num_steps, "step_rule": "proximal", "step_growth": 1.5, "reference": "reconstruction"}


def add_classifiers(steps: Steps, size: ClassificationSize, cohort: str, seed: int, here: str) -> None:
    """The networks of one seed."""
    loop, base = training_loop(size), baseline_flags(size, cohort)
    train = ["--dataset", f"{here}/data", "--seed", seed, *size.changes.split(), *loop]
    epochs = sum(size.stages)

    def network(name: str, script: str, *words) -> None:
        to = f"{here}/{name}"
        words = (*words, "--output_dir", to)
        steps.add(f"{cohort}/{seed}/{name}", "launch", f"examples/{script}.py", *words, to=to)

    # Chapter 4: the classifier that the others start from, and those it is compared with (Table 4.2).
    network("baseline", "train_classifier", base, train)
    for name, flags in other_classifiers(size, cohort).items():
        network(name, "train_classifier", flags, "--epochs", epochs, train)

    # Chapter 5: maps of every scan; ACAT, its competitors and its ablations (Table 5.1, Secs. 5.6.7 and 5.6.9).
    autoencoder, baseline = f"{here}/autoencoder", f"{here}/baseline"
    network("autoencoder", "train_autoencoder", size.autoencoder.split(), train[:4], loop)
    maps = ["--dataset", f"{here}/data", *size.device.split()]
    search = ["--autoencoder", autoencoder, "--options", json.dumps(counterfactual_options(size.steps))]
    network("saliency", "compute_saliency", maps, "--classifier", baseline, search)
    from_baseline = ["--classifier", baseline, "--saliency", f"{here}/saliency", "--epochs", size.epochs]
    for name, flags in (COMPETITORS | variants(cohort)).items():
        network(name, "train_acat", flags, from_baseline, train)
    for method in SOURCES:
        network(f"{method} maps", "compute_saliency", maps, "--classifier", baseline, "--autoencoder", autoencoder,
                "--method", method)  # fmt: skip
        network(f"ACAT, {method} maps", "train_acat", from_baseline, train, "--saliency", f"{here}/{method} maps")
    network("second maps", "compute_saliency", maps, "--classifier", f"{here}/ACAT", search,
            "--saliency", f"{here}/saliency")  # fmt: skip
    network("ACAT, second round", "train_acat", from_baseline, train, "--saliency", f"{here}/second maps")

    for count in size.counts if cohort == "ist3" else ():  # limited data (Table 5.5): the baseline, six methods, ViT
        few = ["--train_scans", count]
        network(f"baseline of {count}", "train_classifier", base, train, few)
        network(f"ViT of {count}", "train_classifier", other_classifiers(size, cohort)["ViT"],
                "--epochs", epochs, train, few)  # fmt: skip
        start = ["--classifier", f"{here}/baseline of {count}"]
        for name, flags in COMPETITORS.items():
            network(f"{name} of {count}", "train_acat", flags, from_baseline, train, start, few)


def add_classification_tables(steps: Steps, size: ClassificationSize, cohort: str, out: str) -> None:
    """Tables and figures of a cohort, over all its seeds."""
    rows, curve, runs, second = [], [], [], []
    for seed in size.seeds:
        here = f"{out}/{cohort}/{seed}"
        data, saliency = f"{here}/data", f"{here}/saliency"
        rows += ["--method", "baseline", f"{here}/baseline", data]
        for name in (*other_classifiers(size, cohort), *COMPETITORS, *variants(cohort)):
            rows += ["--method", name, f"{here}/{name}", data, saliency]
        for name, maps in [*((f"{method} maps", f"{method} maps") for method in SOURCES),
                           ("second round", "second maps")]:  # fmt: skip
            rows += ["--method", f"ACAT, {name}", f"{here}/ACAT, {name}", data, f"{here}/{maps}"]
        for count in size.counts if cohort == "ist3" else ():
            for name in ("baseline", *COMPETITORS, "ViT"):
                curve += ["--curve", name, count, f"{here}/{name} of {count}", data, saliency]
        runs += ["--run", f"{here}/baseline", f"{here}/autoencoder", data]
        second += ["--acat", f"{here}/ACAT", saliency]
    tables, first, last = (f"{out}/{cohort}/{part}" for part in ("tables", size.seeds[0], size.seeds[-1]))
    search = counterfactual_options(size.steps)
    options = {"class_agnostic_saliency": search, "negative_counterfactual": search}
    options["rise"] = {"num_masks": size.masks}
    steps.add(f"{cohort}/classification tables", "python", "examples/evaluate_classification.py", rows, curve,
              "--cohort", cohort, "--output_dir", tables, to=tables)  # fmt: skip
    atlas = atlas_if_there() if cohort == "ist3" else []
    steps.add(f"{cohort}/saliency tables", "python", "examples/evaluate_saliency.py", runs, second, atlas,
              "--randomise", size.checks, "--noise_std", NOISE_STD, "--noise_model", f"{first}/ACAT from scratch",
              "--output_dir", tables, "--options", json.dumps(options), to=tables)  # fmt: skip
    steps.add(f"{cohort}/latent paths", "python", "examples/plot_latent_paths.py", "--classifier", f"{last}/baseline",
              "--autoencoder", f"{last}/autoencoder", "--dataset", f"{last}/data", "--limit", 16,
              "--output_dir", tables, to=tables)  # fmt: skip
