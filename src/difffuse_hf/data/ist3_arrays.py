"""The synthetic stroke patients of `difffuse phantom --layout ist3 --arrays` as a `datasets` builder of slices.

What `difffuse prepare ist3` makes of a folder with `scans.csv` in it: no DICOM stands between the anatomy and the
slice, and every slice carries the exact mask of the infarct.
"""

from dataclasses import dataclass

import datasets
import numpy as np

from ..errors import InputError
from ..io.case import CT
from ..phantoms.ist3_arrays import ROWS_FILE, VOXEL_MM, WINDOW_HU, read_rows
from ..preprocessing.volume import window_hounsfield
from .axial_slices import SliceRecipe
from .builder import FolderBuilder, FolderConfig
from .ist3 import fit_planes
from .ist3_labels import SIDES, TIMES


@dataclass
class IST3ArraysConfig(FolderConfig):
    """The slices' size, their window, and what makes one diseased."""

    image_size: tuple[int, int] = (128, 96)  # the cohort's 120 x 96 pixels of 2 mm, padded to what U-Nets halve
    window_hu: tuple[float, float] = WINDOW_HU  # HU that become 0 and 1, within those of the cohort
    min_lesion_pixels: int = 10  # a slice with fewer, but not none, is left out

    def __post_init__(self):
        super().__post_init__()
        low, high = self.window_hu
        if not WINDOW_HU[0] <= low < high <= WINDOW_HU[1]:
            raise InputError(
                f"The arrays hold {WINDOW_HU[0]} to {WINDOW_HU[1]} HU, and `window_hu` goes from a lower to a higher "
                f"value within; got {low:g} and {high:g}."
            )


class IST3Arrays(FolderBuilder):
    """Builder with the one configuration "slices": a row per slice, its own label, and the exact mask.

    `image` (1, H, W) has `window_hu` as [0, 1]; slices run from inferior to superior, rows to posterior, columns to
    the patient's left. `label` says whether the slice shows the infarct, `side` and `infarct_size` are of the scan.
    Splits are by anatomy, 70-15-15.
    """

    BUILDER_CONFIG_CLASS = IST3ArraysConfig
    BUILDER_CONFIGS = [IST3ArraysConfig(name="slices", version="1.1.0", description="One row per slice, exact mask.")]
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
        """How a Dif-fuse model cuts the like from a head CT."""
        rows, columns = self._array("image").shape[2:]
        height, width = self.config.image_size
        return SliceRecipe(
            modalities=(CT,),
            image_size=(height, width),
            pixel_spacing_mm=VOXEL_MM / min(height / rows, width / columns, 1.0),
            slice_margin=0,
            window_hu=tuple(self.config.window_hu),
        ).processor_config()

    def features(self):
        size = tuple(self.config.image_size)
        return {
            "image": datasets.Array3D((1, *size), "float32"),  # [0, 1]
            "label": datasets.ClassLabel(names=["healthy", "lesion"]),
            "mask": datasets.Array2D(size, "uint8"),
            "side": datasets.ClassLabel(names=SIDES),
            "slice": datasets.Value("int32"),
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
        side = int(row["label"])
        shown = places[number] if side else np.zeros_like(places[number])
        masks = fit_planes(shown.astype(np.float32), self.config.image_size)[0] >= 0.5
        for index, (plane, mask) in enumerate(zip(planes, masks)):
            if 0 < mask.sum() < self.config.min_lesion_pixels:
                continue
            yield (
                f"{number:06d}_{index:02d}",
                {
                    "image": plane[None],
                    "label": int(mask.any()),
                    "mask": mask.astype(np.uint8),
                    "side": side,
                    "slice": index,
                    "time": row["time"],
                    "infarct_size": int(row["infarct_size"]),
                    "territory": row["territory"],
                    "patient": row["patient"],
                    "scan_id": row["key"],
                    "group": row["group"],
                },
            )

    def _array(self, name):
        """An array of the cohort, on disk; `datasets` puts a numpy.load of its own, which cannot map, in our way."""
        return np.lib.format.open_memmap(self.root / f"{name}.npy", mode="r")
