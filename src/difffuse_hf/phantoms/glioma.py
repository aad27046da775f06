"""A synthetic glioma: where it grows, and how bright its parts are. Synthetic throughout; no patient data.

Segmentation values are those of BraTS 2021: 1 necrotic core, 2 oedema, 4 enhancing tumour.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..preprocessing.shapes import depth, largest_piece
from .anatomy import Tissue
from .fields import smooth_field
from .regions import Box, box_around, gaussian_inside, widen

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

    def displacement(self, mesh: tuple[np.ndarray, ...]) -> np.ndarray:
        """Outward push, (3, X, Y, Z) in mm, to be subtracted from the coordinates that anatomy is read at.

        `mesh`: voxel coordinates along x, y and z, as `numpy.ix_` gives them."""
        x, y, z = (axis - centre for axis, centre in zip(mesh, self.centre))
        distance = np.sqrt(x**2 + y**2 + z**2) + 1e-3
        core = self.radius_mm * self.core_fraction
        profile = np.clip(distance / core, 0, 1) * np.exp(-((np.maximum(distance - core, 0) / self.radius_mm) ** 2))
        profile = self.push_mm * profile / distance
        return np.stack([profile * x, profile * y, profile * z])


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


def grow_glioma(
    rng: np.random.Generator, plan: GliomaPlan, tissue: np.ndarray, axes: Sequence[np.ndarray]
) -> np.ndarray:
    """Segmentation (uint8, shape of `tissue`) of the planned tumour in an anatomy: oedema follows white matter, spares
    fluid and hardly enters cortex; the core is compact and may enhance along its rim.

    `axes`: voxel coordinates of `tissue` along x, y and z."""
    squeeze = rng.uniform(0.75, 1.3, 3)
    squeeze = squeeze / np.cbrt(squeeze.prod())
    rough, fine = smooth_field(rng, tissue.shape, 14), smooth_field(rng, tissue.shape, 7)
    reach = np.zeros(len(Tissue), np.float32)  # how far oedema spreads in each tissue, in tumour radii
    reach[1:] = 0.7
    reach[Tissue.WHITE_MATTER] = 1.0
    reach[[Tissue.CORTEX, Tissue.CEREBELLAR_CORTEX, Tissue.SULCAL_CSF]] = 0.5 + 0.35 * rng.random()
    reach[[Tissue.VENTRICLE, Tissue.CHOROID_PLEXUS]] = 0.0
    lumps = smooth_field(rng, tissue.shape, 9)

    # Nothing grows where the distance alone is more than all that the fields can take off it.
    oedema_end = 1 - 0.20 * rough.min() - 0.07 * fine.min()
    core_end = plan.core_fraction * (1 - 0.25 * lumps.min())
    box = _ellipsoid_box(plan, axes, 1.001 * max(oedema_end, core_end) * plan.radius_mm / squeeze)
    offset = [(axis[part] - centre) * by for axis, part, centre, by in zip(axes, box, plan.centre, squeeze)]
    x, y, z = np.ix_(*offset)
    distance = np.sqrt(x**2 + y**2 + z**2) / plan.radius_mm
    outline = distance + 0.20 * rough[box] + 0.07 * fine[box]
    across = (axes[0][box[0]] - plan.midline) * np.sign(plan.centre[0] - plan.midline) < 0
    outline += 0.4 * across[:, None, None]
    inside = outline < gaussian_inside(reach[tissue], 1.5, box)
    room = (tissue[box] > 0) & (tissue[box] != Tissue.VENTRICLE)
    oedema = largest_piece((ndimage.gaussian_filter(inside.astype(np.float32), 1.2) > 0.5) & room)
    core = largest_piece((distance / plan.core_fraction + 0.25 * lumps[box] < 1) & room)
    segmentation = np.zeros(tissue.shape, np.uint8)
    tumour = segmentation[box]
    tumour[oedema] = OEDEMA
    tumour[core] = NECROTIC
    if plan.enhances and core.any():
        around = box_around(core, 1)
        inwards = depth(core[around])  # mm from the core's border
        thickness = rng.uniform(1.5, 5) * (1 + 0.5 * smooth_field(rng, tissue.shape, 7, box)[around])
        tumour[around][core[around] & (inwards <= thickness)] = ENHANCING
    return segmentation


def paint_glioma(rng, plan: GliomaPlan, segmentation, image, modality: str, white_matter: float) -> np.ndarray:
    """`image` with the tumour painted in; voxels outside the segmentation are left exactly as they are."""
    if not segmentation.any():
        return image
    ratios = {part: 1 + plan.severity * (rng.uniform(*ends) - 1) for part, ends in BRIGHTNESS[modality].items()}
    return paint_parts(rng, segmentation, ratios, image, white_matter)


def paint_parts(rng, segmentation, ratios: Mapping[int, float], image, white_matter: float) -> np.ndarray:
    """`image` with the parts of a lesion painted in, faded in from its border; nothing changes outside of it.

    `ratios`: brightness of each label of `segmentation` against white matter."""
    box = box_around(segmentation > 0, 7)  # wider than the widest filter reaches
    lesion, healthy, shape = segmentation[box], image[box], image.shape
    inside = lesion > 0
    if not inside.any():
        return image
    target = np.zeros(lesion.shape, np.float32)
    for part, ratio in ratios.items():
        target[lesion == part] = white_matter * ratio
    weight = ndimage.gaussian_filter(inside.astype(np.float32), 1.6)
    target = ndimage.gaussian_filter(target, 0.8) / np.maximum(ndimage.gaussian_filter(inside * 1.0, 0.8), 1e-3)
    target *= 1 + 0.07 * smooth_field(rng, shape, 5, box) + 0.05 * smooth_field(rng, shape, 12, box)
    anatomy = healthy / white_matter - 1
    target = target + 0.25 * white_matter * np.clip(anatomy, -0.5, 0.5)  # a trace of the tissue underneath
    blend = np.clip((weight - 0.35) / 0.45, 0.12, 1)  # fades in over about 3 mm inside the border
    painted = image.copy()
    painted[box] = np.where(inside, healthy + blend * (target - healthy), healthy)
    return painted


def _ellipsoid_box(plan: GliomaPlan, axes: Sequence[np.ndarray], radii: np.ndarray) -> Box:
    """The box of the ellipsoid of these radii (3,) around the tumour's centre, with a margin for filters."""
    bounds = (
        (centre - axis[0] - radius, centre - axis[0] + radius)
        for axis, centre, radius in zip(axes, plan.centre, radii)
    )
    return widen(tuple(slice(int(low), int(high) + 2) for low, high in bounds), 8, [len(axis) for axis in axes])
