"""Forward noise outside the mask, and the first look that fits the mask to the lesion, on tiny real networks."""

from dataclasses import replace

import pytest
import torch

from difffuse_hf.errors import InputError
from difffuse_hf.pipelines.calibration import Calibration
from difffuse_hf.pipelines.map_recipe import MapRecipe
from difffuse_hf.pipelines.pipeline_repaint import CALIBRATED_AS, RePaintPipeline
from difffuse_hf.pipelines.presets import Preset, choose_settings

QUICK = Preset(background="forward", num_inference_steps=3, num_samples=2)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def call(pipeline, image, preset=QUICK, **options):
    return pipeline(image, preset=preset, generator=[seeded(i) for i in range(len(image))], **options)


@pytest.fixture
def calls(unet):
    """(batch size, timestep) of every call of the U-Net."""
    recorded = []
    unet.register_forward_hook(lambda module, inputs, output: recorded.append((len(inputs[0]), int(inputs[1]))))
    return recorded


def test_with_forward_noise_nothing_is_inverted_and_the_image_stays_outside_the_mask(pipeline, calls, image, mask):
    output = call(pipeline, image, mask=mask, noise_level=30)
    assert calls == [(4, 29), (4, 19), (4, 9)]
    outside = (mask == 0).expand_as(image)
    assert torch.equal(output.counterfactuals[outside], image[outside])
    assert torch.equal(output.expected[outside], image[outside])
    inside = output.deviation[~outside]  # 0 where all samples are black or white
    assert (inside > 0).float().mean() > 0.8 and (output.deviation[outside] == 0).all()


def test_with_forward_noise_and_a_full_mask_the_noise_of_the_background_does_not_matter(pipeline, image, mask):
    draws = iter(torch.randn(4, 2, 2, 16, 16, generator=seeded(5)))
    scheduler, clean = pipeline.scheduler, 2 * image - 1
    next(draws)  # of the background
    sample = scheduler.diffuse(clean, 0, 30, next(draws))
    with torch.no_grad():
        for level, target in ((30, 15), (15, 0)):
            noise_pred = pipeline.unet(sample, level - 1).sample
            sample = scheduler.reverse_step(noise_pred, level, target, sample, 1.0, next(draws))
    preset = Preset(background="forward", num_inference_steps=2)
    output = pipeline(image, mask=torch.ones_like(mask), preset=preset, noise_level=30, generator=seeded(5))
    torch.testing.assert_close(output.counterfactuals, (sample / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-5)


def test_levels_may_be_spread_towards_the_image(scheduler):
    assert scheduler.levels_from(400, 4, 2.0) == [400, 225, 100, 25, 0]
    assert scheduler.levels_from(4, 4, 3.0) == [4, 2, 0]  # 4, 1.69, 0.5, 0.06, 0: rounded to the same are one
    assert scheduler.levels_from(12, 5, 1.0) == scheduler.levels_from(12, 5)
    with pytest.raises(InputError, match="`spacing` must be above 0"):
        scheduler.levels_from(12, 5, 0.0)


def test_a_first_look_makes_the_mask_what_changed_with_a_margin(pipeline, image):
    saliency = torch.rand(2, 1, 16, 16, generator=seeded())
    options = {"saliency": saliency, "percentile": 50, "recipe": MapRecipe(channels=[0], signs=[0])}
    alone = call(pipeline, image, **options)
    least = float(alone.anomaly_maps.quantile(0.97))
    scouting = replace(QUICK, scout_samples=2, scout_threshold=least, scout_margin_mm=1.0)
    found = call(pipeline, image, preset=scouting, **options).masks
    assert torch.equal(found, torch.nn.functional.max_pool2d((alone.anomaly_maps >= least).float(), 3, 1, 1))
    assert 0 < found.sum() < alone.masks.sum()


def test_repaint_is_offered_the_same_first_look(whole_pipeline, image):
    repaint = RePaintPipeline(
        **whole_pipeline.components, num_inference_steps=4, jump_length=2, num_resamples=1, percentile=50
    )
    repaint.set_progress_bar_config(disable=True)
    recipe = MapRecipe(channels=[0], signs=[0])

    def found(**settings):
        generators = [seeded(i) for i in range(len(image))]
        return repaint(image, recipe=recipe, settings=Preset(num_samples=2, **settings), generator=generators)

    alone = found()
    least = float(alone.anomaly_maps.quantile(0.97))
    fitted = found(scout_samples=2, scout_threshold=least, scout_margin_mm=1.0)
    assert torch.equal(fitted.masks, torch.nn.functional.max_pool2d((alone.anomaly_maps >= least).float(), 3, 1, 1))
    outside = (fitted.masks == 0).expand_as(image)
    assert torch.equal(fitted.expected[outside], image[outside]) and 0 < fitted.masks.sum() < alone.masks.sum()
    known = replace(repaint.calibration(), recipe=recipe)  # its noise level and percentile
    known = replace(known, settings=Preset(num_samples=2, scout_samples=2, scout_threshold=least, scout_margin_mm=1.0))
    repaint.processor.calibrations = {CALIBRATED_AS: known.to_dict()}
    chosen = repaint(image, generator=[seeded(i) for i in range(len(image))])  # by its calibration, without being told
    assert torch.equal(chosen.masks, fitted.masks)


def test_where_the_first_look_finds_nothing_the_wide_mask_stays(pipeline, image):
    saliency = torch.rand(2, 1, 16, 16, generator=seeded())
    wide = call(pipeline, image, saliency=saliency).masks
    scouting = replace(QUICK, scout_samples=1, scout_threshold=2.0)  # nothing changes by so much
    assert torch.equal(call(pipeline, image, saliency=saliency, preset=scouting).masks, wide)


def test_the_mask_is_widened_only_where_the_counterfactual_does_not_pass_as_healthy(
    whole_pipeline, image, monkeypatch
):
    wide = call(whole_pipeline, image).masks
    answers = [torch.tensor([False, True]), torch.tensor([False, False])]
    monkeypatch.setattr(whole_pipeline, "looks_diseased", lambda images: answers.pop(0))
    found = call(whole_pipeline, image, preset=replace(QUICK, scout_samples=1, scout_rounds=3)).masks
    assert answers == []  # healthy at the second time of asking: the third round is not needed
    assert torch.equal(found[0], wide[0])
    assert (found[1] >= wide[1]).all() and found[1].sum() > wide[1].sum()


def test_a_given_mask_is_not_touched_by_a_first_look(pipeline, image, mask):
    scouting = replace(QUICK, scout_samples=1, scout_threshold=0.01)
    assert torch.equal(call(pipeline, image, mask=mask, preset=scouting).masks, mask)


@pytest.mark.parametrize("rounds", [0, 2])
def test_with_a_first_look_too_a_batch_is_its_images_one_by_one(whole_pipeline, rounds):
    images = torch.rand(3, 2, 16, 16, generator=seeded())
    scouting = replace(QUICK, scout_samples=2, scout_threshold=0.05, scout_rounds=rounds)
    together = call(whole_pipeline, images, preset=scouting, percentile=70)
    for i in range(3):
        alone = whole_pipeline(images[i : i + 1], preset=scouting, percentile=70, generator=seeded(i))
        torch.testing.assert_close(alone.masks[0], together.masks[i])
        torch.testing.assert_close(alone.anomaly_maps[0], together.anomaly_maps[i], rtol=0, atol=1e-5)


def test_what_a_model_was_calibrated_to_is_what_a_call_uses_and_a_file_keeps(whole_pipeline, image, tmp_path):
    recipe = MapRecipe(channels=[1], signs=[-1], sample_noise=0.1)
    chosen = Calibration(QUICK, 40, 60.0, recipe, 1.5, {"0.01": 2.0}, "a test")
    whole_pipeline.processor.calibrations = {"fast": chosen.to_dict()}
    whole_pipeline.save_pretrained(tmp_path)
    loaded = type(whole_pipeline).from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.calibration("fast") == chosen and chosen.threshold_for(0.01) == 2.0
    expected = call(whole_pipeline, image, noise_level=40, percentile=60.0, recipe=recipe)
    actual = call(loaded, image, preset="fast")
    for name in ("counterfactuals", "anomaly_maps", "masks"):
        assert torch.equal(actual[name], expected[name])
    assert actual.agreement is None  # one sample has no standard deviation of its own
    plain = loaded.calibration("exact")  # of which nothing was chosen
    assert plain.settings == choose_settings("exact") and plain.recipe is None
    assert plain.noise_level == loaded.config.noise_level and plain.percentile == loaded.config.percentile
    with pytest.raises(InputError, match="0.05 false positives .it is for: 0.01.; calibrate it"):
        chosen.threshold_for(0.05)


def test_a_calibration_that_cannot_be_read_says_so(whole_pipeline, image):
    whole_pipeline.processor.calibrations = {"fast": {"settings": {"speed": 3}, "recipe": None}}
    with pytest.raises(InputError, match="calibration cannot be read"):
        whole_pipeline(image, preset="fast")
