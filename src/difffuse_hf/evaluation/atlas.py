"""Arterial territories on a scan: an atlas in MNI space, carried along by the affine fit of the template (Ch. 5).

A reader names the territory of an infarct, not its outline, so a territory is what a saliency map can be held against
in real scans (thesis, pointing game). `difffuse preprocess` writes where MNI space lies in each scan.

The JHU arterial atlas (Liu et al. 2023, https://doi.org/10.1038/s41597-022-01923-0) comes with rapidtide (Apache-2.0),
whose other requirements do not fit ours (an older torch, a desktop toolkit); its files alone do:

    pip install --no-deps rapidtide

Any other label map in MNI space with a table of names is given as a path.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas
from nibabel.filebasedimages import ImageFileError
from scipy import ndimage

from ..errors import InputError
from ..io.nifti import open_nifti

JHU = "JHU-ArterialTerritoriesNoVent-LVL{level}_space-MNI152NLin6Asym_2mm.nii.gz"
# Readers' words, and the JHU names (level 2, then level 1) without the letter of the side. Level 2 does not tell
# lacunar infarcts from the middle cerebral artery's others, and no artery is that of a border zone.
_JHU_NAMES = {
    "aca": ("ACA", "MLS"),
    "mca": ("MCA", "MCAF", "MCAP", "MCAT", "MCAO", "MCAI", "LLS"),
    "pca": ("PCA", "PCAT", "PCAO", "PCTP", "ACTP"),
    "cerebellar": ("VB", "B", "SC", "IC"),
    "vertebrobasilar": ("VB", "B", "SC", "IC"),
    "brainstem": ("VB", "B"),
    "lacunar": ("LLS", "MLS"),
}


@dataclass(frozen=True, eq=False)
class Atlas:
    """Regions of a brain in MNI space.

    `labels` (X, Y, Z) int, 0 where there is no region; `affine` (4, 4) from voxels to MNI mm (RAS); `names` of labels.
    """

    labels: np.ndarray
    affine: np.ndarray
    names: dict[int, str]

    def labels_of(self, territory: str) -> list[int]:
        """Labels of the territories that a reader named, such as "MCA left; PCA left"; none if the atlas has none.

        A part is the name of a region, or an artery and a side, left, right or (by default) both. What follows the
        artery's name ("MCA superior left") is finer than the atlas is asked.
        """
        found = set()
        for part in filter(None, (part.strip().lower() for part in territory.split(";"))):
            exact = [label for label, name in self.names.items() if name.lower() == part]
            words = part.split()
            sides = {"left": "L", "right": "R"}.get(words[-1], "LR")
            stems = _JHU_NAMES.get(words[0], ())
            found.update(exact or [i for i, name in self.names.items() if name[:-1] in stems and name[-1] in sides])
        return sorted(found)


@lru_cache(maxsize=4)
def load_atlas(path: str | Path | None = None, names: str | Path | None = None, level: int = 2) -> Atlas:
    """An atlas from a NIfTI label map in MNI space; by default the JHU arterial territories that rapidtide ships.

    Args:
        path: one volume of whole numbers.
        names: CSV or TSV with the columns `label` and `name`, or a text file whose line i names label i. By default
            the file `<part of the map's name before "_space">_regions.txt` beside it, as rapidtide has them.
        level: of the JHU atlas: 2 (4 arteries on either side) or 1 (15 on either side).

    Raises:
        InputError: rapidtide or a file is missing, or a label has no name.
    """
    path = _rapidtide_folder() / JHU.format(level=level) if path is None else Path(path)
    if names is None:
        names = path.with_name(path.name.removesuffix(".gz").removesuffix(".nii").split("_space")[0] + "_regions.txt")
    try:
        image = open_nifti(path)
        labels = np.rint(np.asarray(image.dataobj)).astype(np.int16)
    except (ImageFileError, OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read as an atlas; give a NIfTI volume of labels in MNI space.") from error
    if labels.ndim != 3:
        raise InputError(f"{path} has the shape {labels.shape}; an atlas is one volume of labels.")
    named = _read_names(Path(names))
    nameless = sorted(set(np.unique(labels).tolist()) - set(named) - {0})
    if nameless:
        raise InputError(f"{names} has no name for label {nameless[0]} of {path}; give the table of this atlas.")
    return Atlas(labels, np.array(image.affine), named)


def regions_of_scan(row: Mapping, atlas: Atlas) -> np.ndarray:
    """The label of every pixel of a preprocessed scan, that of the nearest voxel of the atlas.

    Args:
        row: of a data set of IST-3 "volumes": `pixel_values` or `image` (S, 1, H, W) for the shape, `source_slices`
            (S,) and `to_mni_mm` (12,), which `difffuse preprocess` wrote into the manifest.
        atlas (`Atlas`): see `load_atlas`.

    Returns:
        (S, H, W) int16, 0 outside all regions.

    Raises:
        InputError: the row does not say where MNI space lies.
    """
    if row.get("to_mni_mm") is None or row.get("source_slices") is None:
        raise InputError(
            "This scan does not say where MNI space lies (`to_mni_mm`, `source_slices`); preprocess it and prepare "
            "the data set again."
        )
    image = row["pixel_values"] if "pixel_values" in row else row["image"]
    height, width = np.shape(image)[-2:]
    to_mni = np.vstack([np.reshape(np.asarray(row["to_mni_mm"], float), (3, 4)), [0, 0, 0, 1]])
    to_voxel = np.linalg.inv(atlas.affine) @ to_mni
    rows, columns = np.indices((height, width), np.float32)
    regions = np.zeros((len(row["source_slices"]), height, width), np.int16)
    for plane, source in zip(regions, np.asarray(row["source_slices"])):
        where = [a * columns + b * rows + (c * source + d) for a, b, c, d in to_voxel[:3]]
        ndimage.map_coordinates(atlas.labels, where, output=plane, order=0, mode="constant", cval=0)
    return regions


def cerebral_territories(territory: str) -> str:
    """What is left of a reader's `territory` when only the anterior, middle and posterior cerebral artery count: with
    their sides the six territories of Sec. 5.6.5."""
    parts = [part.strip() for part in (territory or "").split(";")]
    return ";".join(part for part in parts if part.lower().split()[:1] in (["aca"], ["mca"], ["pca"]))


def territory_mask(regions: np.ndarray, atlas: Atlas, territory: str) -> np.ndarray | None:
    """Pixels (S, H, W) of the regions that a reader's `territory` names; None if it names none of them."""
    labels = atlas.labels_of(territory or "")
    return np.isin(regions, labels) if labels else None


def _rapidtide_folder() -> Path:
    package = find_spec("rapidtide")  # found, not imported: its own requirements may be missing
    if package is None or not package.submodule_search_locations:
        raise InputError(
            "The arterial atlas is missing: pip install --no-deps rapidtide, or give the path of a NIfTI label map in "
            "MNI space."
        )
    return Path(package.submodule_search_locations[0], "data", "reference")


def _read_names(path: Path) -> dict[int, str]:
    try:
        if path.suffix in (".csv", ".tsv"):
            table = pandas.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",")
            return dict(zip(table["label"].astype(int).tolist(), table["name"].astype(str).tolist()))
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        return dict(enumerate(filter(None, lines), start=1))
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            f"{path} is no table of an atlas's names; give a CSV with the columns label and name, or a text file "
            "whose line i names label i."
        ) from error
