"""Synthetic stroke patients straight to arrays at 2 mm, without DICOM: a cohort large enough to decide something.

The same plans, anatomies, infarcts and Hounsfield units as in `ist3.py`, drawn on a grid of 2 mm and cut into slices
of 6 mm, where there a scanner and all of pre-processing stand between. What is lost is partial volume below 2 mm; the
noise is that of a soft kernel, averaged over pixels of 2 mm. A folder holds, for numpy.load(..., mmap_mode="r"),

    image.npy   (N, S, H, W) uint8, HU from 0 to 100 in steps of 100 / 255
    place.npy   (N, S, H, W) uint8, 1 where the infarct is or, in a scan without one, where one could be
    scans.csv   a row a scan: patient, group, time, label, infarct_size, territory, `drop_hu`: how much darker grey
                matter is in the infarct, and where it lies as `difffuse preprocess` says it: `source_slices`, the
                plane of 2 mm in the middle of each slice, and `to_mni_mm`
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..io.files import complete_folder, write_csv
from ..preprocessing.parallel import WorkerDied, Workers
from .common import Deformation, child_rng, deform
from .head import load_head
from .infarct import SIZE_ML, infarct_extent, infarct_hounsfield, plan_infarct
from .ist3_head import ORIGIN, SHAPE, background, mass_effect, mni_axes, mni_coordinates
from .ist3_plan import PatientPlan, StudyPlan, plan_patient

VOXEL_MM, VOXEL_ML = 2, 0.008
SLICES, PLANES = 11, 3  # slices of a scan (Sec. 3.4.4, step 8), and planes of 2 mm that a slice is the mean of
ROWS, COLUMNS = 120, 96
LOWEST_MM, HIGHEST_MM = -42.0, 62.0  # MNI z of the first and the last slice: from the cerebellum to the vertex
NOISE_HU = (1.5, 3.0)  # of a pixel of 2 mm; 3 to 5 of one of 0.5 mm in `ist3.py`
WINDOW_HU = (0, 100)  # Sec. 3.4.4, step 8
SIDES = ("none", "left", "right", "both")
ROWS_FILE = "scans.csv"
COLUMN_NAMES = ("key", "patient", "group", "time", "label", "infarct_size", "territory", "lesion_ml", "drop_hu",
                "source_slices", "to_mni_mm")  # fmt: skip
_BOX = tuple(slice(0, n) for n in SHAPE)
Contrast = tuple[float, float, float, float]  # of infarcts of sizes 1 to 4
PLAIN: Contrast = (1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class ArrayScan:
    """`image` and `place` (S, H, W) as in the module's head, columns from the patient's right to the left, rows from
    front to back; `row`: what scans.csv says of it."""

    image: np.ndarray
    place: np.ndarray
    row: dict[str, object]


def draw_scans(
    seed: int, index: int, anatomy_path: Path | None, infarct_contrast: Contrast = PLAIN
) -> list[ArrayScan]:
    """The baseline and the follow-up scan of one patient.

    Both have a `place`. Where no infarct is seen it is the one to come, or, of a patient who has none, one drawn as
    others' are: on the scan's own anatomy, so that the place tells nothing of whether there is a lesion. With another
    `infarct_contrast` the same scans are drawn, their new infarcts of each size so many times as dark.
    """
    plan = plan_patient(seed, index)
    rng = np.random.default_rng([seed, index, 17])
    anatomy = load_head(anatomy_path)
    head = deform(rng, anatomy, ORIGIN, _BOX, VOXEL_MM)
    mni, tissue = mni_coordinates(head, step=1), head.read()
    growth, stream = child_rng(rng), child_rng(rng)
    infarcts = plan.infarcts or (plan_infarct(growth),)
    extents = [infarct_extent(growth, infarct, tissue, mni, VOXEL_ML) for infarct in infarcts]
    old = [infarct_extent(growth, plan.old_infarct, tissue, mni, VOXEL_ML)] if plan.old_infarct else []
    planes = _middles(head.origin[2])
    place_in_space = {"source_slices": _in_words(planes), "to_mni_mm": _in_words(_to_mni_mm(head).ravel())}
    look, scans = rng.integers(2**63), []
    for study in plan.studies:
        side = -1.0 if infarcts[0].side == "left" else 1.0
        moved = head.read(partial(mass_effect, side * study.shift_mm)) if study.shift_mm else tissue
        brain, image = background(np.random.default_rng(look), plan, moved, mni, head, old, VOXEL_MM)
        seen = bool(plan.infarcts) and study.stage > 0
        place = np.zeros(brain.shape, bool)
        for infarct, extent in zip(infarcts, extents):
            stage = study.stage or float(stream.uniform(0.7, 1))
            drop = infarct_contrast[infarct.size - 1] * study.drop_hu
            change, where = infarct_hounsfield(brain, extent, stage, drop, study.swelling)
            image, place = image + change if seen else image, place | where
        sides = {infarct.side for infarct in infarcts}
        label = "none" if not seen else "both" if len(sides) == 2 else sides.pop()
        row = {
            "key": study.uid,
            "patient": f"SYNTH-{seed}-{index:05d}",
            "group": anatomy.name,
            "time": study.time,
            "label": SIDES.index(label),
            "infarct_size": plan.largest if seen else 0,
            "territory": ";".join(f"{one.territory} {one.side}" for one in infarcts) if seen else "",
            "lesion_ml": round(float(place.sum()) * VOXEL_ML, 2) if seen else 0.0,
            "drop_hu": _drop_hu(plan, study, infarct_contrast) if seen else 0.0,
            **place_in_space,
        }
        scans.append(ArrayScan(*_slices(stream, image, place, planes), row))
    return scans


def _middles(origin_z: float) -> np.ndarray:
    """The plane (S,) in the middle of each slice of a head whose MNI origin lies so many mm up."""
    return np.rint((origin_z + np.linspace(LOWEST_MM, HIGHEST_MM, SLICES)) / VOXEL_MM).astype(int)


def _to_mni_mm(head: Deformation) -> np.ndarray:
    """(3, 4): from a pixel's column, row and plane to mm (RAS) of the anatomy before it was warped; see `mni_axes`."""
    axes = np.diag([-1.0, 1, 1]) @ mni_axes(head)
    return np.column_stack([axes * VOXEL_MM, -axes @ head.origin])


def _in_words(numbers: np.ndarray) -> str:
    return " ".join(format(number, ".6g") for number in numbers)


def _slices(rng: np.random.Generator, image: np.ndarray, place: np.ndarray, middles: np.ndarray):
    """Image (S, H, W) uint8 with noise, and place, of volumes (X, Y, Z); a pixel is in the place if half of it is."""
    planes = middles[:, None] + np.arange(PLANES) - PLANES // 2
    picture, share = (volume[:, :, planes].astype(np.float32).mean(-1).transpose(2, 1, 0) for volume in (image, place))
    picture += rng.uniform(*NOISE_HU) * rng.standard_normal(picture.shape, dtype=np.float32)
    low, high = WINDOW_HU
    grey = np.clip((picture - low) / (high - low) * 255, 0, 255).round().astype(np.uint8)
    margin = [(0, 0), (0, ROWS - grey.shape[1]), (0, COLUMNS - grey.shape[2])]
    return np.pad(grey, margin), np.pad((share > 0.5).astype(np.uint8), margin)


def write_cohort(
    folder: str | Path,
    patients: range,
    seed: int,
    anatomies: Sequence[Path | None],
    infarct_contrast: Contrast = PLAIN,
    workers: int = 1,
) -> Path:
    """Write two scans of each patient; patient i lies on anatomy i modulo their number. What is there already is kept.

    Args:
        infarct_contrast: for each size, a factor on how much darker than healthy tissue new infarcts are (grey matter
            by 2 to 6 HU at baseline and 7 to 13 at follow-up), for a cohort that is easier or harder.
        workers: processes that draw side by side, with one thread each; the scans are the same.

    Raises:
        InputError: the folder holds another cohort, a factor is not above 0, or a process died.
    """
    if len(infarct_contrast) != len(SIZE_ML) or not min(infarct_contrast) > 0:
        given, wanted = " ".join(format(factor, "g") for factor in infarct_contrast), f"each of {len(SIZE_ML)} sizes"
        raise InputError(f"The contrast of infarcts is a factor above 0 for {wanted}, got {given}.")
    folder = Path(folder)
    wanted = [f"SYNTH-{seed}-{index:05d}" for index in patients for _ in range(2)]
    if folder.exists():
        found = read_rows(folder)
        plans = [plan_patient(seed, index) for index in patients]
        drops = {study.uid: (0.0, _drop_hu(plan, study, infarct_contrast)) for plan in plans for study in plan.studies}
        same = all(
            float(row["drop_hu"]) in drops.get(row["key"], ()) if "drop_hu" in row else set(infarct_contrast) == {1}
            for row in found  # the column is younger than the layout
        )
        if [row["patient"] for row in found] != wanted or not same:
            raise InputError(f"{folder} holds another cohort ({len(found)} scans); choose another folder.")
        return folder
    shape = (len(wanted), SLICES, ROWS, COLUMNS)
    draw = partial(_draw_patient, seed, list(anatomies), infarct_contrast)
    with complete_folder(folder) as partial_folder, Workers(min(workers, len(patients))) as pool:
        image, place = (
            np.lib.format.open_memmap(partial_folder / f"{name}.npy", mode="w+", dtype=np.uint8, shape=shape)
            for name in ("image", "place")
        )
        rows: list[list] = [[] for _ in wanted]
        for index, scans in pool.map(draw, patients):  # as they are finished
            if isinstance(scans, WorkerDied):
                raise InputError(
                    f"The processes that drew patient {index} died; with fewer workers each has more memory."
                )
            for number, scan in enumerate(scans, start=2 * (index - patients.start)):
                image[number], place[number] = scan.image, scan.place
                rows[number] = [scan.row[name] for name in COLUMN_NAMES]
        for array in (image, place):
            array.flush()
        write_csv(partial_folder / ROWS_FILE, list(COLUMN_NAMES), rows)
    return folder


def _draw_patient(seed: int, anatomies: list[Path | None], infarct_contrast: Contrast, index: int) -> list[ArrayScan]:
    return draw_scans(seed, index, anatomies[index % len(anatomies)], infarct_contrast)


def _drop_hu(plan: PatientPlan, study: StudyPlan, infarct_contrast: Contrast) -> float:
    """By how much grey matter is darker in the largest of a study's infarcts; nothing of a patient without one."""
    return round(infarct_contrast[plan.largest - 1] * study.drop_hu, 2)


def read_rows(folder: str | Path) -> list[dict[str, str]]:
    """The rows of scans.csv."""
    path = Path(folder, ROWS_FILE)
    if not path.exists():
        raise InputError(
            f"{folder} holds no cohort of arrays (no scans.csv); make it with `difffuse phantom --arrays`."
        )
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
