"""What lies outside the mask while the inside is repainted: x_t of the kept tissue, level by level."""

from dataclasses import dataclass, field

import torch

from ..schedulers.scheduling_difffuse import DifFuseScheduler
from .sampling import Sampling


@dataclass
class Fused:
    """Eq. 6.10 as the thesis has it: the DDIM step of the fused x_t itself, so nothing is kept here.

    Args:
        run (`Sampling`): the images.
        first (`torch.Tensor` of shape `(B, C, H, W)`): x_K, where a chain starts.
    """

    run: Sampling
    first: torch.Tensor

    def step(self, level: int, target: int) -> torch.Tensor | None:
        """x at the level `target`, `(B, C, H, W)`; None where the fused x_t makes its own."""
        return None

    @property
    def reference(self) -> torch.Tensor:
        """What the counterfactual is compared with, `(B, C, H, W)` in [0, 1]."""
        return self.run.image


@dataclass
class Kept(Fused):
    """The levels of the inversion trajectory, `{level: x_level}`: the image comes back exactly."""

    trajectory: dict[int, torch.Tensor]

    def step(self, level, target):
        return self.trajectory[target].to(self.first)


@dataclass
class Forward(Fused):
    """The image under one forward noise at every level: the image comes back exactly, and nothing is inverted."""

    scheduler: DifFuseScheduler
    noise: torch.Tensor

    def step(self, level, target):
        return self.scheduler.diffuse(2 * self.run.image - 1, 0, target, self.noise)


@dataclass
class Reconstruction(Fused):
    """A DDIM trajectory of its own (Eq. 6.8), at a network call a step, as in the author's code."""

    scheduler: DifFuseScheduler
    sample: torch.Tensor = field(init=False)

    def __post_init__(self):
        self.sample = self.first

    def step(self, level, target):
        noise_pred, _ = self.run.predict(self.sample, level)
        self.sample = self.scheduler.reverse_step(noise_pred, level, target, self.sample)
        return self.sample

    @property
    def reference(self):
        return (self.sample / 2 + 0.5).clamp(0, 1)


def outside_of(
    background: str, run: Sampling, scheduler: DifFuseScheduler, trajectory: dict[int, torch.Tensor], noise_level: int
) -> Fused:
    """What a preset's background is (see `Preset`), on the way down from `noise_level`."""
    if background == "forward":
        clean = 2 * run.image - 1
        noise = run.draw(clean, noise_level)
        return Forward(run, scheduler.diffuse(clean, 0, noise_level, noise), scheduler, noise)
    first = trajectory[max(trajectory)].to(run.image)
    if background == "trajectory":
        return Kept(run, first, trajectory)
    return Reconstruction(run, first, scheduler) if background == "reconstruction" else Fused(run, first)
