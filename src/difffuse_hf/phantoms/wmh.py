"""Synthetic white-matter hyperintensities in the folders of the WMH challenge: whole heads on FLAIR and T1, and `wmh`.

Three looks, those of the training sites, with their voxel grids: Utrecht and Singapore acquire the FLAIR in axial
slices of 3 mm, Amsterdam in three dimensions (resampled to 3 mm by the organisers). The T1 is acquired at 1 mm, has
its face removed and is read at the FLAIR's slices. Only `pre/` is written: what is left of the bias field is weak.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from ..io.files import complete_folder
from .anatomy import Tissue
from .common import PhantomSubject, child_rng, deform, save_nifti
from .fields import smooth_field
from .head import NUM_TISSUES, HeadTissue, load_head
from .regions import blurred, box_around, grown
from .wmh_lesions import WMH, draw_lesions, draw_other_pathology

PLANE_MM = (192, 236)  # of an axial slice, all that is drawn: the rest of the field of view is air
CENTRE_MM = (96.0, 104.0)  # where the MNI origin lies in it, LPS
_BRAIN = slice(Tissue.WHITE_MATTER, Tissue.VESSEL + 1)

# Brightness against normal white matter (= 1) by tissue. Our choice: typical contrasts at 3 T; every subject draws its
# own around them. The order is that of `Tissue` and `HeadTissue` from WHITE_MATTER on.
CONTRAST = {
    "FLAIR": (1.0, 1.25, 1.2, 1.12, 1.2, 1.16, 0.98, 1.3, 1.08, 0.2, 0.26, 0.85, 0.35)
    + (0.12, 0.55, 0.7, 1.0, 0.25, 0.65, 1.5, 1.0),
    "T1": (1.0, 0.72, 0.72, 0.85, 0.74, 0.78, 0.92, 0.72, 0.94, 0.26, 0.32, 0.5, 0.55)
    + (0.14, 0.75, 0.8, 1.45, 0.3, 0.55, 0.6, 0.8),
}
LESION = {"FLAIR": (1.35, 1.85), "T1": (0.68, 0.86)}  # brightness against white matter: (low, high) of a uniform draw
OTHER = {"FLAIR": (0.3, 0.6), "T1": (0.3, 0.5)}  # an old infarct: fluid
OTHER_RIM = {"FLAIR": (1.5, 1.9), "T1": (0.7, 0.85)}  # and the scar around it


@dataclass(frozen=True)
class Site:
    """Where a scan comes from: its folder, FLAIR grid, and look (brightness of fat and grey matter, noise in % of
    white matter, blur in mm)."""

    folder: str
    above_mm: float  # of the field of view, from the MNI origin to its top
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    grey_contrast: tuple[float, float]
    fat: float
    noise: tuple[float, float]
    blur_mm: tuple[float, float]

    @property
    def box_mm(self) -> tuple[int, int, int]:
        """What is drawn, at 1 mm: the plane times the height of the field of view."""
        return (*PLANE_MM, round(self.shape[2] * self.spacing_mm[2]))


SITES = (  # grids as in the release; the looks are ours
    Site("Utrecht", 90, (240, 240, 48), (0.9583, 0.9583, 3.0), (0.8, 1.1), 1.0, (2.0, 3.5), (0.6, 0.8)),
    Site("Singapore", 92, (232, 256, 48), (1.0, 1.0, 3.0), (0.55, 0.85), 1.5, (2.5, 4.5), (0.7, 0.95)),
    Site("Amsterdam/GE3T", 104, (132, 256, 83), (1.2, 0.9766, 3.0), (0.9, 1.3), 0.45, (3.5, 6.0), (0.8, 1.1)),
)


@dataclass(frozen=True)
class WMHSubject(PhantomSubject):
    """`segmentation` holds 1 for hyperintensities and 2 for other pathology, as `wmh.nii.gz` does.

    `brain` (bool, X, Y, Z): grey and white matter, and the fluid in and between them. Not written; brain extraction is
    measured against it."""

    site: str
    brain: np.ndarray

    @property
    def lesion_ml(self) -> float:
        return self._ml(1)

    @property
    def other_ml(self) -> float:
        return self._ml(2)

    def _ml(self, label):
        return float((self.segmentation == label).sum() * abs(np.linalg.det(self.affine[:3, :3])) / 1000)


def location(seed: int, index: int, num_anatomies: int = 1) -> str:
    """`training/<site>/<index>` or `test/<site>/<index>`: three subjects in a row come from three sites.

    Of several anatomies every third is for the test, so that none is on both sides; one alone is for training.
    """
    part = "test" if num_anatomies > 1 and index % num_anatomies % 3 == 1 else "training"
    return f"{part}/{_site(seed, index).folder}/{index}"


def draw(seed: int, index: int, anatomy_path: Path | None, lesion: bool = True) -> WMHSubject:
    """One subject; with `lesion=False` the same head without hyperintensities and without other pathology."""
    rng = np.random.default_rng([seed, index])
    site = _site(seed, index)
    head = load_head(anatomy_path)
    box = site.box_mm
    deformation = deform(rng, head, (*CENTRE_MM, box[2] - site.above_mm), tuple(slice(0, size) for size in box))
    tissue = deformation.read()
    place = np.round(deformation.origin).astype(int)
    planner, scanner, painter = (child_rng(rng) for _ in range(3))  # leaving the lesion out changes nothing else
    lesions = draw_lesions(planner, tissue, place)
    other = draw_other_pathology(planner, tissue, place)

    texture = 0.02 * smooth_field(scanner, tissue.shape, 5) + 0.02 * smooth_field(scanner, tissue.shape, 20)
    blur = scanner.uniform(*site.blur_mm)
    thick, thin = _acquisition(site, thick=True), _acquisition(site, thick=False)
    bias = smooth_field(child_rng(rng), site.shape, 60)
    scar = _dilated(other, 2) & ~other & (tissue > 0) & (tissue < Tissue.BRAIN_STEM)
    parts = [  # (share of every voxel, brightness): hyperintensities, then the infarct from its rim inwards
        (thick(blurred(part, 0.8)), brightness)
        for part, brightness in ((lesions, LESION), (scar, OTHER_RIM), (other, OTHER))
    ]
    segmentation = _labels(thick(lesions), thick(other))

    brain = _brain(tissue)
    volumes = {}
    for modality, acquire in (("FLAIR", thick), ("T1", thin)):
        image = _draw_head(scanner, tissue, texture, modality, site)
        image = acquire(ndimage.gaussian_filter(image, blur))
        painted = image.copy()
        for weight, brightness in parts:
            target = painter.uniform(*brightness[modality])
            target = target * (1 + 0.08 * smooth_field(painter, site.shape, 6))
            painted += np.clip(1.25 * weight, 0, 1) * (target - painted)
        if lesion:
            image = np.where(segmentation > 0, painted, image)
        if modality == "T1":
            image = np.where(acquire(_face(brain, deformation.origin)) > 0.5, 0, image)
        volumes[modality] = _expose(scanner, image, bias, site)
    return WMHSubject(
        name=str(index),
        group=head.name,
        seed=seed,
        volumes=volumes,
        segmentation=segmentation if lesion else np.zeros_like(segmentation),
        affine=_affine(site),
        site=site.folder,
        brain=thick(brain) > 0.5,
    )


def write(subject: WMHSubject, folder: Path):
    with complete_folder(folder) as complete:
        (complete / "pre").mkdir()
        for name, data in subject.volumes.items():
            save_nifti(data, subject.affine, complete / "pre" / f"{name}.nii.gz")
        save_nifti(subject.segmentation, subject.affine, complete / "wmh.nii.gz")


def row(subject: WMHSubject) -> dict[str, str]:
    return {"site": subject.site, "other_ml": f"{subject.other_ml:.3f}"}


def _site(seed: int, index: int) -> Site:
    order = np.random.default_rng([seed, index // len(SITES), 17]).permutation(len(SITES))
    return SITES[order[index % len(SITES)]]


def _affine(site: Site) -> np.ndarray:
    """LPS axes, world origin in the middle of the field of view."""
    affine = np.diag([*np.multiply(site.spacing_mm, (-1, -1, 1)), 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(site.shape) - 1) / 2)
    return affine


def _acquisition(site: Site, thick: bool):
    """A function from the 1 mm box to the site's grid, centred on it: voxels average what they cover; `thick=False`
    reads one plane of 1 mm a slice."""
    weights = []
    for axis, (size, count, step) in enumerate(zip(site.box_mm, site.shape, site.spacing_mm)):
        width = step if thick or axis < 2 else 1.0
        centre = (size - 1) / 2 + (np.arange(count) - (count - 1) / 2) * step
        overlap = (max(width, 1.0) + 1) / 2 - np.abs(centre[:, None] - np.arange(size))
        weights.append((np.clip(overlap, 0, 1) / max(width, 1.0)).astype(np.float32))

    def acquire(field):
        field = np.tensordot(field.astype(np.float32), weights[2], (2, 1))  # (x, y, Z)
        field = np.tensordot(weights[1], field, (1, 1))  # (Y, x, Z)
        return np.tensordot(weights[0], field, (1, 1))  # (X, Y, Z)

    return acquire


def _labels(lesions: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Voxels over half filled; as in the release, other pathology is a pixel wider in the plane and gives way to 1."""
    labels = 2 * ndimage.binary_dilation(other > 0.5, np.ones((3, 3, 1))).astype(np.uint8)
    labels[lesions > 0.5] = WMH
    return labels


def _draw_head(rng, tissue, texture, modality, site) -> np.ndarray:
    """Noise-free image at 1 mm, white matter = 1."""
    values = np.zeros(NUM_TISSUES, np.float32)
    values[1:] = CONTRAST[modality]
    solid = np.arange(NUM_TISSUES)[_BRAIN]
    solid = solid[(solid != Tissue.VENTRICLE) & (solid != Tissue.SULCAL_CSF)]
    values[solid] = 1 + rng.uniform(*site.grey_contrast) * (values[solid] - 1)
    if modality == "FLAIR":
        values[[HeadTissue.SKIN_FAT, HeadTissue.SOFT_TISSUE]] *= site.fat
    values *= 1 + 0.05 * rng.standard_normal(NUM_TISSUES)
    values[Tissue.WHITE_MATTER] = 1
    return values[tissue] * (1 + texture)


def _brain(tissue: np.ndarray) -> np.ndarray:
    """Brain with its fluid, at 1 mm: grey and white matter, closed with a ball of 6 mm."""
    solid = (tissue > 0) & (tissue <= Tissue.CHOROID_PLEXUS) & (tissue != Tissue.SULCAL_CSF)
    near = grown(solid[::2, ::2, ::2], 3**2)  # in voxels of 2 mm
    closed = ~grown(~near, 3**2)
    return solid | _doubled(closed, tissue.shape)


def _face(brain: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Where the T1's face is cut away, at 1 mm: in front of and below a plane, and 8 mm clear of the brain."""
    _, y, z = np.ogrid[tuple(slice(0, size) for size in brain.shape)]
    front, up = origin[1] - y, z - origin[2]  # mm from the anterior commissure
    near = _doubled(_dilated(brain[::2, ::2, ::2], 4), brain.shape)
    cut = (0.75 * (front - 55) - 0.66 * (up + 22) > 0) & (up < 0)
    return cut & ~near


def _dilated(mask: np.ndarray, iterations: int) -> np.ndarray:
    grown_mask = np.zeros(mask.shape, bool)
    box = box_around(mask, iterations)
    grown_mask[box] = ndimage.binary_dilation(mask[box], iterations=iterations)
    return grown_mask


def _doubled(half: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """From every second voxel to every voxel of a volume."""
    return half.repeat(2, 0).repeat(2, 1).repeat(2, 2)[tuple(slice(0, n) for n in shape)]


def _expose(rng, image, bias_shape, site) -> np.ndarray:
    """What is left of the bias field, Rician noise, gain; int16."""
    image = image * np.exp(rng.uniform(0.015, 0.05) * bias_shape)
    sigma = rng.uniform(*site.noise) / 100
    noise = rng.standard_normal((2, *image.shape), dtype=np.float32) * np.float32(sigma)
    image = np.hypot(image + noise[0], noise[1])
    return np.rint(image * np.exp(rng.uniform(np.log(150), np.log(700)))).astype(np.int16)
