"""The training loop: exact resuming, whole checkpoints, signals, the log, what is kept and where it is pushed."""

import json
import math
import os
import signal

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image
from safetensors.torch import load_file
from tiny_trainings import history, same, train, weights
from torch.testing import assert_close

from difffuse_hf import DifFuseScheduler, ResNetAutoencoder
from difffuse_hf.data.slices import load_slices
from difffuse_hf.errors import InputError
from difffuse_hf.io.files import write_into
from difffuse_hf.training.arguments import TrainingArguments
from difffuse_hf.training.loop import Trainer
from difffuse_hf.training.run_log import RunLog
from difffuse_hf.training.signals import signals_noted


@pytest.mark.parametrize("script", ["train_classifier", "train_autoencoder", "train_diffusion"])
def test_a_run_resumed_in_the_middle_of_an_epoch_ends_with_the_weights_of_an_uninterrupted_one(
    script,
    slices,
    tmp_path,
):
    """Dropout and batch norm in the first, several passes in a step in the second, averaged weights in the third."""
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
    took = json.loads((tmp_path / "cut" / "duration.json").read_text())
    until = json.loads((tmp_path / "cut" / "checkpoint-4" / "progress.json").read_text())["seconds"]
    assert took["steps"] == 9 and took["seconds"] > until > 0  # of both parts


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
    options = ["--max_steps", "2", "--validation_steps", "1", "--checkpointing_steps", "0"]
    train("train_diffusion", slices, tmp_path / "out", *variant, *options)
    unet = UNet2DModel.from_pretrained(tmp_path / "out", subfolder="unet")
    scheduler = DifFuseScheduler.from_pretrained(tmp_path / "out", subfolder="scheduler")
    assert (unet.config.out_channels, unet.config.num_class_embeds) == (out_channels, classes)
    assert scheduler.highest_level == (800 if "--max_timestep" in variant else 1000)
    assert scheduler.config.prediction_type == ("v_prediction" if "v_prediction" in variant else "epsilon")
    last = history(tmp_path / "out")[-1]["validation"]
    bands = [value for name, value in last.items() if name.startswith("loss/timesteps")]
    assert bands and min(bands) <= last["loss"] <= max(bands) and last["reconstruction_error"] >= 0
    pictures = sorted(path.name for path in (tmp_path / "out" / "pictures").iterdir())
    assert pictures == ["round_trip-000001.png", "round_trip-000002.png"]
    with Image.open(tmp_path / "out" / "pictures" / pictures[0]) as picture:
        assert picture.size == (4 * 16, 3 * 16)  # four slices; as they are, reconstructed, resampled


class Small(torch.nn.Sequential):
    """Learns to make slices grey, with dropout."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(torch.nn.Conv2d(2, 4, 3), torch.nn.Dropout(0.5), torch.nn.Conv2d(4, 1, 3))


def arguments(output, **options):
    given = {"batch_size": 4, "max_steps": 3, "cpu": True, "report_to": "none", "log_every": 1, **options}
    return TrainingArguments(dataset="slices", output_dir=str(output), **given)


def fit_small(folder, output, at_step=None, **options):
    """Train `Small` on the slices in `folder`; `at_step` maps a step to what happens in the middle of it."""
    args, step, model = arguments(output, **options), 0, Small()

    def compute_loss(model, batch, generator):
        nonlocal step
        step = int(batch["position"][0]) // args.batch_size + 1
        if at_step is not None and step in at_step:
            at_step[step]()
        noise = torch.rand(batch["image"].shape, generator=generator)
        return (model(batch["image"] + 0.1 * noise) - 0.5).square().mean()

    Trainer(model, load_slices(str(folder), "train"), compute_loss, args).fit()
    return model.state_dict()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_a_checkpoint_and_the_resumed_run_cannot_be_told_from_an_uninterrupted_one(
    number,
    slices,
    tmp_path,
    capsys,
):
    options, before = {"max_steps": 9, "checkpointing_steps": 0}, signal.getsignal(number)
    with pytest.raises(SystemExit) as ended:
        fit_small(slices, tmp_path / "cut", {4: lambda: signal.raise_signal(number)}, **options)
    assert ended.value.code == 128 + number and signal.getsignal(number) is before
    said = capsys.readouterr().out
    assert said.startswith("Stopped after step 4;") and said.count("--resume_from_checkpoint latest") == 1
    assert [path.name for path in (tmp_path / "cut").glob("checkpoint-*")] == ["checkpoint-4"]
    resumed = fit_small(slices, tmp_path / "cut", resume_from_checkpoint="latest", **options)
    assert same(resumed, fit_small(slices, tmp_path / "whole", resume_from_checkpoint="latest", **options))
    assert history(tmp_path / "cut") == history(tmp_path / "whole")


def test_a_second_signal_ends_at_once():
    with signals_noted() as received:
        signal.raise_signal(signal.SIGTERM)
        assert received == [signal.SIGTERM]
        assert {signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} == {signal.SIG_DFL}


def test_a_run_that_broke_off_goes_on_from_its_last_checkpoint_as_if_it_had_not(slices, tmp_path):
    """It leaves what a killed one leaves: lines after the checkpoint, half a line, half a checkpoint."""

    def break_off():
        raise RuntimeError("broken off")

    options = {"max_steps": 10, "checkpointing_steps": 3, "checkpoints_total_limit": 2}
    with pytest.raises(RuntimeError, match="broken off"):
        fit_small(slices, tmp_path / "cut", {9: break_off}, **options)
    assert sorted(path.name for path in (tmp_path / "cut").glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-6"]
    assert [line["step"] for line in history(tmp_path / "cut")] == list(range(1, 9))
    with (tmp_path / "cut" / "history.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')
    (tmp_path / "cut" / ".writing-checkpoint-9").mkdir()
    resumed = fit_small(slices, tmp_path / "cut", resume_from_checkpoint="latest", **options)
    assert same(resumed, fit_small(slices, tmp_path / "whole", **options))
    assert history(tmp_path / "cut") == history(tmp_path / "whole")
    assert [sorted(line) for line in history(tmp_path / "cut")] == [["learning_rate", "loss", "step"]] * 10
    assert sorted(path.name for path in (tmp_path / "cut").glob("*checkpoint-*")) == ["checkpoint-6", "checkpoint-9"]
    with pytest.raises(InputError, match="already holds checkpoint-9"):  # an old run is not overwritten unasked
        fit_small(slices, tmp_path / "cut", **options)


def test_the_log_is_cut_off_after_the_step_a_run_goes_on_from(tmp_path):
    log = RunLog(tmp_path)
    for step in (1, 2, 2, 3):
        log.append(step, loss=0.5)
    with log.path.open("a") as file:
        file.write('{"step": 3, "lo')
    assert RunLog(tmp_path, last_step=2).path == log.path
    assert history(tmp_path) == [{"step": step, "loss": 0.5} for step in (1, 2, 2)]
    assert [path.name for path in tmp_path.iterdir()] == ["history.jsonl"]


def test_files_that_fail_to_be_written_leave_the_old_ones_alone(tmp_path):
    write_into(tmp_path / "model", lambda folder: (folder / "config.json").write_text("old"))

    def fail(folder):
        (folder / "config.json").write_text("new")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_into(tmp_path / "model", fail)
    assert [(file.name, file.read_text()) for file in (tmp_path / "model").iterdir()] == [("config.json", "old")]


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

    Trainer(model, dataset, compute_loss, arguments(tmp_path / "out"), columns=("image", "saliency", "side")).fit()
    assert set(seen[0]) == {"image", "saliency", "side", "position"}
    assert torch.cat([batch["position"] for batch in seen]).tolist() == list(range(12))
    order = torch.cat([batch["side"] for batch in seen])
    assert sorted(order[:6].tolist()) == list(range(6))
    assert_close(torch.cat([batch["image"] for batch in seen]), torch.tensor(scans["image"]).float()[order])
    assert_close(torch.cat([batch["saliency"] for batch in seen]), torch.tensor(scans["saliency"]).float()[order])

    with pytest.raises(InputError, match="slices has no column label, .* it has image, saliency, side"):
        Trainer(model, dataset, compute_loss, arguments(tmp_path / "other"))
    ragged = datasets.Dataset.from_dict({"image": [[0.0] * n for n in (1, 2, 3, 4)]})
    with pytest.raises(InputError, match="column 'image' are no numbers of one shape"):
        Trainer(model, ragged, compute_loss, arguments(tmp_path / "ragged"), columns=["image"]).fit()


def test_frozen_parameters_stay_and_a_model_without_others_is_refused(slices, tmp_path):
    dataset = load_slices(str(slices), "train")
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 3), torch.nn.Conv2d(2, 1, 3))
    model[0].requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def compute_loss(model, batch, generator):
        return model(batch["image"]).square().mean()

    Trainer(model, dataset, compute_loss, arguments(tmp_path / "half")).fit()
    kept = [torch.equal(value, before[name]) for name, value in model.state_dict().items()]
    assert kept == [True, True, False, False]
    with pytest.raises(ValueError, match="nothing to train"):
        Trainer(model.requires_grad_(False), dataset, compute_loss, arguments(tmp_path / "none"))


def test_the_averaged_weights_are_the_ones_saved(slices, tmp_path):
    options = ["--max_steps", "2", "--validation_steps", "0", "--warmup_steps", "0"]
    averaged = train("train_diffusion", slices, tmp_path / "ema", "--checkpointing_steps", "2", *options)
    last = load_file(tmp_path / "ema" / "checkpoint-2" / "model.safetensors")
    assert same(last, train("train_diffusion", slices, tmp_path / "last", "--ema_decay", "0", *options))
    assert not same(averaged, last)


def test_a_classifier_killed_between_its_last_checkpoint_and_its_scores_has_the_scores_of_the_last_validation(
    slices, tmp_path
):
    options = ["--validation_steps", "2", "--checkpointing_steps", "2", "--max_steps", "4"]
    train("train_classifier", slices, tmp_path, *options)
    written = {name: (tmp_path / name).read_text() for name in ("training.json", "README.md")}
    assert set(json.loads(written["training.json"])["validation"]) >= {"loss", "accuracy", "auc"}
    for name in written:
        (tmp_path / name).unlink()
    train("train_classifier", slices, tmp_path, *options, "--resume_from_checkpoint", "latest")
    assert {name: (tmp_path / name).read_text() for name in written} == written


def test_patience_keeps_the_best_weights_and_stops(slices, tmp_path):
    options = ["--validation_steps", "1", "--checkpointing_steps", "1", "--learning_rate", "0.5", "--patience", "2"]
    train("train_classifier", slices, tmp_path, "--max_steps", "50", *options)
    last = max(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    card, trained = (tmp_path / "README.md").read_text(), json.loads((tmp_path / "training.json").read_text())
    assert f"| accuracy, validation | {trained['validation']['accuracy']:.3f} |" in card and "healthy, lesion" in card
    progress = json.loads((last / "progress.json").read_text())
    assert progress["step"] < 50 and progress["validations_without_improvement"] == 2
    assert math.isfinite(progress["best_loss"]) and not same(weights(tmp_path), load_file(last / "model.safetensors"))


@pytest.fixture
def online(hub, monkeypatch):
    """The Hub's client in this process talks to the stub."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_stub")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    huggingface_hub.close_session()  # it has read the environment
    yield hub
    huggingface_hub.close_session()


def autoencoder_trainer(folder, output, steps_done, **options):
    def compute_loss(model, batch, generator):
        steps_done.append(1)
        return model(batch["image"]).mean()

    model = ResNetAutoencoder(in_channels=2, channels=(4, 4, 4))
    return Trainer(model, load_slices(str(folder), "train"), compute_loss, arguments(output, max_steps=2, **options))


def test_a_public_repository_is_refused_before_the_training(slices, tmp_path, online):
    online.repos["tester/open"] = [("0" * 40, {})]
    steps_done = []
    for name, sentence in (("tester/open", "tester/open on the Hub is public"), ("no/such/name", "can be called")):
        with pytest.raises(InputError, match=sentence):
            autoencoder_trainer(slices, tmp_path / "out", steps_done, push_to_hub=name).fit()
    assert not steps_done and not online.files("tester/open")


def test_a_trained_model_is_pushed_to_a_private_repository_or_with_public_to_any(slices, tmp_path, online):
    online.repos["tester/open"] = [("0" * 40, {})]
    options = {"checkpointing_steps": 1}
    autoencoder_trainer(slices, tmp_path / "a", [], push_to_hub="tester/new", **options).fit()
    assert online.private == {"tester/new"}
    autoencoder_trainer(slices, tmp_path / "b", [], push_to_hub="tester/open", public=True, **options).fit()
    for name in ("tester/new", "tester/open"):
        assert sorted(online.files(name)) == ["config.json", "diffusion_pytorch_model.safetensors"]  # no checkpoints


def test_a_push_that_fails_in_the_end_leaves_the_trained_model_on_disk(slices, tmp_path):
    assert os.environ["HF_HUB_OFFLINE"] == "1"  # of the tests
    steps_done = []
    with pytest.raises(InputError, match="is complete, but the Hub did not take it as tester/new"):
        autoencoder_trainer(slices, tmp_path, steps_done, push_to_hub="tester/new").fit()
    assert len(steps_done) == 2 and ResNetAutoencoder.from_pretrained(tmp_path).config.in_channels == 2


def test_a_launcher_that_starts_one_process_in_place_of_several_is_noticed(slices, tmp_path, monkeypatch):
    """`accelerate launch --cpu --num_processes 2` leaves these variables to the one process that it starts."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for name, value in {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="several processes but has started one.*torchrun") as told:
        autoencoder_trainer(slices, tmp_path, [])
    assert "\n" not in str(told.value)
    monkeypatch.delenv("MASTER_PORT")
    autoencoder_trainer(slices, tmp_path, [])


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


def test_a_training_starts_from_the_weights_that_it_is_given_and_from_no_others(slices, tmp_path):
    first = train("train_autoencoder", slices, tmp_path / "first", "--max_steps", "2")
    options = ["--max_steps", "1", "--learning_rate", "0", "--warmup_steps", "0", "--seed", "9"]
    again = train("train_autoencoder", slices, tmp_path / "again", "--initial_weights", tmp_path / "first", *options)
    assert same(first, again)
    other = ["--initial_weights", tmp_path / "first", "--latent_channels", "6", "--max_steps", "1"]
    with pytest.raises(InputError, match="another network than the one to be trained: .* the first is decoder"):
        train("train_autoencoder", slices, tmp_path / "no", *other)
    with pytest.raises(InputError, match="holds no weights"):
        train("train_autoencoder", slices, tmp_path / "no", "--initial_weights", tmp_path, "--max_steps", "1")


def test_a_loss_that_is_not_finite_stops_its_step_and_names_the_rows_and_good_checkpoints_stay(slices, tmp_path):
    model = ResNetAutoencoder(in_channels=2, channels=(4, 4, 4))
    seen, data = [], load_slices(str(slices), "train")

    def compute_loss(model, batch, generator):
        seen.append(batch["image"])
        return (model(batch["image"]) - batch["image"]).abs().mean() * (math.nan if len(seen) == 6 else 1)

    args = arguments(tmp_path, max_steps=9, batch_size=2, checkpointing_steps=2, log_every=100)
    with pytest.raises(
        InputError, match=r"The loss is nan at step 6, on the rows (\d+), (\d+) of the train"
    ) as caught:
        Trainer(model, data, compute_loss, args, columns=["image"]).fit()
    named = [int(word.strip(",")) for word in str(caught.value).split() if word.strip(",").isdigit()][1:]
    assert_close(torch.tensor(np.array(data[named]["image"], np.float32)), seen[5].contiguous())
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = math.inf
    trainer = Trainer(model, data, compute_loss, arguments(tmp_path / "broken", max_steps=2), columns=["image"])
    with pytest.raises(InputError, match="The weights are not finite at step 0"):
        trainer.checkpoint()
    assert not list((tmp_path / "broken").glob("checkpoint-*"))


def test_a_second_training_in_a_folder_is_refused_and_leaves_the_history_alone(slices, tmp_path):
    from difffuse_hf.io.files import own_folder

    with own_folder(tmp_path / "out"):
        (tmp_path / "out" / "history.jsonl").write_text('{"step": 7}\n')
        with pytest.raises(InputError, match="Another run is writing to"):
            autoencoder_trainer(slices, tmp_path / "out", []).fit()
        assert (tmp_path / "out" / "history.jsonl").read_text() == '{"step": 7}\n'


def test_a_checkpoint_that_does_not_fit_on_the_disk_leaves_the_earlier_one(slices, tmp_path, monkeypatch):
    trainer = autoencoder_trainer(slices, tmp_path / "out", [])
    trainer.checkpoint()

    def full(folder):
        (tmp_path / "out" / "half").write_text("")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    trainer.progress.step = 1
    monkeypatch.setattr(trainer.accelerator, "save_state", full)
    with pytest.raises(InputError, match="checkpoint-1 could not be written .*earlier checkpoints are kept"):
        trainer.checkpoint()
    assert [path.name for path in (tmp_path / "out").glob("*checkpoint-*")] == ["checkpoint-0"]


def test_a_reading_process_that_died_is_a_sentence(slices, tmp_path):
    trainer = autoencoder_trainer(slices, tmp_path, [])

    def died():
        raise RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
        yield

    trainer.passes = died()
    with pytest.raises(InputError, match="A process that reads slices died after step 0.*--num_workers"):
        trainer.fit()
