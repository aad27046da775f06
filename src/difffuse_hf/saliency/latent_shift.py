"""Latent shift, with which Sec. 5.6.5 compares (Cohen et al. 2021, "Gifsplanation via Latent Shift").

One gradient of the class probability is followed in a straight line through latent space, instead of a new one at
every step.
"""

import torch

from .common import Images, Maps, Query, Target, by_slice, decode_like, per_image, scale_to_one

SHIFTS = (*range(1, 10), *range(10, 1001, 10))  # the published search: steps of 1 up to 10, of 10 up to 1000
PROBABILITY_DROP = 0.15  # the published search ends there
NUM_FRAMES = 10  # of the published film


def latent_shift(
    classifier,
    autoencoder,
    image: Images,
    target: Target = None,
    *,
    shifts: tuple[float, ...] = SHIFTS,
    probability_drop: float = PROBABILITY_DROP,
    num_frames: int = NUM_FRAMES,
    until: float | None = None,
    saliency: Maps = None,
) -> torch.Tensor:
    """How an image changes while its latent code slides down the gradient of the target class's probability.

        x_λ = D(E(x) − λ ∂p_target(D(z))/∂z at E(x)),   S = max_λ |D(E(x)) − x_λ|, summed over channels

    λ walks outwards, for each image by itself, until the probability has dropped by more than `probability_drop`,
    rises again, or the last shift is reached; the frames divide the way to there evenly. The reference is the
    reconstruction, as in the paper. The paper takes the largest difference over the frames, its code the last
    frame's alone: the paper's reading is taken. λ has the units of the latent over its gradient, so that the published
    shifts may have to be scaled to another autoencoder.

    Args:
        classifier, autoencoder: in eval mode.
        image (`torch.Tensor` of shape `(B, C, H, W)` or `(B, S, C, H, W)`): slices or scans in [0, 1].
        target (`torch.Tensor` of shape `(B,)`, *optional*): class to move away from; the predicted one by default.
        saliency (`torch.Tensor` of shape `(B, 1, H, W)` or `(B, S, 1, H, W)`, *optional*): handed to the classifier.
        shifts (`tuple[float, ...]`): λ in the order they are tried, rising.
        probability_drop (`float`): of the target class, at which an image's search ends.
        num_frames (`int`): pictures on the way.
        until (`float`, *optional*): the search ends where the probability of the target class is below this, and
            neither its drop nor a rise ends it: 0.01 in Chapter 4.

    Returns:
        `torch.Tensor` of shape `(B, 1, H, W)` or `(B, S, 1, H, W)` in [0, 1].
    """
    if len(shifts) == 0 or num_frames < 1:
        raise ValueError(f"`shifts` and `num_frames` must name at least one, got {shifts!r} and {num_frames}.")
    query = Query.of(classifier, image, target, saliency)
    with torch.no_grad():
        start = by_slice(autoencoder.encode, image)

    with torch.enable_grad():
        latent = start.detach().requires_grad_()
        reconstruction = decode_like(autoencoder, latent, image)
        initial = query.probability(reconstruction)  # [B]
        direction = -torch.autograd.grad(initial.sum(), latent)[0]
    reconstruction, initial = reconstruction.detach(), initial.detach()

    with torch.no_grad():
        bound, last = torch.zeros_like(initial), initial
        searching = torch.ones_like(initial, dtype=torch.bool)
        for shift in shifts:
            bound = torch.where(searching, shift, bound)
            current = query.probability(decode_like(autoencoder, start + shift * direction, image))
            if until is None:
                searching = searching & (current <= last) & (initial - current <= probability_drop)
            else:
                searching = searching & (current >= until)
            last = current
            if not searching.any():  # a host round trip, worth it: most searches end early
                break
        change = torch.zeros_like(image)
        for frame in range(1, num_frames + 1):
            shift = per_image(bound * (frame / num_frames), start)
            shifted = start + (shift * direction).to(start.dtype)
            change = torch.maximum(change, (reconstruction - decode_like(autoencoder, shifted, image)).abs())
    return scale_to_one(change.sum(-3, keepdim=True))
