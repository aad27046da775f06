"""The loop of the thesis's public code, written out by itself, as the measure that sampling is compared with.

It follows the facts of that code, not its lines: two trajectories at a network call each, levels that are off by one,
predicted images clamped to [-1, 1], σ_t² = β_t. The preset `reference_code` computes the same, and a test says so.
"""

from collections.abc import Callable

import torch


@torch.no_grad()
def author_loop(
    predict: Callable[[torch.Tensor, int], torch.Tensor],
    image: torch.Tensor,
    mask: torch.Tensor,
    alphas_cumprod: torch.Tensor,
    noise_level: int = 500,
    draw: Callable[[torch.Tensor], torch.Tensor] = torch.randn_like,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Counterfactual and reconstruction, both `(B, C, H, W)` in [0, 1]: 3 (K − 1) network calls.

    Args:
        predict: `(x_t, timestep) -> ε`.
        image (`torch.Tensor` of shape `(B, C, H, W)`): in [0, 1].
        mask (`torch.Tensor` of shape `(B, 1, H, W)`): 1 where tissue is repainted.
        alphas_cumprod (`torch.Tensor` of shape `(T,)`): ᾱ of each timestep.
        noise_level (`int`): K.
        draw: noise like its argument.
    """
    bar = [float(value) for value in alphas_cumprod]
    beta = [1 - bar[t] / (bar[t - 1] if t else 1.0) for t in range(len(bar))]

    def clamped(x, t):  # predicted image, and the noise that goes with it
        clean = ((x - (1 - bar[t]) ** 0.5 * predict(x, t)) / bar[t] ** 0.5).clamp(-1, 1)
        return clean, (x - bar[t] ** 0.5 * clean) / (1 - bar[t]) ** 0.5

    x = 2 * image - 1
    for t in range(1, noise_level):  # up: the image is taken for x at timestep 1
        clean, noise = clamped(x, t)
        x = bar[t + 1] ** 0.5 * clean + (1 - bar[t + 1]) ** 0.5 * noise

    fused = kept = x
    for t in range(noise_level - 2, -1, -1):  # down, from a timestep below the one that was reached
        before = bar[t - 1] if t else 1.0
        clean, _ = clamped(fused, t)
        mean = (beta[t] * before**0.5 * clean + (1 - before) * (1 - beta[t]) ** 0.5 * fused) / (1 - bar[t])
        noise = draw(fused)
        ancestral = mean + beta[t] ** 0.5 * noise if t else mean
        clean, noise = clamped(kept, t)
        kept = before**0.5 * clean + (1 - before) ** 0.5 * noise
        fused = mask * ancestral + (1 - mask) * kept
    return (fused / 2 + 0.5).clamp(0, 1), (kept / 2 + 0.5).clamp(0, 1)
