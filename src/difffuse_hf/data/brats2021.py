"""BraTS 2021 (task 1) as a `datasets` builder: whole volumes, or axial slices with image labels (thesis Sec. 6.5).

Any folder in the BraTS 2021 layout fits, synthetic ones from `BrainPhantom` included. The data set itself is free
for research after registration (https://www.synapse.org/brats2021) and may not be passed on: none of it is shipped.

    builder = BraTS2021("slices", data_dir="BraTS2021_TrainingData")
    builder.download_and_prepare(num_proc=4)
    train = builder.as_dataset(split="train")
"""

from pathlib import Path

import datasets

from ..errors import InputError
from ..io.case import read_case
from ..io.nifti import find_volume, without_text
from .slice_builder import LabelledScan, SliceBuilder, SliceConfig

_CITATION = """\
@article{baid2021rsna,
  title = {The {RSNA-ASNR-MICCAI BraTS} 2021 Benchmark on Brain Tumor Segmentation and Radiogenomic Classification},
  author = {Baid, Ujjwal and Ghodasara, Satyam and Mohan, Suyash and Bilello, Michel and Calabrese, Evan and others},
  journal = {arXiv:2107.02314},
  year = {2021}
}
@article{menze2015multimodal,
  title = {The Multimodal Brain Tumor Image Segmentation Benchmark ({BRATS})},
  author = {Menze, Bjoern H. and Jakab, Andras and Bauer, Stefan and Kalpathy-Cramer, Jayashree and others},
  journal = {IEEE Transactions on Medical Imaging},
  volume = {34},
  number = {10},
  pages = {1993--2024},
  year = {2015}
}
"""


class BraTS2021(SliceBuilder):
    """Builder with the configurations "volumes" (NIfTI per modality) and "slices" (model images, labels, masks).

    Splits are by patient, 70-15-15, or by the column `group` of `subjects.csv` where `data_dir` has one.
    A slice is labelled by its lesion mask; patients without `_seg` are an error there, and fine in "volumes".
    """

    BUILDER_CONFIG_CLASS = SliceConfig
    BUILDER_CONFIGS = [
        SliceConfig(name="volumes", version="1.0.0", description="One row per patient, NIfTI files."),
        SliceConfig(name="slices", version="1.1.0", description="One row per axial slice, image-level label."),
    ]
    DESCRIPTION = "Multi-parametric MRI of patients with glioma, skull-stripped, 1 mm, with tumour labels."
    HOMEPAGE = "https://www.synapse.org/brats2021"
    CITATION = _CITATION
    LICENCE = "Research use after registration; redistribution is not permitted."
    HOW_TO_GET_IT = (
        "BraTS 2021 is free for research: register at https://www.synapse.org/brats2021, unpack the training data "
        "and give its folder as `data_dir`; `difffuse phantom OUT --layout brats2021` makes a synthetic one in this "
        "layout."
    )

    def features(self):
        modalities, subject = self.config.modalities, {"subject": datasets.Value("string")}
        if self.config.name == "volumes":
            return subject | {name: datasets.Nifti() for name in (*modalities, "seg")}
        return self.slice_features("mask") | subject | {"slice": datasets.Value("int32")}

    def cases(self):
        folders = self._case_folders()
        return [str(folder) for folder in folders], self.groups([folder.name for folder in folders])

    def examples(self, case):
        folder = Path(case)
        if self.config.name == "volumes":
            files = {name: find_volume(folder, name) for name in (*self.config.modalities, "seg")}
            volumes = {name: file and without_text(file) for name, file in files.items()}
            yield folder.name, {"subject": folder.name, **volumes}
            return
        for index, row in self.slices(self.read(case)):
            yield f"{folder.name}_{index:03d}", row | {"subject": folder.name}

    def subject_of(self, case):
        return Path(case).name

    def read(self, case):
        scan = read_case(Path(case), self.config.modalities)
        if scan.reference is None:  # `_case_folders` has looked for the file
            raise InputError(f"{case} lacks its segmentation `_seg`.")
        return LabelledScan(scan.volumes, scan.affine, scan.reference > 0)

    def _case_folders(self):
        """Folders of the cases, sorted; says what was looked for when there are none."""
        root, first = self.root, self.config.modalities[0]
        found = {file.parent for file in root.glob(f"*/*_{first}.nii*")}
        folders = sorted(folder for folder in found if not folder.name.startswith("."))  # one being written
        if not folders:
            raise FileNotFoundError(
                f"{root} holds no case: no file <case>/<case>_{first}.nii.gz was found. {self.HOW_TO_GET_IT}"
            )
        for folder in folders:
            for name in (*self.config.modalities, "seg"):
                if find_volume(folder, name) is None and (name != "seg" or self.config.name == "slices"):
                    raise FileNotFoundError(
                        f"{folder} lacks {folder.name}_{name}.nii.gz; complete the case or move it elsewhere "
                        '(the configuration "volumes" does without `_seg`).'
                    )
        return folders
