"""How a counterfactual search can fail, shown along its path through latent space (thesis Sec. 5.5.4).

Three searches start at the same code E(x) with the same first gradient and the same step size: a single gradient
followed further and further (latent shift), a new gradient at every step but nothing that holds the code near E(x),
and Eq. 5.4. Each is judged by the probability of the class it moves towards and by how far it has gone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..saliency.common import by_slice, check_inputs, choose_target, class_logits, decode_like, pick
from ..saliency.counterfactual import latent_counterfactual

ONE_STEP, NO_DISTANCE, OURS = "one-step latent shift", "gradient steps without the L1 term", "Eq. 5.4"


@dataclass(frozen=True)
class LatentPath:
    """`probability` (num_steps + 1, B) of the target class, and `distance` (num_steps + 1, B), mean |z − E(x)|."""

    probability: Tensor
    distance: Tensor


def latent_paths(
    classifier,
    autoencoder,
    image: Tensor,
    target: Tensor | None = None,
    *,
    saliency: Tensor | None = None,
    num_steps: int = 20,
    step_size: float = 1.0,
    l1_weight: float = 100.0,
) -> dict[str, LatentPath]:
    """Probability of the target class and distance from E(x) along three searches (Sec. 5.5.4).

        one-step latent shift               z_k = E(x) − k β ∇CE(f(D(E(x))), target)
        gradient steps without the L1 term  z_k = z_{k−1} − β ∇CE(f(D(z_{k−1})), target)
        Eq. 5.4                             `latent_counterfactual`, which takes no step that would raise it

    Latent shift goes along the gradient of the probability; that of the cross-entropy has the same direction.

    Args:
        classifier, autoencoder: in eval mode.
        image (`torch.Tensor` of shape `(B, C, H, W)` or `(B, S, C, H, W)`): slices or scans in [0, 1].
        target (`torch.Tensor` of shape `(B,)`, *optional*): classes to move towards; `other_class` by default.
        saliency (`torch.Tensor` of shape `(B, 1, H, W)` or `(B, S, 1, H, W)`, *optional*): handed to the classifier.
        num_steps (`int`), step_size (`float`), l1_weight (`float`): as in `latent_counterfactual`.

    Returns:
        `dict` from the names above to `LatentPath`.
    """
    if num_steps < 1:
        raise ValueError(f"`num_steps` must be at least 1 for a path, got {num_steps}.")
    check_inputs(image, saliency)
    if target is None:
        target = other_class(classifier, image, saliency)
    target = choose_target(classifier, image, target, saliency)
    options = {"num_steps": num_steps, "step_size": step_size, "saliency": saliency}
    free = latent_counterfactual(classifier, autoencoder, image, target, l1_weight=0.0, step_rule="fixed", **options)
    options["step_rule"] = "proximal"  # the one that leaves E(x) wherever Eq. 5.4 has a lower value
    held = latent_counterfactual(classifier, autoencoder, image, target, l1_weight=l1_weight, **options)
    return {
        ONE_STEP: _straight_path(classifier, autoencoder, image, target, saliency, num_steps, step_size),
        NO_DISTANCE: LatentPath(free.probability, free.distance),
        OURS: LatentPath(held.probability, held.distance),
    }


def paths_of_split(
    classifier, autoencoder, rows, batch_size: int = 16, device: str = "cpu", **search
) -> dict[str, LatentPath]:
    """`latent_paths` of all rows of a data set, a batch at a time.

    Args:
        rows (`datasets.Dataset`): in torch format with `pixel_values`, and `saliency` for a classifier that needs it.
        search: `num_steps`, `step_size` and `l1_weight`.
    """
    parts = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        maps = batch["saliency"].to(device) if "saliency" in batch else None
        parts.append(latent_paths(classifier, autoencoder, batch["pixel_values"].to(device), saliency=maps, **search))
    return {name: join_paths([part[name] for part in parts]) for name in parts[0]}


def join_paths(parts: list[LatentPath]) -> LatentPath:
    """The paths of several batches as those of one."""
    return LatentPath(*(torch.cat([getattr(part, of) for part in parts], 1) for of in ("probability", "distance")))


def other_class(classifier, image: Tensor, saliency: Tensor | None = None) -> Tensor:
    """Class (B,) that a prediction would turn into: 0 (no lesion) from any other, from 0 the likeliest other one."""
    with torch.no_grad():
        logits = class_logits(classifier, image, saliency)
    lesion = logits[:, 1:].argmax(1) + 1
    return torch.where(choose_target(classifier, image, None, saliency) == 0, lesion, 0)


def summarise_paths(paths: dict[str, LatentPath]) -> dict:
    """Median and quartiles over images at every step, ready for JSON.

    `reached` is the share of images that end with the target class's probability above one half, `fell_back` the share
    that end more than 0.05 below the highest probability they had on the way.
    """
    summary = {}
    for name, path in paths.items():
        row = {
            "images": path.probability.shape[1],
            "reached": (path.probability[-1] > 0.5).float().mean().item(),
            "fell_back": (path.probability.amax(0) - path.probability[-1] > 0.05).float().mean().item(),
        }
        for measure, values in (("probability", path.probability), ("distance", path.distance)):
            low, middle, high = values.float().quantile(torch.tensor([0.25, 0.5, 0.75], device=values.device), dim=1)
            row[measure] = {"quartile_1": low.tolist(), "median": middle.tolist(), "quartile_3": high.tolist()}
        summary[name] = row
    return summary


def shifted_images(
    classifier,
    autoencoder,
    image: Tensor,
    shifts: Sequence[float],
    target: Tensor | None = None,
    saliency: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What one-step latent shift makes of images at every λ (Fig. 5.5), and the target class's probability there.

        x_λ = D(E(x) − λ ∇CE(f(D(E(x))), target)),   the reconstruction at λ = 0

    Args:
        shifts (`Sequence[float]`): λ, K of them.
        others: as in `latent_paths`.

    Returns:
        Images (K, B, C, H, W), or (K, B, S, C, H, W) of scans, and probabilities (K, B).
    """
    target = other_class(classifier, image, saliency) if target is None else target
    made = list(_straight(classifier, autoencoder, image, target, saliency, shifts))
    return torch.stack([one[0] for one in made]), torch.stack([one[1] for one in made])


def _straight_path(classifier, autoencoder, image, target, saliency, num_steps, step_size):
    shifts = [number * step_size for number in range(num_steps + 1)]
    found = [one[1:] for one in _straight(classifier, autoencoder, image, target, saliency, shifts)]
    return LatentPath(*(torch.stack(values) for values in zip(*found)))


@torch.no_grad()
def _straight(classifier, autoencoder, image, target, saliency, shifts):
    """Image, probability (B,) and distance (B,) at every λ of the straight path."""
    start = by_slice(autoencoder.encode, image)
    with torch.enable_grad():
        latent = start.detach().requires_grad_()
        logits = class_logits(classifier, decode_like(autoencoder, latent, image), saliency).float()
        slope = torch.autograd.grad(F.cross_entropy(logits, target, reduction="sum"), latent)[0]
    for shift in shifts:
        shifted = start - shift * slope
        decoded = decode_like(autoencoder, shifted, image)
        logits = class_logits(classifier, decoded, saliency).float()
        yield decoded, pick(logits.softmax(1), target), (shifted - start).abs().flatten(1).mean(1)
