"""Headers without what names a patient, of which every decision is the same: what a run may keep of the files it read.

Identifiers become pseudonyms (`identity.py`), dates and times are shifted, and of free text stay the words that the
rules look for.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from pydicom.uid import UID

from .dicom import LOCALISER
from .headers import SliceHeader
from .identity import pseudonym, secret_shift, told_age
from .kernel import kernel_name, tells_of_bone, vendor
from .rules import NOT_PICTURES_OF_A_HEAD

TIME_BYTES = 17  # of a concealed AcquisitionTime, written in hexadecimal digits
_PRIVATE = "2.25.0"  # stands for all transfer syntaxes that are not the standard's
_LONGEST_TIME = 16  # characters: "HHMMSS.ffffff", or "HH:MM:SS.ffffff" in old files


def conceal(header: SliceHeader, salt: bytes) -> SliceHeader:
    """The same slice for `group_series`, `merge_split`, `header_exclusion` and `assemble`, fit to be kept.

    The file's path and number, which point to the patient as well, are left to the caller.
    """
    hide = partial(pseudonym, salt=salt)
    day, (known_class, rest) = header.study_day, _split_class(header.sop_class_uid)
    kernels = [_conceal_kernel(one.kernel, hide) for one in header.frames]
    return replace(
        header,
        transfer_syntax=_PRIVATE if UID(header.transfer_syntax).is_private else header.transfer_syntax,
        sop_class_uid=known_class + hide(rest),
        sop_instance_uid=hide(header.sop_instance_uid),
        series_uid=hide(header.series_uid),
        study_uid=hide(header.study_uid),
        frame_of_reference_uid=hide(header.frame_of_reference_uid),
        patient_id=hide(header.patient_id),
        owner=hide(header.owner),
        session=hide(header.session),
        age_years=told_age(header.age_years),
        study_date="",
        study_day=None if day is None else day + secret_shift(header.patient_id, salt, 4),
        modality="CT" if header.modality == "CT" else "",
        manufacturer=vendor(header.manufacturer),
        image_type=tuple(word for value in header.image_type for word in _known_words(value)),
        kernel=_conceal_kernel(header.kernel, hide),
        description="BONE" if tells_of_bone(header.description) else "",
        acquisition_time=_conceal_time(header, salt),
        photometric="".join(re.findall("^(?:MONOCHROME(?:[12]$)?|RGB$)", header.photometric)),
        series_key=hide(header.series_key),
        frame_key=hide(header.frame_key),
        frames=tuple(one._replace(kernel=kernel) for one, kernel in zip(header.frames, kernels)),
    )


def _conceal_kernel(kernel: str, hide: Callable[[str], str]) -> str:
    name = kernel_name(kernel)
    return f"{name}\\{hide(kernel)}" if name else hide(kernel)


def _split_class(uid: str) -> tuple[str, str]:
    """What the standard numbers, and what follows it."""
    standard = re.match(r"(1\.2\.840\.10008[0-9.]*)?", uid)
    end = standard.end() if standard else 0
    return uid[:end], uid[end:]


def _known_words(image_type: str) -> list[str]:
    return [image_type] if image_type in NOT_PICTURES_OF_A_HEAD else re.findall(LOCALISER, image_type)


def _conceal_time(header: SliceHeader, salt: bytes) -> str:
    """As a number that comes before another one of the study where the text of the time does."""
    text = header.acquisition_time.encode()[:_LONGEST_TIME].ljust(_LONGEST_TIME, b"\0")
    shifted = int.from_bytes(text, "big") + secret_shift(header.study_uid, salt, _LONGEST_TIME)
    return f"{shifted:0{2 * TIME_BYTES}x}"
