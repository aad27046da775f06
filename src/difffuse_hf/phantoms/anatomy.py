"""Anatomies for synthetic subjects: tissue maps of real heads, at 1 mm, in the axis order of BraTS (LPS).

Two sources: a folder of label maps in FreeSurfer/SynthSeg numbering (`--anatomies`), or the ICBM152 grey and white
matter maps that nilearn ships (Fonov et al. 2011), which need no download.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from importlib.resources import as_file, files
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import SpatialImage
from scipy import ndimage

from ..errors import InputError, first_line
from ..io.nifti import open_nifti
from ..preprocessing.shapes import largest_piece
from .regions import Box, grown, union, widen


class Tissue(IntEnum):
    """What a voxel of an anatomy is made of; 0 lies outside the (skull-stripped) brain."""

    OUTSIDE = 0
    WHITE_MATTER = 1
    CORTEX = 2
    CEREBELLAR_CORTEX = 3
    THALAMUS = 4
    CAUDATE = 5
    PUTAMEN = 6
    PALLIDUM = 7
    HIPPOCAMPUS = 8
    BRAIN_STEM = 9
    VENTRICLE = 10
    SULCAL_CSF = 11
    CHOROID_PLEXUS = 12
    VESSEL = 13


# FreeSurfer numbering; white-matter lesions drawn in the label maps (25, 57) count as white matter, so that a
# phantom's only lesion is the one whose mask it writes.
FREESURFER: dict[int, tuple[int, ...]] = {
    Tissue.WHITE_MATTER: (2, 41, 7, 46, 85, 25, 57),
    Tissue.CORTEX: (3, 42),
    Tissue.CEREBELLAR_CORTEX: (8, 47),
    Tissue.THALAMUS: (10, 49),
    Tissue.CAUDATE: (11, 50, 26, 58),
    Tissue.PUTAMEN: (12, 51),
    Tissue.PALLIDUM: (13, 52),
    Tissue.HIPPOCAMPUS: (17, 53, 18, 54),
    Tissue.BRAIN_STEM: (16, 28, 60),
    Tissue.VENTRICLE: (4, 43, 5, 44, 14, 15, 72),
    Tissue.SULCAL_CSF: (24,),
    Tissue.CHOROID_PLEXUS: (136, 163, 137, 164),
    Tissue.VESSEL: (30, 62, 502, 514),
}
_SOFT_BOUNDARY = (Tissue.SULCAL_CSF, Tissue.VESSEL)  # kept only near the brain, as a skull-stripping tool would


# Where the deep nuclei lie in MNI space: |x|, y, z of their centres in mm, for FreeSurfer numbers (left, right).
_MNI_CENTRES = {
    (10, 49): (11, -19, 7),  # thalamus
    (11, 50): (13, 10, 10),  # caudate
    (12, 51): (25, 1, 0),  # putamen
    (13, 52): (19, -5, -1),  # pallidum
    (17, 53): (26, -22, -14),  # hippocampus
    (18, 54): (23, -4, -19),  # amygdala
    (8, 47): (24, -63, -34),  # cerebellar cortex
}


@dataclass(frozen=True)
class Anatomy:
    """`tissue`: uint8 of shape (X, Y, Z), 1 mm, LPS (x to the left, y to the back, z up), values of `Tissue`;
    `origin`: voxel of the MNI origin (anterior commissure); `pose` (3, 3): rotation from MNI axes to the map's."""

    name: str
    tissue: np.ndarray
    origin: np.ndarray
    pose: np.ndarray


def list_anatomies(folder: str | Path | None = None) -> list[Path | None]:
    """Label maps in `folder`, sorted by name; `[None]` stands for the built-in ICBM152 anatomy."""
    if folder is None:
        return [None]
    paths: list[Path | None] = [*sorted(Path(folder).glob("*.nii*"))]
    if not paths:
        raise InputError(f"{folder} holds no NIfTI label maps (*.nii.gz); give a folder of FreeSurfer-style maps.")
    return paths


def anatomy_name(path: Path | None) -> str:
    """What an anatomy is called, without reading it."""
    return "icbm152" if path is None else path.name.removesuffix(".gz").removesuffix(".nii")


@lru_cache(maxsize=16)
def load_anatomy(path: Path | None = None) -> Anatomy:
    """Read one label map, or the built-in anatomy where `path` is None."""
    if path is None:
        return _icbm152()
    labels, boxes = read_labels(path)
    present = {tissue: [boxes[n] for n in numbers if n in boxes] for tissue, numbers in FREESURFER.items()}
    if not present[Tissue.WHITE_MATTER] + present[Tissue.CORTEX]:
        raise InputError(f"{path} holds no cerebral white matter or cortex labels (2, 41, 3, 42); is it a label map?")
    origin, pose = align(labels, boxes, path)
    solid = [box for tissue in present if tissue not in _SOFT_BOUNDARY for box in present[tissue]]
    box = widen(union(solid), 12, labels.shape)
    tissue = _strip(to_tissue(labels[box], FREESURFER))
    return Anatomy(anatomy_name(path), tissue, origin - [part.start for part in box], pose)


def read_labels(path: Path) -> tuple[np.ndarray, dict[int, Box]]:
    """A label map in LPS, and the box around each number that is in it; `InputError` if it cannot be read."""
    try:
        labels = to_lps(open_nifti(path))
    except (OSError, EOFError, zlib.error, ImageFileError) as error:
        raise InputError(f"{path} cannot be read as a NIfTI label map ({first_line(error)}); replace it.") from error
    as_stored = np.argsort(labels.strides)[::-1]  # axes in the order of memory, several times as fast to go through
    found = enumerate(ndimage.find_objects(labels.transpose(as_stored)), start=1)
    return labels, {number: tuple(box[i] for i in np.argsort(as_stored)) for number, box in found if box}


def to_tissue(labels: np.ndarray, numbering: Mapping[int, Sequence[int]]) -> np.ndarray:
    """Tissue (uint8) of FreeSurfer numbers; 0 for those that `numbering` (tissue: numbers) leaves out."""
    lookup = np.zeros(max(int(labels.max()), 600) + 1, np.uint8)
    for tissue, numbers in numbering.items():
        lookup[list(numbers)] = tissue
    return lookup[np.ascontiguousarray(labels)]


def to_lps(image: SpatialImage) -> np.ndarray:
    """Whole numbers (X, Y, Z) with x to the left, y to the back, z up; in memory they lie as in the file."""
    data = np.asarray(nibabel.as_closest_canonical(image).dataobj)
    return data[::-1, ::-1].astype(np.int32)  # RAS -> LPS


def _strip(tissue: np.ndarray) -> np.ndarray:
    """Drop fluid and vessels farther than the brain's closed outline, and stray voxels."""
    parenchyma = (tissue > 0) & ~np.isin(tissue, _SOFT_BOUNDARY)
    near = grown(largest_piece(parenchyma), 6**2)
    outside = grown(~near, 5**2)  # closing with a ball of 6 mm, one millimetre kept outside
    smooth = grown(~grown(outside, 4**2), 4**2 - 1)  # and opening
    return np.where(smooth, tissue, 0).astype(np.uint8)


def align(labels: np.ndarray, boxes: Mapping[int, Box], path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Rigid fit of the deep nuclei's centres to MNI space (Kabsch 1976): origin in voxels, rotation.

    `boxes`: where each label lies, as `read_labels` finds them."""
    source, target = [], []
    for pair, (x, y, z) in _MNI_CENTRES.items():
        for number, side in zip(pair, (1, -1)):  # LPS: x grows to the left, y to the back
            if box := boxes.get(number):
                source.append(np.argwhere(labels[box] == number).mean(0) + [part.start for part in box])
                target.append((side * x, -y, z))
    if len(source) < 4:
        raise InputError(f"{path} lacks the deep grey nuclei (labels 10-13, 49-52) by which anatomies are aligned.")
    source, target = np.array(source), np.array(target, float)
    u, _, vt = np.linalg.svd((target - target.mean(0)).T @ (source - source.mean(0)))
    pose = vt.T @ np.diag([1, 1, np.linalg.det(vt.T @ u.T)]) @ u.T
    return source.mean(0) - pose @ target.mean(0), pose


def _icbm152() -> Anatomy:
    with as_file(files("nilearn.datasets") / "data") as folder:

        def share(name: str) -> np.ndarray:
            return to_lps(open_nifti(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")) / 255.0

        grey, white = share("gm"), share("wm")
    tissue = np.zeros(grey.shape, np.uint8)
    brain = np.asarray(ndimage.binary_fill_holes(ndimage.binary_closing(grey + white > 0.5, iterations=4)))
    tissue[brain] = Tissue.SULCAL_CSF
    tissue[grey + white > 0.45] = Tissue.CORTEX
    tissue[white > np.maximum(grey, 0.4)] = Tissue.WHITE_MATTER
    origin = np.array([grey.shape[0] - 1 - 98, grey.shape[1] - 1 - 134, 72])  # of its affine, axes turned to LPS
    return Anatomy(anatomy_name(None), tissue, origin, np.eye(3))
