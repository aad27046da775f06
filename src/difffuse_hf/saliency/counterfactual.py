"""Saliency from adversarial counterfactuals in an autoencoder's latent space (thesis Secs. 5.4-5.5, Eqs. 5.3-5.4).

The latent code of a slice is moved until the classifier changes its mind; what changes in the picture is salient.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

DISTANCES = ("l1_mean", "l1_norm")
REFERENCES = ("image", "reconstruction")


@dataclass(frozen=True)
class LatentCounterfactual:
    """`counterfactual` and `reconstruction` (B, C, H, W) in [0, 1]; `objective` (num_steps + 1, B), Eq. 5.4 along the
    path, which never rises; `probability` (num_steps + 1, B) of the target class."""

    counterfactual: torch.Tensor
    reconstruction: torch.Tensor
    objective: torch.Tensor
    probability: torch.Tensor


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
) -> LatentCounterfactual:
    """Move the latent code of an image towards a target class (Eqs. 5.3-5.4), all images of the batch at once.

        g(z) = CE(f(D(z)), target) + α · d(z, E(x)),   z ← z − β ∇g(z) wherever that does not raise g, else β ← β / 2

    The step back is ours: thesis and code use a fixed β, with which g may rise. It is taken for each image by itself
    and on the device. The thesis writes d as the L1 norm; its code takes the mean, and only that can move: with the
    norm and α = 100 the minimiser of g is E(x) itself as soon as every |∂CE/∂z_i| < 100. Hence the default.

    Args:
        classifier: called as `classifier(image).logits`; in eval mode.
        autoencoder: with `encode` and `decode`.
        image (`torch.Tensor` of shape `(B, C, H, W)`): in [0, 1].
        target (`torch.Tensor` of shape `(B,)`): class to move towards.
        num_steps (`int`): evaluations of ∇g (thesis: 20).
        step_size (`float`): β at the start (thesis: 1; its code: 0.001 on BraTS, 0.1 on MosMed).
        l1_weight (`float`): α (thesis: 100).
        distance (`str`): `"l1_mean"` (mean |z − E(x)|, the author's code) or `"l1_norm"` (the sum, the thesis).
        step_growth (`float`): factor on β after a step that was taken; 1 keeps β until it has to shrink.
    """
    if distance not in DISTANCES:
        raise ValueError(f"`distance` is one of {', '.join(DISTANCES)}, got {distance!r}.")
    target = target.to(image.device)
    with torch.no_grad():
        start = autoencoder.encode(image)
        reconstruction = autoencoder.decode(start)

    def objective_and_gradient(latent):
        with torch.enable_grad():
            latent = latent.detach().requires_grad_()
            logits = classifier(autoencoder.decode(latent)).logits.float()
            move = (latent - start).abs().flatten(1)
            move = move.mean(1) if distance == "l1_mean" else move.sum(1)
            objective = F.cross_entropy(logits, target, reduction="none") + l1_weight * move  # [B]
            gradient = torch.autograd.grad(objective.sum(), latent)[0]
        probability = logits.softmax(1).gather(1, target[:, None])[:, 0]
        return objective.detach(), gradient, probability.detach()

    latent = start
    objective, gradient, probability = objective_and_gradient(latent)
    step = torch.full_like(objective, step_size)
    objectives, probabilities = [objective], [probability]
    for _ in range(num_steps):
        proposal = latent - _per_image(step, latent) * gradient
        new_objective, new_gradient, new_probability = objective_and_gradient(proposal)
        taken = new_objective <= objective
        latent = torch.where(_per_image(taken, latent), proposal, latent)
        gradient = torch.where(_per_image(taken, latent), new_gradient, gradient)
        objective = torch.where(taken, new_objective, objective)
        probability = torch.where(taken, new_probability, probability)
        step = torch.where(taken, step * step_growth, step / 2)
        objectives.append(objective)
        probabilities.append(probability)
    with torch.no_grad():
        counterfactual = autoencoder.decode(latent)
    return LatentCounterfactual(counterfactual, reconstruction, torch.stack(objectives), torch.stack(probabilities))


def class_agnostic_saliency(
    classifier, autoencoder, image: torch.Tensor, reference: str = "image", num_classes: int = 2, **options
) -> torch.Tensor:
    """Mean over the classes of the normalised change that takes an image towards each of them (Sec. 5.5).

        S = 1/K Σ_k |x − x̂_k| / max |x − x̂_k|,   averaged over channels, then scaled to a maximum of 1

    All classes go through the networks in one batch.

    Args:
        image (`torch.Tensor` of shape `(B, C, H, W)`): in [0, 1].
        reference (`str`): x is the `"image"` (thesis) or its `"reconstruction"` (the author's code, in which the
            autoencoder's own error cancels).
        num_classes (`int`): K.
        options: of `latent_counterfactual`.

    Returns:
        `torch.Tensor` of shape `(B, 1, H, W)` in [0, 1].
    """
    if reference not in REFERENCES:
        raise ValueError(f"`reference` is one of {', '.join(REFERENCES)}, got {reference!r}.")
    target = torch.arange(num_classes, device=image.device).repeat_interleave(len(image))
    result = latent_counterfactual(classifier, autoencoder, image.repeat(num_classes, 1, 1, 1), target, **options)
    origin = image.repeat(num_classes, 1, 1, 1) if reference == "image" else result.reconstruction
    change = _scale_to_one((origin - result.counterfactual).abs().mean(1, keepdim=True))  # [K*B,1,H,W]
    return _scale_to_one(change.unflatten(0, (num_classes, -1)).mean(0))


def _per_image(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))


def _scale_to_one(maps: torch.Tensor) -> torch.Tensor:
    return maps / maps.amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)
