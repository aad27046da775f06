"""A case as a hospital has it becomes one that a model takes: modalities on one grid, and only the brain.

    files -> one grid (rigid registration, where the headers or the outlines say that they do not lie on one)
          -> the brain (extracted on the T1, where a skull is seen)

Both can be switched off; what was done is among the notes of the case. The files themselves are never changed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module

import numpy as np
from scipy import ndimage

from ..errors import InputError
from ..io.case import Case, make_case, read_files
from ..io.layouts import Source, find_case
from ..io.nifti import check_same_grid, same_grid
from ..io.volume_file import VolumeFile
from .skull import skull_in

MIN_SHARED_OUTLINE = 0.96  # Dice of what is not 0 in two volumes on one grid; below, the head may have moved
NEGLIGIBLE_MM = 2.0  # a registration that moves no corner of the grid further says that it has not
BRAIN_IN = ("t1", "t1ce")  # on which the brain is found, the first that there is


@dataclass
class Preparation:
    """What was done to a case: `notes`, a sentence each, and `pictures` of it, (H, W, 3) uint8 by a name."""

    notes: list[str] = field(default_factory=list)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)


def prepare_case(
    source: Source,
    modalities: Sequence[str],
    register: bool = True,
    brain_extraction: bool = True,
    optional: Sequence[str] = (),
) -> tuple[Case, dict[str, np.ndarray]]:
    """Read a case, register its modalities where they need it, and take its skull off where it has one.

    Args:
        source, modalities, optional: as in `read_case`.
        register: bring modalities onto one grid; without it they must lie on one.
        brain_extraction: extract the brain of a head with its skull; without it, such a head is left as it is (and
            refused where its slices are cut).

    Returns:
        the case, whose notes say what was done, and a picture (H, W, 3) uint8 of each step, by its name.

    Raises:
        InputError: the case cannot be used; names the file, or what did not work.
    """
    found = find_case(source, modalities, optional)
    volumes, reference = read_files(found)
    done = Preparation()
    if register:
        volumes = on_one_grid(volumes, reference, done)
    first = next(iter(volumes.values()))
    for volume in volumes.values():
        check_same_grid(volume, first)
    if brain_extraction:
        volumes = brain_only(volumes, done)
    return make_case(found, volumes, reference, done.notes), done.pictures


def on_one_grid(
    volumes: Mapping[str, VolumeFile], reference: VolumeFile | None, done: Preparation
) -> dict[str, VolumeFile]:
    """All volumes on the grid that most of them and the reference share, the finest of those that tie.

    A volume on that grid whose outline is not that of the others is registered, too, and left as it is where that
    does not move it.
    """
    others = [*volumes.values(), *([reference] if reference is not None else [])]

    def fitness(modality):
        volume = volumes[modality]
        company = [other for other in others if same_grid(other, volume)]
        alike = np.mean([_shared_outline(volume, other) for other in company if other is not reference])
        return len(company), round(float(alike), 2), -abs(np.linalg.det(volume.affine[:3, :3]))

    target = max(volumes, key=fitness)  # the first of those that tie
    fixed, placed = volumes[target], dict(volumes)
    for modality, volume in volumes.items():
        apart = not same_grid(volume, fixed)
        if not apart and _shared_outline(volume, fixed) >= MIN_SHARED_OUTLINE:
            continue
        align = _needs_simpleitk(f"{volume.file} and {fixed.file} do not lie on each other")
        result = align(volume, fixed)
        if not apart and result.largest_move_mm < NEGLIGIBLE_MM:
            continue
        placed[modality] = result.volume
        done.pictures[f"registration_{modality}"] = result.picture
        done.notes.append(
            f"{modality}: it {'lay on another grid' if apart else 'had moved'} and was registered to {target}, by "
            f"{result.shift_mm:.1f} mm and {result.turn_deg:.1f} degrees; afterwards the two share "
            f"{result.overlap:.0%} of their foreground."
        )
    return placed


def brain_only(volumes: Mapping[str, VolumeFile], done: Preparation) -> dict[str, VolumeFile]:
    """The volumes without what is not brain, where a skull is seen in one of them; else as they are.

    Raises:
        InputError: there is no T1 on which the brain could be found, or what was found there is none.
    """
    skulls = {modality: skull_in(volume.voxels.clip(0), volume.affine) for modality, volume in volumes.items()}
    seen = [modality for modality, why in skulls.items() if why is not None]
    if not seen:
        return dict(volumes)
    t1 = next((modality for modality in BRAIN_IN if modality in volumes), None)
    if t1 is None:
        raise InputError(
            f"The scan is not skull-stripped: on {seen[0]}, {skulls[seen[0]]}; the brain is found on a T1, and there "
            "is none, so remove everything else first, for example with HD-BET or SynthStrip."
        )
    if t1 in seen:
        extract = _needs_simpleitk(f"{volumes[t1].file} is not skull-stripped", of="mri", name="extract_brain")
        brain = extract(volumes[t1].voxels, volumes[t1].affine)
        how = f"the brain was extracted on {t1} with a registered template"
    else:
        brain = np.asarray(ndimage.binary_fill_holes(volumes[t1].voxels > 0))
        how = f"the outline of {t1}, which is skull-stripped, was taken"
    volume_ml = brain.sum() * abs(np.linalg.det(volumes[t1].affine[:3, :3])) / 1000
    done.notes.append(f"The scan has its skull ({', '.join(seen)}); {how} ({volume_ml:.0f} ml): check its outline.")
    done.pictures["brain"] = _outlined(volumes[t1], brain)
    return {modality: replace(volume, voxels=volume.voxels * brain) for modality, volume in volumes.items()}


def _shared_outline(one: VolumeFile, other: VolumeFile) -> float:
    """Dice of what is not 0 in two volumes on one grid."""
    inside, there = one.voxels > 0, other.voxels > 0
    return 2 * np.count_nonzero(inside & there) / (np.count_nonzero(inside) + np.count_nonzero(there))


def _needs_simpleitk(why: str, of: str = "align", name: str = "align") -> Callable:
    """A function of a neighbouring module that needs SimpleITK, which not every installation has."""
    try:
        return getattr(import_module(f".{of}", __package__), name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{why}, and {error.name}, which would mend that, is missing; install it: "
            "pip install 'difffuse_hf[preprocess]'."
        ) from error


def _outlined(volume: VolumeFile, mask: np.ndarray) -> np.ndarray:
    """Three slices across the first two axes with the outline of a mask in red, side by side; (H, W, 3) uint8."""
    filled = np.flatnonzero(mask.any(axis=(0, 1)))
    white = max(float(np.percentile(volume.voxels[mask], 99)), 1e-12)
    tiles = []
    for at in np.quantile(filled, (0.3, 0.5, 0.7)).astype(int):
        grey = np.clip(volume.voxels[:, :, at] / white, 0, 1)
        edge = mask[:, :, at] ^ ndimage.binary_erosion(mask[:, :, at])
        tile = np.where(edge[..., None], (1, 0.1, 0.1), grey[..., None])
        tiles.append(tile.transpose(1, 0, 2))
    return (255 * np.concatenate(tiles, axis=1)).astype(np.uint8)
