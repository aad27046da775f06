"""Synthetic subjects on real anatomies, with exactly known lesions, in the folders of the real data sets.

Intensities are drawn for each tissue and modality (the idea of SynthSeg, Billot et al. 2023), the anatomy is deformed
at random, and scanner effects follow: partial volume, thick slices, bias field, noise. Everything made here is
synthetic and says so in its NIfTI header; nothing here is a patient.
"""

import csv
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

from ..errors import InputError
from .anatomy import Anatomy, Tissue, anatomy_name, list_anatomies, load_anatomy
from .fields import smooth_field
from .glioma import grow_glioma, paint_glioma, plan_glioma

BRATS_SHAPE = (240, 240, 155)
BRATS_AFFINE = np.array([[-1.0, 0, 0, 0], [0, -1.0, 0, 239.0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]])  # as in BraTS 2021
BRATS_ORIGIN = (119.0, 102.0, 66.0)  # voxel of the MNI origin, judged by the extent of real brains
BRATS_MODALITIES = ("flair", "t1", "t1ce", "t2")
SYNTHETIC = b"SYNTHETIC: difffuse_hf BrainPhantom"  # `descrip` of every header

# Brightness against normal white matter (= 1), in the order of `Tissue` from WHITE_MATTER on. Our choice: typical
# contrasts at 1.5-3 T, set beside real scans; every subject draws its own contrast and jitter around them.
CONTRAST = {
    "flair": (1.0, 1.22, 1.2, 1.12, 1.22, 1.16, 0.95, 1.28, 1.06, 0.16, 0.30, 0.9, 0.55),
    "t1": (1.0, 0.72, 0.70, 0.86, 0.75, 0.80, 0.92, 0.72, 0.92, 0.28, 0.36, 0.55, 0.55),
    "t1ce": (1.0, 0.78, 0.76, 0.88, 0.80, 0.84, 0.94, 0.78, 0.93, 0.32, 0.45, 1.4, 1.9),
    "t2": (1.0, 1.38, 1.35, 1.15, 1.25, 1.12, 0.88, 1.35, 1.08, 3.0, 2.6, 1.9, 0.6),
}
_FLUID = (Tissue.VENTRICLE, Tissue.SULCAL_CSF)


@dataclass(frozen=True)
class PhantomSubject:
    """One synthetic subject: `volumes` {modality: int16 (X, Y, Z)}, `segmentation` uint8 (X, Y, Z), `affine` (4, 4);
    `group` is the anatomy it sits on: subjects of one group must not be split between training and test."""

    name: str
    group: str
    seed: int
    volumes: dict[str, np.ndarray]
    segmentation: np.ndarray
    affine: np.ndarray

    @property
    def lesion_ml(self) -> float:
        return float((self.segmentation > 0).sum() * abs(np.linalg.det(self.affine[:3, :3])) / 1000)


class BrainPhantom:
    """A cohort of synthetic subjects, endless and reproducible: subject `i` of a seed is always the same.

    Args:
        layout (`str`): the data set whose folders are written; `"brats2021"`.
        anatomies (`str` or `Path`, *optional*): folder of label maps in FreeSurfer numbering;
            the built-in ICBM152 maps by default.
        seed (`int`): same seed and index, same subject.
    """

    LAYOUTS = ("brats2021",)

    def __init__(self, layout: str = "brats2021", anatomies: str | Path | None = None, seed: int = 0):
        if layout not in self.LAYOUTS:
            raise ValueError(f"`layout` is one of {', '.join(self.LAYOUTS)}, got {layout!r}.")
        self.layout, self.seed = layout, seed
        self.anatomies = list_anatomies(anatomies)

    def subject(self, index: int, lesion: bool = True) -> PhantomSubject:
        """Subject `index`; with `lesion=False` the same subject before the tumour was painted in: the exact healthy
        counterfactual (displacement by the tumour included), equal to the first outside the segmentation."""
        rng = np.random.default_rng([self.seed, index])
        anatomy = load_anatomy(self.anatomies[index % len(self.anatomies)])
        tissue, plan, grid, box = _deform(rng, anatomy)
        segmentation = grow_glioma(_child(rng), plan, tissue, grid)
        scanner = _child(rng)  # one stream a purpose, so that leaving the lesion out changes nothing else
        painter = _child(rng)
        bias_shape = smooth_field(_child(rng), tissue.shape, 60)
        volumes = {}
        for modality in BRATS_MODALITIES:
            healthy, white_matter = _draw_tissue(scanner, tissue, modality)
            image = paint_glioma(painter, plan, segmentation, healthy, modality, white_matter) if lesion else healthy
            volumes[modality] = _place(_acquire(scanner, image, healthy, segmentation, tissue, bias_shape), box)
        return PhantomSubject(
            name=f"BraTS2021_{index:05d}",
            group=anatomy.name,
            seed=self.seed,
            volumes=volumes,
            segmentation=_place(segmentation if lesion else np.zeros_like(segmentation), box),
            affine=BRATS_AFFINE,
        )

    def subjects(self, count: int, start: int = 0) -> Iterator[PhantomSubject]:
        """One subject at a time; memory does not grow with `count`."""
        return (self.subject(index) for index in range(start, start + count))

    def write(self, root: str | Path, count: int, start: int = 0) -> Iterator[Path]:
        """Write subjects under `root` as BraTS 2021 does, and `subjects.csv`; yields each subject's folder.

        A folder appears when it is complete. Subjects that this seed has written before are kept, so an interrupted
        run is continued by repeating it.

        Raises:
            InputError: `root` holds a subject of the same name that this cohort did not write.
        """
        root = Path(root)
        root.mkdir(parents=True, exist_ok=True)
        rows = _read_rows(root / "subjects.csv")
        for index in range(start, start + count):
            name = f"BraTS2021_{index:05d}"
            group = anatomy_name(self.anatomies[index % len(self.anatomies)])
            if (root / name).exists():
                row = rows.get(name)
                if row is None or (row["seed"], row["group"]) != (str(self.seed), group):
                    raise InputError(
                        f"{root / name} was not written by this cohort (seed {self.seed}); choose another folder."
                    )
            else:
                subject = self.subject(index)
                rows[name] = {
                    "subject": name,
                    "group": subject.group,
                    "seed": str(self.seed),
                    "lesion_ml": f"{subject.lesion_ml:.3f}",
                }
                _write_rows(root / "subjects.csv", rows)  # before the folder: an interrupt between the two redraws it
                _write_brats(subject, root / name)
            yield root / name


def _child(rng: np.random.Generator) -> np.random.Generator:
    return np.random.default_rng(rng.integers(2**63))


def _deform(rng, anatomy: Anatomy):
    """Anatomy in BraTS space after a random affine map, a smooth warp and the tumour's push.

    Returns tissue (uint8) on the brain's box of the BraTS grid, the tumour plan, the box's voxel coordinates
    (3, x, y, z), and the box itself.
    """
    origin = np.array(BRATS_ORIGIN) + rng.uniform(-3, 3, 3)
    angles = np.deg2rad(rng.uniform(-6, 6, 3))
    scale = rng.uniform(0.93, 1.07) * rng.uniform(0.96, 1.04, 3)
    flip = np.diag([rng.choice([-1.0, 1.0]), 1.0, 1.0])
    to_anatomy = (anatomy.pose @ flip @ _rotation(angles) @ np.diag(1 / scale)).astype(np.float32)

    box = (slice(34, 204), slice(18, 224), slice(0, 152))
    grid = np.stack(np.meshgrid(*(np.arange(s.start, s.stop, dtype=np.float32) for s in box), indexing="ij"))
    shape = grid.shape[1:]
    warp = np.stack([smooth_field(rng, shape, 55) * 2.2 + smooth_field(rng, shape, 22) * 0.8 for _ in range(3)])

    def read(coordinates):
        offset = (coordinates - origin[:, None, None, None].astype(np.float32)).reshape(3, -1)
        flat = np.rint(to_anatomy @ offset + anatomy.origin[:, None].astype(np.float32)).astype(np.int32)
        inside = np.all((flat >= 0) & (flat < np.array(anatomy.tissue.shape)[:, None]), axis=0)
        flat[:, ~inside] = 0
        return np.where(inside, anatomy.tissue[tuple(flat)], 0).reshape(shape).astype(np.uint8)

    tissue = read(grid + warp)
    coarse = tissue[::2, ::2, ::2]
    deep = ndimage.distance_transform_edt(coarse > 0) > 2.5
    start = np.argwhere((coarse == Tissue.WHITE_MATTER) & deep) * 2 + [s.start for s in box]
    plan = plan_glioma(rng, start[start[:, 2] > origin[2] - 20], midline=origin[0])
    return read(grid + warp - plan.displacement(grid)), plan, grid, box


def _rotation(angles) -> np.ndarray:
    (a, b, c), identity = angles, np.eye(3)
    rotation = identity
    for (i, j), angle in zip(((1, 2), (0, 2), (0, 1)), (a, b, c)):
        turn = identity.copy()
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ turn
    return rotation


def _draw_tissue(rng, tissue: np.ndarray, modality: str) -> tuple[np.ndarray, float]:
    """Noise-free image of the anatomy (float32, arbitrary units) and the brightness of its white matter."""
    white_matter = 100.0
    values = np.array((0.0, *CONTRAST[modality]), np.float32)
    solid = np.array([t not in _FLUID and t > 0 for t in range(len(values))])
    contrast = rng.uniform(0.3, 1.25)  # scanners and sequences differ in how far grey stands off white matter
    values[solid] = 1 + contrast * (values[solid] - 1)
    values[1:] *= 1 + 0.04 * rng.standard_normal(len(values) - 1)
    values[list(_FLUID)] *= rng.uniform(0.65, 1.25)
    values[Tissue.WHITE_MATTER] = 1.0
    image = white_matter * values[tissue]
    texture = 0.025 * smooth_field(rng, tissue.shape, 4) + 0.025 * smooth_field(rng, tissue.shape, 18)
    image *= 1 + texture
    if modality in ("flair", "t2"):  # caps and bands around the ventricles, part of a healthy brain
        halo = ndimage.gaussian_filter((tissue == Tissue.VENTRICLE).astype(np.float32), 2.2)
        image += white_matter * rng.uniform(0, 0.5) * halo * (tissue == Tissue.WHITE_MATTER)
    blurred = ndimage.gaussian_filter(image, rng.uniform(0.55, 0.9))  # partial volume
    return np.where(tissue > 0, blurred, 0), white_matter


def _acquire(rng, image, healthy, segmentation, tissue, bias_shape) -> np.ndarray:
    """Thick slices, bias field, Rician noise, scanner gain; int16, zero outside the brain.

    Slices are made thick with the lesion inside the segmentation and without it outside, so that the mask stays exact.
    """
    if rng.random() < 0.5:
        thickness = int(rng.integers(2, 6))
        image = np.where(segmentation > 0, _thick_slices(image, thickness), _thick_slices(healthy, thickness))
    bias = np.exp(rng.uniform(0.02, 0.12) * bias_shape + 0.04 * smooth_field(rng, image.shape, 75))
    image = image * bias
    sigma = rng.uniform(0.5, 2.5)
    noise = rng.standard_normal((2, *image.shape), dtype=np.float32) * sigma
    image = np.sqrt((image + noise[0]) ** 2 + noise[1] ** 2)
    gain = np.exp(rng.uniform(np.log(1.5), np.log(12)))
    return np.where(tissue > 0, np.maximum(np.rint(image * gain), 1), 0).astype(np.int16)


def _thick_slices(image: np.ndarray, thickness: int) -> np.ndarray:
    """Average over `thickness` slices and interpolate back to 1 mm, as in registered clinical scans."""
    count = image.shape[2] // thickness
    thick = image[:, :, : count * thickness].reshape(*image.shape[:2], count, thickness).mean(3)
    position = np.clip((np.arange(image.shape[2]) - (thickness - 1) / 2) / thickness, 0, count - 1)
    lower = np.floor(position).astype(int)
    upper = np.minimum(lower + 1, count - 1)
    weight = (position - lower).astype(np.float32)
    return thick[:, :, lower] * (1 - weight) + thick[:, :, upper] * weight


def _place(values: np.ndarray, box) -> np.ndarray:
    volume = np.zeros(BRATS_SHAPE, values.dtype)
    volume[box] = values
    return volume


def _write_brats(subject: PhantomSubject, folder: Path):
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        complete = Path(temporary, folder.name)
        complete.mkdir()
        for suffix, data in (*subject.volumes.items(), ("seg", subject.segmentation)):
            image = nibabel.Nifti1Image(data, subject.affine)
            image.header["descrip"] = SYNTHETIC
            image.header.set_xyzt_units("mm")
            nibabel.save(image, complete / f"{subject.name}_{suffix}.nii.gz")
        complete.rename(folder)


def _read_rows(path: Path) -> dict[str, dict[str, str]]:
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {row["subject"]: row for row in csv.DictReader(file)}


def _write_rows(path: Path, rows: dict[str, dict[str, str]]):
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["subject", "group", "seed", "lesion_ml"])
        writer.writeheader()
        writer.writerows(rows[name] for name in sorted(rows))
    temporary.replace(path)
