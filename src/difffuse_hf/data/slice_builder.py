"""What the MRI builders share: a case becomes axial slices with a mask and an image-level label (thesis Sec. 6.5)."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import datasets
import numpy as np

from .axial_slices import SliceRecipe, cut_labels
from .builder import FolderBuilder, FolderConfig


@dataclass(frozen=True)
class LabelledScan:
    """A case as it is cut: skull-stripped `volumes` (C, X, Y, Z), `affine`, `lesion` (X, Y, Z) bool, and `other`, None
    or where there is something that is neither lesion nor healthy."""

    volumes: np.ndarray
    affine: np.ndarray
    lesion: np.ndarray
    other: np.ndarray | None = None


@dataclass
class SliceConfig(FolderConfig):
    """Options of the MRI builders; the slice fields are those of `SliceRecipe`."""

    modalities: tuple[str, ...] = SliceRecipe.modalities
    image_size: tuple[int, ...] = SliceRecipe.image_size
    pixel_spacing_mm: float = SliceRecipe.pixel_spacing_mm
    reference_intensity: float = SliceRecipe.reference_intensity
    slice_margin: int = SliceRecipe.slice_margin
    min_foreground: float = SliceRecipe.min_foreground
    min_lesion_pixels: int = 10  # a slice is "lesion" from here on; one with fewer, but not none, is left out

    @property
    def recipe(self) -> SliceRecipe:
        """How slices are cut, which a model trained on them must be saved with."""
        known = [field.name for field in fields(SliceRecipe) if hasattr(self, field.name)]  # no window, on MRI
        return SliceRecipe(**{name: getattr(self, name) for name in known})


class SliceBuilder(FolderBuilder):
    """A builder with the configurations "volumes" (NIfTI files) and "slices" (model images, labels, masks)."""

    BUILDER_CONFIG_CLASS = SliceConfig
    DEFAULT_CONFIG_NAME = "slices"
    DEFAULT_WRITER_BATCH_SIZE = 64  # slices are large

    def processor_config(self) -> dict[str, Any] | None:
        return self.config.recipe.processor_config() if self.config.name == "slices" else None

    def slice_features(self, *masks: str) -> dict[str, Any]:
        """The columns of `slices`; every one of `masks` is an image of zeros and ones."""
        height, width = self.config.image_size
        return {
            "image": datasets.Array3D((len(self.config.modalities), height, width), "float32"),  # [0, 1]
            "label": datasets.ClassLabel(names=["healthy", "lesion"]),
            **{name: datasets.Array2D((height, width), "uint8") for name in masks},
            "lesion_area": datasets.Value("float32"),  # fraction of the brain in the slice
        }

    def subject_of(self, case: Any) -> str:
        """What the column `subject` says of a case."""
        raise NotImplementedError

    def read(self, case: Any) -> LabelledScan:
        """A case of the configuration "slices"."""
        raise NotImplementedError

    def slices(self, scan: LabelledScan) -> Iterator[tuple[int, dict[str, Any]]]:
        """Index, from inferior to superior, and columns of every slice that is healthy or lesion beyond doubt.

        A slice that shows `other` and no lesion is left out, and the column `ignore` says where it is in the others.
        """
        recipe = self.config.recipe
        images, geometry = recipe.cut(scan.volumes, scan.affine)
        masks = cut_labels(scan.lesion, geometry)
        ignored = None if scan.other is None else cut_labels(scan.other, geometry)
        for index in recipe.usable(images).tolist():
            pixels = int(masks[index].sum())
            other = ignored is not None and bool(ignored[index].any())
            if 0 < pixels < self.config.min_lesion_pixels or (pixels == 0 and other):
                continue
            brain_pixels = int((images[index] > 0).any(dim=0).sum())
            row = {
                "image": images[index].numpy(),
                "label": int(pixels > 0),
                "mask": masks[index].numpy(),
                "lesion_area": np.float32(pixels / brain_pixels),
                "slice": index,
            }
            yield index, row if ignored is None else row | {"ignore": ignored[index].numpy()}
