"""The synthetic stroke patients of `difffuse phantom --layout ist3 --arrays` as a `datasets` builder.

What `difffuse prepare ist3` makes of a folder with `scans.csv` in it: no DICOM stands between the anatomy and the
pixels, and every row carries the exact mask of the infarct.
"""

from dataclasses import dataclass

import datasets
import numpy as np

from ..errors import InputError
from ..io.case import CT
from ..phantoms.ist3_arrays import COLUMNS, ROWS, ROWS_FILE, SLICES, VOXEL_MM, WINDOW_HU, read_rows
from ..preprocessing.volume import window_hounsfield
from .axial_slices import SliceRecipe
from .builder import FolderBuilder, FolderConfig, classifier_config
from .ist3_labels import SIDES, TIMES
from .planes import fit_affine, fit_planes


@dataclass
class IST3ArraysConfig(FolderConfig):
    """The size of the planes, their window, and what makes a slice diseased."""

    image_size: tuple[int, int] | None = None  # the cohort's 120 x 96; of "slices" 128 x 96, which U-Nets halve
    window_hu: tuple[float, float] = WINDOW_HU  # HU that become 0 and 1, within those of the cohort
    min_lesion_pixels: int = 10  # of "slices": one with fewer, but not none, is left out

    def __post_init__(self):
        super().__post_init__()
        self.image_size = self.image_size or (128 if self.name == "slices" else ROWS, COLUMNS)
        low, high = self.window_hu
        if not WINDOW_HU[0] <= low < high <= WINDOW_HU[1]:
            raise InputError(
                f"The arrays hold {WINDOW_HU[0]} to {WINDOW_HU[1]} HU, and `window_hu` goes from a lower to a higher "
                f"value within; got {low:g} and {high:g}."
            )


class IST3Arrays(FolderBuilder):
    """Builder with the configurations "slices" (a row per slice, its own label) and "volumes" (a row per scan).

    `image` has `window_hu` as [0, 1], (1, H, W) or, of a scan, (S, 1, H, W); slices run from inferior to superior,
    rows to posterior, columns to the patient's left. `label` of a slice says whether it shows the infarct, that of a
    scan on which side, as `IST3` has it. `place` of a scan (S, H, W) is its infarct or, without one, where one could
    be: what a map that knows no more than places would show. Where it lies `to_mni_mm` and `source_slices` say, as
    those of `IST3`; None for a cohort from before they were written. Splits are by anatomy, 70-15-15.
    """

    BUILDER_CONFIG_CLASS = IST3ArraysConfig
    BUILDER_CONFIGS = [
        IST3ArraysConfig(name="slices", version="1.1.0", description="One row per slice, exact mask."),
        IST3ArraysConfig(name="volumes", version="1.1.0", description="One row per scan, side of the infarct."),
    ]
    DEFAULT_CONFIG_NAME = "slices"
    DEFAULT_WRITER_BATCH_SIZE = 256
    DESCRIPTION = "Synthetic CT of the head in acute ischaemic stroke, at baseline and follow-up, at 2 mm."
    LICENCE = "Synthetic: made by a program over label maps, whose licence holds."
    HOW_TO_GET_IT = "`difffuse phantom OUT --layout ist3 --arrays` makes one."
    FILES = (ROWS_FILE, "image.npy", "place.npy")

    @property
    def synthetic(self):
        return True

    def processor_config(self):
        """Of slices how a Dif-fuse model cuts the like from a head CT, of scans a classifier's."""
        height, width = self.config.image_size
        if self.config.name == "volumes":
            return classifier_config((height, width), SLICES)
        return SliceRecipe(
            modalities=(CT,),
            image_size=(height, width),
            pixel_spacing_mm=VOXEL_MM / min(height / ROWS, width / COLUMNS, 1.0),
            slice_margin=0,
            window_hu=tuple(self.config.window_hu),
        ).processor_config()

    def features(self):
        size = tuple(self.config.image_size)
        side, presence = datasets.ClassLabel(names=SIDES), datasets.ClassLabel(names=["healthy", "lesion"])
        if self.config.name == "volumes":
            planes = datasets.Array3D((SLICES, *size), "uint8")
            features = {
                "image": datasets.Array4D((SLICES, 1, *size), "float32"),  # [0, 1]
                "label": side,
                "presence": presence,
                "mask": planes,
                "place": planes,
                "to_mni_mm": datasets.List(datasets.Value("float32"), length=12),  # (3, 4): column, row, source slice
                "source_slices": datasets.List(datasets.Value("int32")),
            }
        else:
            features = {
                "image": datasets.Array3D((1, *size), "float32"),  # [0, 1]
                "label": presence,
                "mask": datasets.Array2D(size, "uint8"),
                "side": side,
                "slice": datasets.Value("int32"),
            }
        return features | {
            "time": datasets.ClassLabel(names=TIMES),
            "infarct_size": datasets.Value("int32"),  # 0 (none) to 4
            "territory": datasets.Value("string"),
            "patient": datasets.Value("string"),
            "scan_id": datasets.Value("string"),
            "group": datasets.Value("string"),
        }

    def cases(self):
        rows = read_rows(self.root)
        return list(enumerate(rows)), [row["group"] for row in rows]

    def examples(self, case):
        number, row = case
        images, places = (self._array(name) for name in ("image", "place"))
        first, last = WINDOW_HU
        hounsfield = first + images[number] * np.float32((last - first) / 255)
        planes, _ = fit_planes(window_hounsfield(hounsfield, *self.config.window_hu), self.config.image_size)
        place = fit_planes(places[number].astype(np.float32), self.config.image_size)[0] >= 0.5
        side = int(row["label"])
        masks = place if side else np.zeros_like(place)
        about = {
            "time": row["time"],
            "infarct_size": int(row["infarct_size"]),
            "territory": row["territory"],
            "patient": row["patient"],
            "scan_id": row["key"],
            "group": row["group"],
        }
        if self.config.name == "volumes":
            labels = {"label": side, "presence": int(side > 0)}
            masks, place = masks.astype(np.uint8), place.astype(np.uint8)
            about |= self._where(row)
            yield f"{number:06d}", {"image": planes[:, None], "mask": masks, "place": place, **labels, **about}
            return
        for index, (plane, mask) in enumerate(zip(planes, masks)):
            if 0 < mask.sum() < self.config.min_lesion_pixels:
                continue
            labels = {"label": int(mask.any()), "side": side, "slice": index}
            yield f"{number:06d}_{index:02d}", {"image": plane[None], "mask": mask.astype(np.uint8), **labels, **about}

    def _where(self, row):
        """Where a scan lies, on the pixels of `image_size`."""
        if not row.get("to_mni_mm"):
            return {"to_mni_mm": None, "source_slices": None}
        to_mni = np.array(row["to_mni_mm"].split(), float).reshape(3, 4)
        return {
            "to_mni_mm": fit_affine(to_mni, (ROWS, COLUMNS), self.config.image_size).ravel().tolist(),
            "source_slices": [int(one) for one in row["source_slices"].split()],
        }

    def _array(self, name):
        """An array of the cohort, on disk; `datasets` puts a numpy.load of its own, which cannot map, in our way."""
        return np.lib.format.open_memmap(self.root / f"{name}.npy", mode="r")
