"""DICOM for whoever needs a scan's own slices: the same series and decisions as `preprocess_ct`, nothing written.

scan = read_dicom("/data/dicom/patient")             # or one Enhanced CT file
scan.hounsfield[i]                                   # (H, W) int16, as stored
scan.slices[i].position, .orientation, .pixel_spacing_mm, .path, .frame, .sop_instance_uid
"""

from pathlib import Path

from ..errors import InputError
from .dicom import Series, find_files, group_series, merge_split, read_headers
from .exclusion import Exclusion
from .headers import ARCHIVE, printable
from .rules import header_exclusion
from .steps import CTPreprocessConfig, ExaminedScan, examine


def find_series(
    path: str | Path, config: CTPreprocessConfig | None = None
) -> list[tuple[Series, Exclusion | None, str]]:
    """The series in a folder or file, each with why its header leaves it out (None, "" if it does not).

    Args:
        path: a folder, searched with all folders in it, or one DICOM file.
        config: of `preprocess_ct`; its `merge_split` joins base and vault.

    Raises:
        InputError: there is no DICOM image.
    """
    path, config = Path(path), config or CTPreprocessConfig()
    if not path.exists():
        raise InputError(f"{printable(path)} does not exist; give a folder of DICOM files, or one file.")
    headers, failed = read_headers(find_files(path))
    if not headers:
        why = f"; {printable(failed[0][0])} is {ARCHIVE}" if failed and failed[0][1] == ARCHIVE else ""
        raise InputError(f"{printable(path)} holds no readable DICOM image ({len(failed)} files were looked at){why}.")
    series = group_series(headers)
    series = merge_split(series) if config.merge_split else series
    return [(one, *header_exclusion(one, config.merge_split)[:2]) for one in series]


def read_series(series: Series, config: CTPreprocessConfig | None = None) -> ExaminedScan:
    """The slices of a series whose header is fine in Hounsfield units; `exclusion` says what its pixels are not.

    Raises:
        UnreadableSeries: more than two of the slices cannot be decoded.
    """
    return examine(series, config or CTPreprocessConfig(), {"age_years": series.slices[0].age_years})


def read_dicom(path: str | Path, series: str | None = None, config: CTPreprocessConfig | None = None) -> ExaminedScan:
    """The one head scan in a folder or file that `preprocess_ct` would keep: its own slices in Hounsfield units.

    Args:
        path: a folder, searched with all folders in it, or one DICOM file.
        series: SeriesInstanceUID, or `Series.key`, of the scan that is meant; needed where there are several.
        config: of `preprocess_ct`.

    Raises:
        InputError: there is no such scan, or several; the sentence names the series and why they are left out.
    """
    found = find_series(path, config)
    if series is not None:
        chosen = [one for one in found if series == one[0].key or series in one[0].series_uids]
        if not chosen:
            raise InputError(f"{printable(path)} holds no series {series}; it holds {_names(found)}.")
        found = chosen
    kept = [one for one, exclusion, _ in found if exclusion is None]
    if not kept:
        raise InputError(f"No series in {printable(path)} is a head scan to use: {_names(found)}.")
    if len(kept) > 1:
        names = _names([one for one in found if one[1] is None])
        raise InputError(f"{printable(path)} holds {len(kept)} head scans; name one of them: {names}.")
    scan = read_series(kept[0], config)
    if scan.exclusion:
        why = f"({scan.exclusion.value}): {scan.detail.rstrip('.')}"
        raise InputError(f"The scan in {printable(path)} is not to be used {why}.")
    return scan


def _names(found: list[tuple[Series, Exclusion | None, str]]) -> str:
    shown = [
        f"{one.series_uids[0] or one.key} ({len(one.slices)} slices{f', {why}' if why else ''})"
        for one, _, why in found[:10]
    ]
    return ", ".join([*shown, f"and {len(found) - 10} more"] if len(found) > 10 else shown)
