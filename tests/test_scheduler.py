"""Facts about one step, in float64 and against the stock schedulers."""

from itertools import pairwise

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, DDPMPipeline, DDPMScheduler
from tiny_models import tiny_unet

from difffuse_hf import DifFuseScheduler, load_pipeline
from difffuse_hf.errors import InputError
from difffuse_hf.io.hub import EMBEDDED

SHAPE = (2, 3, 4, 4)
STOCK = {"beta_start": 1e-4, "beta_end": 0.02, "clip_sample": False}


@pytest.fixture
def sample():
    return torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def noise():
    return torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def in_float64(stock):
    stock.alphas_cumprod = stock.alphas_cumprod.double()
    return stock


def predict(sample, level):
    """A noise prediction that depends on the sample and the level."""
    return torch.tanh(sample + level / 500)


def gaussian_noise_pred(scheduler, sample, level, mean=0.3, deviation=0.4):
    """ε* for data that is N(mean, deviation²) in every pixel: the posterior mean of the noise, linear in x_t."""
    alpha_bar = scheduler.alpha_bar(level)
    variance = alpha_bar * deviation**2 + 1 - alpha_bar
    return (1 - alpha_bar) ** 0.5 * (sample - alpha_bar**0.5 * mean) / variance


def test_equation_6_7_is_equation_6_8_at_the_ddpm_variance(scheduler, sample, noise):
    level, noise_pred = 300, predict(sample, 300)
    alpha_bar = scheduler.alpha_bar(level)
    alpha = alpha_bar / scheduler.alpha_bar(level - 1)
    mean = (sample - (1 - alpha) / (1 - alpha_bar) ** 0.5 * noise_pred) / alpha**0.5  # μ_θ of Eq. 6.7
    expected = mean + scheduler.posterior_variance(level, level - 1) ** 0.5 * noise
    actual = scheduler.reverse_step(noise_pred, level, level - 1, sample, eta=1.0, noise=noise)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("steps", [1000, 100, 7])
@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_ddpm_steps_are_the_stock_scheduler_also_when_strided(sample, steps, variance_type):
    scheduler = DifFuseScheduler(variance_type=variance_type)
    stock = in_float64(DDPMScheduler(**STOCK, variance_type=variance_type))
    scheduler.set_timesteps(steps)
    stock.set_timesteps(timesteps=scheduler.timesteps.tolist())
    for level, target in list(pairwise(scheduler.levels))[
        : -1 : max(1, steps // 20)
    ]:  # the last has a test of its own
        noise_pred = predict(sample, level)
        generator = torch.Generator().manual_seed(level)
        noise = torch.randn(SHAPE, dtype=torch.float64, generator=generator.clone_state())
        expected = stock.step(noise_pred, level - 1, sample, generator=generator).prev_sample
        actual = scheduler.reverse_step(noise_pred, level, target, sample, eta=1.0, noise=noise)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("clip_sample", [False, True])
def test_ddim_steps_are_the_stock_scheduler(sample, clip_sample):
    scheduler = DifFuseScheduler(clip_sample=clip_sample)
    stock = in_float64(DDIMScheduler(**{**STOCK, "clip_sample": clip_sample}, timestep_spacing="trailing"))
    scheduler.set_timesteps(50)
    stock.set_timesteps(50)
    assert stock.timesteps.tolist() == scheduler.timesteps.tolist()
    for level, target in pairwise(scheduler.levels):
        noise_pred = predict(sample, level)
        expected = stock.step(noise_pred, level - 1, sample, use_clipped_model_output=True).prev_sample
        torch.testing.assert_close(
            scheduler.reverse_step(noise_pred, level, target, sample), expected, rtol=0, atol=1e-12
        )


def test_inversion_is_the_stock_inverse_scheduler_fed_the_noise_of_the_current_level(scheduler, sample):
    stock = in_float64(DDIMInverseScheduler(**STOCK, timestep_spacing="trailing"))
    stock.set_timesteps(100)
    scheduler.set_timesteps(100)
    expected = actual = sample
    for level, target in pairwise(scheduler.levels[::-1]):
        expected = stock.step(predict(expected, level), target - 1, expected).prev_sample
        actual = scheduler.invert_step(predict(actual, level), level, target, actual)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_inversion_then_ddim_is_the_identity_when_the_noise_does_not_depend_on_the_sample(scheduler, sample, noise):
    scheduler.set_timesteps(13, noise_level=700)
    result = sample
    for level, target in pairwise(scheduler.levels[::-1] + scheduler.levels[1:]):
        result = scheduler.reverse_step(noise, level, target, result)
    torch.testing.assert_close(result, sample, rtol=0, atol=1e-12)


def test_round_trip_error_halves_when_the_steps_double(scheduler, sample):
    def error(steps):
        scheduler.set_timesteps(steps, noise_level=500)
        result = sample
        for level, target in pairwise(scheduler.levels[::-1] + scheduler.levels[1:]):
            result = scheduler.reverse_step(gaussian_noise_pred(scheduler, result, level), level, target, result)
        return (result - sample).abs().mean().item()

    errors = [error(steps) for steps in (62, 125, 250, 500)]
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(2, rel=0.1)


def test_fusing_with_a_binary_mask_is_ddim_with_a_noise_level_per_pixel(scheduler, sample, noise):
    noise_pred = predict(sample, 400)
    mask = (torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(2)) > 0.5).double()
    fused = scheduler.fused_step(noise_pred, 400, 360, sample, mask, noise)
    per_pixel = scheduler.reverse_step(noise_pred, 400, 360, sample, eta=mask, noise=noise)  # σ_t replaced by m·σ_t
    torch.testing.assert_close(fused, per_pixel, rtol=0, atol=1e-13)
    soft = 0.5 * mask
    per_pixel = scheduler.reverse_step(noise_pred, 400, 360, sample, eta=soft, noise=noise)
    assert not torch.allclose(scheduler.fused_step(noise_pred, 400, 360, sample, soft, noise), per_pixel)


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_the_last_step_gives_the_predicted_image_without_noise(sample, noise, variance_type):
    scheduler = DifFuseScheduler(variance_type=variance_type)
    last = scheduler.reverse_step(noise, 40, 0, sample, eta=1.0, noise=noise)
    torch.testing.assert_close(last, scheduler.predict_original(noise, 40, sample), rtol=0, atol=1e-14)


def test_adding_noise_and_predicting_the_image_undo_each_other(scheduler, sample, noise):
    noisy = scheduler.add_noise(sample, noise, torch.tensor([299, 299]))
    torch.testing.assert_close(scheduler.predict_original(noise, 300, noisy), sample, rtol=0, atol=1e-12)


def test_diffusing_in_two_stages_is_diffusing_once(scheduler, sample, noise):
    def once(clean, noise):
        return scheduler.diffuse(clean, 0, 700, noise)

    def twice(clean, first, second):
        return scheduler.diffuse(scheduler.diffuse(clean, 0, 120, first), 120, 700, second)

    none = torch.zeros_like(sample)
    torch.testing.assert_close(twice(sample, none, none), once(sample, none), rtol=0, atol=1e-13)
    power = twice(none, noise, none) ** 2 + twice(none, none, noise) ** 2  # of independent noise
    torch.testing.assert_close(power, once(none, noise) ** 2, rtol=0, atol=1e-13)
    stock = scheduler.add_noise(sample, noise, torch.tensor([699, 699]))
    torch.testing.assert_close(once(sample, noise), stock, rtol=0, atol=1e-13)


def test_v_prediction_is_read_as_the_noise(sample, noise):
    scheduler = DifFuseScheduler(prediction_type="v_prediction")
    alpha_bar = scheduler.alpha_bar(300)
    noisy = scheduler.diffuse(sample, 0, 300, noise)
    velocity = alpha_bar**0.5 * noise - (1 - alpha_bar) ** 0.5 * sample
    noise_pred, variance_fraction = scheduler.read_prediction(velocity, 300, noisy)
    torch.testing.assert_close(noise_pred, noise, rtol=0, atol=1e-12)
    torch.testing.assert_close(scheduler.predict_original(noise_pred, 300, noisy), sample, rtol=0, atol=1e-12)
    assert variance_fraction is None


def test_v_prediction_agrees_with_the_stock_scheduler(sample, noise):
    scheduler = DifFuseScheduler(prediction_type="v_prediction")
    stock = in_float64(DDIMScheduler(**STOCK, prediction_type="v_prediction", timestep_spacing="trailing"))
    stock.set_timesteps(50)
    expected = stock.step(predict(sample, 400), 399, sample).prev_sample
    noise_pred, _ = scheduler.read_prediction(predict(sample, 400), 400, sample)
    torch.testing.assert_close(scheduler.reverse_step(noise_pred, 400, 380, sample), expected, rtol=0, atol=1e-12)


def test_a_learned_variance_agrees_with_the_stock_scheduler(sample, noise):
    scheduler = DifFuseScheduler(variance_type="learned_range")
    stock = in_float64(DDPMScheduler(**STOCK, variance_type="learned_range"))
    output = torch.cat([predict(sample, 300), torch.tanh(noise)], dim=1)
    generator = torch.Generator().manual_seed(4)
    draw = torch.randn(SHAPE, dtype=torch.float64, generator=generator.clone_state())
    expected = stock.step(output, 299, sample, generator=generator).prev_sample
    noise_pred, variance_fraction = scheduler.read_prediction(output, 300, sample)
    actual = scheduler.reverse_step(noise_pred, 300, 299, sample, 1.0, draw, variance_fraction)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)  # stock betas are float32


@pytest.mark.parametrize(("fraction", "variance_type"), [(0.0, "fixed_small"), (1.0, "fixed_large")])
def test_a_learned_variance_lies_between_the_fixed_ones(sample, noise, fraction, variance_type):
    noise_pred, fraction = predict(sample, 300), torch.full_like(sample, fraction)
    fixed = DifFuseScheduler(variance_type=variance_type).reverse_step(noise_pred, 300, 290, sample, 1.0, noise)
    learned = DifFuseScheduler(variance_type="learned_range").reverse_step(
        noise_pred, 300, 290, sample, 1.0, noise, variance_fraction=fraction
    )
    torch.testing.assert_close(learned, fixed, rtol=0, atol=1e-12)


def test_a_learned_variance_that_is_not_there_is_refused(sample, noise):
    with pytest.raises(ValueError, match="'learned_range' but the U-Net predicts no variance"):
        DifFuseScheduler(variance_type="learned_range").reverse_step(noise, 300, 290, sample, 1.0, noise)


def test_a_unet_with_other_numbers_of_channels_is_refused(scheduler, sample):
    with pytest.raises(ValueError, match="must give 3 channels, or 6 with a learned variance, got 4"):
        scheduler.read_prediction(torch.zeros(2, 4, 4, 4), 300, sample)


@pytest.mark.parametrize(("steps", "noise_level"), [(None, 500), (10, 500), (7, 23), (23, 23), (1, 5)])
def test_levels_fall_from_the_noise_level_to_the_clean_image(scheduler, steps, noise_level):
    scheduler.set_timesteps(steps, noise_level)
    assert scheduler.levels[0] == noise_level and scheduler.levels[-1] == 0
    assert len(scheduler.levels) == (steps or noise_level) + 1
    assert all(level > target for level, target in pairwise(scheduler.levels))
    assert scheduler.timesteps.tolist() == [level - 1 for level in scheduler.levels[:-1]]


@pytest.mark.parametrize("arguments", [{"noise_level": 1001}, {"num_inference_steps": 20, "noise_level": 10}])
def test_impossible_schedules_are_refused(scheduler, arguments):
    with pytest.raises(ValueError, match="must lie between 1 and"):
        scheduler.set_timesteps(**arguments)


@pytest.mark.parametrize(
    "config", [{"prediction_type": "sample"}, {"variance_type": "learned"}, {"beta_schedule": "cosine"}]
)
def test_configurations_that_are_not_supported_are_refused(config):
    with pytest.raises(InputError, match="must be one of .*, got"):
        DifFuseScheduler(**config)


@pytest.mark.parametrize(
    "settings",
    [
        {"clip_sample": False},
        {"clip_sample": True},
        # strided, the stock scheduler adds noise of this variance to the finished image
        {"clip_sample": False, "variance_type": "fixed_large", "num_train_timesteps": 20, "beta_end": 0.3},
    ],
)
def test_the_stock_ddpm_pipeline_makes_the_images_of_the_stock_scheduler(settings):
    unet, images = tiny_unet(), []
    for scheduler in (DDPMScheduler(**settings, timestep_spacing="trailing"), DifFuseScheduler(**settings)):
        pipeline = DDPMPipeline(unet, scheduler)
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        images.append(pipeline(2, generator, num_inference_steps=20, output_type="pt").images)
    torch.testing.assert_close(*images, rtol=0, atol=1e-4)
    assert images[0].std() > 0.05


def test_a_step_goes_to_the_next_level_of_the_grid_and_gives_a_tuple_if_asked(scheduler, sample, noise):
    scheduler.set_timesteps(10)
    drawn = torch.Generator().manual_seed(7)
    z = torch.randn(SHAPE, dtype=torch.float64, generator=drawn.clone_state())
    stepped = scheduler.step(noise, torch.tensor(599), sample, generator=drawn)
    assert torch.equal(stepped.prev_sample, scheduler.reverse_step(noise, 600, 500, sample, 1.0, z))
    assert torch.equal(stepped.pred_original_sample, scheduler.predict_original(noise, 600, sample))
    ddim, original = scheduler.step(noise, 599, sample, eta=0.0, return_dict=False)
    assert torch.equal(ddim, scheduler.reverse_step(noise, 600, 500, sample))
    assert torch.equal(original, stepped.pred_original_sample)
    assert torch.equal(scheduler.step(noise, 99, sample).prev_sample, scheduler.predict_original(noise, 100, sample))
    assert torch.equal(scheduler.scale_model_input(sample, 599), sample) and scheduler.init_noise_sigma == 1


def test_the_levels_are_had_without_laying_a_grid(scheduler):
    scheduler.set_timesteps(5)
    assert scheduler.levels_from(12, 4) == [12, 9, 6, 3, 0]
    assert scheduler.levels == [1000, 800, 600, 400, 200, 0] and scheduler.num_inference_steps == 5


def test_no_chain_starts_above_what_the_unet_was_trained_on(tmp_path):
    DifFuseScheduler(max_timestep=500).save_pretrained(tmp_path)
    scheduler = DifFuseScheduler.from_pretrained(tmp_path)
    assert len(scheduler) == 1000 and scheduler.levels_from(num_inference_steps=2) == [500, 250, 0]
    assert DifFuseScheduler().levels_from(num_inference_steps=2) == [1000, 500, 0]
    with pytest.raises(InputError, match="between 1 and 500, below which the U-Net was trained, got 501"):
        scheduler.levels_from(501)
    with pytest.raises(InputError, match="`max_timestep` must be 1 to 1000, got 1001"):
        DifFuseScheduler(max_timestep=1001)


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_models_of_the_package_say_up_to_which_level_they_were_trained(name):
    assert load_pipeline(name).scheduler.highest_level == 500


def test_the_configuration_of_another_scheduler_keeps_its_noise_schedule_or_is_refused():
    betas = torch.linspace(1e-3, 5e-2, 1000).tolist()
    for stock in (DDPMScheduler(trained_betas=betas), DDIMScheduler(beta_schedule="scaled_linear")):
        ours = DifFuseScheduler.from_config(stock.config)
        torch.testing.assert_close(ours.alphas_cumprod.float(), stock.alphas_cumprod, rtol=0, atol=1e-7)
    for settings in ({"rescale_betas_zero_snr": True}, {"thresholding": True}, {"clip_sample_range": 2.0}):
        with pytest.raises(InputError, match=f"`{next(iter(settings))}`"):
            DifFuseScheduler.from_config(DDPMScheduler(**settings).config)
