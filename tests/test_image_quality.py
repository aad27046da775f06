"""Facts about the kernel inception distance."""

import math

import pytest
import torch

pytest.importorskip("torchmetrics", reason="needs the extra `train`")

from difffuse_hf import SliceClassifier, SliceClassifierConfig  # noqa: E402
from difffuse_hf.evaluation.image_quality import classifier_features, flicker, grain, kid  # noqa: E402


def flat(images):
    return images.flatten(1)


def draw(count, seed, offset=0.0):
    return torch.rand(count, 1, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + offset


def test_kid_is_the_double_loop_over_pairs():
    real, generated = draw(6, 0), draw(6, 1, 0.3)
    x, y = flat(real), flat(generated)

    def kernel(a, b):
        return ((a * b).sum() / a.numel() + 1) ** 3

    within = sum(kernel(s[i], s[j]) for s in (x, y) for i in range(6) for j in range(6) if i != j) / (6 * 5)
    across = sum(kernel(a, b) for a in x for b in y) / 36
    mean, deviation = kid(real, generated, flat)
    assert mean == pytest.approx(float(within - 2 * across), rel=1e-5) and deviation == 0


def test_kid_grows_with_the_distance_of_the_sets_and_is_about_zero_for_the_same():
    real = draw(200, 0)
    near, far = (kid(real, draw(200, 1, offset), flat)[0] for offset in (0.0, 0.5))
    assert abs(near) < 0.05 < far


def test_subsets_of_two_sets_of_different_size_give_a_mean_and_a_deviation():
    mean, deviation = kid(draw(40, 0), draw(30, 1, 0.2), flat, subset_size=10, subsets=20)
    assert mean > 0 and deviation > 0
    with pytest.raises(ValueError, match="sets have 40 and 5 slices, but an estimate takes 10 of each"):
        kid(draw(40, 0), draw(5, 1), flat, subset_size=10)


def test_features_of_a_classifier_are_those_that_its_head_sees():
    torch.manual_seed(0)
    classifier = SliceClassifier(
        SliceClassifierConfig(backbone="resnet10t", backbone_kwargs={"channels": [8, 8, 8, 8]}, num_channels=2)
    ).eval()
    images = torch.rand(3, 2, 32, 32)
    features = classifier_features(classifier)(images)
    assert features.shape == (3, 8)
    assert torch.equal(features, classifier_features(classifier)(images))


def test_a_change_that_goes_on_through_the_slices_does_not_flicker_and_noise_does():
    images = draw(5, 0, offset=0.1)
    assert flicker(images, images + draw(1, 1)) == pytest.approx(0, abs=1e-12)
    ramp = torch.arange(5.0, dtype=torch.float64).view(-1, 1, 1, 1)
    assert flicker(images, images + 0.1 * ramp) == pytest.approx(0.1)
    images[:, :, 0] = 0  # black: no brain
    changed = images.clone()
    changed[::2, :, 0] = 1
    assert flicker(images, changed) == 0


def test_the_grain_of_a_fill_is_measured_against_the_tissue_opposite_and_within_the_mask():
    tissue = torch.full((1, 1, 8, 8), 0.5)
    tissue[..., ::2] += 0.1  # columns: steps of 0.1 along a row, none along a column
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 1:4] = 1
    assert grain(tissue, tissue, mask) == pytest.approx(1)
    rough = torch.where(mask > 0, 0.5 + 2 * (tissue - 0.5), tissue)
    assert grain(tissue, rough, mask) == pytest.approx(4)  # twice the steps, and none to the outside counts
    flat = torch.where(mask > 0, 0.5, tissue)
    assert grain(tissue, flat, mask) == 0


def test_a_fill_with_nothing_opposite_to_compare_with_has_no_grain():
    tissue, nothing = torch.full((1, 1, 8, 8), 0.5), torch.zeros(1, 1, 8, 8)
    assert math.isnan(grain(tissue, tissue, nothing))
    assert math.isnan(grain(tissue, tissue, nothing + 1))  # all of it was repainted
