"""A Dif-fuse model from a folder, the Hub or the package itself, ready to detect: checked, in the fastest dtype."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
from transformers.utils import logging as transformers_logging

from ..errors import InputError, first_line
from ..io.hub import model_folder
from ..io.model_card import card_line
from ..models.precision import fastest_dtype, to_fastest
from ..pipelines.pipeline_difffuse import DifFusePipeline


def load_model(
    model: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> tuple[DifFusePipeline, str]:
    """The pipeline in a folder, in a Hub repository (`user/name`) or embedded (`demo`), and a line of its model card.

    The U-Net, which takes nearly all of the time, computes in `dtype`, by default the fastest that the device has;
    everything else in float32.

    Raises:
        InputError: there is no such model, or it is not a complete Dif-fuse model for scans.
    """
    folder = model_folder(model)
    try:
        with _without_progress_bars():  # loading from disk takes no time
            pipeline = DifFusePipeline.from_pretrained(folder)
    except Exception as error:  # whatever the loaders of four libraries raise, the remedy is the same
        if isinstance(error, InputError) and str(folder) in str(error):
            raise
        reason = first_line(error).rstrip(".")
        raise InputError(f"The model in {folder} cannot be loaded ({reason}); copy or download it again.") from error
    if pipeline.processor is None:
        raise InputError(f"The model in {folder} has no processor, so its modalities and slice size are not known.")
    channels, modalities = pipeline.unet.config.in_channels, pipeline.processor.modalities
    if channels != len(modalities):
        raise InputError(
            f"The model in {folder} contradicts itself: its U-Net takes {channels} channels "
            f"but its processor names {len(modalities)} modalities ({', '.join(modalities)})."
        )
    pipeline.to(device)
    to_fastest(pipeline.unet, dtype or fastest_dtype(device))
    for network in (pipeline.classifier, pipeline.autoencoder):
        if network is not None:
            to_fastest(network, torch.float32)
    return pipeline, card_line(folder)


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """diffusers, transformers and the Hub's client show none in here, and as before afterwards."""
    hub_shows_none = are_progress_bars_disabled()
    shown = [library for library in (diffusers_logging, transformers_logging) if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()
        if hub_shows_none:  # transformers switches the Hub's bars with its own
            disable_progress_bars()
