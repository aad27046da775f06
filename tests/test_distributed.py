"""Several processes: batch norm over all of them, and the loss curve of one process with the whole batch.

As a script this file is what each of two processes does, so that the tests start `torchrun` once for all of them.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from tiny_trainings import TINY, history, load_script, weights, write_slices
from torch import nn
from torch.testing import assert_close

from difffuse_hf import ACATClassifier, LesionClassifier, LesionClassifierConfig
from difffuse_hf.errors import InputError
from difffuse_hf.training.arguments import TrainingArguments
from difffuse_hf.training.augmentation import augment, augment_uniforms, flip_labels, mirrored
from difffuse_hf.training.batch_norm import ProcessBatchNorm, restore_batch_norm, synchronise_batch_norm
from difffuse_hf.training.classifiers import ClassifierArguments, fit_classifier, steps
from difffuse_hf.training.loop import Trainer
from difffuse_hf.training.losses import balanced_class_weights, classification_loss
from difffuse_hf.training.sampler import sample_uniform

NAMES = ["none", "left", "right"]
STEPS = 8
IMAGE = torch.randn(8, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Classifier(nn.Module):
    """Two convolutions with batch norm, a frozen one before them, and a head that may be left out of the loss."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Conv2d(2, 2, 1).requires_grad_(False)
        self.features = nn.Sequential(
            *(nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6), nn.LeakyReLU()),
            *(nn.Conv2d(6, 6, 3, bias=False), nn.BatchNorm2d(6, momentum=None), nn.LeakyReLU()),
        )
        self.head, self.spare = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, image, both_heads=True):
        pooled = self.features(self.frozen(image)).mean((-2, -1))
        return self.head(pooled) + (self.spare(pooled) if both_heads else 0)


def train(output_dir, batch_size, *, cpu=True, spare_from=0, resume=None, max_steps=STEPS, **options):
    """A short run with everything a sample can undergo; the trained model. One head idles in steps < `spare_from`."""
    random = np.random.default_rng(0)
    label = np.arange(18) % 4 % 3  # class 0 is twice as frequent
    image = random.uniform(0, 0.5, (18, 2, 12, 12)).astype(np.float32)
    image[label == 1, :, :, :4] += 0.4
    image[label == 2, :, :, 8:] += 0.4
    features = {"image": datasets.Array3D((2, 12, 12), "float32"), "label": datasets.ClassLabel(names=NAMES)}
    dataset = datasets.Dataset.from_dict({"image": list(image), "label": label}, features=datasets.Features(features))
    class_weights = balanced_class_weights(torch.tensor(label), len(NAMES))
    calls = []

    def compute_loss(model, batch, generator):
        calls.append(1)
        uniforms = sample_uniform(3, batch["position"], augment_uniforms(2))
        image = augment(batch["image"], intensity=0.2, noise=0.1, shift=2, uniforms=uniforms)
        labels = flip_labels(batch["label"], mirrored(uniforms), NAMES)
        return classification_loss(model(image, len(calls) > spare_from), labels, class_weights)

    torch.manual_seed(0)
    model = Classifier()
    args = TrainingArguments(
        dataset="squares", output_dir=str(output_dir), batch_size=batch_size, max_steps=max_steps, cpu=cpu, seed=3,
        learning_rate=1e-2, log_every=1, max_grad_norm=5.0, checkpointing_steps=5, validation_steps=0,
        report_to="none", resume_from_checkpoint=resume, **options,
    )  # fmt: skip

    def save(model):
        assert not any(isinstance(module, ProcessBatchNorm) for module in model.modules())
        torch.save(model.state_dict(), output_dir / "model.pt")

    Trainer(model, dataset, compute_loss, args, save=save, find_unused_parameters=spare_from > 0).fit()
    return model


def train_acat(output_dir, batch_size):
    """ACAT with its batch norm, flips and class weights; dropout, which belongs to a process, is off."""
    random, label = np.random.default_rng(0), np.arange(12) % 4
    columns = {"pixel_values": random.uniform(0.3, 0.6, (12, 2, 1, 20, 18)).astype(np.float32)}
    columns["saliency"] = random.uniform(0, 1, (12, 2, 1, 20, 18)).astype(np.float32)
    features = {name: datasets.Array4D((2, 1, 20, 18), "float32") for name in columns}
    features["label"] = datasets.ClassLabel(names=["none", "left", "right", "both"])
    rows = {name: list(value) for name, value in columns.items()} | {"label": label}
    scans = datasets.Dataset.from_dict(rows, features=datasets.Features(features))

    torch.manual_seed(0)
    baseline = LesionClassifier(LesionClassifierConfig(hidden_sizes=[4] * 6, num_pools=2))  # the last reads no mask
    model = ACATClassifier.from_baseline(baseline, slice_attention_dropout=0.0)
    args = ClassifierArguments(
        dataset="scans", output_dir=str(output_dir), batch_size=batch_size, cpu=True, balance_classes=True,
        optimizer="adam", lr_scheduler="cosine", log_every=1, report_to="none", epochs=2,
    )  # fmt: skip
    args.max_steps = steps(args, len(scans), args.epochs)
    fit_classifier(model, scans, scans, args)


def train_fanogan(slices, output_dir, batch_size, *flags):
    command = ["--dataset", slices, "--output_dir", output_dir, "--cpu", "--report_to", "none", "--log_every", 1]
    command += [*TINY["train_fanogan"], "--max_steps", 2, "--encoder_steps", 3, "--batch_size", batch_size, *flags]
    steps = ("--checkpointing_steps", 0, "--validation_steps", 0)
    load_script("train_fanogan").main([str(flag) for flag in (*command, *steps)])


def loss_curve(folder):
    lines = [line for line in history(folder) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["loss"] for line in lines]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What two gloo processes leave: see the end of this file."""
    folder = tmp_path_factory.mktemp("two_processes")
    write_slices(folder / "slices")
    torch.save(IMAGE, folder / "image.pt")
    train(folder / "one", 6, max_steps=5)  # a run that stops after the checkpoint of step 5
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", __file__, str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("spare_from", [0, 2])
def test_two_processes_have_the_loss_curve_and_weights_of_one_with_twice_the_batch(
    two_processes, tmp_path, spare_from
):
    model = train(tmp_path, 6, spare_from=spare_from)
    curve = loss_curve(two_processes / f"spare_{spare_from}")
    assert len(curve) == STEPS and curve == pytest.approx(loss_curve(tmp_path), rel=1e-5)
    theirs = torch.load(two_processes / f"spare_{spare_from}" / "model.pt")
    assert list(theirs) == list(model.state_dict())
    for name, value in model.state_dict().items():
        assert_close(theirs[name], value, rtol=1e-4, atol=1e-5)
    assert not torch.equal(model.head.weight, Classifier().head.weight)


@pytest.mark.slow
def test_half_the_batch_twice_before_a_step_is_not_the_same_where_there_is_batch_norm(two_processes, tmp_path):
    train(tmp_path, 3, gradient_accumulation_steps=2)
    curve, accumulated = loss_curve(two_processes / "spare_0"), loss_curve(tmp_path)
    assert np.abs(np.subtract(curve, accumulated)).max() > 1e-3  # what the agreement above would miss without it


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_as_one_with_twice_the_batch(two_processes, tmp_path):
    train(tmp_path, 6, resume=str(two_processes / "spare_0" / "checkpoint-5"))
    rest = [line["loss"] for line in history(tmp_path)]
    assert rest == pytest.approx(loss_curve(two_processes / "spare_0")[5:], rel=1e-5)


@pytest.mark.slow
def test_a_run_of_one_process_goes_on_as_two_with_half_the_batch(two_processes, tmp_path):
    model = train(tmp_path, 6)
    rest = [line["loss"] for line in history(two_processes / "gone_on")]
    assert rest == pytest.approx(loss_curve(tmp_path)[5:], rel=1e-5)
    theirs = torch.load(two_processes / "gone_on" / "model.pt")
    for name, value in model.state_dict().items():
        assert_close(theirs[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_run_does_not_go_on_with_another_number_of_samples_in_a_step(two_processes, tmp_path):
    with pytest.raises(InputError, match=r"saw 6 samples, a step of this run would see 3 \(1 process.* stays 6"):
        train(tmp_path, 3, resume=str(two_processes / "spare_0" / "checkpoint-5"))


@pytest.mark.slow
def test_processes_that_would_train_a_model_each_are_stopped(two_processes):
    for rank in (0, 1):
        assert "2 processes were started" in (two_processes / f"stopped_{rank}.txt").read_text()
    assert not list(two_processes.glob("alone/*"))


@pytest.mark.slow
def test_two_processes_train_acat_as_one_with_twice_the_batch_does(two_processes, tmp_path):
    train_acat(tmp_path, 4)
    curve = loss_curve(tmp_path)
    assert len(curve) == 6 and loss_curve(two_processes / "acat") == pytest.approx(curve, rel=1e-5)
    ours, theirs = weights(tmp_path), weights(two_processes / "acat")
    # What has no effect while all masks and weights are the same everywhere: there Adam follows rounding.
    idle = {
        name for name in ours if name.endswith("bias") and ("spatial_attention" in name or "attention.out" in name)
    }
    for name in ours.keys() - idle:
        assert_close(theirs[name], ours[name], rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    assert (two_processes / "acat" / "training.json").exists()


@pytest.mark.slow
def test_two_processes_train_both_stages_of_fanogan_and_its_encoder_as_one_process_does(two_processes, tmp_path):
    """The second stage draws nothing but flips, so that its loss curve is that of one process with twice the batch."""
    assert [line["step"] for line in history(two_processes / "fanogan" / "gan")] == list(range(1, 7))
    shutil.copytree(two_processes / "fanogan" / "gan", tmp_path / "gan")
    train_fanogan(two_processes / "slices", tmp_path, 4, "--resume_from_checkpoint", "latest")
    curve, theirs = loss_curve(tmp_path), loss_curve(two_processes / "fanogan")
    assert len(curve) == 3 and theirs[:2] == pytest.approx(curve[:2], rel=1e-4)
    # RMSProp divides a gradient by its size: those of rounding's size move a weight by a whole step, either way.
    assert theirs[2:] == pytest.approx(curve[2:], rel=1e-2)


def small_network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.Tanh(), nn.BatchNorm2d(3, affine=False))


def pass_through(network, image):
    """Three training passes in different states of the running statistics; outputs and all gradients of the last."""
    for scale in (1, 2, 3):
        image = (image.detach() * scale).requires_grad_()
        network.zero_grad()
        output = network(image)
        (output.sin() * torch.linspace(0, 1, 6, dtype=image.dtype)).mean().backward()
    return output.detach(), image.grad, [parameter.grad for parameter in network.parameters()]


@pytest.mark.slow
def test_batch_norm_over_processes_is_torch_s_on_the_whole_batch(two_processes):
    image = IMAGE.clone()
    whole = small_network().double()
    output, image_gradient, gradients = pass_through(whole, image)
    parts = [torch.load(two_processes / f"batch_norm_{rank}.pt") for rank in (0, 1)]
    assert_close(torch.cat([part["output"] for part in parts]), output)
    # each process's loss is the mean over its own half: the whole one's is the mean of theirs
    assert_close(torch.cat([part["image_gradient"] for part in parts]) / 2, image_gradient)
    for mine, theirs, expected in zip(parts[0]["gradients"], parts[1]["gradients"], gradients):
        assert_close((mine + theirs) / 2, expected)
    assert_close(torch.cat([part["in_eval_mode"] for part in parts]), whole.eval()(image))
    for part in parts:
        assert list(part["state"]) == list(whole.state_dict())
        assert_close(dict(part["state"]), dict(whole.state_dict()))


def test_synchronised_modules_share_weights_and_statistics_and_leave_no_trace_in_the_state_dict():
    network = small_network()
    own, names = list(network), list(network.state_dict())
    synchronise_batch_norm(synchronise_batch_norm(network))
    assert [type(network[i]) for i in (1, 3)] == [ProcessBatchNorm] * 2
    assert list(network.state_dict()) == names and not any("ordinary" in name for name, _ in network.named_modules())
    network.double().train()(torch.rand(4, 2, 8, 8, dtype=torch.float64))  # no process group: as the ordinary module
    assert own[1].running_mean.dtype == torch.float64 and own[1].num_batches_tracked == 1
    network.load_state_dict({name: torch.full_like(value, 7) for name, value in network.state_dict().items()})
    assert [a is b for a, b in zip(restore_batch_norm(network.eval()), own)] == [True] * 4
    assert (own[1].weight == 7).all() and (own[1].running_var == 7).all() and not own[1].training


def test_a_batch_norm_with_an_activation_keeps_it_and_one_that_occurs_twice_stays_one():
    from timm.layers import BatchNormAct2d

    torch.manual_seed(0)
    norm = BatchNormAct2d(3)
    network = nn.ModuleDict({"first": norm, "second": nn.ModuleList([norm])})
    image = torch.randn(4, 3, 5, 5)
    expected = norm(image)
    synchronise_batch_norm(network)
    assert network["first"] is network["second"][0] and isinstance(network["first"], ProcessBatchNorm)
    assert torch.equal(network["first"](image), expected) and (expected == 0).any()
    assert isinstance(synchronise_batch_norm(nn.BatchNorm1d(2)), ProcessBatchNorm)

    class Own(nn.BatchNorm2d):
        pass

    with pytest.raises(ValueError, match="Own has no counterpart"):
        synchronise_batch_norm(nn.Sequential(Own(2)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_torch_s_own_synchronised_batch_norm_is_used():
    network = small_network().cuda()
    own, names = list(network), list(network.state_dict())
    image = torch.rand(4, 2, 8, 8, device="cuda")
    assert isinstance(synchronise_batch_norm(network)[1], nn.SyncBatchNorm)
    network(image)
    assert list(network.state_dict()) == names and own[1].num_batches_tracked == 1
    assert list(restore_batch_norm(network)) == own


if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    try:
        train(folder / "alone", 3, cpu=False)
    except InputError as error:
        (folder / f"stopped_{rank}.txt").write_text(str(error))
    AcceleratorState._reset_state(reset_partial_state=True)
    train(folder / "spare_0", 3)
    train(folder / "spare_2", 3, spare_from=2)  # a second stage: the processes have stayed together
    train(folder / "gone_on", 3, resume=str(folder / "one" / "checkpoint-5"))
    train_acat(folder / "acat", 2)
    train_fanogan(folder / "slices", folder / "fanogan", 2)
    network = synchronise_batch_norm(small_network().double())
    half = torch.load(folder / "image.pt")[4 * rank : 4 * rank + 4]
    output, image_gradient, gradients = pass_through(network, half)
    results = {"output": output, "image_gradient": image_gradient, "gradients": gradients}
    results |= {"in_eval_mode": network.eval()(half).detach(), "state": network.state_dict()}
    torch.save(results, folder / f"batch_norm_{rank}.pt")
    dist.destroy_process_group()
