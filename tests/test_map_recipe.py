"""The anomaly map as a choice: signs, standard deviations, squares in millimetres, and what a file holds of it."""

import json

import pytest
import torch

from difffuse_hf.errors import InputError
from difffuse_hf.pipelines.anomaly_map import anomaly_map
from difffuse_hf.pipelines.map_recipe import MapRecipe, away_from_edge, map_by_recipe, odd_pixels, widened


def uniform(*values):
    """An image (1, C, 8, 8) of one value a channel."""
    return torch.tensor(values).view(1, -1, 1, 1).expand(1, -1, 8, 8).clone()


@pytest.mark.parametrize(("sign", "expected"), [(1, 0.3), (-1, 0.0), (0, 0.3)])
def test_a_sign_lets_only_its_direction_count(sign, expected):
    recipe = MapRecipe(channels=[1], signs=[sign])
    maps = map_by_recipe(uniform(0.1, 0.8), uniform(0.9, 0.5), None, recipe)
    assert maps.shape == (1, 1, 8, 8) and maps.unique().item() == pytest.approx(expected)


def test_channels_are_averaged_after_their_signs():
    recipe = MapRecipe(channels=[0, 1], signs=[1, -1])
    assert map_by_recipe(uniform(0.6, 0.1), uniform(0.2, 0.3), None, recipe).unique().item() == pytest.approx(0.3)


def test_in_standard_deviations_the_change_is_over_the_samples_disagreement_and_its_floor():
    recipe = MapRecipe(channels=[0], signs=[1], sample_noise=0.3)
    image, expected = uniform(0.7), uniform(0.2)
    assert map_by_recipe(image, expected, uniform(0.4), recipe).unique().item() == pytest.approx(1.0)  # 0.5 / 0.5
    assert map_by_recipe(image, expected, None, recipe).unique().item() == pytest.approx(0.5 / 0.3)


def test_the_thesis_map_is_one_of_the_recipes():
    generator = torch.Generator().manual_seed(0)
    image, counterfactual = torch.rand(2, 2, 3, 24, 24, generator=generator)
    recipe = MapRecipe(channels=[0, 1, 2], signs=[0, 0, 0], opening_mm=10.0, closing_mm=10.0)
    assert torch.equal(map_by_recipe(image, counterfactual, None, recipe, 2.0), anomaly_map(image, counterfactual))


def test_smoothing_is_the_mean_of_a_square_cut_off_at_the_border():
    image = torch.zeros(1, 1, 5, 5)
    image[..., 0, 0] = 0.9
    maps = map_by_recipe(image, torch.zeros_like(image), None, MapRecipe(smoothing_mm=3.0))
    assert maps[0, 0, 0, 0] == pytest.approx(0.9 / 4) and maps[0, 0, 1, 1] == pytest.approx(0.1)
    assert maps[0, 0, 2, 2] == 0


def test_the_saliency_weights_the_map_where_there_is_one():
    recipe, image = MapRecipe(weighted=True), uniform(0.5)
    assert map_by_recipe(image, uniform(0.1), None, recipe, saliency=uniform(0.25)).unique().item() == pytest.approx(
        0.1
    )
    assert map_by_recipe(image, uniform(0.1), None, recipe).unique().item() == pytest.approx(0.4)


def test_the_edge_of_the_brain_and_of_the_image_counts_as_outside():
    image = torch.zeros(1, 1, 9, 9)
    image[..., 1:, 2:8] = 0.5
    inside = away_from_edge(image, 2.0, 2.0)[0, 0]
    assert inside.nonzero().min(0).values.tolist() == [2, 3] and inside.nonzero().max(0).values.tolist() == [7, 6]
    maps = map_by_recipe(image, torch.zeros_like(image), None, MapRecipe(edge_mm=2.0), 2.0)
    assert torch.equal(maps[0, 0] > 0, inside > 0)


@pytest.mark.parametrize(
    ("length", "pixel", "size"), [(0, 1, 1), (6, 2, 3), (5, 1, 5), (4, 2, 1), (4.1, 2, 3), (1, 5, 1)]
)
def test_lengths_become_odd_numbers_of_pixels(length, pixel, size):
    assert odd_pixels(length, pixel) == size


def test_a_margin_widens_a_mask_all_around():
    mask = torch.zeros(1, 1, 7, 7)
    mask[..., 3, 3] = 1
    assert widened(mask, 4.0, 2.0).sum() == 25 and widened(mask, 0.0, 2.0).sum() == 1


def test_a_recipe_comes_back_from_its_file():
    recipe = MapRecipe(channels=[0, 3], signs=[1, 0], sample_noise=0.04, smoothing_mm=6.0, weighted=True)
    assert MapRecipe.of(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert "brighter on flair, brighter or darker on t2" in recipe.in_words(["flair", "t1", "t1ce", "t2"])
    assert "standard deviations" in recipe.in_words()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"channels": [0, 1], "signs": [1]}, "a sign of -1, 0 or 1 for each channel"),
        ({"signs": [2]}, "a sign of -1, 0 or 1 for each channel"),
        ({"sample_noise": 0.0}, "`sample_noise` must be above 0"),
        ({"opening_mm": -1.0}, "`opening_mm` must not be negative"),
        ({"colour": "red"}, "A map has no value 'colour'; it has channels, closing_mm"),
    ],
)
def test_values_that_make_no_map_are_refused_in_one_sentence(values, sentence):
    with pytest.raises(InputError, match=sentence):
        MapRecipe.of(values)
