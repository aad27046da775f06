"""Checkpoints of guided-diffusion compute here what they compute there: the reference below is written from its
definition, one function of the state dict, and shares nothing with the importer."""

import json
import math
import pickle

import pytest
import torch
from diffusers import UNet2DModel
from test_examples import run
from torch.nn import functional as F
from torch.testing import assert_close

from difffuse_hf import DifFuseScheduler, make_healthy_unet
from difffuse_hf.errors import InputError
from difffuse_hf.models.guided_diffusion import import_guided_diffusion


def random_checkpoint(
    mults=(1, 1, 2), layers=1, attended=(1, 2), inputs=2, outputs=2, updown=True, scale_shift=True, classes=None
):
    """A state dict with the names, order and shapes of guided-diffusion's `UNetModel`, 32 channels wide."""
    torch.manual_seed(0)
    weights = {}

    def add(name, *shape):
        fan_in = math.prod(shape[1:]) if len(shape) > 1 else 1
        weights[f"{name}.weight"] = torch.randn(shape, dtype=torch.float64) / fan_in**0.5
        weights[f"{name}.bias"] = 0.1 * torch.randn(shape[0], dtype=torch.float64)

    def add_resnet(name, narrow, wide):
        add(f"{name}.in_layers.0", narrow)
        add(f"{name}.in_layers.2", wide, narrow, 3, 3)
        add(f"{name}.emb_layers.1", wide * (2 if scale_shift else 1), 128)
        add(f"{name}.out_layers.0", wide)
        add(f"{name}.out_layers.3", wide, wide, 3, 3)
        if narrow != wide:
            add(f"{name}.skip_connection", wide, narrow, 1, 1)

    def add_attention(name, width):
        add(f"{name}.norm", width)
        add(f"{name}.qkv", 3 * width, width, 1)
        add(f"{name}.proj_out", width, width, 1)

    add("time_embed.0", 128, 32)
    add("time_embed.2", 128, 128)
    if classes:
        weights["label_emb.weight"] = torch.randn(classes, 128, dtype=torch.float64)
    add("input_blocks.0.0", 32, inputs, 3, 3)
    width, skips, block = 32, [32], 1
    for level, mult in enumerate(mults):
        for _ in range(layers):
            add_resnet(f"input_blocks.{block}.0", width, 32 * mult)
            width = 32 * mult
            if level in attended:
                add_attention(f"input_blocks.{block}.1", width)
            skips.append(width)
            block += 1
        if level < len(mults) - 1:
            if updown:
                add_resnet(f"input_blocks.{block}.0", width, width)
            else:
                add(f"input_blocks.{block}.0.op", width, width, 3, 3)
            skips.append(width)
            block += 1
    add_resnet("middle_block.0", width, width)
    add_attention("middle_block.1", width)
    add_resnet("middle_block.2", width, width)
    block = 0
    for level, mult in reversed(list(enumerate(mults))):
        for layer in range(layers + 1):
            add_resnet(f"output_blocks.{block}.0", width + skips.pop(), 32 * mult)
            width = 32 * mult
            if level in attended:
                add_attention(f"output_blocks.{block}.1", width)
            if level and layer == layers:
                last = f"output_blocks.{block}.{2 if level in attended else 1}"
                if updown:
                    add_resnet(last, width, width)
                else:
                    add(f"{last}.conv", width, width, 3, 3)
            block += 1
    add("out.0", width)
    add("out.2", outputs, width, 3, 3)
    return weights


def reference(weights, sample, timestep, layers, heads=lambda width: 1, new_order=False, label=None):
    """ε(x_t, t) of the state dict: the network's definition, written out."""

    def norm(x, name):
        return F.group_norm(x, 32, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def conv(x, name, stride=1):
        weight = weights[f"{name}.weight"]
        return F.conv2d(x, weight, weights[f"{name}.bias"], stride=stride, padding=weight.shape[-1] // 2)

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def resnet(x, name, resample=lambda x: x):
        hidden = conv(resample(F.silu(norm(x, f"{name}.in_layers.0"))), f"{name}.in_layers.2")
        time = linear(F.silu(embedding), f"{name}.emb_layers.1")[..., None, None]
        if time.shape[1] == 2 * hidden.shape[1]:
            scale, shift = time.chunk(2, dim=1)
            hidden = norm(hidden, f"{name}.out_layers.0") * (1 + scale) + shift
        else:
            hidden = norm(hidden + time, f"{name}.out_layers.0")
        x = resample(x)
        if f"{name}.skip_connection.weight" in weights:
            x = conv(x, f"{name}.skip_connection")
        return x + conv(F.silu(hidden), f"{name}.out_layers.3")

    def attention(x, name):
        size, count = x.shape, heads(x.shape[1])
        qkv = weights[f"{name}.qkv.weight"][:, :, 0] @ norm(x, f"{name}.norm").flatten(2)
        qkv = qkv + weights[f"{name}.qkv.bias"][:, None]  # [B,3C,HW]
        width, attended = x.shape[1] // count, []
        for head in range(count):
            if new_order:
                rows = [head * width + third * x.shape[1] for third in range(3)]
            else:
                rows = [(3 * head + third) * width for third in range(3)]
            query, key, value = (qkv[:, row : row + width] for row in rows)
            attended.append(value @ (query.transpose(1, 2) @ key / width**0.5).softmax(-1).transpose(1, 2))
        out = weights[f"{name}.proj_out.weight"][:, :, 0] @ torch.cat(attended, 1)
        return x + (out + weights[f"{name}.proj_out.bias"][:, None]).reshape(size)

    def halve(x):
        return F.avg_pool2d(x, 2)

    def double(x):
        return x.repeat_interleave(2, -1).repeat_interleave(2, -2)

    frequencies = torch.exp(-math.log(10000) * torch.arange(16, dtype=torch.float32) / 16)
    angles = timestep[:, None].float() * frequencies
    embedding = torch.cat([angles.cos(), angles.sin()], 1).to(sample)
    embedding = linear(F.silu(linear(embedding, "time_embed.0")), "time_embed.2")
    if label is not None:
        embedding = embedding + weights["label_emb.weight"][label]

    count = len({name.split(".")[1] for name in weights if name.startswith("input_blocks")})
    x = conv(sample, "input_blocks.0.0")
    kept = [x]
    for block in range(1, count):
        name = f"input_blocks.{block}"
        if f"{name}.0.op.weight" in weights:
            x = conv(x, f"{name}.0.op", stride=2)
        else:
            x = resnet(x, f"{name}.0", halve if block % (layers + 1) == 0 else lambda x: x)
        if f"{name}.1.qkv.weight" in weights:
            x = attention(x, f"{name}.1")
        kept.append(x)
    x = resnet(attention(resnet(x, "middle_block.0"), "middle_block.1"), "middle_block.2")
    for block in range(count):
        x = resnet(torch.cat([x, kept.pop()], 1), f"output_blocks.{block}.0")
        for part in (1, 2):
            name = f"output_blocks.{block}.{part}"
            if f"{name}.qkv.weight" in weights:
                x = attention(x, name)
            elif f"{name}.conv.weight" in weights:
                x = conv(double(x), f"{name}.conv")
            elif f"{name}.in_layers.2.weight" in weights:
                x = resnet(x, name, double)
    return conv(F.silu(norm(x, "out.0")), "out.2")


@pytest.fixture
def saved(tmp_path):
    def save(weights):
        torch.save(weights, tmp_path / "model000010.pt")
        return tmp_path / "model000010.pt"

    return save


@pytest.mark.parametrize(
    ("layout", "heads", "options"),
    [
        ({"layers": 2}, lambda width: 1, {}),
        ({"updown": False, "scale_shift": False, "attended": (1,)}, lambda width: 1, {}),
        ({}, lambda width: width // 16, {"num_head_channels": 16}),
        ({}, lambda width: width // 16, {"num_head_channels": 16, "use_new_attention_order": True}),
        ({"attended": (2,)}, lambda width: 4, {"num_heads": 4}),
        ({"outputs": 4, "classes": 2, "mults": (1, 2)}, lambda width: 1, {}),
        ({"mults": (1, 2, 3, 4), "inputs": 1, "outputs": 1, "attended": ()}, lambda width: 1, {}),
        ({"mults": (1,), "attended": (0,), "layers": 2}, lambda width: 1, {}),
    ],
    ids=["author", "wolleb", "head_width", "new_order", "heads", "classes_and_variance", "64_pixels", "one_level"],
)
def test_an_imported_network_computes_what_the_original_computes(saved, layout, heads, options):
    weights = random_checkpoint(**layout)
    unet = import_guided_diffusion(saved(weights), image_size=8, dtype=torch.float64, **options)
    sample = torch.randn(2, weights["input_blocks.0.0.weight"].shape[1], 8, 8, dtype=torch.float64)
    timestep, label = torch.tensor([3, 871]), torch.tensor([1, 0]) if "classes" in layout else None
    new_order = options.get("use_new_attention_order", False)
    expected = reference(weights, sample, timestep, layout.get("layers", 1), heads, new_order, label)
    with torch.no_grad():
        actual = unet(sample, timestep, class_labels=label).sample
    assert expected.std() > 0.1
    assert_close(actual, expected, rtol=0, atol=1e-8)
    single = import_guided_diffusion(saved(weights), image_size=8, **options)
    with torch.no_grad():
        actual = single(sample.float(), timestep, class_labels=label).sample
    assert_close(actual.double(), expected, rtol=0, atol=1e-4)


def test_the_authors_format_is_the_healthy_unet(saved):
    weights = random_checkpoint((1, 1, 2, 2, 4, 4), attended=(3, 4, 5), inputs=4, outputs=4)
    imported = import_guided_diffusion(saved({name: value.half() for name, value in weights.items()}))
    ours = make_healthy_unet(block_out_channels=(32, 32, 64, 64, 128, 128), layers_per_block=1)
    settings = [{k: v for k, v in unet.config.items() if k[0] != "_"} for unet in (imported, ours)]
    assert settings[0] == settings[1]


def test_the_order_of_query_key_and_value_matters_with_several_heads(saved):
    path = saved(random_checkpoint())
    sample = torch.randn(1, 2, 8, 8)
    legacy, new = (
        import_guided_diffusion(path, num_head_channels=16, use_new_attention_order=order) for order in (False, True)
    )
    with torch.no_grad():
        assert (legacy(sample, 5).sample - new(sample, 5).sample).abs().max() > 0.01


def test_without_its_variance_a_network_is_its_noise_prediction(saved):
    path, sample = saved(random_checkpoint(outputs=4)), torch.randn(1, 2, 8, 8)
    whole, noise = (import_guided_diffusion(path, drop_learned_variance=drop) for drop in (False, True))
    with torch.no_grad():
        assert_close(noise(sample, 5).sample, whole(sample, 5).sample[:, :2])
    assert noise.config.out_channels == 2 and whole.config.out_channels == 4


def test_half_precision_is_widened(saved):
    weights = {name: value.half() for name, value in random_checkpoint().items()}
    unet = import_guided_diffusion(saved(weights))
    assert unet.dtype == torch.float32
    assert torch.equal(unet.conv_in.weight, weights["input_blocks.0.0.weight"].float())


def test_the_script_leaves_the_folder_of_a_trained_denoiser(saved, tmp_path, capsys):
    weights = random_checkpoint()
    run("examples/import_guided_diffusion.py", saved(weights), "--output_dir", tmp_path / "out", "--image_size", 8)
    unet = UNet2DModel.from_pretrained(tmp_path / "out", subfolder="unet")
    sample, timestep = torch.randn(1, 2, 8, 8), torch.tensor([7])
    with torch.no_grad():
        expected = reference(weights, sample.double(), timestep, 1)
        assert_close(unet(sample, timestep).sample.double(), expected, rtol=0, atol=1e-4)
    assert len(DifFuseScheduler.from_pretrained(tmp_path / "out", subfolder="scheduler")) == 1000
    assert json.loads((tmp_path / "out" / "unet" / "config.json").read_text())["sample_size"] == 8
    assert "2 channels in, 2 out" in capsys.readouterr().out


class Malicious:
    def __reduce__(self):
        return (print, ("code of the checkpoint has run",))


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, capsys):
    path = tmp_path / "model.pt"
    torch.save({"input_blocks.0.0.weight": torch.zeros(1), "more": Malicious()}, path)
    with pytest.raises(InputError, match="holds Python objects, which are not loaded because they may run code"):
        import_guided_diffusion(path)
    path.write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(InputError, match="cannot be read as a file of tensors"):
        import_guided_diffusion(path)
    assert "has run" not in capsys.readouterr().out


def drop(name):
    return lambda weights: weights.pop(name)


def replace(name, *shape):
    return lambda weights: weights.update({name: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (drop("middle_block.1.proj_out.bias"), "its weights lack middle_block.1.proj_out.bias"),
        (drop("input_blocks.1.0.out_layers.3.weight"), "its weights lack input_blocks.1.0.out_layers.3.weight"),
        (drop("time_embed.0.weight"), "its weights lack time_embed.0.weight"),
        (replace("out.0.weight", 64), r"out.0.weight has the shape \(64,\) where .* ask for \(32,\)"),
        (replace("middle_block.1.qkv.weight", 96, 32, 1), "middle_block.1.qkv.weight has the shape"),
        (replace("low_res.weight", 3), "nothing corresponds to low_res.weight"),
        (replace("time_embed.0.weight", 128, 64), "`channel_mult` does not start with 1"),
        (replace("output_blocks.9.0.in_layers.0.weight", 32), "7 output blocks for 3 resolutions"),
        (lambda weights: weights.update(state={0: 1}), "not the state dict of a network"),
        (lambda weights: [weights.pop(n) for n in list(weights) if n[0] == "o"], "0 output blocks"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused_in_one_sentence(saved, spoil, sentence):
    weights = random_checkpoint()
    spoil(weights)
    with pytest.raises(InputError, match=sentence) as raised:
        import_guided_diffusion(saved(weights))
    assert "\n" not in str(raised.value)


def test_heads_that_cannot_be_expressed_and_missing_files_are_named(saved, tmp_path):
    path = saved(random_checkpoint())
    with pytest.raises(ValueError, match="`num_heads=4` does not give heads of one width .* 32, 64 wide"):
        import_guided_diffusion(path, num_heads=4)
    with pytest.raises(ValueError, match="`num_head_channels=24` does not give"):
        import_guided_diffusion(path, num_head_channels=24)
    with pytest.raises(InputError, match="There is no checkpoint"):
        import_guided_diffusion(tmp_path / "model.pt")
