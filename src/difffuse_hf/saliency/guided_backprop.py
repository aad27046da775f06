"""Guided backpropagation (Springenberg et al. 2015): the gradient, of which rectifiers pass back the positive part."""

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .common import Images, Maps, Query, Target, absolute_map


def guided_backprop(classifier, image: Images, target: Target = None, *, saliency: Maps = None) -> torch.Tensor:
    """The gradient with another rule at rectifiers.

    At every ReLU and leaky ReLU, whether a module or a function, the gradient g that arrives from above goes on as
    g · [g > 0] · [input > 0]: the leak of a leaky ReLU is there in the forward pass only.

    Raises:
        ValueError: if the classifier has neither ReLU nor leaky ReLU, for then this would be the gradient.

    The arguments and the result are those of `gradient`.
    """
    query = Query.of(classifier, image, target, saliency)
    with _GuidedRectifiers() as rectifiers:
        slopes = query.gradient(image)
    if not rectifiers.count:
        raise ValueError(f"`classifier` ({type(classifier).__name__}) has no ReLU to guide; use `gradient` instead.")
    return absolute_map(slopes)


class _GuidedRectifier(torch.autograd.Function):
    """Leaky ReLU (of slope 0: ReLU) forwards, guided backpropagation backwards."""

    @staticmethod
    def forward(ctx, hidden, slope):
        ctx.save_for_backward(hidden)
        return F.leaky_relu(hidden, slope)

    @staticmethod
    def backward(ctx, *gradients):
        (hidden,) = ctx.saved_tensors
        return gradients[0].clamp_min(0) * (hidden > 0), None


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
