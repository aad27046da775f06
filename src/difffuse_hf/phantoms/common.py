"""What the synthetic data sets share: a deformed anatomy, tissue intensities, thick slices, headers that say so."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

from ..io.nifti import SYNTHETIC
from .anatomy import Anatomy, Tissue
from .fields import smooth_field
from .regions import Box, blurred

_FLUID = (Tissue.VENTRICLE, Tissue.SULCAL_CSF)
_SLAB = 8  # planes that an anatomy is read in at a time

Displacement = Callable[[tuple[np.ndarray, ...]], np.ndarray]


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

    `axes`: voxel coordinates of the box that is drawn, along x, y and z (LPS); `origin`: where the MNI origin falls.
    """

    anatomy: Anatomy
    origin: np.ndarray
    to_anatomy: np.ndarray  # (3, 3)
    axes: tuple[np.ndarray, np.ndarray, np.ndarray]
    warp: np.ndarray  # (3, x, y, z) in mm

    def read(self, displacement: Displacement | None = None, step: int = 1) -> np.ndarray:
        """Tissue (uint8, x, y, z) of every voxel of the box, or of every `step`-th along each axis.

        Args:
            displacement: from voxel coordinates, as `numpy.ix_` gives them, to mm (3, x, y, z) that are taken off the
                coordinates first.
        """
        tissue = np.pad(self.anatomy.tissue, 1)  # what lies outside of the anatomy is read in its margin
        limits = np.array(tissue.shape, np.float32)[:, None] - 1
        strides = np.array([[tissue.shape[1] * tissue.shape[2]], [tissue.shape[2]], [1]])
        x, y, z = (axis[::step] for axis in self.axes)
        warp = self.warp[:, ::step, ::step, ::step]
        found = np.empty(warp.shape[1:], np.uint8)
        for start in range(0, len(x), _SLAB):  # a few planes at a time stay in the processor's cache
            slab = slice(start, start + _SLAB)
            mesh = np.ix_(x[slab], y, z)
            points = np.stack([axis + part for axis, part in zip(mesh, warp[:, slab])])
            if displacement:
                points -= displacement(mesh)
            points -= self.origin[:, None, None, None].astype(np.float32)
            flat = self.to_anatomy @ points.reshape(3, -1)
            flat += self.anatomy.origin[:, None].astype(np.float32)
            flat = np.clip(np.rint(flat, out=flat) + 1, 0, limits, out=flat).astype(np.intp)
            found[slab] = tissue.ravel()[(flat * strides).sum(0)].reshape(points.shape[1:])
        return found


def deform(
    rng: np.random.Generator, anatomy: Anatomy, origin: Sequence[float], box: Sequence[slice], voxel_mm: int = 1
) -> Deformation:
    """Draw a deformation: up to 3 mm, 6 degrees, 7 % of size, mirrored or not, warped by about 2 mm.

    Args:
        origin: voxel of the MNI origin on the output grid of 1 mm, before the random shift.
        box: the part of the output grid that is drawn.
        voxel_mm: draw every so manyth voxel of that grid only; `axes` stay in mm.
    """
    shifted = np.array(origin) + rng.uniform(-3, 3, 3)
    angles = np.deg2rad(rng.uniform(-6, 6, 3))
    scale = rng.uniform(0.93, 1.07) * rng.uniform(0.96, 1.04, 3)
    flip = np.diag([rng.choice([-1.0, 1.0]), 1.0, 1.0])
    to_anatomy = (anatomy.pose @ flip @ rotation(angles) @ np.diag(1 / scale)).astype(np.float32)
    x, y, z = (np.arange(s.start, s.stop, voxel_mm, dtype=np.float32) for s in box)
    warp = np.empty((3, len(x), len(y), len(z)), np.float32)
    for part in warp:
        np.multiply(smooth_field(rng, part.shape, 55 / voxel_mm), 2.2, out=part)
        part += smooth_field(rng, part.shape, 22 / voxel_mm) * 0.8
    return Deformation(anatomy, shifted, to_anatomy, (x, y, z), warp)


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


@dataclass(frozen=True)
class MRLook:
    """How much the synthetic scans of one sequence differ: (low, high) of a uniform draw for each scan.

    `contrast`: factor on how far a tissue stands off white matter; `fluid`: on the brightness of fluid; `jitter`:
    standard deviation of each tissue's own factor; `blur_mm`: of the Gaussian that stands for partial volume.
    """

    contrast: tuple[float, float] = (0.3, 1.25)
    fluid: tuple[float, float] = (0.65, 1.25)
    jitter: float = 0.04
    blur_mm: tuple[float, float] = (0.55, 0.9)


def child_rng(rng: np.random.Generator) -> np.random.Generator:
    """A stream of its own, so that what one purpose draws does not shift the next one's numbers."""
    return np.random.default_rng(rng.integers(2**63))


def draw_tissue(
    rng: np.random.Generator,
    tissue: np.ndarray,
    brightness: tuple[float, ...],
    box: Box,
    caps: np.ndarray | None = None,
    look: MRLook = MRLook(),
) -> tuple[np.ndarray, float]:
    """Noise-free MR image of the anatomy (float32, arbitrary units) and the brightness of its white matter.

    Args:
        brightness: of each tissue against white matter, in the order of `Tissue` from WHITE_MATTER on.
        box: that holds the tissue with a margin of 4 voxels.
        caps: `ventricle_caps` in the box, part of a healthy brain on FLAIR and T2.
        look: how much scanners and sequences differ.
    """
    white_matter = 100.0
    values = np.array((0.0, *brightness), np.float32)
    solid = np.array([t not in _FLUID and t > 0 for t in range(len(values))])
    contrast = rng.uniform(*look.contrast)
    values[solid] = 1 + contrast * (values[solid] - 1)
    values[1:] *= 1 + look.jitter * rng.standard_normal(len(values) - 1)
    values[list(_FLUID)] *= rng.uniform(*look.fluid)
    values[Tissue.WHITE_MATTER] = 1.0
    texture = 0.025 * smooth_field(rng, tissue.shape, 4, box)
    texture += 0.025 * smooth_field(rng, tissue.shape, 18, box)
    texture += 1
    inside = (white_matter * values)[tissue[box]]
    inside *= texture
    if caps is not None:
        inside += white_matter * rng.uniform(0, 0.5) * caps
    blurred = ndimage.gaussian_filter(inside, rng.uniform(*look.blur_mm))  # partial volume
    image = np.zeros(tissue.shape, np.float32)
    image[box] = np.where(tissue[box] > 0, blurred, 0)
    return image, white_matter


def ventricle_caps(tissue: np.ndarray, box: Box) -> np.ndarray:
    """Caps and bands of white matter around the ventricles: float32, largest at their walls, in a box of `tissue`."""
    return blurred(tissue == Tissue.VENTRICLE, 2.2)[box] * (tissue[box] == Tissue.WHITE_MATTER)


def thick_slices(image: np.ndarray, thickness: int) -> np.ndarray:
    """Average over `thickness` slices and interpolate back to 1 mm, as in registered clinical scans."""
    count = image.shape[2] // thickness
    thick = sum(image[:, :, k : count * thickness : thickness] for k in range(thickness)) / np.float32(thickness)
    position = np.clip((np.arange(image.shape[2]) - (thickness - 1) / 2) / thickness, 0, count - 1)
    lower = np.floor(position).astype(int)
    upper = np.minimum(lower + 1, count - 1)
    weight = (position - lower).astype(np.float32)
    return thick.take(lower, 2) * (1 - weight) + thick.take(upper, 2) * weight


def save_nifti(data: np.ndarray, affine: np.ndarray, path: Path, description: bytes = SYNTHETIC):
    """Write a NIfTI file whose header says that it is synthetic."""
    image = nibabel.Nifti1Image(data, affine)
    image.header["descrip"] = description
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
