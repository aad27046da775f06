"""Losses of the networks that Dif-fuse needs, denoiser, autoencoder and classifier, and of their competitors."""

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from ..models.modeling_denoising_ae import coarse_noise
from ..models.modeling_itermask import random_masks
from ..pipelines.anomaly_map import foreground
from ..schedulers.scheduling_difffuse import forward_process

if TYPE_CHECKING:
    from ..models.modeling_fanogan import FAnoGAN


def noised(
    image: torch.Tensor,
    alphas_cumprod: torch.Tensor,
    generator: torch.Generator | None = None,
    max_timestep: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x_t at a random timestep for each image (B, C, H, W) in [0, 1], the noise in it and the timesteps (B,).

    Args:
        generator (`torch.Generator`, *optional*): source of the timesteps and of the noise, on the image's device.
        max_timestep (`int`, *optional*): timesteps are drawn below it; all T by default. A model that is only asked
            to work up to level K needs no more than K.
    """
    levels = max_timestep or len(alphas_cumprod)
    timestep = torch.randint(levels, (len(image),), generator=generator, device=image.device)
    noise = torch.randn(image.shape, generator=generator, device=image.device, dtype=image.dtype)
    return diffuse(image, noise, timestep, alphas_cumprod), noise, timestep


def diffuse(
    image: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor, alphas_cumprod: torch.Tensor
) -> torch.Tensor:
    """x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε of images (B, C, H, W) in [0, 1], which are moved to [-1, 1] here."""
    signal = alphas_cumprod.to(image)[timestep].view(-1, 1, 1, 1)  # [B,1,1,1]
    return forward_process(2 * image - 1, noise, signal)


def diffusion_losses(
    unet: torch.nn.Module,
    image: torch.Tensor,
    noise: torch.Tensor,
    timestep: torch.Tensor,
    alphas_cumprod: torch.Tensor,
    class_labels: torch.Tensor | None = None,
    prediction_type: str = "epsilon",
    snr_gamma: float | None = None,
    bound_weight: float = 1e-3,
) -> torch.Tensor:
    """Squared error of what the network predicts, one value an image (Eq. 6.5).

        x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε,   loss = w_t · mean (ε − ε_θ(x_t, t))²

    A network with twice the image's channels has learned variances: their part of the variational bound is added,
    through which the mean gets no gradient (Nichol and Dhariwal 2021, L_hybrid; they take the weight 0.001).

    Args:
        unet (`torch.nn.Module`): ε_θ, called as `unet(sample, timestep, class_labels=...).sample`.
        image (`torch.Tensor` of shape `(B, C, H, W)`): x_0 in [0, 1]; moved to [-1, 1] here.
        noise (`torch.Tensor` of shape `(B, C, H, W)`): ε, of unit variance.
        timestep (`torch.Tensor` of shape `(B,)`): t - 1, from 0 up.
        alphas_cumprod (`torch.Tensor` of shape `(T,)`): ᾱ, noisier from left to right.
        class_labels (`torch.Tensor` of shape `(B,)`, *optional*): of a class-conditional network.
        prediction_type (`str`): `"epsilon"`, or `"v_prediction"` for v = √ᾱ_t ε − √(1 − ᾱ_t) x_0 (Salimans and Ho
            2022).
        snr_gamma (`float`, *optional*): γ of w_t = min(SNR, γ) / SNR, with SNR + 1 below the line for v (Hang et al.
            2023, who take 5); w_t = 1 by default.
        bound_weight (`float`): weight of the bound of a network with learned variances.
    """
    clean, channels = 2 * image - 1, image.shape[1]
    signal = alphas_cumprod.to(clean)[timestep].view(-1, 1, 1, 1)  # [B,1,1,1]
    sample = diffuse(image, noise, timestep, alphas_cumprod)
    labels = {} if class_labels is None else {"class_labels": class_labels}
    prediction = unet(sample, timestep, **labels).sample.to(clean.dtype)
    mean, variance = prediction[:, :channels], prediction[:, channels:]
    wanted = noise if prediction_type == "epsilon" else signal.sqrt() * noise - (1 - signal).sqrt() * clean
    losses = (mean - wanted).square().flatten(1).mean(1)
    if snr_gamma is not None:
        losses = losses * min_snr_weight(signal.flatten(), snr_gamma, prediction_type)
    if variance.shape[1]:
        frozen = mean.detach()
        if prediction_type == "v_prediction":
            frozen = signal.sqrt() * frozen + (1 - signal).sqrt() * sample  # ε that goes with v
        bound = variational_bound(clean, sample, frozen, variance, timestep, alphas_cumprod)
        losses = losses + bound_weight * len(alphas_cumprod) * bound
    return losses


def min_snr_weight(signal: torch.Tensor, gamma: float, prediction_type: str = "epsilon") -> torch.Tensor:
    """w_t = min(SNR, γ) / SNR of a network that predicts the noise, min(SNR, γ) / (SNR + 1) of one that predicts v.

    Args:
        signal (`torch.Tensor` of shape `(B,)`): ᾱ_t; SNR = ᾱ_t / (1 − ᾱ_t).
    """
    ratio = signal / (1 - signal)
    return ratio.clamp_max(gamma) / (ratio if prediction_type == "epsilon" else ratio + 1)


def variational_bound(
    clean: torch.Tensor,
    sample: torch.Tensor,
    noise_pred: torch.Tensor,
    variance_pred: torch.Tensor,
    timestep: torch.Tensor,
    alphas_cumprod: torch.Tensor,
) -> torch.Tensor:
    """The bound's term at one timestep, in bits a pixel, one value an image (Nichol and Dhariwal 2021, Eq. 4-6).

        KL(q(x_{t-1} | x_t, x_0) ‖ p_θ(x_{t-1} | x_t)) for t > 1,   −log p_θ(x_0 | x_1) over 256 grey levels for t = 1

    Args:
        clean, sample, noise_pred (`torch.Tensor` of shape `(B, C, H, W)`): x_0 in [-1, 1], x_t and ε_θ.
        variance_pred (`torch.Tensor` of shape `(B, C, H, W)`): what the network says of the variance, -1 for the
            posterior's and 1 for β_t, on a log scale in between; see `learned_log_variance`.
    """
    bars = alphas_cumprod.to(device=clean.device, dtype=torch.float64)
    before = torch.cat([bars.new_ones(1), bars[:-1]])

    def at(values):
        return values[timestep].to(clean.dtype).view(-1, 1, 1, 1)

    beta = 1 - bars / before
    posterior = beta * (1 - before) / (1 - bars)
    posterior[0] = posterior[1]  # there is none at t = 1; its logarithm is needed all the same
    from_clean, from_sample = before.sqrt() * beta / (1 - bars), (bars / before).sqrt() * (1 - before) / (1 - bars)
    predicted_clean = (sample - at((1 - bars).sqrt()) * noise_pred) / at(bars.sqrt())
    true_mean = at(from_clean) * clean + at(from_sample) * sample
    mean = at(from_clean) * predicted_clean + at(from_sample) * sample
    log_variance = learned_log_variance(variance_pred, at(posterior), at(beta))
    divergence = gaussian_divergence(true_mean, at(posterior.log()), mean, log_variance)
    surprise = -discretised_log_likelihood(clean, mean, log_variance / 2)
    nats = torch.where(timestep.view(-1, 1, 1, 1) == 0, surprise, divergence)
    return nats.flatten(1).mean(1) / math.log(2)


def learned_log_variance(prediction: torch.Tensor, posterior: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    """log σ² = v log β_t + (1 − v) log β̃_t with v = (prediction + 1) / 2 (Nichol and Dhariwal 2021, Eq. 15)."""
    share = (prediction + 1) / 2
    return share * beta.log() + (1 - share) * posterior.log()


def gaussian_divergence(mean1, log_variance1, mean2, log_variance2) -> torch.Tensor:
    """KL(N(mean1, exp log_variance1) ‖ N(mean2, exp log_variance2)) of each element, in nats."""
    spread = (log_variance1 - log_variance2).exp() + (mean1 - mean2).square() * (-log_variance2).exp()
    return 0.5 * (spread - 1 + log_variance2 - log_variance1)


def discretised_log_likelihood(clean: torch.Tensor, mean: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    """log of a Gaussian's mass on the grey level (one of 256 in [-1, 1]) that `clean` falls on; the outermost two
    reach to infinity."""
    normal = torch.distributions.Normal(mean, log_scale.exp())
    below = torch.where(clean < -0.999, torch.zeros_like(clean), normal.cdf(clean - 1 / 255))
    above = torch.where(clean > 0.999, torch.ones_like(clean), normal.cdf(clean + 1 / 255))
    return (above - below).clamp_min(1e-12).log()


def reconstruction_loss(autoencoder: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference between an image (B, C, H, W) in [0, 1] and its reconstruction."""
    return F.l1_loss(autoencoder(image).float(), image)


def denoising_loss(
    autoencoder: torch.nn.Module,
    image: torch.Tensor,
    generator: torch.Generator | None = None,
    noise_std: float = 0.2,
    noise_resolution: int = 16,
) -> torch.Tensor:
    """Squared error of the denoising autoencoder in the foreground m (Kascenas 2022), n being `coarse_noise`.

        loss = mean m ⊙ (x − f(x + m ⊙ n))²

    The mean is over all pixels, the background with its zeros too, as in the published code.

    Args:
        autoencoder (`torch.nn.Module`): f, from images to images.
        image (`torch.Tensor` of shape `(B, C, H, W)`): x in [0, 1].
        generator (`torch.Generator`, *optional*): source of the noise, on the image's device.
        noise_std, noise_resolution: of `coarse_noise`.
    """
    mask, (batch, channels, height, width) = foreground(image), image.shape
    noise = coarse_noise(
        (batch, channels, height, width), noise_std, noise_resolution, generator, image.device, image.dtype
    )
    return (mask * (image - autoencoder(image + mask * noise).float()).square()).mean()


def masked_reconstruction_loss(
    network: torch.nn.Module, image: torch.Tensor, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Squared errors of IterMask2's two networks on healthy slices (Liang et al. 2024), one sum of both.

        loss = mean (x − f(h))² + mean (x − g((1 − m) ⊙ x + m ⊙ n, h))²

    h are the high frequencies, m random masks, n noise. The networks share no weights, so that the sum trains each as
    it would be trained alone.

    Args:
        network (`torch.nn.Module`): `network(image, mask, noise)` gives f's image and g's, see `IterMaskNetwork`.
        image (`torch.Tensor` of shape `(B, C, H, W)`): x in [0, 1].
        generator (`torch.Generator`, *optional*): source of masks and noise, on the image's device.
    """
    mask = random_masks(foreground(image), generator).to(image)
    noise = torch.randn(image.shape, generator=generator, device=image.device, dtype=image.dtype)
    first, refined = network(image, mask, noise)
    return F.mse_loss(first.float(), image) + F.mse_loss(refined.float(), image)


def gradient_penalty(
    critic: torch.nn.Module, real: torch.Tensor, fake: torch.Tensor, generator: torch.Generator | None = None
) -> torch.Tensor:
    """How far the critic's slope is from 1 between real and generated images (Gulrajani 2017): mean (‖∇D(x̂)‖₂ − 1)².

    x̂ = x + u (x' − x), with one u an image, uniform in [0, 1).

    Args:
        critic (`torch.nn.Module`): D, from images to one number each.
        real, fake (`torch.Tensor` of shape `(B, C, H, W)`): x and x'.
        generator (`torch.Generator`, *optional*): source of u, on the images' device.
    """
    share = torch.rand((len(real), 1, 1, 1), generator=generator, device=real.device, dtype=real.dtype)
    between = (real + share * (fake - real)).detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()


def critic_loss(
    critic: torch.nn.Module,
    real: torch.Tensor,
    fake: torch.Tensor,
    generator: torch.Generator | None = None,
    penalty_weight: float = 10.0,
) -> torch.Tensor:
    """Loss of the critic of a WGAN-GP: mean D(x') − mean D(x) + λ · `gradient_penalty`, with λ = 10."""
    penalty = gradient_penalty(critic, real, fake, generator)
    return critic(fake).mean() - critic(real).mean() + penalty_weight * penalty


def izi_f_losses(fanogan: "FAnoGAN", sample: torch.Tensor, kappa: float = 1.0) -> torch.Tensor:
    """What f-AnoGAN's encoder is trained to lower, and the anomaly score of an image (Schlegl 2019): (B,).

        A(x) = mean (x − G(E(x)))² + κ · mean (f(x) − f(G(E(x))))²,   f being the features of the critic

    Args:
        fanogan (`FAnoGAN`): E, G and the critic.
        sample (`torch.Tensor` of shape `(B, C, size, size)`): x in [-1, 1], see `FAnoGAN.to_sample`.
        kappa (`float`): κ.
    """
    reconstruction = fanogan.reconstruct(sample)
    seen, made = (fanogan.critic.features(images) for images in (sample, reconstruction))
    residual = (sample - reconstruction).square().flatten(1).mean(1)
    return residual + kappa * (seen - made).square().mean(1)


def classification_loss(
    logits: torch.Tensor, labels: torch.Tensor, class_weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross-entropy of logits (B, classes) against labels (B,), each slice counted with the weight of its class.

        loss = (1/B) Σ_i w[y_i] · (−log softmax(logits_i)[y_i])

    Divided by B and not by Σ_i w[y_i] as PyTorch does: so the mean over equal parts of a batch, on several processes
    or in several passes, is the loss of the batch. With `balanced_class_weights` both agree over the whole set.
    """
    if class_weights is None:
        return F.cross_entropy(logits, labels)
    return F.cross_entropy(logits, labels, weight=class_weights.to(logits), reduction="sum") / len(labels)


def noisy_classification_loss(
    classifier: torch.nn.Module,
    image: torch.Tensor,
    labels: torch.Tensor,
    alphas_cumprod: torch.Tensor,
    generator: torch.Generator | None = None,
    max_timestep: int | None = None,
    class_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`classification_loss` of a classifier that sees images at random noise levels, x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε.

    Args:
        classifier (`torch.nn.Module`): called as `classifier(sample, timestep).logits`.
        image (`torch.Tensor` of shape `(B, C, H, W)`): x_0 in [0, 1]; moved to [-1, 1] here.
        labels (`torch.Tensor` of shape `(B,)`): class indices.
        alphas_cumprod, generator, max_timestep: as in `noised`.
        class_weights: as in `classification_loss`.

    Returns:
        The loss and the logits, of shape `(B, classes)`.
    """
    sample, _, timestep = noised(image, alphas_cumprod, generator, max_timestep)
    logits = classifier(sample, timestep).logits.float()
    return classification_loss(logits, labels, class_weights), logits


def balanced_class_weights(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Weights (classes,) inversely proportional to how often a class occurs; a balanced set has weights 1."""
    counts = torch.bincount(labels, minlength=num_classes)
    return len(labels) / (num_classes * counts.clamp(min=1))
