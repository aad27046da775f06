"""Synthetic brain MR with lesions of five kinds, for models that are to work on real scans; in BraTS 2021's folders.

Beside gliomas (`brats2021.py`) there are metastases, white-matter lesions, infarcts and old infarcts, and scans differ
more: tissue contrast and fluid by wider ranges, atrophy, gamma, registration blur, ringing, and brains that were
stripped a little too wide or too close. The idea is that of SynthSeg (Billot et al. 2023): what a real scan looks like
should lie inside of what was drawn.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from ..preprocessing.shapes import depth
from .anatomy import Tissue, load_anatomy
from .brats2021 import AFFINE, BRAIN_BOX, CONTRAST, ORIGIN, location, place, thick_brain, write
from .common import Deformation, Displacement, MRLook, PhantomSubject, child_rng, deform, draw_tissue, ventricle_caps
from .fields import smooth_field
from .glioma import BRIGHTNESS as GLIOMA
from .glioma import GliomaPlan, grow_glioma, paint_parts, plan_glioma
from .infarct import arterial_territory, infarct_extent, plan_infarct
from .regions import box_around, grown
from .wmh_lesions import draw_lesions

__all__ = ["draw", "location", "row", "write"]

KINDS = {  # share of the subjects
    "glioma": 0.35,
    "metastases": 0.15,
    "white_matter": 0.25,
    "infarct": 0.15,
    "old_infarct": 0.10,
}
WHITE_MATTER_LESION, INFARCT, CAVITY, SCAR = 5, 6, 7, 8  # labels beside BraTS's 1, 2, 4 of tumours

# Brightness against normal white matter (= 1) at full severity: (low, high) of a uniform draw, as in `glioma.py`.
BRIGHTNESS = {
    "flair": {WHITE_MATTER_LESION: (1.3, 2.1), INFARCT: (1.35, 2.3), CAVITY: (0.15, 0.6), SCAR: (1.4, 2.2)},
    "t1": {WHITE_MATTER_LESION: (0.6, 0.9), INFARCT: (0.6, 0.92), CAVITY: (0.25, 0.5), SCAR: (0.6, 0.9)},
    "t1ce": {WHITE_MATTER_LESION: (0.65, 1.0), INFARCT: (0.7, 1.3), CAVITY: (0.3, 0.55), SCAR: (0.65, 1.0)},
    "t2": {WHITE_MATTER_LESION: (1.3, 2.2), INFARCT: (1.4, 2.2), CAVITY: (2.0, 3.2), SCAR: (1.4, 2.2)},
}
# On FLAIR the signal equation of the inversion recovery gives cortex 1.08 to 1.52 of the brightness of white matter,
# with published relaxation times (tests/test_mr_phantom.py has them); it is drawn from 1.0 to 1.6,
# and the other grey matter with it.
LOOK = {
    "flair": MRLook((0.0, 2.8), (0.4, 2.2), 0.06, (0.5, 1.1)),
    "t1": MRLook((0.2, 1.6), (0.5, 1.5), 0.06, (0.5, 1.1)),
    "t1ce": MRLook((0.2, 1.6), (0.5, 1.5), 0.06, (0.5, 1.1)),
    "t2": MRLook((0.2, 1.8), (0.5, 1.3), 0.06, (0.5, 1.1)),
}
VENTRICLES_MM = (0, 0, 1, 2, 3)  # atrophy: how much wider the ventricles become, one of these
CUT_MM = (-2.5, 2.5)  # the outline of the stripped brain wanders between these, inwards to outwards
LARGEST_ML = 60  # an infarct that is larger, or finds no room in this brain, is planned again
TRIES = 20  # at most so often


def kind_of(seed: int, index: int) -> str:
    """Which kind of lesion a subject has."""
    return str(np.random.default_rng([seed, index, 3]).choice(list(KINDS), p=list(KINDS.values())))


def draw(seed: int, index: int, anatomy_path: Path | None, lesion: bool = True) -> PhantomSubject:
    """One subject; with `lesion=False` the same brain, pushed aside by its tumours, without them."""
    rng = np.random.default_rng([seed, index])
    kind, anatomy = kind_of(seed, index), load_anatomy(anatomy_path)
    deformation = deform(rng, anatomy, ORIGIN, BRAIN_BOX)
    planner, aging, shape, scanner, painter, outline = (child_rng(rng) for _ in range(6))
    tumours = _tumours(planner, deformation, kind)
    tissue = older(aging, deformation.read(_pushed_by(tumours)))
    segmentation, severity = _segmentation(shape, kind, tumours, tissue, deformation)

    brain = _stripped(outline, tissue)
    bias_shape = smooth_field(scanner, tissue.shape, 60)[brain]
    box = box_around(tissue > 0, 4)
    caps = ventricle_caps(tissue, box)
    volumes = {}
    for modality, brightness in CONTRAST.items():
        halo = caps if modality in ("flair", "t2") else None
        healthy, white_matter = draw_tissue(scanner, tissue, brightness, box, halo, LOOK[modality])
        healthy = np.where(brain & (tissue == 0), white_matter * scanner.uniform(0.3, 1.6), healthy)  # dura and fat
        image = healthy
        if lesion:
            parts = {**GLIOMA[modality], **BRIGHTNESS[modality]}
            ratios = {part: 1 + severity * (painter.uniform(*ends) - 1) for part, ends in parts.items()}
            image = paint_parts(painter, segmentation, ratios, healthy, white_matter)
        volumes[modality] = place(_acquire(scanner, image, healthy, segmentation, brain, bias_shape), brain)
    return PhantomSubject(
        name=location(seed, index),
        group=anatomy.name,
        seed=seed,
        volumes=volumes,
        segmentation=place(segmentation[brain] * np.uint8(lesion), brain),
        affine=AFFINE,
    )


def row(subject: PhantomSubject) -> dict[str, str]:
    return {"kind": kind_of(subject.seed, int(subject.name.rsplit("_", 1)[1]))}


def _tumours(rng, deformation: Deformation, kind: str) -> list[GliomaPlan]:
    """One glioma, or one to five metastases: small, round, rimmed, at the border of white matter."""
    if kind not in ("glioma", "metastases"):
        return []
    coarse = deformation.read(step=2)
    deep = ~grown(coarse == 0, 6 if kind == "glioma" else 2)
    start = np.argwhere((coarse == Tissue.WHITE_MATTER) & deep) * 2 + [part.start for part in BRAIN_BOX]
    midline, lowest = deformation.origin[0], deformation.origin[2] - 20
    above = start[start[:, 2] > lowest]
    if kind == "glioma":
        return [plan_glioma(rng, above, midline)]
    plans = []
    for _ in range(int(rng.integers(1, 6))):
        radius, core = rng.uniform(4, 17), rng.uniform(0.3, 0.8)
        centre = above[rng.integers(len(above))].astype(np.float32)
        push = rng.uniform(0.02, 0.15) * radius * core
        plans.append(GliomaPlan(centre, radius, core, push, rng.uniform(0.5, 1.0), rng.random() < 0.95, midline))
    return plans


def _pushed_by(tumours: Sequence[GliomaPlan]) -> Displacement | None:
    """What all tumours together displace."""
    if not tumours:
        return None
    return lambda mesh: np.sum([plan.displacement(mesh) for plan in tumours], axis=0)


def older(rng, tissue: np.ndarray) -> np.ndarray:
    """Wider ventricles at the cost of white matter, and in half of the subjects wider sulci at that of cortex."""
    widening, sulci = int(rng.choice(VENTRICLES_MM)), rng.random() < 0.5
    aged = tissue.copy()
    if widening:
        aged[grown(tissue == Tissue.VENTRICLE, widening**2) & (tissue == Tissue.WHITE_MATTER)] = Tissue.VENTRICLE
    if sulci:
        aged[grown(tissue == Tissue.SULCAL_CSF, 1) & (tissue == Tissue.CORTEX)] = Tissue.SULCAL_CSF
    return aged


def _segmentation(rng, kind, tumours, tissue, deformation) -> tuple[np.ndarray, float]:
    """Labels of a subject's lesions (uint8), and how far their brightness departs from normal, in (0, 1]."""
    labels = np.zeros(tissue.shape, np.uint8)
    for plan in tumours:
        grown_one = grow_glioma(rng, plan, tissue, deformation.axes)
        labels = np.where(grown_one > 0, grown_one, labels)
    here = deformation.origin - [part.start for part in BRAIN_BOX]  # the anterior commissure in the box
    if kind == "white_matter":
        lesions = draw_lesions(rng, tissue, np.round(here).astype(int))
        labels[lesions] = WHITE_MATTER_LESION
    elif kind in ("infarct", "old_infarct"):
        left, posterior, up = (axis - start for axis, start in zip(deformation.axes, deformation.origin))
        mni = np.stack(np.broadcast_arrays(left[:, None, None], -posterior[:, None], up)).astype(np.float32)
        for axis in mni:  # territories are half-spaces; their borders are not to be planes
            axis += 5 * smooth_field(rng, tissue.shape, 25) + 2 * smooth_field(rng, tissue.shape, 9)
        for _ in range(TRIES):
            infarct = plan_infarct(rng)
            room = arterial_territory(infarct.territory, mni) & (tissue > 0)
            if infarct.volume_ml <= LARGEST_ML and room.sum() >= 1000 * infarct.volume_ml:  # in either hemisphere
                break
        extent = infarct_extent(rng, infarct, tissue, mni, 0.001)
        extent[tissue == 0] = 2  # at the edge of the box
        labels[extent < 1] = INFARCT if kind == "infarct" else SCAR
        if kind == "old_infarct":
            labels[extent < rng.uniform(0.3, 0.8)] = CAVITY
    severity = tumours[0].severity if tumours else float(rng.uniform(0.45, 1.0))
    return labels, severity


def _stripped(rng, tissue: np.ndarray) -> np.ndarray:
    """What a stripping tool leaves: the brain, a little of its coverings here, bitten into there; bool."""
    brain = tissue > 0
    if rng.random() < 0.5:
        return brain
    margin = np.clip(rng.uniform(-1, 1) + 1.2 * smooth_field(rng, tissue.shape, 30), *CUT_MM)
    coarse = brain[::2, ::2, ::2]  # whose box has even sides
    outside = depth(~coarse, 2.0) - depth(coarse, 2.0)  # mm away from the brain, negative inside
    outside = np.asarray(ndimage.zoom(outside.astype(np.float32), 2, order=1, mode="nearest"))
    return np.asarray(ndimage.binary_opening(outside < margin))


def _acquire(rng, image, healthy, segmentation, brain, bias_shape) -> np.ndarray:
    """Thick slices, ringing, blur, bias field, Rician noise, gamma, gain; int16, of the voxels of `brain` alone.

    As in BraTS 2021's, the lesion does not reach beyond its mask."""
    if rng.random() < 0.5:
        image = thick_brain(image, healthy, segmentation, brain, int(rng.integers(2, 7)))
    sharpness, axis = rng.uniform(0.45, 0.9), int(rng.integers(2))
    if rng.random() < 0.25:
        image = _ringing(image, sharpness, axis)
    blur = rng.uniform(0.3, 0.8)
    if rng.random() < 0.3:  # interpolated by a registration
        image = ndimage.gaussian_filter(image, blur)
    bias = np.exp(rng.uniform(0.02, 0.15) * bias_shape + 0.04 * smooth_field(rng, brain.shape, 75)[brain])
    signal = np.maximum(image[brain], 0) * bias
    sigma = rng.uniform(0.5, 4.0)
    real, imaginary = (rng.standard_normal(brain.shape, dtype=np.float32)[brain] * sigma for _ in range(2))
    signal = np.sqrt((signal + real) ** 2 + imaginary**2)
    signal = 100 * (signal / 100) ** np.exp(rng.uniform(-0.15, 0.15))
    gain = np.exp(rng.uniform(np.log(1.5), np.log(12)))
    return np.clip(np.rint(signal * gain), 1, 32767).astype(np.int16)


def _ringing(image: np.ndarray, kept: float, axis: int) -> np.ndarray:
    """An image of which only the lower share `kept` of the frequencies along an axis was measured."""
    spectrum = np.fft.rfft(image, axis=axis)
    cut = int(kept * spectrum.shape[axis])
    spectrum[(slice(None),) * axis + (slice(cut, None),)] = 0
    return np.fft.irfft(spectrum, image.shape[axis], axis=axis).astype(np.float32)
