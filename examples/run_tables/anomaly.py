"""Chapter 6: every method of Table 6.1, on MR and on head CT."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from difffuse_hf.errors import require_choice

from .steps import Steps


@dataclass(frozen=True)
class AnomalySize:
    """Chapter 6: what differs between a smoke test, a size that can rank methods, and the thesis's sizes."""

    subjects: int
    elsewhere: int  # subjects of the data set that no network has seen
    seeds: Sequence[int]
    classifier_steps: int
    steps: int  # of the diffusion networks
    noisy_steps: int
    dae_steps: int
    itermask_steps: int
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
    itermask: str = ""
    narrow: str = ""
    latent: str = ""
    common: str = ""
    validation: str = ""  # how often a network is validated, and after how many in vain it stops
    layout: str = "brats2021"  # of the subjects that the networks learn; `mr` has five kinds of lesion
    recipe: str = "--learning_rate 8e-4 --lr_scheduler cosine --warmup_steps 100 --ema_decay 0.995 --max_grad_norm 1"
    device: str = "--cpu"
    sweep: str = ""


SMALL_UNET = "--block_out_channels 8 16 --layers_per_block 1 --attention_levels 1 --norm_num_groups 4"
ANOMALY = {
    "smoke": AnomalySize(
        14, 3, [0], classifier_steps=4, steps=3, noisy_steps=3, dae_steps=3, itermask_steps=3, gan_steps=2,
        limit=4, repaint="6 2 2",
        counterfactual={"reference": "reconstruction", "num_steps": 2, "step_rule": "proximal"},
        cut="--image_size 32 --pixel_spacing_mm 6 --slice_margin 0 --min_foreground 0.08", inference=3, morphology=1,
        unet=SMALL_UNET, noisy=f"{SMALL_UNET} --attention_head_dim 8", dae="--channels 8 16 16",
        fanogan="--sample_size 32 --width 8 --batch_size 4", itermask=SMALL_UNET,
        narrow="--channels 8 8 8 8", latent="--channels 8 8 8",
        common="--batch_size 4", validation="--validation_steps 1 --validation_samples 4 --patience 3",
        sweep="--noise_levels 100 500 --percentiles 80 90 --num_samples 1 2 --pictures 250 500",
    ),
    "evening": AnomalySize(
        84, 24, [0, 1, 2], classifier_steps=1200, steps=900, noisy_steps=900, dae_steps=900, itermask_steps=900,
        gan_steps=300, limit=16, repaint="12 4 4",
        counterfactual={"reference": "reconstruction", "num_steps": 16, "step_rule": "proximal", "step_growth": 1.5},
        cut="--image_size 48 --pixel_spacing_mm 4 --slice_margin 0 --min_foreground 0.08", inference=12, morphology=3,
        unet="--block_out_channels 16 32 64 96 --layers_per_block 1 --attention_levels 1 --norm_num_groups 8",
        noisy="--block_out_channels 16 32 64 64 --layers_per_block 1 --attention_levels 1 --attention_head_dim 16 "
        "--norm_num_groups 8",
        dae="--channels 16 32 64 96",
        fanogan="--sample_size 48 --width 12 --batch_size 16 --critic_steps 2 --learning_rate 2e-4 "
        "--encoder_steps 900 --encoder_learning_rate 2e-4",
        itermask="--block_out_channels 16 32 64 96 --layers_per_block 1 --attention_levels 1 --norm_num_groups 8",
        narrow="--channels 16 32 64 128", latent="--channels 16 32 64 --strides 2 1 1", common="--batch_size 16",
        validation="--validation_steps 100 --validation_samples 96",
    ),
    "ranking": AnomalySize(  # until each network's validation stops improving
        400, 60, [0, 1, 2], classifier_steps=40000, steps=100000, noisy_steps=100000, dae_steps=100000,
        itermask_steps=100000, gan_steps=100000, limit=150, repaint="50 5 5",
        counterfactual={"reference": "reconstruction", "num_steps": 16, "step_rule": "proximal", "step_growth": 1.5},
        cut="--image_size 96 --pixel_spacing_mm 2 --slice_margin 0 --min_foreground 0.08", inference=25, morphology=3,
        unet="--patch_size 2 --block_out_channels 64 96 128 192 --attention_levels 2",
        noisy="--block_out_channels 32 64 96 128 --attention_levels 2 --attention_head_dim 32",
        dae="--channels 32 64 128 256",
        fanogan="--sample_size 96 --width 32 --encoder_steps 50000",
        itermask="--block_out_channels 32 64 96 128 --attention_levels 2",
        narrow="--channels 32 64 128 256", latent="--channels 32 64 128 --strides 2 1 1", common="--batch_size 32",
        recipe="--learning_rate 4e-4 --lr_scheduler constant --warmup_steps 500 --ema_decay 0.999 --max_grad_norm 1",
        validation="--validation_steps 500 --patience 8", layout="mr", device="",
    ),
    "full": AnomalySize(
        1000, 110, [0, 1, 2], classifier_steps=60000, steps=60000, noisy_steps=150000, dae_steps=67200,
        itermask_steps=150000, gan_steps=500000, limit=200, repaint="250 10 10",
        counterfactual={"num_steps": 20}, recipe="", device="",
    ),
}  # fmt: skip


def anomaly(name: str, out: str, anatomies: str, cases: str | None) -> Steps:
    """Chapter 6. The networks learn FLAIR and T1 of gliomas (layout BraTS; `ranking`: of lesions of five kinds), so
    that the same ones can be scored on white-matter hyperintensities (layout WMH), and on `cases`, a folder of real
    BraTS cases: they have seen neither.
    """
    require_choice("SIZE", name, ANOMALY)
    size, steps = ANOMALY[name], Steps()
    phantom, heads, cut = ["datasets_scripts/make_phantom.py"], ["--anatomies", anatomies], size.cut.split()
    glioma, lesions, wmh = f"{out}/glioma", f"{out}/hyperintensities", f"{out}/wmh"
    brats, channels = ["datasets_scripts/prepare_brats2021.py"], "--modalities flair t1".split()
    steps.add("glioma", "python", phantom, glioma, "--layout", size.layout, "--subjects", size.subjects, heads,
              to=glioma)  # fmt: skip
    steps.add("hyperintensities", "python", phantom, lesions, "--layout", "wmh", "--subjects", size.elsewhere, heads,
              to=lesions)  # fmt: skip
    steps.add("wmh", "python", "datasets_scripts/prepare_wmh.py", lesions, wmh, "--split", "test", cut, to=wmh)
    foreign = [add_twins(steps, "wmh_twins", wmh, lesions, f"{out}/wmh_twins", "wmh", anatomies)]
    if cases:
        real = f"{out}/cases"
        foreign.append(steps.add("cases", "python", brats, cases, real, "--split", "test", channels, cut, to=real))
    for seed in size.seeds:
        data = f"{out}/{seed}/data"
        steps.add(f"{seed}/data", "python", brats, glioma, data, channels, "--split_seed", seed, cut, to=data)
    networks = add_anomaly_networks(steps, size, out)
    for seed in size.seeds:
        add_methods(steps, size, seed, f"{out}/{seed}")
        add_twins(steps, f"{seed}/twins", f"{out}/{seed}/data", glioma, f"{out}/{seed}/twins", size.layout, anatomies)

    # Table 6.1, Figs. 6.3, 6.6 and 6.7; then which method to take
    elsewhere = ["--out_of_domain", *foreign, "--cohort", "brats", "--out_of_domain_cohort", "wmh"]
    add_tables(steps, size, out, "methods", f"{out}/tables", elsewhere)
    add_tables(steps, size, out, "methods_by_labels", f"{out}/tables_by_labels", [])
    few = ["--options", json.dumps({"num_inference_steps": size.inference, "display_steps": 0})]
    steps.add("sweep", "python", "examples/sweep_noise_and_threshold.py", "--model", f"{out}/0/methods/Dif-fuse",
              "--dataset", f"{out}/0/data", "--seeds", 1, "--limit", size.limit, "--output_dir", f"{out}/sweep",
              few if size.inference else [], size.sweep.split(), to=f"{out}/sweep")  # fmt: skip
    steps.add("choosing", "python", "examples/choose_method.py", f"{out}/tables", "--by_labels",
              f"{out}/tables_by_labels", "--networks", networks, "--output_dir", f"{out}/choosing",
              to=f"{out}/choosing")  # fmt: skip
    return steps


def add_twins(steps: Steps, name: str, slices: str, raw: str, to: str, layout: str, anatomies: str) -> str:
    """The same slices, with each as it was before its lesion was painted in."""
    return steps.add(name, "python", "datasets_scripts/add_healthy_twins.py", slices, raw, to, "--layout", layout,
                     "--anatomies", anatomies, to=to)  # fmt: skip


def add_methods(steps: Steps, size: AnomalySize, seed: int, here: str) -> None:
    """Every method of a seed, tuned with drawn lesions, and again by image labels alone."""
    parts = ("classifier", "autoencoder", "simplex", "conditional", "noisy_classifier", "fanogan", "itermask")
    networks = [word for part in parts for word in (f"--{part}", f"{here}/{part}")]
    networks += ["--diffusion", f"{here}/healthy", "--denoising_autoencoder", f"{here}/denoising_ae"]
    for name, how in (("methods", []), ("methods_by_labels", ["--without_masks"])):
        steps.add(f"{seed}/{name}", "python", "examples/assemble_competitors.py", "--dataset", f"{here}/data",
                  "--output_dir", f"{here}/{name}", networks, how,
                  "--limit", size.limit, "--seed", seed, "--percentile_over", "foreground",
                  ["--morphology_size", size.morphology] if size.morphology else [],
                  "--saliency_options", json.dumps(size.counterfactual), "--repaint_steps", size.repaint.split(),
                  ["--num_inference_steps", size.inference] if size.inference else [],
                  to=f"{here}/{name}")  # fmt: skip


def add_tables(steps: Steps, size: AnomalySize, out: str, methods: str, to: str, elsewhere: list[str]) -> None:
    """The scores of all methods in the folder `methods` of each seed, and of Dif-fuse with late blending."""
    judges = ["--classifier", *(f"{out}/{seed}/classifier" for seed in size.seeds)]  # none has seen its test anatomies
    late = json.dumps({"background": "late", "num_inference_steps": size.inference, "display_steps": 0})
    rows = []
    for seed in size.seeds:
        here, twins = f"{out}/{seed}/{methods}", f"{out}/{seed}/twins"
        rows += ["--all", here, twins, "--method", "Dif-fuse, late blending", f"{here}/Dif-fuse", twins, late]
    steps.add(Path(to).name, "python", "examples/evaluate_anomaly.py", rows, elsewhere, judges,
              "--reference", "Dif-fuse", "Dif-fuse, adaptive mask",
              "--limit", 3 * size.limit // 2, "--output_dir", to, to=to)  # fmt: skip


def add_anomaly_networks(steps: Steps, size: AnomalySize, out: str) -> list[str]:
    """All networks of all seeds, and their folders; the two that judge and explain first."""
    common, folders = size.common.split(), []

    def network(seed: int, name: str, script: str, *words) -> None:
        to = f"{out}/{seed}/{name}"
        steps.add(f"{seed}/{name}", "launch", f"examples/{script}.py", *words,
                  "--dataset", f"{out}/{seed}/data", "--seed", seed, size.validation.split(),
                  "--report_to none --resume_from_checkpoint latest".split(), size.device.split(),
                  "--output_dir", to, to=to)  # fmt: skip
        folders.append(to)

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
        network(seed, "itermask", "train_itermask", size.itermask.split(), "--max_steps", size.itermask_steps, common,
                recipe)  # fmt: skip
        network(seed, "fanogan", "train_fanogan", size.fanogan.split(), "--max_steps", size.gan_steps)
    return folders
