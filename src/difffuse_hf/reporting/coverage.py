"""What detection did not look at: how many slices of a scan were repainted, why the others were not, what lies there.

A slice is *usable* if the model is meant for it, *flagged* if the classifier finds it suspicious, and *repainted* if
it is flagged, beside one that is (as far as the model's `ScanRule` says), or usable with `all_slices`. The anomaly map
is empty in all slices that were not repainted, whatever is in them.
"""

from dataclasses import dataclass

import nibabel
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import io_orientation

from ..data.axial_slices import slices_in_margin
from ..data.slice_settings import HEAD
from ..detection.result import DetectionResult

NOTHING_FLAGGED = (
    "No slice was found suspicious: nothing was repainted, so the map is empty; "
    "this does not show that there is no lesion."
)
BELOW_THRESHOLD, OUTSIDE_MARGIN, TOO_LITTLE = "below_threshold", "outside_margin", "too_little_tissue"


@dataclass(frozen=True)
class LeftOut:
    """Slices that were not repainted, for one reason."""

    reason: str  # as `summary.json` names it
    why: str  # the same in words
    slices: list[int]
    reference_ml: float | None  # of the reference lesion, in these slices; None without a reference


@dataclass(frozen=True)
class Coverage:
    """How far detection looked at a scan of S axial slices, counted from the feet up."""

    usable: np.ndarray  # (S,) bool, as the next two
    flagged: np.ndarray
    repainted: np.ndarray
    threshold: float  # of the lesion probability
    left_out: list[LeftOut]
    reference_ml: float | None  # the whole reference lesion; None without a reference
    uncounted_ml: float = 0.0  # that reaches the anomaly threshold in pieces that the saliency does not point at

    @property
    def missed_ml(self) -> float | None:
        """How much of the reference lesion lies in slices that were not repainted."""
        return None if self.reference_ml is None else sum(one.reference_ml or 0.0 for one in self.left_out)

    @property
    def missed_share(self) -> float | None:
        """The same as a share of the reference lesion; None if it is empty."""
        return self.missed_ml / self.reference_ml if self.reference_ml and self.missed_ml is not None else None

    def in_words(self) -> list[str]:
        """The sentences of the report."""
        usable, flagged, repainted = (int(mask.sum()) for mask in (self.usable, self.flagged, self.repainted))
        if repainted == 0:
            sentences = [NOTHING_FLAGGED]
        elif flagged == 0:
            sentences = ["No slice was found suspicious; all that were usable were repainted, as asked for."]
        else:
            sentences = []
        counts = f"{len(self.usable)} axial slices: {usable} usable, {flagged} flagged by the classifier, "
        counts += f"{repainted} repainted."
        if self.left_out:
            counts += " Not repainted: " + "; ".join(f"{len(one.slices)} {one.why}" for one in self.left_out) + "."
        sentences.append(counts)
        if self.missed_ml and self.missed_share:
            ml = f"{self.missed_ml:.1f}" if self.missed_ml >= 1 else f"{self.missed_ml:.2g}"
            share = f"{100 * self.missed_share:.3g} %"
            sentences.append(f"{ml} ml of the reference lesion ({share}) lie in slices that were not repainted.")
        elif self.reference_ml:
            sentences.append("All of the reference lesion lies in slices that were repainted.")
        if self.uncounted_ml:
            ml = f"{self.uncounted_ml:.1f}" if self.uncounted_ml >= 1 else f"{self.uncounted_ml:.2g}"
            why = "they do not stand out where the saliency points."
            sentences.append(f"{ml} ml more reach the anomaly threshold and are not counted: {why}")
        return sentences


def coverage_of(result: DetectionResult) -> Coverage:
    """Count the slices of a scan, and the reference lesion in those that were not repainted."""
    parameters, probability = result.parameters, np.asarray(result.lesion_probability)
    index = np.arange(len(probability))
    usable = np.isin(index, result.slices.indices.numpy())
    repainted = np.isin(index, parameters["repainted_slices"])
    margin = slices_in_margin(parameters["slice_margin"], len(index))
    inside = (index >= margin) & (index < len(index) - margin)
    threshold, least = parameters["lesion_probability_threshold"], parameters["min_foreground"]
    what = "brain" if parameters.get("window_hu") is None else parameters.get("body_part", HEAD)
    little = f"with too little {what} (less than {100 * least:.3g} % of the picture)" if least else f"without {what}"
    reasons = {
        BELOW_THRESHOLD: (usable, f"below the model's lesion-probability threshold of {threshold:.3g}"),
        OUTSIDE_MARGIN: (~usable & ~inside, f"outside the slice margin (the first and the last {margin})"),
        TOO_LITTLE: (~usable & inside, little),
    }
    reference = result.case.reference
    volumes_ml = None if reference is None else voxels_by_slice(reference, result.case.affine) * result.case.voxel_ml
    left_out = [
        LeftOut(
            reason,
            why,
            np.flatnonzero(slices & ~repainted).tolist(),
            None if volumes_ml is None else float(volumes_ml[slices & ~repainted].sum()),
        )
        for reason, (slices, why) in reasons.items()
        if (slices & ~repainted).any()
    ]
    return Coverage(
        usable=usable,
        flagged=usable & (probability >= threshold),
        repainted=repainted,
        threshold=threshold,
        left_out=left_out,
        reference_ml=None if volumes_ml is None else float(volumes_ml.sum()),
        uncounted_ml=parameters.get("uncounted_ml", 0.0),
    )


def voxels_by_slice(labels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """How many voxels of a label volume (X, Y, Z) are above 0 in each axial slice (S,), inferior to superior."""
    image = nibabel.as_closest_canonical(nibabel.Nifti1Image((labels > 0).astype(np.uint8), affine))
    return np.asarray(image.dataobj).sum((0, 1), dtype=np.int64)


def areas_of(result: DetectionResult) -> tuple[np.ndarray, np.ndarray | None]:
    """Detected and reference lesion area of each axial slice, cm², in canonical order (inferior to superior)."""
    reference, affine = result.case.reference, result.case.affine
    return _areas_cm2(result.lesion, affine), None if reference is None else _areas_cm2(reference, affine)


def _areas_cm2(labels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    sizes_mm = voxel_sizes(affine)[np.argsort(io_orientation(affine)[:, 0])]  # to the right, anterior, superior
    return voxels_by_slice(labels, affine) * sizes_mm[:2].prod() / 100


def why_not_repainted(probability: float, threshold: float) -> str:
    """The reason of one usable slice, with as many digits as it takes to tell the two numbers apart."""
    digits = next((n for n in range(2, 6) if f"{probability:.{n}f}" != f"{threshold:.{n}f}"), 6)
    return (
        f"Not repainted: lesion probability {probability:.{digits}f}, "
        f"below the model's threshold of {threshold:.{digits}f}."
    )
