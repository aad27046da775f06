"""U-Nets of openai/guided-diffusion, the author's format, as diffusers' `UNet2DModel` (thesis Ch. 6).

The two networks are the same function of their weights: norm, activation, resampling and convolution come in the same
order, skip connections too, and the timestep is embedded as cosines, then sines, of the same frequencies. They differ
in names, in the query, key and value of an attention, which are one convolution there, and in how the heads share it.
"""

import pickle
import re
from pathlib import Path

import torch
from diffusers import UNet2DModel  # pyright: ignore[reportPrivateImportUsage]

from ..errors import InputError

NORM_GROUPS = 32  # of every group norm there, whatever the width
RESNET = {  # module of ours -> of theirs
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ATTENTION = {"group_norm": "norm", "to_q": "qkv", "to_k": "qkv", "to_v": "qkv", "to_out.0": "proj_out"}
ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "class_embedding": "label_emb",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def import_guided_diffusion(
    path: str | Path,
    image_size: int = 256,
    num_heads: int = 1,
    num_head_channels: int = -1,
    use_new_attention_order: bool = False,
    drop_learned_variance: bool = False,
    dtype: torch.dtype = torch.float32,
) -> UNet2DModel:
    """The `UNet2DModel` with the weights, and so with the outputs, of a guided-diffusion `UNetModel` checkpoint.

    Depth, widths, attention, up- and downsampling, scale-shift norm and classes are read from the weights. What they
    do not show has to be told, with the name and the default that it has in the author's training script.

    Equal inputs give equal outputs, but the author's code trains on slices in [0, 1] where the pipelines of this
    package hand in [-1, 1] at every level: train its networks on (`train_diffusion.py`) before they are used here.

    Args:
        path (`str` or `Path`): the state dict, `modelNNNNNN.pt` or `ema_RATE_NNNNNN.pt`. Read with
            `weights_only=True`: no code in it is run.
        image_size (`int`): side of the training slices; kept in the configuration only.
        num_heads (`int`): heads of every attention. `UNet2DModel` knows one width of a head for the whole network, so
            several heads can be imported where all attentions are equally wide.
        num_head_channels (`int`): width of a head, -1 if `num_heads` was given instead.
        use_new_attention_order (`bool`): query, key and value first, then heads; the other way round by default.
        drop_learned_variance (`bool`): of a network trained with `learn_sigma`, keep the noise prediction only, as
            `DifFusePipeline` takes it. Otherwise its output has 2·C channels, noise first.
        dtype (`torch.dtype`): of the model; half precision checkpoints are widened to it.

    Raises:
        InputError: the file is missing, is no file of tensors, or holds another network.
    """
    path = Path(path)
    weights = _read_tensors(path)
    config = _read_config(weights, path)
    attended = {
        width
        for width, block in zip(config["block_out_channels"], config["down_block_types"])
        if block == "AttnDownBlock2D"
    } | {config["block_out_channels"][-1]}  # the middle block always has attention
    head_dim = _head_dim(attended, num_heads, num_head_channels)
    if drop_learned_variance and config["out_channels"] == 2 * config["in_channels"]:
        config["out_channels"] = config["in_channels"]
        for name in ("out.2.weight", "out.2.bias"):
            weights[name] = weights[name][: config["in_channels"]]

    unet = UNet2DModel(**config, sample_size=image_size, attention_head_dim=head_dim)
    torch.nn.Module.to(unet, dtype)
    names = {**ENDS, **_block_names(config)}
    converted, used = {}, set()
    for key, parameter in unet.state_dict().items():
        module, kind = key.rsplit(".", 1)
        source = f"{names[module]}.{kind}"
        if source not in weights:
            raise InputError(f"{path} is no whole guided-diffusion U-Net: its weights lack {source}.")
        used.add(source)
        value = weights[source]
        if names[module].endswith("qkv"):
            heads = 1 if head_dim is None else parameter.shape[0] // head_dim
            value = _split_qkv(value, heads, use_new_attention_order)["qkv".index(module[-1])]
        if value.ndim == parameter.ndim + 1 and value.shape[-1] == 1:
            value = value.squeeze(-1)  # convolutions of length 1 there, linear layers here
        if value.shape != parameter.shape:
            raise InputError(
                f"{path} does not fit a guided-diffusion U-Net: {source} has the shape "
                f"{tuple(weights[source].shape)} where its other weights ask for {tuple(parameter.shape)}."
            )
        converted[key] = value
    if unknown := sorted(weights.keys() - used):
        raise InputError(f"{path} holds more than a guided-diffusion U-Net: nothing corresponds to {unknown[0]}.")
    unet.load_state_dict(converted)
    return unet.eval()


def _read_tensors(path):
    if not path.is_file():
        raise InputError(f"There is no checkpoint {path}.")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError):
        raise InputError(
            f"{path} cannot be read as a file of tensors: it is damaged, or holds Python objects, which are not "
            "loaded because they may run code; save the state dict alone: `torch.save(model.state_dict(), path)`."
        ) from None
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise InputError(f"{path} is not the state dict of a network; give the model's file, not the optimiser's.")
    return weights


def _read_config(weights, path):
    """Arguments of `UNet2DModel` that the names and shapes of the weights tell."""

    def shape(name):
        if name not in weights:
            raise InputError(f"{path} is no whole guided-diffusion U-Net: its weights lack {name}.")
        return weights[name].shape

    levels, layers = _depth(weights, path)
    first = [1 + level * (layers + 1) for level in range(levels)]  # the first residual block of each resolution
    widths = tuple(shape(f"input_blocks.{block}.0.out_layers.3.weight")[0] for block in first)
    if any(width % NORM_GROUPS for width in widths):
        raise InputError(
            f"{path} is no guided-diffusion U-Net: its widths {widths} are no multiples of {NORM_GROUPS}."
        )
    if shape("time_embed.0.weight")[1] != widths[0]:
        raise InputError(
            f"{path} embeds the timestep in {shape('time_embed.0.weight')[1]} numbers but its first level is "
            f"{widths[0]} wide (`channel_mult` does not start with 1), which `UNet2DModel` cannot express."
        )
    attends = [f"input_blocks.{block}.1.qkv.weight" in weights for block in first]
    by_convolution = f"input_blocks.{layers + 1}.0.op.weight" in weights  # one resolution has nothing to tell
    plain = ("DownBlock2D", "UpBlock2D") if by_convolution else ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
    scale_shift = shape("input_blocks.1.0.emb_layers.1.weight")[0] == 2 * widths[0]
    return {
        "in_channels": shape("input_blocks.0.0.weight")[1],
        "out_channels": shape("out.2.weight")[0],
        "layers_per_block": layers,
        "block_out_channels": widths,
        "down_block_types": tuple("AttnDownBlock2D" if has else plain[0] for has in attends),
        "up_block_types": tuple("AttnUpBlock2D" if has else plain[1] for has in reversed(attends)),
        "downsample_type": "conv" if by_convolution else "resnet",
        "upsample_type": "conv" if by_convolution else "resnet",
        "resnet_time_scale_shift": "scale_shift" if scale_shift else "default",
        "norm_num_groups": NORM_GROUPS,
        "attn_norm_num_groups": NORM_GROUPS,
        "num_class_embeds": shape("label_emb.weight")[0] if "label_emb.weight" in weights else None,
    }


def _depth(weights, path):
    """How many resolutions there are, and residual blocks on the way down each."""
    # `output_blocks.B.M.*`: M = 0 is a residual block; one after it, or a convolution, enlarges
    blocks = {name.split(".")[1] for name in weights if name.startswith("output_blocks.")}
    enlarging = re.compile(r"output_blocks\.(\d+)\.(?!0\.).*(in_layers\.2\.weight|\.conv\.weight)$")
    levels = 1 + len({match[1] for name in weights if (match := enlarging.match(name))})
    if len(blocks) < 2 * levels or len(blocks) % levels:
        raise InputError(
            f"{path} is no guided-diffusion U-Net: it has {len(blocks)} output blocks for {levels} resolutions."
        )
    return levels, len(blocks) // levels - 1


def _head_dim(attended_widths, num_heads, num_head_channels):
    """Width of a head in all attentions; None for one head in each."""
    if num_head_channels == -1 and num_heads == 1:
        return None
    if num_head_channels != -1:
        candidates = {num_head_channels}
    else:
        candidates = {width // num_heads for width in attended_widths}
    (head_dim, *others) = sorted(candidates)
    if others or head_dim < 1 or any(width % head_dim for width in attended_widths):
        told = f"num_heads={num_heads}" if num_head_channels == -1 else f"num_head_channels={num_head_channels}"
        raise ValueError(
            f"`{told}` does not give heads of one width in attentions that are "
            f"{', '.join(map(str, sorted(attended_widths)))} wide, as `UNet2DModel` needs."
        )
    return head_dim


def _split_qkv(value, heads, new_order):
    """Query, key and value, each with its heads one after the other, of the joint weight (3·C, ...)."""
    if new_order:
        return value.chunk(3)
    return value.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(1, 2)


def _block_names(config):
    """Modules of our down, middle and up blocks -> their names there."""
    names = {}
    resampler = RESNET if config["downsample_type"] == "resnet" else None
    layers, levels = config["layers_per_block"], len(config["block_out_channels"])

    def add(ours, theirs, parts):
        names.update({f"{ours}.{part}": f"{theirs}.{their_part}" for part, their_part in parts.items()})

    block = 1
    for level in range(levels):
        for layer in range(layers):
            add(f"down_blocks.{level}.resnets.{layer}", f"input_blocks.{block}.0", RESNET)
            add(f"down_blocks.{level}.attentions.{layer}", f"input_blocks.{block}.1", ATTENTION)
            block += 1
        add(f"down_blocks.{level}.downsamplers.0", f"input_blocks.{block}.0", resampler or {"conv": "op"})
        block += 1
    add("mid_block.resnets.0", "middle_block.0", RESNET)
    add("mid_block.attentions.0", "middle_block.1", ATTENTION)
    add("mid_block.resnets.1", "middle_block.2", RESNET)
    for level in range(levels):  # upwards
        attends = config["up_block_types"][level] == "AttnUpBlock2D"
        for layer in range(layers + 1):
            block = level * (layers + 1) + layer
            add(f"up_blocks.{level}.resnets.{layer}", f"output_blocks.{block}.0", RESNET)
            add(f"up_blocks.{level}.attentions.{layer}", f"output_blocks.{block}.1", ATTENTION)
        last = f"output_blocks.{block}.{2 if attends else 1}"
        add(f"up_blocks.{level}.upsamplers.0", last, resampler or {"conv": "conv"})
    return names
