"""The stream of samples and the random numbers that belong to a sample."""

import numpy as np
import torch
from scipy.stats import chisquare, kstest

from difffuse_hf.training.sampler import StepBatches, _mix, sample_uniform, step_generator


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


def test_a_step_seeds_the_global_generator_and_leaves_nothing_for_devices_that_are_not_in_use():
    queued = getattr(torch.cuda, "_queued_calls", [])
    before = len(queued)
    step_generator(torch.device("cpu"), 3, 5, 0)
    drawn = torch.rand(4)
    again = step_generator(torch.device("cpu"), 3, 5, 0)
    assert torch.equal(torch.rand(4), drawn) and len(queued) == before
    torch.manual_seed(again.initial_seed())
    assert torch.equal(torch.rand(4), drawn)
    step_generator(torch.device("cpu"), 3, 6, 0)
    assert not torch.equal(torch.rand(4), drawn)
