"""BraTS 2021 (task 1) as a `datasets` builder: whole volumes, or axial slices with image labels (thesis Sec. 6.5).

Any folder in the BraTS 2021 layout fits, synthetic ones from `BrainPhantom` included. The data set itself is free
for research after registration (https://www.synapse.org/brats2021) and may not be passed on: none of it is shipped.

    builder = BraTS2021("slices", data_dir="BraTS2021_TrainingData")
    builder.download_and_prepare(num_proc=4)
    train = builder.as_dataset(split="train")
"""

from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np

from ..io.case import read_case
from ..io.nifti import find_volume
from .builder import FolderBuilder, SliceConfig

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


MODALITIES = ("flair", "t1", "t1ce", "t2")


@dataclass
class BraTS2021Config(SliceConfig):
    """What to read and how to cut it."""

    modalities: tuple[str, ...] = MODALITIES


class BraTS2021(FolderBuilder):
    """Builder with the configurations "volumes" (NIfTI per modality) and "slices" (model images, labels, masks).

    Splits are by patient, 70-15-15, or by the column `group` of `subjects.csv` where `data_dir` has one.
    A slice is labelled by its lesion mask; patients without `_seg` are an error there, and fine in "volumes".
    """

    BUILDER_CONFIG_CLASS = BraTS2021Config
    BUILDER_CONFIGS = [
        BraTS2021Config(name="volumes", version="1.0.0", description="One row per patient, NIfTI files."),
        BraTS2021Config(name="slices", version="1.0.0", description="One row per axial slice, image-level label."),
    ]
    DEFAULT_CONFIG_NAME = "slices"
    DEFAULT_WRITER_BATCH_SIZE = 64  # slices are large
    HOW_TO_GET_IT = (
        "BraTS 2021 is free for research: register at https://www.synapse.org/brats2021, unpack the training data "
        "and give its folder as `data_dir`; `difffuse phantom OUT --layout brats2021` makes a synthetic one in this "
        "layout."
    )

    def _info(self):
        config = self.config
        if config.name == "volumes":
            features = {"subject": datasets.Value("string")}
            features |= {name: datasets.Nifti() for name in (*config.modalities, "seg")}
        else:
            height, width = config.image_size
            features = {
                "image": datasets.Array3D((len(config.modalities), height, width), "float32"),  # [0, 1]
                "label": datasets.ClassLabel(names=["healthy", "lesion"]),
                "mask": datasets.Array2D((height, width), "uint8"),
                "lesion_area": datasets.Value("float32"),  # fraction of the brain in the slice
                "subject": datasets.Value("string"),
                "slice": datasets.Value("int32"),  # from inferior to superior
            }
        return datasets.DatasetInfo(
            description="Multi-parametric MRI of patients with glioma, skull-stripped, 1 mm, with tumour labels.",
            features=datasets.Features(features),
            homepage="https://www.synapse.org/brats2021",
            citation=_CITATION,
            license="Research use after registration; redistribution is not permitted.",
        )

    def _split_generators(self, dl_manager):
        folders = self._case_folders()
        groups = self.groups([folder.name for folder in folders])
        return self.split_generators(groups, folders=[str(folder) for folder in folders])

    def _generate_examples(self, folders):
        examples = self._volumes if self.config.name == "volumes" else self._slices
        for folder in map(Path, folders):
            yield from examples(folder)

    def _case_folders(self):
        """Folders of the cases, sorted; says what was looked for when there are none."""
        root, first = self.root, self.config.modalities[0]
        folders = sorted({file.parent for file in root.glob(f"*/*_{first}.nii*")})
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

    def _volumes(self, folder):
        files = {name: find_volume(folder, name) for name in (*self.config.modalities, "seg")}
        yield folder.name, {"subject": folder.name, **{name: file and str(file) for name, file in files.items()}}

    def _slices(self, folder):
        processor = self.config.processor()
        case = read_case(folder, self.config.modalities)
        slices, geometry = processor.preprocess_volume(case.volumes, case.affine)
        masks = processor.preprocess_labels(case.reference, geometry)
        for index in processor.usable_slices(slices).tolist():
            pixels = int(masks[index].sum())
            if 0 < pixels < self.config.min_lesion_pixels:
                continue
            brain_pixels = int((slices[index] > 0).any(dim=0).sum())
            yield (
                f"{folder.name}_{index:03d}",
                {
                    "image": slices[index].numpy(),
                    "label": int(pixels > 0),
                    "mask": masks[index].numpy(),
                    "lesion_area": np.float32(pixels / brain_pixels),
                    "subject": folder.name,
                    "slice": index,
                },
            )
