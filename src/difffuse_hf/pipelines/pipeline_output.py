"""What every pipeline that makes a healthy counterfactual returns."""

from dataclasses import dataclass, fields

import numpy as np
import torch
from diffusers.utils.outputs import BaseOutput


@dataclass
class CounterfactualOutput(BaseOutput):
    """A batch of healthy counterfactuals and the maps that come with them.

    Args:
        counterfactuals (`torch.Tensor` or `np.ndarray` of shape `(B, C, H, W)`): x̂_0 in [0, 1].
        anomaly_maps (`torch.Tensor` or `np.ndarray` of shape `(B, 1, H, W)`): δ ≥ 0, change of intensity; the
            pipeline says of what kind and range.
        masks (`torch.Tensor` or `np.ndarray` of shape `(B, 1, H, W)`): m, 1 where tissue was repainted.
        saliency (`torch.Tensor` or `np.ndarray` of shape `(B, 1, H, W)`, *optional*): in [0, 1]; None when the mask
            was given instead.
        uncertainty (`torch.Tensor` or `np.ndarray` of shape `(B, 1, H, W)`, *optional*): standard deviation over the
            samples, averaged over channels; None with one sample.
        agreement (`torch.Tensor` or `np.ndarray` of shape `(B, 1, H, W)`, *optional*): share of the samples whose own
            anomaly map reaches the model's calibrated threshold, 0 to 1; None with one sample or without a threshold,
            and for maps that are in standard deviations of the samples.
        expected (`torch.Tensor` or `np.ndarray` of shape `(B, C, H, W)`, *optional*): mean of the samples, in [0, 1].
        deviation (`torch.Tensor` or `np.ndarray` of shape `(B, C, H, W)`, *optional*): standard deviation over the
            samples; None with one sample.
    """

    counterfactuals: torch.Tensor | np.ndarray
    anomaly_maps: torch.Tensor | np.ndarray
    masks: torch.Tensor | np.ndarray
    saliency: torch.Tensor | np.ndarray | None = None
    uncertainty: torch.Tensor | np.ndarray | None = None
    agreement: torch.Tensor | np.ndarray | None = None
    expected: torch.Tensor | np.ndarray | None = None
    deviation: torch.Tensor | np.ndarray | None = None

    def in_form(self, output_type: str, return_dict: bool) -> "CounterfactualOutput | tuple":
        """As tensors (`"pt"`) or arrays (`"np"`); without `return_dict` as a tuple of all eight, None included."""
        values = tuple(getattr(self, field.name) for field in fields(self))
        if output_type == "np":
            values = tuple(value.cpu().numpy() if isinstance(value, torch.Tensor) else value for value in values)
        return CounterfactualOutput(*values) if return_dict else values
