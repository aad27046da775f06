"""Facts about THOR: what a step's map is, what is blended where and when, and what all maps are together."""

from itertools import pairwise

import pytest
import torch
from scipy.stats import hmean
from tiny_models import constant_unet, tiny_unet

from difffuse_hf import DifFuseScheduler, THORPipeline
from difffuse_hf.pipelines.anomaly_map import closing, dilation
from difffuse_hf.pipelines.perceptual import structural_distance
from difffuse_hf.pipelines.pipeline_thor import widened
from difffuse_hf.saliency.mask import gaussian_blur


@pytest.fixture
def image():
    return 0.4 + 0.2 * torch.rand(2, 2, 16, 16, generator=torch.Generator().manual_seed(3))


def thor(unet, **options):
    pipeline = THORPipeline(unet, DifFuseScheduler(), **{"noise_level": 60, "region_size": 5, **options})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def way_down(pipeline, image, steps, levels, spacing):
    """The chain and the maps of its steps, written out."""
    scheduler, clean, generator, maps = pipeline.scheduler, 2 * image - 1, seeded(), []
    noise_level, size = pipeline.config["noise_level"], pipeline.config["region_size"]
    way_up = torch.randn(image.shape, generator=generator)
    sample = scheduler.diffuse(clean, 0, noise_level, way_up)
    for level, target in pairwise(scheduler.levels_from(noise_level, steps)):
        with torch.no_grad():
            noise_pred = pipeline.unet(sample, level - 1).sample
        signal = scheduler.alpha_bar(level)
        predicted = ((sample - (1 - signal) ** 0.5 * noise_pred) / signal**0.5 / 2 + 0.5).clamp(0, 1)
        noise = torch.randn(image.shape, generator=generator)
        sample = scheduler.reverse_step(noise_pred, level, target, sample, 1.0, noise, None)
        reached = [mark for mark in range(1, noise_level) if target < mark <= level]
        if any(mark == 1 or mark % spacing == 0 or mark in levels for mark in reached):
            product = gaussian_blur(structural_distance(image, predicted), 11) * (image - predicted).abs().mean(
                1, keepdim=True
            )
            maps.append(product / product.amax((1, 2, 3), keepdim=True))
            if set(reached) & set(levels):
                region = (dilation(closing(maps[-1], size), size) + maps[-1]) / 2
                blended = 2 * (region * predicted + (1 - region) * image) - 1
                signal = scheduler.alpha_bar(target)
                sample = signal**0.5 * blended + (1 - signal) ** 0.5 * way_up
    return (sample / 2 + 0.5).clamp(0, 1), torch.stack(maps)


@pytest.mark.parametrize(
    ("steps", "levels", "spacing", "count"), [(12, [40, 20], 15, 6), (12, [60], 50, 2), (3, [40, 30, 25], 50, 3)]
)
def test_the_chain_is_blended_at_its_levels_and_the_map_is_the_harmonic_mean(image, steps, levels, spacing, count):
    pipeline = thor(tiny_unet(), harmonization_levels=levels, map_spacing=spacing)
    expected, maps = way_down(pipeline, image, steps, levels, spacing)
    assert len(maps) == count  # a level K itself is where the image is noised to, not met on the way down
    output = pipeline(image, num_inference_steps=steps, generator=seeded())
    torch.testing.assert_close(output.counterfactuals, expected, rtol=0, atol=1e-5)
    together = torch.from_numpy(hmean(maps.double().numpy(), axis=0)).float()
    torch.testing.assert_close(output.anomaly_maps, together, rtol=0, atol=1e-4)


def test_where_nothing_disagrees_the_image_is_put_back_exactly(image):
    # What comes after the last blending is a step from the image under the noise of the way up
    pipeline = thor(constant_unet(noise=0.3), harmonization_levels=[1], map_spacing=10)
    same = pipeline(image, perceptual=lambda a, b: torch.zeros_like(a[:, :1]), generator=seeded())
    torch.testing.assert_close(same.counterfactuals, image, rtol=0, atol=1e-6)
    assert not same.anomaly_maps.any()
    unblended = thor(constant_unet(noise=0.3), harmonization_levels=[60], map_spacing=10)
    left = unblended(image, perceptual=lambda a, b: torch.zeros_like(a[:, :1]), generator=seeded())
    assert (left.counterfactuals - image).abs().mean() > 0.01


def test_a_step_map_is_the_blurred_distance_times_the_residual_of_its_channels_scaled_to_1(image):
    pipeline, predicted = thor(tiny_unet(), anomaly_channels=[1]), image.clone()
    predicted[0, 0] += 0.3  # a channel that does not count
    predicted[:, 1, 4:7, 4:7] += 0.2
    distance = torch.rand(2, 1, 16, 16, generator=seeded(1))
    found = pipeline.disagreement(image, predicted, lambda a, b: distance)
    offsets = torch.arange(-5.0, 6.0)
    weights = torch.exp(-(offsets**2) / (2 * 2.0**2))  # σ of two pixels
    weights = torch.outer(weights, weights) / weights.sum() ** 2
    padded = torch.nn.functional.pad(distance, (5, 5, 5, 5), mode="reflect")
    product = torch.nn.functional.conv2d(padded, weights[None, None])
    product[..., :4, :] = product[..., 7:, :] = product[..., :4] = product[..., 7:] = 0
    torch.testing.assert_close(found, product / product.amax((1, 2, 3), keepdim=True), rtol=0, atol=1e-5)


def test_a_region_closes_gaps_and_reaches_half_as_strongly_around_itself():
    spots = torch.zeros(1, 1, 1, 15)
    spots[..., 5] = spots[..., 7] = 1
    assert widened(spots, 3).flatten().tolist() == [0] * 4 + [0.5, 1, 0.5, 1, 0.5] + [0] * 6
