"""The gradient of a class score with respect to the image (Simonyan et al. 2014), a competitor of Sec. 5.6.5.

This and the methods built on it explain the logit of the target class, before the softmax, and sum absolute values
over channels; the thesis is silent on both.
"""

import torch

from .common import Images, Maps, Query, Target, absolute_map


def gradient(classifier, image: Images, target: Target = None, *, saliency: Maps = None) -> torch.Tensor:
    """|∂ logit_target / ∂x|, summed over channels (the paper takes the maximum).

    Args:
        classifier: in eval mode.
        image (`torch.Tensor` of shape `(B, C, H, W)` or `(B, S, C, H, W)`): slices or scans in [0, 1].
        target (`torch.Tensor` of shape `(B,)`, *optional*): class indices; the predicted classes by default.
        saliency (`torch.Tensor` of shape `(B, 1, H, W)` or `(B, S, 1, H, W)`, *optional*): handed to the classifier.

    Returns:
        `torch.Tensor` of shape `(B, 1, H, W)` or `(B, S, 1, H, W)` in [0, 1].

    Raises:
        ValueError: for shapes that do not fit.
    """
    query = Query.of(classifier, image, target, saliency)
    return absolute_map(query.gradient(image))
