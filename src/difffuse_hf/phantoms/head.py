"""Whole heads for synthetic scans: the brain of an anatomy inside its skull, face and scalp, at 1 mm, LPS.

Label maps in FreeSurfer/SynthSeg numbering bring the rest of the head along; around the built-in ICBM152 brain, shells
of plausible thickness take its place.
"""

from enum import IntEnum
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy import ndimage

from ..preprocessing.shapes import depth, largest_piece
from .anatomy import FREESURFER, Anatomy, Tissue, align, anatomy_name, load_anatomy, read_labels, to_tissue
from .regions import box_around, union, widen


class HeadTissue(IntEnum):
    """What surrounds the brain; continues `Tissue`, whose 1-13 mean the same here and whose 0 is air."""

    AIR = 0
    BONE = 14  # cortical
    MARROW = 15  # cancellous bone
    SOFT_TISSUE = 16  # muscle and fat outside the skull, not told apart
    SKIN_FAT = 17  # skin and the fat below it
    EYE = 18
    MUSCLE = 19  # of the eye, and the optic nerve
    MUCOSA = 20
    SPINAL_CORD = 21


_HEAD: dict[int, tuple[int, ...]] = {
    HeadTissue.BONE: (515,),
    HeadTissue.MARROW: (516,),
    HeadTissue.SOFT_TISSUE: (507,),
    HeadTissue.SKIN_FAT: (511,),
    HeadTissue.EYE: (506,),
    HeadTissue.MUSCLE: (508, 530),
    HeadTissue.MUCOSA: (509,),
    HeadTissue.SPINAL_CORD: (512,),
}
NUM_TISSUES = max(HeadTissue) + 1


@lru_cache(maxsize=16)
def load_head(path: Path | None = None) -> Anatomy:
    """The whole head of one label map, or of the built-in anatomy where `path` is None.

    As `load_anatomy`, with values of `Tissue` and `HeadTissue`; nothing is stripped."""
    if path is None:
        return _icbm152_head()
    labels, boxes = read_labels(path)
    origin, pose = align(labels, boxes, path)
    numbering = FREESURFER | _HEAD
    box = widen(union([boxes[n] for numbers in numbering.values() for n in numbers if n in boxes]), 4, labels.shape)
    tissue = to_tissue(labels[box], numbering)
    tissue[~largest_piece(tissue > 0)] = HeadTissue.AIR  # stray voxels beside the head
    brain = (tissue > 0) & (tissue <= max(Tissue))
    inner = box_around(brain, 4)  # wider than the closing reaches
    cavity = ndimage.binary_closing(brain[inner], iterations=3) & (tissue[inner] == HeadTissue.AIR)
    tissue[inner][cavity] = Tissue.SULCAL_CSF  # gaps between brain and skull
    head = box_around(tissue > 0)
    start = [outer.start + part.start for outer, part in zip(box, head)]
    return Anatomy(anatomy_name(path), tissue[head], origin - start, pose)


def _icbm152_head() -> Anatomy:
    """Shells around the ICBM152 brain: 2 mm fluid, 7 mm skull with diploe, 6 mm scalp; face, orbits and neck are
    geometric bodies in MNI space (mm), good enough to be a head and no more."""
    brain = load_anatomy(None)
    pad = ((8, 8), (8, 30), (30, 8))
    tissue = np.pad(brain.tissue, pad)
    origin = brain.origin + [before for before, _ in pad]
    axes = np.ogrid[tuple(slice(0, n) for n in tissue.shape)]
    x, y, z = (sign * (axis - centre) for sign, axis, centre in zip((1, -1, 1), axes, origin))  # y to the front

    def ball(centre, radii):
        a, b, c = (((u - at) / r) ** 2 for u, at, r in zip((x, y, z), centre, np.broadcast_to(radii, 3)))
        return a + b + c <= 1

    half = np.pad(tissue[::2, ::2, ::2] > 0, 8)
    near = depth(~half) <= 7
    half = (depth(near) > 7)[8:-8, 8:-8, 8:-8].repeat(2, 0).repeat(2, 1).repeat(2, 2)
    smooth = half[tuple(slice(0, n) for n in tissue.shape)]  # 14 mm closing: no skull in the fissures
    closed = np.where(z > -12, smooth, ndimage.binary_closing(tissue, iterations=6)) | (tissue > 0)
    outside = depth(~closed)
    deep = ball((0, -14, 10), (36, 50, 24)) & (tissue == Tissue.SULCAL_CSF)
    tissue[deep] = Tissue.VENTRICLE

    skull = outside <= 8.5
    flesh = (
        (outside <= 15) & (z > -78) | ball((0, 18, -66), (68, 66, 62)) | ball((0, -22, -80), (62, 62, 400)) & (z < -45)
    )
    inner = ndimage.binary_erosion(flesh, iterations=4)
    head = np.where(inner, HeadTissue.SOFT_TISSUE, HeadTissue.SKIN_FAT) * flesh
    head[(abs(x) < 10) & (y > 32) & (y < 74) & (z > -60) & (z < -27)] = HeadTissue.AIR  # ethmoid cells and nose
    head[ball((0, 20, -78), (9, 30, 9))] = HeadTissue.AIR  # pharynx
    for side in (-1, 1):
        for centre, radii in (
            ((side * 32, 58, -36), (21, 26, 20)),
            ((side * 24, 42, -68), (18, 22, 15)),
        ):  # orbit, antrum
            head[ball(centre, radii) & inner] = HeadTissue.BONE
        head[ball((side * 32, 58, -36), (18, 24, 17))] = HeadTissue.SKIN_FAT
        head[ball((side * 33, 64, -36), 12)] = HeadTissue.EYE
        head[ball((side * 30, 42, -36), (4, 14, 4))] = HeadTissue.MUSCLE
        head[ball((side * 24, 42, -68), (15, 19, 12))] = HeadTissue.AIR
        head[ball((side * 52, -28, -46), (14, 14, 18))] = HeadTissue.BONE  # petrous bone with mastoid cells
        head[ball((side * 56, -30, -48), (8, 8, 11))] = HeadTissue.AIR
    cord = (x**2 + (y + 40) ** 2) ** 0.5 + 0 * z
    head[(cord <= 16) & (z < -68)] = HeadTissue.BONE
    head[(cord <= 10) & (z < -68)] = Tissue.SULCAL_CSF
    head[(cord <= 6) & (z < -68)] = HeadTissue.SPINAL_CORD
    head[skull & (z > -74)] = HeadTissue.BONE
    head[(outside > 4) & (outside <= 6.5) & (z > -60)] = HeadTissue.MARROW
    head[(outside <= 2) & (outside > 0)] = Tissue.SULCAL_CSF
    head[(outside == 0) & (tissue == 0)] = Tissue.SULCAL_CSF
    head = np.where(tissue > 0, tissue, head).astype(np.uint8)
    return Anatomy(brain.name, head, origin, brain.pose)
