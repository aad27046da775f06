"""Values of DICOM elements as plain Python ones; None or "" where a header does not say, or says nonsense."""

import math
import sys

from pydicom.dataset import Dataset
from pydicom.valuerep import PersonName


def values_of(dataset: Dataset, name: str) -> list:
    value = dataset.get(name)
    if value is None or value == "":
        return []
    return [value] if isinstance(value, (str, int, float, PersonName)) else list(value)


def text_of(dataset: Dataset, name: str) -> str:
    """One string, several values joined by a backslash; shared between slices, since most repeat."""
    return sys.intern("\\".join(str(value).strip(" \0") for value in values_of(dataset, name)))


def numbers_of(dataset: Dataset, name: str, count: int) -> tuple[float, ...] | None:
    try:
        numbers = tuple(float(value) for value in values_of(dataset, name))
    except (ValueError, OverflowError):  # text or infinity where a number belongs
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def number_of(dataset: Dataset, name: str) -> float | None:
    """The first value: windows are often given in pairs."""
    try:
        number = float(values_of(dataset, name)[0])
    except (IndexError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def whole_of(dataset: Dataset, name: str) -> int | None:
    number = number_of(dataset, name)
    return None if number is None else int(number)


def orientation_of(dataset: Dataset) -> tuple[float, ...] | None:
    """Six cosines; None unless they are two unit vectors at a right angle."""
    cosines = numbers_of(dataset, "ImageOrientationPatient", 6)
    if cosines is None:
        return None
    row, column = cosines[:3], cosines[3:]
    lengths = [math.hypot(*row), math.hypot(*column), 1 + abs(sum(a * b for a, b in zip(row, column)))]
    return cosines if all(abs(length - 1) < 0.01 for length in lengths) else None


def spacing_of(dataset: Dataset) -> tuple[float, float] | None:
    """Between rows and between columns, in mm; None unless both are positive."""
    spacing = numbers_of(dataset, "PixelSpacing", 2)
    return None if spacing is None or min(spacing) <= 0 else (spacing[0], spacing[1])
