"""Schedule and map chosen together on validation slices: what is tried, what is kept, and by which rule."""

from dataclasses import replace

import pytest
import torch

from difffuse_hf.errors import InputError
from difffuse_hf.evaluation.anomaly import Slices, label_threshold
from difffuse_hf.evaluation.calibration import (
    Calls,
    Choice,
    Drawn,
    as_other_scanners,
    decide,
    draw,
    look,
    recipes,
    sample_noise,
    schedules,
    search,
)
from difffuse_hf.pipelines.calibration import Calibration
from difffuse_hf.pipelines.map_recipe import MapRecipe
from difffuse_hf.pipelines.presets import Preset

GRID = {"noise_level": [20, 40], "num_inference_steps": [2]}


def slices(count=4, label=1, split="validation"):
    generator = torch.Generator().manual_seed(label)
    images = 0.2 + 0.5 * torch.rand(count, 2, 16, 16, generator=generator)
    masks = torch.zeros(count, 1, 16, 16)
    masks[..., 4:9, 4:9] = label
    images[:, :1] += 0.3 * masks
    return Slices(images, masks, torch.full((count,), label), [str(i) for i in range(count)], split)


def drawn(expected=0.5, deviation=None):
    some = slices(2, 0)
    ones = torch.ones_like(some.images)
    spread = None if deviation is None else deviation * ones
    return Drawn(some, some.images - expected, spread, torch.ones_like(some.masks), None)


def choice(scores, calls=10.0, percentile=90.0, **recipe):
    plan = Calibration(Preset(), 500, percentile, MapRecipe(**recipe), 0.1)
    return Choice(plan, calls, torch.tensor(scores))


def test_a_schedule_is_made_of_every_combination(whole_pipeline):
    plans = schedules(whole_pipeline, "fast", {"noise_level": [20, 40], "percentile": [70.0], "num_samples": [2, 3]})
    assert [(p.noise_level, p.percentile, p.settings.num_samples) for p in plans] == [
        (20, 70.0, 2), (20, 70.0, 3), (40, 70.0, 2), (40, 70.0, 3),
    ]  # fmt: skip
    assert {p.settings.background for p in plans} == {"forward"}
    assert schedules(whole_pipeline, "fast", {})[0].percentile == whole_pipeline.config.percentile
    with pytest.raises(InputError, match="`grid` must be one of noise_level, percentile, background"):
        schedules(whole_pipeline, "fast", {"speed": [1]})


def test_schedules_whose_first_look_does_nothing_are_tried_once(whole_pipeline):
    grid = {"scout_samples": [0, 2], "scout_rounds": [0, 2], "scout_threshold": [0.0, 0.1], "scout_margin_mm": [4.0]}
    looks = [plan.settings for plan in schedules(whole_pipeline, "fast", grid)]
    assert [(one.scout_samples, one.scout_rounds, one.scout_threshold, one.scout_margin_mm) for one in looks] == [
        (0, 0, 0.0, 0.0), (2, 0, 0.1, 4.0), (2, 2, 0.0, 0.0), (2, 2, 0.1, 4.0)
    ]  # fmt: skip


def test_the_floor_of_the_disagreement_is_what_healthy_tissue_differs_by():
    assert sample_noise(drawn(0.25), [0, 1]) == pytest.approx(0.25)


def test_the_maps_to_choose_from_have_the_signs_of_their_modalities():
    found = recipes(["flair", "t2"], {"flair": 1, "t2": -1}, drawn(0.2, 0.1), 2.0)
    assert len(found) == len(set(found))
    groups = {(recipe.channels, recipe.signs) for recipe in found}
    assert groups == {
        (channels, signs)
        for channels, signed in {(0,): (1,), (1,): (-1,), (0, 1): (1, -1)}.items()
        for signs in (signed, (0,) * len(channels))
    }
    assert {recipe.sample_noise and round(recipe.sample_noise, 6) for recipe in found} == {None, 0.2}
    assert {recipe.opening_mm for recipe in found} == {0, 6.0}
    one_sample = recipes(["ct", "t1"], {}, drawn(0.2), 1.0)  # neither a sign nor a disagreement
    assert {(one.channels, one.signs, one.sample_noise) for one in one_sample} == {((0, 1), (0, 0), None)}


def test_a_search_scores_every_map_of_every_schedule_as_detection_would_make_it(whole_pipeline):
    whole_pipeline.processor.modalities = ("flair", "t1")
    plans = schedules(whole_pipeline, "fast", GRID)
    found = list(search(whole_pipeline, plans, slices(), slices(3, 0), {"flair": 1}, [0.05]))
    assert len(found) == 2 and len(found[0]) > 10
    assert [one.score for one in found[0]] == sorted((one.score for one in found[0]), reverse=True)
    assert {one.calls for one in found[0]} == {8.0}  # two steps of four samples
    best = found[1][0]
    whole_pipeline.processor.calibrations = {"fast": best.calibration.to_dict()}
    known = slices()
    generators = [torch.Generator().manual_seed(i) for i in range(4)]
    maps = whole_pipeline(known.images, preset="fast", display_steps=0, generator=generators).anomaly_maps
    overlap = ((maps >= best.calibration.threshold) & (known.masks > 0)).flatten(1).sum(1)
    sizes = (maps >= best.calibration.threshold).flatten(1).sum(1) + known.masks.flatten(1).sum(1)
    torch.testing.assert_close(best.scores, (2 * overlap / sizes).float(), rtol=0, atol=1e-6)


def test_maps_of_zeros_leave_no_threshold_to_save(whole_pipeline):
    plan = schedules(whole_pipeline, "exact", {"noise_level": [2], "percentile": [100.0]})
    found = next(search(whole_pipeline, plan, slices(), slices(2, 0), {"flair": 1}))  # nothing is repainted
    assert {(one.score, one.calibration.threshold) for one in found} == {(0.0, None)}


def test_with_labels_only_the_healthy_slices_set_the_threshold(whole_pipeline):
    healthy = slices(3, 0)
    blind = replace(slices(), masks=torch.zeros(4, 1, 16, 16))  # nothing drawn
    plan = schedules(whole_pipeline, "fast", GRID)[0]
    best = next(search(whole_pipeline, [plan], blind, healthy, {"flair": 1}, [0.02], with_masks=False))[0]
    drawn_again = draw(whole_pipeline, healthy, look(whole_pipeline, healthy), best.calibration)
    maps = drawn_again.maps(best.calibration.recipe, whole_pipeline.pixel_mm)
    assert (maps >= best.calibration.threshold).float().mean() <= 0.02
    assert best.calibration.threshold_for(0.02) == best.calibration.threshold
    ill = draw(whole_pipeline, blind, look(whole_pipeline, blind), best.calibration)
    own = label_threshold(ill.maps(best.calibration.recipe, whole_pipeline.pixel_mm), blind, maps, healthy).value
    assert best.by_labels == (pytest.approx(own) if own < float("inf") else None)
    with pytest.raises(InputError, match="needs a share of healthy brain"):
        next(search(whole_pipeline, [plan], blind, healthy, {}, with_masks=False))


def test_nothing_is_chosen_on_test_slices_or_without_healthy_ones(whole_pipeline):
    plan = schedules(whole_pipeline, "fast", GRID)[:1]
    with pytest.raises(ValueError, match="never chosen on the split 'test'"):
        next(search(whole_pipeline, plan, slices(split="test"), slices(2, 0), {}))
    with pytest.raises(InputError, match="has no healthy slice"):
        next(search(whole_pipeline, plan, slices(), slices(2, 0).select(torch.tensor([], dtype=torch.long)), {}))


def test_of_choices_as_good_as_the_best_the_cheapest_and_most_cautious_is_kept():
    best = choice([0.80, 0.60, 0.70, 0.70], calls=20.0)
    as_good = choice([0.70, 0.68, 0.70, 0.70])  # 0.005 short on average, by a standard error of 0.04
    cautious = choice([0.70, 0.66, 0.70, 0.70], opening_mm=6.0)
    worse = choice([0.70, 0.50, 0.60, 0.60], calls=1.0, opening_mm=6.0)  # 0.1 short, always
    assert decide([best, as_good, worse]) is as_good
    assert decide([best, as_good, cautious, worse]) is cautious
    smaller = choice([0.70, 0.66, 0.70, 0.70], percentile=95.0)
    assert decide([best, as_good, cautious, smaller]) is smaller
    assert decide([best, worse]) is best
    assert decide([best, worse], max_calls=5.0) is worse
    with pytest.raises(InputError, match="stays within 0.5 network calls"):
        decide([best, worse], max_calls=0.5)


def test_calls_are_counted_in_images_while_they_are_watched(whole_pipeline, image):
    with Calls(whole_pipeline.unet) as calls:
        whole_pipeline(image, mask=torch.ones_like(image[:, :1]), noise_level=10, num_inference_steps=2)
    assert calls.images == 2 * (2 + 2)
    whole_pipeline.unet(image, 0)
    assert calls.images == 8
    with Calls(whole_pipeline.unet, whole_pipeline.classifier) as calls:
        whole_pipeline.unet(image, 0)
        whole_pipeline.classifier(image)
    assert calls.images == 4


def test_other_scanners_keep_the_median_the_order_and_the_background():
    some = slices(3)
    some.images[:, :, :3] = 0
    varied = as_other_scanners(some, 0.35)
    assert torch.equal(varied.images == 0, some.images == 0) and not torch.equal(varied.images, some.images)
    for before, after in zip(some.images.flatten(0, 1), varied.images.flatten(0, 1)):
        assert torch.equal(before.flatten().argsort(), after.flatten().argsort())
        torch.testing.assert_close(after[after > 0].median(), before[before > 0].median())
    torch.testing.assert_close(as_other_scanners(some, 0.0).images, some.images)
