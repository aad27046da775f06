import pytest
import torch

from difffuse_hf import make_healthy_unet


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
