"""Facts about RePaint and AutoDDPM: the schedule of jumps, the known region, the mask and its threshold."""

from collections import Counter
from itertools import pairwise

import pytest
import torch
from diffusers import RePaintScheduler

from difffuse_hf import AutoDDPMPipeline, DifFuseScheduler, RePaintPipeline
from difffuse_hf.errors import InputError
from difffuse_hf.evaluation.anomaly import Slices
from difffuse_hf.evaluation.calibration import schedules, search
from difffuse_hf.evaluation.segmentation import dice
from difffuse_hf.pipelines.anomaly_map import dilation
from difffuse_hf.pipelines.perceptual import structural_distance
from difffuse_hf.pipelines.pipeline_repaint import jump_levels
from difffuse_hf.pipelines.sampling import Sampling, SamplingOptions, leave


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def repaint(unet, scheduler):
    return quiet(RePaintPipeline(unet, scheduler, num_inference_steps=6, jump_length=2, num_resamples=2))


@pytest.fixture
def autoddpm(unet, scheduler):
    options = {"noise_level": 6, "inpaint_level": 3, "num_resamples": 2, "mask_threshold": 0.002}
    return quiet(AutoDDPMPipeline(unet, scheduler, **options))


@pytest.fixture
def calls(unet):
    recorded = []
    unet.register_forward_hook(lambda module, inputs, output: recorded.append(int(inputs[1])))
    return recorded


# RePaint


def test_the_walk_jumps_back_after_every_stretch():
    assert jump_levels([40, 30, 20, 10, 0], 2, 2) == [40, 30, 20, 10, 0, 10, 20, 10, 0]
    assert jump_levels(range(5, -1, -1), 2, 3) == [5, 4, 3, 2, 3, 4, 3, 2, 3, 4, 3, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1, 0]
    assert jump_levels([9, 6, 3, 0], 1, 1) == [9, 6, 3, 0]


def test_the_published_schedule_makes_4570_moves(scheduler):
    scheduler.set_timesteps(250)
    walk = jump_levels(scheduler.levels, 10, 10)
    moves = Counter(pairwise(walk))
    assert walk[0] == 1000 and walk[-1] == 0 and set(walk) == set(scheduler.levels)
    assert sum(moves.values()) == 4570
    assert all(abs(level - target) == 4 for level, target in moves)
    down = {level: moves[level, level - 4] for level in scheduler.levels[:-1]}
    assert {count for level, count in down.items() if level > 240 * 4} == {1}  # the first stretch
    assert {count for level, count in down.items() if level <= 240 * 4} == {10}


def test_a_move_is_that_of_the_stock_scheduler(repaint, image, mask):
    stock = RePaintScheduler(eta=1.0, clip_sample=False)
    stock.alphas_cumprod = repaint.scheduler.alphas_cumprod
    stock.set_timesteps(1000)
    sample = torch.randn(2, 2, 16, 16, generator=seeded(1))
    clean, noise = 2 * image - 1, torch.randn(2, 2, 16, 16, generator=seeded(2))

    def draw(sample, level, generators, shared_by):
        return noise

    run = Sampling(image, SamplingOptions(), None, repaint.predict_noise, draw, leave)
    with repaint.bar(4) as bar, torch.no_grad():
        for level in (300, 1):
            noise_pred = repaint.unet(sample, level - 1).sample
            # stock masks are 1 where the image is known
            expected = stock.step(noise_pred, level - 1, sample, clean, 1 - mask, generator=seeded(2)).prev_sample
            actual = repaint.inpaint(sample, clean, mask, [level, level - 1], run, bar)
            torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
        expected = stock.undo_step(sample, 300, generator=seeded(2))
        actual = repaint.inpaint(sample, clean, mask, [300, 301], run, bar)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_repaint_starts_at_the_highest_level_that_the_unet_was_trained_on(unet, calls, image, mask):
    learned = DifFuseScheduler(max_timestep=500)
    quiet(RePaintPipeline(unet, learned, num_inference_steps=5, jump_length=1, num_resamples=1))(image, mask=mask)
    assert calls == [499, 399, 299, 199, 99]


def test_repaint_keeps_the_known_region_exactly(repaint, image, mask):
    output = repaint(image, mask=mask, generator=seeded())
    outside = (mask == 0).expand_as(image)
    assert torch.equal(output.counterfactuals[outside], image[outside])
    assert not torch.equal(output.counterfactuals, image)
    assert torch.equal(output.masks, mask) and output.saliency is None


def test_repaint_never_sees_the_tissue_under_the_mask(repaint, image, mask):
    expected = repaint(image, mask=mask, generator=seeded()).counterfactuals
    actual = repaint(torch.where(mask > 0, 1.0, image), mask=mask, generator=seeded()).counterfactuals
    assert torch.equal(actual, expected)


def test_repaint_calls_the_network_on_the_way_down_only(repaint, calls, image, mask):
    repaint(image, mask=mask, noise_level=12)
    assert calls == [11, 9, 7, 5, 7, 5, 3, 1, 3, 1]


def test_repaint_takes_the_mask_from_saliency(repaint, image):
    saliency = torch.rand(2, 1, 16, 16, generator=seeded())
    output = repaint(image, saliency=saliency, percentile=75)
    assert output.masks.mean().item() == pytest.approx(0.25, abs=0.01)
    assert torch.equal(output.saliency, saliency)
    with pytest.raises(InputError, match="no classifier and autoencoder of its own: pass `saliency` or `mask`"):
        repaint(image)


@pytest.mark.parametrize("arguments", [{"jump_length": 0}, {"num_resamples": 0}])
def test_impossible_jumps_are_refused(repaint, image, mask, arguments):
    with pytest.raises(ValueError, match="`jump_length` and `num_resamples` must be at least 1"):
        repaint(image, mask=mask, **arguments)


def test_repaints_samples_are_repainted_each_from_noise_of_its_own_inside_the_mask(repaint, image, mask):
    output = repaint(image, mask=mask, num_samples=3, generator=[seeded(1), seeded(2)])
    inside = (mask > 0).expand_as(image)
    torch.testing.assert_close(output.expected[~inside], image[~inside])
    assert output.deviation[~inside].max() < 1e-6 < 0.1 < output.deviation[inside].mean()
    assert output.uncertainty.shape == mask.shape
    alone = repaint(image[1:], mask=mask[1:], num_samples=3, generator=seeded(2))
    torch.testing.assert_close(alone.expected[0], output.expected[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(output.anomaly_maps, repaint.map_of(image, output.expected))
    assert repaint(image, mask=mask, generator=seeded()).deviation is None


def test_repaint_is_calibrated_with_the_maps_and_percentiles_of_dif_fuse(whole_pipeline, image, mask):
    parts = {name: whole_pipeline.components[name] for name in ("unet", "classifier", "autoencoder", "processor")}
    options = {"num_inference_steps": 3, "jump_length": 1, "num_resamples": 1, "saliency_options": {"num_steps": 2}}
    pipe = quiet(RePaintPipeline(scheduler=whole_pipeline.scheduler, **parts, **options))
    sick = Slices(image, mask, torch.ones(2).long(), ["a", "b"], "validation")
    well = Slices(image.flip(3), 0 * mask, torch.zeros(2).long(), ["c", "d"], "validation")
    plans = schedules(pipe, "exact", {"num_samples": [2], "percentile": [60.0]})
    best = next(search(pipe, plans, sick, well, {"flair": 1}, [0.05]))[0]
    plan, generators = best.calibration, [seeded(0), seeded(1)]
    assert best.calls == 6 and plan.recipe.channels == (0,) and pipe.map_is_of_the_counterfactual
    pipe.processor.calibrations = {"repaint": plan.to_dict()}
    output = pipe(image, generator=generators)
    assert output.masks.mean().item() == pytest.approx(0.4, abs=0.01) and not pipe.map_is_of_the_counterfactual
    overlap = dice(output.anomaly_maps >= plan.threshold, mask)
    torch.testing.assert_close(best.scores, overlap, rtol=0, atol=1e-6)


# AutoDDPM


def test_autoddpm_keeps_the_known_region_exactly(autoddpm, image):
    output = autoddpm(image, generator=seeded())
    outside = (output.masks == 0).expand_as(image)
    assert 0 < outside.float().mean() < 1
    assert torch.equal(output.counterfactuals[outside], image[outside])
    assert (output.counterfactuals[~outside] != image[~outside]).any()
    assert (output.anomaly_maps[output.masks == 0] == 0).all()


def test_autoddpm_steps_down_several_times_at_each_level_of_the_resampling(autoddpm, calls, image):
    autoddpm(image)
    assert calls == [5, 4, 3, 2, 1, 0] + [2, 2, 1, 1, 0, 0]


def test_the_mask_is_where_perceptual_distance_times_residual_exceeds_the_threshold(autoddpm, image):
    seen = {}

    def perceptual(coarse, original):
        seen["distance"] = structural_distance(coarse, original)
        seen["residual"] = (coarse - original).abs().mean(1, keepdim=True)
        return seen["distance"]

    output = autoddpm(image, perceptual=perceptual, generator=seeded())
    percentile_95 = torch.stack([one.quantile(0.95) for one in seen["residual"]]).view(2, 1, 1, 1)
    initial = seen["distance"] * (seen["residual"] / percentile_95).clamp(0, 1)
    assert torch.equal(output.masks, dilation((initial > 0.002).float(), 3))
    change = (image - output.counterfactuals).abs().mean(1, keepdim=True)
    torch.testing.assert_close(output.anomaly_maps, change * initial, rtol=0, atol=1e-6)


def test_autoddpms_public_code_differs_in_the_first_call_of_the_inpainting_and_outside_the_mask_alone(autoddpm, image):
    shown = []
    autoddpm.unet.register_forward_hook(lambda module, inputs, output: shown.append(inputs[0].clone()))
    runs = []
    for start in ("stitched", "reconstruction"):
        autoddpm.register_to_config(inpaint_from=start)
        output = autoddpm(image, generator=seeded())
        runs.append(shown[6:])  # after the six steps of the coarse reconstruction
        shown.clear()
    outside = (output.masks == 0).expand_as(image)
    assert 0 < outside.float().mean() < 1
    (first, *stitched), (other, *public) = runs
    assert torch.equal(first[~outside], other[~outside]) and not torch.allclose(first[outside], other[outside])
    for one, two in zip(stitched, public):
        torch.testing.assert_close(one[outside], two[outside], rtol=0, atol=1e-6)


@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_calibration_lets_no_more_healthy_pixels_through_than_asked(autoddpm, image, rate):
    image = torch.cat([image, image.flip(-1)])
    image[..., :4] = 0  # black, and not counted
    autoddpm.register_to_config(dilation_size=1)
    threshold = autoddpm.calibrate(image, rate, generator=[seeded(i) for i in range(4)], batch_size=3)
    assert autoddpm.config.mask_threshold == threshold
    masks = autoddpm(image, generator=[seeded(i) for i in range(4)]).masks
    tissue = (image > 0).any(1, keepdim=True)
    share = masks[tissue].mean().item()
    assert rate - 2 / tissue.sum() < share <= rate  # and hardly fewer


def test_a_calibrated_threshold_is_saved_with_the_model(autoddpm, image, tmp_path):
    threshold = autoddpm.calibrate(image, generator=seeded())
    autoddpm.save_pretrained(tmp_path)
    assert AutoDDPMPipeline.from_pretrained(tmp_path).config.mask_threshold == threshold


def test_without_a_threshold_autoddpm_asks_for_calibration(unet, scheduler, image):
    with pytest.raises(InputError, match="no `mask_threshold`: choose it on healthy slices with `calibrate`"):
        AutoDDPMPipeline(unet, scheduler)(image)


def test_healthy_slices_that_show_nothing_are_refused(autoddpm, image):
    with pytest.raises(InputError, match="slices are black"):
        autoddpm.calibrate(torch.zeros_like(image))


def test_dif_fuse_repaints_a_mask_of_autoddpm(pipeline, autoddpm, image):
    masks = autoddpm(image, generator=seeded()).masks
    output = pipeline(image, mask=masks, generator=seeded())
    outside = (masks == 0).expand_as(image)
    assert torch.equal(output.masks, masks)
    assert torch.equal(output.counterfactuals[outside], image[outside])
