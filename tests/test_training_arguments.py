"""What a training is told: presets, choices, and what bad usage says."""

import pytest
import torch
from accelerate import tracking
from accelerate.utils import LoggerType
from tiny_trainings import TINY, load_script

from difffuse_hf.errors import InputError
from difffuse_hf.training import arguments
from difffuse_hf.training.arguments import TrainingArguments, json_options, learning_rate_factor, parse_arguments

BASE = ["--dataset", "data", "--output_dir", "out"]


def test_flags_win_over_the_preset_and_the_preset_over_the_defaults():
    presets = {
        "thesis": {"seed": 4, "flip": False, "learning_rate": 0.1},
        "demo": {"max_steps": 7, "learning_rate": 0.5},
    }

    def parsed(*flags):
        args = parse_arguments(TrainingArguments, presets, [*BASE, *flags])
        return args.max_steps, args.learning_rate, args.seed, args.flip

    assert parsed() == (60_000, 0.1, 4, False)
    assert parsed("--preset", "demo") == (7, 0.5, 4, False)  # the thesis's, where the other says nothing
    assert parsed("--max_steps", "3", "--preset", "demo") == (3, 0.5, 4, False)
    assert parsed("--preset", "demo", "--learning_rate", "1e-4", "--flip") == (7, 1e-4, 4, True)  # a default, too


@pytest.mark.parametrize("script", TINY)
@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--optimizer", "sgd", "--lr_scheduler", "linear"), "invalid choice: 'sgd' (choose from "),
        (("--report_to", "paper"), "invalid choice: 'paper' (choose from "),
        (("--optimiser", "adam"), "unrecognized arguments: --optimiser adam"),
    ],
)
def test_a_word_that_no_script_knows_ends_it_with_one_sentence(script, flags, sentence, capsys):
    with pytest.raises(SystemExit) as ended:
        load_script(script).main([*BASE, *flags])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and sentence in said and said.count("\n") <= 3


def test_a_tracker_that_is_not_installed_is_refused_and_not_left_out(monkeypatch, capsys):
    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType.TENSORBOARD])
    for name in ("none", "tensorboard", "all"):
        assert parse_arguments(TrainingArguments, argv=[*BASE, "--report_to", name]).report_to == name
    with pytest.raises(SystemExit) as ended:
        load_script("train_classifier").main([*BASE, "--report_to", "wandb"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") <= 3
    assert "the package wandb is not installed: pip install wandb, or choose one of none, tensorboard." in said
    monkeypatch.setattr(tracking, "_available_trackers", [])
    for name in ("all", "tensorboard"):
        with pytest.raises(InputError, match="the package tensorboard is not installed.*one of none"):
            TrainingArguments(dataset="data", output_dir="out", report_to=name)


@pytest.mark.parametrize(
    ("script", "flags", "sentence"),
    [
        (
            "train_classifier",
            ("--backbone", "resnet19"),
            "`backbone` must be half_brain, whole_brain, vit, swin or one of timm",
        ),
        ("train_acat", ("--method", "cam"), "invalid choice: 'cam' (choose from "),
        ("train_fanogan", ("--encoder_optimizer", "sgd"), "invalid choice: 'sgd'"),
        ("train_diffusion", ("--noise", "pink"), "invalid choice: 'pink'"),
        ("train_diffusion", ("--prediction_type", "sample"), "invalid choice: 'sample'"),
        ("train_denoising_ae", ("--preset", "demo"), "must be one of thesis, got 'demo'"),
        ("train_denoising_ae", ("--preset", "ours"), "invalid choice: 'ours'"),
    ],
)
def test_a_word_that_this_script_does_not_know_ends_it_with_one_sentence(script, flags, sentence, capsys):
    with pytest.raises(SystemExit) as ended:
        load_script(script).main([*BASE, *flags])
    assert ended.value.code == 2 and sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ({"optimizer": "sgd"}, "`optimizer` must be one of adam, adamw, amsgrad, rmsprop, got 'sgd'"),
        ({"lr_scheduler": "linear"}, "`lr_scheduler` must be one of constant, cosine, got 'linear'"),
        ({"mixed_precision": "fp8"}, "`mixed_precision` must be one of auto, no, fp16, bf16, got 'fp8'"),
        ({"preset": "ours"}, "`preset` must be one of thesis, demo, got 'ours'"),
        ({"report_to": "paper"}, "`report_to` must be one of none, "),
    ],
)
def test_a_word_that_is_not_known_is_refused_in_python_too(choice, sentence):
    with pytest.raises(InputError, match=sentence):
        TrainingArguments(dataset="", output_dir="", **choice)


def test_options_are_written_as_json():
    assert json_options("--options", '{"a": [1]}') == {"a": [1]}
    for text, sentence in (("{", "--options { is no JSON"), ("3", "--options 3 names no options")):
        with pytest.raises(InputError, match=sentence):
            json_options("--options", text)


def test_the_learning_rate_warms_up_and_follows_a_cosine():
    args = TrainingArguments(dataset="", output_dir="", lr_scheduler="cosine", warmup_steps=4, max_steps=104)
    assert [learning_rate_factor(step, args) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert learning_rate_factor(4, args) == 1
    assert learning_rate_factor(54, args) == pytest.approx(0.5)
    assert 0 < learning_rate_factor(103, args) < 1e-3


def test_automatic_precision_is_that_in_which_the_device_computes(monkeypatch):
    def made(**options):
        return TrainingArguments(dataset="data", output_dir="out", cpu=True, **options)

    for native, expected in ((torch.bfloat16, "bf16"), (torch.float32, "no")):
        monkeypatch.setattr(arguments, "fastest_dtype", lambda device, native=native: native)
        assert arguments.mixed_precision_of(made(mixed_precision="auto")) == expected
    assert arguments.mixed_precision_of(made(mixed_precision="fp16")) == "fp16"
    assert arguments.mixed_precision_of(made()) is None


def test_the_hub_repository_is_named_in_either_way_or_by_the_output_folder():
    def pushed(*flags):
        return parse_arguments(
            TrainingArguments, argv=["--dataset", "d", "--output_dir", "out/u-net", *flags]
        ).push_to_hub

    assert pushed() is None
    assert pushed("--push_to_hub", "me/u-net", "--seed", "1") == "me/u-net"
    assert pushed("--push_to_hub", "--hub_model_id", "me/model") == "me/model"
    assert pushed("--push_to_hub") == "u-net"
    with pytest.raises(SystemExit):
        pushed("--hub_model_id", "me/model")
