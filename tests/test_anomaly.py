import pytest
import torch

from difffuse_hf.pipelines.anomaly_map import anomaly_map, closing, dilation, erosion, opening, otsu_threshold


@pytest.fixture
def noise():
    return torch.rand(2, 1, 17, 20, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("operation", [opening, closing])
def test_opening_and_closing_are_idempotent(operation, noise):
    once = operation(noise, 5)
    assert torch.equal(operation(once, 5), once)


@pytest.mark.parametrize("operation", [erosion, dilation, opening, closing])
def test_constant_maps_stay_as_they_are(operation):
    constant = torch.full((1, 1, 9, 9), 0.3)
    assert torch.equal(operation(constant, 5), constant)


def test_opening_never_rises_and_closing_never_falls(noise):
    assert (opening(noise, 5) <= noise).all()
    assert (closing(noise, 5) >= noise).all()


def test_specks_go_and_holes_fill_but_squares_of_the_size_stay():
    original = torch.zeros(1, 1, 30, 30)
    original[..., 5:15, 5:15] = 1
    damaged = original.clone()
    damaged[..., 8:10, 8:10] = 0  # a hole of 2 x 2 ...
    damaged = closing(damaged, 3)
    damaged[..., 22:26, 22:26] = 1  # ... and a speck of 4 x 4
    assert torch.equal(opening(damaged, 5), original)


def test_the_map_is_the_mean_difference_over_the_channels_that_count():
    image, counterfactual = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    counterfactual[:, 0], counterfactual[:, 1] = 0.3, 0.6
    assert anomaly_map(image, counterfactual).unique().item() == pytest.approx(0.3)
    assert anomaly_map(image, counterfactual, channels=[1]).unique().item() == pytest.approx(0.6)
    assert anomaly_map(image, counterfactual, channels=[0, 1]).unique().item() == pytest.approx(0.45)


def test_a_square_of_one_pixel_leaves_the_difference(noise):
    assert torch.equal(anomaly_map(noise, torch.zeros_like(noise), morphology_size=1), noise)


def test_the_map_is_opened_before_it_is_closed():
    specks = torch.zeros(1, 1, 16, 16)
    specks[..., ::2, ::2] = 1  # one pixel each: closed first, they would be one block that no opening removes
    assert anomaly_map(specks, 0 * specks, morphology_size=3).max() == 0
    assert opening(closing(specks, 3), 3).max() == 1
    holes = torch.ones(1, 1, 16, 16)
    holes[..., 5::5, 5::5] = 0  # opened first, their surroundings go; closed first, the holes would be gone
    assert torch.equal(anomaly_map(holes, 0 * holes, morphology_size=3), closing(opening(holes, 3), 3))


def test_even_squares_are_refused(noise):
    with pytest.raises(ValueError, match="must be odd"):
        anomaly_map(noise, noise, morphology_size=4)


def test_squares_and_sums_are_the_maps_of_other_methods(noise):
    image, counterfactual = torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8)
    counterfactual[:, 0], counterfactual[:, 1] = 0.2, 0.4
    assert anomaly_map(image, counterfactual, difference="squared").unique().item() == pytest.approx(0.1)
    assert anomaly_map(image, counterfactual, over_channels="sum").unique().item() == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("argument", "allowed"), [("difference", "absolute, squared"), ("over_channels", "mean, sum")]
)
def test_unknown_words_are_refused(noise, argument, allowed):
    with pytest.raises(ValueError, match=f"`{argument}` must be one of {allowed}, got 'abs'"):
        anomaly_map(noise, noise, **{argument: "abs"})


def test_otsus_threshold_is_that_of_scikit_image(noise):
    filters = pytest.importorskip("skimage.filters")
    maps = torch.cat([noise, noise**4, (noise > 0.8) + 0.1 * noise])
    expected = [filters.threshold_otsu(one[0].numpy()) for one in maps]
    assert otsu_threshold(maps).flatten().tolist() == pytest.approx(expected, abs=1e-5)


def test_otsus_threshold_parts_two_levels_and_finds_nothing_in_a_constant_map():
    maps = torch.full((2, 1, 8, 8), 0.3)
    maps[0, :, 2:4, 2:4] = 0.9
    assert (maps > otsu_threshold(maps)).sum(dim=(1, 2, 3)).tolist() == [4, 0]
