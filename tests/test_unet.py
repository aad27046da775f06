import pytest
import torch
from diffusers import UNet2DModel
from torch.nn import functional as F

from difffuse_hf import DifFusePipeline, DifFuseScheduler, PatchUNet2DModel, make_healthy_unet
from difffuse_hf.models.unet import load_unet


def count(unet):
    return sum(parameter.numel() for parameter in unet.parameters())


def test_the_thesis_unet_has_138_288_772_parameters():
    with torch.device("meta"):
        assert count(make_healthy_unet()) == 138_288_772


def test_an_untrained_unet_predicts_no_noise_at_all():
    unet = make_healthy_unet(3, 16, block_out_channels=(8, 16), attention_levels=1, norm_num_groups=4)
    prediction = unet(torch.randn(2, 3, 16, 16), 10).sample
    assert prediction.shape == (2, 3, 16, 16) and not prediction.any()


@pytest.mark.parametrize("attention_levels", [0, 1, 3])
def test_attention_sits_in_the_coarsest_levels(attention_levels):
    unet = make_healthy_unet(1, 8, block_out_channels=(8, 8, 8), attention_levels=attention_levels, norm_num_groups=4)
    has_attention = [bool(getattr(block, "attentions", None)) for block in unet.down_blocks]
    assert has_attention == [level >= 3 - attention_levels for level in range(3)]


def test_further_arguments_of_the_unet_pass_through():
    unet = make_healthy_unet(1, 8, (8, 8), 0, 4, layers_per_block=1, dropout=0.1)
    assert unet.config.layers_per_block == 1 and unet.config.dropout == 0.1


PATCHES = {"block_out_channels": (8, 16), "attention_levels": 1, "norm_num_groups": 4, "layers_per_block": 1}


def test_squares_of_pixels_become_channels_and_come_back_in_their_places():
    torch.manual_seed(0)
    unet = make_healthy_unet(3, 16, patch_size=2, **PATCHES)
    assert isinstance(unet, UNet2DModel) and unet.config.in_channels == 3 and unet.config.sample_size == 16
    assert unet.conv_in.in_channels == 12 and unet.conv_out.out_channels == 12
    torch.nn.init.normal_(unet.conv_out.weight)
    sample, level = torch.randn(2, 3, 16, 16), torch.tensor([3, 400])
    prediction = unet(sample, level).sample
    inside = UNet2DModel.forward(unet, F.pixel_unshuffle(sample, 2), level).sample
    assert torch.equal(prediction, F.pixel_shuffle(inside, 2)) and prediction.any()
    assert torch.equal(unet(sample, level, return_dict=False)[0], prediction)
    with pytest.raises(ValueError, match="does not divide"):
        make_healthy_unet(3, 15, patch_size=2, **PATCHES)


@pytest.mark.parametrize("patch_size", [1, 2])
def test_a_unet_of_either_kind_comes_back_from_its_folder(patch_size, tmp_path):
    unet = make_healthy_unet(2, 16, patch_size=patch_size, num_class_embeds=3, **PATCHES)
    torch.nn.init.normal_(unet.conv_out.weight)
    unet.save_pretrained(tmp_path)
    loaded = load_unet(tmp_path)
    assert type(loaded) is type(unet) and loaded.config.get("patch_size", 1) == patch_size
    sample, level, label = torch.randn(1, 2, 16, 16), torch.tensor([7]), torch.tensor([2])
    assert torch.equal(loaded(sample, level, label).sample, unet.eval()(sample, level, label).sample)


def test_a_pipeline_comes_back_with_a_unet_of_patches(tmp_path):
    unet = make_healthy_unet(2, 16, patch_size=2, **PATCHES)
    DifFusePipeline(unet=unet, scheduler=DifFuseScheduler()).save_pretrained(tmp_path)
    pipeline = DifFusePipeline.from_pretrained(tmp_path)
    assert type(pipeline.unet) is PatchUNet2DModel and pipeline.unet.config.patch_size == 2
    image, mask = torch.rand(1, 2, 16, 16), torch.zeros(1, 1, 16, 16)
    mask[..., 4:9, 4:9] = 1
    output = pipeline(image, mask=mask, num_inference_steps=2)
    assert output.counterfactuals.shape == image.shape
