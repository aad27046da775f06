"""What the synthetic data sets share: a deformed anatomy, tissue intensities, thick slices, headers that say so."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

from .anatomy import Anatomy, Tissue
from .fields import smooth_field

SYNTHETIC = b"SYNTHETIC: difffuse_hf BrainPhantom"  # `descrip` of every NIfTI header
_FLUID = (Tissue.VENTRICLE, Tissue.SULCAL_CSF)


@dataclass(frozen=True)
class PhantomSubject:
    """One synthetic subject: `volumes` {modality: int16 (X, Y, Z)}, `segmentation` uint8 (X, Y, Z), `affine` (4, 4);
    `group` is the anatomy it sits on: subjects of one group must not be split between training and test."""

    name: str
    group: str
    seed: int
    volumes: dict[str, np.ndarray]
    segmentation: np.ndarray
    affine: np.ndarray

    @property
    def lesion_ml(self) -> float:
        return float((self.segmentation > 0).sum() * abs(np.linalg.det(self.affine[:3, :3])) / 1000)


@dataclass(frozen=True)
class Deformation:
    """A random affine map and a smooth warp that put an anatomy on a grid of 1 mm voxels.

    `grid` (3, x, y, z): voxel coordinates of the box that is drawn, in LPS axes; `origin`: where the MNI origin falls.
    """

    anatomy: Anatomy
    origin: np.ndarray
    to_anatomy: np.ndarray  # (3, 3)
    grid: np.ndarray
    warp: np.ndarray  # (3, x, y, z) in mm

    def read(self, displacement: np.ndarray | float = 0.0) -> np.ndarray:
        """Tissue (uint8, x, y, z) on the grid; `displacement` in mm is taken off the coordinates first."""
        offset = (self.grid + self.warp - displacement) - self.origin[:, None, None, None].astype(np.float32)
        flat = self.to_anatomy @ offset.reshape(3, -1) + self.anatomy.origin[:, None].astype(np.float32)
        flat = np.rint(flat).astype(np.int32)
        inside = np.all((flat >= 0) & (flat < np.array(self.anatomy.tissue.shape)[:, None]), axis=0)
        flat[:, ~inside] = 0
        tissue = np.where(inside, self.anatomy.tissue[tuple(flat)], 0)
        return tissue.reshape(self.grid.shape[1:]).astype(np.uint8)


def deform(rng: np.random.Generator, anatomy: Anatomy, origin: Sequence[float], box: Sequence[slice]) -> Deformation:
    """Draw a deformation: up to 3 mm, 6 degrees, 7 % of size, mirrored or not, warped by about 2 mm.

    Args:
        origin: voxel of the MNI origin on the output grid, before the random shift.
        box: the part of the output grid that is drawn.
    """
    shifted = np.array(origin) + rng.uniform(-3, 3, 3)
    angles = np.deg2rad(rng.uniform(-6, 6, 3))
    scale = rng.uniform(0.93, 1.07) * rng.uniform(0.96, 1.04, 3)
    flip = np.diag([rng.choice([-1.0, 1.0]), 1.0, 1.0])
    to_anatomy = (anatomy.pose @ flip @ rotation(angles) @ np.diag(1 / scale)).astype(np.float32)
    grid = np.stack(np.meshgrid(*(np.arange(s.start, s.stop, dtype=np.float32) for s in box), indexing="ij"))
    shape = grid.shape[1:]
    warp = np.stack([smooth_field(rng, shape, 55) * 2.2 + smooth_field(rng, shape, 22) * 0.8 for _ in range(3)])
    return Deformation(anatomy, shifted, to_anatomy, grid, warp)


def rotation(angles: np.ndarray) -> np.ndarray:
    """Rotation matrix (3, 3) about x, y and z in turn, angles in radians."""
    (a, b, c), identity = angles, np.eye(3)
    matrix = identity
    for (i, j), angle in zip(((1, 2), (0, 2), (0, 1)), (a, b, c)):
        turn = identity.copy()
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix


def child_rng(rng: np.random.Generator) -> np.random.Generator:
    """A stream of its own, so that what one purpose draws does not shift the next one's numbers."""
    return np.random.default_rng(rng.integers(2**63))


def draw_tissue(
    rng: np.random.Generator, tissue: np.ndarray, brightness: tuple[float, ...], halo: bool = False
) -> tuple[np.ndarray, float]:
    """Noise-free MR image of the anatomy (float32, arbitrary units) and the brightness of its white matter.

    Args:
        brightness: of each tissue against white matter, in the order of `Tissue` from WHITE_MATTER on.
        halo: caps and bands around the ventricles, part of a healthy brain on FLAIR and T2.
    """
    white_matter = 100.0
    values = np.array((0.0, *brightness), np.float32)
    solid = np.array([t not in _FLUID and t > 0 for t in range(len(values))])
    contrast = rng.uniform(0.3, 1.25)  # scanners and sequences differ in how far grey stands off white matter
    values[solid] = 1 + contrast * (values[solid] - 1)
    values[1:] *= 1 + 0.04 * rng.standard_normal(len(values) - 1)
    values[list(_FLUID)] *= rng.uniform(0.65, 1.25)
    values[Tissue.WHITE_MATTER] = 1.0
    image = white_matter * values[tissue]
    texture = 0.025 * smooth_field(rng, tissue.shape, 4) + 0.025 * smooth_field(rng, tissue.shape, 18)
    image *= 1 + texture
    if halo:
        caps = ndimage.gaussian_filter((tissue == Tissue.VENTRICLE).astype(np.float32), 2.2)
        image += white_matter * rng.uniform(0, 0.5) * caps * (tissue == Tissue.WHITE_MATTER)
    blurred = ndimage.gaussian_filter(image, rng.uniform(0.55, 0.9))  # partial volume
    return np.where(tissue > 0, blurred, 0), white_matter


def thick_slices(image: np.ndarray, thickness: int) -> np.ndarray:
    """Average over `thickness` slices and interpolate back to 1 mm, as in registered clinical scans."""
    count = image.shape[2] // thickness
    thick = image[:, :, : count * thickness].reshape(*image.shape[:2], count, thickness).mean(3)
    position = np.clip((np.arange(image.shape[2]) - (thickness - 1) / 2) / thickness, 0, count - 1)
    lower = np.floor(position).astype(int)
    upper = np.minimum(lower + 1, count - 1)
    weight = (position - lower).astype(np.float32)
    return thick[:, :, lower] * (1 - weight) + thick[:, :, upper] * weight


def save_nifti(data: np.ndarray, affine: np.ndarray, path: Path, description: bytes = SYNTHETIC):
    """Write a NIfTI file whose header says that it is synthetic."""
    image = nibabel.Nifti1Image(data, affine)
    image.header["descrip"] = description
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
