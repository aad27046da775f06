"""Simplex noise, smooth in space and in t, for AnoDDPM's forward and reverse process (Wyatt et al. 2022).

Perlin's simplex noise in three dimensions (x, y, t): gradients sit on a lattice of tetrahedra, and each adds
(½ − r²)⁴ (gradient · offset) around its place. Each octave halves the wavelength and lowers the amplitude.

Each image, channel and octave has a lattice of its own, shifted at random. So pixels have zero mean and unit variance
over the random numbers, each of them, exactly as Gaussian noise has; the sum over octaves is divided by a constant and
not by the deviation of the noise at hand. AnoDDPM's own code neither shifts nor normalises: its noise is weaker.
"""

import math
from collections.abc import Sequence

import torch

TABLE_SIZE = 256  # gradients repeat after so many lattice points
GRADIENTS = (  # the middles of a cube's edges
    (1, 1, 0), (-1, 1, 0), (1, -1, 0), (-1, -1, 0),
    (1, 0, 1), (-1, 0, 1), (1, 0, -1), (-1, 0, -1),
    (0, 1, 1), (0, -1, 1), (0, 1, -1), (0, -1, -1),
)  # fmt: skip
SKEW, UNSKEW = 1 / 3, 1 / 6  # cubes to tetrahedra and back, in three dimensions


def _lattice_variance() -> float:
    """Variance of one octave: 2 lattice points a unit of volume, each with the mean of (½ − r²)⁸ (g · r)² around it.

    With E[g gᵀ] = ⅔ 1 this is 2 · ⅔ · 4π ∫₀^√½ (½ − r²)⁸ r⁴ dr, an Euler beta integral.
    """
    beta_integral = math.gamma(2.5) * math.gamma(9) / math.gamma(11.5)
    return 16 * math.pi / 3 * 0.5**10.5 * beta_integral / 2


def simplex_noise(
    shape: Sequence[int],
    timestep: int | torch.Tensor,
    generator: torch.Generator | list[torch.Generator] | None = None,
    octaves: int = 6,
    persistence: float = 0.8,
    wavelength: float = 64.0,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Simplex noise with zero mean and unit variance in every pixel, channels and images independent.

        z = Σ_k persistence^k · simplex(x · 2^k / wavelength, y · 2^k / wavelength, t · 2^k / wavelength) / constant

    The same generator state with another timestep gives another slice of the same three-dimensional noise.

    Args:
        shape (`Sequence[int]`): (B, C, H, W).
        timestep (`int` or `torch.Tensor` of shape `(B,)`): t, the third coordinate.
        generator (*optional*): one `torch.Generator`, or one per image.
        octaves (`int`), persistence (`float`): 6 and 0.8 in AnoDDPM.
        wavelength (`float`): side of the first octave's lattice cells in pixels, and in steps of t; AnoDDPM's code
            calls it a frequency of 64.
        device, dtype (*optional*): of the noise; the random numbers are drawn where the generator lives.

    Returns:
        `torch.Tensor` of shape `(B, C, H, W)`.
    """
    batch, channels, height, width = shape
    if octaves < 1 or persistence <= 0 or wavelength <= 0:
        raise ValueError(
            "`octaves` must be at least 1 and `persistence` and `wavelength` positive, "
            f"got {octaves}, {persistence} and {wavelength}."
        )
    if isinstance(generator, list) and len(generator) != batch:
        raise ValueError(f"`generator` holds {len(generator)} generators for {batch} images; give one each.")
    permutations, shifts = _random_lattices((batch, channels, octaves), generator)
    permutations, shifts = permutations.to(device), shifts.to(device)
    z = torch.as_tensor(timestep, device=device).float().expand(batch)
    z = z.repeat_interleave(channels)[:, None]  # (B·C, 1)
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    pixels = (x.flatten().float(), y.flatten().float(), z)

    noise, power = 0, 0
    for octave in range(octaves):
        amplitude, cells = persistence**octave, 2**octave / wavelength
        shift = shifts[:, :, octave].flatten(0, 1)  # (B·C, 3)
        axes = [axis * cells + origin for axis, origin in zip(pixels, shift.T[..., None])]
        points = torch.stack(torch.broadcast_tensors(*axes))  # (3, B·C, H·W)
        noise = noise + amplitude * _simplex(points, permutations[:, :, octave].flatten(0, 1))
        power = power + amplitude**2
    return (noise / (power * _lattice_variance()) ** 0.5).view(batch, channels, height, width).to(dtype)


def _random_lattices(shape, generator):
    """A permutation of the table (*shape, 256) and a shift (*shape, 3) for each image, channel and octave."""
    if isinstance(generator, list):
        lattices = [_random_lattices((1, *shape[1:]), one) for one in generator]
        return tuple(torch.cat(parts) for parts in zip(*lattices))
    source = "cpu" if generator is None else generator.device
    permutations = torch.rand(*shape, TABLE_SIZE, generator=generator, device=source).argsort(-1)
    return permutations, TABLE_SIZE * torch.rand(*shape, 3, generator=generator, device=source)


def _simplex(points, permutation):
    """One octave, not normalised, at points (3, N, P) of N lattices, each with its permutation (N, 256): (N, P)."""
    gradients = torch.tensor(GRADIENTS, device=points.device, dtype=points.dtype)
    corner = (points + SKEW * points.sum(0)).floor()  # (3, N, P), of the skewed cube that the point lies in
    offset = points - (corner - UNSKEW * corner.sum(0))
    order = offset.argsort(dim=0, descending=True).argsort(dim=0)  # the tetrahedron: its edges go along x, y, z so
    total = 0
    for step in range(4):  # its four corners
        move = (order < step).to(points.dtype)
        distance = offset - move + UNSKEW * step
        place = (corner + move).long() % TABLE_SIZE
        hashed = permutation.gather(1, place[2])
        hashed = permutation.gather(1, (place[1] + hashed) % TABLE_SIZE)
        hashed = permutation.gather(1, (place[0] + hashed) % TABLE_SIZE)
        gradient = gradients[hashed % len(GRADIENTS)].movedim(-1, 0)  # (3, N, P)
        kernel = (0.5 - (distance**2).sum(0)).clamp(min=0) ** 4
        total = total + kernel * (gradient * distance).sum(0)
    return total
