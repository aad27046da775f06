"""The numbers of the thesis's recipes, read from the defaults of the scripts (Secs. 4.4, 5.6.2, 5.6.7 to 5.6.9)."""

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from difffuse_hf import LesionClassifierConfig, SliceClassifier, SliceClassifierConfig
from difffuse_hf.errors import InputError
from difffuse_hf.models.configuration_acat import ACATConfig
from difffuse_hf.models.configuration_slice_classifier import THESIS_SWIN, THESIS_VIT
from difffuse_hf.preprocessing.registration import choose_template
from difffuse_hf.training.arguments import make_optimizer, parse_arguments
from difffuse_hf.training.classifiers import RECIPE, augmented_scans

ROOT = Path(__file__).parents[1]
FOLDERS = ["--dataset", "data", "--output_dir", "out"]
SIDES = ["none", "left", "right", "both"]


def script(name):
    specification = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def runs():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "examples")  # as for a script that lies there
        return importlib.import_module("run_tables.classification")


def steps_of(runs, size="full"):
    return {step.name: list(step.command) for step in runs.classification(size, "/out", "/anatomies", None)}


def after(command, flag):
    return command[len(command) - command[::-1].index(flag)]


def test_the_half_brain_classifier_is_trained_in_three_stages_of_200_epochs_in_all():
    """Sec. 4.4: the halves at 1e-3, the heads at 1e-4, everything at 1e-5; Adam, a cosine, decay 5e-5, flips."""
    module = script("train_classifier")
    args = parse_arguments(module.Arguments, {"thesis": RECIPE}, FOLDERS)
    assert module.HALF_BRAIN == (("halves", 1e-3), ("heads", 1e-4), ("fine_tuned", 1e-5))
    assert args.stage_learning_rates == [1e-3, 1e-4, 1e-5]
    assert args.stage_epochs == [100, 50, 50] and sum(args.stage_epochs) == 200
    assert (args.optimizer, args.lr_scheduler, args.weight_decay, args.learning_rate) == ("adam", "cosine", 5e-5, 1e-3)
    assert (args.flip, args.dropout, args.num_layers, args.num_pools, args.pooling) == (True, 0, 7, None, "average")
    group = make_optimizer([torch.nn.Parameter(torch.zeros(1))], args).param_groups[0]
    assert type(make_optimizer([torch.nn.Parameter(torch.zeros(1))], args)) is torch.optim.Adam
    assert (group["weight_decay"], group["decoupled_weight_decay"]) == (5e-5, False)  # Adam's own, not AdamW's


def test_acat_and_its_competitors_have_100_epochs_from_the_baseline_and_so_has_the_baseline():
    module = script("train_acat")
    args = parse_arguments(module.Arguments, {"thesis": module.ACAT_RECIPE}, FOLDERS)
    assert (args.epochs, args.learning_rate, args.weight_decay, args.optimizer) == (100, 1e-4, 5e-5, "adam")
    assert (args.method, args.from_scratch, args.lr_scheduler) == ("acat", False, "cosine")
    for method in [*module.METHODS, "baseline"]:
        assert parse_arguments(module.Arguments, {}, [*FOLDERS, "--method", method]).method == method


def test_the_options_of_acat_are_the_thesiss():
    config = ACATConfig()
    assert (config.attention_stages, config.fusion, config.residual) == ([1, 3, 5], True, True)
    assert (config.slice_attention, config.slice_attention_dropout, config.dropout) == (True, 0.1, 0.2)
    assert (config.attention, config.num_slices, config.attention_batch_norm) == ("saliency", None, False)
    assert LesionClassifierConfig().hidden_sizes == [16, 32, 48, 64, 64, 64, 64]


def test_transformers_have_the_dropouts_of_the_thesis():
    """Sec. 4.3: 0.1 in attention and embedding of the ViT; a drop path that rises from 0 to 0.2 in the Swin."""
    assert {THESIS_VIT["backbone_kwargs"][f"{name}_drop_rate"] for name in ("pos", "proj", "attn")} == {0.1}
    small = {"img_size": 64, "window_size": 2, "embed_dim": 12, "depths": [2, 2], "num_heads": [1, 2]}
    swin = SliceClassifier(
        SliceClassifierConfig(**THESIS_SWIN | {"backbone_kwargs": THESIS_SWIN["backbone_kwargs"] | small})
    )
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for stage in swin.backbone.layers for block in stage.blocks]
    assert rates == pytest.approx([0, 0.2 / 3, 0.4 / 3, 0.2])


def test_patches_that_would_leave_rows_unseen_are_refused():
    check = script("train_classifier").check_patches
    for size, patch in (([500, 400], 25), ([500, 400], 50), ([128, 128], 16), (500, 25)):
        check({"img_size": size, "patch_size": patch})
    with pytest.raises(InputError, match="Patches of 25 do not fit into .128, 128. pixels: the last 3 rows"):
        check({"img_size": [128, 128], "patch_size": 25})


def test_the_table_of_runs_has_the_thesiss_numbers(runs):
    steps = steps_of(runs)
    mosmed, ist3 = "mosmed/0", "ist3/0"
    assert after(steps[f"{mosmed}/baseline"], "--backbone") == "resnet50"
    assert after(steps[f"{mosmed}/baseline"], "--epochs") == after(steps[f"{mosmed}/ViT"], "--epochs") == "200"
    assert after(steps[f"{ist3}/ResNet-18"], "--epochs") == "200"
    stages = steps[f"{ist3}/baseline"].index("--stage_epochs")
    assert steps[f"{ist3}/baseline"][stages + 1 : stages + 4] == ["100", "50", "50"]
    patches = {
        name: json.loads(after(steps[name], "--backbone_kwargs"))["patch_size"]
        for name in (f"{ist3}/ViT of chapter 4", f"{ist3}/ViT", f"{mosmed}/ViT")
    }
    assert list(patches.values()) == [25, 50, 16]
    assert after(steps[f"{ist3}/whole brain"], "--backbone") == "whole_brain"
    assert {after(steps[f"{ist3}/{name}"], "--epochs") for name in ("ACAT", "SMIC", "baseline, more epochs")} == {
        "100"
    }
    assert after(steps["ist3/saliency tables"], "--noise_std") == "1.0"
    assert after(steps["ist3/saliency tables"], "--noise_model").endswith("ACAT from scratch")
    assert "--from_scratch" in steps[f"{ist3}/ACAT from scratch"] and "--from_scratch" not in steps[f"{ist3}/ACAT"]
    assert "--stage_learning_rates" not in steps[f"{ist3}/baseline"] and "--window" not in steps["stroke/scans"]


def test_the_ablation_takes_one_part_after_the_other_and_dropout_has_two_rates(runs):
    for cohort, stages in (("ist3", [[1, 3], [1]]), ("mosmed", [[1, 2], [1]])):
        flags = {
            name: json.loads(words[1]) for name, words in runs.variants(cohort).items() if words[0] == "--options"
        }
        assert flags["ACAT − fusion"] == {"fusion": False}
        assert flags["ACAT − fusion − late"] == {"fusion": False, "attention_stages": stages[0]}
        assert flags["ACAT − fusion − late − middle"] == {"fusion": False, "attention_stages": stages[1]}
        assert [some["dropout"] for some in flags.values() if some.get("attention") == "dropout"] == [0.2, 0.6]


def test_limited_data_are_tried_with_all_eight_methods(runs):
    """Table 5.5."""
    names = {name.split(" of ")[0] for name in steps_of(runs) if name.endswith(" of 50")}
    assert names == {f"ist3/{seed}/{name}" for seed in range(3) for name in ("baseline", "ViT", *runs.COMPETITORS)}
    assert len(names) == 3 * 8


def test_fig_4_3_has_one_to_eight_layers(runs):
    steps = runs.layers("full", "/out", "/anatomies", None)
    counts = {after(list(step.command), "--num_layers") for step in steps if "--num_layers" in step.command}
    assert counts == {str(count) for count in range(1, 9)}


def test_a_scan_that_is_flipped_in_training_has_its_side_exchanged():
    """Sec. 4.4: half of all scans are mirrored, and left becomes right."""
    images = torch.zeros(64, 1, 1, 2, 4)
    images[..., 3] = 1.0  # the patient's left is on the right of the picture
    labels = torch.ones(64, dtype=torch.long)
    names = ("intensity_augmentation", "noise_augmentation", "shift_augmentation", "rotation_augmentation",
             "zoom_augmentation", "modality_dropout")  # fmt: skip
    args = SimpleNamespace(seed=0, flip=True, **dict.fromkeys(names, 0))
    batch = {"pixel_values": images, "label": labels, "position": torch.arange(64)}
    changed, _, sides = augmented_scans(args, batch, SIDES)
    on_the_left = changed[:, 0, 0, 0, 3] == 1
    assert 16 < on_the_left.sum() < 48
    assert torch.equal(sides, torch.where(on_the_left, 1, 2))


def test_the_older_template_is_taken_above_72_years():
    """Sec. 3.4.4: the template of 65 to 70 years up to 72, that of 75 to 80 above."""
    assert [choose_template(age, "young", "old") for age in (40, 72, 72.5, 73)] == ["young", "young", "old", "old"]
