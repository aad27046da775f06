"""Facts about AnoFPDM: its way up, the level and the threshold that each image gets, and what labels decide."""

from itertools import pairwise

import pytest
import torch
from tiny_models import tiny_unet

from difffuse_hf import AnoFPDMPipeline, DifFuseScheduler
from difffuse_hf.errors import InputError
from difffuse_hf.pipelines.anomaly_map import median_filter
from difffuse_hf.pipelines.sampling import SamplingOptions

HEALTHY, NULL, STEPS = 0, 2, 5


@pytest.fixture
def image():
    return 0.4 + 0.2 * torch.rand(3, 2, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def pipeline():
    unet = tiny_unet(num_class_embeds=3)
    torch.nn.init.normal_(unet.class_embedding.weight, generator=torch.Generator().manual_seed(5))
    pipeline = AnoFPDMPipeline(unet, DifFuseScheduler(), noise_level=400, median_size=1)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def way_up(pipeline, image, scale):
    """x̂_0 of the healthy class and of none at every level, written out: two (levels, B, C, H, W)."""
    scheduler, sample, guided, plain = pipeline.scheduler, 2 * image - 1, [], []
    with torch.no_grad():
        for level, target in pairwise(scheduler.levels_from(400, STEPS)[::-1]):
            labels = torch.full((len(image),), NULL)
            noise = pipeline.unet(sample, max(level - 1, 0), class_labels=labels).sample
            sample = scheduler.invert_step(noise, level, target, sample)
            null, healthy = (
                pipeline.unet(sample, target - 1, class_labels=torch.full_like(labels, one)).sample
                for one in (NULL, HEALTHY)
            )
            signal = scheduler.alpha_bar(target)
            for found, noise in ((guided, null + scale * (healthy - null)), (plain, null)):
                found.append(((sample - (1 - signal) ** 0.5 * noise) / signal**0.5).clamp(-1, 1))
    return torch.stack(guided), torch.stack(plain)


def seen(pipeline, image, scale=3.0):
    run = pipeline.begin(image, SamplingOptions(num_inference_steps=STEPS))
    with torch.no_grad():
        return pipeline.forward_process(run, scale)


def test_each_channel_is_averaged_up_to_the_level_where_the_healthy_class_changes_the_most(pipeline, image):
    guided, plain = way_up(pipeline, image, 3.0)
    clean, found = 2 * image - 1, seen(pipeline, image)
    diverged = (guided - plain).square().mean((3, 4))  # (levels, B, C)
    level = diverged.argmax(0)
    torch.testing.assert_close(found.divergence, diverged.amax(0))
    for b, c in [(0, 0), (1, 1), (2, 0)]:
        upto = slice(level[b, c] + 1)
        torch.testing.assert_close(found.maps[b, c], ((guided[upto, b, c] - clean[b, c]) ** 2).mean(0))
        torch.testing.assert_close(found.predicted[b, c], guided[level[b, c], b, c])
    errors = [((one - clean) ** 2).mean((2, 3, 4)).T for one in (guided, plain)]  # (B, levels)
    torch.testing.assert_close(found.similarity, torch.nn.functional.cosine_similarity(*errors, dim=1))


def test_without_guidance_nothing_diverges_and_the_errors_are_the_same(pipeline, image):
    found = seen(pipeline, image, scale=0.0)
    assert not found.divergence.any()
    torch.testing.assert_close(found.similarity, torch.ones(3))


def test_the_map_is_the_median_of_the_mean_over_its_channels(pipeline, image):
    found = seen(pipeline, image)
    for channels in (None, [1]):
        pipeline.register_to_config(anomaly_channels=channels, median_size=3)
        expected = median_filter(found.maps[:, channels or [0, 1]].mean(1, keepdim=True), 3)
        torch.testing.assert_close(pipeline(image, num_inference_steps=STEPS).anomaly_maps, expected)


@pytest.mark.parametrize(("share", "quantile"), [(0.0, 0.98), (0.5, 0.94), (1.0, 0.90), (3.0, 0.90)])
def test_the_more_the_classes_diverge_the_lower_the_quantile(pipeline, image, share, quantile):
    found = seen(pipeline, image[:1])
    pipeline.register_to_config(largest_divergence=(found.divergence[0] / max(share, 1e-9)).tolist())
    expected = torch.stack([one.quantile(quantile) for one in found.maps[0].flatten(1)]).mean()
    assert pipeline.own_thresholds(found).item() == pytest.approx(expected.item(), rel=1e-5)


def test_labels_choose_the_similarity_that_parts_the_classes_and_the_largest_divergence_of_lesions(pipeline, image):
    found = seen(pipeline, image)
    order = found.similarity.argsort()
    labels = torch.zeros(3).long()
    labels[order[0]] = 1  # the one that is the least similar
    call = {"num_inference_steps": STEPS}
    pipeline.calibrate_by_labels(image, labels, batch_size=2, **call)
    assert pipeline.config.similarity_threshold == pytest.approx(found.similarity.min().item(), abs=1e-6)
    torch.testing.assert_close(torch.tensor(pipeline.config.largest_divergence), found.divergence[order[0]])
    assert pipeline(image, **call).masks.flatten(1).any(1).tolist() == (labels == 1).tolist()
    pipeline.register_to_config(own_threshold=True)
    output = pipeline(image, **call)
    assert torch.equal(output.anomaly_maps, output.masks)
    threshold = pipeline.own_thresholds(found)[order[0]]
    expected = found.maps[order[0]].mean(0) >= threshold.squeeze()
    assert torch.equal(output.masks[order[0], 0] > 0, expected)


def test_what_it_needs_is_said(pipeline, image):
    with pytest.raises(InputError, match="has no threshold of its own yet"):
        pipeline.register_to_config(own_threshold=True)
        pipeline(image, num_inference_steps=1)
    with pytest.raises(InputError, match="slices of both classes, with a label for each"):
        pipeline.calibrate_by_labels(image, [1, 1, 1])
    with pytest.raises(InputError, match="needs a class-conditional U-Net"):
        AnoFPDMPipeline(tiny_unet(), DifFuseScheduler())
