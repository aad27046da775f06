"""Facts about the losses of the denoiser: what the perfect network scores, and the closed forms of the terms."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from difffuse_hf import DifFuseScheduler
from difffuse_hf.training.losses import (
    balanced_class_weights,
    classification_loss,
    diffusion_losses,
    discretised_log_likelihood,
    gaussian_divergence,
    learned_log_variance,
    min_snr_weight,
    noised,
    variational_bound,
)

ALPHA_BARS = DifFuseScheduler().alphas_cumprod
TIMESTEP = torch.tensor([0, 1, 250, 999])
IMAGE = torch.rand(4, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
NOISE = torch.randn(4, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def losses(network, **options):
    return diffusion_losses(
        lambda *inputs, **labels: SimpleNamespace(sample=network(*inputs, **labels)),
        IMAGE, NOISE, TIMESTEP, ALPHA_BARS, **options,
    )  # fmt: skip


def signal():
    return ALPHA_BARS[TIMESTEP].view(-1, 1, 1, 1)


def test_the_true_noise_and_the_true_velocity_have_no_loss():
    velocity = signal().sqrt() * NOISE - (1 - signal()).sqrt() * (2 * IMAGE - 1)
    assert losses(lambda x, t: NOISE).abs().max() == 0
    assert losses(lambda x, t: velocity, prediction_type="v_prediction").max() < 1e-24
    assert_close(losses(lambda x, t: torch.zeros_like(x)), NOISE.square().mean((1, 2, 3)))


def test_a_network_of_classes_is_told_the_labels():
    seen = []
    losses(lambda x, t, class_labels: seen.append(class_labels) or x, class_labels=torch.tensor([0, 1, 2, 2]))
    assert seen[0].tolist() == [0, 1, 2, 2]


def test_min_snr_weights_put_noise_and_velocity_on_one_scale_of_the_clean_image():
    """An error e of x̂_0 is √SNR·e of ε and √(SNR + 1)·e of v: the weighted loss is min(SNR, γ)·e² for both."""
    bars = torch.tensor([0.999, 0.9, 0.5, 0.01], dtype=torch.float64)
    ratio = bars / (1 - bars)
    for kind, of_clean in (("epsilon", ratio), ("v_prediction", ratio + 1)):
        assert_close(min_snr_weight(bars, 5.0, kind) * of_clean, ratio.clamp_max(5))
    plain, weighted = losses(lambda x, t: 0 * x), losses(lambda x, t: 0 * x, snr_gamma=5.0)
    assert_close(weighted, plain * min_snr_weight(ALPHA_BARS[TIMESTEP], 5.0))


def test_the_divergence_of_gaussians_is_torch_distributions():
    means, logs = torch.randn(2, 5, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    first, second = (torch.distributions.Normal(m, (v / 2).exp()) for m, v in zip(means, logs))
    expected = torch.distributions.kl_divergence(first, second)
    assert_close(gaussian_divergence(means[0], logs[0], means[1], logs[1]), expected)


def test_the_masses_of_all_grey_levels_sum_to_one():
    levels = torch.linspace(-1, 1, 256, dtype=torch.float64)
    mass = discretised_log_likelihood(levels, torch.full_like(levels, 0.3), torch.full_like(levels, -2.0)).exp()
    assert mass.sum().item() == pytest.approx(1, abs=1e-9)


def test_learned_variances_lie_between_the_posterior_and_beta_on_a_log_scale():
    small, large = torch.tensor(0.01), torch.tensor(0.04)
    values = learned_log_variance(torch.tensor([-1.0, 0.0, 1.0]), small, large).exp()
    assert_close(values, torch.tensor([0.01, 0.02, 0.04]))


def test_the_bound_of_the_true_noise_and_the_posterior_variance_is_zero_but_for_the_first_step():
    sample = signal().sqrt() * (2 * IMAGE - 1) + (1 - signal()).sqrt() * NOISE
    bound = variational_bound(2 * IMAGE - 1, sample, NOISE, -torch.ones_like(IMAGE), TIMESTEP, ALPHA_BARS)
    assert bound[1:].abs().max() < 1e-9 and bound[0] > 0


def test_the_bound_at_a_wrong_variance_is_the_divergence_in_bits():
    """With variance β_t in place of β̃_t and the mean right: ½ (r − 1 − log r) / log 2 with r = β̃_t / β_t."""
    timestep, bars = torch.tensor([1]), ALPHA_BARS
    sample = bars[1].sqrt() * (2 * IMAGE[:1] - 1) + (1 - bars[1]).sqrt() * NOISE[:1]
    bound = variational_bound(2 * IMAGE[:1] - 1, sample, NOISE[:1], torch.ones_like(IMAGE[:1]), timestep, bars)
    ratio = ((1 - bars[0]) / (1 - bars[1])).item()
    assert bound.item() == pytest.approx((ratio - 1 - math.log(ratio)) / 2 / math.log(2), rel=1e-6)


def test_learned_variances_get_a_gradient_from_the_bound_alone_and_the_mean_from_the_error_alone():
    mean, variance = torch.zeros_like(IMAGE).requires_grad_(), torch.zeros_like(IMAGE).requires_grad_()
    loss = losses(lambda x, t: torch.cat([mean, variance], 1)).sum()
    of_mean, of_variance = torch.autograd.grad(loss, (mean, variance))
    assert_close(of_mean, 2 * (mean - NOISE) / NOISE[0].numel())
    assert of_variance.abs().min() > 0
    without = losses(lambda x, t: torch.cat([mean, variance], 1), bound_weight=0.0)
    assert_close(without, NOISE.square().mean((1, 2, 3)))


def test_noised_images_hold_the_noise_they_come_with_and_timesteps_stay_below_the_bound():
    image, alphas_cumprod = torch.rand(64, 1, 4, 4), torch.linspace(0.99, 0.01, 1000)
    sample, noise, timestep = noised(image, alphas_cumprod, torch.Generator().manual_seed(0), max_timestep=20)
    assert timestep.max() < 20 and timestep.unique().numel() > 10
    signal = alphas_cumprod[timestep][:, None, None, None]
    assert_close((sample - signal.sqrt() * (2 * image - 1)) / (1 - signal).sqrt(), noise, atol=1e-4, rtol=0)


def test_balanced_weights_make_every_class_count_the_same():
    labels = torch.tensor([0] * 9 + [1])
    weights = balanced_class_weights(labels, 2)
    assert weights.tolist() == pytest.approx([10 / 18, 5.0])
    logits = torch.randn(10, 2)
    each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    expected = (each[:9].mean() + each[9]) / 2
    assert_close(classification_loss(logits, labels, weights), expected)


def test_the_weighted_loss_of_a_batch_is_the_mean_over_its_parts():
    logits, labels = torch.randn(12, 3, dtype=torch.float64), torch.arange(12) // 3 % 3
    weights = torch.tensor([0.2, 1.0, 3.0])
    whole = classification_loss(logits, labels, weights)
    parts = [classification_loss(logits[i : i + 4], labels[i : i + 4], weights) for i in (0, 4, 8)]
    assert_close(sum(parts) / 3, whole)
    log_probability = logits.log_softmax(1)[torch.arange(12), labels]
    assert_close(whole, -(weights.double()[labels] * log_probability).mean())
    assert_close(classification_loss(logits, labels, torch.ones(3)), classification_loss(logits, labels))
