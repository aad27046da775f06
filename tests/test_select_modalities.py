"""Networks cut to fewer modalities: what the kept ones had to say is what they said before."""

import importlib.util
from pathlib import Path

import pytest
import torch

from difffuse_hf import ResNetAutoencoder, SliceClassifier, SliceClassifierConfig, make_healthy_unet
from difffuse_hf.errors import InputError
from difffuse_hf.models.unet import load_unet
from difffuse_hf.training.checkpoints import load_initial_weights

SCRIPT = Path(__file__).parents[1] / "examples" / "select_modalities.py"
specification = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
select_modalities = importlib.util.module_from_spec(specification)
specification.loader.exec_module(select_modalities)
with_channels = select_modalities.with_channels

SMALL = {"sample_size": 16, "block_out_channels": (8, 8), "attention_levels": 1, "norm_num_groups": 4}


def silent(image: torch.Tensor, kept: list[int]) -> torch.Tensor:
    """The image with zeros in the channels that are not kept: what their weights meet no longer counts."""
    return torch.stack([image[:, i] if i in kept else torch.zeros_like(image[:, i]) for i in range(4)], 1)


@pytest.mark.parametrize("patch_size", [1, 2])
@pytest.mark.parametrize("kept", [[0], [2, 1]])
def test_a_unet_predicts_the_kept_modalities_as_if_the_others_were_zero(patch_size, kept):
    unet = make_healthy_unet(patch_size=patch_size, **SMALL).eval()
    narrow = with_channels(unet, kept).eval()
    image = torch.randn(2, 4, 16, 16)
    with torch.no_grad():
        full = unet(silent(image, kept), 10, return_dict=False)[0]
        few = narrow(image[:, kept], 10, return_dict=False)[0]
    torch.testing.assert_close(few, full[:, kept])


def test_classifier_and_autoencoder_are_cut_alike():
    image, kept = torch.rand(2, 4, 16, 16), [3]
    classifier = SliceClassifier(SliceClassifierConfig(num_channels=4, backbone_kwargs={"channels": [4, 4, 8, 8]}))
    autoencoder = ResNetAutoencoder(in_channels=4, channels=(4, 4, 8)).eval()
    classifier.eval()
    with torch.no_grad():
        torch.testing.assert_close(
            with_channels(classifier, kept).eval()(image[:, kept]).logits, classifier(silent(image, kept)).logits
        )
        torch.testing.assert_close(
            with_channels(autoencoder, kept).eval()(image[:, kept]), autoencoder(silent(image, kept))[:, kept]
        )


def test_a_unet_with_a_learned_variance_is_refused():
    with pytest.raises(InputError, match="takes 4 channels and gives 8"):
        with_channels(make_healthy_unet(out_channels=8, **SMALL), [0])


def test_trainings_start_from_what_it_leaves(tmp_path):
    select_modalities.main(["demo", "flair", "--output_dir", str(tmp_path / "start")])
    unet = load_unet(tmp_path / "start" / "unet")
    assert unet.config["in_channels"] == unet.config["out_channels"] == 1
    load_initial_weights(unet, str(tmp_path / "start" / "unet"))


def test_a_modality_the_model_lacks_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="modality"):
        select_modalities.main(["demo", "pd", "--output_dir", str(tmp_path / "start")])
    assert not (tmp_path / "start").exists()
