"""Any saliency method by its name, for a configuration or a command line."""

import functools
import inspect
from collections.abc import Callable

import torch

from ..errors import InputError, require_choice
from .counterfactual import class_agnostic_saliency, negative_counterfactual
from .grad_cam import grad_cam
from .grad_cam_plus_plus import grad_cam_plus_plus
from .gradient import gradient
from .guided_backprop import guided_backprop
from .integrated_gradients import integrated_gradients
from .latent_shift import latent_shift
from .rise import rise
from .score_cam import score_cam
from .smooth_grad import smooth_grad

Method = Callable[..., torch.Tensor]

_WITH_AUTOENCODER: tuple[Method, ...] = (class_agnostic_saliency, negative_counterfactual, latent_shift)
_WITHOUT: tuple[Method, ...] = (
    *(gradient, smooth_grad, guided_backprop, integrated_gradients),
    *(grad_cam, grad_cam_plus_plus, score_cam, rise),
)
_METHODS = {method.__name__: method for method in (*_WITH_AUTOENCODER, *_WITHOUT)}
WITH_AUTOENCODER = tuple(method.__name__ for method in _WITH_AUTOENCODER)
METHODS = tuple(_METHODS)


def saliency_method(name: str, classifier, autoencoder=None, **options) -> Method:
    """`f(image, target=None, *, saliency=None) -> maps` of the method called `name`.

    Args:
        name (`str`): one of `METHODS`.
        classifier, autoencoder: the networks; the autoencoder for the methods of `WITH_AUTOENCODER` only.
        options: further arguments of the method.

    Raises:
        InputError: there is no such method, or it needs an autoencoder or has no such option.
    """
    require_choice("method", name, METHODS)
    if name in WITH_AUTOENCODER and autoencoder is None:
        raise InputError(f"The saliency method {name} needs an autoencoder.")
    known = inspect.signature(_METHODS[name]).parameters
    if not any(one.kind is one.VAR_KEYWORD for one in known.values()):
        for option in options:
            require_choice(f"options of {name}", option, known)
    networks = (classifier, autoencoder) if name in WITH_AUTOENCODER else (classifier,)
    return functools.partial(_METHODS[name], *networks, **options)
