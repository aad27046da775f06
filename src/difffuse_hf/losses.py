"""Losses of the three networks that Dif-fuse needs: denoiser, autoencoder and classifier."""

import torch
from torch.nn import functional as F


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
    clean = 2 * image - 1
    levels = max_timestep or len(alphas_cumprod)
    timestep = torch.randint(levels, (len(clean),), generator=generator, device=clean.device)
    noise = torch.randn(clean.shape, generator=generator, device=clean.device, dtype=clean.dtype)
    signal = alphas_cumprod.to(clean)[timestep][:, None, None, None]  # [B,1,1,1]
    noise_pred = unet(signal.sqrt() * clean + (1 - signal).sqrt() * noise, timestep).sample
    return F.mse_loss(noise_pred.float(), noise)


def reconstruction_loss(autoencoder: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference between an image (B, C, H, W) in [0, 1] and its reconstruction."""
    return F.l1_loss(autoencoder(image).float(), image)


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


def balanced_class_weights(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Weights (classes,) inversely proportional to how often a class occurs; a balanced set has weights 1."""
    counts = torch.bincount(labels, minlength=num_classes)
    return len(labels) / (num_classes * counts.clamp(min=1))
