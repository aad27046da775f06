"""What a denoiser does to slices it should know: a look at it while it is trained."""

from itertools import pairwise

import torch


def round_trip(
    unet: torch.nn.Module,
    scheduler,
    image: torch.Tensor,
    noise_level: int,
    num_steps: int,
    class_labels: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Slices, their reconstructions and their resamplings: all three in [0, 1], shape (3, B, C, H, W).

    A reconstruction is DDIM inversion to a noise level and DDIM back (Eqs. 6.8 and 6.9), which a good denoiser brings
    near the slice; a resampling is DDPM from there (Eq. 6.7), healthy tissue of the denoiser's own making.

    Args:
        image (`torch.Tensor` of shape `(B, C, H, W)`): slices in [0, 1].
        noise_level (`int`): K, the level to invert to.
        num_steps (`int`): steps up, and as many down.
        class_labels (`torch.Tensor` of shape `(B,)`, *optional*): for a class-conditional network.
        generator (`torch.Generator`, *optional*): source of the resampling's noise, on the image's device.
    """
    scheduler.set_timesteps(min(num_steps, noise_level), noise_level)
    labels = {} if class_labels is None else {"class_labels": class_labels}

    def predict(sample, level):
        timestep = torch.full((len(sample),), scheduler.timestep_of(level), device=sample.device)
        return scheduler.read_prediction(unet(sample, timestep, **labels).sample, level, sample)

    sample = 2 * image - 1
    for level, target in pairwise(scheduler.levels[::-1]):
        sample = scheduler.invert_step(predict(sample, level)[0], level, target, sample)
    ends = []
    for eta in (0.0, 1.0):
        back = sample
        for level, target in pairwise(scheduler.levels):
            noise = torch.randn(back.shape, generator=generator, device=back.device, dtype=back.dtype) if eta else None
            noise_pred, variance = predict(back, level)
            back = scheduler.reverse_step(noise_pred, level, target, back, eta, noise, variance)
        ends.append((back / 2 + 0.5).clamp(0, 1))
    return torch.stack([image, *ends])


def as_picture(rows: torch.Tensor, channel: int = 0) -> torch.Tensor:
    """One channel of slices (R, B, C, H, W) side by side, a row under the other: (R·H, B·W)."""
    tiles = rows[:, :, channel]  # [R,B,H,W]
    return tiles.permute(0, 2, 1, 3).flatten(0, 1).flatten(1)
