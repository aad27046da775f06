"""What every classifier of the package is called with and answers, whichever network it stands on."""

from typing import Any

import torch
from transformers import PreTrainedModel

from ..io.hub import private_by_default
from .backbone import FeatureModifier, check_pixel_values, initialise
from .loading import CheckedNetwork


@private_by_default
class ScanClassifier(CheckedNetwork, PreTrainedModel):
    """A classifier of slices or scans whose feature maps can be changed from outside.

    A subclass has `classify` and `sample_losses`, and says which images its convolutions see (`to_images`,
    `to_scan`) and after which stages their maps can be changed (`num_stages`, `stage_widths`).
    """

    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True

    def forward(
        self,
        pixel_values: torch.Tensor,
        saliency: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        feature_modifier: FeatureModifier | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Class logits of scans (B, S, C, H, W) or slices (B, C, H, W).

        Args:
            pixel_values (`torch.Tensor`): intensities in [0, 1].
            saliency (`torch.Tensor` of shape `(B, S, 1, H, W)` or `(B, 1, H, W)`, *optional*): maps in [0, 1], for the
                models that need them (`needs_saliency`); the others do not look at them.
            labels (`torch.Tensor` of shape `(B,)`, *optional*): class indices; with them the output has a `loss`.
            feature_modifier (`FeatureModifier`, *optional*): sees and changes the maps of every stage, after what the
                model itself does to them.
            return_dict (`bool`, *optional*): `False` for a tuple of what is not `None` in the output; the
                configuration's `return_dict`, which is true, by default.

        Returns:
            `ModelOutput` with `logits` (B, num_labels); the class that `classify` names says what else it has.

        Raises:
            ValueError: the channels, the labels or the saliency maps do not fit; the sentence says what would.
        """
        check_pixel_values(pixel_values, self.config.num_channels)
        output = self.classify(pixel_values, saliency, feature_modifier or FeatureModifier())
        if labels is not None:
            output = type(output)(loss=self.sample_losses(output, labels).mean(), **output)
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()

    def classify(
        self, pixel_values: torch.Tensor, saliency: torch.Tensor | None, feature_modifier: FeatureModifier
    ) -> Any:
        """The output without its loss, a `ModelOutput`."""
        raise NotImplementedError

    def sample_losses(self, output: Any, labels: torch.Tensor) -> torch.Tensor:
        """Loss (B,) of each slice or scan."""
        raise NotImplementedError

    def decide(self, logits: torch.Tensor) -> torch.Tensor:
        """The classes (B,) that logits (B, num_labels) stand for: those of highest probability."""
        return logits.argmax(1)

    def make_trunk(self, num_channels: int) -> Any:
        """A network like this one without its classification layers, untrained: `step(stage, maps)` gives the next."""
        raise NotImplementedError

    def readers(self, stage: int) -> list[Any]:
        """The convolutions or linear layers that read the maps after a stage, and nothing else."""
        raise NotImplementedError

    @property
    def num_views(self) -> int:
        """Images that the convolutions see of a slice."""
        return 1

    @property
    def num_stages(self) -> int:
        """Stages after which a `FeatureModifier` is asked."""
        raise NotImplementedError

    @property
    def stage_widths(self) -> list[int]:
        """Channels of the maps after each stage."""
        raise NotImplementedError

    def to_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Slices or scans as the images (N, C, h, w) that the convolutions see."""
        raise NotImplementedError

    def to_scan(self, maps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Maps (N, K, h, w) on those images put together: (B, S, K, H, W), or (B, K, H, W), as `like` is."""
        raise NotImplementedError

    @torch.no_grad()
    def _init_weights(self, module):
        initialise(module)
