"""Model folders that strangers made: nothing in them runs, and what is broken says so before it is loaded."""

import json
import os
import pickle
import shutil
import socket
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tiny_models import tiny_classifier

from difffuse_hf import ACATClassifier, DifFusePipeline, LesionClassifier, SliceClassifier, load_classifier
from difffuse_hf.detection.load import load_model
from difffuse_hf.errors import InputError, one_sentence
from difffuse_hf.io.model_card import card_line
from difffuse_hf.models.guided_diffusion import import_guided_diffusion
from difffuse_hf.saliency.methods import saliency_method


class Planted:
    """Unpickled, it leaves a file behind."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def change(file, **fields):
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def change_weights(file, change):
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.fixture
def folder(model, tmp_path):
    return Path(shutil.copytree(model, tmp_path / "model"))


@pytest.fixture
def classifier(tmp_path):
    tiny_classifier(SliceClassifier).save_pretrained(tmp_path / "classifier")
    return tmp_path / "classifier"


def names_a_foreign_class(folder):
    change(folder / "model_index.json", unet=["os", "system"])


def names_a_foreign_pipeline(folder):
    change(folder / "model_index.json", _class_name=["pipeline", "Evil"])


def names_a_module_of_ours_that_runs(folder):
    change(folder / "model_index.json", extra=["difffuse_hf.cli.__main__", "main"])


def names_a_component_elsewhere(folder):
    change(folder / "model_index.json", **{"../unet": ["diffusers", "UNet2DModel"]})


def has_no_such_class(folder):
    change(folder / "model_index.json", unet=["difffuse_hf.models.unet", "Nothing"])


def is_no_object(folder):
    (folder / "model_index.json").write_text("[]")


def is_empty(folder):
    (folder / "model_index.json").write_text("")


def is_no_text(folder):
    (folder / "model_index.json").write_bytes(b"\xff\xfe\x00")


def has_code(folder):
    change(folder / "classifier" / "config.json", auto_map={"AutoModel": "code.Evil"})


def has_quantised_weights(folder):
    change(folder / "unet" / "config.json", quantization_config={"quant_method": "bitsandbytes"})


def loads_a_checkpoint(folder):
    change(folder / "classifier" / "config.json", backbone_kwargs={"checkpoint_path": str(folder / "notes.md")})


def overlays_a_checkpoint(folder):
    change(folder / "classifier" / "config.json", backbone_kwargs={"pretrained_cfg_overlay": {"file": "notes.md"}})


def asks_the_hub(folder):
    change(folder / "classifier" / "config.json", backbone="hf-hub:stranger/model")


def links_its_weights_elsewhere(folder):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(folder.parent / "elsewhere.safetensors")
    weights.symlink_to(folder.parent / "elsewhere.safetensors")


def links_a_component_elsewhere(folder):
    (folder / "unet").rename(folder.parent / "unet")
    (folder / "unet").symlink_to(folder.parent / "unet")


def has_cut_off_weights(folder):
    weights = folder / "classifier" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def has_a_pipe_for_weights(folder):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    os.mkfifo(folder / "unet" / "diffusion_pytorch_model.safetensors")


def lacks_half_its_weights(folder):
    def halve(tensors):
        for name in sorted(tensors)[::2]:
            del tensors[name]

    change_weights(folder / "classifier" / "model.safetensors", halve)


def has_weights_of_other_shapes(folder):
    def transpose(tensors):
        name = next(name for name, tensor in tensors.items() if tensor.ndim == 4)
        tensors[name] = tensors[name][:, :, :1].contiguous()

    change_weights(folder / "unet" / "diffusion_pytorch_model.safetensors", transpose)


def has_nan_weights(folder):
    def spoil(tensors):
        next(iter(tensors.values())).view(-1)[0] = torch.nan

    change_weights(folder / "autoencoder" / "diffusion_pytorch_model.safetensors", spoil)


def has_a_nan_threshold(folder):
    change(folder / "processor" / "preprocessor_config.json", anomaly_threshold=float("nan"))


def has_an_infinite_probability(folder):
    text = (folder / "processor" / "preprocessor_config.json").read_text()
    text = text.replace('"lesion_probability_threshold": 0.0', '"lesion_probability_threshold": 1e999')
    (folder / "processor" / "preprocessor_config.json").write_text(text)


def has_nan_betas(folder):
    change(folder / "scheduler" / "scheduler_config.json", beta_end=float("nan"))


def has_impossible_betas(folder):
    change(folder / "scheduler" / "scheduler_config.json", beta_end=7.0)


def has_a_million_layers(folder):
    change(folder / "unet" / "config.json", layers_per_block=10**6)


def has_many_layers(folder):
    change(folder / "unet" / "config.json", layers_per_block=10**4)


def has_wide_layers(folder):
    change(folder / "unet" / "config.json", block_out_channels=[2**16, 2**16])


def has_a_billion_noise_levels(folder):
    change(folder / "scheduler" / "scheduler_config.json", num_train_timesteps=10**9)


def has_an_adapter(folder):
    (folder / "classifier" / "adapter_config.json").write_text('{"base_model_name_or_path": "stranger/model"}')


def lists_a_pickle_as_its_weights(folder):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "decoy.safetensors")
    index = {"metadata": {"total_size": 10**9}, "weight_map": {"conv_in.weight": "../notes.md"}}
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def hides_its_weights_behind_a_pickle(folder):
    (folder / "classifier" / "model.safetensors").rename(folder / "classifier" / "decoy.safetensors")


HOSTILE = {
    names_a_foreign_class: "os.system as unet, which is no component",
    names_a_foreign_pipeline: "does not name a pipeline of this package",
    names_a_module_of_ours_that_runs: "is no component of this package",
    names_a_component_elsewhere: "is no component of this package",
    has_no_such_class: "which this version does not have",
    is_no_object: "holds no JSON object",
    is_empty: "is no JSON file",
    is_no_text: "is no JSON file",
    has_code: "`auto_map` in .* is no setting of a SliceClassifier",
    has_quantised_weights: "`quantization_config` in .* is no setting of a UNet2DModel",
    loads_a_checkpoint: "shape the network and load nothing, got `checkpoint_path`",
    overlays_a_checkpoint: "load nothing, got `pretrained_cfg_overlay`",
    asks_the_hub: "is the name of a timm model",
    links_its_weights_elsewhere: "is a link to .* outside of",
    links_a_component_elsewhere: "is a link to .* outside of",
    has_cut_off_weights: "is damaged or cut off",
    has_a_pipe_for_weights: "is missing or no plain file",
    lacks_half_its_weights: "its weights lack .* tensors",
    has_weights_of_other_shapes: "contradicts itself: .* has the shape",
    has_nan_weights: "is damaged: its weights in .* are NaN",
    has_a_nan_threshold: "`anomaly_threshold` in .* is nan",
    has_an_infinite_probability: "`lesion_probability_threshold` in .* is inf",
    has_nan_betas: "`beta_end` in .* is nan",
    has_impossible_betas: "noise levels",
    has_a_million_layers: "`layers_per_block` in .* more than any model has",
    has_many_layers: "a larger network than its weights hold",
    has_wide_layers: "a larger network than its weights hold",
    has_a_billion_noise_levels: "`num_train_timesteps` in .* more than any model has",
    has_an_adapter: "adapter_config.json does not belong",
    lists_a_pickle_as_its_weights: "lists no safetensors files of its folder",
    hides_its_weights_behind_a_pickle: "has no weights: no file model.safetensors",
}


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_a_hostile_model_is_refused_in_one_sentence_and_nothing_of_it_runs(make, folder, tmp_path, monkeypatch):
    trace = tmp_path / "the pickle ran"
    planted = pickle.dumps(Planted(trace))
    for name in ("notes.md", "model.bin", "pytorch_model.bin", "diffusion_pytorch_model.bin", "model.pt", ".metadata"):
        for place in (folder, folder / "unet", folder / "classifier", folder / "autoencoder"):
            (place / name).write_bytes(planted)
    make(folder)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was opened"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was asked"))
    with pytest.raises(InputError, match=HOSTILE[make]) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value) and "\n" not in one_sentence(caught.value)
    with pytest.raises(InputError):
        DifFusePipeline.from_pretrained(folder)
    assert not trace.exists()


def test_pickles_beside_whole_weights_are_left_alone(folder, tmp_path):
    for place in (folder, folder / "unet", folder / "classifier"):
        for name in ("pytorch_model.bin", "diffusion_pytorch_model.bin", "README.md"):
            (place / name).write_bytes(pickle.dumps(Planted(tmp_path / "ran")))
    load_model(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "make", [has_code, loads_a_checkpoint, asks_the_hub, has_cut_off_weights, lacks_half_its_weights]
)
def test_a_classifier_by_itself_is_looked_at_as_well(make, classifier):
    make_in = classifier.parent / "model"
    make_in.mkdir()
    classifier.rename(make_in / "classifier")
    make(make_in)
    for load in (load_classifier, SliceClassifier.from_pretrained):
        with pytest.raises(InputError):
            load(make_in / "classifier")


def test_the_base_of_a_guided_classifier_is_looked_at_as_well(tmp_path):
    tiny_classifier(ACATClassifier).save_pretrained(tmp_path)
    load_classifier(tmp_path)
    base = json.loads((tmp_path / "config.json").read_text())["base"]
    change(tmp_path / "config.json", base={**base, "_attn_implementation": "stranger/kernel"})
    with pytest.raises(InputError, match="`_attn_implementation` in"):
        load_classifier(tmp_path)


def test_another_stage_of_a_saved_classifier_may_lack_its_new_heads(tmp_path):
    tiny_classifier(LesionClassifier).save_pretrained(tmp_path)
    assert LesionClassifier.from_pretrained(tmp_path, stage="halves").half_head is not None


@pytest.mark.parametrize("options", [{"saliency_channels": -1}, {"attention_stages": ["first"]}, {"fusion": "yes"}])
def test_options_that_make_no_network_are_a_sentence(options):
    with pytest.raises(InputError, match="ACATClassifier") as caught:
        ACATClassifier.from_baseline(tiny_classifier(LesionClassifier), **options)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="options of gradient"):
        saliency_method("gradient", None, depth=3)


def test_an_importers_pickle_does_not_run(tmp_path):
    (tmp_path / "model.pt").write_bytes(pickle.dumps(Planted(tmp_path / "ran")))
    torch.save({"weights": Planted(tmp_path / "ran")}, tmp_path / "zipped.pt")
    for name in ("model.pt", "zipped.pt"):
        with pytest.raises(InputError, match="may run code"):
            import_guided_diffusion(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_a_card_that_is_no_text_is_read_as_far_as_it_goes(folder):
    (folder / "README.md").write_bytes(b"# Tiny\n\n\xff\xfe is a model. It is tiny.\n")
    assert card_line(folder).endswith("is a model.")
