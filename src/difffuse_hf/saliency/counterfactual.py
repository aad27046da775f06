"""Saliency from adversarial counterfactuals in an autoencoder's latent space (thesis Sec. 5.5.3, Eqs. 5.3-5.4).

The latent code of a slice is moved until the classifier changes its mind; what changes in the picture is salient.
A scan is a stack of slices: each has a latent code of its own, the classifier sees them together, and one objective
moves them all.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional as F

from ..errors import require_choice
from .common import (
    Images,
    Maps,
    Query,
    Target,
    by_slice,
    check_inputs,
    class_logits,
    decode_like,
    per_image,
    pick,
    scale_to_one,
)

DISTANCES = ("l1_mean", "l1_norm")
REFERENCES = ("image", "reconstruction")
STEP_RULES = ("halve", "fixed", "proximal")
COUNTERFACTUALS = ("negative", "positive")


@dataclass(frozen=True)
class LatentCounterfactual:
    """`counterfactual` and `reconstruction`, shaped like the image and in [0, 1]; along the path, all of shape
    (num_steps + 1, B): `objective`, Eq. 5.4, which never rises unless the step is fixed; `probability` of the target
    class; `distance` d(z, E(x))."""

    counterfactual: torch.Tensor
    reconstruction: torch.Tensor
    objective: torch.Tensor
    probability: torch.Tensor
    distance: torch.Tensor


def latent_counterfactual(
    classifier,
    autoencoder,
    image: Images,
    target: torch.Tensor,
    num_steps: int = 20,
    step_size: float = 1.0,
    l1_weight: float = 100.0,
    distance: str = "l1_mean",
    step_growth: float = 1.0,
    *,
    saliency: Maps = None,
    step_rule: str = "halve",
    autocast_dtype: torch.dtype | None = None,
) -> LatentCounterfactual:
    """Move the latent code of an image towards a target class (Eqs. 5.3-5.4), all images of the batch at once.

        g(z) = CE(f(D(z)), target) + α · d(z, E(x)),   z ← z − β ∇g(z) wherever that does not raise g, else β ← β / 2

    The step back is ours: thesis and code use a fixed β, with which g may rise. It is taken for each image by itself
    and on the device. The thesis writes d as the L1 norm; its code takes the mean, and only that can move: with the
    norm and α = 100 the minimiser of g is E(x) itself as soon as every |∂CE/∂z_i| < 100. Hence the default.

    Args:
        classifier: in eval mode; returns logits, alone or as `.logits`.
        autoencoder: with `encode` and `decode` of slices.
        image (`torch.Tensor` of shape `(B, C, H, W)` or `(B, S, C, H, W)`): slices or scans in [0, 1].
        target (`torch.Tensor` of shape `(B,)`): class to move towards.
        num_steps (`int`): steps tried (thesis: 20).
        step_size (`float`): β at the start (thesis: 1; its code: 0.001 on BraTS, 0.1 on MosMed).
        l1_weight (`float`): α (thesis: 100).
        distance (`str`): `"l1_mean"` (mean |z − E(x)|, the author's code) or `"l1_norm"` (the sum, the thesis); over
            all slices of a scan.
        step_growth (`float`): factor on β after a step that was taken; 1 keeps β until it has to shrink.
        saliency (`torch.Tensor` of shape `(B, 1, H, W)` or `(B, S, 1, H, W)`, *optional*): handed to the classifier.
        step_rule (`str`): `"halve"`; `"fixed"` to take every step, as the thesis does; or `"proximal"`, `"halve"` with
            z ← E(x) + shrink(z − β ∇CE − E(x), β α) for the step. At E(x) the L1 term has no gradient, so that a step
            along ∇CE moves every z_i and may raise g however small β is; the search then stays at E(x). The proximal
            step moves the z_i whose |∂CE/∂z_i| exceeds the weight of |z_i − E(x)_i| in g, and lowers g.
        autocast_dtype (`torch.dtype`, *optional*): precision of the networks while searching. Latent, objective and
            the two images returned stay in the image's precision.

    Raises:
        ValueError: for an unknown `distance` or `step_rule`, or a shape that does not fit.
    """
    require_choice("distance", distance, DISTANCES)
    require_choice("step_rule", step_rule, STEP_RULES)
    if target is None:
        raise ValueError("`target` is missing: name the class that each image is to move towards.")
    query = Query.of(classifier, image, target, saliency)
    with torch.no_grad():
        start = by_slice(autoencoder.encode, image)
    weight = l1_weight / (start[0].numel() if distance == "l1_mean" else 1)  # of one |z_i − E(x)_i| in g

    def evaluate(latent, with_gradient=True):
        lowered = nullcontext() if autocast_dtype is None else torch.autocast(image.device.type, autocast_dtype)
        with torch.set_grad_enabled(with_gradient):
            latent = latent.detach().requires_grad_(with_gradient)
            with lowered:
                decoded = decode_like(autoencoder, latent, image)
                logits = query.logits(decoded)
            logits = logits.float()
            entropy = F.cross_entropy(logits, query.target, reduction="none")  # [B]
            slope = torch.autograd.grad(entropy.sum(), latent)[0] if with_gradient else torch.zeros_like(start)
        move = (latent.detach() - start).abs().flatten(1)
        move = move.mean(1) if distance == "l1_mean" else move.sum(1)
        probability = pick(logits.detach().softmax(1), query.target)
        return decoded.detach(), slope, entropy.detach() + l1_weight * move, probability, move

    def propose(latent, slope, step):
        step = per_image(step, latent)
        if step_rule == "proximal":
            move = latent - step * slope - start
            move = move.sign() * (move.abs() - step * weight).clamp_min(0)
            return (start + move).to(start.dtype)
        return (latent - step * (slope + weight * (latent - start).sign())).to(start.dtype)

    latent = start
    decoded, slope, *state = evaluate(latent, with_gradient=num_steps > 0)  # state: objective, probability, move
    reconstruction = decoded
    step = torch.full_like(state[0], step_size)
    path = [state]
    for number in range(num_steps):
        proposal = propose(latent, slope, step)
        last = number == num_steps - 1  # nothing follows that would need a gradient
        new_decoded, new_slope, *new_state = evaluate(proposal, with_gradient=not last)
        taken = torch.ones_like(step, dtype=torch.bool) if step_rule == "fixed" else new_state[0] <= state[0]
        latent = torch.where(per_image(taken, latent), proposal, latent)
        decoded = torch.where(per_image(taken, decoded), new_decoded, decoded)
        slope = torch.where(per_image(taken, latent), new_slope, slope)
        state = [torch.where(taken, new, old) for new, old in zip(new_state, state)]
        step = torch.where(taken, step * step_growth, step / 2)
        path.append(state)
    if autocast_dtype is not None:  # eight bits of a bfloat16 are too few for the difference of two images
        with torch.no_grad():
            decoded, reconstruction = (decode_like(autoencoder, z, image) for z in (latent, start))
    return LatentCounterfactual(decoded, reconstruction, *(torch.stack(values) for values in zip(*path)))


def class_agnostic_saliency(
    classifier,
    autoencoder,
    image: Images,
    target: Target = None,
    *,
    reference: str = "image",
    counterfactuals: Sequence[str] = COUNTERFACTUALS,
    batch_size: int | None = None,
    saliency: Maps = None,
    **options,
) -> torch.Tensor:
    """Mean of the normalised changes that make an image healthy and that give it a lesion (Sec. 5.5.3).

        S = 1/2 Σ_± |x − x̂_±| / max |x − x̂_±|,   averaged over channels, then scaled to a maximum of 1

    There are two counterfactuals whatever the number of classes: negative, towards the first class, and positive,
    away from it, towards P(lesion) = 1 − P(first class). Both go through the networks in one batch.

    Args:
        image (`torch.Tensor` of shape `(B, C, H, W)` or `(B, S, C, H, W)`): slices or scans in [0, 1].
        target: not used, for the map is of all classes; the saliency methods share this signature.
        saliency (`torch.Tensor` of shape `(B, 1, H, W)` or `(B, S, 1, H, W)`, *optional*): handed to the classifier.
        reference (`str`): x is the `"image"` (thesis) or its `"reconstruction"` (the author's code, in which the
            autoencoder's own error cancels).
        counterfactuals (sequence of `str`): `"negative"`, `"positive"` or both.
        batch_size (`int`, *optional*): most pairs of image (or scan) and counterfactual in one pass; all by default.
        options: of `latent_counterfactual`.

    Returns:
        `torch.Tensor` of shape `(B, 1, H, W)` or `(B, S, 1, H, W)` in [0, 1]; the maximum of a scan is 1.
    """
    require_choice("reference", reference, REFERENCES)
    check_inputs(image, saliency)
    if not counterfactuals:
        raise ValueError(f"`counterfactuals` names at least one of {', '.join(COUNTERFACTUALS)}, got none.")
    for name in counterfactuals:
        require_choice("counterfactuals", name, COUNTERFACTUALS)
    classes = torch.tensor([COUNTERFACTUALS.index(name) for name in counterfactuals], device=image.device)
    count = len(classes)
    pairs = torch.arange(count * len(image), device=image.device)  # counterfactual k of image b is pair k·B + b
    changes = []
    for chosen in pairs.split(batch_size or len(pairs)):
        images, towards = image[chosen % len(image)], classes[chosen // len(image)]
        maps = None if saliency is None else saliency[chosen % len(image)]
        result = latent_counterfactual(
            partial(presence_logits, classifier), autoencoder, images, towards, saliency=maps, **options
        )
        origin = images if reference == "image" else result.reconstruction
        changes.append(scale_to_one((origin - result.counterfactual).abs().mean(-3, keepdim=True)))
    change = torch.cat(changes).unflatten(0, (count, len(image)))  # [K,B,1,H,W] or [K,B,S,1,H,W]
    return scale_to_one(change.mean(0))


def negative_counterfactual(classifier, autoencoder, image: Images, target: Target = None, **options) -> torch.Tensor:
    """What must change for an image to be healthy: the map that Sec. 5.6.5 lets point at lesions.

    Arguments and result are those of `class_agnostic_saliency`, but for `counterfactuals`.
    """
    return class_agnostic_saliency(classifier, autoencoder, image, target, counterfactuals=("negative",), **options)


def presence_logits(classifier, image: Images, saliency: Maps = None) -> torch.Tensor:
    """Logits (B, 2) of no lesion, the first class, and of a lesion, all others together."""
    logits = class_logits(classifier, image, saliency)
    return torch.cat([logits[:, :1], logits[:, 1:].logsumexp(1, keepdim=True)], dim=1)
