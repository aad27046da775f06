"""A synthetic CT scanner: Hounsfield units of a head, and slices of it in any orientation, thickness and kernel.

The head is drawn once at 1 mm; a slice is the mean of thin planes through it (partial volume), sharpened or smoothed
in its plane by the kernel, with noise of that kernel's texture. Figures are our choice, set beside real scans.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .anatomy import Tissue
from .fields import smooth_field
from .head import NUM_TISSUES, HeadTissue

AIR_HU = -1000
HOUNSFIELD = {
    Tissue.WHITE_MATTER: 27,
    Tissue.CORTEX: 38,
    Tissue.CEREBELLAR_CORTEX: 36,
    Tissue.THALAMUS: 35,
    Tissue.CAUDATE: 37.5,
    Tissue.PUTAMEN: 37.5,
    Tissue.PALLIDUM: 36,
    Tissue.HIPPOCAMPUS: 36,
    Tissue.BRAIN_STEM: 31,
    Tissue.VENTRICLE: 6,
    Tissue.SULCAL_CSF: 8,
    Tissue.CHOROID_PLEXUS: 30,
    Tissue.VESSEL: 46,
    HeadTissue.BONE: 1250,
    HeadTissue.MARROW: 480,
    HeadTissue.SOFT_TISSUE: 40,
    HeadTissue.SKIN_FAT: -70,
    HeadTissue.EYE: 15,
    HeadTissue.MUSCLE: 50,
    HeadTissue.MUCOSA: 35,
    HeadTissue.SPINAL_CORD: 31,
}
_SUBPLANE_MM = 1.7  # thick slices are means of planes this far apart


@dataclass(frozen=True)
class Stack:
    """Where slices lie, in mm of the scanner (LPS): `centres` (S, 3) of the slices; unit vectors `row` (along a row)
    and `column`; `thickness_mm` (S,); `shape` (rows, columns) and `pixel_mm` of the image."""

    centres: np.ndarray
    row: np.ndarray
    column: np.ndarray
    thickness_mm: np.ndarray
    shape: tuple[int, int]
    pixel_mm: float

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.row, self.column)

    @property
    def corners(self) -> np.ndarray:
        """Centre of the first pixel of every slice (S, 3): ImagePositionPatient."""
        rows, columns = self.shape
        return self.centres - self.pixel_mm * ((columns - 1) / 2 * self.row + (rows - 1) / 2 * self.column)

    def take(self, chosen: np.ndarray) -> "Stack":
        return Stack(self.centres[chosen], self.row, self.column, self.thickness_mm[chosen], self.shape, self.pixel_mm)


@dataclass(frozen=True)
class Pose:
    """How a head lies in the scanner: voxel `centre` of its volume falls on `isocentre` (mm), turned by `rotation`."""

    rotation: np.ndarray
    isocentre: np.ndarray
    centre: np.ndarray

    def voxels(self, points: np.ndarray) -> np.ndarray:
        return (points - self.isocentre) @ self.rotation + self.centre


def draw_head(rng: np.random.Generator, tissue: np.ndarray, mni: np.ndarray, voxel_mm: int = 1) -> np.ndarray:
    """Hounsfield units (float32) of a head: tissues, muscle mixed with fat, beam hardening by the skull.

    Args:
        tissue (X, Y, Z): values of `Tissue` and `HeadTissue`.
        mni (3, x, y, z): mm in MNI space of the voxels of a grid of 2 mm.
        voxel_mm: of `tissue`, 1 or 2.
    """
    values = np.full(NUM_TISSUES, AIR_HU, np.float32)
    for kind, hounsfield in HOUNSFIELD.items():
        values[kind] = hounsfield
    values[1 : max(Tissue) + 1] += rng.normal(0, 0.5, max(Tissue))
    values[Tissue.WHITE_MATTER] += rng.uniform(-1.5, 1)  # contrast between grey and white differs between scanners
    image = values[tissue]
    step = 2 // voxel_mm
    half = tissue[::step, ::step, ::step]

    def full(values):
        return _double(values, tissue.shape) if step == 2 else values

    fat = 1 / (1 + np.exp(-8 * (smooth_field(rng, half.shape, 5) - 0.4)))
    image -= full(110 * fat * (half == HeadTissue.SOFT_TISSUE))
    texture = 0.7 * smooth_field(rng, half.shape, 9)
    bone = (half == HeadTissue.BONE).astype(np.float32)
    cupping = rng.uniform(12, 25) * ndimage.gaussian_filter(bone, 3)  # brain looks denser along the inner table
    x, y, z = mni
    bar = np.exp(-((z + 36) ** 2) / 72 - (y + 28) ** 2 / 300 - x**2 / 2000)  # dark band between the petrous bones
    streaks = np.sin(0.35 * y + 0.03 * x + rng.uniform(0, 6)) * np.exp(-((z + 38) ** 2) / 200)
    hardening = cupping - rng.uniform(5, 14) * bar + rng.uniform(0.5, 2.5) * streaks + texture
    return image + full(hardening * ((half > 0) & (half != HeadTissue.BONE)))


def sample(volume: np.ndarray, pose: Pose, stack: Stack, outside: float, sharp: bool = False) -> np.ndarray:
    """Slices (S, rows, columns) of `volume`: means over each slice's thickness, no noise.

    A soft kernel is a Gaussian of 0.7 mm over planes read at 1 mm; with `sharp`, planes are read pixel by pixel and
    edges are enhanced, as a bone kernel does."""
    pitch = stack.pixel_mm if sharp else 1.0
    size = [n if sharp else int(np.ceil(n * stack.pixel_mm)) + 2 for n in stack.shape]
    step = pose.rotation.T
    planes = np.empty((len(stack.centres), *size), np.float32)
    for plane, centre, thickness in zip(planes, stack.centres, stack.thickness_mm):
        count = 1 if sharp else max(1, round(thickness / _SUBPLANE_MM))
        between = thickness / count
        first = centre - pitch * ((size[0] - 1) / 2 * stack.column + (size[1] - 1) / 2 * stack.row)
        first = first - between * (count - 1) / 2 * stack.normal
        axes = step @ np.stack([between * stack.normal, pitch * stack.column, pitch * stack.row], axis=1)
        start = pose.voxels(first)
        slab = ndimage.affine_transform(
            volume,
            axes,
            start,  # pyright: ignore[reportArgumentType]  an offset for each axis
            (count, *size),
            order=1,
            cval=outside,
            output=np.float32,
        )
        plane[...] = slab.mean(0)
    if sharp:
        smooth = ndimage.gaussian_filter(planes, (0, 0.6 / stack.pixel_mm, 0.6 / stack.pixel_mm), truncate=2.5)
        return planes + 0.8 * (planes - smooth)
    rows, columns = (_blur_weights(n, stack.pixel_mm, m) for n, m in zip(stack.shape, size))
    return rows @ planes @ columns.T


def noise(rng: np.random.Generator, stack: Stack, sigma: float, sharp: bool = False) -> np.ndarray:
    """Noise (S, rows, columns) of `sigma` HU: alike over about 1 mm or, with `sharp`, without low frequencies."""
    white = rng.standard_normal((len(stack.centres), *stack.shape), dtype=np.float32)
    width = 0.6 / stack.pixel_mm
    grain = ndimage.gaussian_filter(white, (0, width, width), truncate=2.5)
    if sharp:
        grain = ndimage.gaussian_filter(white, (0, 0.45 * width, 0.45 * width), truncate=2.5) - grain
    return grain * (sigma / grain.std())


def head_holder(stack: Stack, isocentre: np.ndarray) -> np.ndarray:
    """HU of the cradle below the head (rows, columns), air elsewhere: a shell around foam, the same in all slices."""
    rows, columns = np.indices(stack.shape, dtype=np.float32)
    down = (rows - (stack.shape[0] - 1) / 2) * stack.pixel_mm * stack.column[1] + stack.centres[0, 1] - isocentre[1]
    across = (columns - (stack.shape[1] - 1) / 2) * stack.pixel_mm
    radius = np.hypot(across / 0.92, down)
    shell = (np.abs(radius - 116) < 1.6) | (np.abs(radius - 131) < 1.6)
    cradle = np.where(shell, 90, np.where((radius > 116) & (radius < 131), -900, AIR_HU))
    return np.where(down > 40, cradle, AIR_HU).astype(np.float32)


def projection(volume: np.ndarray, axis: int) -> np.ndarray:
    """What a localiser shows: attenuation summed along `axis`, in the units a scanner gives it (about -100 to 900)."""
    path = (np.maximum(volume, AIR_HU) + 1000).sum(axis) / 1000  # mm of water
    return (1100 * (1 - np.exp(-path / 170)) - 100).astype(np.float32)


def _blur_weights(size: int, pixel_mm: float, planes: int, sigma_mm: float = 0.7) -> np.ndarray:
    """Weights (size, planes) that read a 1 mm grid at pixel positions through a Gaussian."""
    at = (np.arange(size) - (size - 1) / 2) * pixel_mm
    grid = np.arange(planes) - (planes - 1) / 2
    weights = np.exp(-((at[:, None] - grid) ** 2) / (2 * sigma_mm**2))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _double(half: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return half.astype(np.float32).repeat(2, 0).repeat(2, 1).repeat(2, 2)[: shape[0], : shape[1], : shape[2]]
