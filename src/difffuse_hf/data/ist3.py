"""IST-3 head CT (thesis Chs. 3-5) as a `datasets` builder: scans that `difffuse preprocess` made, and a labels table.

The scans of the third International Stroke Trial are not public; none of them is shipped. `BrainPhantom` with the
layout "ist3" writes synthetic ones, as DICOM, with their table. The columns of a table are listed in `ist3_labels.py`.

    difffuse preprocess DICOM_DIR ist3/preprocessed --linkage
    sides = {"0": "none", "1": "left", "2": "right", "3": "both"}
    builder = IST3("volumes", data_dir="ist3/preprocessed", labels="ist3/reads.csv",
                   columns={"lesion": "side"}, values={"lesion": sides})
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
from nibabel.filebasedimages import ImageFileError
from scipy import ndimage

from ..errors import InputError, require_choice
from ..io.case import CT
from ..io.nifti import open_nifti
from .axial_slices import SliceRecipe
from .builder import FolderBuilder, FolderConfig, classifier_config
from .ist3_labels import CHRONIC, SIDES, TIMES, find_labels, join_labels, read_labels, read_table
from .planes import fit_planes

SLICE_LABELS = ("scan", "mask")
_CITATION = """\
@article{ist32012,
  title = {The benefits and harms of intravenous thrombolysis with recombinant tissue plasminogen activator within 6 h
           of acute ischaemic stroke (the third international stroke trial [{IST-3}]): a randomised controlled trial},
  author = {{The IST-3 collaborative group}},
  journal = {The Lancet},
  volume = {379},
  number = {9834},
  pages = {2352--2363},
  year = {2012},
  doi = {10.1016/S0140-6736(12)60768-5}
}
"""


@dataclass
class IST3Config(FolderConfig):
    """Where the labels are, how the table says them, and the size of the images."""

    labels: str | None = None  # path; labels.csv in `data_dir` or in the folder above by default
    masks: str | None = None  # folder of <study_uid or scan_id>.nii.gz; truth/ beside a phantom's labels by default
    key: str | None = None  # scan_id, series_uid, study_uid or patient_id; the first that the table has by default
    columns: dict[str, str] = field(default_factory=dict)  # our name -> name in the table
    values: dict[str, dict[str, str]] = field(default_factory=dict)  # our name -> {value in the table: our value}
    image_size: tuple[int, int] | None = None  # of "slices": (256, 256) by default; shrunk to fit, and padded
    slice_labels: str = "scan"  # whose label a slice has: its scan's, or "mask": its own, from the mask of the lesion
    min_lesion_pixels: int = 10  # of a slice's own label; a slice with fewer, but not none, is left out

    def __post_init__(self):
        super().__post_init__()
        require_choice("slice_labels", self.slice_labels, SLICE_LABELS)
        if self.masks and not self.with_masks:
            raise ValueError('`masks` is an option of "volumes", and of "slices" with `slice_labels="mask"`.')
        if self.name == "volumes" and self.image_size is not None:
            raise InputError(
                '`image_size` is an option of "slices"; the size of "volumes" is that of the scans, which `difffuse '
                "preprocess --image-size HEIGHT WIDTH` chooses."
            )
        if self.name == "slices":
            self.image_size = self.image_size or (256, 256)

    @property
    def with_masks(self) -> bool:
        """Whether rows carry a mask of the lesion."""
        return self.name == "volumes" or self.slice_labels == "mask"


class IST3(FolderBuilder):
    """Builder with the configurations "volumes" (a row per scan) and "slices" (a row per slice, for diffusion).

    `data_dir` is the output folder of `difffuse preprocess`; what its manifest rejects is not read. Intensities are
    0-100 HU as [0, 1]; slices run from inferior to superior, rows to posterior, columns to the patient's left.
    `label` is the side of the lesion in "volumes", and healthy or lesion in "slices", where every slice has its scan's
    label whether or not it shows the lesion, unless `slice_labels` is "mask". Splits are by patient, 70-15-15, or by
    the `group` of a phantom.

    `image` of "volumes" is (S, 1, H, W), as classifiers take it. `mask` is (S, H, W) uint8, 1 in the lesion, from a
    NIfTI mask that lies as the DICOM files say: a pixel is lesion where the mask (voxels of 0.5 or more are 1),
    linearly interpolated at the pixel's centre, is 0.5 or more. Lesions between the sampled slices are not in it.
    Without a mask file it is empty where the label is "none" and None elsewhere, which the formats of NumPy and
    PyTorch give as an array of not-a-numbers. `to_mni_mm` and `source_slices` are those of the manifest.
    """

    BUILDER_CONFIG_CLASS = IST3Config
    BUILDER_CONFIGS = [
        IST3Config(name="volumes", version="1.4.0", description="One row per scan, side of the lesion, its mask."),
        IST3Config(name="slices", version="1.3.0", description="One row per axial slice, image-level label."),
    ]
    DEFAULT_CONFIG_NAME = "volumes"
    DEFAULT_WRITER_BATCH_SIZE = 16  # a volume is 9 MB
    DESCRIPTION = "CT of the head in acute ischaemic stroke, at baseline and follow-up, with expert readings."
    HOMEPAGE = "https://doi.org/10.1016/S0140-6736(12)60768-5"
    CITATION = _CITATION
    LICENCE = "Not public; for those to whom the trial's investigators have given the scans, on their terms."
    HOW_TO_GET_IT = (
        "The scans of IST-3 are not public: apply to the trial's investigators (University of Edinburgh), run "
        "`difffuse preprocess DICOM_DIR OUT --linkage` and give OUT as `data_dir`; `difffuse phantom DICOM_DIR "
        "--layout ist3` writes a synthetic hospital disk."
    )

    @classmethod
    def source_files(cls, root, labels=None, masks=None, **options):
        files = [root / "manifest.parquet", root / "config.json", root / "private" / "linkage.csv"]
        folders = [Path(labels).expanduser().resolve().parent] if labels else [root, root.parent]
        files += [Path(labels).expanduser().resolve()] if labels else [folder / "labels.csv" for folder in folders]
        files += [folder / "subjects.csv" for folder in folders]
        for folder in [Path(masks).expanduser()] if masks else [folder / "truth" for folder in folders]:
            files += sorted(folder.glob("*.nii*"))
        return [file for file in files if file.exists()]

    @property
    def labels_table(self) -> Path:
        return find_labels(self.root, self.config.labels)

    @property
    def subjects_table(self) -> Path:
        return self.labels_table.with_name("subjects.csv")

    @property
    def masks_folder(self) -> Path | None:
        """`masks`, or else `truth/` beside the labels of a phantom if the linkage leads to its files' names."""
        if self.config.masks:
            folder = Path(self.config.masks).expanduser().resolve()
            if not folder.is_dir():
                raise FileNotFoundError(f"{folder} is not a folder; `masks` holds a <study_uid>.nii.gz for each scan.")
            return folder
        folder = self.labels_table.with_name("truth")
        return folder if self.synthetic and folder.is_dir() and self.linkage_table.exists() else None

    @property
    def linkage_table(self) -> Path:
        return self.root / "private" / "linkage.csv"

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What `difffuse preprocess` was told; the thesis's settings (Sec. 3.4.4) where it does not say."""
        settings = self.config.data_dir and Path(self.config.data_dir, "config.json")
        if not settings or not settings.exists():
            return {"num_slices": 11, "image_size": (500, 400)}
        return json.loads(settings.read_text(encoding="utf-8"))

    @property
    def scan_shape(self) -> tuple[int, int, int]:
        """Slices, height and width of a scan."""
        height, width = self.preprocessing["image_size"]
        return self.preprocessing["num_slices"], height, width

    def processor_config(self):
        """Of slices of one pixel size: how a Dif-fuse model cuts them from a scan itself; else a classifier's."""
        pixel_mm, size = self.preprocessing.get("pixel_mm"), self.config.image_size
        if self.config.name == "slices" and pixel_mm is not None:
            shrunk = min(size[0] / self.scan_shape[1], size[1] / self.scan_shape[2], 1.0)
            return SliceRecipe(
                modalities=(CT,),
                image_size=tuple(size),
                pixel_spacing_mm=pixel_mm / shrunk,
                slice_margin=0,
                window_hu=tuple(self.preprocessing["window_hu"]),
            ).processor_config()
        if self.config.name == "slices":
            return classifier_config(size)
        num_slices, *image_size = self.scan_shape
        return classifier_config(image_size, num_slices)

    def features(self):
        config = self.config
        side, presence = datasets.ClassLabel(names=SIDES), datasets.ClassLabel(names=["healthy", "lesion"])
        if config.name == "volumes":
            features = {
                "image": datasets.Array4D((self.scan_shape[0], 1, *self.scan_shape[1:]), "float32"),  # [0, 1]
                "mask": datasets.Array3D(self.scan_shape, "uint8"),  # 1: lesion; None: not known
                "to_mni_mm": datasets.List(datasets.Value("float32"), length=12),  # (3, 4): column, row, source slice
                "source_slices": datasets.List(datasets.Value("int32")),  # of the volume before sampling
                "label": side,
                "presence": presence,
            }
        else:
            features = {
                "image": datasets.Array3D((1, *config.image_size), "float32"),  # [0, 1]
                "label": presence,
                "side": side,
                "slice": datasets.Value("int32"),
            }
            if config.with_masks:
                features["mask"] = datasets.Array2D(tuple(config.image_size), "uint8")
        features |= {
            "time": datasets.ClassLabel(names=TIMES),
            "infarct_size": datasets.Value("int32"),  # 0 (none) to 4
            "territory": datasets.Value("string"),
            **{name: datasets.Value("bool") for name in CHRONIC},
            "patient": datasets.Value("string"),  # salted hash; of the study where the patient's id is blank
            "scan_id": datasets.Value("string"),  # salted hash
            "pixel_mm": datasets.Value("float32"),
            "age": datasets.Value("float32"),  # years
        }
        return features

    def cases(self):
        scans = self._labelled_scans()
        patients = scans["patient_hash"].tolist()
        groups = self.groups(scans["patient"].tolist(), column="patient") if self.synthetic else patients
        group_of = dict(zip(patients, groups))  # whatever the table says, a patient is in one split
        return scans.to_dict("records"), [group_of[patient] for patient in patients]

    def examples(self, case):
        scan, side = case, SIDES.index(case["lesion"])
        image, scale = self._read(self.root / scan["file"]), 1.0
        if self.config.name == "slices":
            image, scale = fit_planes(image, self.config.image_size)
        row = {
            "time": scan["time"] or None,
            "infarct_size": int(scan["infarct_size"]) if scan["infarct_size"] else None,
            "territory": scan["territory"],
            **{name: scan[name] == "1" if scan[name] else None for name in CHRONIC},
            "patient": scan["patient_hash"],
            "scan_id": scan["scan_id"],
            "pixel_mm": scan["pixel_mm"] / scale,
            "age": scan["age_years"],
        }
        mask = np.zeros(self.scan_shape, np.uint8) if side == 0 else None
        if scan["mask_file"]:
            mask = self._read_mask(scan)
        if self.config.name == "slices":
            yield from self._slices(image, mask, side, row)
            return
        place = {name: scan.get(name) for name in ("to_mni_mm", "source_slices")}
        labels = {"label": side, "presence": int(side > 0)}
        yield scan["scan_id"], {"image": image[:, None], "mask": mask, **place, **labels, **row}

    def _slices(self, image, mask, side, row):
        """Key and columns of the slices (S, H, W) of a scan; its mask, where known, has the size of the scan."""
        if self.config.with_masks and mask is None:
            return  # there is a lesion, but nobody has drawn it
        for index, plane in enumerate(image):
            labels = {"label": int(side > 0), "side": side, "slice": index}
            if self.config.with_masks:
                lesion = fit_planes(mask[index, None].astype(np.float32), self.config.image_size)[0][0] >= 0.5
                if 0 < lesion.sum() < self.config.min_lesion_pixels:
                    continue
                labels |= {"mask": lesion.astype(np.uint8), "label": int(lesion.any())}
            yield f"{row['scan_id']}_{index:02d}", {"image": plane[None], **labels, **row}

    def _labelled_scans(self) -> pandas.DataFrame:
        """Rows of the manifest that are kept and have a label, with its columns; what is left out is counted aloud."""
        path = self.root / "manifest.parquet"
        if not path.exists():
            raise FileNotFoundError(f"{self.root} holds no manifest.parquet. {self.HOW_TO_GET_IT}")
        manifest = pandas.read_parquet(path)
        keep = (manifest["decision"] == "keep") & (manifest["file"] != "")  # a joined series has no file
        kept = manifest.loc[keep]
        kept = kept.astype(object).where(kept.notna(), None)
        kept["patient_hash"] = kept.pop("patient").where(lambda patient: patient != "", kept["study"])
        labels, key = read_labels(self.labels_table, self.config.columns, self.config.values, self.config.key)
        keyed = kept if key == "scan_id" else kept.merge(self._linkage(key), on="scan_id")
        scans, unused = join_labels(keyed, labels, key)
        if scans.empty:
            raise InputError(
                f"No `{key}` in {self.labels_table} is that of a kept scan in {self.root}; check the options `labels` "
                "and `key`."
            )
        unlabelled = len(kept) - len(scans)
        if unlabelled or unused:
            print(f"IST3: {unlabelled} kept scans have no label and {unused} labels no kept scan; both are left out.")
        return scans.assign(mask_file=self._mask_files(scans))

    def _mask_files(self, scans) -> list[str]:
        """The mask of each scan, by its own name or by its study's; "" where there is none."""
        scan_ids, placed = scans["scan_id"], "to_patient_mm" in scans and scans["to_patient_mm"].notna().all()
        folder = self.masks_folder if self.config.with_masks else None
        if self.config.masks and not placed:
            raise InputError(
                f"{self.root} was written by an older version and does not say where its scans lie, which `masks` "
                "needs; run `difffuse preprocess` into a new folder."
            )
        if folder is None or not placed:
            return [""] * len(scan_ids)
        files = {path.name.removesuffix(".gz").removesuffix(".nii"): str(path) for path in folder.glob("*.nii*")}
        study_of = {}
        if self.linkage_table.exists():
            linkage = read_table(self.linkage_table)
            study_of = dict(zip(linkage["scan_id"], linkage["study_uid"]))
        found = [files.get(scan_id) or files.get(study_of.get(scan_id, ""), "") for scan_id in scan_ids]
        if self.config.masks and not any(found):
            raise InputError(
                f"No mask in {folder} is named by the scan_id of a kept scan, or by its study_uid in "
                f"{self.linkage_table}; name them so, or run `difffuse preprocess` with --linkage."
            )
        return found

    def _linkage(self, key):
        if not self.linkage_table.exists():
            raise FileNotFoundError(
                f"There is no {self.linkage_table}, which leads from `{key}` to the scans; run `difffuse preprocess` "
                "with --linkage, or give a table with the column `scan_id`."
            )
        return read_table(self.linkage_table)[["scan_id", key]]

    def _read(self, path):
        """The scan as (S, H, W) float32 in [0, 1]."""
        image = np.asarray(open_nifti(path).dataobj, np.float32).transpose(2, 1, 0)
        if image.shape != self.scan_shape:
            raise InputError(
                f"{path} has {image.shape} slices, rows and columns and not {self.scan_shape}; preprocess it again."
            )
        return image

    def _read_mask(self, scan):
        """The lesion on the scan's slices, (S, H, W) uint8."""
        to_patient_mm = np.reshape(scan["to_patient_mm"], (3, 4)).astype(float)
        return resample_mask(scan["mask_file"], to_patient_mm, scan["source_slices"], self.scan_shape)


def resample_mask(
    path: str | Path, to_patient_mm: np.ndarray, source_slices: Sequence[int], shape: tuple[int, int, int]
) -> np.ndarray:
    """A NIfTI mask on the slices of a preprocessed scan, linearly interpolated and cut at 0.5.

    Args:
        path: one volume; voxels of 0.5 or more are lesion; its affine leads to the patient's mm, sheared or not.
        to_patient_mm: (3, 4) from column, row and source slice to mm (RAS), of the manifest.
        source_slices: (S,) the assembled volume's slices that were sampled.
        shape (`tuple[int, int, int]`): slices, rows and columns of the scan.

    Returns:
        (S, H, W) uint8.

    Raises:
        InputError: the file cannot be read, or nothing of its lesion lies within the scan's edges.
    """
    try:
        file = open_nifti(path)
        lesion = np.asarray(file.dataobj) >= 0.5
    except (ImageFileError, OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read as a mask; give a NIfTI volume.") from error
    if lesion.ndim != 3:
        raise InputError(f"{path} has the shape {lesion.shape}; a mask is one volume of columns, rows and slices.")
    mask = np.zeros(shape, np.uint8)
    if not lesion.any():
        return mask
    to_voxel = np.linalg.inv(np.array(file.affine)) @ np.vstack([to_patient_mm, [0, 0, 0, 1]])
    to_scan = np.linalg.inv(to_voxel)
    on_scan = np.argwhere(lesion) @ to_scan[:3, :3].T + to_scan[:3, 3]  # (voxels, 3) column, row, source slice
    edges = np.array([shape[2], shape[1], max(source_slices) + 1]) - 0.5
    if not ((on_scan > -0.5) & (on_scan < edges)).all(axis=1).any():
        raise InputError(
            f"The lesion of {path} lies outside its scan; the mask's affine must lead to the patient's millimetres, "
            "as the DICOM files give them."
        )
    reach = 1 + np.abs(to_scan[2, :3]).sum()  # of a voxel, in slices
    rows, columns = np.indices(shape[1:], np.float32)
    lesion = lesion.astype(np.float32)
    for index, source in enumerate(source_slices):
        if on_scan[:, 2].min() - reach < source < on_scan[:, 2].max() + reach:
            where = [a * columns + b * rows + (c * source + d) for a, b, c, d in to_voxel[:3]]
            mask[index] = ndimage.map_coordinates(lesion, where, order=1, mode="grid-constant") >= 0.5
    return mask
