"""Everything from nothing, on synthetic cohorts, in the order of the thesis: data, networks, tables and figures.

python examples/runs.py classification smoke|night|full OUT ANATOMIES --jobs 2
python examples/runs.py layers smoke|night|full OUT ANATOMIES
python examples/runs.py anomaly smoke|evening|full OUT ANATOMIES --cases CASES
python examples/runs.py demo_model full OUT ANATOMIES
python examples/runs.py brain_model full OUT ANATOMIES

`classification` is chapters 4 and 5: classifiers, saliency maps, ACAT and its competitors. `layers` is Fig. 4.3, the
half-brain CNN with one to eight convolutions, on the data of `classification` where OUT is the same. `anomaly` is
chapter 6: all networks, every method of Table 6.1 tuned and scored. `demo_model` is the checkpoint in the package,
`brain_model` one of finer slices that needs FLAIR alone and knows more kinds of lesion.
smoke: does everything run? its figures mean nothing. night, evening: small slices, three seeds, for two cores and so
long. full: the thesis's sizes and epochs, for GPUs (of the demo model: two hours on two cores). ANATOMIES is a folder
of label maps to draw heads on (SynthSeg's training_seg_*.nii.gz), at least three, because the splits are by anatomy.

What is finished is kept in OUT/steps.json: after an interrupt, repeat the command. `--jobs 2` runs two steps at a
time where none needs the other, for machines with that many cores (with OMP_NUM_THREADS=1) to spare.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from difffuse_hf.cli.runner import Step, command_line, run_steps
from difffuse_hf.errors import InputError, require_choice, run_script

ROOT = Path(__file__).resolve().parents[1]
# What glibc gives back to the system after each step costs the next one up to a third of its time.
KEEP_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TOP_PAD_": "100000000",
}


class Steps(list[Step]):
    """Steps in the order in which they are read; `launch` stands for python, or what `--launch` says."""

    def add(self, name: str, program: str, *words, to: str) -> str:
        """One more command line, given as words and as lists of words; its output `to` is given back."""
        flat = [str(one) for word in words for one in (word if isinstance(word, (list, tuple)) else [word])]
        self.append(Step(name, (program, *flat), to))
        return to


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
              "--subjects", size.subjects, to=lungs)  # fmt: skip
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


def counterfactual_options(size: ClassificationSize) -> dict:
    return {"num_steps": size.steps, "step_rule": "proximal", "step_growth": 1.5, "reference": "reconstruction"}


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
    search = ["--autoencoder", autoencoder, "--options", json.dumps(counterfactual_options(size))]
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
    search = counterfactual_options(size)
    options = {"class_agnostic_saliency": search, "negative_counterfactual": search}
    options["rise"] = {"num_masks": size.masks}
    steps.add(f"{cohort}/classification tables", "python", "examples/evaluate_classification.py", rows, curve,
              "--cohort", cohort, "--output_dir", tables, to=tables)  # fmt: skip
    steps.add(f"{cohort}/saliency tables", "python", "examples/evaluate_saliency.py", runs, second,
              "--randomise", size.checks, "--noise_std", NOISE_STD, "--noise_model", f"{first}/ACAT from scratch",
              "--output_dir", tables, "--options", json.dumps(options), to=tables)  # fmt: skip
    steps.add(f"{cohort}/latent paths", "python", "examples/plot_latent_paths.py", "--classifier", f"{last}/baseline",
              "--autoencoder", f"{last}/autoencoder", "--dataset", f"{last}/data", "--limit", 16,
              "--output_dir", tables, to=tables)  # fmt: skip


@dataclass(frozen=True)
class AnomalySize:
    """Chapter 6: what differs between a smoke test and the thesis's sizes."""

    subjects: int
    elsewhere: int  # subjects of the data set that no network has seen
    seeds: Sequence[int]
    classifier_steps: int
    steps: int  # of the diffusion networks
    noisy_steps: int
    dae_steps: int
    gan_steps: int
    limit: int  # slices of each class that methods are tuned on
    repaint: str  # steps, jump length, resamplings
    counterfactual: dict  # options of the saliency maps
    cut: str = ""  # of the slices
    inference: int | None = None  # steps of sampling; the pipelines' own by default
    morphology: int | None = None
    unet: str = ""
    noisy: str = ""
    dae: str = ""
    fanogan: str = ""
    narrow: str = ""
    latent: str = ""
    common: str = ""
    recipe: str = "--learning_rate 8e-4 --lr_scheduler cosine --warmup_steps 100 --ema_decay 0.995 --max_grad_norm 1"
    device: str = "--cpu"
    sweep: str = ""


SMALL_UNET = "--block_out_channels 8 16 --layers_per_block 1 --attention_levels 1 --norm_num_groups 4"
ANOMALY = {
    "smoke": AnomalySize(
        14, 3, [0], classifier_steps=4, steps=3, noisy_steps=3, dae_steps=3, gan_steps=2, limit=4, repaint="6 2 2",
        counterfactual={"reference": "reconstruction", "num_steps": 2, "step_rule": "proximal"},
        cut="--image_size 32 --pixel_spacing_mm 6 --slice_margin 0 --min_foreground 0.08", inference=3, morphology=1,
        unet=SMALL_UNET, noisy=f"{SMALL_UNET} --attention_head_dim 8", dae="--channels 8 16 16",
        fanogan="--sample_size 32 --width 8 --batch_size 4", narrow="--channels 8 8 8 8", latent="--channels 8 8 8",
        common="--batch_size 4",
        sweep="--noise_levels 100 500 --percentiles 80 90 --num_samples 1 2 --pictures 250 500",
    ),
    "evening": AnomalySize(
        84, 24, [0, 1, 2], classifier_steps=1200, steps=900, noisy_steps=900, dae_steps=900, gan_steps=300, limit=16,
        repaint="12 4 4",
        counterfactual={"reference": "reconstruction", "num_steps": 16, "step_rule": "proximal", "step_growth": 1.5},
        cut="--image_size 48 --pixel_spacing_mm 4 --slice_margin 0 --min_foreground 0.08", inference=12, morphology=3,
        unet="--block_out_channels 16 32 64 96 --layers_per_block 1 --attention_levels 1 --norm_num_groups 8",
        noisy="--block_out_channels 16 32 64 64 --layers_per_block 1 --attention_levels 1 --attention_head_dim 16 "
        "--norm_num_groups 8",
        dae="--channels 16 32 64 96",
        fanogan="--sample_size 48 --width 12 --batch_size 16 --critic_steps 2 --learning_rate 2e-4 "
        "--encoder_steps 900 --encoder_learning_rate 2e-4",
        narrow="--channels 16 32 64 128", latent="--channels 16 32 64 --strides 2 1 1", common="--batch_size 16",
    ),
    "full": AnomalySize(
        1000, 110, [0, 1, 2], classifier_steps=60000, steps=60000, noisy_steps=150000, dae_steps=67200,
        gan_steps=500000, limit=200, repaint="250 10 10", counterfactual={"num_steps": 20}, recipe="", device="",
    ),
}  # fmt: skip


def anomaly(name: str, out: str, anatomies: str, cases: str | None) -> Steps:
    """Chapter 6. The networks learn FLAIR and T1 of gliomas (layout BraTS), so that the same ones can be scored on
    white-matter hyperintensities (layout WMH), and on `cases`, a folder of real BraTS cases: they have seen neither.
    """
    require_choice("SIZE", name, ANOMALY)
    size, steps = ANOMALY[name], Steps()
    phantom, heads, cut = ["datasets_scripts/make_phantom.py"], ["--anatomies", anatomies], size.cut.split()
    glioma, lesions, wmh = f"{out}/glioma", f"{out}/hyperintensities", f"{out}/wmh"
    brats, channels = ["datasets_scripts/prepare_brats2021.py"], "--modalities flair t1".split()
    steps.add("glioma", "python", phantom, glioma, "--layout", "brats2021", "--subjects", size.subjects, heads,
              to=glioma)  # fmt: skip
    steps.add("hyperintensities", "python", phantom, lesions, "--layout", "wmh", "--subjects", size.elsewhere, heads,
              to=lesions)  # fmt: skip
    steps.add("wmh", "python", "datasets_scripts/prepare_wmh.py", lesions, wmh, "--split", "test", cut, to=wmh)
    foreign = [wmh]
    if cases:
        real = f"{out}/cases"
        foreign.append(steps.add("cases", "python", brats, cases, real, "--split", "test", channels, cut, to=real))
    for seed in size.seeds:
        data = f"{out}/{seed}/data"
        steps.add(f"{seed}/data", "python", brats, glioma, data, channels, "--split_seed", seed, cut, to=data)
    add_anomaly_networks(steps, size, out)
    for seed in size.seeds:
        here = f"{out}/{seed}"
        steps.add(f"{seed}/methods", "python", "examples/assemble_competitors.py", "--dataset", f"{here}/data",
                  "--output_dir", f"{here}/methods",
                  "--classifier", f"{here}/classifier", "--autoencoder", f"{here}/autoencoder",
                  "--diffusion", f"{here}/healthy", "--simplex", f"{here}/simplex",
                  "--conditional", f"{here}/conditional", "--noisy_classifier", f"{here}/noisy_classifier",
                  "--denoising_autoencoder", f"{here}/denoising_ae", "--fanogan", f"{here}/fanogan",
                  "--limit", size.limit, "--seed", seed, "--percentile_over", "foreground",
                  ["--morphology_size", size.morphology] if size.morphology else [],
                  "--saliency_options", json.dumps(size.counterfactual), "--repaint_steps", size.repaint.split(),
                  ["--num_inference_steps", size.inference] if size.inference else [],
                  to=f"{here}/methods")  # fmt: skip

    # Table 6.1, Figs. 6.6 and 6.7
    every = [word for seed in size.seeds for word in ("--all", f"{out}/{seed}/methods", f"{out}/{seed}/data")]
    judges = ["--classifier", *(f"{out}/{seed}/classifier" for seed in size.seeds)]  # none has seen its test anatomies
    steps.add("tables", "python", "examples/evaluate_anomaly.py", every, "--out_of_domain", foreign,
              judges, "--cohort", "brats", "--out_of_domain_cohort", "wmh",
              "--limit", 3 * size.limit // 2, "--output_dir", f"{out}/tables", to=f"{out}/tables")  # fmt: skip
    few = ["--options", json.dumps({"num_inference_steps": size.inference, "display_steps": 0})]
    steps.add("sweep", "python", "examples/sweep_noise_and_threshold.py", "--model", f"{out}/0/methods/Dif-fuse",
              "--dataset", f"{out}/0/data", "--seeds", 1, "--limit", size.limit, "--output_dir", f"{out}/sweep",
              few if size.inference else [], size.sweep.split(), to=f"{out}/sweep")  # fmt: skip
    return steps


def add_anomaly_networks(steps: Steps, size: AnomalySize, out: str) -> None:
    """All networks of all seeds; the two that judge and explain first."""
    common = size.common.split()

    def network(seed: int, name: str, script: str, *words) -> None:
        to = f"{out}/{seed}/{name}"
        steps.add(f"{seed}/{name}", "launch", f"examples/{script}.py", *words,
                  "--dataset", f"{out}/{seed}/data", "--seed", seed,
                  "--report_to none --resume_from_checkpoint latest".split(), size.device.split(),
                  "--output_dir", to, to=to)  # fmt: skip

    balanced = ["--max_steps", size.classifier_steps, "--balance_classes", "--learning_rate", "1e-3"]
    for seed in size.seeds:
        network(
            seed, "classifier", "train_classifier", "--backbone", "resnet18", size.narrow.split(), balanced, common
        )
        network(seed, "autoencoder", "train_autoencoder", size.latent.split(),
                "--max_steps", size.classifier_steps, common)  # fmt: skip
    for seed in size.seeds:
        recipe = size.recipe.split()  # of every network but f-AnoGAN; where it is empty, each has its paper's
        diffusion = [*size.unet.split(), "--max_steps", size.steps, *common, *recipe]
        network(seed, "healthy", "train_diffusion", diffusion)
        network(seed, "simplex", "train_diffusion", diffusion, "--noise", "simplex", "--max_timestep", 800)
        network(seed, "conditional", "train_diffusion", diffusion, "--class_conditional")
        network(seed, "noisy_classifier", "train_noisy_classifier", size.noisy.split(),
                "--max_steps", size.noisy_steps, "--balance_classes", common, recipe)  # fmt: skip
        network(seed, "denoising_ae", "train_denoising_ae", size.dae.split(), "--max_steps", size.dae_steps, common,
                [*recipe, "--cosine_steps", 0] if recipe else [])  # fmt: skip
        network(seed, "fanogan", "train_fanogan", size.fanogan.split(), "--max_steps", size.gan_steps)


DEMO_SPLITS = {  # SynthSeg's label maps, subjects and seed of each split; no anatomy is in two
    "train": ("01 03 04 06 07 08 09 11 13 14", 80, 100),
    "validation": ("02 10", 12, 200),
    "test": ("05 12", 16, 300),
}


def add_brain_slices(steps: Steps, out: str, anatomies: str, splits: dict, layout: str, size: int, mm: float) -> str:
    """Synthetic MR subjects of each split on anatomies of its own, and their slices; the folder of these."""
    slices = f"{out}/slices"
    for split, (members, subjects, seed) in splits.items():
        heads, phantom = f"{out}/anatomies/{split}", f"{out}/phantom/{split}"
        steps.add(f"anatomies/{split}", "mkdir", "-p", heads, to=heads)
        files = [f"{anatomies}/training_seg_{number}.nii.gz" for number in members.split()]
        steps.add(f"anatomies/{split}/links", "ln", "-sf", files, f"{heads}/", to=heads)
        steps.add(f"phantom/{split}", "difffuse", "phantom", phantom, layout, "--subjects", subjects, "--seed", seed,
                  "--anatomies", heads, to=phantom)  # fmt: skip
        steps.add(f"slices/{split}", "python", "datasets_scripts/prepare_brats2021.py", phantom, slices,
                  "--split", split, "--image_size", size, "--pixel_spacing_mm", mm, "--slice_margin", 0,
                  "--min_foreground", 0.08, to=slices)  # fmt: skip
    return slices


def demo_model(name: str, out: str, anatomies: str, cases: str | None) -> Steps:
    """The embedded checkpoint, from label maps to model folder, and its scores; synthetic subjects only."""
    require_choice("SIZE", name, ["full"])
    steps = Steps()
    slices = add_brain_slices(steps, out, anatomies, DEMO_SPLITS, [], 96, 2)
    parts = []
    for part in ("classifier", "autoencoder", "diffusion"):
        to = f"{out}/{part}"
        steps.add(part, "launch", f"examples/train_{part}.py", "--preset", "demo", "--dataset", slices,
                  "--output_dir", to, "--resume_from_checkpoint", "latest", "--cpu", "--report_to", "none",
                  to=to)  # fmt: skip
        parts += [f"--{part}", to]
    maps = ["--saliency_options", json.dumps({"reference": "reconstruction", "num_steps": 6, "step_size": 0.03})]
    shared = "--anomaly_channels 0 --morphology_size 3".split()
    model, methods = f"{out}/model", f"{out}/methods"
    steps.add("model", "python", "examples/assemble_pipeline.py", "--dataset", slices, parts, "--output_dir", model,
              "--dtype float16 --preset fast --percentile 95".split(), shared, "--limit", 60, maps,
              "--training_data", "Synthetic subjects only: BrainPhantom over the label maps of SynthSeg.",
              to=model)  # fmt: skip
    calibrated, grid = f"{out}/calibrated", {"noise_level": [350, 500], "percentile": [90, 95]}
    steps.add("calibrated", "python", "examples/calibrate_pipeline.py", model, "--dataset", slices, "--limit", 48,
              "--grid", json.dumps(grid), "--output_dir", calibrated, to=calibrated)  # fmt: skip
    steps.add("methods", "python", "examples/assemble_competitors.py", "--dataset", slices, parts,
              "--methods", "ACAT, calibrated map", "DDIM-DDPM", "--num_inference_steps", 10, shared,
              "--output_dir", methods, maps, to=methods)  # fmt: skip
    rows = ["--all", methods, slices, "--method", "Dif-fuse", calibrated, slices] * 3  # seeds of the sampling
    steps.add("evaluation", "python", "examples/evaluate_anomaly.py", rows, "--limit", 30,
              "--output_dir", f"{out}/evaluation", to=f"{out}/evaluation")  # fmt: skip
    return steps


@dataclass(frozen=True)
class BrainModelSize:
    """A model of brain MR that does without some modalities: what differs between a smoke test and a model of use."""

    subjects: tuple[int, int, int]  # to train, validate and test
    image: int  # pixels of a side
    pixel_mm: float
    steps: tuple[int, int, int]  # of classifier, autoencoder and U-Net
    unet: str
    limit: int  # validation slices of a class
    common: str = ""


BRAIN_MODEL = {
    "smoke": BrainModelSize(
        subjects=(2, 2, 2),
        image=32,
        pixel_mm=6,
        steps=(3, 3, 3),
        unet="--block_out_channels 16 16",
        limit=4,
        common="--mixed_precision no --batch_size 4 --warmup_steps 1 --validation_steps 3 --validation_samples 8",
    ),
    "full": BrainModelSize(
        subjects=(300, 24, 32),
        image=128,
        pixel_mm=1.5,
        steps=(6000, 6000, 40_000),
        unet="--block_out_channels 64 96 160 192",
        limit=60,
    ),
}


def brain_model(name: str, out: str, anatomies: str, cases: str | None) -> Steps:
    """A model of MR with lesions of five kinds that needs FLAIR alone; synthetic subjects only."""
    require_choice("SIZE", name, BRAIN_MODEL)
    steps, size = Steps(), BRAIN_MODEL[name]
    splits = {
        split: (members, subjects, 400 + seed)
        for (split, (members, _, seed)), subjects in zip(DEMO_SPLITS.items(), size.subjects)
    }
    slices = add_brain_slices(steps, out, anatomies, splits, ["--layout", "mr"], size.image, size.pixel_mm)
    parts = []
    for part, count in zip(("classifier", "autoencoder", "diffusion"), size.steps):
        to = f"{out}/{part}"
        words = [*size.unet.split(), "--patch_size", 2] if part == "diffusion" else []
        steps.add(part, "launch", f"examples/train_{part}.py", "--preset", "demo", "--dataset", slices,
                  "--output_dir", to, "--max_steps", count, "--modality_dropout", 0.5, words, size.common.split(),
                  "--resume_from_checkpoint latest --report_to none".split(), to=to)  # fmt: skip
        parts += [f"--{part}", to]
    maps = ["--saliency_options", json.dumps({"reference": "reconstruction", "num_steps": 6, "step_size": 0.03})]
    model, calibrated = f"{out}/model", f"{out}/calibrated"
    steps.add("model", "python", "examples/assemble_pipeline.py", "--dataset", slices, parts, "--output_dir", model,
              "--dtype float16 --preset fast --percentile 95 --anomaly_channels 0 --morphology_size 3".split(),
              "--optional_modalities t1 t1ce t2".split(), "--limit", size.limit, maps,
              "--training_data", "Synthetic subjects only: BrainPhantom over the label maps of SynthSeg.",
              to=model)  # fmt: skip
    steps.add("calibrated", "python", "examples/calibrate_pipeline.py", model, "--dataset", slices, "--limit",
              size.limit, "--channels", 0, "--grid", json.dumps({"noise_level": [350], "percentile": [90, 95]}),
              "--output_dir", calibrated, to=calibrated)  # fmt: skip
    for given, channels in (("all", []), ("flair", ["--channels", 0])):
        to = f"{out}/evaluation/{given}"
        steps.add(f"evaluation/{given}", "python", "examples/evaluate_anomaly.py", "--method", "Dif-fuse", calibrated,
                  slices, channels, "--limit", size.limit, "--output_dir", to, to=to)  # fmt: skip
    return steps


RUNS: dict[str, Callable[..., Steps]] = {
    "classification": classification,
    "layers": layers,
    "anomaly": anomaly,
    "demo_model": demo_model,
    "brain_model": brain_model,
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", choices=RUNS)
    parser.add_argument("size", choices=["smoke", "evening", "night", "full"])
    parser.add_argument("out", type=Path)
    parser.add_argument("anatomies", type=Path, help="folder of label maps")
    parser.add_argument("--cases", type=Path, help="of anomaly: BraTS cases of your own, to be scored as well")
    parser.add_argument("--jobs", type=int, default=1, help="steps at a time")
    parser.add_argument("--launch", default="python", help='of the networks; "accelerate launch" uses several GPUs')
    parser.add_argument("--dry-run", action="store_true", help="print the command lines and run none")
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f"--jobs is 1 or more, got {args.jobs}")
    out, anatomies = str(args.out.resolve()), str(args.anatomies.resolve())
    cases = args.cases and str(args.cases.resolve())
    steps = RUNS[args.run](args.size, out, anatomies, cases)
    if args.dry_run:
        for step in steps:
            print(shlex.join(command_line(step, {"launch": args.launch.split()})))
        return
    for path in (args.anatomies, args.cases):
        if path is not None and not path.is_dir():
            raise InputError(f"There is no folder {path}; name one that holds the files the run starts from.")
    python, difffuse = [sys.executable], [str(Path(sys.executable).with_name("difffuse"))]
    launch = python if args.launch == "python" else args.launch.split()
    programs = {"python": python, "difffuse": difffuse, "launch": launch}
    run_steps(steps, Path(out, "steps.json"), programs, args.jobs, ROOT, KEEP_MEMORY)
    real = f", but for {cases}" if cases else ""
    print(f"Tables and figures are in {steps[-1].output} and beside it; all of them are of synthetic scans{real}.")


if __name__ == "__main__":
    run_script(main)
