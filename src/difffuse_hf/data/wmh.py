"""The WMH Segmentation Challenge (MICCAI 2017) as a `datasets` builder: whole volumes, or axial slices with labels.

The folder is that of the release at DataverseNL (https://doi.org/10.34894/AECRSD), as it is unpacked:

    training/{Utrecht,Singapore,Amsterdam/GE3T}/<number>/                       60 cases, 20 of each
    test/{Utrecht,Singapore,Amsterdam/{GE3T,GE1T5,Philips_VU .PETMR_01.}}/<number>/   30, 30, 30, 10, 10 cases
        pre/{FLAIR,T1,3DT1}.nii.gz   bias-corrected; T1 resampled to the FLAIR, whose slices are 3 mm apart
        orig/...                     the same as acquired
        wmh.nii.gz                   0 background, 1 white-matter hyperintensity, 2 other pathology

The older download with Utrecht/, Singapore/ and GE3T/ at the top is read too, and counts as training. Scans have faces
removed but are not skull-stripped: the model's input needs a brain mask, see `WMHConfig.brain_mask`.

    builder = WMH("slices", data_dir="dataverse_files")
    builder.download_and_prepare(num_proc=4)
    test = builder.as_dataset(split="test")  # thesis Sec. 6.6: the BraTS model without fine-tuning on these 110 scans
"""

from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np

from ..errors import InputError, require_choice
from ..io.nifti import check_same_grid, without_text
from ..io.volume_file import read_volume_file
from .builder import split_generators
from .slice_builder import LabelledScan, SliceBuilder, SliceConfig
from .splits import SPLITS

WMH_LABEL, OTHER_LABEL = 1, 2
FILE_OF = {"flair": "FLAIR", "t1": "T1"}  # in the folders pre/ and orig/
OFFICIAL_SPLITS = {"training": "train", "test": "test"}
SITES = ("Utrecht", "Singapore", "Amsterdam")
SCANNERS = {  # folder above the case number -> (site, scanner)
    "Utrecht": ("Utrecht", "Philips Achieva 3T"),
    "Singapore": ("Singapore", "Siemens TrioTim 3T"),
    "GE3T": ("Amsterdam", "GE Signa HDxt 3T"),
    "GE1T5": ("Amsterdam", "GE Signa HDxt 1.5T"),
    "Philips_VU": ("Amsterdam", "Philips Ingenuity 3T"),  # "Philips_VU .PETMR_01.", which Windows cannot store as is
}

_CITATION = """\
@article{kuijf2019standardized,
  title = {Standardized Assessment of Automatic Segmentation of White Matter Hyperintensities and Results of the
           {WMH} Segmentation Challenge},
  author = {Kuijf, Hugo J. and Biesbroek, J. Matthijs and de Bresser, Jeroen and Heinen, Rutger and others},
  journal = {IEEE Transactions on Medical Imaging},
  volume = {38},
  number = {11},
  pages = {2556--2568},
  year = {2019},
  doi = {10.1109/TMI.2019.2905770}
}
@data{AECRSD_2022,
  title = {Data of the White Matter Hyperintensity ({WMH}) Segmentation Challenge},
  author = {Kuijf, Hugo and Biesbroek, Matthijs and de Bresser, Jeroen and Heinen, Rutger and Chen, Christopher and
            van der Flier, Wiesje and Barkhof, Frederik and Viergever, Max and Biessels, Geert Jan},
  publisher = {DataverseNL},
  year = {2022},
  doi = {10.34894/AECRSD}
}
"""


@dataclass
class WMHConfig(SliceConfig):
    """What to read and how to cut it; the slice fields are those of `SliceRecipe`.

    `brain_mask` says where the brain is: `"template"` registers a template (`preprocessing.mri`, no weights needed);
    `"none"` takes the scans as skull-stripped already; any other word is a mask file in every case folder, for example
    `"pre/brain_mask.nii.gz"` on the grid of the FLAIR. Real work should use the last, with masks from HD-BET or
    SynthStrip: the template's mask has been measured on synthetic heads only.
    """

    modalities: tuple[str, ...] = ("flair", "t1")
    images: str = "pre"  # or "orig": without the organisers' bias correction
    division: str = "official"  # training -> train, test -> test; or "patient": 70-15-15 over all cases
    brain_mask: str = "template"

    def __post_init__(self):
        super().__post_init__()
        require_choice("division", self.division, ("official", "patient"))
        require_choice("images", self.images, ("pre", "orig"))
        for modality in self.modalities:
            require_choice("modalities", modality, FILE_OF)


class WMH(SliceBuilder):
    """Builder with the configurations "volumes" (NIfTI files) and "slices" (model images, labels, masks).

    Splits are the official ones (train and test, no validation), or by patient (`division`); a phantom's subjects on
    one anatomy stay together either way. Other pathology (label 2) is neither lesion nor healthy, as in the challenge,
    which ignores it: its pixels are 0 in `mask` and 1 in `ignore`, to be left out of every score, and a slice that
    shows it and no hyperintensity is left out altogether.
    """

    BUILDER_CONFIG_CLASS = WMHConfig
    BUILDER_CONFIGS = [
        WMHConfig(name="volumes", version="1.0.0", description="One row per patient, NIfTI files."),
        WMHConfig(name="slices", version="1.1.0", description="One row per axial slice, image-level label."),
    ]
    DESCRIPTION = (
        "FLAIR and T1 MRI of memory-clinic patients from five scanners, with manual segmentations of "
        "white-matter hyperintensities of presumed vascular origin."
    )
    HOMEPAGE = "https://wmh.isi.uu.nl"
    CITATION = _CITATION
    LICENCE = "CC BY-NC 4.0 (DataverseNL, doi:10.34894/AECRSD)"
    FILES = ("**/*.nii*", "subjects.csv")
    HOW_TO_GET_IT = (
        "The WMH challenge data are free for non-commercial use: download all files of "
        "https://doi.org/10.34894/AECRSD with their folders and give the folder that holds training/ and test/ as "
        "`data_dir`; `difffuse phantom OUT --layout wmh` makes a synthetic one in this layout."
    )

    def features(self):
        origin = {
            "subject": datasets.Value("string"),  # the case folder below `data_dir`
            "site": datasets.ClassLabel(names=list(SITES)),
            "scanner": datasets.ClassLabel(names=[scanner for _, scanner in SCANNERS.values()]),
        }
        if self.config.name == "volumes":
            return origin | {name: datasets.Nifti() for name in ("FLAIR", "T1", "wmh")}
        columns = self.slice_features("mask", "ignore")  # the latter: 1 = other pathology
        return columns | origin | {"slice": datasets.Value("int32")}

    def cases(self):
        folders = self._case_folders()
        return [str(folder) for folder in folders], self.groups([self.subject_of(folder) for folder in folders])

    def subject_of(self, case):
        return Path(case).relative_to(self.root).as_posix()

    def _split_generators(self, dl_manager):
        if self.config.split is not None or self.config.division == "patient":
            return super()._split_generators(dl_manager)
        parts = {split: [] for split in SPLITS}
        for folder in self._case_folders():
            parts[_official_split((self.root.name, *Path(self.subject_of(folder)).parts))].append(str(folder))
        return split_generators(parts)

    def examples(self, case):
        folder = Path(case)
        site, scanner = _scanner(folder)
        origin = {"subject": self.subject_of(folder), "site": site, "scanner": scanner}
        if self.config.name == "volumes":
            names = {"FLAIR": f"{self.config.images}/FLAIR", "T1": f"{self.config.images}/T1", "wmh": "wmh"}
            files = {name: _find(folder, f"{file}.nii.gz") for name, file in names.items()}
            yield origin["subject"], origin | {name: file and without_text(file) for name, file in files.items()}
            return
        for index, row in self.slices(self.read(case)):
            yield f"{origin['subject']}/{index:03d}", row | origin

    def _case_folders(self):
        """Folders of the cases, sorted; says what was looked for when there are none, or what one of them lacks."""
        images = self.config.images
        found = {file.parent.parent for file in self.root.glob(f"**/{images}/FLAIR.nii*")}
        folders = sorted(f for f in found if not any(p.startswith(".") for p in f.relative_to(self.root).parts))
        if not folders:
            raise FileNotFoundError(
                f"{self.root} holds no case: no file training/Utrecht/<number>/{images}/FLAIR.nii.gz or the like was "
                f"found. {self.HOW_TO_GET_IT}"
            )
        needed = [f"{images}/{FILE_OF[name]}.nii.gz" for name in self.config.modalities]
        if self.config.name == "slices":
            needed.append("wmh.nii.gz")
            if self.config.brain_mask not in ("template", "none"):
                needed.append(self.config.brain_mask)
        for folder in folders:
            _scanner(folder)
            missing = [name for name in needed if _find(folder, name) is None]
            if missing:
                raise FileNotFoundError(f"{folder} lacks {missing[0]}; complete the case or move it elsewhere.")
        return folders

    def read(self, case):
        folder = Path(case)
        files = [_find(folder, f"{self.config.images}/{FILE_OF[name]}.nii.gz") for name in self.config.modalities]
        by_file = self.config.brain_mask not in ("template", "none")
        files += [_find(folder, name) for name in ("wmh.nii.gz", *([self.config.brain_mask] if by_file else []))]
        found = [file for file in files if file is not None]  # all of them: `_case_folders` has looked
        read = [read_volume_file(file) for file in found]
        for volume in read:
            check_same_grid(volume, read[0])
        arrays = [volume.voxels for volume in read]
        num_modalities = len(self.config.modalities)
        volumes, labels = np.stack(arrays[:num_modalities]), np.rint(arrays[num_modalities])
        if by_file:
            volumes = volumes * (arrays[-1] > 0.5)
        elif self.config.brain_mask == "template":
            from ..preprocessing.mri import extract_brain  # needs SimpleITK, the extra `preprocess`

            t1 = _find(folder, f"{self.config.images}/T1.nii.gz")
            if t1 is None:
                raise InputError(
                    f"{folder} lacks T1.nii.gz, on which the brain is found; give a mask by `brain_mask`."
                )
            scan = read_volume_file(t1)
            volumes = volumes * extract_brain(scan.voxels, scan.affine)
        return LabelledScan(volumes, read[0].affine, labels == WMH_LABEL, labels == OTHER_LABEL)


def _official_split(parts: tuple[str, ...]) -> str:
    """train or test, by the folder training/ or test/ that a case lies in; train in the older layout, without them."""
    return next((OFFICIAL_SPLITS[part] for part in reversed(parts) if part in OFFICIAL_SPLITS), "train")


def _scanner(folder: Path) -> tuple[str, str]:
    """Site and scanner of a case, by the folder above its number."""
    name = folder.parent.name.split(" ")[0].split(".")[0].removesuffix("_")
    if name not in SCANNERS:
        raise FileNotFoundError(
            f"{folder} lies in no folder of a scanner ({', '.join(SCANNERS)}); keep the folders of the release."
        )
    return SCANNERS[name]


def _find(folder: Path, name: str) -> Path | None:
    """`name` in a case folder, gzipped or not."""
    return next((path for path in (folder / name, folder / name.removesuffix(".gz")) if path.is_file()), None)
