"""MosMedData (Morozov et al. 2020) as a `datasets` builder: lung CT with and without signs of viral pneumonia.

The thesis takes 11 uniformly sampled slices of 128 x 128 and tells CT-0 from CT-2..CT-4. `data_dir` is the folder
COVID19_1110 or the one that holds it: `studies/CT-0/study_0001.nii.gz` ... `studies/CT-4/study_1110.nii.gz`, and
`masks/study_0255_mask.nii.gz` for 50 studies, all of CT-1. The folders say what `dataset_registry.xlsx` says, so that
is not read. Licence CC BY-NC-ND 3.0: nothing of it is shipped, and what is made from it may not be passed on.

    builder = MosMed("volumes", data_dir="COVID19_1110")
    builder.download_and_prepare(num_proc=4)
    train = builder.as_dataset(split="train")
"""

from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import torch
from nibabel import orientations
from torch.nn import functional as F

from ..errors import InputError, require_choice
from ..io.case import CT
from ..io.nifti import along_axes_of, check_same_grid, without_text
from ..io.volume_file import read_volume_file
from ..preprocessing.volume import sample_slices, window_hounsfield
from .axial_slices import SliceRecipe, cut_labels
from .builder import FolderBuilder, FolderConfig, classifier_config
from .slice_settings import CHEST

SEVERITIES = ("CT-0", "CT-1", "CT-2", "CT-3", "CT-4")  # share of the lungs involved: none, < 25, 25-50, 50-75, > 75 %
CT1 = ("left out", "healthy", "lesion")  # what CT-1 counts as
SLICE_LABELS = ("scan", "mask")
_CITATION = """\
@article{morozov2020mosmeddata,
  title = {{MosMedData}: Chest {CT} Scans With {COVID-19} Related Findings Dataset},
  author = {Morozov, S. P. and Andreychenko, A. E. and Pavlov, N. A. and Vladzymyrskyy, A. V. and Ledikhova, N. V. and
            Gombolevskiy, V. A. and Blokhin, I. A. and Gelezhe, P. B. and Gonchar, A. V. and Chernina, V. Yu.},
  journal = {arXiv:2005.06465},
  year = {2020}
}
"""


@dataclass
class MosMedConfig(FolderConfig):
    """What counts as lesion, and how a study is cut."""

    num_slices: int | None = None  # of "volumes": 11 by default (thesis)
    image_size: tuple[int, int] = (128, 128)  # thesis
    window_hu: tuple[float, float] = (-1000.0, 400.0)  # air to soft tissue, as in the author's code
    ct1: str = "left out"  # as in the thesis; or "healthy", or "lesion"
    pixel_spacing_mm: float = 3.0  # of "slices", as all below; ours: the lungs of every chest fit into 128 pixels
    slice_margin: int = 0
    min_foreground: float = SliceRecipe.min_foreground
    slice_labels: str = "scan"  # whose label a slice has: its study's, or "mask": its own, from the drawn lesion
    min_lesion_pixels: int = 10  # of a slice's own label; a slice with fewer, but not none, is left out

    def __post_init__(self):
        super().__post_init__()
        require_choice("ct1", self.ct1, CT1)
        require_choice("slice_labels", self.slice_labels, SLICE_LABELS)
        if self.name == "slices" and self.num_slices is not None:
            raise InputError('`num_slices` is an option of "volumes"; "slices" holds every slice that shows the body.')
        if self.name == "volumes":
            self.num_slices = self.num_slices or 11
        if self.window_hu[0] >= self.window_hu[1]:
            raise ValueError(f"`window_hu` goes from the lower to the higher value, got {self.window_hu}.")

    @property
    def recipe(self) -> SliceRecipe:
        """How "slices" are cut, which a model trained on them must be saved with."""
        return SliceRecipe(
            modalities=(CT,),
            image_size=tuple(self.image_size),
            pixel_spacing_mm=self.pixel_spacing_mm,
            slice_margin=self.slice_margin,
            min_foreground=self.min_foreground,
            window_hu=tuple(self.window_hu),
            body_part=CHEST,
        )


class MosMed(FolderBuilder):
    """Builder with the configurations "volumes" (a row per study, for classifiers), "slices" (a row per slice, for
    diffusion), and "nifti" (the files).

    `label` is healthy (CT-0) or lesion (CT-2..CT-4) of the whole study, in "slices" too: a slice of a study with
    opacities has the label "lesion" whether or not it shows one, unless `slice_labels` is "mask", which leaves out
    studies with opacities that nobody drew. `mask` is None where nobody drew one; CT-0 has an empty mask by
    definition. Slices run from inferior to superior, rows to posterior, columns to the patient's left. "volumes"
    shrinks whole slices to `image_size`; "slices" have one pixel size, the lungs in the middle and 0 outside the body,
    as a model cuts them from a scan itself (`SliceRecipe`). Splits are by patient, 70-15-15, without stratification:
    `severity` is there for those who want one.
    """

    BUILDER_CONFIG_CLASS = MosMedConfig
    BUILDER_CONFIGS = [
        MosMedConfig(name="volumes", version="1.2.0", description="One row per study: 11 slices, and their label."),
        MosMedConfig(name="slices", version="2.1.0", description="One row per axial slice, image-level label."),
        MosMedConfig(name="nifti", version="1.0.0", description="One row per study, NIfTI files."),
    ]
    DEFAULT_CONFIG_NAME = "volumes"
    DEFAULT_WRITER_BATCH_SIZE = 64
    DESCRIPTION = "Chest CT of patients with and without signs of viral pneumonia; a slice every 8 mm."
    HOMEPAGE = "https://mosmed.ai/datasets/covid19_1110"
    CITATION = _CITATION
    LICENCE = "CC BY-NC-ND 3.0: with credit, not for commercial use, no distribution of modified material."
    HOW_TO_GET_IT = (
        "MosMedData is free for non-commercial use: get COVID19_1110 at https://mosmed.ai/datasets/covid19_1110, "
        "unpack it and give its folder as `data_dir`; `difffuse phantom OUT --layout mosmed` makes a synthetic one in "
        "this layout."
    )
    FILES = tuple(
        prefix + pattern
        for prefix in ("", "COVID19_1110/")
        for pattern in ("studies/CT-*/study_*.nii*", "masks/study_*.nii*", "subjects.csv")
    )

    @property
    def root(self) -> Path:
        inner = super().root / "COVID19_1110"
        return inner if inner.is_dir() else super().root

    def processor_config(self):
        if self.config.name == "nifti":
            return None
        if self.config.name == "slices":
            return self.config.recipe.processor_config()
        return classifier_config(self.config.image_size, self.config.num_slices)

    def features(self):
        config = self.config
        if config.name == "nifti":
            image = mask = datasets.Nifti()
        elif config.name == "volumes":
            slices, size = config.num_slices, tuple(config.image_size)
            image, mask = datasets.Array4D((slices, 1, *size), "float32"), datasets.Array3D((slices, *size), "uint8")
        else:
            image = datasets.Array3D((1, *config.image_size), "float32")
            mask = datasets.Array2D(tuple(config.image_size), "uint8")
        features = {
            "image": image,  # [0, 1]
            "label": datasets.ClassLabel(names=["healthy", "lesion"]),
            "severity": datasets.ClassLabel(names=list(SEVERITIES)),
            "mask": mask,
            "subject": datasets.Value("string"),
        }
        if config.name == "slices":
            features["slice"] = datasets.Value("int32")  # in the study, from inferior to superior
        return features

    def cases(self):
        studies = self._studies()
        groups = self.groups([study.relative_to(self.root).as_posix() for study in studies])
        return [str(study) for study in studies], groups

    def _studies(self):
        """Files of the studies that have a label, sorted by number; says what was looked for when there are none."""
        found = sorted(self.root.glob("studies/CT-[0-4]/study_*.nii*"), key=lambda study: study.name)
        studies = [study for study in found if self._label(study) is not None]
        if not studies:
            wanted = "CT-k/study_BBBB.nii.gz" if not found else "CT-0, CT-2, CT-3 or CT-4 (CT-1 is left out by `ct1`)"
            raise FileNotFoundError(
                f"{self.root} holds no study: no file studies/{wanted} was found. {self.HOW_TO_GET_IT}"
            )
        numbers = [_number(study) for study in studies]
        for first, second, same in zip(studies, studies[1:], map(str.__eq__, numbers, numbers[1:])):
            if same:
                raise InputError(f"{first} and {second} are one study in two files; keep the one that is right.")
        return studies

    def _label(self, study):
        severity = SEVERITIES.index(study.parent.name)
        if severity == 1:
            return {"left out": None, "healthy": 0, "lesion": 1}[self.config.ct1]
        return int(severity > 1)

    def examples(self, case):
        study = Path(case)
        config, subject, mask_file = self.config, _number(study), _mask_file(study)
        row = {"label": self._label(study), "severity": SEVERITIES.index(study.parent.name), "subject": subject}
        if config.name == "nifti":
            yield subject, {**row, "image": without_text(study), "mask": mask_file and without_text(mask_file)}
            return
        if config.name == "slices":
            yield from self._slices(study, mask_file, row)
            return
        hounsfield = _read(study)
        indices = sample_slices(len(hounsfield), config.num_slices)
        images = _resize(window_hounsfield(hounsfield[indices], *config.window_hu), config.image_size)
        masks = None
        if mask_file is not None:
            drawn = _read(mask_file)
            if drawn.shape != hounsfield.shape:
                raise InputError(
                    f"{mask_file} is {drawn.shape} but {study.name} is {hounsfield.shape}; they must agree."
                )
            masks = (_resize((drawn[indices] > 0).astype(np.float32), config.image_size) >= 0.5).astype(np.uint8)
        elif row["severity"] == 0:
            masks = np.zeros(images.shape, np.uint8)
        yield subject, {**row, "image": images[:, None], "mask": masks}

    def _slices(self, study, mask_file, row):
        """Key and columns of the slices of a study that show the body."""
        volume, config = read_volume_file(study), self.config
        own_label = config.slice_labels == "mask"
        if own_label and mask_file is None and row["severity"] > 0:
            return  # there are opacities, but nobody has drawn them
        try:
            images, geometry = config.recipe.cut(volume.voxels[None], volume.affine)
        except InputError as error:
            raise InputError(f"{study}: {error}") from None
        masks = torch.zeros(len(images), *config.image_size, dtype=torch.uint8) if row["severity"] == 0 else None
        if mask_file is not None:
            drawn = along_axes_of(read_volume_file(mask_file), volume)
            check_same_grid(drawn, volume)
            masks = cut_labels(drawn.voxels, geometry)
        for index in config.recipe.usable(images).tolist():
            labels = {"slice": index, "mask": None}
            if masks is not None:
                labels["mask"] = masks[index].numpy()
                pixels = int(masks[index].sum())
                if own_label and 0 < pixels < config.min_lesion_pixels:
                    continue
                labels |= {"label": int(pixels > 0)} if own_label else {}
            yield f"{row['subject']}_{index:03d}", {**row, "image": images[index].numpy(), **labels}


def _number(study: Path) -> str:
    return study.name.split(".")[0]


def _mask_file(study):
    folder = study.parents[2] / "masks"
    files = (folder / f"{_number(study)}_mask{ending}" for ending in (".nii.gz", ".nii"))
    return next((file for file in files if file.exists()), None)


def _read(file: Path) -> np.ndarray:
    """Voxels (S, H, W), slices from inferior to superior, rows to posterior, columns to the patient's left."""
    volume = read_volume_file(file)
    turn = orientations.ornt_transform(orientations.io_orientation(volume.affine), orientations.axcodes2ornt("LPS"))
    return orientations.apply_orientation(volume.voxels, turn).transpose(2, 1, 0)


def _resize(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Whole slices (S, H, W) to `size` by averaging over area."""
    return F.interpolate(torch.from_numpy(np.ascontiguousarray(images))[None], size=size, mode="area")[0].numpy()
