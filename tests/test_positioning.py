import numpy as np
import pytest
from scipy.spatial.transform import Rotation

pytest.importorskip("SimpleITK", reason="needs the extra `preprocess`")
pytest.importorskip("sklearn", reason="needs the extra `preprocess`")

from difffuse_hf.preprocessing.exclusion import Exclusion  # noqa: E402
from difffuse_hf.preprocessing.positioning import RegistrationQC, check_registration  # noqa: E402
from difffuse_hf.preprocessing.registration import Registration  # noqa: E402


def fit(matrix=((1, 0, 0), (0, 1, 0), (0, 0, 1)), brain_ml=1400.0, nmi=1.25, dice=0.95):
    return Registration(np.array(matrix, float), np.zeros(3), np.zeros(3), brain_ml, nmi, dice)


def turns(axis, mean, count, seed):
    """Matrices of heads turned by about `mean` degrees, of slightly different sizes."""
    rng = np.random.default_rng(seed)
    angles = rng.normal(0, 3, (count, 3))
    angles[:, "xyz".index(axis)] += mean
    size = 1 + rng.normal(0, 0.03, (count, 1, 1))
    return size * Rotation.from_euler("xyz", angles, degrees=True).as_matrix()


@pytest.mark.parametrize(
    "registration, reason",
    [
        (fit(), None),
        (fit(brain_ml=600), Exclusion.NO_BRAIN),
        (fit(matrix=np.diag([-1, 1, 1])), Exclusion.REGISTRATION_FAILED),
        (fit(matrix=np.diag([0.6, 1, 1])), Exclusion.REGISTRATION_FAILED),
        (fit(matrix=np.diag([1, 1, 1.6])), Exclusion.REGISTRATION_FAILED),
        (fit(nmi=1.12), Exclusion.REGISTRATION_FAILED),
        (fit(dice=0.83), Exclusion.REGISTRATION_FAILED),
        (fit(matrix=Rotation.from_euler("y", 29, degrees=True).as_matrix()), None),
        (fit(matrix=Rotation.from_euler("y", 31, degrees=True).as_matrix()), Exclusion.ILL_POSITIONED),
        (fit(matrix=np.diag([-1, -1, 1])), Exclusion.ILL_POSITIONED),
    ],
)
def test_each_gate_rejects_what_it_is_for(registration, reason):
    exclusion, detail = check_registration(registration)
    assert exclusion == reason
    assert bool(detail) == (reason is not None)


def test_a_bad_fit_is_not_called_bad_positioning():
    turned = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    assert check_registration(fit(matrix=turned, nmi=1.1))[0] == Exclusion.REGISTRATION_FAILED


def test_the_mixture_separates_turned_heads_from_straight_ones():
    matrices = np.concatenate([turns("x", -8, 150, 0), turns("z", 180, 30, 1)])
    straight = np.arange(180) < 150
    quality = RegistrationQC.fit(matrices, kept=straight)
    np.testing.assert_array_equal(quality.well_positioned, straight)
    assert quality.components.shape == (180, 3) and 0.9 < quality.explained_variance <= 1
    assert set(quality.labels[straight]).isdisjoint(quality.labels[~straight])


def test_a_cluster_is_rejected_where_most_of_its_scans_fail_on_their_own():
    matrices = np.concatenate([turns("y", -5, 80, 0), turns("y", 20, 80, 1)])
    kept = np.arange(160) < 80  # the second group fits badly, though it is hardly turned
    quality = RegistrationQC.fit(matrices, kept, num_clusters=2)
    np.testing.assert_array_equal(quality.well_positioned, kept)
    assert (quality.rotation_deg < 30).all() and sorted(quality.failed) == [0, 1]


def test_a_small_cohort_is_left_to_the_scan_by_scan_test():
    assert RegistrationQC.fit(turns("x", 0, 99, 0), np.ones(99, bool)) is None
    assert RegistrationQC.fit(turns("x", 0, 100, 0), np.ones(100, bool)).well_positioned.all()
