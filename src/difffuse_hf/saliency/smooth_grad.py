"""SmoothGrad (Smilkov et al. 2017): the gradient, averaged over noisy copies of the image."""

import torch

from .common import Images, Maps, Query, Target, absolute_map, per_image


def smooth_grad(
    classifier,
    image: Images,
    target: Target = None,
    *,
    num_samples: int = 50,
    noise: float = 0.15,
    generator: torch.Generator | None = None,
    batch_size: int = 32,
    saliency: Maps = None,
) -> torch.Tensor:
    """Absolute mean of the gradients at noisy copies of the image.

        |1/n Σ_i ∂ logit_target / ∂x (x + ε_i)|,   ε_i ~ N(0, σ²),   σ = noise · (max x − min x)

    The mean is of signed gradients, as in the paper. The target is the class predicted without noise. The noise is
    the same for every image of a batch, so that no map depends on the batch.

    Args:
        num_samples (`int`): n (paper: 50).
        noise (`float`): σ as a share of each image's range (paper: 0.1 to 0.2).
        generator (`torch.Generator`, *optional*): source of the noise.
        batch_size (`int`): most images (or scans) in one pass.

    The other arguments and the result are those of `gradient`.
    """
    query = Query.of(classifier, image, target, saliency)
    sigma = noise * per_image(image.flatten(1).amax(1) - image.flatten(1).amin(1), image)
    device = image.device if generator is None else generator.device
    total, per_pass = torch.zeros_like(image), query.batches_in(batch_size)
    for start in range(0, num_samples, per_pass):
        count = min(per_pass, num_samples - start)
        draws = [torch.randn(image.shape[1:], generator=generator, device=device) for _ in range(count)]
        epsilon = torch.stack(draws)[:, None].to(image.device, image.dtype)  # one noise for all images
        slopes = query.gradient((image + sigma * epsilon).flatten(0, 1))  # [count*B,C,H,W] or [count*B,S,C,H,W]
        total = total + slopes.unflatten(0, (count, len(image))).sum(0)
    return absolute_map(total / num_samples)
