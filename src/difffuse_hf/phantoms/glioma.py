"""A synthetic glioma: where it grows, and how bright its parts are. Synthetic throughout; no patient data.

Segmentation values are those of BraTS 2021: 1 necrotic core, 2 oedema, 4 enhancing tumour.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..preprocessing.shapes import depth, largest_piece
from .anatomy import Tissue
from .fields import smooth_field

NECROTIC, OEDEMA, ENHANCING = 1, 2, 4  # BraTS 2021

# Brightness against normal white matter (= 1) at full severity: (low, high) of a uniform draw. Our choice, set beside
# real scans; oedema is bright on FLAIR and T2 and dim on T1, the enhancing rim is bright on T1ce only.
BRIGHTNESS = {
    "flair": {NECROTIC: (0.7, 2.0), OEDEMA: (1.7, 2.7), ENHANCING: (1.5, 2.3)},
    "t1": {NECROTIC: (0.5, 0.75), OEDEMA: (0.7, 0.88), ENHANCING: (0.7, 1.1)},
    "t1ce": {NECROTIC: (0.5, 0.8), OEDEMA: (0.75, 0.92), ENHANCING: (1.5, 2.8)},
    "t2": {NECROTIC: (1.8, 3.2), OEDEMA: (1.7, 2.6), ENHANCING: (1.4, 2.2)},
}


@dataclass(frozen=True)
class GliomaPlan:
    """Drawn before the anatomy is deformed, so that the tumour can push it aside.

    `centre` (voxels of the output grid), `radius_mm` of the whole tumour, `core_fraction` of that radius, `push_mm`:
    how far the core displaces tissue at its border; `severity` in (0, 1]: how far brightness departs from normal;
    `midline`: x of the plane between the hemispheres, which tumours cross only in part.
    """

    centre: np.ndarray
    radius_mm: float
    core_fraction: float
    push_mm: float
    severity: float
    enhances: bool
    midline: float

    def displacement(self, grid: np.ndarray) -> np.ndarray:
        """Outward push, (3, X, Y, Z) in mm, to be subtracted from the coordinates that anatomy is read at."""
        offset = grid - self.centre[:, None, None, None]
        distance = np.sqrt((offset**2).sum(0)) + 1e-3
        core = self.radius_mm * self.core_fraction
        profile = np.clip(distance / core, 0, 1) * np.exp(-((np.maximum(distance - core, 0) / self.radius_mm) ** 2))
        return (self.push_mm * profile / distance)[None] * offset


def plan_glioma(rng: np.random.Generator, candidates: np.ndarray, midline: float) -> GliomaPlan:
    """Draw a tumour; `candidates` (N, 3) are voxels of supratentorial white matter it may start from."""
    radius = rng.uniform(10, 34)
    core_fraction = rng.uniform(0.35, 0.7)
    return GliomaPlan(
        centre=candidates[rng.integers(len(candidates))].astype(np.float32),
        radius_mm=radius,
        core_fraction=core_fraction,
        push_mm=rng.uniform(0.05, 0.3) * radius * core_fraction,
        severity=rng.uniform(0.45, 1.0),
        enhances=rng.random() < 0.85,
        midline=midline,
    )


def grow_glioma(rng: np.random.Generator, plan: GliomaPlan, tissue: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Segmentation (uint8, shape of `tissue`) of the planned tumour in an anatomy: oedema follows white matter, spares
    fluid and hardly enters cortex; the core is compact and may enhance along its rim."""
    squeeze = rng.uniform(0.75, 1.3, 3)
    offset = (grid - plan.centre[:, None, None, None]) * (squeeze / np.cbrt(squeeze.prod()))[:, None, None, None]
    distance = np.sqrt((offset**2).sum(0)) / plan.radius_mm
    outline = distance + 0.20 * smooth_field(rng, tissue.shape, 14) + 0.07 * smooth_field(rng, tissue.shape, 7)
    across = (grid[0] - plan.midline) * np.sign(plan.centre[0] - plan.midline) < 0
    outline = outline + 0.4 * across

    reach = np.zeros(len(Tissue), np.float32)  # how far oedema spreads in each tissue, in tumour radii
    reach[1:] = 0.7
    reach[Tissue.WHITE_MATTER] = 1.0
    reach[[Tissue.CORTEX, Tissue.CEREBELLAR_CORTEX, Tissue.SULCAL_CSF]] = 0.5 + 0.35 * rng.random()
    reach[[Tissue.VENTRICLE, Tissue.CHOROID_PLEXUS]] = 0.0
    room = (tissue > 0) & (tissue != Tissue.VENTRICLE)
    inside = outline < ndimage.gaussian_filter(reach[tissue], 1.5)
    oedema = largest_piece((ndimage.gaussian_filter(inside.astype(np.float32), 1.2) > 0.5) & room)
    core_outline = distance / plan.core_fraction + 0.25 * smooth_field(rng, tissue.shape, 9)
    core = largest_piece((core_outline < 1) & room)
    segmentation = np.where(oedema, OEDEMA, 0).astype(np.uint8)
    segmentation[core] = NECROTIC
    if plan.enhances and core.any():
        inwards = depth(core)  # mm from the core's border
        thickness = rng.uniform(1.5, 5) * (1 + 0.5 * smooth_field(rng, tissue.shape, 7))
        segmentation[core & (inwards <= thickness)] = ENHANCING
    return segmentation


def paint_glioma(rng, plan: GliomaPlan, segmentation, image, modality: str, white_matter: float) -> np.ndarray:
    """`image` with the tumour painted in; voxels outside the segmentation are left exactly as they are."""
    inside = segmentation > 0
    if not inside.any():
        return image
    target = np.zeros(segmentation.shape, np.float32)
    for part, (low, high) in BRIGHTNESS[modality].items():
        ratio = 1 + plan.severity * (rng.uniform(low, high) - 1)
        target[segmentation == part] = white_matter * ratio
    weight = ndimage.gaussian_filter(inside.astype(np.float32), 1.6)
    target = ndimage.gaussian_filter(target, 0.8) / np.maximum(ndimage.gaussian_filter(inside * 1.0, 0.8), 1e-3)
    target *= 1 + 0.07 * smooth_field(rng, segmentation.shape, 5) + 0.05 * smooth_field(rng, segmentation.shape, 12)
    anatomy = image / white_matter - 1
    target = target + 0.25 * white_matter * np.clip(anatomy, -0.5, 0.5)  # a trace of the tissue underneath
    blend = np.clip((weight - 0.35) / 0.45, 0.12, 1)  # fades in over about 3 mm inside the border
    return np.where(inside, image + blend * (target - image), image).astype(image.dtype)
