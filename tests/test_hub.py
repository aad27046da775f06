"""Model cards, and the way to the Hub and back, against a stub on this machine."""

import subprocess
import sys

import pytest
import torch
import yaml

from difffuse_hf import DifFusePipeline
from difffuse_hf.errors import InputError
from difffuse_hf.io.hub import model_card, write_model_card

CARD = {
    "name": "Healthy brains",
    "description": "Repaints lesions of FLAIR and T1 slices as healthy tissue.",
    "training_data": "40 synthetic subjects; no patient.",
    "scores": {"Dice, held-out synthetic subjects": 0.61234, "healthy slices": "0.2 % changed"},
    "credits": ["Label maps: somebody, Apache-2.0."],
}

CLIENT = """
import sys
import torch
from difffuse_hf import DifFusePipeline
from difffuse_hf.errors import InputError
from difffuse_hf.io.hub import push

local = DifFusePipeline.from_pretrained(sys.argv[1])
card = "---\\nlicense: apache-2.0\\n---\\n# ours\\n"
address = push(local, "tester/ours", card)
assert "/tester/ours/commit/" in address, address
local.push_to_hub("tester/plain")

image = torch.rand(1, 2, 16, 16)
for pipe in (local, DifFusePipeline.from_pretrained("tester/ours"), DifFusePipeline.from_pretrained("tester/plain")):
    pipe.set_progress_bar_config(disable=True)
    output = pipe(image, generator=torch.Generator().manual_seed(0))
    if pipe is local:
        expected = output
    assert torch.equal(output.counterfactuals, expected.counterfactuals)
    assert torch.equal(output.saliency, expected.saliency)

again = DifFusePipeline.from_pretrained("tester/ours", local_files_only=True)
assert again.processor.modalities == local.processor.modalities
try:
    DifFusePipeline.from_pretrained("tester/absent")
except InputError as error:
    assert "There is no folder tester/absent, and the Hub" in str(error), error
    assert "\\n" not in str(error)
else:
    raise AssertionError("a repository that does not exist was loaded")
"""


@pytest.mark.slow
def test_a_pipeline_pushed_to_the_hub_comes_back_the_same(whole_pipeline, hub, tmp_path):
    whole_pipeline.save_pretrained(tmp_path / "model")
    client = [sys.executable, "-c", CLIENT, str(tmp_path / "model")]
    done = subprocess.run(client, env=hub.environment(tmp_path / "home"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = hub.files("tester/ours")
    assert files["README.md"].decode().endswith("# ours\n")
    assert {"model_index.json", "unet/diffusion_pytorch_model.safetensors", "classifier/model.safetensors"} <= set(
        files
    )
    assert not [path for path in files if path.endswith((".bin", ".pt", ".pkl"))]


CLASSIFIERS = """
import torch
from difffuse_hf import ACATClassifier, ACATProcessor, LesionClassifier, LesionClassifierConfig, load_classifier

baseline = LesionClassifier(LesionClassifierConfig(hidden_sizes=[4, 4, 4, 4, 4], num_pools=1)).eval()
acat = ACATClassifier.from_baseline(baseline).eval()
scan, saliency = torch.rand(1, 2, 1, 12, 10), torch.rand(1, 2, 1, 12, 10)
for name, model in (("tester/halves", baseline), ("tester/acat", acat)):
    model.push_to_hub(name)
    again = load_classifier(name)
    assert type(again) is type(model)
    assert torch.equal(again(scan, saliency=saliency).logits, model(scan, saliency=saliency).logits)
ACATProcessor(image_size=(12, 10), num_slices=2).push_to_hub("tester/acat")
assert ACATProcessor.from_pretrained("tester/acat").image_size == (12, 10)
"""


@pytest.mark.slow
def test_classifiers_and_their_processor_go_to_the_hub_and_back(hub, tmp_path):
    client = [sys.executable, "-c", CLASSIFIERS]
    done = subprocess.run(client, env=hub.environment(tmp_path / "home"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= set(hub.files("tester/acat"))


def test_a_name_that_the_hub_cannot_give_is_one_sentence():
    with pytest.raises(
        InputError, match="There is no folder tester/absent, and the Hub did not give a model"
    ) as caught:
        DifFusePipeline.from_pretrained("tester/absent")
    assert "\n" not in str(caught.value)


def test_a_model_card_states_data_scores_credits_and_what_it_is_not_for():
    card = model_card(**CARD, tags=["mri"])
    _, metadata, text = card.split("---\n", 2)
    metadata = yaml.safe_load(metadata)
    assert metadata["license"] == "apache-2.0" and "mri" in metadata["tags"]
    for line in (
        "# Healthy brains",
        "not a medical device",
        "40 synthetic subjects; no patient.",
        "| Dice, held-out synthetic subjects | 0.612 |",
        "| healthy slices | 0.2 % changed |",
        "- Label maps: somebody, Apache-2.0.",
    ):
        assert line in text


def test_a_model_card_goes_into_a_saved_pipeline_only(pipeline, tmp_path):
    with pytest.raises(InputError, match="not a saved pipeline"):
        write_model_card(tmp_path, model_card(**CARD))
    pipeline.save_pretrained(tmp_path)
    path = write_model_card(tmp_path, model_card(**CARD))
    assert path.name == "README.md" and "Healthy brains" in path.read_text()
    assert torch.equal(DifFusePipeline.from_pretrained(tmp_path).unet.conv_in.weight, pipeline.unet.conv_in.weight)
