"""Synthetic patients of an acute stroke trial, as CT in DICOM: the disks a hospital sends, with known answers.

A patient has a baseline study, where the infarct is subtle or not yet seen, and a follow-up days later, where it is
plain; some have none. Every study is a folder of series: localiser, axial slices in a soft kernel, some in a bone
kernel, reformats, a dose report, with the faults that real disks have. Under the root:

    dicom/patient_00000/<date>/<series>/*   the files
    truth/<study_uid>.nii.gz                mask of the acute infarct on the axial slices (as DICOM says they lie)
    labels.csv                              a row a study: side, territory, infarct size, background findings
    expected.csv                            a row a series: the decision that pre-processing should take, and why
"""

from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from scipy import ndimage

from ..io.files import complete_folder, write_csv
from .common import child_rng, deform, rotation, save_nifti
from .ct_dicom import VENDORS, encode, patient_tags, save_image, save_report, uid
from .ct_scanner import AIR_HU, Pose, Stack, head_holder, noise, projection, sample
from .head import load_head
from .infarct import infarct_extent, infarct_hounsfield
from .ist3_head import ORIGIN, SHAPE, background, mass_effect, mni_coordinates, to_full
from .ist3_plan import PatientPlan, SeriesPlan, StudyPlan, plan_patient

SUPERIOR_FIRST = 0.4  # of series: numbered from the top down
_BOX = tuple(slice(0, n) for n in SHAPE)
_X, _Y, _Z = np.eye(3)


@dataclass(frozen=True)
class CTPatient:
    """One synthetic patient: `series` {series uid: (Stack, HU (S, rows, columns) int16)}, `masks` {study uid: (bool
    (S, rows, columns), Stack)} of the axial slices; `lesion_ml`: of the follow-up."""

    name: str
    group: str
    seed: int
    plan: PatientPlan
    series: dict[str, tuple[Stack, np.ndarray]]
    masks: dict[str, tuple[Stack, np.ndarray]] = field(default_factory=dict)
    lesion_ml: float = 0.0


def location(seed: int, index: int, num_anatomies: int = 1) -> str:
    return f"dicom/patient_{index:05d}"


def draw(
    seed: int, index: int, anatomy_path: Path | None, lesion: bool = True, incidence: Path | None = None
) -> CTPatient:
    """One patient; `lesion=False` is the same without the acute infarct (mass effect kept), equal outside the masks.

    Args:
        incidence: NIfTI map in MNI space by which the infarcts' centres are drawn.
    """
    plan = plan_patient(seed, index)
    rng = np.random.default_rng([seed, index])
    anatomy = load_head(anatomy_path)
    head = deform(rng, anatomy, ORIGIN, _BOX)
    mni = mni_coordinates(head)
    tissue = head.read()
    growth = child_rng(rng)
    half = tissue[::2, ::2, ::2]
    extents = [infarct_extent(growth, infarct, half, mni, 0.008, incidence) for infarct in plan.infarcts]
    old = [infarct_extent(growth, plan.old_infarct, half, mni, 0.008)] if plan.old_infarct else []
    extents, old = ([to_full(extent) for extent in group] for group in (extents, old))
    look, scanner = rng.integers(2**63), child_rng(rng)

    patient = CTPatient(location(seed, index), anatomy.name, seed, plan, {})
    lesion_ml, kept = 0.0, None
    for study in plan.studies:
        if kept is None or study.shift_mm:
            side = -1.0 if plan.infarcts and plan.infarcts[0].side == "left" else 1.0
            moved = head.read(partial(mass_effect, side * study.shift_mm)) if study.shift_mm else tissue
            kept = background(np.random.default_rng(look), plan, moved, mni, head, old)
        brain, image = kept
        change, mask = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, bool)
        for extent in extents if study.stage else ():
            one, where = infarct_hounsfield(brain, extent, study.stage, study.drop_hu, study.swelling)
            change, mask = np.where(where, one, change), mask | where
        lesion_ml = float(mask.sum() / 1000) if lesion else 0.0
        _scan(child_rng(scanner), study, patient, image, change, mask, lesion)
    return CTPatient(patient.name, patient.group, seed, plan, patient.series, patient.masks, lesion_ml)


def _scan(rng, study: StudyPlan, patient: CTPatient, image, change, mask, lesion: bool):
    """Draw every series of a study into `patient.series`, and the mask on its axial slices into `patient.masks`."""
    angles = np.deg2rad(rng.uniform(-5, 5, 3))
    if study.quirk == "tilted":
        angles = np.zeros(3)
        angles[rng.integers(3)] = np.deg2rad(rng.choice([-1, 1]) * rng.uniform(38, 45))
    isocentre = rng.uniform(-8, 8, 3) + (0, 0, rng.uniform(-400, 100))
    lean = np.deg2rad(study.tilt_deg * rng.uniform(0.7, 1.1))  # the gantry is tilted because the head is
    pose = Pose(rotation(np.array([-lean, 0, 0])) @ rotation(angles), isocentre, np.array(ORIGIN))
    middle = isocentre + pose.rotation @ (0, 12, 14)
    axial = _axial(rng, study, middle)
    base = study.thickness_mm.count(study.thickness_mm[0])
    parts = {"": slice(None), "base": slice(0, base), "vault": slice(base, None)}
    box = _corners(mask) if mask.any() else None
    found = np.zeros((len(axial.centres), *axial.shape), bool)
    sigma = rng.uniform(3, 5)
    for series in study.series:
        stream = child_rng(rng)
        sharp = series.kind == "bone"
        if series.kind == "report":
            continue
        if series.kind == "localiser":
            patient.series[series.uid] = _localiser(image, isocentre)
            continue
        stack = axial.take(parts[series.part]) if series.kind in ("soft", "bone") else _reformat(study, series, middle)
        picture = sample(image, pose, stack, AIR_HU, sharp)
        if series.kind in ("soft", "bone"):
            cradle = head_holder(stack, middle)
            np.maximum(picture, cradle, out=picture, where=(picture < -700) & (cradle > AIR_HU))
        picture += noise(stream, stack, 6 * sigma if sharp else sigma, sharp)
        if box is not None:
            near = _near(stack, pose, box)
            where = sample(mask.astype(np.float32), pose, stack.take(near), 0.0, sharp) > 0.4
            if lesion:
                picture[near] += np.where(where, sample(change, pose, stack.take(near), 0.0, sharp), 0)
            if series.kind == "soft":
                found[np.arange(len(found))[parts[series.part]][near]] = where
        patient.series[series.uid] = stack, np.clip(np.rint(picture), -1024, 3071).astype(np.int16)
    patient.masks[study.uid] = axial, found & lesion


def _axial(rng, study: StudyPlan, middle: np.ndarray) -> Stack:
    """The axial slices, sheared by the gantry's tilt: the table moves along z, the slices are tilted about x."""
    tilt = np.deg2rad(study.tilt_deg)
    column = np.array([0, np.cos(tilt), -np.sin(tilt)])
    thickness = np.array(study.thickness_mm)
    along = np.cumsum(np.concatenate([[0], (thickness[1:] + thickness[:-1]) / 2]))
    height = along - along[-1] / 2 if along[-1] > 100 else along - 68  # a scan of the base starts at the same level
    centres = middle + (height / np.cos(tilt))[:, None] * _Z
    keep = np.ones(len(thickness), bool)
    if study.quirk in ("missing slices", "one slice missing"):
        count = int(np.ceil(20 / thickness[0])) if study.quirk == "missing slices" else 1
        first = rng.integers(6, len(thickness) - 6 - count)
        keep[first : first + count] = False
    row = _X
    if study.quirk == "prone":
        row, column = -row, -column
    return Stack(centres[keep], row, column, thickness[keep], (512, 512), study.pixel_mm)


def _reformat(study: StudyPlan, series: SeriesPlan, middle: np.ndarray) -> Stack:
    across, along = (_X, _Y) if series.kind == "coronal" else (_Y, _X)
    centres = middle + np.linspace(-70, 70, 29)[:, None] * along
    return Stack(centres, across, -_Z, np.full(29, 3.0), (320, 512), study.pixel_mm)


def _localiser(image: np.ndarray, isocentre: np.ndarray) -> tuple[Stack, np.ndarray]:
    picture = np.zeros((1, 512, 512), np.float32)
    shadow = projection(image, axis=0).T[::-1].repeat(2, 0).repeat(2, 1)  # rows from the top down, columns to the back
    picture[0, 50 : 50 + shadow.shape[0], 16 : 16 + shadow.shape[1]] = shadow + 100
    stack = Stack(isocentre[None], _Y, -_Z, np.array([1.0]), (512, 512), 0.5)
    return stack, (picture - 100).astype(np.int16)


def _corners(mask: np.ndarray) -> np.ndarray:
    """Voxels (8, 3) of the box around a mask."""
    box = ndimage.find_objects(mask, max_label=1)[0]
    return np.array([[(s.start, s.stop)[(i >> k) & 1] for k, s in enumerate(box)] for i in range(8)], float)


def _near(stack: Stack, pose: Pose, corners: np.ndarray) -> np.ndarray:
    """Which slices (S,) can meet the box."""
    points = (corners - pose.centre) @ pose.rotation.T + pose.isocentre
    height, slices = points @ stack.normal, stack.centres @ stack.normal
    margin = stack.thickness_mm / 2 + 2
    return (slices + margin > height.min()) & (slices - margin < height.max())


def write(subject: CTPatient, path: Path):
    """The patient's folder; the masks go to `truth/` beside `dicom/` first, so that a folder has its masks."""
    truth = path.parents[1] / "truth"
    truth.mkdir(parents=True, exist_ok=True)
    plan = subject.plan
    for study in plan.studies:
        mask, affine = regular_mask(*subject.masks[study.uid], _claimed(study))
        save_nifti(mask, affine, truth / f"{study.uid}.nii.gz")
    with complete_folder(path) as folder:
        for study in plan.studies:
            for series in study.series:
                place = folder / f"{study.day:%Y%m%d}" / f"SE{series.number:03d}"
                place.mkdir(parents=True)
                _write_series(subject, study, series, place)


def regular_mask(stack: Stack, mask: np.ndarray, claimed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A mask (columns, rows, S) as NIfTI holds it, and its affine (RAS, sheared where the gantry was tilted).

    Slices that are not evenly spaced are repeated, nearest first, at the smallest step between them."""
    corners = stack.corners @ claimed.T
    along = (stack.centres - stack.centres[0]) @ stack.normal
    step = np.diff(along).min()
    grid = np.arange(int(round(along[-1] / step)) + 1) * step
    nearest = np.abs(grid[:, None] - along).argmin(1)
    affine = np.eye(4)
    affine[:3, 0] = claimed @ stack.row * stack.pixel_mm
    affine[:3, 1] = claimed @ stack.column * stack.pixel_mm
    affine[:3, 2] = (corners[-1] - corners[0]) * step / along[-1]
    affine[:3, 3] = corners[0]
    return np.ascontiguousarray(mask[nearest].transpose(2, 1, 0)).astype(np.uint8), np.diag([-1.0, -1, 1, 1]) @ affine


def _claimed(study: StudyPlan) -> np.ndarray:
    """How the header's axes differ from the patient's: a half turn where the position was labelled wrongly."""
    if study.quirk != "mislabelled":
        return np.eye(3)
    turns = ((-1, -1, 1), (-1, 1, -1), (1, -1, -1))  # prone; feet first; both
    return np.diag(np.array(turns[study.day.toordinal() % 3], float))


def _write_series(subject: CTPatient, study: StudyPlan, series: SeriesPlan, place: Path):
    vendor, rng = VENDORS[study.vendor], np.random.default_rng([subject.seed, subject.plan.index, series.number])
    tags = _series_tags(subject, study, series, rng)
    if series.kind == "report":
        save_report(tags, place / "IM00001", vendor, rng)
        return
    stack, picture = subject.series[series.uid]
    claimed = _claimed(study)
    rows, columns = np.indices(stack.shape)
    radius = np.hypot(rows - (stack.shape[0] - 1) / 2, columns - (stack.shape[1] - 1) / 2)
    axial = series.kind in ("soft", "bone")
    stored = encode(picture, vendor, radius > stack.shape[1] / 2 if axial else None)
    order = np.arange(len(stored))[:: -1 if rng.random() < SUPERIOR_FIRST else 1]
    tags.ImageOrientationPatient = [f"{v:.6g}" for v in (*(claimed @ stack.row), *(claimed @ stack.column))]
    tags.PixelSpacing = [f"{stack.pixel_mm:.6f}"] * 2
    suffix = "" if study.vendor in ("siemens", "philips") else ".dcm"
    paths = []
    for number, k in enumerate(order, start=1):
        corner = claimed @ stack.corners[k]
        tags.InstanceNumber = number
        tags.AcquisitionNumber = number if vendor.slice_acquisitions and axial else 1
        tags.ImagePositionPatient = [f"{v:.4f}" for v in corner]
        tags.SliceLocation = f"{corner[2]:.2f}"
        tags.SliceThickness = f"{stack.thickness_mm[k]:g}"
        paths.append(place / f"IM{number:05d}{suffix}")
        save_image(tags, stored[k], paths[-1], vendor)
    if study.quirk == "truncated file" and series.kind == "soft":
        with paths[len(paths) // 2].open("r+b") as file:
            file.truncate(200_000)


def _series_tags(subject: CTPatient, study: StudyPlan, series: SeriesPlan, rng) -> Dataset:
    plan, vendor = subject.plan, VENDORS[study.vendor]
    birth = date(study.day.year - plan.age - 1, 12, 31 - plan.index % 28)
    age = f"{plan.age:03d}Y" if plan.age_written else ""
    tags = patient_tags(plan.index, study.uid, f"{study.day:%Y%m%d}", f"{birth:%Y%m%d}", age, vendor, study.model)
    tags.SeriesInstanceUID, tags.SeriesNumber, tags.Modality = series.uid, series.number, "CT"
    if series.kind == "report":
        tags.SeriesDescription = "Dose Report"
        return tags
    sharp = series.kind == "bone"
    tags.FrameOfReferenceUID = uid(study.uid, "frame")
    tags.BodyPartExamined, tags.KVP, tags.PatientPosition = "HEAD", "120", "HFS"
    if study.quirk in ("prone", "mislabelled"):
        labels = {(1, 1): "HFP", (-1, -1): "HFP", (-1, 1): "FFS", (1, -1): "FFP"}
        tags.PatientPosition = labels[tuple(np.diag(_claimed(study))[:2].astype(int))]
    tags.RescaleIntercept, tags.RescaleSlope, tags.RescaleType = (
        "0" if vendor.pixels == "signed" else "-1024",
        "1",
        "HU",
    )
    if vendor.padding < -1024:
        tags.PixelPaddingValue = vendor.padding
    if vendor.tilt_sign and series.kind in ("soft", "bone"):
        tags.GantryDetectorTilt = f"{vendor.tilt_sign * study.tilt_deg:.1f}"
    image_type = {
        "localiser": vendor.scout,
        "coronal": ("DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"),
        "sagittal": ("DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"),
    }.get(series.kind, vendor.image_type)
    if study.blank:
        return tags
    if image_type:
        tags.ImageType = list(image_type)
    kernels = vendor.bone if sharp else vendor.soft
    if series.kind != "localiser":
        tags.ConvolutionKernel = kernels[int(rng.integers(len(kernels)))]
    tags.WindowCenter, tags.WindowWidth = ("500", "2500") if sharp else ("35", "90")
    tags.SeriesDescription = {
        "localiser": "SCOUT LAT", "bone": "BONE HEAD", "coronal": "COR HEAD", "sagittal": "SAG HEAD",
    }.get(series.kind, f"HEAD {series.part.upper()}".strip())  # fmt: skip
    return tags


def row(subject: CTPatient) -> dict[str, str]:
    return {"patient": f"SYNTH-{subject.plan.index:05d}"}


def finish(root: Path, rows: dict[str, dict[str, str]]):
    """`labels.csv` and `expected.csv` of the whole cohort, from the plans of its patients."""
    labels, expected = [], []
    for name, known in sorted(rows.items()):
        plan = plan_patient(int(known["seed"]), int(name.rsplit("_", 1)[1]))
        for study in plan.studies:
            seen = plan.infarcts if study.stage else ()
            sides = {infarct.side for infarct in seen}
            labels.append(
                {
                    "study_uid": study.uid,
                    "patient": known["patient"],
                    "time": study.time,
                    "lesion": "both" if len(sides) == 2 else next(iter(sides), "none"),
                    "territory": ";".join(f"{infarct.territory} {infarct.side}" for infarct in seen),
                    "infarct_size": max((infarct.size for infarct in seen), default=0),
                    **plan.findings,
                    "group": known["group"],
                }
            )
            for series in study.series:
                expected.append(
                    {
                        "series_uid": series.uid,
                        "expected_decision": "reject" if series.reason else "keep",
                        "expected_reason": series.reason.value if series.reason else "",
                        "study_uid": study.uid,
                        "kind": " ".join(filter(None, (series.kind, series.part))),
                        "vendor": study.vendor,
                        "quirk": study.quirk if series.kind == "soft" else "",
                        "blank_tags": int(study.blank),
                        "tilt_deg": f"{study.tilt_deg:.1f}",
                    }
                )
    for table, content in (("labels.csv", labels), ("expected.csv", expected)):
        write_csv(root / table, list(content[0]), [row.values() for row in content])
