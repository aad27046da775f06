"""What all saliency methods share: one signature, its checks, and the questions they put to a classifier.

Every method is `f(classifier, image, target=None, *, saliency=None, ...)` and returns maps in [0, 1], of shape
(B, 1, H, W) for slices and (B, S, 1, H, W) for scans. Methods differ in the images they show to the classifier, which
are the batch itself or changed copies of it; `Query` knows which class and which given saliency belongs to each copy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import InputError

Images = torch.Tensor  # slices (B, C, H, W) or scans (B, S, C, H, W), in [0, 1]
Target = torch.Tensor | None  # class indices (B,); `None` stands for the predicted classes
Maps = torch.Tensor | None  # given to a classifier that takes saliency maps itself: (B, 1, H, W) or (B, S, 1, H, W)


@dataclass(frozen=True)
class Query:
    """Which part of `image` makes `classifier` see the class `target`? Made by `Query.of`, which checks it.

    Its methods take `copies`: the batch once or several times, one whole batch after the other, (N * B, ...).
    """

    classifier: Any
    image: torch.Tensor
    target: torch.Tensor
    saliency: torch.Tensor | None

    @classmethod
    def of(cls, classifier, image: Images, target: Target = None, saliency: Maps = None) -> "Query":
        """Raise a `ValueError` for shapes that do not fit, and predict the target where it is not given."""
        check_inputs(image, saliency)
        return cls(classifier, image, choose_target(classifier, image, target, saliency), saliency)

    def logits(self, copies: torch.Tensor) -> torch.Tensor:
        """All logits (N * B, K)."""
        return class_logits(self.classifier, copies, repeat(self.saliency, len(copies) // len(self.image)))

    def score(self, copies: torch.Tensor) -> torch.Tensor:
        """The target class's logit (N * B,)."""
        return self._of_target(self.logits(copies))

    def probability(self, copies: torch.Tensor) -> torch.Tensor:
        """The target class's probability (N * B,) in float32."""
        return self._of_target(self.logits(copies).float().softmax(1))

    def gradient(self, copies: torch.Tensor) -> torch.Tensor:
        """∂ score / ∂ copies, shaped like the copies."""
        with torch.enable_grad():
            copies = copies.detach().requires_grad_()
            return torch.autograd.grad(self.score(copies).sum(), copies)[0]

    def batches_in(self, batch_size: int) -> int:
        """How many copies of the batch make one pass of at most `batch_size` images; at least one."""
        return max(batch_size // len(self.image), 1)

    def _of_target(self, scores):
        return pick(scores, self.target.repeat(len(scores) // len(self.image)))


def check_inputs(image: Images, saliency: Maps = None) -> None:
    """Raise a `ValueError` unless these are slices or scans, and the saliency given along has their shape."""
    if image.ndim not in (4, 5) or 0 in image.shape:
        raise ValueError(
            f"`image` holds slices (B, C, H, W) or scans (B, S, C, H, W), got shape {tuple(image.shape)}; "
            "add a batch axis to a single one."
        )
    expected = (*image.shape[:-3], 1, *image.shape[-2:])
    if saliency is not None and tuple(saliency.shape) != expected:
        raise ValueError(f"`saliency` must have the shape {expected} to fit `image`, got {tuple(saliency.shape)}.")


def choose_target(classifier, image: Images, target: Target = None, saliency: Maps = None) -> torch.Tensor:
    """Class indices (B,) on the image's device: as given, or what the classifier decides on."""
    if target is None:
        with torch.no_grad():
            logits = class_logits(classifier, image, saliency)
            return classifier.decide(logits) if hasattr(classifier, "decide") else logits.argmax(1)
    target = torch.as_tensor(target, device=image.device)
    if target.shape != image.shape[:1] or target.is_floating_point():
        raise ValueError(
            f"`target` holds one class index for each of {len(image)} images, got {target.dtype} "
            f"of shape {tuple(target.shape)}."
        )
    return target.long()


def class_logits(classifier, image: torch.Tensor, saliency: Maps = None) -> torch.Tensor:
    """Logits (B, K) of a classifier; saliency is only passed on where there is some."""
    return read_logits(classifier(image) if saliency is None else classifier(image, saliency=saliency))


def read_logits(output: Any) -> torch.Tensor:
    """Logits (B, K), K > 1, in what a classifier returns: `output.logits`, or the tensor itself (torchvision, timm).

    A single logit z, as networks with a sigmoid have, becomes (−z/2, z/2): the softmax of the two is the sigmoid of z,
    and class 1 is the one that z speaks for.

    Raises:
        ValueError: there are no logits of that shape.
    """
    logits = getattr(output, "logits", output)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"`classifier` must return logits (B, K), alone or as `.logits`, got {got}.")
    return torch.cat([-logits / 2, logits / 2], dim=1) if logits.shape[1] == 1 else logits


def by_slice(function: Callable[[torch.Tensor], torch.Tensor], images: Images) -> torch.Tensor:
    """A function of slices (N, C, H, W) applied to scans (B, S, C, H, W) too."""
    if images.ndim == 4:
        return function(images)
    return function(images.flatten(0, 1)).unflatten(0, images.shape[:2])


def decode_like(autoencoder, latent: torch.Tensor, image: Images) -> torch.Tensor:
    """The decoded slices, without the margin that an autoencoder adds to sizes it cannot halve evenly."""
    height, width = image.shape[-2:]
    return by_slice(lambda codes: autoencoder.decode(codes)[..., :height, :width], latent)


def pick(scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The target class's column (B,) of scores (B, K)."""
    return scores.gather(1, target[:, None])[:, 0]


def per_image(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Values (B,) with as many axes as `like` has."""
    return values.view(-1, *[1] * (like.ndim - 1))


def repeat(values: torch.Tensor | None, count: int) -> torch.Tensor | None:
    """A batch so many times over, one whole batch after the other; `None` stays `None`."""
    return None if values is None else values.repeat(count, *[1] * (values.ndim - 1))


def scale_to_one(maps: torch.Tensor) -> torch.Tensor:
    """Maps >= 0 in float32, divided by their maximum over everything but the batch; a dark one stays dark.

    Raises:
        InputError: they are NaN or infinite, as of a damaged network.
    """
    maps = maps.float()
    if not maps.isfinite().all():
        raise InputError("The saliency map is NaN or infinite; compute in float32, or copy the model again.")
    return maps / per_image(maps.flatten(1).amax(1), maps).clamp_min(1e-12)


def absolute_map(attribution: torch.Tensor) -> torch.Tensor:
    """Map of a signed attribution (B, C, H, W) or (B, S, C, H, W): absolute values, summed over channels."""
    return scale_to_one(attribution.float().abs().sum(-3, keepdim=True))
