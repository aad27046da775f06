"""The stream of samples that training walks through, and the randomness that belongs to a sample.

Which samples a forward pass sees, and what happens to each of them, are functions of the seed and of positions in the
stream: any pass can be the first, and P processes with batches of B do what one process with batches of P·B does.
"""

from collections.abc import Iterator

import numpy as np
import torch

_GOLDEN_GAMMA = 0x9E3779B97F4A7C15 - 2**64  # SplitMix64's increment, as an int64


class StepBatches:
    """Indices of the slices in forward pass n = `first`, ..., `last` - 1 of one process out of several.

    Passes walk through one shuffled epoch after another; the last slices of an epoch that fill no batch are topped
    up from the next one. Any pass can be the first, which is what makes resuming exact.
    """

    def __init__(self, length: int, batch_size: int, seed: int, first: int, last: int, rank: int = 0, world: int = 1):
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.first, self.last, self.rank, self.world = first, last, rank, world
        self._order = -1, np.empty(0, int)  # of the epoch at hand

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first, self.last):
            yield self.rows(self.positions(step))

    def __len__(self) -> int:
        return self.last - self.first

    def positions(self, step: int) -> range:
        """Where the slices of forward pass `step` stand in the stream of all epochs and processes."""
        start = (step * self.world + self.rank) * self.batch_size
        return range(start, start + self.batch_size)

    def rows(self, positions: range) -> list[int]:
        """Indices of the slices that stand there."""
        return [int(self._order_of(position // self.length)[position % self.length]) for position in positions]

    def _order_of(self, epoch: int) -> np.ndarray:
        if epoch != self._order[0]:
            self._order = epoch, np.random.default_rng((self.seed, epoch)).permutation(self.length)
        return self._order[1]


def sample_uniform(seed: int, positions: torch.Tensor, count: int) -> torch.Tensor:
    """Random numbers that belong to a sample: the same in whatever batch and on whatever process it is.

    Number j of a sample is a hash of (seed, position, j): SplitMix64 (Steele, Lea and Flood 2014), whose state starts
    at the hash of seed and position; its upper 24 bits are kept. Integer arithmetic only, so that all devices agree,
    and the first numbers do not depend on `count`.

    Args:
        seed (`int`): the run's.
        positions (`torch.Tensor` of shape `(B,)`, int64): `batch["position"]`, counted over all epochs.
        count (`int`): numbers for each sample.

    Returns:
        `torch.Tensor` of shape `(B, count)`: float32 in [0, 1), on the positions' device.
    """
    mixed_seed = int(np.random.SeedSequence(seed).generate_state(1, np.uint64).view(np.int64)[0])
    state = _mix(positions[:, None] * _GOLDEN_GAMMA + mixed_seed)
    numbers = torch.arange(1, count + 1, device=positions.device)
    bits = _mix(state + numbers * _GOLDEN_GAMMA)  # [B,count]
    return (bits >> 40 & 0xFFFFFF).float() / 2**24


def _mix(bits: torch.Tensor) -> torch.Tensor:
    """SplitMix64's bijection of 64 bits; int64 wraps around, and the masks make its right shifts logical."""
    bits = (bits ^ (bits >> 30 & 0x3FFFFFFFF)) * (0xBF58476D1CE4E5B9 - 2**64)
    bits = (bits ^ (bits >> 27 & 0x1FFFFFFFFF)) * (0x94D049BB133111EB - 2**64)
    return bits ^ (bits >> 31 & 0x1FFFFFFFF)


def step_generator(device: torch.device, seed: int, step: int, process: int) -> torch.Generator:
    """The source of all randomness of a step; also seeds torch's global generator, which dropout uses."""
    mixed = int(np.random.SeedSequence((seed, step, process)).generate_state(1, np.uint64)[0] >> 1)
    if device.type == "cpu":  # `torch.manual_seed` would put a note for GPUs that are not in use on a list, every step
        torch.default_generator.manual_seed(mixed)
    else:
        torch.manual_seed(mixed)
    return torch.Generator(device).manual_seed(mixed)
