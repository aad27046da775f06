"""Any saliency method by its name, for a configuration or a command line."""

import functools
from collections.abc import Callable

import torch

from ..errors import InputError

WITH_AUTOENCODER = ("class_agnostic_saliency", "latent_shift")
METHODS = (
    *WITH_AUTOENCODER,
    *("gradient", "smooth_grad", "guided_backprop", "integrated_gradients"),
    *("grad_cam", "grad_cam_plus_plus", "score_cam", "rise"),
)  # public names of the package


def saliency_method(name: str, classifier, autoencoder=None, **options) -> Callable[..., torch.Tensor]:
    """`f(image, target=None, *, saliency=None) -> maps` of the method called `name`.

    Args:
        name (`str`): one of `METHODS`.
        classifier, autoencoder: the networks; the autoencoder for the methods of `WITH_AUTOENCODER` only.
        options: further arguments of the method.

    Raises:
        InputError: there is no such method, or it needs an autoencoder.
    """
    import difffuse_hf

    if name not in METHODS:
        raise InputError(f"There is no saliency method {name!r}; choose one of {', '.join(METHODS)}.")
    if name in WITH_AUTOENCODER and autoencoder is None:
        raise InputError(f"The saliency method {name} needs an autoencoder.")
    networks = (classifier, autoencoder) if name in WITH_AUTOENCODER else (classifier,)
    return functools.partial(getattr(difffuse_hf, name), *networks, **options)
