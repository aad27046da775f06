"""Saliency from adversarial counterfactuals in an autoencoder's latent space (thesis Secs. 5.4-5.5, Eqs. 5.3-5.4).

The latent code of a slice is moved until the classifier changes its mind; what changes in the picture is salient.
A scan is a stack of slices: each has a latent code of its own, the classifier sees them together, and one objective
moves them all. What every saliency method of the package needs stands here too.
"""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch.nn import functional as F

DISTANCES = ("l1_mean", "l1_norm")
REFERENCES = ("image", "reconstruction")
STEP_RULES = ("halve", "fixed", "proximal")


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
    image: torch.Tensor,
    target: torch.Tensor,
    num_steps: int = 20,
    step_size: float = 1.0,
    l1_weight: float = 100.0,
    distance: str = "l1_mean",
    step_growth: float = 1.0,
    *,
    saliency: torch.Tensor | None = None,
    step_rule: str = "halve",
    autocast_dtype: torch.dtype | None = None,
) -> LatentCounterfactual:
    """Move the latent code of an image towards a target class (Eqs. 5.3-5.4), all images of the batch at once.

        g(z) = CE(f(D(z)), target) + α · d(z, E(x)),   z ← z − β ∇g(z) wherever that does not raise g, else β ← β / 2

    The step back is ours: thesis and code use a fixed β, with which g may rise. It is taken for each image by itself
    and on the device. The thesis writes d as the L1 norm; its code takes the mean, and only that can move: with the
    norm and α = 100 the minimiser of g is E(x) itself as soon as every |∂CE/∂z_i| < 100. Hence the default.

    Args:
        classifier: called as `classifier(image).logits`; in eval mode.
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
    if distance not in DISTANCES:
        raise ValueError(f"`distance` is one of {', '.join(DISTANCES)}, got {distance!r}.")
    if step_rule not in STEP_RULES:
        raise ValueError(f"`step_rule` is one of {', '.join(STEP_RULES)}, got {step_rule!r}.")
    if target is None:
        raise ValueError("`target` is missing: name the class that each image is to move towards.")
    check_inputs(image, saliency)
    target = choose_target(classifier, image, target, saliency)
    with torch.no_grad():
        start = by_slice(autoencoder.encode, image)
    weight = l1_weight / (start[0].numel() if distance == "l1_mean" else 1)  # of one |z_i − E(x)_i| in g

    def evaluate(latent, with_gradient=True):
        lowered = nullcontext() if autocast_dtype is None else torch.autocast(image.device.type, autocast_dtype)
        with torch.set_grad_enabled(with_gradient):
            latent = latent.detach().requires_grad_(with_gradient)
            with lowered:
                decoded = decode_like(autoencoder, latent, image)
                logits = class_logits(classifier, decoded, saliency)
            logits = logits.float()
            entropy = F.cross_entropy(logits, target, reduction="none")  # [B]
            gradient = torch.autograd.grad(entropy.sum(), latent)[0] if with_gradient else None
        move = (latent.detach() - start).abs().flatten(1)
        move = move.mean(1) if distance == "l1_mean" else move.sum(1)
        probability = pick(logits.detach().softmax(1), target)
        return decoded.detach(), gradient, entropy.detach() + l1_weight * move, probability, move

    def propose(latent, gradient, step):
        step = per_image(step, latent)
        if step_rule == "proximal":
            move = latent - step * gradient - start
            move = move.sign() * (move.abs() - step * weight).clamp_min(0)
            return (start + move).to(start.dtype)
        return (latent - step * (gradient + weight * (latent - start).sign())).to(start.dtype)

    latent = start
    decoded, gradient, *state = evaluate(latent, with_gradient=num_steps > 0)  # state: objective, probability, move
    reconstruction = decoded
    step = torch.full_like(state[0], step_size)
    path = [state]
    for number in range(num_steps):
        proposal = propose(latent, gradient, step)
        last = number == num_steps - 1  # nothing follows that would need a gradient
        new_decoded, new_gradient, *new_state = evaluate(proposal, with_gradient=not last)
        taken = torch.ones_like(step, dtype=torch.bool) if step_rule == "fixed" else new_state[0] <= state[0]
        latent = torch.where(per_image(taken, latent), proposal, latent)
        decoded = torch.where(per_image(taken, decoded), new_decoded, decoded)
        gradient = None if last else torch.where(per_image(taken, latent), new_gradient, gradient)
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
    image: torch.Tensor,
    target: torch.Tensor | None = None,
    *,
    saliency: torch.Tensor | None = None,
    reference: str = "image",
    num_classes: int | None = None,
    batch_size: int | None = None,
    **options,
) -> torch.Tensor:
    """Mean over the classes of the normalised change that takes an image towards each of them (Sec. 5.5).

        S = 1/K Σ_k |x − x̂_k| / max |x − x̂_k|,   averaged over channels, then scaled to a maximum of 1

    All classes go through the networks in one batch.

    Args:
        image (`torch.Tensor` of shape `(B, C, H, W)` or `(B, S, C, H, W)`): slices or scans in [0, 1].
        target: not used, for the map is of all classes; the saliency methods share this signature.
        saliency (`torch.Tensor` of shape `(B, 1, H, W)` or `(B, S, 1, H, W)`, *optional*): handed to the classifier.
        reference (`str`): x is the `"image"` (thesis) or its `"reconstruction"` (the author's code, in which the
            autoencoder's own error cancels).
        num_classes (`int`, *optional*): K; the classifier's own number by default, 2 if it has no configuration.
        batch_size (`int`, *optional*): most pairs of image (or scan) and class in one pass; all of them by default.
        options: of `latent_counterfactual`.

    Returns:
        `torch.Tensor` of shape `(B, 1, H, W)` or `(B, S, 1, H, W)` in [0, 1]; the maximum of a scan is 1.
    """
    if reference not in REFERENCES:
        raise ValueError(f"`reference` is one of {', '.join(REFERENCES)}, got {reference!r}.")
    check_inputs(image, saliency)
    if num_classes is None:
        num_classes = getattr(getattr(classifier, "config", None), "num_labels", 2)
    pairs = torch.arange(num_classes * len(image), device=image.device)  # class k of image b is pair k·B + b
    changes = []
    for chosen in pairs.split(batch_size or len(pairs)):
        images = image[chosen % len(image)]
        maps = None if saliency is None else saliency[chosen % len(image)]
        result = latent_counterfactual(classifier, autoencoder, images, chosen // len(image), saliency=maps, **options)
        origin = images if reference == "image" else result.reconstruction
        changes.append(scale_to_one((origin - result.counterfactual).abs().mean(-3, keepdim=True)))
    change = torch.cat(changes).unflatten(0, (num_classes, len(image)))  # [K,B,1,H,W] or [K,B,S,1,H,W]
    return scale_to_one(change.mean(0))


def check_inputs(image: torch.Tensor, saliency: torch.Tensor | None = None) -> None:
    """Raise a `ValueError` unless these are slices or scans, and the saliency given along has their shape."""
    if image.ndim not in (4, 5) or 0 in image.shape:
        raise ValueError(
            f"`image` holds slices (B, C, H, W) or scans (B, S, C, H, W), got shape {tuple(image.shape)}; "
            "add a batch axis to a single one."
        )
    expected = (*image.shape[:-3], 1, *image.shape[-2:])
    if saliency is not None and tuple(saliency.shape) != expected:
        raise ValueError(f"`saliency` must have the shape {expected} to fit `image`, got {tuple(saliency.shape)}.")


def choose_target(classifier, image, target=None, saliency=None) -> torch.Tensor:
    """Class indices (B,) on the image's device: as given, or the predicted classes."""
    if target is None:
        with torch.no_grad():
            return class_logits(classifier, image, saliency).argmax(1)
    target = torch.as_tensor(target, device=image.device)
    if target.shape != image.shape[:1] or target.is_floating_point():
        raise ValueError(
            f"`target` holds one class index for each of {len(image)} images, got {target.dtype} "
            f"of shape {tuple(target.shape)}."
        )
    return target.long()


def class_logits(classifier, image: torch.Tensor, saliency: torch.Tensor | None = None) -> torch.Tensor:
    """Logits (B, K); saliency is only passed on where there is some."""
    return classifier(image).logits if saliency is None else classifier(image, saliency=saliency).logits


def by_slice(function, images: torch.Tensor) -> torch.Tensor:
    """A function of slices (N, C, H, W) applied to scans (B, S, C, H, W) too."""
    if images.ndim == 4:
        return function(images)
    return function(images.flatten(0, 1)).unflatten(0, images.shape[:2])


def decode_like(autoencoder, latent: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """The decoded slices, without the margin that an autoencoder adds to sizes it cannot halve evenly."""
    height, width = image.shape[-2:]
    return by_slice(lambda codes: autoencoder.decode(codes)[..., :height, :width], latent)


def pick(scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The target class's column (B,) of scores (B, K)."""
    return scores.gather(1, target[:, None])[:, 0]


def per_image(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Values (B,) with as many axes as `like` has."""
    return values.view(-1, *[1] * (like.ndim - 1))


def scale_to_one(maps: torch.Tensor) -> torch.Tensor:
    """Maps >= 0 in float32, divided by their maximum over everything but the batch; a dark one stays dark."""
    maps = maps.float()
    return maps / maps.flatten(1).amax(1).view(-1, *[1] * (maps.ndim - 1)).clamp_min(1e-12)
