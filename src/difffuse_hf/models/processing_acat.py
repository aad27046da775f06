"""What an image goes through before a classifier sees it; saved beside the weights, with saliency maps in step.

Scans and slices arrive as arrays, in Hounsfield units or already in [0, 1], or as pictures; they leave as tensors of
one size.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import BaseImageProcessor, BatchFeature

from ..errors import InputError, require_choice
from ..io.hub import private_by_default
from ..preprocessing.volume import sample_slices
from .processing_difffuse import TENSORS


@private_by_default
class ACATProcessor(BaseImageProcessor):
    """Window, sample, resize and flip images, and their saliency maps together with them.

    Args:
        image_size (`tuple[int, int]`): (H, W) that images are resized to; their own size with `None`.
        num_slices (`int`, *optional*): a scan of more slices is sampled uniformly to so many (thesis: 11).
        window (`tuple[float, float]`): the values that become 0 and 1 (brain CT: 0-100 HU); (0, 1) for images that are
            in [0, 1] already, where anything outside it is an error.
        num_channels (`int`): channels of a slice.
    """

    model_input_names = ["pixel_values", "saliency"]

    def __init__(
        self,
        image_size: list[int] | tuple[int, ...] | None = None,
        num_slices: int | None = None,
        window: list[float] | tuple[float, float] = (0.0, 1.0),
        num_channels: int = 1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if image_size is not None and (len(image_size) != 2 or min(image_size) < 1):
            raise ValueError(f"`image_size` is (height, width) in pixels, got {image_size}.")
        if window[0] >= window[1]:
            raise ValueError(f"`window` goes from the value that becomes 0 to the one that becomes 1, got {window}.")
        self.image_size = None if image_size is None else tuple(image_size)
        self.num_slices = num_slices
        self.window = float(window[0]), float(window[1])
        self.num_channels = num_channels

    def preprocess(  # pyright: ignore[reportIncompatibleMethodOverride]  the base takes pictures
        self,
        images: Any,
        saliency: np.ndarray | torch.Tensor | None = None,
        flip: bool | torch.Tensor = False,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """`pixel_values`, and `saliency` if it is given.

        Args:
            images (`np.ndarray`, `torch.Tensor`, `PIL.Image.Image` or a list of one of them): slices (B, C, H, W),
                (C, H, W), (H, W, C) or (H, W), scans (B, S, C, H, W), in the range of `window`; (S, H, W) with one
                channel is a scan where `num_slices` is set. Where that range is [0, 1], bytes from 0 to 255 are taken
                for grey values.
            saliency: maps of the same slices, (B, S, 1, H, W) or (B, 1, H, W), in [0, 1].
            flip (`bool` or `torch.Tensor` of shape `(B,)`): mirror left and right; classes that name a side have to
                change places with it (`difffuse_hf.training.augmentation.flip_labels`).
            return_tensors (`str`, *optional*): "pt" for PyTorch tensors, "np" or None for NumPy arrays.

        Raises:
            InputError: the values lie outside [0, 1] with the window (0, 1), or are not finite; wrong channels.
        """
        return_tensors = return_tensors or "np"
        require_choice("return_tensors", return_tensors, TENSORS)
        pixels = self._window(self._arrange(self._read(images)))
        parts = {"pixel_values": pixels}
        if saliency is not None:
            maps = self._arrange(torch.as_tensor(np.asarray(saliency)).float(), channels=1)
            if maps.shape[:-3] != pixels.shape[:-3] or maps.shape[-2:] != pixels.shape[-2:]:
                raise InputError(
                    f"The saliency maps have the shape {tuple(maps.shape)} and the images {tuple(pixels.shape)}; "
                    "make the maps from these images."
                )
            parts["saliency"] = maps.clamp(0, 1)
        if self.image_size is not None:
            parts = {name: resize(part, self.image_size) for name, part in parts.items()}
        parts = {name: mirror(part, flip) for name, part in parts.items()}
        return BatchFeature(parts, tensor_type=return_tensors)

    def _read(self, images):
        """Pictures and lists as one float tensor, channels before rows; bytes as shares of 255."""
        if isinstance(images, (list, tuple)):
            parts = [self._read(one) for one in images]
            if len(shapes := {tuple(part.shape) for part in parts}) != 1:
                raise InputError(f"The images of a batch have the shapes {sorted(shapes)}; give them one by one.")
            return torch.stack(parts)
        if isinstance(images, Image.Image):
            images = images.convert("L" if self.num_channels == 1 else "RGB")
        values = images if isinstance(images, torch.Tensor) else torch.as_tensor(np.array(images))
        shares = values.dtype == torch.uint8 and self.window == (0.0, 1.0)
        values = values.float() / 255 if shares else values.float()
        if values.ndim == 2 and self.num_channels == 1 and self.num_slices is None:
            return values[None]
        last = values.ndim == 3 and values.shape[-1] == self.num_channels and values.shape[0] != self.num_channels
        return values.movedim(-1, 0) if last else values

    def _arrange(self, images, channels=None):
        """(B, [S,] C, H, W); one slice or scan becomes a batch of one, slices are sampled."""
        channels = channels or self.num_channels
        if images.ndim == 3 and self.num_slices is not None and channels == 1:
            images = images[None, :, None]  # (S, H, W)
        elif images.ndim in (3, 4) and images.ndim - 3 < (2 if self.num_slices is not None else 1):
            images = images[None]
        if images.ndim not in (4, 5) or images.shape[-3] != channels:
            raise InputError(
                f"Images of shape {tuple(images.shape)} are neither slices (B, {channels}, H, W) nor scans "
                f"(B, S, {channels}, H, W)."
            )
        if self.num_slices is not None and images.ndim == 5 and images.shape[1] != self.num_slices:
            images = images[:, torch.as_tensor(sample_slices(images.shape[1], self.num_slices))]
        return images

    def _window(self, images):
        if not torch.isfinite(images).all():
            raise InputError("The images hold NaN or infinite values; replace them or export the scan again.")
        low, high = self.window
        if (low, high) == (0.0, 1.0) and len(images) and (images.min() < -1e-3 or images.max() > 1 + 1e-3):
            raise InputError(
                f"The images lie in [{images.min():g}, {images.max():g}] where [0, 1] is expected; give `window` "
                "(0, 100) for head CT in Hounsfield units."
            )
        return ((images - low) / (high - low)).clamp(0, 1)


def resize(images: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """(..., C, H, W) at another size: bilinear, smoothed where it shrinks, so that [0, 1] stays [0, 1]."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    flat = images.flatten(0, -4)  # (N, C, H, W)
    small = F.interpolate(flat, size=tuple(size), mode="bilinear", align_corners=False, antialias=True)
    return small.unflatten(0, images.shape[:-3])


def mirror(images: torch.Tensor, flip: bool | torch.Tensor) -> torch.Tensor:
    """Images (B, ..., W) with left and right exchanged where `flip` is true, for all or for each of the batch."""
    flip = torch.as_tensor(flip, device=images.device)
    return torch.where(flip.view(-1, *[1] * (images.ndim - 1)), images.flip(-1), images)
