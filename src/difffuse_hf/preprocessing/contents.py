"""What a CT image shows beside the plain head: contrast agent, perfusion, projections. Read off tags and words.

A header that says nothing counts as plain; de-identification often leaves it so.
"""

import re

from pydicom.dataset import Dataset

from .values import number_of, text_of, values_of

CONTRAST, ANGIOGRAPHY, PERFUSION = "contrast agent", "angiography", "perfusion"
DERIVED, PROJECTION, MAP = "derived", "projection", "perfusion map"
_NO_AGENT = r"|NO?|NONE|NA|N/A|NIL|NULL|0|-+|FALSE|UNKNOWN|NATIV\w*|(?:NO|NON|WITHOUT|W/O|OHNE|SANS|SIN|SENZA)\W.*"
_AGENT_IN_WORDS = (
    r"\b(?:POST|WITH|MIT|AVEC|CON|W|I\.?V\.?)[ .-]*(?:CONTRAST\w*|KM)\b|\bCECT\b|\bC\+|\+ ?(?:C|KM)\b"
    r"|\b(?:ARTERIAL|VENOUS|DELAYED) PHASE\b"
)
_WITHOUT = r"\b(?:NO|NON|WITHOUT|W/O|WO|OHNE|SANS|SIN|SENZA|PRE|NCCT|NECT|NATIV\w*)\b"
_ANGIOGRAPHY = r"\bCTA\b|\bCTV\b|\bANGIO"
_PERFUSION = r"\bPERF(?:USION\w*)?\b|\bCTP\b|\bDYN(?:AMIC)?\b|\bDYNEVA\b|\bVPCT\b"
_PROJECTION = r"\b(?:MIP|MINIP|MAX IP|MIN IP|PROJECTION|VRT|SSD|VOLUME RENDER|ALPHA BLEND)\b"
_MAP = r"\b(?:R?CBF|R?CBV|MTT|TTP|TTD|TMAX|PERMEABILITY|SUBTRACT\w*)\b"


def contrast_of(dataset: Dataset) -> str:
    """`CONTRAST`, `ANGIOGRAPHY` or `PERFUSION`, "" if nothing tells of any."""
    description = _words(dataset, "SeriesDescription")
    kinds = _words(dataset, "ImageType", "SeriesDescription")
    if re.search(_PERFUSION, kinds):
        return PERFUSION
    if re.search(_ANGIOGRAPHY, description):
        return ANGIOGRAPHY
    by_mouth = re.search("ORAL|RECTAL", text_of(dataset, "ContrastBolusRoute").upper())
    agent = text_of(dataset, "ContrastBolusAgent").upper()
    if not by_mouth and (not re.fullmatch(_NO_AGENT, agent) or (number_of(dataset, "ContrastBolusVolume") or 0) > 0):
        return CONTRAST
    if values_of(dataset, "ContrastBolusAgentSequence"):  # of Enhanced CT
        return CONTRAST
    plain = re.search(_WITHOUT, description)
    return CONTRAST if re.search(_AGENT_IN_WORDS, description) and not plain else ""


def derivation_of(dataset: Dataset) -> str:
    """`PROJECTION` or `MAP` of a scan, `DERIVED` for other images computed from a scan (reformats), else ""."""
    kinds = _words(dataset, "ImageType", "VolumeBasedCalculationTechnique", "SeriesDescription")
    if re.search(_MAP, kinds):
        return MAP
    if re.search(_PROJECTION, kinds):
        return PROJECTION
    return DERIVED if "DERIVED" in _words(dataset, "ImageType").split() else ""


def _words(dataset: Dataset, *names: str) -> str:
    return re.sub(r"[\\_]", " ", " ".join(text_of(dataset, name) for name in names).upper())
