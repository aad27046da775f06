"""What users of transformers and diffusers expect: Auto classes, `return_dict`, saving, private repositories."""

import copy
import pickle
import subprocess
import sys

import huggingface_hub
import pytest
import torch
from tiny_models import tiny_classifier, tiny_noisy_classifier
from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

from difffuse_hf import (
    ACATClassifier,
    ACATProcessor,
    DenoisingAutoencoder,
    DifFuseProcessor,
    FAnoGAN,
    IterMaskNetwork,
    ResNetAutoencoder,
)
from difffuse_hf.errors import InputError
from difffuse_hf.models.auto import CLASSIFIERS

FIRST_IMPORTS = {
    "this package": "import difffuse_hf\n"
    "assert not {'torch', 'transformers', 'diffusers'} & set(sys.modules), 'a plain import has to stay light'",
    "a pipeline": "from difffuse_hf import DifFusePipeline",  # and diffusers, which brings the Auto classes along
    "transformers": "from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification",
}
AUTO = """
import difffuse_hf
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

processor, *classifiers = sys.argv[1:]
for folder in classifiers:
    config, model = AutoConfig.from_pretrained(folder), AutoModelForImageClassification.from_pretrained(folder)
    name = folder.rpartition("/")[2]
    made = AutoModelForImageClassification.from_config(config)
    assert type(model) is type(made) is getattr(difffuse_hf, name), (model, made)
    assert type(config) is type(model.config) is type(model).config_class
    assert type(AutoImageProcessor.from_pretrained(folder)) is difffuse_hf.ACATProcessor
assert type(AutoImageProcessor.from_pretrained(processor)) is difffuse_hf.DifFuseProcessor
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders of a processor and of every classifier."""
    root = tmp_path_factory.mktemp("saved")
    DifFuseProcessor().save_pretrained(root / "processor")
    for classifier in CLASSIFIERS:
        tiny_classifier(classifier).save_pretrained(root / classifier.__name__)
        ACATProcessor().save_pretrained(root / classifier.__name__)
    return [root / "processor", *(root / classifier.__name__ for classifier in CLASSIFIERS)]


@pytest.mark.parametrize("first", FIRST_IMPORTS)
def test_auto_classes_find_every_classifier_whatever_is_imported_first(first, saved):
    command = [sys.executable, "-c", f"import sys\n{FIRST_IMPORTS[first]}\n{AUTO}", *saved]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_registered_class_can_be_called_copied_and_pickled_like_the_class_it_stands_for():
    registered = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[ACATClassifier.config_class]
    model = registered(tiny_classifier(ACATClassifier).config)
    assert type(model) is ACATClassifier and registered.base_model_prefix == "base"
    for again in (copy.deepcopy(registered), pickle.loads(pickle.dumps(registered))):
        assert again.load() is ACATClassifier and again.__name__ == "ACATClassifier"


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


IMAGE_MODELS = {
    "autoencoder": lambda: ResNetAutoencoder(in_channels=2, channels=(8, 16, 24), latent_channels=4),
    "denoising autoencoder": lambda: DenoisingAutoencoder(in_channels=2, channels=(4, 8, 12)),
    "IterMask2": lambda: IterMaskNetwork(2, (8, 16), layers_per_block=1, attention_levels=1, norm_num_groups=4),
    "f-AnoGAN": lambda: FAnoGAN(in_channels=2, sample_size=16, width=2, latent_size=3),
    "noisy classifier": lambda: tiny_noisy_classifier(channels=2),
}


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_a_saved_model_gives_the_same_also_in_half_precision_and_names_wrong_channels(name, tmp_path):
    torch.manual_seed(0)
    model, image = IMAGE_MODELS[name]().eval(), torch.rand(2, 2, 16, 16)

    def answer(network, image):
        if name == "IterMask2":
            return torch.cat(network(image, image[:, :1].round(), image))
        return network(image, 100).logits if name == "noisy classifier" else network(image)

    model.save_pretrained(tmp_path)
    expected = answer(model, image)
    assert (tmp_path / "diffusion_pytorch_model.safetensors").exists()
    assert torch.equal(answer(type(model).from_pretrained(tmp_path), image), expected)
    low = answer(type(model).from_pretrained(tmp_path, dtype=torch.bfloat16), image.bfloat16())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), expected, rtol=0, atol=0.1 * expected.abs().max().item())
    with pytest.raises(ValueError, match="3 channels but the .* takes 2"):
        answer(model, torch.rand(1, 3, 16, 16))
