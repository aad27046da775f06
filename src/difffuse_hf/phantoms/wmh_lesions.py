"""Synthetic white-matter hyperintensities and old infarcts: where they lie in an anatomy, at 1 mm.

Hyperintensities cap the ventricles' horns, line their walls and grow outwards with the load; foci lie in the deep
white matter, punctate where the load is small, confluent where it is large. The fibres below the cortex are spared.
"""

import numpy as np
from scipy import ndimage

from ..preprocessing.shapes import depth
from .anatomy import Tissue
from .fields import smooth_field

WMH, OTHER = 1, 2  # labels of the challenge
LOAD_ML = (0.6, 60.0)  # log-uniform
OTHER_SHARE = 0.25  # of the subjects have another pathology


def draw_lesions(rng: np.random.Generator, tissue: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Hyperintensities of a subject: bool of the shape of `tissue` (1 mm, LPS); `origin`: its anterior commissure."""
    load = np.exp(rng.uniform(*np.log(LOAD_ML))) * 1000  # voxels
    deep_share = rng.uniform(0.15, 0.5)
    rough, fine = smooth_field(rng, tissue.shape, 14), smooth_field(rng, tissue.shape, 6)
    rough = 0.6 * (rough + rough[::-1]) + 0.5 * smooth_field(rng, tissue.shape, 14)  # both sides, nearly alike
    below, to_ventricle = _distances(tissue, origin)
    room = (tissue == Tissue.WHITE_MATTER) & (np.arange(tissue.shape[2]) > origin[2] - 8)
    room &= np.abs(np.arange(tissue.shape[0]) - origin[0])[:, None, None] > 5  # septum and middle of the callosum
    lesions = np.zeros(tissue.shape, bool)

    along = np.abs(np.arange(tissue.shape[1]) - (origin[1] + 12)) / 45  # 0 amid the ventricles, 1 at their horns
    band = -to_ventricle * (1 - 0.45 * np.clip(along, 0, 1)[None, :, None]) + 1.5 * rough + 0.9 * fine
    _fill(lesions, room & (to_ventricle < 18) & ((below > 2) | (to_ventricle < 4)), band, (1 - deep_share) * load)

    deep = room & (to_ventricle > 5) & (below > 2.5)
    confluent = rough + 0.45 * fine - 0.035 * to_ventricle
    _fill(lesions, deep, confluent, deep_share * load * np.clip(load / 30e3, 0, 1))
    places = np.argwhere(deep & (to_ventricle < 35))
    for _ in range(rng.poisson(4 + deep_share * load / 300) if len(places) else 0):
        _ball(
            lesions, deep, places[rng.integers(len(places))], radii=rng.uniform(1.3, 3.2) * rng.uniform(0.75, 1.35, 3)
        )
    return lesions


def draw_other_pathology(rng: np.random.Generator, tissue: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """An old infarct in a quarter of the subjects: a lacune, or one at the cortex; bool of the shape of `tissue`."""
    mask = np.zeros(tissue.shape, bool)
    present, cortical = rng.random() < OTHER_SHARE, rng.random() < 0.5
    brain = (tissue > 0) & (tissue < Tissue.BRAIN_STEM) & (np.arange(tissue.shape[2]) > origin[2] - 5)
    places = np.argwhere(brain & (tissue == (Tissue.CORTEX if cortical else Tissue.WHITE_MATTER)))
    centre, radii = places[rng.integers(len(places))], rng.uniform(*((9, 17) if cortical else (3, 6)), 3)
    if present:
        _ball(mask, brain, centre, radii)
        mask |= ndimage.binary_opening(ndimage.binary_closing(mask, iterations=2)) & brain
    return mask


def _distances(tissue, origin) -> tuple[np.ndarray, np.ndarray]:
    """Depth of white matter below the cortex, and distance to the lateral and third ventricles: mm, read at 2 mm."""
    coarse = tissue[::2, ::2, ::2]
    cortex = (coarse == Tissue.CORTEX) | (coarse == Tissue.SULCAL_CSF)
    ventricle = (coarse == Tissue.VENTRICLE) & (np.arange(coarse.shape[2]) * 2 > origin[2] - 12)
    distances = (depth(~mask, 2.0).astype(np.float32) for mask in (cortex, ventricle))
    below, to_ventricle = (np.asarray(ndimage.zoom(d, 2, order=1, mode="nearest")) for d in distances)
    shape = tuple(slice(0, n) for n in tissue.shape)
    return below[shape], to_ventricle[shape]


def _fill(lesions, room, score, num_voxels):
    """Add the voxels of `room` with the highest `score`."""
    values = score[room]
    count = int(min(num_voxels, 0.6 * len(values)))
    if count > 0:
        lesions[room] |= values >= np.partition(values, len(values) - count)[-count]


def _ball(mask, room, centre, radii):
    """Add an ellipsoid, where there is room for it."""
    reach = np.ceil(radii).astype(int)
    low, high = np.maximum(centre - reach, 0), np.minimum(centre + reach + 1, mask.shape)
    box = tuple(slice(a, b) for a, b in zip(low, high))
    offset = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high)), indexing="ij"), -1) - centre
    mask[box] |= (((offset / radii) ** 2).sum(-1) <= 1) & room[box]
