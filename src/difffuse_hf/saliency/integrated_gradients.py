"""Integrated gradients (Sundararajan et al. 2017) from a black image, the baseline of Sec. 5.6.5."""

import torch

from .common import Images, Maps, Query, Target, absolute_map, class_logits


def integrated_gradients(
    classifier,
    image: Images,
    target: Target = None,
    *,
    saliency: Maps = None,
    num_steps: int = 50,
    batch_size: int = 32,
) -> torch.Tensor:
    """Absolute values of `signed_integrated_gradients`, summed over channels.

    Args:
        num_steps (`int`): points of the quadrature.
        batch_size (`int`): most images (or scans) in one pass.

    The other arguments and the result are those of `gradient`.
    """
    return absolute_map(
        signed_integrated_gradients(Query.of(classifier, image, target, saliency), num_steps, batch_size)
    )


def signed_integrated_gradients(query: Query, num_steps: int = 50, batch_size: int = 32) -> torch.Tensor:
    """What each pixel adds to the target's logit on the way from black, shaped like the image, in units of the logit.

        x ⊙ ∫_0^1 ∂ logit_target / ∂x (a x) da,   which sums to logit_target(x) − logit_target(0)

    The integral is captum's Gauss-Legendre quadrature. A saliency map given along stays as it is on the whole way.

    Raises:
        ImportError: captum is not installed.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise ImportError(
            "Integrated gradients need captum; install it with: pip install 'difffuse_hf[train]'"
        ) from error

    def logits(images, maps=None):  # captum cuts images and maps into the same parts
        return class_logits(query.classifier, images, maps)

    attribution = IntegratedGradients(logits).attribute(
        query.image.detach(),
        baselines=0.0,
        target=query.target,
        additional_forward_args=query.saliency,
        n_steps=num_steps,
        internal_batch_size=max(batch_size, len(query.image)),
    )
    return attribution.detach().to(query.image.dtype)
