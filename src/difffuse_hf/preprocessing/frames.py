"""The frames of a multi-frame file (Enhanced CT and its legacy conversion), from its functional groups.

A group that holds for all frames is in the shared sequence, else each frame has its own (DICOM PS3.3, C.7.6.16).
"""

from collections.abc import Iterator
from typing import NamedTuple

from pydicom.dataset import Dataset

from .values import number_of, numbers_of, orientation_of, spacing_of, text_of, values_of, whole_of


class Frame(NamedTuple):
    """What may differ between the frames of a file; None or "" where the file does not say."""

    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing_mm: tuple[float, float] | None
    thickness_mm: float | None
    slope: float | None
    intercept: float | None
    kernel: str
    acquisition: int | None  # the point in time if there are several, else the number of the acquisition
    tilt_tag_deg: float | None


def frames_of_dataset(dataset: Dataset) -> tuple[Frame, ...]:
    """One for each frame, in the order of the file; none where the file has no functional groups."""
    own = values_of(dataset, "PerFrameFunctionalGroupsSequence")
    shared = (values_of(dataset, "SharedFunctionalGroupsSequence") or [Dataset()])[0]
    times = [whole_of(_group(one, shared, "FrameContentSequence"), "TemporalPositionIndex") for one in own]
    return tuple(_frames(own, shared, times if len(set(times)) > 1 else None))


def _frames(own: list[Dataset], shared: Dataset, times: list[int | None] | None) -> Iterator[Frame]:
    for number, one in enumerate(own):
        measures, values = (
            _group(one, shared, name) for name in ("PixelMeasuresSequence", "PixelValueTransformationSequence")
        )
        content = _group(one, shared, "FrameContentSequence")
        yield Frame(
            position=numbers_of(_group(one, shared, "PlanePositionSequence"), "ImagePositionPatient", 3),
            orientation=orientation_of(_group(one, shared, "PlaneOrientationSequence")),
            pixel_spacing_mm=spacing_of(measures),
            thickness_mm=number_of(measures, "SliceThickness"),
            slope=number_of(values, "RescaleSlope"),
            intercept=number_of(values, "RescaleIntercept"),
            kernel=text_of(_group(one, shared, "CTReconstructionSequence"), "ConvolutionKernel"),
            acquisition=times[number] if times else whole_of(content, "FrameAcquisitionNumber"),
            tilt_tag_deg=number_of(_group(one, shared, "CTAcquisitionDetailsSequence"), "GantryDetectorTilt"),
        )


def _group(frame: Dataset, shared: Dataset, name: str) -> Dataset:
    return next((values[0] for source in (frame, shared) if (values := values_of(source, name))), Dataset())
