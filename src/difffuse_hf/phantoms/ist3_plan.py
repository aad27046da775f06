"""What happens to a synthetic stroke patient: findings, studies, series, faults, and the answers that go with them.

Decided before anything is drawn, so that tables of a cohort need no pixels.
"""

from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache

import numpy as np

from ..preprocessing.exclusion import Exclusion
from .ct_dicom import VENDORS, uid
from .infarct import Infarct, plan_infarct

# How often things happen; ours, so that a few hundred series show each of them.
NO_INFARCT, BILATERAL, UNSEEN_AT_BASELINE = 0.3, 0.04, 0.35
OLD_INFARCT, LEUKOARAIOSIS, ATROPHY, HYPERDENSE_VESSEL = 0.35, 0.5, 0.55, 0.4  # the last: of infarcts of the MCA
LOCALISER, BONE_SERIES, CORONAL, SAGITTAL, DOSE_REPORT = 0.85, 0.35, 0.2, 0.12, 0.15
GANTRY_TILT, BLANK_TAGS, NO_AGE = 0.5, 0.1, 0.1
QUIRKS = {  # of the axial series; at most one a study. The reason of its rejection, or None where it is kept
    "split": (0.08, Exclusion.SPLIT_BASE_VAULT),  # base and vault in two series
    "two thicknesses": (0.06, Exclusion.SPLIT_BASE_VAULT),  # in one series
    "missing slices": (0.03, Exclusion.MISSING_SLICES),
    "base only": (0.03, Exclusion.SPLIT_BASE_VAULT),  # fewer than 25 slices and 100 mm
    "part only": (0.02, Exclusion.INCOMPLETE_HEAD),  # many thin slices, yet less than 100 mm
    "tilted": (0.03, Exclusion.ILL_POSITIONED),  # head turned by 38-45 degrees
    "mislabelled": (0.03, Exclusion.ILL_POSITIONED),  # prone or feet first in the header only: turned by 180 degrees
    "one slice missing": (0.03, None),
    "truncated file": (0.02, None),
    "prone": (0.02, None),  # and labelled so
}
PROTOCOLS = ((0.6, 5.0, (28, 33)), (0.14, 4.0, (34, 38)), (0.12, 3.0, (42, 45)), (0.14, 6.0, (24, 27)))  # mm, slices
SPLITS = ((5.0, (9, 13), 10.0, (9, 11)), (4.0, (13, 15), 7.0, (13, 15)))  # base and vault: mm, slices
BASELINE_DROP_HU, FOLLOW_UP_DROP_HU = (2.0, 6.0), (7.0, 13.0)
MASS_EFFECT_MM = {1: 0.0, 2: 0.0, 3: (1.0, 3.0), 4: (3.0, 7.0)}  # shift towards the other side, at follow-up


@dataclass(frozen=True)
class SeriesPlan:
    kind: str  # localiser, soft, bone, coronal, sagittal or report
    number: int
    uid: str
    reason: Exclusion | None
    part: str = ""  # base or vault


@dataclass(frozen=True)
class StudyPlan:
    uid: str
    time: str
    day: date
    vendor: str
    model: str
    quirk: str
    tilt_deg: float
    pixel_mm: float
    thickness_mm: tuple[float, ...]  # of each axial slice, from below
    blank: bool
    stage: float  # share of the infarct's volume that is seen; 0: nothing
    drop_hu: float
    swelling: float
    shift_mm: float
    series: tuple[SeriesPlan, ...]


@dataclass(frozen=True)
class PatientPlan:
    index: int
    age: int
    age_written: bool
    infarcts: tuple[Infarct, ...]
    old_infarct: Infarct | None
    findings: dict[str, int]
    studies: tuple[StudyPlan, ...]

    @property
    def largest(self) -> int:
        """Size of the largest infarct, 0 without one."""
        return max((infarct.size for infarct in self.infarcts), default=0)


@cache
def plan_patient(seed: int, index: int) -> PatientPlan:
    """All that is decided about a patient before anything is drawn: findings, studies, series, faults, answers."""
    rng = np.random.default_rng([seed, index, 3])
    infarcts: tuple[Infarct, ...] = ()
    if rng.random() > NO_INFARCT:
        infarcts = (plan_infarct(rng),)
        if rng.random() < BILATERAL:
            infarcts += (plan_infarct(rng, side="right" if infarcts[0].side == "left" else "left"),)
    old = None
    if rng.random() < OLD_INFARCT:
        old = plan_infarct(rng)
        old = Infarct(old.territory, old.side, 1, float(min(old.volume_ml, rng.uniform(1, 15))))
    middle = [infarct for infarct in infarcts if infarct.territory.startswith("MCA")]
    findings = {
        "old_infarct": int(old is not None),
        "leukoaraiosis": int(rng.random() < LEUKOARAIOSIS),
        "atrophy": int(rng.random() < ATROPHY),
        "hyperdense_vessel": int(bool(middle) and rng.random() < HYPERDENSE_VESSEL),
    }
    first = date(2001, 1, 1) + timedelta(int(rng.integers(3600)))
    hospital = str(rng.choice(list(VENDORS)))
    unseen = rng.random() < UNSEEN_AT_BASELINE
    size = max((infarct.size for infarct in infarcts), default=0)
    studies = []
    for time in ("baseline", "follow-up"):
        later = time == "follow-up"
        shift = rng.uniform(*MASS_EFFECT_MM[size]) if later and size > 2 else 0.0
        studies.append(
            _plan_study(
                rng,
                uid=uid("study", seed, index, time),
                time=time,
                day=first + timedelta(int(rng.integers(1, 8)) if later else 0),
                vendor=hospital if rng.random() < 0.8 else str(rng.choice(list(VENDORS))),
                stage=(1.0 if later else 0.0 if unseen else float(rng.uniform(0.7, 1))) if infarcts else 0.0,
                drop_hu=float(rng.uniform(*(FOLLOW_UP_DROP_HU if later else BASELINE_DROP_HU))),
                swelling=float(rng.uniform(0.5, 0.9) if later else rng.uniform(0.1, 0.6)),
                shift_mm=float(shift),
            )
        )
    age = int(np.clip(rng.normal(77, 10), 40, 97))
    return PatientPlan(index, age, rng.random() > NO_AGE, infarcts, old, findings, tuple(studies))


def _plan_study(rng, vendor: str, **decided) -> StudyPlan:
    shares = [share for share, _ in QUIRKS.values()]
    quirk = str(rng.choice(["", *QUIRKS], p=[1 - sum(shares), *shares]))
    reason = QUIRKS[quirk][1] if quirk else None
    protocol = PROTOCOLS[rng.choice(len(PROTOCOLS), p=[share for share, *_ in PROTOCOLS])]
    thickness = [protocol[1]] * int(rng.integers(*protocol[2]))
    if quirk in ("split", "two thicknesses"):
        base_mm, base, vault_mm, vault = SPLITS[rng.integers(len(SPLITS))]
        parts = [int(rng.integers(*base)), int(rng.integers(*vault))]
        thickness = [base_mm] * parts[0] + [vault_mm] * parts[1]
    elif quirk == "base only":
        thickness = [5.0] * int(rng.integers(12, 17))
    elif quirk == "part only":
        thickness = [3.0] * int(rng.integers(27, 32))
    blank = bool(rng.random() < BLANK_TAGS)
    sharp = Exclusion.BONE_KERNEL
    if blank and reason not in (None, Exclusion.ILL_POSITIONED):
        sharp = reason  # without a kernel in the header, its faults are seen before its sharpness
    kinds = [("localiser", Exclusion.LOCALISER, "")] if rng.random() < LOCALISER else []
    kinds += [("soft", reason, part) for part in (("base", "vault") if quirk == "split" else ("",))]
    for kind, share, why in (
        ("bone", BONE_SERIES, sharp),
        ("coronal", CORONAL, Exclusion.NOT_AXIAL),
        ("sagittal", SAGITTAL, Exclusion.NOT_AXIAL),
        ("report", DOSE_REPORT, Exclusion.NOT_CT),
    ):
        if rng.random() < share:
            kinds.append((kind, why, ""))
    return StudyPlan(
        vendor=vendor,
        model=str(rng.choice(VENDORS[vendor].models)),
        quirk=quirk,
        tilt_deg=float(rng.uniform(4, 22)) if rng.random() < GANTRY_TILT and quirk != "tilted" else 0.0,
        pixel_mm=float(rng.uniform(0.42, 0.55)),
        thickness_mm=tuple(thickness),
        blank=blank,
        series=tuple(
            SeriesPlan(kind, number, uid(decided["uid"], number), why, part)
            for number, (kind, why, part) in enumerate(kinds, start=1)
        ),
        **decided,
    )
