"""Saliency from gradients with respect to the image: the competitors of Sec. 5.6.5 that need no feature maps.

All of them explain the logit of the target class, before the softmax, and sum absolute values over channels; the
thesis is silent on both. A method's noise is the same for every image of a batch, so that no map depends on the batch.
"""

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .counterfactual import check_inputs, choose_target, class_logits, pick, scale_to_one


def gradient(
    classifier, image: torch.Tensor, target: torch.Tensor | None = None, *, saliency: torch.Tensor | None = None
) -> torch.Tensor:
    """|∂ logit_target / ∂x|, summed over channels (Simonyan et al. 2014 take the maximum).

    Args:
        classifier: in eval mode.
        image (`torch.Tensor` of shape `(B, C, H, W)` or `(B, S, C, H, W)`): slices or scans in [0, 1].
        target (`torch.Tensor` of shape `(B,)`, *optional*): class indices; the predicted classes by default.
        saliency (`torch.Tensor` of shape `(B, 1, H, W)` or `(B, S, 1, H, W)`, *optional*): handed to the classifier.

    Returns:
        `torch.Tensor` of shape `(B, 1, H, W)` or `(B, S, 1, H, W)` in [0, 1].
    """
    check_inputs(image, saliency)
    target = choose_target(classifier, image, target, saliency)
    return _to_map(_image_gradient(classifier, image, target, saliency))


def smooth_grad(
    classifier,
    image: torch.Tensor,
    target: torch.Tensor | None = None,
    *,
    saliency: torch.Tensor | None = None,
    num_samples: int = 50,
    noise: float = 0.15,
    generator: torch.Generator | None = None,
    batch_size: int = 32,
) -> torch.Tensor:
    """Absolute mean of the gradients at noisy copies of the image (SmoothGrad, Smilkov et al. 2017).

        |1/n Σ_i ∂ logit_target / ∂x (x + ε_i)|,   ε_i ~ N(0, σ²),   σ = noise · (max x − min x)

    The mean is of signed gradients, as in the paper. The target is the class predicted without noise.

    Args:
        num_samples (`int`): n (paper: 50).
        noise (`float`): σ as a share of each image's range (paper: 0.1 to 0.2).
        generator (`torch.Generator`, *optional*): source of the noise.
        batch_size (`int`): most images (or scans) in one pass.

    The other arguments and the result are those of `gradient`.
    """
    check_inputs(image, saliency)
    target = choose_target(classifier, image, target, saliency)
    sigma = noise * (image.flatten(1).amax(1) - image.flatten(1).amin(1)).view(-1, *[1] * (image.ndim - 1))
    device = image.device if generator is None else generator.device
    total = torch.zeros_like(image)
    for count in _chunks(num_samples, batch_size // len(image)):
        draws = [torch.randn(image.shape[1:], generator=generator, device=device) for _ in range(count)]
        epsilon = torch.stack(draws)[:, None].to(image.device, image.dtype)  # one noise for all images
        noisy = (image + sigma * epsilon).flatten(0, 1)  # [count*B,C,H,W] or [count*B,S,C,H,W]
        maps = repeat(saliency, count)
        slopes = _image_gradient(classifier, noisy, target.repeat(count), maps)
        total = total + slopes.unflatten(0, (count, len(image))).sum(0)
    return _to_map(total / num_samples)


def guided_backprop(
    classifier, image: torch.Tensor, target: torch.Tensor | None = None, *, saliency: torch.Tensor | None = None
) -> torch.Tensor:
    """The gradient, of which rectifiers let only the positive part pass back (Springenberg et al. 2015).

    At every ReLU and leaky ReLU, whether a module or a function, the gradient g that arrives from above goes on as
    g · [g > 0] · [input > 0]: the leak of a leaky ReLU is there in the forward pass only.

    Raises:
        ValueError: if the classifier has neither ReLU nor leaky ReLU, for then this would be the gradient.

    The arguments and the result are those of `gradient`.
    """
    check_inputs(image, saliency)
    target = choose_target(classifier, image, target, saliency)
    with _GuidedRectifiers() as rectifiers:
        slopes = _image_gradient(classifier, image, target, saliency)
    if not rectifiers.count:
        raise ValueError(f"`classifier` ({type(classifier).__name__}) has no ReLU to guide; use `gradient` instead.")
    return _to_map(slopes)


def integrated_gradients(
    classifier,
    image: torch.Tensor,
    target: torch.Tensor | None = None,
    *,
    saliency: torch.Tensor | None = None,
    num_steps: int = 50,
    batch_size: int = 32,
) -> torch.Tensor:
    """Absolute values of `signed_integrated_gradients`, summed over channels.

    The arguments are those of `signed_integrated_gradients`, the result is that of `gradient`.
    """
    return _to_map(
        signed_integrated_gradients(
            classifier, image, target, saliency=saliency, num_steps=num_steps, batch_size=batch_size
        )
    )


def signed_integrated_gradients(
    classifier,
    image: torch.Tensor,
    target: torch.Tensor | None = None,
    *,
    saliency: torch.Tensor | None = None,
    num_steps: int = 50,
    batch_size: int = 32,
) -> torch.Tensor:
    """What each pixel adds to the target's logit on the way from black (Sundararajan et al. 2017; black: Sec. 5.6.5).

        x ⊙ ∫_0^1 ∂ logit_target / ∂x (a x) da,   which sums to logit_target(x) − logit_target(0)

    The integral is captum's Gauss-Legendre quadrature. A saliency map given along stays as it is on the whole way.

    Args:
        num_steps (`int`): points of the quadrature.
        batch_size (`int`): most images (or scans) in one pass.

    Returns:
        `torch.Tensor` shaped like `image`: signed, in units of the logit.

    The other arguments are those of `gradient`.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise ImportError(
            "Integrated gradients need captum; install it with: pip install 'difffuse_hf[train]'"
        ) from error
    check_inputs(image, saliency)
    target = choose_target(classifier, image, target, saliency)

    def logits(images, maps=None):
        return class_logits(classifier, images, maps)

    attribution = IntegratedGradients(logits).attribute(
        image.detach(),
        baselines=0.0,
        target=target,
        additional_forward_args=saliency,
        n_steps=num_steps,
        internal_batch_size=max(batch_size, len(image)),
    )
    return attribution.detach().to(image.dtype)


def repeat(values: torch.Tensor | None, count: int) -> torch.Tensor | None:
    """A batch so many times over, one whole batch after the other; `None` stays `None`."""
    return None if values is None else values.repeat(count, *[1] * (values.ndim - 1))


def _chunks(total: int, size: int) -> list[int]:
    """`total` as a sum of parts of at most `size`, which is at least 1."""
    size = max(size, 1)
    return [min(size, total - start) for start in range(0, total, size)]


def _image_gradient(classifier, image, target, saliency):
    with torch.enable_grad():
        image = image.detach().requires_grad_()
        score = pick(class_logits(classifier, image, saliency), target).sum()
        return torch.autograd.grad(score, image)[0]


def _to_map(attribution: torch.Tensor) -> torch.Tensor:
    return scale_to_one(attribution.float().abs().sum(-3, keepdim=True))


class _GuidedRectifier(torch.autograd.Function):
    """Leaky ReLU (of slope 0: ReLU) forwards, guided backpropagation backwards."""

    @staticmethod
    def forward(ctx, hidden, slope):
        ctx.save_for_backward(hidden)
        return F.leaky_relu(hidden, slope)

    @staticmethod
    def backward(ctx, gradient):
        (hidden,) = ctx.saved_tensors
        return gradient.clamp_min(0) * (hidden > 0), None


class _GuidedRectifiers(TorchFunctionMode):
    """Puts `_GuidedRectifier` in the place of every ReLU and leaky ReLU, called as a module or as a function."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "").removesuffix("_")  # relu_ and leaky_relu_ work in place
        if name not in ("relu", "leaky_relu"):
            return function(*args, **kwargs)
        self.count += 1
        hidden = args[0] if args else kwargs["input"]
        slope = 0.0 if name == "relu" else args[1] if len(args) > 1 else kwargs.get("negative_slope", 0.01)
        return _GuidedRectifier.apply(hidden, slope)
