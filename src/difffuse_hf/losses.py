"""Losses of the networks that Dif-fuse needs, denoiser, autoencoder and classifier, and of their competitors."""

import torch
from torch.nn import functional as F

from .anomaly import foreground
from .models.modeling_denoising_ae import coarse_noise


def diffusion_loss(
    unet: torch.nn.Module,
    image: torch.Tensor,
    alphas_cumprod: torch.Tensor,
    generator: torch.Generator | None = None,
    max_timestep: int | None = None,
) -> torch.Tensor:
    """Mean squared error of the predicted noise at random levels (Eq. 6.5).

        x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε,   loss = mean (ε − ε_θ(x_t, t))²

    Args:
        unet (`torch.nn.Module`): ε_θ, called as `unet(sample, timestep).sample`.
        image (`torch.Tensor` of shape `(B, C, H, W)`): x_0 in [0, 1]; moved to [-1, 1] here.
        alphas_cumprod (`torch.Tensor` of shape `(T,)`): ᾱ, noisier from left to right.
        generator (`torch.Generator`, *optional*): source of the timesteps and of the noise, on the image's device.
        max_timestep (`int`, *optional*): timesteps are drawn below it; all T by default. A model that is only asked
            to repaint from level K needs no more than K.
    """
    sample, noise, timestep = noised(image, alphas_cumprod, generator, max_timestep)
    noise_pred = unet(sample, timestep).sample
    return F.mse_loss(noise_pred.float(), noise)


def noised(
    image: torch.Tensor,
    alphas_cumprod: torch.Tensor,
    generator: torch.Generator | None = None,
    max_timestep: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε at a random level for each image, ε and the timesteps; see `diffusion_loss`."""
    clean = 2 * image - 1
    levels = max_timestep or len(alphas_cumprod)
    timestep = torch.randint(levels, (len(clean),), generator=generator, device=clean.device)
    noise = torch.randn(clean.shape, generator=generator, device=clean.device, dtype=clean.dtype)
    signal = alphas_cumprod.to(clean)[timestep][:, None, None, None]  # [B,1,1,1]
    return signal.sqrt() * clean + (1 - signal).sqrt() * noise, noise, timestep


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
    mask = foreground(image)
    noise = coarse_noise(image.shape, noise_std, noise_resolution, generator, image.device, image.dtype)
    return (mask * (image - autoencoder(image + mask * noise).float()).square()).mean()


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


def izi_f_losses(fanogan: torch.nn.Module, sample: torch.Tensor, kappa: float = 1.0) -> torch.Tensor:
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
        alphas_cumprod, generator, max_timestep: as in `diffusion_loss`.
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
