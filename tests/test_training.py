"""The training loop: exact resuming, whole checkpoints, presets, losses and random changes of slices."""

import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image
from safetensors.torch import load_file
from scipy.stats import chisquare, kstest
from torch.testing import assert_close

from difffuse_hf import DifFuseScheduler
from difffuse_hf.data.slices import load_slices
from difffuse_hf.errors import InputError
from difffuse_hf.io.files import write_into
from difffuse_hf.training.arguments import TrainingArguments, learning_rate_factor, parse_arguments
from difffuse_hf.training.augmentation import augment, augment_uniforms, flip_labels, mirrored, turned
from difffuse_hf.training.loop import fit
from difffuse_hf.training.losses import balanced_class_weights, classification_loss, noised
from difffuse_hf.training.sampler import StepBatches, _mix, sample_uniform

EXAMPLES = Path(__file__).parents[1] / "examples"
TINY = {
    "train_classifier": [
        *("--backbone", "resnet10t", "--channels", "8", "8", "8", "8", "--dropout", "0.5", "--balance_classes"),
        *("--noise_augmentation", "0.1", "--shift_augmentation", "2", "--intensity_augmentation", "0.1"),
        *("--lr_scheduler", "constant"),
    ],
    "train_autoencoder": [
        *("--channels", "4", "4", "4", "--gradient_accumulation_steps", "2", "--intensity_augmentation", "0.1"),
        *("--lr_scheduler", "constant", "--max_grad_norm", "1"),
    ],
    "train_denoising_ae": ["--channels", "4", "4", "--noise_resolution", "4", "--flip"],
    "train_noisy_classifier": [
        *("--block_out_channels", "8", "8", "--attention_levels", "1", "--norm_num_groups", "4"),
        *("--layers_per_block", "1", "--balance_classes", "--max_timestep", "500"),
    ],
    "train_diffusion": [
        *("--block_out_channels", "8", "8", "--attention_levels", "1", "--norm_num_groups", "4"),
        *("--layers_per_block", "1", "--warmup_steps", "3", "--intensity_augmentation", "0.1"),
    ],
}


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    """Twenty-two training slices, half of them with a bright square, as `save_to_disk` writes them."""
    folder = tmp_path_factory.mktemp("data") / "slices"
    random = np.random.default_rng(0)

    def split(count):
        image = random.uniform(0, 0.5, (count, 2, 16, 16)).astype(np.float32)
        label = np.arange(count) % 2
        image[label == 1, :, 4:8, 4:8] += 0.5
        features = {
            "image": datasets.Array3D((2, 16, 16), "float32"),
            "label": datasets.ClassLabel(names=["healthy", "lesion"]),
        }
        return datasets.Dataset.from_dict({"image": list(image), "label": label}, features=datasets.Features(features))

    datasets.DatasetDict(train=split(22), validation=split(8)).save_to_disk(folder)
    return folder


def command(script, slices, output, *flags):
    return [
        *("--dataset", str(slices), "--output_dir", str(output), "--batch_size", "4", "--cpu"),
        *("--report_to", "none", *TINY[script], *flags),
    ]


def train(script, slices, output, *flags):
    """Run a training script in this process; its weights by name."""
    specification = importlib.util.spec_from_file_location(script, EXAMPLES / f"{script}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    module.main(command(script, slices, output, *flags))
    return weights(output)


def history(output):
    return [json.loads(line) for line in (Path(output) / "history.jsonl").read_text().splitlines()]


def weights(output):
    (file,) = [file for file in Path(output).rglob("*model.safetensors") if "checkpoint-" not in str(file)]
    return load_file(file)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("script", TINY)
def test_a_run_resumed_in_the_middle_of_an_epoch_ends_with_the_weights_of_an_uninterrupted_one(
    script, slices, tmp_path
):
    options = ["--checkpointing_steps", "4", "--validation_steps", "3", "--log_every", "3"]
    whole = train(script, slices, tmp_path / "whole", "--max_steps", "9", *options)
    cut = train(script, slices, tmp_path / "cut", "--max_steps", "5", *options)
    (checkpoint,) = (tmp_path / "cut").glob("checkpoint-*")
    assert checkpoint.name == "checkpoint-4"  # step 5 is done again
    resumed = train(
        script, slices, tmp_path / "cut", "--max_steps", "9", "--resume_from_checkpoint", "latest", *options
    )
    assert same(whole, resumed)
    assert not same(whole, cut)
    assert [line["step"] for line in history(tmp_path / "cut")] == [3, 3, 6, 6, 9, 9]  # a loss and a validation each
    assert history(tmp_path / "cut") == history(tmp_path / "whole")


@pytest.mark.parametrize(
    "variant, out_channels, classes",
    [
        (["--learned_variance", "--prediction_type", "v_prediction", "--snr_gamma", "5"], 4, None),
        (["--class_conditional", "--label_dropout", "0.5"], 2, 3),
        (["--noise", "simplex", "--max_timestep", "800"], 2, None),
    ],
)
def test_variants_of_the_denoiser_train_and_leave_pictures_and_losses_by_timestep(
    variant, out_channels, classes, slices, tmp_path
):
    options = ["--max_steps", "4", "--validation_steps", "2", "--checkpointing_steps", "0", "--display_steps", "2"]
    train("train_diffusion", slices, tmp_path / "out", *variant, *options)
    unet = UNet2DModel.from_pretrained(tmp_path / "out", subfolder="unet")
    scheduler = DifFuseScheduler.from_pretrained(tmp_path / "out", subfolder="scheduler")
    assert (unet.config.out_channels, unet.config.num_class_embeds) == (out_channels, classes)
    assert scheduler.config.prediction_type == ("v_prediction" if "v_prediction" in variant else "epsilon")
    last = history(tmp_path / "out")[-1]["validation"]
    bands = [value for name, value in last.items() if name.startswith("loss/timesteps")]
    assert bands and min(bands) <= last["loss"] <= max(bands) and last["reconstruction_error"] >= 0
    pictures = sorted(path.name for path in (tmp_path / "out" / "pictures").iterdir())
    assert pictures == ["round_trip-000002.png", "round_trip-000004.png"]
    with Image.open(tmp_path / "out" / "pictures" / pictures[0]) as picture:
        assert picture.size == (4 * 16, 3 * 16)  # four slices; as they are, reconstructed, resampled


def start(script, slices, output, *flags):
    return subprocess.Popen(
        [sys.executable, EXAMPLES / f"{script}.py", *command(script, slices, output)]
        + ["--max_steps", "100000", "--log_every", "1", "--validation_steps", "0", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONUNBUFFERED": "1"},
    )


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_from_its_last_checkpoint_as_if_it_had_not_been(slices, tmp_path):
    script = "train_autoencoder"
    process = start(script, slices, tmp_path / "cut", "--checkpointing_steps", "3")
    while not (tmp_path / "cut" / "checkpoint-6").exists():
        process.stderr.read1()
        assert process.poll() is None
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL

    last = max(int(path.name.removeprefix("checkpoint-")) for path in (tmp_path / "cut").glob("checkpoint-*"))
    rest = ["--max_steps", str(last + 4), "--checkpointing_steps", "0", "--validation_steps", "0", "--log_every", "1"]
    resumed = train(script, slices, tmp_path / "cut", "--resume_from_checkpoint", "latest", *rest)
    assert same(resumed, train(script, slices, tmp_path / "whole", *rest))
    assert [line["step"] for line in history(tmp_path / "cut")] == list(range(1, last + 5))
    assert history(tmp_path / "cut") == history(tmp_path / "whole")


@pytest.mark.slow
def test_ctrl_c_saves_a_checkpoint_and_the_resumed_run_cannot_be_told_from_an_uninterrupted_one(slices, tmp_path):
    script = "train_autoencoder"
    process = start(script, slices, tmp_path / "cut")
    shown = b""
    while b"loss=" not in shown:
        shown += process.stderr.read1()
        assert process.poll() is None, shown.decode()
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.decode().count("--resume_from_checkpoint latest") == 1

    (checkpoint,) = (tmp_path / "cut").glob("checkpoint-*")
    stopped = json.loads((checkpoint / "progress.json").read_text())["step"]
    rest = ["--max_steps", str(stopped + 3), "--checkpointing_steps", "0", "--validation_steps", "0"]
    resumed = train(script, slices, tmp_path / "cut", "--resume_from_checkpoint", "latest", *rest)
    assert same(resumed, train(script, slices, tmp_path / "whole", *rest))


def test_latest_without_a_checkpoint_starts_from_scratch(slices, tmp_path):
    options = ["--max_steps", "2", "--validation_steps", "0"]
    first = train("train_autoencoder", slices, tmp_path / "a", *options)
    assert same(
        first, train("train_autoencoder", slices, tmp_path / "b", "--resume_from_checkpoint", "latest", *options)
    )


def test_an_old_run_is_not_overwritten_unasked(slices, tmp_path):
    options = ["--max_steps", "1", "--checkpointing_steps", "1", "--validation_steps", "0"]
    train("train_autoencoder", slices, tmp_path, *options)
    with pytest.raises(InputError, match="already holds checkpoint-1"):
        train("train_autoencoder", slices, tmp_path, *options)


def test_a_checkpoint_that_was_being_written_is_not_resumed_from(slices, tmp_path):
    options = ["--checkpointing_steps", "1", "--validation_steps", "0", "--checkpoints_total_limit", "2"]
    train("train_autoencoder", slices, tmp_path, "--max_steps", "3", *options)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3"]
    (tmp_path / ".writing-checkpoint-4").mkdir()
    train("train_autoencoder", slices, tmp_path, "--max_steps", "5", "--resume_from_checkpoint", "latest", *options)
    assert not list(tmp_path.glob(".writing*"))
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-5"]


def test_a_model_that_fails_to_save_leaves_the_old_one_alone(tmp_path):
    write_into(tmp_path / "model", lambda folder: (folder / "config.json").write_text("old"))

    def fail(folder):
        (folder / "config.json").write_text("new")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_into(tmp_path / "model", fail)
    assert [(file.name, file.read_text()) for file in (tmp_path / "model").iterdir()] == [("config.json", "old")]


def test_half_a_line_of_the_history_is_dropped_with_what_comes_after_the_checkpoint(slices, tmp_path):
    options = ["--checkpointing_steps", "2", "--validation_steps", "0", "--log_every", "1"]
    train("train_autoencoder", slices, tmp_path, "--max_steps", "3", *options)
    whole = (tmp_path / "history.jsonl").read_text()
    (tmp_path / "history.jsonl").write_text(whole + '{"step": 4, "lo')
    train("train_autoencoder", slices, tmp_path, "--max_steps", "4", "--resume_from_checkpoint", "latest", *options)
    assert (tmp_path / "history.jsonl").read_text().startswith(whole)
    assert [sorted(line) for line in history(tmp_path)] == [["learning_rate", "loss", "step"]] * 4


def fit_tiny(model, dataset, output, compute_loss, **options):
    args = TrainingArguments(
        dataset="slices", output_dir=str(output), batch_size=4, max_steps=3, cpu=True, report_to="none"
    )
    fit(model, dataset, compute_loss, args, **options)


def test_a_batch_holds_the_columns_asked_for_and_the_positions_in_the_stream(tmp_path):
    scans = {"image": np.random.rand(6, 3, 2, 4, 4), "saliency": np.random.rand(6, 3, 1, 4, 4), "side": np.arange(6)}
    features = {
        "image": datasets.Array4D((3, 2, 4, 4), "float32"),
        "saliency": datasets.Array4D((3, 1, 4, 4), "float32"),
        "side": datasets.Value("int64"),
    }
    dataset = datasets.Dataset.from_dict(
        {name: list(value) for name, value in scans.items()}, features=datasets.Features(features)
    )
    model, seen = torch.nn.Linear(4, 1), []

    def compute_loss(model, batch, generator):
        seen.append(batch)
        return model(batch["image"]).mean()

    fit_tiny(model, dataset, tmp_path / "out", compute_loss, columns=("image", "saliency", "side"))
    assert set(seen[0]) == {"image", "saliency", "side", "position"}
    assert torch.cat([batch["position"] for batch in seen]).tolist() == list(range(12))
    order = torch.cat([batch["side"] for batch in seen])
    assert sorted(order[:6].tolist()) == list(range(6))
    assert_close(torch.cat([batch["image"] for batch in seen]), torch.tensor(scans["image"]).float()[order])
    assert_close(torch.cat([batch["saliency"] for batch in seen]), torch.tensor(scans["saliency"]).float()[order])

    with pytest.raises(InputError, match="slices has no column label, .* it has image, saliency, side"):
        fit_tiny(model, dataset, tmp_path / "other", compute_loss)
    ragged = datasets.Dataset.from_dict({"image": [[0.0] * n for n in (1, 2, 3, 4)]})
    with pytest.raises(InputError, match="column 'image' are no numbers of one shape"):
        fit_tiny(model, ragged, tmp_path / "ragged", compute_loss, columns=["image"])


def test_frozen_parameters_stay_and_a_model_without_others_is_refused(slices, tmp_path):
    dataset = load_slices(str(slices), "train")
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 3), torch.nn.Conv2d(2, 1, 3))
    model[0].requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def compute_loss(model, batch, generator):
        return model(batch["image"]).square().mean()

    fit_tiny(model, dataset, tmp_path / "half", compute_loss)
    kept = [torch.equal(value, before[name]) for name, value in model.state_dict().items()]
    assert kept == [True, True, False, False]
    with pytest.raises(ValueError, match="nothing to train"):
        fit_tiny(model.requires_grad_(False), dataset, tmp_path / "none", compute_loss)


def test_the_averaged_weights_are_the_ones_saved(slices, tmp_path):
    options = ["--max_steps", "2", "--validation_steps", "0", "--warmup_steps", "0"]
    averaged = train("train_diffusion", slices, tmp_path / "ema", "--checkpointing_steps", "2", *options)
    last = load_file(tmp_path / "ema" / "checkpoint-2" / "model.safetensors")
    assert same(last, train("train_diffusion", slices, tmp_path / "last", "--ema_decay", "0", *options))
    assert not same(averaged, last)


def test_patience_keeps_the_best_weights_and_stops(slices, tmp_path):
    options = ["--validation_steps", "1", "--checkpointing_steps", "1", "--learning_rate", "0.5", "--patience", "2"]
    train("train_classifier", slices, tmp_path, "--max_steps", "50", *options)
    last = max(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    progress = json.loads((last / "progress.json").read_text())
    assert progress["step"] < 50 and progress["validations_without_improvement"] == 2
    assert math.isfinite(progress["best_loss"]) and not same(weights(tmp_path), load_file(last / "model.safetensors"))


def test_flags_win_over_the_preset_and_the_preset_over_the_defaults():
    base = ["--dataset", "data", "--output_dir", "out"]
    presets = {"demo": {"max_steps": 7, "learning_rate": 0.5}}

    def parsed(*flags):
        args = parse_arguments(TrainingArguments, presets, [*base, *flags])
        return args.max_steps, args.learning_rate

    assert parsed() == (60_000, 1e-4)
    assert parsed("--preset", "demo") == (7, 0.5)
    assert parsed("--max_steps", "3", "--preset", "demo") == (3, 0.5)
    assert parsed("--preset", "demo", "--learning_rate", "1e-4") == (7, 1e-4)  # even the default, when it is given


def test_every_epoch_shows_every_slice_once_whatever_the_start_and_the_processes():
    whole = list(StepBatches(length=10, batch_size=4, seed=1, first=0, last=10))
    seen = np.concatenate(whole)
    for epoch in range(4):
        assert sorted(seen[10 * epoch : 10 * (epoch + 1)]) == list(range(10))
    assert list(seen[:10]) != list(seen[10:20])
    assert list(StepBatches(10, 4, seed=1, first=7, last=10)) == whole[7:]
    ranks = [list(StepBatches(10, 4, seed=1, first=0, last=5, rank=rank, world=2)) for rank in (0, 1)]
    assert [batch for step in zip(*ranks) for batch in step] == whole


def test_the_positions_of_several_processes_are_those_of_one_with_the_whole_batch():
    whole = StepBatches(10, 4, seed=1, first=0, last=5)
    for step in range(5):
        parts = [StepBatches(10, 2, seed=1, first=3, last=5, rank=rank, world=2).positions(step) for rank in (0, 1)]
        assert [*parts[0], *parts[1]] == list(whole.positions(step))


def test_the_numbers_of_a_sample_are_uniform_and_independent_of_each_other():
    numbers = sample_uniform(seed=5, positions=torch.arange(20_000), count=4)
    assert numbers.shape == (20_000, 4) and numbers.dtype == torch.float32
    assert 0 <= numbers.min() and numbers.max() < 1
    for column in numbers.T:
        assert kstest(column.numpy(), "uniform").pvalue > 0.01
    neighbours = torch.cat([numbers[1:], numbers[:-1]], dim=1)  # a sample beside the next one
    another_seed = sample_uniform(seed=6, positions=torch.arange(20_000), count=4)
    for table in (neighbours, torch.cat([numbers, another_seed], dim=1)):
        correlation = torch.corrcoef(table.T) - torch.eye(8)
        assert correlation.abs().max() < 4 / 20_000**0.5  # four standard deviations
    pairs = (numbers[:, 0] * 10).long() * 10 + (numbers[:, 1] * 10).long()
    assert chisquare(torch.bincount(pairs, minlength=100).numpy()).pvalue > 0.01


def test_the_numbers_of_a_sample_do_not_depend_on_its_batch_or_on_how_many_are_asked_for():
    positions = torch.tensor([0, 7, 2**40, 3])
    together = sample_uniform(0, positions, 5)
    for position, row in zip(positions, together):
        assert torch.equal(sample_uniform(0, position[None], 3)[0], row[:3])
    assert not torch.equal(together, sample_uniform(1, positions, 5))
    assert len(together.unique()) == 20


def test_the_hash_of_the_positions_is_splitmix64():
    state, outputs = 1234567, []
    for _ in range(3):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        outputs.append(int(_mix(torch.tensor([state - 2**64 if state >= 2**63 else state]))[0]) % 2**64)
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]  # the algorithm's published ones


def test_the_learning_rate_warms_up_and_follows_a_cosine():
    args = TrainingArguments(dataset="", output_dir="", lr_scheduler="cosine", warmup_steps=4, max_steps=104)
    assert [learning_rate_factor(step, args) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert learning_rate_factor(4, args) == 1
    assert learning_rate_factor(54, args) == pytest.approx(0.5)
    assert 0 < learning_rate_factor(103, args) < 1e-3


def test_healthy_slices_have_label_zero_and_parquet_reads_like_a_saved_folder(slices, tmp_path):
    healthy = load_slices(str(slices), "train", healthy_only=True)
    assert len(healthy) == 11 and set(healthy["label"]) == {0}
    load_slices(str(slices), "train").to_parquet(tmp_path / "train-00000-of-00001.parquet")
    parquet = load_slices(str(tmp_path), "train", healthy_only=True).with_format("torch")
    assert torch.equal(parquet[:]["image"], healthy.with_format("torch")[:]["image"])


def test_data_and_folders_that_cannot_be_used_are_named(slices, tmp_path):
    with pytest.raises(InputError, match="no split named 'nothing'"):
        load_slices(str(slices), "nothing")
    with pytest.raises(InputError, match="neither a saved set"):
        load_slices(str(tmp_path), "train")
    saved = datasets.load_from_disk(str(slices))
    lesions = {split: saved[split].select(range(1, len(saved[split]), 2)) for split in saved}
    datasets.DatasetDict(lesions).save_to_disk(tmp_path / "lesions")
    with pytest.raises(InputError, match="no slices to train on"):  # the denoiser takes healthy ones
        train("train_diffusion", tmp_path / "lesions", tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose another --output_dir"):
        train("train_autoencoder", slices, tmp_path / "file" / "out")
    with pytest.raises(InputError, match="not a checkpoint"):
        train("train_autoencoder", slices, tmp_path / "out", "--resume_from_checkpoint", str(tmp_path))


def test_random_changes_keep_the_range_and_the_black_background_and_repeat_with_the_seed():
    image = torch.rand(8, 2, 16, 16) * (torch.arange(16) > 7)

    def changed(seed, **options):
        return augment(image, torch.Generator().manual_seed(seed), **options)

    everything = {"intensity": 0.3, "noise": 0.1, "shift": 3, "rotation": 10, "zoom": 0.1}
    assert torch.equal(changed(0, **everything), changed(0, **everything))
    assert not torch.equal(changed(0, **everything), changed(1, **everything))
    assert 0 <= changed(0, **everything).min() and changed(0, **everything).max() <= 1
    assert torch.equal(changed(0, flip=False), image)
    assert (changed(0, flip=False, intensity=0.3)[..., :8] == 0).all()
    flipped = changed(0)
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(flipped, image)]
    kept = [torch.equal(a, b) for a, b in zip(flipped, image)]
    assert any(mirrored) and any(kept) and all(m or k for m, k in zip(mirrored, kept))


EVERYTHING = {"intensity": 0.3, "noise": 0.1, "shift": 2, "rotation": 10, "zoom": 0.1}

MOVES = {"shift": 2, "rotation": 10, "zoom": 0.1}


def numbers_for(batch, channels):
    return sample_uniform(0, torch.arange(batch), augment_uniforms(channels))


def test_changes_decided_by_uniforms_are_the_same_in_any_batch():
    image, uniforms = torch.rand(8, 2, 12, 12), numbers_for(8, 2)
    whole = augment(image, uniforms=uniforms, **EVERYTHING)
    parts = [augment(image[i : i + 2], uniforms=uniforms[i : i + 2], **EVERYTHING) for i in (0, 2, 4, 6)]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, image) and 0 <= whole.min() and whole.max() <= 1
    flipped = augment(image, uniforms=uniforms)
    for i, mirror in enumerate(mirrored(uniforms)):
        assert torch.equal(flipped[i], image[i].flip(-1) if mirror else image[i])
    assert 0 < mirrored(uniforms).sum() < 8
    added = augment(torch.full((8, 1, 64, 64), 0.5), flip=False, noise=0.1, uniforms=uniforms) - 0.5
    assert_close(added.std((1, 2, 3)), 0.1 * uniforms[:, 3], rtol=0.05, atol=0)
    assert torch.corrcoef(added.flatten(1)).sub(torch.eye(8)).abs().max() < 5 / 64  # each slice its own noise
    with pytest.raises(ValueError, match=r"shape \(8, 11\), but 8 samples with 3 channels take \(8, 13\)"):
        augment(torch.rand(8, 3, 4, 4), uniforms=uniforms)


def test_a_scan_is_changed_as_a_whole_and_its_saliency_moves_with_it():
    scans = torch.rand(6, 1, 2, 12, 12).repeat(1, 3, 1, 1, 1)  # three slices alike
    saliency = scans[:, :, :1].clone()
    for uniforms in (numbers_for(6, 2), None):
        options = {"generator": torch.Generator().manual_seed(0), "uniforms": uniforms}
        image, moved = augment(scans, intensity=0.3, **MOVES, saliency=saliency, **options)
        assert image.shape == scans.shape and moved.shape == saliency.shape
        assert torch.equal(image[:, 0], image[:, 2]) and not torch.equal(image, scans)
        unchanged_intensity, moved_alone = augment(
            scans, **MOVES, saliency=saliency, generator=torch.Generator().manual_seed(0), uniforms=uniforms
        )
        assert torch.equal(unchanged_intensity[:, :, :1], moved) and torch.equal(moved_alone, moved)
    slices = augment(scans[:, 0], intensity=0.3, **MOVES, uniforms=numbers_for(6, 2))
    assert torch.equal(augment(scans, intensity=0.3, **MOVES, uniforms=numbers_for(6, 2))[:, 0], slices)


def test_a_quarter_turn_is_exact_on_a_square_and_magnification_keeps_straight_lines_straight():
    image = torch.rand(2, 3, 1, 8, 8)
    quarter = turned(image, torch.full((2,), torch.pi / 2), torch.ones(2))
    assert_close(quarter, image.rot90(-1, (-2, -1)), atol=1e-5, rtol=0)  # clockwise
    rows, columns = torch.meshgrid(torch.arange(12.0) - 5.5, torch.arange(20.0) - 9.5, indexing="ij")
    plane = (100 + rows + 3 * columns)[None, None]
    angle, scale = torch.tensor([0.3]), torch.tensor([1.5])
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    expected = 100 + (cosine * rows - sine * columns) + 3 * (cosine * columns + sine * rows)
    inside = (slice(None), slice(None), slice(3, 9), slice(4, 16))
    assert_close(turned(plane, angle, scale)[inside], expected[None, None][inside], atol=1e-3, rtol=0)


def test_left_and_right_change_places_where_a_scan_was_mirrored():
    names, labels = ["none", "left", "right", "both"], torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    flipped = torch.tensor([True] * 4 + [False] * 4)
    once = flip_labels(labels, flipped, names)
    assert once.tolist() == [0, 2, 1, 3, 0, 1, 2, 3]
    assert torch.equal(flip_labels(once, flipped, names), labels)
    assert torch.equal(flip_labels(labels % 2, flipped, ["healthy", "lesion"]), labels % 2)
    with pytest.raises(ValueError, match="only one of the classes 'left' and 'right'"):
        flip_labels(labels, flipped, ["none", "left"])


def test_noised_images_hold_the_noise_they_come_with_and_timesteps_stay_below_the_bound():
    image, alphas_cumprod = torch.rand(64, 1, 4, 4), torch.linspace(0.99, 0.01, 1000)
    sample, noise, timestep = noised(image, alphas_cumprod, torch.Generator().manual_seed(0), max_timestep=20)
    assert timestep.max() < 20 and timestep.unique().numel() > 10
    signal = alphas_cumprod[timestep][:, None, None, None]
    assert_close((sample - signal.sqrt() * (2 * image - 1)) / (1 - signal).sqrt(), noise, atol=1e-4, rtol=0)


def test_balanced_weights_make_every_class_count_the_same():
    labels = torch.tensor([0] * 9 + [1])
    weights = balanced_class_weights(labels, 2)
    assert weights.tolist() == pytest.approx([10 / 18, 5.0])
    logits = torch.randn(10, 2)
    each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    expected = (each[:9].mean() + each[9]) / 2
    assert_close(classification_loss(logits, labels, weights), expected)


def test_the_weighted_loss_of_a_batch_is_the_mean_over_its_parts():
    logits, labels = torch.randn(12, 3, dtype=torch.float64), torch.arange(12) // 3 % 3
    weights = torch.tensor([0.2, 1.0, 3.0])
    whole = classification_loss(logits, labels, weights)
    parts = [classification_loss(logits[i : i + 4], labels[i : i + 4], weights) for i in (0, 4, 8)]
    assert_close(sum(parts) / 3, whole)
    log_probability = logits.log_softmax(1)[torch.arange(12), labels]
    assert_close(whole, -(weights.double()[labels] * log_probability).mean())
    assert_close(classification_loss(logits, labels, torch.ones(3)), classification_loss(logits, labels))
