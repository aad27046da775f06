"""The head of a synthetic stroke patient before the acute infarct: age, old lesions, clot, and the shift to come."""

import numpy as np
from scipy import ndimage

from ..preprocessing.shapes import depth
from .anatomy import Tissue
from .common import Deformation
from .ct_scanner import draw_head
from .infarct import infarct_hounsfield
from .ist3_plan import PatientPlan

SHAPE, ORIGIN = (190, 240, 206), (95.0, 112.0, 104.0)  # the head's own volume, 1 mm, and the MNI origin in it
OLD_DROP_HU = 21.0  # of an old infarct: nearly fluid


def mni_axes(head: Deformation) -> np.ndarray:
    """(3, 3): from mm on the head's grid, seen from its MNI origin, to mm to the patient's left, to the front and up.

    MNI space is that of the anatomy before it was warped, in its own size."""
    to_mni = head.anatomy.pose.T @ head.to_anatomy
    if np.linalg.det(to_mni) < 0:  # a mirrored anatomy: its left is the other side now
        to_mni = np.diag([-1.0, 1, 1]) @ to_mni
    return np.diag([1.0, -1, 1]) @ to_mni


def mni_coordinates(head: Deformation, step: int = 2) -> np.ndarray:
    """MNI coordinates (3, x, y, z) of every `step`-th voxel: mm to the patient's left, to the front and up."""
    grid = (
        np.stack(np.meshgrid(*(axis[::step] for axis in head.axes), indexing="ij")) - head.origin[:, None, None, None]
    )
    return np.einsum("ij,jxyz->ixyz", mni_axes(head), grid).astype(np.float32)


def to_full(extent: np.ndarray) -> np.ndarray:
    """From every second voxel to every voxel, linearly."""
    for axis in range(3):
        between = (extent + np.concatenate([np.delete(extent, 0, axis), np.take(extent, [-1], axis)], axis)) / 2
        extent = np.stack([extent, between], axis + 1).reshape(
            *(n * (1 + (i == axis)) for i, n in enumerate(extent.shape))
        )
    return extent


def mass_effect(shift_mm: float, mesh: tuple[np.ndarray, ...]) -> np.ndarray:
    """Displacement (3, X, Y, Z) in mm along x that is largest beside the midline and fades before the skull.

    `mesh`: voxel coordinates along x, y and z, as `numpy.ix_` gives them."""
    x, y, z = (
        np.exp(-((axis - at) ** 2) / (2 * width**2))
        for axis, at, width in zip(mesh, (ORIGIN[0], ORIGIN[1] + 8, ORIGIN[2] + 14), (20, 30, 20))
    )
    along = shift_mm * x * y * z
    return np.stack([along, np.zeros_like(along), np.zeros_like(along)])


def background(
    rng: np.random.Generator,
    plan: PatientPlan,
    tissue: np.ndarray,
    mni: np.ndarray,
    head: Deformation,
    old: list,
    voxel_mm: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Tissue and HU of the patient before the acute infarct, with the findings of age.

    Args:
        mni (3, x, y, z): of a grid of 2 mm.
        old: extents of old infarcts, on the grid of `tissue`.
        voxel_mm: of `tissue`, 1 or 2.
    """
    if plan.findings["atrophy"]:
        tissue = _atrophy(rng, tissue, voxel_mm)
    image = draw_head(rng, tissue, mni, voxel_mm)
    if plan.findings["leukoaraiosis"]:
        step = 2 // voxel_mm
        half = tissue[::step, ::step, ::step]
        far = depth(half != Tissue.VENTRICLE, 2.0).astype(np.float32)
        pale = rng.uniform(5, 10) * np.exp(-((far / rng.uniform(6, 13)) ** 2)) * (half == Tissue.WHITE_MATTER)
        pale = ndimage.gaussian_filter(pale, 0.7)
        image -= (to_full(pale) if step == 2 else pale) * (tissue == Tissue.WHITE_MATTER)
    for extent in old:
        image += infarct_hounsfield(tissue, extent, 1.0, OLD_DROP_HU, 0.0)[0]
    if plan.findings["hyperdense_vessel"]:
        side = next(infarct.side for infarct in plan.infarcts if infarct.territory.startswith("MCA"))
        _paint_artery(image, tissue, head, 1 if side == "left" else -1, rng.uniform(52, 64), voxel_mm)
    return tissue, image


def _atrophy(rng, tissue: np.ndarray, voxel_mm: int) -> np.ndarray:
    """Wider ventricles and sulci; the skull stays."""
    tissue = tissue.copy()
    solid = (tissue > 0) & (tissue <= max(Tissue)) & (tissue != Tissue.VESSEL)
    deep = solid & np.isin(tissue, (Tissue.WHITE_MATTER, Tissue.THALAMUS, Tissue.CAUDATE))
    ventricle = tissue == Tissue.VENTRICLE
    for _ in range(-(-int(rng.integers(1, 4)) // voxel_mm)):
        ventricle = np.asarray(ndimage.binary_dilation(ventricle, mask=deep | ventricle), bool)
    tissue[ventricle] = Tissue.VENTRICLE
    fluid = ndimage.gaussian_filter((tissue == Tissue.SULCAL_CSF).astype(np.float32), 1.0 / voxel_mm, truncate=2.5)
    tissue[(tissue == Tissue.CORTEX) & (fluid > rng.uniform(0.35, 0.45))] = Tissue.SULCAL_CSF
    return tissue


def _paint_artery(image, tissue, head, side: int, hounsfield: float, voxel_mm: int):
    """The first part of the middle cerebral artery, full of clot: a tube of 3 mm from the carotid to the insula."""
    to_anatomy = head.to_anatomy
    inverse = np.linalg.inv(head.anatomy.pose.T @ to_anatomy)
    mirrored = np.linalg.det(inverse) < 0
    turns = np.array([[11, 0, -12], [20, 4, -13], [30, 2, -12], [36, -2, -8]], float)  # |x|, y to the front, z: MNI mm
    for (x, y, z), (x1, y1, z1) in zip(turns[:-1], turns[1:]):
        for t in np.linspace(0, 1, 12):
            point = np.array([side * (x + t * (x1 - x)), -(y + t * (y1 - y)), z + t * (z1 - z)])
            point[0] *= -1 if mirrored else 1
            low = np.rint((inverse @ point + head.origin - 1) / voxel_mm).astype(int)
            box = tuple(slice(n, n + -(-3 // voxel_mm)) for n in low)
            inside = (tissue[box] > 0) & (tissue[box] <= max(Tissue))
            image[box] = np.where(inside, hounsfield, image[box])
