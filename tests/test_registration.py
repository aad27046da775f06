from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("SimpleITK", reason="needs the extra `preprocess`")

from synthetic_head import SPACING, head, turn, turned_head  # noqa: E402

from difffuse_hf.errors import InputError  # noqa: E402
from difffuse_hf.preprocessing.assemble import CTVolume, assemble  # noqa: E402
from difffuse_hf.preprocessing.exclusion import Exclusion  # noqa: E402
from difffuse_hf.preprocessing.positioning import check_registration  # noqa: E402
from difffuse_hf.preprocessing.registration import (  # noqa: E402
    brain_mask,
    choose_template,
    load_template,
    midline_plane,
    register,
    rotation_angle,
)

SHARED = Path(__file__).parents[2] / "shared" / "data" / "ct_dicom"


def error_mm(registration, matrix, offset):
    """Mean distance between where the fit and the truth put points 60 mm from the template's origin."""
    points = 60 * np.concatenate([np.eye(3), -np.eye(3)])
    fitted = points @ registration.matrix.T + registration.translation
    return np.linalg.norm(fitted - points @ matrix.T - offset, axis=1).mean()


@pytest.mark.parametrize(
    "rotation, scale, reason",
    [
        (np.eye(3), 1.0, None),
        (turn("xyz", [12, -15, 18]), 0.93, None),
        (turn("x", 42), 1.0, Exclusion.ILL_POSITIONED),
        (turn("x", 180), 1.0, Exclusion.ILL_POSITIONED),
        (turn("y", 180) @ turn("x", 10), 1.0, Exclusion.ILL_POSITIONED),
        (turn("z", 172), 1.05, Exclusion.ILL_POSITIONED),
    ],
    ids=["straight", "tilted", "severe", "turned about x", "turned about y", "turned about z"],
)
def test_a_turned_head_is_registered_to_within_three_millimetres_and_judged_by_its_angle(rotation, scale, reason):
    volume, matrix, offset = turned_head(rotation, scale)
    registration = register(volume, load_template())
    assert error_mm(registration, matrix, offset) < 3
    assert registration.rotation_deg == pytest.approx(rotation_angle(matrix), abs=3)
    assert registration.determinant == pytest.approx(scale**3, rel=0.12)
    assert check_registration(registration)[0] == reason


def test_a_tilted_gantry_is_not_a_tilted_head():
    volume, *_ = turned_head(np.eye(3))
    tilted = CTVolume(volume.hounsfield, SPACING, np.array([5.0, -100.0, 700.0]), turn("x", 25))
    straight, other = (register(v, load_template()) for v in (volume, tilted))
    np.testing.assert_allclose(other.matrix, straight.matrix, atol=1e-6)


def test_the_midline_follows_the_plane_between_the_hemispheres():
    volume, matrix, offset = turned_head(turn("z", 14) @ turn("y", 10))
    registration = register(volume, load_template())
    start, per_slice, per_row = midline_plane(registration, volume)
    middle_row = registration.centre[1] / SPACING[1]
    for index in (16, 24, 32):  # back to the template: its x is 0 there
        column = start + per_slice * index + per_row * middle_row
        point = np.array([column * SPACING[2], registration.centre[1], index * SPACING[0]])
        assert abs((np.linalg.inv(matrix) @ (point - offset))[0]) < 2
    assert per_slice * SPACING[2] / SPACING[0] == pytest.approx(np.tan(np.radians(10)), abs=0.04)  # leans to the left
    assert per_row == pytest.approx(-np.tan(np.radians(14)), abs=0.04)


def test_the_brain_mask_is_the_brain_and_leaves_the_scalp():
    scan = CTVolume(head()[0].T.astype(np.int16), (2.0, 2.0, 2.0), np.zeros(3), np.eye(3))
    mask, brain = brain_mask(scan.to_sitk()), head()[1].T
    assert 2 * (mask & brain).sum() / (mask.sum() + brain.sum()) > 0.97


def test_without_bone_there_is_no_brain():
    volume, *_ = turned_head(np.eye(3), hounsfield=np.minimum(head()[0], 60))
    assert register(volume, load_template()) is None
    assert check_registration(None)[0] == Exclusion.NO_BRAIN


def test_the_angle_of_a_rotation_survives_stretching():
    stretch = np.array([[1.1, 0.1, 0], [0.1, 0.9, 0.05], [0, 0.05, 1.2]])  # symmetric and positive: R S is polar
    for degrees in (0, 12, 47, 180):
        assert rotation_angle(turn("xyz", [0, degrees, 0]) @ stretch) == pytest.approx(degrees, abs=1e-5)


def test_the_older_template_is_for_patients_over_72():
    assert [choose_template(age, "young", "old") for age in (None, 41.0, 72.0, 72.5, 90.0)] == [
        "young", "young", "young", "old", "old",
    ]  # fmt: skip
    assert choose_template(70.0, "young", "old", border=65) == "old"


def test_a_template_that_is_no_image_is_refused(tmp_path):
    path = tmp_path / "template.nii.gz"
    path.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"template\.nii\.gz cannot be read as a template"):
        load_template(path)


@pytest.mark.skipif(not SHARED.exists(), reason="needs the real CT series in ../shared/data/ct_dicom")
def test_a_real_head_is_registered():
    from difffuse_hf.preprocessing.dicom import find_files, group_series, read_headers

    headers, _ = read_headers(find_files(SHARED / "GE_HiSpeedDual_head_STD_base_and_vault_tilted"))
    registration = register(assemble(group_series(headers)[0]), load_template())
    assert check_registration(registration) == (None, "")
    assert registration.dice > 0.94 and 10 < registration.rotation_deg < 16  # looked at: yaw to the left, chin up
    assert 1300 < registration.brain_ml < 1450
