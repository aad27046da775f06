"""Why a series is left out: a fixed list, so that exclusions can be counted (thesis Table 3.1).

A rejected series is data, not an error. The reasons stand in the order in which they are tested.
"""

from enum import Enum


class Exclusion(str, Enum):
    """Reason of a rejection; the value is what the manifest says, `description` is for people."""

    UNREADABLE = "unreadable"
    NOT_CT = "not-ct"
    NO_GEOMETRY = "no-geometry"
    LOCALISER = "localiser"
    NOT_AXIAL = "not-axial"
    DERIVED = "derived-image"
    CONTRAST = "contrast"
    BONE_KERNEL = "bone-kernel"
    MIXED = "mixed-scans"
    INCONSISTENT_GEOMETRY = "inconsistent-geometry"
    MISSING_SLICES = "missing-slices"
    SPLIT_BASE_VAULT = "split-base-vault"
    INCOMPLETE_HEAD = "incomplete-head"
    BEYOND_HEAD = "beyond-head"
    NOT_HOUNSFIELD = "not-hounsfield"
    NO_BRAIN = "no-brain"
    REGISTRATION_FAILED = "registration-failed"
    ILL_POSITIONED = "ill-positioned"
    FAILED = "failed"

    @property
    def description(self) -> str:
        return _DESCRIPTIONS[self]


_DESCRIPTIONS = {
    Exclusion.UNREADABLE: "files cannot be read or decoded",
    Exclusion.NOT_CT: "not a CT image: report, overlay, secondary capture",
    Exclusion.NO_GEOMETRY: "no orientation, position or pixel spacing in the header",
    Exclusion.LOCALISER: "localiser (scout), or fewer than three slices",
    Exclusion.NOT_AXIAL: "coronal, sagittal or oblique reformat",
    Exclusion.DERIVED: "projection (MIP) or map computed from a scan",
    Exclusion.CONTRAST: "contrast agent: angiography, perfusion, or another scan with contrast",
    Exclusion.BONE_KERNEL: "bone (sharp) reconstruction kernel",
    Exclusion.MIXED: "slices of several scans or patients that nothing tells apart",
    Exclusion.INCONSISTENT_GEOMETRY: "slices that do not lie on one line, or two scans in one series",
    Exclusion.MISSING_SLICES: "slices are missing",
    Exclusion.SPLIT_BASE_VAULT: "base and vault of the skull scanned apart",
    Exclusion.INCOMPLETE_HEAD: "less than the whole head is covered",
    Exclusion.BEYOND_HEAD: "neck or body as well: too few of the sampled slices would show the brain",
    Exclusion.NOT_HOUNSFIELD: "intensities are not Hounsfield units",
    Exclusion.NO_BRAIN: "no brain found",
    Exclusion.REGISTRATION_FAILED: "the template could not be registered",
    Exclusion.ILL_POSITIONED: "head tilted by more than 30 degrees, or turned round",
    Exclusion.FAILED: "an unexpected error; see the detail",
}
