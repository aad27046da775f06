import numpy as np
import pytest

from difffuse_hf.preprocessing.hounsfield import find_repair


def head(brain=35, seed=0):
    """(12, 128, 128) noisy air, a ring of bone, and something soft in it."""
    y, x = np.meshgrid(np.linspace(-1, 1, 128), np.linspace(-1, 1, 128), indexing="ij")
    radius = np.hypot(x / 0.6, y / 0.75)
    image = np.select([radius < 0.85, radius < 0.95, radius < 1], [brain, 900, -80], -1000)
    noise = np.random.default_rng(seed).normal(0, 8, (12, 128, 128))
    return np.rint(image + noise).clip(-1024, 3071).astype(np.int16)


def repaired(values):
    """The numbers after the repair that is found, None if there is none, and the measures."""
    values = values.clip(-32768, 32767).astype(np.int16)
    repair, measures = find_repair(values)
    return repair and repair.apply(values), measures


def test_hounsfield_units_stay_and_metal_is_clipped():
    values = head()
    values[0, 60, 60] = 9000
    checked, measures = repaired(values)
    assert measures["hu_shift"] == 0
    assert abs(measures["hu_air"] + 1000) < 15 and abs(measures["hu_soft"] - 35) < 15
    np.testing.assert_array_equal(checked, values.clip(-1024, 3071))


@pytest.mark.parametrize("shift", [1024, -1024, 1000, -1000, 2048, -2048])
@pytest.mark.parametrize("brain", [25, 38])
def test_an_intercept_that_is_missing_or_applied_twice_is_undone(shift, brain):
    values = head(brain)
    checked, measures = repaired(values.astype(int) - shift)
    assert abs(measures["hu_shift"] - shift) <= 24
    np.testing.assert_allclose(checked.astype(int), values, atol=24)


@pytest.mark.parametrize("zero", [0, -1024])
def test_twelve_bits_that_lost_their_sign_get_it_back(zero):
    values = head().clip(-1024, 2047).astype(int)
    stored = np.where(values < 0, values + 4096, values) + zero
    checked, measures = repaired(stored)
    assert measures["hu_wrapped"] and measures["hu_shift"] == -zero
    np.testing.assert_array_equal(checked, values)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda hu: (hu.clip(0, 100) * 2.55).round(),  # an 8-bit picture of the brain window
        lambda hu: (hu.clip(-1000, 1000) + 1000) * 255 // 2000,
        lambda hu: 2 * (hu + 1024) - 1024,  # slope applied twice
        lambda hu: 2 * hu,
        lambda hu: hu / 2,
        lambda hu: np.where(hu < 0, hu + 65536, hu),  # negative numbers read as unsigned
        lambda hu: -hu,
    ],
)
def test_what_a_shift_cannot_make_hounsfield_units_is_excluded(spoil):
    checked, measures = repaired(spoil(head().astype(float)))
    assert checked is None and measures["hu_shift"] is None


def test_a_phantom_of_plastic_is_not_shifted_into_a_brain():
    for plastic in (97, -100):
        _, measures = repaired(head(plastic))
        assert measures["hu_shift"] == 0
