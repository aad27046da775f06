"""A synthetic ischaemic infarct: which arterial territory, how large, where in it, what it does to Hounsfield units.

Territories are half-spaces and bands in MNI space, after the maps of Tatu et al. (2012) in rough outline: good enough
for lesions that look alike to be called alike, not an atlas. Synthetic throughout; no patient data.
"""

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from scipy import ndimage

from ..errors import InputError, require_choice
from ..io.images import open_image
from .anatomy import Tissue
from .fields import smooth_field

# Share of infarcts, and the sizes (IST-3 grades) a territory can hold. Our choice.
TERRITORIES = {
    "MCA": (0.16, (4,)),
    "MCA superior": (0.22, (1, 2, 3)),
    "MCA inferior": (0.20, (1, 2, 3)),
    "ACA": (0.06, (1, 2)),
    "PCA": (0.10, (1, 2)),
    "borderzone": (0.06, (1, 2)),
    "lacunar": (0.14, (1,)),
    "cerebellar": (0.06, (1, 2)),
}
SIZE_ML = {1: (3, 12), 2: (15, 50), 3: (60, 110), 4: (150, 260)}  # small, medium, large, whole territory
LACUNE_ML = (0.6, 1.8)  # up to 15 mm across

_FLUID = (Tissue.VENTRICLE, Tissue.SULCAL_CSF, Tissue.CHOROID_PLEXUS)
_GREY = (Tissue.CORTEX, Tissue.CEREBELLAR_CORTEX, Tissue.THALAMUS, Tissue.CAUDATE, Tissue.PUTAMEN, Tissue.PALLIDUM)


@dataclass(frozen=True)
class Infarct:
    """`territory`: a key of `TERRITORIES`; `side`: "left" or "right"; `size`: IST-3 grade 1-4; `volume_ml`: aim."""

    territory: str
    side: str
    size: int
    volume_ml: float


def plan_infarct(rng: np.random.Generator, side: str | None = None) -> Infarct:
    """Draw a territory, a size it can hold, and a volume of that size."""
    share = np.array([share for share, _ in TERRITORIES.values()])
    territory = str(rng.choice(list(TERRITORIES), p=share / share.sum()))
    size = int(rng.choice(TERRITORIES[territory][1]))
    volume = rng.uniform(*(LACUNE_ML if territory == "lacunar" else SIZE_ML[size]))
    return Infarct(territory, side or str(rng.choice(["left", "right"])), size, float(volume))


def arterial_territory(territory: str, mni: np.ndarray) -> np.ndarray:
    """Where an artery's territory (a key of `TERRITORIES`) lies; `mni` (3, ...): mm to either side, front and up."""
    require_choice("territory", territory, TERRITORIES)
    x, y, z = np.abs(mni[0]), mni[1], mni[2]
    above = z > -18 + np.minimum(0, 0.35 * (y + 55)) * (y < -40)  # the tentorium, higher to the back
    cerebellum = ~above & (y < -38) & (x > 3)
    supratentorial = (above | (y > -38)) & (z > -45)
    medial = 9 + 0.2 * np.maximum(z - 8, 0) + 0.1 * np.maximum(y - 15, 0)  # border of the ACA, |x| in mm
    anterior = (x < medial) & (y > -58 + 0.15 * z) & (z > -22) & ((z > 12) | (y > 18))
    posterior = ((y < -66 + 0.25 * (x - 30)) & (z < 45)) | ((z < -6 - 0.1 * (y + 30)) & (y < -22) & (x < 46))
    thalamus = (x < 22) & (y < -6) & (z < 18)
    superior = z - 8 + 0.6 * (y + 20) > 0  # above the Sylvian fissure
    middle = supratentorial & ~anterior & ~posterior & ~thalamus & (x > 12)
    match territory:
        case "MCA":
            return middle
        case "MCA superior":
            return middle & superior & (x > 22)
        case "MCA inferior":
            return middle & ~superior & (x > 22)
        case "ACA":
            return supratentorial & anterior & (x > 1.5)
        case "PCA":
            return supratentorial & (posterior | thalamus) & (x > 2)
        case "borderzone":
            return supratentorial & (np.abs(x - medial - 4) < 7) & (z > 20) & (y > -50)
        case "lacunar":
            return (x > 9) & (x < 31) & (y > -24) & (y < 20) & (z > -6) & (z < 28)
    return cerebellum


def infarct_extent(
    rng: np.random.Generator,
    infarct: Infarct,
    tissue: np.ndarray,
    mni: np.ndarray,
    voxel_ml: float,
    incidence: str | Path | None = None,
) -> np.ndarray:
    """How late the infarct reaches each voxel: below 1 lies what it fills in the end, in order; 2 where it never goes.

    `extent < f` is the share f of the volume, so that an early, smaller stage lies inside the later one.

    Args:
        tissue (X, Y, Z): values of `Tissue`; fluid in the ventricles and everything outside the brain is spared.
        mni (3, X, Y, Z): mm in MNI space, x to the patient's left, y to the front, z up.
        voxel_ml: volume of one voxel.
        incidence: NIfTI map in MNI space to draw the centre from; by default every voxel of the territory may be it.
    """
    left = mni[0] > 0
    room = arterial_territory(infarct.territory, mni) & (left == (infarct.side == "left"))
    brain = (tissue > 0) & (tissue <= max(Tissue)) & (tissue != Tissue.VESSEL)
    room &= brain & (tissue != Tissue.VENTRICLE) & (tissue != Tissue.CHOROID_PLEXUS)
    voxels = np.argwhere(room & ~np.isin(tissue, _FLUID))
    points = mni[(slice(None), *voxels.T)]
    weights = np.ones(len(voxels)) if incidence is None else _incidence(incidence, points)
    centre = points[:, rng.choice(len(voxels), p=weights / weights.sum())]
    if infarct.size == 4:
        centre = points.mean(1)  # the whole territory fills from its middle
    squeeze = rng.uniform(0.75, 1.3, 3)
    offset = (mni - centre[:, None, None, None]) * (squeeze / np.cbrt(squeeze.prod()))[:, None, None, None]
    distance = np.sqrt((offset**2).sum(0))
    radius = np.cbrt(3 * infarct.volume_ml * 1000 / (4 * np.pi))
    roughness = 0.0 if infarct.territory == "lacunar" else 0.22
    distance += radius * roughness * smooth_field(rng, tissue.shape, max(radius / 3, 3))
    cost = np.where(np.isin(tissue, _GREY), 0.85, 1.0) * distance  # grey matter suffers first
    order = np.sort(cost[room])
    rank = np.searchsorted(order, cost) * voxel_ml / min(infarct.volume_ml, 0.95 * len(order) * voxel_ml)
    return ndimage.gaussian_filter(np.where(room, np.minimum(rank, 2), 2).astype(np.float32), 0.5)


def infarct_hounsfield(tissue: np.ndarray, extent: np.ndarray, stage: float, drop_hu: float, swelling: float):
    """Change in HU (float32) and mask (bool) of an infarct that has filled the share `stage` of its volume.

    Grey matter loses `drop_hu`, white matter less while the drop is small, so that the contrast between them goes
    first; sulci inside fill up by the share `swelling`. Nothing changes outside the mask.
    """
    mask = (extent < stage) & ~np.isin(tissue, (Tissue.VENTRICLE, Tissue.CHOROID_PLEXUS, Tissue.VESSEL))
    mask &= (tissue > 0) & (tissue <= max(Tissue))
    change = np.zeros(22, np.float32)
    change[1 : max(Tissue) + 1] = -drop_hu
    change[Tissue.WHITE_MATTER] = -drop_hu * np.clip(0.35 + 0.06 * drop_hu, 0.4, 0.85)
    change[Tissue.SULCAL_CSF] = swelling * 22
    fade = np.clip((stage - extent) / 0.12, 0.35, 1)
    return np.where(mask, change[tissue] * fade, 0).astype(np.float32), mask


def _incidence(path: str | Path, mni: np.ndarray) -> np.ndarray:
    try:
        image = nibabel.as_closest_canonical(open_image(path))
    except (OSError, ImageFileError) as error:
        raise InputError(f"{path} cannot be read as a NIfTI map of lesion incidence ({error}).") from error
    ras = mni * np.array([[-1], [1], [1]])
    voxels = np.linalg.inv(image.affine) @ np.vstack([ras, np.ones(ras.shape[1])])
    return ndimage.map_coordinates(image.get_fdata(dtype=np.float32), voxels[:3], order=1) + 1e-6
