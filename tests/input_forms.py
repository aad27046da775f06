"""What `difffuse detect` makes of each form in which people have a brain scan: the table of docs/input-forms.md.

PYTHONPATH=tests python tests/input_forms.py docs/input-forms.md

One synthetic head, at 2 mm, is written in every form: as it should be, without one modality, with a modality on
another grid, with its skull, and for a model of the other kind. What is read is cut into the model's slices, and
compared with what was written, voxel by voxel; what is refused leaves its sentence.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk
from dicom_files import write_enhanced, write_series
from scipy import ndimage
from synthetic_chest import AFFINE, chest
from synthetic_head import SPACING, turn, turned_head

from difffuse_hf import DifFuseProcessor
from difffuse_hf.detection.sources import opened, read_source
from difffuse_hf.errors import InputError, one_sentence
from difffuse_hf.phantoms.anatomy import Tissue, load_anatomy

MODALITIES = ("flair", "t1", "t1ce", "t2")
CONDITIONS = (
    "as it should be",
    "one modality missing",
    "one on another grid",
    "with its skull",
    "model of the other kind",
)
CONTRASTS = {  # white matter, grey matter, fluid, bone, scalp
    "flair": (0.8, 1.0, 0.25, 0.1, 0.7),
    "t1": (1.0, 0.7, 0.25, 0.15, 1.5),
    "t1ce": (1.05, 0.75, 0.3, 0.15, 1.5),
    "t2": (0.6, 0.9, 1.8, 0.1, 0.8),
}
MR = DifFuseProcessor(image_size=(96, 96), pixel_spacing_mm=2.0, slice_margin=0)
ONE_MR = DifFuseProcessor(modalities=("flair",), image_size=(96, 96), pixel_spacing_mm=2.0, slice_margin=0)
CT = DifFuseProcessor(
    modalities=("ct",), image_size=(64, 64), pixel_spacing_mm=4.0, slice_margin=0, window_hu=(0, 100)
)
LUNG = DifFuseProcessor(
    modalities=("ct",),
    image_size=(64, 64),
    pixel_spacing_mm=6.0,
    slice_margin=0,
    window_hu=(-1000, 400),
    body_part="chest",
)

Volumes = Mapping[str, tuple[np.ndarray, np.ndarray]]  # modality -> voxels (X, Y, Z), affine


@dataclass(frozen=True)
class Form:
    """A way in which a scan lies on a disk: `write(volumes, folder)` leaves it there and says what to give to the
    command; `processor` is of the model that takes it."""

    name: str
    write: Callable[[Volumes, Path], object]
    processor: DifFuseProcessor = MR


@lru_cache
def tissues(step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tissue of the built-in brain at so many millimetres, the depth in mm around it, and texture, (X, Y, Z) each."""
    tissue = np.pad(load_anatomy(None).tissue[::step, ::step, ::step], 24 // step)
    outside = step * ndimage.distance_transform_edt(tissue == Tissue.OUTSIDE)
    texture = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(tissue.shape), 1.0)
    return tissue, outside, 1 + 0.2 * texture


def head(step: int = 2, skull: bool = False) -> Volumes:
    """The head under each contrast, int16, with a lesion that is bright on FLAIR and T2; skull-stripped or not."""
    tissue, outside, texture = tissues(step)
    affine = np.diag([-step, -step, step, 1.0])
    white = np.argwhere(tissue == Tissue.WHITE_MATTER)
    centre = white[len(white) // 3]
    far = step * np.sqrt(((np.indices(tissue.shape).T - centre) ** 2).sum(-1)).T
    lesion = (far < 12) & (outside == 0)
    volumes = {}
    for modality, (matter, grey, fluid, bone, scalp) in CONTRASTS.items():
        brain = np.where(tissue == Tissue.WHITE_MATTER, matter, grey)
        brain = np.where(np.isin(tissue, (Tissue.VENTRICLE, Tissue.SULCAL_CSF)), fluid, brain)
        brain = np.where(lesion & (modality in ("flair", "t2")), 1.8 * matter, brain)
        values = np.where(outside == 0, brain, 0)
        if skull:
            values = np.select([outside > 15, outside > 9, outside > 2, outside > 0], [0, scalp, bone, fluid], values)
        volumes[modality] = (300 * values * texture).clip(0).astype(np.int16), affine
    return volumes


def conditions(step: int = 2) -> dict[str, Volumes]:
    """The head as it should be, and what else people have."""
    right = head(step)
    missing = {modality: one for modality, one in right.items() if modality != "t2"}
    voxels, affine = right["t2"]
    moved = affine.copy()
    moved[:3, 3] += (4.0, -3.0, 2.0)
    coarse = nibabel.affines.rescale_affine(
        moved, voxels.shape, [2.0 * step, step, step], [len(voxels) // 2, *voxels.shape[1:]]
    )
    apart = right | {
        "t2": (voxels[: len(voxels) // 2 * 2].reshape(-1, 2, *voxels.shape[1:]).mean(1).astype(np.int16), coarse)
    }
    return dict(zip(CONDITIONS, (right, missing, apart, head(step, skull=True), right)))


def _nifti(names: Mapping[str, str], below: str = "", kind: type = nibabel.Nifti1Image):
    def write(volumes: Volumes, folder: Path) -> Path:
        for modality, (voxels, affine) in volumes.items():
            file = folder / below / names[modality]
            file.parent.mkdir(parents=True, exist_ok=True)
            kind(voxels, affine).to_filename(file)
        return folder

    return write


def _names(pattern: str, *words: str) -> dict[str, str]:
    return {modality: pattern.format(word) for modality, word in zip(MODALITIES, words or MODALITIES)}


def _bids(volumes: Volumes, folder: Path) -> Path:
    names = _names("sub-01_{}.nii.gz", "FLAIR", "T1w", "ce-gadolinium_T1w", "T2w")
    return _nifti(names, below="anat")(volumes, folder.with_name("sub-01"))


def _nnunet(with_description: bool):
    def write(volumes: Volumes, folder: Path) -> Path:
        _nifti(_names("P_{}.nii.gz", "0000", "0001", "0002", "0003"))(volumes, folder)
        if with_description:
            channels = {str(number): name for number, name in enumerate(("FLAIR", "T1", "T1Gd", "T2"))}
            (folder / "dataset.json").write_text(json.dumps({"channel_names": channels}))
        return folder

    return write


def _named(volumes: Volumes, folder: Path) -> dict[str, Path]:
    _nifti(_names("scan-{}.nii.gz", "a", "b", "c", "d"))(volumes, folder)
    return {
        modality: folder / f"scan-{letter}.nii.gz"
        for modality, letter in zip(MODALITIES, "abcd")
        if modality in volumes
    }


def _nrrd(volumes: Volumes, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for modality, (voxels, affine) in volumes.items():
        image, flip = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T)), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
        spacing = np.linalg.norm(flip[:3, :3], axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(flip[:3, 3].tolist())
        image.SetDirection((flip[:3, :3] / spacing).ravel().tolist())
        sitk.WriteImage(image, str(folder / f"{modality.upper()}.nrrd"))
    return folder


def _zip(write):
    def zipped(volumes: Volumes, folder: Path) -> Path:
        write(volumes, folder)
        return Path(shutil.make_archive(str(folder), "zip", folder))

    return zipped


def _one_file(volumes: Volumes, folder: Path) -> Path:
    _nifti(_names("{}.nii.gz"))(volumes, folder)
    return folder / "flair.nii.gz"


def _slices(every: int | None):
    """Slices so many times as thick; None: a single one from the middle."""

    def write(volumes: Volumes, folder: Path) -> Path:
        def thick(voxels, affine):
            if every is None:
                return voxels[:, :, voxels.shape[2] // 2][:, :, None], affine
            whole = voxels[:, :, : voxels.shape[2] // every * every]
            return whole.reshape(*whole.shape[:2], -1, every).mean(3).astype(np.int16), affine @ np.diag(
                [1, 1, every, 1.0]
            )

        return _nifti(_names("P_{}.nii.gz"))({name: thick(*one) for name, one in volumes.items()}, folder)

    return write


def _ct() -> np.ndarray:
    return turned_head(turn("x", 0))[0].hounsfield.astype(int)  # (S, H, W)


def _dicom(volumes: Volumes, folder: Path) -> Path:
    write_series(folder, _ct(), SPACING, KVP=120)
    return folder


def _enhanced(volumes: Volumes, folder: Path) -> Path:
    return write_enhanced(folder / "enhanced.dcm", _ct(), SPACING)


def _ct_nifti(volumes: Volumes, folder: Path) -> Path:
    return (
        _nifti({"ct": "ct.nii.gz"})(
            {"ct": (_ct().transpose(2, 1, 0).astype(np.int16), np.diag([-2, -2, 4, 1.0]))}, folder
        )
        / "ct.nii.gz"
    )


def _chest_nifti(volumes: Volumes, folder: Path) -> Path:
    return _nifti({"ct": "chest.nii.gz"})({"ct": (chest()[0], AFFINE)}, folder) / "chest.nii.gz"


def _mr_dicom(volumes: Volumes, folder: Path) -> Path:
    words = dict(zip(MODALITIES, ("AX T2 FLAIR", "T1 MPRAGE", "T1 MPRAGE post GAD", "AX T2 TSE")))
    for number, (modality, (voxels, affine)) in enumerate(volumes.items()):
        tags = {
            "SeriesInstanceUID": f"1.2.3.{number}",
            "Modality": "MR",
            "SOPClassUID": MR_IMAGE,
            "StudyInstanceUID": "1.2.3",
            "SeriesDescription": words[modality],
        }
        write_series(
            folder / modality, voxels.T, np.abs(affine.diagonal()[2::-1]), affine[:3, 3] * (-1, -1, 1), **tags
        )
    return folder


BRATS = _nifti(_names("P_{}.nii.gz"))
FORMS = (
    Form("folder, BraTS 2018-2021 names", BRATS),
    Form("folder, BraTS 2023-2025 names", _nifti(_names("P-{}.nii.gz", "t2f", "t1n", "t1c", "t2w"))),
    Form("BIDS", _bids),
    Form("nnU-Net, with `dataset.json`", _nnunet(True)),
    Form("nnU-Net, without `dataset.json`", _nnunet(False)),
    Form("`--image MODALITY=PATH`", _named),
    Form("`.mgz`, plain names", _nifti(_names("{}.mgz", "FLAIR", "T1", "T1_Gd", "T2"), kind=nibabel.MGHImage)),
    Form("`.nrrd`, plain names", _nrrd),
    Form("`.hdr`/`.img`", _nifti(_names("P_{}.hdr"), kind=nibabel.Nifti1Pair)),
    Form("zip of a folder", _zip(BRATS)),
    Form("thick slices", _slices(3)),
    Form("one slice", _slices(None)),
    Form("one NIfTI file, model of four modalities", _one_file),
    Form("one NIfTI file, model of one modality", _one_file, ONE_MR),
    Form("MR in DICOM", _mr_dicom),
    Form("MR: zip of a DICOM folder", _zip(_mr_dicom)),
    Form("CT: DICOM folder", _dicom, CT),
    Form("CT: zip of a DICOM folder", _zip(_dicom), CT),
    Form("CT: one Enhanced CT file", _enhanced, CT),
    Form("CT: NIfTI in Hounsfield units", _ct_nifti, CT),
    Form("lung CT: NIfTI in Hounsfield units", _chest_nifti, LUNG),
    Form("lung CT: DICOM folder", _dicom, LUNG),
)
MARK = "<!-- written by tests/input_forms.py -->"
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
SINGLE = ("one on another grid", "one modality missing")  # of no meaning where there is one file
ONE_FILE = ("one slice", "one NIfTI file, model of four modalities", "one NIfTI file, model of one modality")


def applies(form: Form, condition: str) -> bool:
    """Whether a cell of the table has anything in it."""
    if form.name == "lung CT: DICOM folder":
        return condition == CONDITIONS[0]  # no model of another kind would be better off
    if form.processor.window_hu is not None:
        return condition in (CONDITIONS[0], CONDITIONS[-1])
    return form.name not in ONE_FILE or condition not in SINGLE


def outcome(form: Form, condition: str, volumes: Volumes, folder: Path) -> tuple[str, str]:
    """("read" or "refused", what was noted or why), with paths from `folder` on."""
    processor = form.processor
    if condition == CONDITIONS[-1]:
        processor = MR if processor is CT else CT  # a chest goes to a model of heads
    given = volumes if form.name not in ONE_FILE[1:] else {"flair": volumes["flair"]}
    try:
        with opened(form.write(given, folder / "P")) as source:  # pyright: ignore[reportArgumentType]
            case, _ = read_source(source, processor)
            processor.preprocess_volume(case.volumes, case.affine)
    except InputError as error:
        said = one_sentence(error)
        return "refused", said.replace(f"{folder}/", "").replace(str(folder), "")
    if processor.window_hu is None and condition == CONDITIONS[0] and "slice" not in form.name:
        np.testing.assert_array_equal(case.volumes, np.stack([voxels for voxels, _ in given.values()]))
    return "read", " ".join([f"Read as {case.read_as}.", *case.notes])


def all_outcomes(forms: Sequence[Form] = FORMS) -> Iterator[tuple[str, str, str, str]]:
    """Form, condition, "read" or "refused", and what was said, for every cell that has something in it."""
    heads = conditions()
    for form in forms:
        for condition in filter(partial(applies, form), CONDITIONS):
            with tempfile.TemporaryDirectory() as temporary:
                yield form.name, condition, *outcome(form, condition, heads[condition], Path(temporary))


def write_page(page: Path, outcomes: Iterable[tuple[str, str, str, str]]) -> None:
    """The table, and each sentence once, below the mark in the page."""
    numbers, cells = {}, {}
    for form, condition, kind, said in outcomes:
        print(f"{form}, {condition}: {kind}. {said}", flush=True)
        number = numbers.setdefault(said, len(numbers) + 1)
        cells[form, condition] = f"{kind} ({number})"
    rows = (
        f"| {form.name} | {' | '.join(cells.get((form.name, one), '–') for one in CONDITIONS)} |" for form in FORMS
    )
    table = "\n".join([f"| form | {' | '.join(CONDITIONS)} |", "|---" * (len(CONDITIONS) + 1) + "|", *rows])
    said = "\n".join(f"{number}. {sentence}" for sentence, number in numbers.items())
    before = page.read_text(encoding="utf-8").partition(MARK)[0]
    page.write_text(f"{before}{MARK}\n\n{table}\n\n## What was said\n\n{said}\n", encoding="utf-8")


if __name__ == "__main__":
    write_page(Path(sys.argv[1]), all_outcomes())
