"""What users of transformers and diffusers expect: Auto classes, `return_dict`, private repositories."""

import subprocess
import sys

import huggingface_hub
import pytest
import torch
from tiny_models import tiny_classifier

from difffuse_hf import ACATClassifier, ACATProcessor, DifFuseProcessor, NoisyClassifier
from difffuse_hf.errors import InputError
from difffuse_hf.models.auto import CLASSIFIERS

AUTO = """
import sys
import difffuse_hf

assert not {"torch", "transformers", "diffusers"} & set(sys.modules), "a plain import has to stay light"
import difffuse_hf.models
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

processor, *classifiers = sys.argv[1:]
for folder in classifiers:
    model = AutoModelForImageClassification.from_pretrained(folder)
    assert type(model).__name__ == folder.rpartition("/")[2]
    assert type(AutoConfig.from_pretrained(folder)) is type(model.config)
    assert type(AutoImageProcessor.from_pretrained(folder)).__name__ == "ACATProcessor"
assert type(AutoImageProcessor.from_pretrained(processor)).__name__ == "DifFuseProcessor"
"""


def test_auto_classes_find_every_classifier_after_one_import(tmp_path):
    folders = [tmp_path / classifier.__name__ for classifier in CLASSIFIERS]
    for classifier, folder in zip(CLASSIFIERS, folders):
        tiny_classifier(classifier).save_pretrained(folder)
        ACATProcessor().save_pretrained(folder)
    DifFuseProcessor().save_pretrained(tmp_path / "processor")
    command = [sys.executable, "-c", AUTO, tmp_path / "processor", *folders]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_a_classifier_answers_with_a_tuple_where_no_dictionary_is_wanted(classifier):
    model = tiny_classifier(classifier)
    inputs = torch.rand(2, 2, 1, 19, 17), torch.rand(2, 2, 1, 19, 17), torch.tensor([0, 1])
    with torch.no_grad():
        output, parts = model(*inputs), model(*inputs, return_dict=False)
        model.config.return_dict = False
        assert isinstance(model(*inputs), tuple) and model(*inputs, return_dict=True).logits is not None
    assert torch.equal(parts[0], output.loss) and torch.equal(parts[1], output.logits)
    assert len(parts) == len(output.to_tuple())


def test_the_classifier_of_noisy_slices_answers_with_a_tuple_too():
    model = tiny_noisy_classifier()
    sample, labels = torch.rand(2, 1, 16, 16), torch.tensor([0, 1])
    output, (loss, logits) = model(sample, 3, labels), model(sample, 3, labels, return_dict=False)
    assert torch.equal(loss, output.loss) and torch.equal(logits, output.logits)
    assert len(model(sample, 3, return_dict=False)) == 1


@pytest.mark.parametrize("kind", ["classifier", "ModelMixin"])
def test_a_model_goes_to_a_public_repository_only_if_that_is_said(kind, hub, monkeypatch, tmp_path):
    for name, value in {"ENDPOINT": hub.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    model = tiny_classifier(ACATClassifier) if kind == "classifier" else tiny_noisy_classifier()
    model.push_to_hub("tester/new", token="hf_stub")
    model.save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id="tester/saved", token="hf_stub")
    assert hub.private == {"tester/new", "tester/saved"}
    assert [path for path in hub.files("tester/new") if path.endswith(".safetensors")]
    hub.repos["tester/open"] = [("0" * 40, {})]
    with pytest.raises(InputError, match="tester/open on the Hub is public"):
        model.push_to_hub("tester/open", token="hf_stub")
    model.push_to_hub("tester/open", token="hf_stub", public=True)
    assert "config.json" in hub.files("tester/open")


def tiny_noisy_classifier():
    return NoisyClassifier(1, 2, 16, (8, 16), layers_per_block=1, attention_levels=1, norm_num_groups=4).eval()
