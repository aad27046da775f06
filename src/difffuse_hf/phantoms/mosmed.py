"""Synthetic lung CT in the folders of MosMedData: `studies/CT-k/study_BBBB.nii.gz` and `masks/study_BBBB_mask.nii.gz`.

As there: 512 x 512 pixels, a slice every 8 mm (the published data keep every tenth image), Hounsfield units as int16,
one study a patient. Different: every study with opacities has its (exact) mask, where the real data have 50 masks, all
of CT-1; studies are numbered in the order they are made, not by category; the registry is a CSV file with the columns
of `dataset_registry.xlsx`. The chest is computed (`thorax.py`), so no anatomy is shared: each is its own group.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy import ndimage

from ..errors import InputError
from ..io.files import write_csv, write_whole
from .common import PhantomSubject, child_rng, save_nifti
from .fields import smooth_field
from .lungs import Opacities, grow_tree, paint_tubes
from .thorax import AIR, HALF_DEPTH, HEIGHT, Chest, draw_chest, draw_slice

SIZE, SLICE_SPACING_MM = 512, 8.0
STUDIES_OF_20 = (8, 4, 5, 2, 1)  # CT-0..CT-4 in every 20: our choice (MosMedData: 254, 684, 125, 45, 2 of 1110)
_LATTICE = 46  # smooth fields are drawn on about 8 mm


@dataclass(frozen=True)
class LungSubject(PhantomSubject):
    """`severity` 0-4 is the category CT-0..CT-4, `involvement` the share of the lungs' volume that is opaque,
    `opacity` the share of their own density that the opacities have."""

    severity: int
    involvement: float
    opacity: float


def location(seed: int, index: int, num_anatomies: int = 1) -> str:
    return f"studies/CT-{_severity(seed, index)}/{group(seed, index)}.nii.gz"


def group(seed: int, index: int) -> str:
    return f"study_{index + 1:04d}"


def draw(
    seed: int,
    index: int,
    anatomy_path: Path | None = None,
    lesion: bool = True,
    opacity: tuple[float, float] = (1.0, 1.0),
) -> LungSubject:
    """One study; `lesion=False` keeps its place and everything else, without the opacities.

    These have a share of their own density that is drawn from `opacity`.
    """
    if not 0 < opacity[0] <= opacity[1] <= 1:
        raise InputError(f"`opacity` goes from the lower to the higher share, above 0 and up to 1, got {opacity}.")
    rng = np.random.default_rng([seed, index])
    body, vessels, scanner, disease = (child_rng(rng) for _ in range(4))
    chest = draw_chest(body)
    grid = _Grid.draw(body, chest)
    hu, lung, lumen = _draw_lungs(chest, grid, vessels)
    severity = _severity(seed, index)
    mask, share = np.zeros(lung.shape, bool), float(np.random.default_rng([seed, index, 23]).uniform(*opacity))
    if lesion and severity:
        coarse = lung[:, grid.samples][:, :, grid.samples]
        opacities = Opacities(disease, severity, coarse.transpose(2, 1, 0), grid.lattice_mm)
        mask = opacities.paint(hu, lung, lumen, grid.enlarge, share)
    involvement = float(mask.sum() / lung.sum())
    _add_table(hu, grid, scanner)
    volume = _acquire(hu, scanner)
    return LungSubject(
        name=location(seed, index),
        group=group(seed, index),
        seed=seed,
        volumes={"ct": volume.transpose(2, 1, 0)},
        segmentation=mask.astype(np.uint8).transpose(2, 1, 0),
        affine=grid.affine,
        severity=severity,
        involvement=involvement,
        opacity=share,
    )


def write(subject: LungSubject, path: Path):
    """The mask first: a study that is there is complete."""
    files = {path: subject.volumes["ct"]}
    if subject.segmentation.any():
        files = {path.parents[2] / "masks" / f"{subject.group}_mask.nii.gz": subject.segmentation} | files
    for file, data in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, partial(save_nifti, data, subject.affine))


def row(subject: LungSubject) -> dict[str, str]:
    found = {"category": f"CT-{subject.severity}", "involvement": f"{subject.involvement:.4f}"}
    return found | ({"opacity": f"{subject.opacity:.3f}"} if subject.opacity < 1 else {})


def finish(root: Path, rows: dict[str, dict[str, str]]):
    """The table of all studies, with the columns of `dataset_registry.xlsx`."""
    studies = []
    for row in sorted(rows.values(), key=lambda row: row["group"]):
        mask = f"/masks/{row['group']}_mask.nii.gz" if float(row["involvement"]) else ""
        studies.append([int(row["group"][6:]), row["category"], f"/{row['subject']}", mask])
    write_csv(root / "dataset_registry.csv", ["study_id", "category", "study_file", "mask_file"], studies)


def _severity(seed: int, index: int) -> int:
    """Dealt in blocks of 20, so that small cohorts have every category."""
    block = np.random.default_rng([seed, index // 20]).permutation(np.repeat(range(5), STUDIES_OF_20))
    return int(block[index % 20])


@dataclass(frozen=True)
class _Grid:
    """Where the voxels of a study lie in the average chest: scale, turn, warp."""

    pixel_mm: float
    heights_mm: np.ndarray  # (S,) of the slices above the lungs' lowest recess
    centre: np.ndarray  # (2,) of the chest, in pixels
    scale: np.ndarray  # (3,)
    angle: float
    warp: np.ndarray  # (3, lattice, lattice, S) in mm
    enlarge: np.ndarray  # (SIZE, lattice)

    @classmethod
    def draw(cls, rng: np.random.Generator, chest: Chest) -> "_Grid":
        scale = rng.uniform((0.92, 0.9, 0.88), (1.06, 1.06, 1.12))
        half_width = (146 + chest.muscle_mm + chest.fat_mm) * scale[0]
        heights = np.arange(-rng.uniform(4, 20), HEIGHT * scale[2] + rng.uniform(6, 28), SLICE_SPACING_MM)
        shape = (_LATTICE, _LATTICE, len(heights))
        return cls(
            pixel_mm=float(2 * half_width * rng.uniform(1.01, 1.13) / SIZE),
            heights_mm=heights,
            centre=SIZE / 2 + rng.uniform(-10, 10, 2),
            scale=scale,
            angle=float(np.deg2rad(rng.uniform(-4, 4))),
            warp=np.stack([3.5 * smooth_field(rng, shape, 8) + 1.2 * smooth_field(rng, shape, 3) for _ in range(3)]),
            enlarge=np.asarray(ndimage.zoom(np.eye(_LATTICE, dtype=np.float32), (SIZE / _LATTICE, 1), order=3)),
        )

    @property
    def samples(self) -> np.ndarray:
        """Pixels of the lattice's points."""
        return np.rint(np.linspace(0, SIZE - 1, _LATTICE)).astype(int)

    @property
    def lattice_mm(self) -> tuple[float, float, float]:
        step = self.pixel_mm * SIZE / _LATTICE
        return step, step, SLICE_SPACING_MM

    @property
    def affine(self) -> np.ndarray:
        """Axes as in DICOM: left, back, up."""
        affine = np.diag([-self.pixel_mm, -self.pixel_mm, SLICE_SPACING_MM, 1])
        affine[:3, 3] = (self.pixel_mm * SIZE / 2, self.pixel_mm * SIZE / 2, self.heights_mm[0] - HEIGHT / 2)
        return affine

    def coordinates(self, k: int) -> list[np.ndarray]:
        """x, y, z (H, W) in mm of the average chest, of the pixels of slice `k`."""
        pixels = np.arange(SIZE, dtype=np.float32)
        u, v = ((pixels - c) * self.pixel_mm for c in self.centre.tolist())
        cosine, sine = float(np.cos(self.angle)), float(np.sin(self.angle))
        x = cosine * u[None] + sine * v[:, None]
        y = cosine * v[:, None] - sine * u[None]
        warp = [self.enlarge @ field[:, :, k].T @ self.enlarge.T for field in self.warp]
        flat = (x, y, np.float32(self.heights_mm[k]))
        return [(c / np.float32(s) + w).astype(np.float32) for c, s, w in zip(flat, self.scale, warp)]

    def to_pixels(self, point) -> np.ndarray:
        """Pixel x, y and height in mm of a point of the average chest, the warp aside."""
        x, y, z = np.asarray(point) * self.scale
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        pixels = self.centre + np.array([cosine * x - sine * y, sine * x + cosine * y]) / self.pixel_mm
        return np.array([*pixels, z])


def _draw_lungs(chest, grid, rng):
    """HU (S, H, W) of the whole slices, the lungs, and the air in their bronchi."""
    shape = (len(grid.heights_mm), SIZE, SIZE)
    hu, level = np.full(shape, AIR, np.float32), np.full(shape, -99, np.float32)
    right = np.empty(shape, bool)
    for k in range(len(hu)):
        x, y, z = grid.coordinates(k)
        body = np.abs(y).min(1) < HALF_DEPTH + 60  # rows that it may reach
        drawn = draw_slice(chest, x[body], y[body], z[body], 1 / grid.pixel_mm)
        hu[k, body], level[k, body] = drawn
        right[k] = x < 0
    lung, lumen = level > -0.5 * grid.pixel_mm, np.zeros(shape, bool)  # with the pixels that it fills in part
    to_mm = np.array([grid.pixel_mm, grid.pixel_mm, 1.0])
    trees, airways = [], []
    for side, half in ((-1, right), (1, ~right)):
        k, row, column = np.nonzero((level[:, ::4, ::4] > 1.5) & half[:, ::4, ::4])
        points = np.stack([column * 4.0, row * 4.0, grid.heights_mm[k]], 1) * to_mm
        points += rng.uniform((-1.5, -1.5, -4), (1.5, 1.5, 4), points.shape)
        for root, arterial in (((side * 40, 4, 136), True), ((side * 38, 6, 112), False)):
            targets = points[rng.permutation(len(points))[: rng.integers(750, 950)]]
            segments, radii = grow_tree(rng, targets, grid.to_pixels(root) * to_mm)
            trees.append((segments, radii))
            if arterial:  # a bronchus beside every larger artery
                large = radii > 1.1
                airways.append((segments[large] + np.array([0.0, -2.1, 0.0]) * radii[large, None, None], radii[large]))
    segments, radii = (np.concatenate(parts) for parts in zip(*trees))
    tubes, widths = (np.concatenate(parts) for parts in zip(*airways))
    for k, height in enumerate(grid.heights_mm):
        inside = np.clip(level[k] / grid.pixel_mm + 0.5, 0, 1)
        shift = np.array([0, 0, height])
        paint_tubes(hu[k], segments / to_mm - shift, radii, 40.0, grid.pixel_mm, inside)
        paint_tubes(hu[k], tubes / to_mm - shift, 1.1 * widths, -150.0, grid.pixel_mm, inside)
        air = np.zeros((SIZE, SIZE), np.float32)
        paint_tubes(air, tubes / to_mm - shift, 0.75 * widths, 1.0, grid.pixel_mm, inside)
        hu[k] += air * (-985 - hu[k])
        lumen[k] = air > 0.3
    return hu, lung, lumen


def _add_table(hu, grid, rng):
    """A curved top of two thin layers under the back."""
    columns = (np.arange(SIZE) - grid.centre[0]) * grid.pixel_mm
    body = np.flatnonzero((hu > -300).mean(axis=(0, 2)) > 0.01).max()
    top = body + rng.uniform(3, 9) - (columns / grid.pixel_mm) ** 2 / rng.uniform(1500, 2600)
    depth = np.arange(SIZE)[:, None] - top[None]
    for offset, value in ((0, -350.0), (rng.uniform(20, 32), -450.0)):
        layer = np.clip(2.0 - np.abs(depth - offset), 0, 1)
        rows = layer.any(axis=1)
        behind = hu[:, rows]
        hu[:, rows] = np.where(behind < -950, behind + layer[rows] * (value - AIR), behind)


def _acquire(hu, rng) -> np.ndarray:
    """Smoothing and correlated noise of a soft kernel; int16."""
    noise = rng.standard_normal(hu.shape, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, (0, 0.8, 0.8), truncate=2.5)
    noise *= rng.uniform(9, 24) / noise.std()
    return np.rint(hu + noise).clip(-1024, 3071).astype(np.int16)
