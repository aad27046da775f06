"""Synthetic glioma in the folders of BraTS 2021: skull-stripped FLAIR, T1, T1ce and T2 on one grid, and `_seg`."""

from pathlib import Path

import numpy as np

from ..io.files import complete_folder
from .anatomy import Tissue, load_anatomy
from .common import PhantomSubject, child_rng, deform, draw_tissue, save_nifti, thick_slices, ventricle_caps
from .fields import smooth_field
from .glioma import grow_glioma, paint_glioma, plan_glioma
from .regions import box_around, grown

SHAPE = (240, 240, 155)
AFFINE = np.array([[-1.0, 0, 0, 0], [0, -1.0, 0, 239.0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]])  # as in BraTS 2021
ORIGIN = (119.0, 102.0, 66.0)  # voxel of the MNI origin, judged by the extent of real brains
BRAIN_BOX = (slice(34, 204), slice(18, 224), slice(0, 152))

# Brightness against normal white matter (= 1), in the order of `Tissue` from WHITE_MATTER on. Our choice: typical
# contrasts at 1.5-3 T, set beside real scans; every subject draws its own contrast and jitter around them.
CONTRAST = {
    "flair": (1.0, 1.22, 1.2, 1.12, 1.22, 1.16, 0.95, 1.28, 1.06, 0.16, 0.30, 0.9, 0.55),
    "t1": (1.0, 0.72, 0.70, 0.86, 0.75, 0.80, 0.92, 0.72, 0.92, 0.28, 0.36, 0.55, 0.55),
    "t1ce": (1.0, 0.78, 0.76, 0.88, 0.80, 0.84, 0.94, 0.78, 0.93, 0.32, 0.45, 1.4, 1.9),
    "t2": (1.0, 1.38, 1.35, 1.15, 1.25, 1.12, 0.88, 1.35, 1.08, 3.0, 2.6, 1.9, 0.6),
}


def location(seed: int, index: int, num_anatomies: int = 1) -> str:
    return f"BraTS2021_{index:05d}"


def draw(seed: int, index: int, anatomy_path: Path | None, lesion: bool = True) -> PhantomSubject:
    """One subject; its tumour pushes tissue aside, and `lesion=False` keeps that push."""
    rng = np.random.default_rng([seed, index])
    anatomy = load_anatomy(anatomy_path)
    deformation = deform(rng, anatomy, ORIGIN, BRAIN_BOX)
    coarse = deformation.read(step=2)
    deep = ~grown(coarse == 0, 6)  # farther than 2.5 voxels inside
    start = np.argwhere((coarse == Tissue.WHITE_MATTER) & deep) * 2 + [s.start for s in BRAIN_BOX]
    origin = deformation.origin
    plan = plan_glioma(rng, start[start[:, 2] > origin[2] - 20], midline=origin[0])
    tissue = deformation.read(plan.displacement)

    segmentation = grow_glioma(child_rng(rng), plan, tissue, deformation.axes)
    scanner = child_rng(rng)  # one stream a purpose, so that leaving the lesion out changes nothing else
    painter = child_rng(rng)
    brain = tissue > 0
    bias_shape = smooth_field(child_rng(rng), tissue.shape, 60)[brain]
    box = box_around(brain, 4)
    caps = ventricle_caps(tissue, box)
    volumes = {}
    for modality, brightness in CONTRAST.items():
        halo = caps if modality in ("flair", "t2") else None
        healthy, white_matter = draw_tissue(scanner, tissue, brightness, box, halo)
        image = paint_glioma(painter, plan, segmentation, healthy, modality, white_matter) if lesion else healthy
        volumes[modality] = place(_acquire(scanner, image, healthy, segmentation, brain, bias_shape), brain)
    return PhantomSubject(
        name=location(seed, index),
        group=anatomy.name,
        seed=seed,
        volumes=volumes,
        segmentation=place(segmentation[brain] * np.uint8(lesion), brain),
        affine=AFFINE,
    )


def write(subject: PhantomSubject, folder: Path):
    with complete_folder(folder) as complete:
        for suffix, data in (*subject.volumes.items(), ("seg", subject.segmentation)):
            save_nifti(data, subject.affine, complete / f"{subject.name}_{suffix}.nii.gz")


def row(subject: PhantomSubject) -> dict[str, str]:
    return {}


def _acquire(rng, image, healthy, segmentation, brain, bias_shape) -> np.ndarray:
    """Thick slices, bias field, Rician noise, scanner gain; int16, of the voxels of `brain` (bool) alone.

    Slices are made thick with the lesion inside the segmentation and without it outside, so that the mask stays exact.
    `bias_shape` has one value for each voxel of the brain.
    """
    if rng.random() < 0.5:
        thickness = int(rng.integers(2, 6))
        image = thick_brain(image, healthy, segmentation, brain, thickness)
    bias = np.exp(rng.uniform(0.02, 0.12) * bias_shape + 0.04 * smooth_field(rng, brain.shape, 75)[brain])
    signal = image[brain] * bias
    sigma = rng.uniform(0.5, 2.5)
    real, imaginary = (rng.standard_normal(brain.shape, dtype=np.float32)[brain] * sigma for _ in range(2))
    signal = np.sqrt((signal + real) ** 2 + imaginary**2)
    gain = np.exp(rng.uniform(np.log(1.5), np.log(12)))
    return np.maximum(np.rint(signal * gain), 1).astype(np.int16)


def thick_brain(image, healthy, segmentation, brain, thickness: int) -> np.ndarray:
    """Thick slices of the brain: of `image` inside the segmentation, of `healthy` elsewhere."""
    thick = np.zeros(brain.shape, np.float32)
    for mask, source in ((brain, healthy), (segmentation > 0, image)):
        columns = (*box_around(mask)[:2], slice(None))
        thick[columns] = np.where(mask[columns], thick_slices(source[columns], thickness), thick[columns])
    return thick


def place(values: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """The volume that holds the values of the brain's voxels; it lies in memory as it will in its file."""
    volume = np.zeros(SHAPE, values.dtype, order="F")
    volume[BRAIN_BOX][brain] = values
    return volume
