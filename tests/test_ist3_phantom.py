"""Facts about the synthetic stroke patients: exact infarcts, DICOM that reads back, answers that headers confirm."""

import csv
from pathlib import Path

import nibabel
import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="needs the extra `preprocess`")

from difffuse_hf import BrainPhantom  # noqa: E402
from difffuse_hf.phantoms import ist3, ist3_plan  # noqa: E402
from difffuse_hf.phantoms.anatomy import Tissue  # noqa: E402
from difffuse_hf.phantoms.common import rotation  # noqa: E402
from difffuse_hf.phantoms.ct_dicom import VENDORS, encode  # noqa: E402
from difffuse_hf.phantoms.ct_scanner import Pose, Stack, noise, sample  # noqa: E402
from difffuse_hf.phantoms.head import HeadTissue, load_head  # noqa: E402
from difffuse_hf.phantoms.infarct import (  # noqa: E402
    TERRITORIES,
    Infarct,
    arterial_territory,
    infarct_extent,
    infarct_hounsfield,
    plan_infarct,
)
from difffuse_hf.preprocessing.dicom import find_files, group_series, read_headers  # noqa: E402
from difffuse_hf.preprocessing.exclusion import Exclusion  # noqa: E402
from difffuse_hf.preprocessing.rules import header_exclusion  # noqa: E402

SEED = 3
TILTED_SLICES = Stack(
    np.array([[0, 0, 5.0 * k] for k in range(4)]),
    np.array([1.0, 0, 0]),
    np.array([0, 0.96, -0.28]),
    np.full(4, 4.8),
    (30, 20),
    0.5,
)


def is_handy(plan):
    """A patient who costs little and shows much: seen at baseline, gantry tilted, a bone kernel, no more than that."""
    series = [series.kind for study in plan.studies for series in study.series]
    tilted = any(study.tilt_deg for study in plan.studies)
    return plan.studies[0].stage and tilted and series.count("bone") == 1 and len(series) <= 5


def num_slices(plan):
    return sum(len(study.thickness_mm) for study in plan.studies for series in study.series if series.kind == "soft")


PLANS = {i: ist3.plan_patient(SEED, i) for i in range(500)}
INDEX = min((i for i, plan in PLANS.items() if is_handy(plan)), key=lambda i: num_slices(PLANS[i]))


@pytest.fixture(scope="module")
def patient():
    return BrainPhantom("ist3", seed=SEED).subject(INDEX)


@pytest.fixture(scope="module")
def disk(tmp_path_factory, patient):
    root = tmp_path_factory.mktemp("disk")
    ist3.write(patient, root / patient.name)
    row = {"seed": str(SEED), "group": patient.group, **ist3.row(patient)}
    ist3.finish(root, {patient.name: row})
    return root


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def soft_series(plan):
    return [(study, series) for study in plan.studies for series in study.series if series.kind == "soft"]


def test_the_tables_name_every_study_and_series_on_the_disk(disk):
    found = [pydicom.dcmread(path, stop_before_pixels=True) for path in find_files(disk / "dicom")]
    labels, expected = read_csv(disk / "labels.csv"), read_csv(disk / "expected.csv")
    assert {row["study_uid"] for row in labels} == {file.StudyInstanceUID for file in found}
    assert {row["series_uid"] for row in expected} == {file.SeriesInstanceUID for file in found}
    assert [row["time"] for row in labels] == ["baseline", "follow-up"]
    assert {row["expected_decision"] for row in expected} == {"keep", "reject"}
    assert all((row["expected_reason"] == "") == (row["expected_decision"] == "keep") for row in expected)


def test_headers_lead_to_the_decisions_that_are_expected(disk):
    headers, failed = read_headers(find_files(disk / "dicom"))
    assert not failed
    expected = {row["series_uid"]: row["expected_reason"] for row in read_csv(disk / "expected.csv")}
    for series in group_series(headers):
        reason, detail, _ = header_exclusion(series)
        assert (reason.value if reason else "") == expected[series.series_uids[0]], detail


def test_every_file_says_that_it_is_synthetic_and_carries_invented_identifiers(disk):
    for path in find_files(disk / "dicom"):
        file = pydicom.dcmread(path, stop_before_pixels=True)
        assert "SYNTHETIC" in file.ImageComments and "SYNTHETIC" in str(file.PatientName)
        assert file.PatientBirthDate and file.ReferringPhysicianName and file.InstitutionName and file.OtherPatientIDs


def test_without_its_infarct_a_patient_differs_inside_the_masks_only(patient):
    healthy = BrainPhantom("ist3", seed=SEED).subject(INDEX, lesion=False)
    assert healthy.lesion_ml == 0 and not any(mask.any() for _, mask in healthy.masks.values())
    for study, series in soft_series(patient.plan):
        mask = patient.masks[study.uid][1]
        change = patient.series[series.uid][1].astype(int) - healthy.series[series.uid][1]
        assert mask.any() and not change[~mask].any()
        assert -study.drop_hu < change[mask].mean() < -0.5


def test_the_infarct_is_plainer_at_follow_up(patient):
    baseline, follow_up = patient.plan.studies
    assert 2 <= baseline.drop_hu <= 6 < follow_up.drop_hu
    assert 1 <= (follow_up.day - baseline.day).days <= 7
    assert patient.lesion_ml > 0


def test_the_mask_lies_where_dicom_says_that_the_slices_lie(disk, patient):
    for study, series in soft_series(patient.plan):
        truth = nibabel.load(disk / "truth" / f"{study.uid}.nii.gz")
        files = [pydicom.dcmread(path) for path in find_files(disk / "dicom")]
        files = [file for file in files if file.SeriesInstanceUID == series.uid]
        files.sort(key=lambda file: file.ImagePositionPatient[2])
        assert truth.shape == (512, 512, len(files)) and b"SYNTHETIC" in truth.header["descrip"].item()
        for k in (0, len(files) - 1):
            position = truth.affine @ (0, 0, k, 1)
            np.testing.assert_allclose(position[:3] * (-1, -1, 1), files[k].ImagePositionPatient, atol=0.01)
        pixels = files[len(files) // 2]
        stored = pixels.pixel_array * pixels.RescaleSlope + pixels.RescaleIntercept
        drawn = patient.series[series.uid][1][len(files) // 2]
        inside = stored[156:356, 156:356] == drawn[156:356, 156:356]
        assert inside.all()


def test_a_mask_over_base_and_vault_is_spaced_evenly_and_as_long_as_the_scan():
    centres = np.array([[0, 0, z] for z in (0.0, 5, 10, 20, 30)])
    stack = Stack(centres, np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), np.array([5, 5, 5, 10, 10.0]), (3, 4), 0.5)
    mask = np.arange(5)[:, None, None] * np.ones((3, 4), int)
    values, affine = ist3.regular_mask(stack, mask, np.eye(3))
    assert values.shape == (4, 3, 7) and values[0, 0].tolist() in ([0, 1, 2, 2, 3, 3, 4], [0, 1, 2, 3, 3, 4, 4])
    np.testing.assert_allclose((affine @ (0, 0, 6, 1))[:3] * (-1, -1, 1), stack.corners[-1])


def test_a_plan_needs_no_drawing_and_is_always_the_same():
    plan = ist3.plan_patient(SEED, INDEX)
    ist3.plan_patient.cache_clear()
    assert ist3.plan_patient(SEED, INDEX) == plan
    uids = [series.uid for i in range(50) for study in ist3.plan_patient(0, i).studies for series in study.series]
    assert len(set(uids)) == len(uids)


def test_a_few_hundred_patients_show_every_fault_vendor_and_territory():
    plans = [ist3.plan_patient(1, i) for i in range(300)]
    studies = [study for plan in plans for study in plan.studies]
    reasons = {series.reason for study in studies for series in study.series}
    assert {study.quirk for study in studies} == {"", *ist3_plan.QUIRKS}
    assert {study.vendor for study in studies} == set(VENDORS)
    assert {infarct.territory for plan in plans for infarct in plan.infarcts} == set(TERRITORIES)
    assert {infarct.size for plan in plans for infarct in plan.infarcts} == {1, 2, 3, 4}
    assert reasons == {
        None,
        Exclusion.NOT_CT,
        Exclusion.LOCALISER,
        Exclusion.NOT_AXIAL,
        Exclusion.BONE_KERNEL,
        Exclusion.MISSING_SLICES,
        Exclusion.SPLIT_BASE_VAULT,
        Exclusion.INCOMPLETE_HEAD,
        Exclusion.ILL_POSITIONED,
    }


def toy_brain():
    """A ball of white matter in a cortex, 4 mm voxels, and its MNI coordinates."""
    mni = 4 * np.stack(np.meshgrid(*(np.arange(-20, 21.0),) * 3, indexing="ij")).astype(np.float32)
    radius = np.sqrt((mni**2).sum(0))
    return np.select([radius < 60, radius < 68], [Tissue.WHITE_MATTER, Tissue.CORTEX], 0).astype(np.uint8), mni


@pytest.mark.parametrize("side, sign", [("left", 1), ("right", -1)])
def test_an_infarct_has_its_volume_stays_in_its_territory_and_grows_from_within(side, sign):
    tissue, mni = toy_brain()
    infarct = Infarct("MCA superior", side, 2, 40.0)
    extent = infarct_extent(np.random.default_rng(0), infarct, tissue, mni, voxel_ml=0.064)
    full, early = extent < 1, extent < 0.6
    assert 0.064 * full.sum() == pytest.approx(40, rel=0.35)  # the outline is smoothed after it is measured
    assert (mni[0][full] * sign > 0).all() and not (early & ~full).any()
    assert (arterial_territory("MCA superior", mni) & full).sum() > 0.9 * full.sum()


INCIDENCE = Path(__file__).parents[2] / "shared" / "data" / "lesion_priors" / "lesion_mean_1449.nii.gz"


@pytest.mark.skipif(not INCIDENCE.exists(), reason="needs shared/data/lesion_priors beside the project")
def test_centres_follow_an_incidence_map_where_one_is_given():
    tissue, mni = toy_brain()
    rng = np.random.default_rng(0)
    image = nibabel.load(INCIDENCE)
    maps = {None: [], INCIDENCE: []}
    for path, incidences in maps.items():
        for _ in range(12):
            extent = infarct_extent(rng, Infarct("PCA", "left", 1, 4.0), tissue, mni, 0.064, path)
            ras = mni[:, extent < 1].mean(1) * (-1, 1, 1)
            voxel = np.linalg.inv(image.affine) @ (*ras, 1)
            incidences.append(float(image.dataobj[tuple(np.rint(voxel[:3]).astype(int))]))
    assert np.mean(maps[INCIDENCE]) > 1.2 * np.mean(maps[None])


def test_grey_and_white_matter_draw_near_each_other_in_a_young_infarct():
    tissue, mni = toy_brain()
    extent = infarct_extent(np.random.default_rng(0), Infarct("MCA", "left", 4, 200.0), tissue, mni, 0.064)
    change, mask = infarct_hounsfield(tissue, extent, 1.0, drop_hu=4.0, swelling=0.5)
    assert not change[~mask].any()
    assert change[mask & (tissue == Tissue.CORTEX)].min() < change[mask & (tissue == Tissue.WHITE_MATTER)].min() < 0


def test_planned_volumes_belong_to_their_size():
    rng = np.random.default_rng(0)
    volumes = {size: [] for size in (1, 2, 3, 4)}
    for _ in range(300):
        infarct = plan_infarct(rng)
        assert infarct.size in TERRITORIES[infarct.territory][1]
        volumes[infarct.size].append(infarct.volume_ml)
    assert (
        max(volumes[1]) < min(volumes[2]) and max(volumes[2]) < min(volumes[3]) and max(volumes[3]) < min(volumes[4])
    )


def test_a_slice_through_a_ramp_is_the_ramp_wherever_the_head_lies():
    axes = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in (60, 62, 64)), indexing="ij")
    ramp = 2 * axes[0] - axes[1] + 3 * axes[2]
    pose = Pose(rotation(np.deg2rad([10, -20, 30])), np.array([1.0, 2, 8]), np.array([30.0, 30, 30]))
    rows, columns = np.indices(TILTED_SLICES.shape)
    for sharp in (False, True):
        slices = sample(ramp, pose, TILTED_SLICES, 0.0, sharp)
        points = (
            TILTED_SLICES.corners[:, None, None]
            + 0.5 * columns[..., None] * TILTED_SLICES.row
            + 0.5 * rows[..., None] * TILTED_SLICES.column
        )
        middle = np.s_[:, 8:-8, 6:-6]  # near the border the kernel sees one side only
        expected = pose.voxels(points) @ (2, -1, 3)
        np.testing.assert_allclose(slices[middle], expected[middle], atol=0.02)


def test_noise_of_a_soft_kernel_is_alike_at_1_mm_and_that_of_a_bone_kernel_is_not():
    stack = Stack(TILTED_SLICES.centres, TILTED_SLICES.row, TILTED_SLICES.column, np.full(4, 5.0), (256, 256), 0.5)
    for sharp in (False, True):
        grain = noise(np.random.default_rng(0), stack, 4.0, sharp)
        correlation = np.corrcoef(grain[:, :, :-2].ravel(), grain[:, :, 2:].ravel())[0, 1]
        assert grain.std() == pytest.approx(4, rel=0.01)
        assert correlation < 0 if sharp else correlation > 0.2


@pytest.mark.parametrize("name", VENDORS)
def test_stored_values_give_hounsfield_units_back(name):
    vendor = VENDORS[name]
    hounsfield = np.array([[[-1024, -1000, 0, 35, 3071]]])
    stored = encode(hounsfield, vendor).astype(int)
    assert np.array_equal(stored + (0 if vendor.pixels == "signed" else -1024), hounsfield)


def test_the_built_in_brain_lies_in_a_closed_skull_in_a_head():
    head = load_head(None)
    x, y, z = (int(v) for v in head.origin)
    for ray in (
        head.tissue[x:, y, z + 20],
        head.tissue[:x, y, z + 20][::-1],
        head.tissue[x, y:, z + 20],
        head.tissue[x, y, z:],
    ):
        kinds = list(dict.fromkeys(ray[np.flatnonzero(ray > 0)].tolist()))
        outside = [kind for kind in kinds if kind > max(Tissue)]
        assert outside == [HeadTissue.BONE, HeadTissue.MARROW, HeadTissue.SOFT_TISSUE, HeadTissue.SKIN_FAT]
        assert ray[-1] == HeadTissue.AIR
