"""Networks to start from for scans with fewer modalities than a trained Dif-fuse model looks at.

python examples/select_modalities.py demo flair --output_dir out/start

leaves `classifier`, `autoencoder` and `unet` in `out/start`, each of the model's shape but for its modalities: weights
that meet the ones left out are gone, all others are as they were. They are a start, not a model: train each on with
`--initial_weights out/start/classifier` and so on, on slices of these modalities (`difffuse prepare --modalities`).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from difffuse_hf import load_pipeline
from difffuse_hf.errors import InputError, require_choice, run_script
from difffuse_hf.io.files import complete_folder


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder, name on the Hub, or a model of the package")
    parser.add_argument("modalities", nargs="+", help="of the model's, in the order of the new one's channels")
    parser.add_argument("--output_dir", type=Path, required=True)
    args = parser.parse_args(argv)

    pipeline = load_pipeline(args.model)
    known = list(pipeline.processor.modalities)
    for modality in args.modalities:
        require_choice("modality", modality, known)
    kept = [known.index(modality) for modality in args.modalities]
    with complete_folder(args.output_dir) as folder:
        for name in ("classifier", "autoencoder", "unet"):
            with_channels(getattr(pipeline, name), kept).save_pretrained(folder / name)
    print(f"{args.output_dir} holds networks for {', '.join(args.modalities)}, to be trained on from there.")


def with_channels(network: Any, kept: Sequence[int]) -> Any:
    """The network with these of its input channels, and of its output channels where these are images too."""
    config = network.config
    names = [name for name in ("num_channels", "in_channels", "out_channels") if hasattr(config, name)]
    modalities = getattr(config, names[0])
    if any(getattr(config, name) != modalities for name in names):
        raise InputError(
            f"The {type(network).__name__} takes {modalities} channels and gives {config.out_channels} (a learned "
            "variance?); only networks that give a value for each can be cut."
        )
    changes = {name: len(kept) for name in names}
    if hasattr(config, "to_dict"):  # of transformers
        narrow = type(network)(type(config).from_dict({**config.to_dict(), **changes}))
    else:
        narrow = type(network).from_config({**config, **changes})
    wanted = narrow.state_dict()
    narrow.load_state_dict(
        {
            name: along_modalities(tensor, wanted[name].shape, kept, modalities)
            for name, tensor in network.state_dict().items()
        }
    )
    return narrow


def along_modalities(tensor: torch.Tensor, shape: torch.Size, kept: Sequence[int], modalities: int) -> torch.Tensor:
    """The tensor with `kept` along each axis whose length is another in `shape`: an entry or several a modality."""
    for axis, (before, after) in enumerate(zip(tensor.shape, shape)):
        if before != after:
            each = before // modalities  # the pixels of a square, where the U-Net makes channels of them
            tensor = tensor.unflatten(axis, (modalities, each)).index_select(axis, torch.tensor(kept))
            tensor = tensor.flatten(axis, axis + 1)
    return tensor


if __name__ == "__main__":
    run_script(main)
