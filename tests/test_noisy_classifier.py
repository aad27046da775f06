"""The classifier of noisy slices: what goes in and out, its gradient, and its loss."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from difffuse_hf import NoisyClassifier
from difffuse_hf.training.losses import classification_loss, noisy_classification_loss


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    classifier = NoisyClassifier(
        in_channels=2, sample_size=16, block_out_channels=(8, 16), layers_per_block=1, attention_levels=1,
        norm_num_groups=4,
    ).eval()  # fmt: skip
    for parameter in classifier.parameters():  # fresh residual branches are zero
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return classifier


def test_the_defaults_are_the_published_widths_and_attentions():
    with torch.device("meta"):
        classifier = NoisyClassifier()
    attentions = {
        name: module.heads for name, module in classifier.named_modules() if type(module).__name__ == "Attention"
    }
    assert {name.split(".attentions")[0] for name in attentions} == {f"down_blocks.{i}" for i in (3, 4, 5)} | {
        "mid_block"
    }
    assert set(attentions.values()) == {1, 2}  # of 64 channels each
    assert [len(block.resnets) for block in classifier.down_blocks] == [4] * 6
    assert classifier.pool.num_heads == 2 and classifier.pool.feat_size == (8, 8)


def test_a_timestep_may_be_a_number_for_all_or_one_for_each(classifier):
    sample = torch.randn(3, 2, 16, 16)
    logits = classifier(sample, 700).logits
    assert logits.shape == (3, 2)
    for timestep in (torch.tensor(700), torch.full((3,), 700)):
        assert torch.equal(classifier(sample, timestep).logits, logits)
    each = classifier(sample, torch.tensor([10, 700, 900])).logits
    assert_close(each[1], logits[1])
    assert (each[[0, 2]] - logits[[0, 2]]).abs().min() > 1e-4
    one_by_one = torch.cat([classifier(one[None], 700).logits for one in sample])
    assert_close(one_by_one, logits)


@pytest.mark.parametrize("size", [(16, 16), (15, 17), (24, 8), (1, 1)])
def test_any_size_is_classified_and_has_a_gradient_everywhere(classifier, size):
    sample = torch.randn(2, 2, *size, requires_grad=True)
    logits = classifier(sample, 5).logits
    assert logits.shape == (2, 2)
    logits.log_softmax(1)[:, 0].sum().backward()
    assert (sample.grad != 0).all()
    filled = F.pad(sample, (0, size[1] % 2, 0, size[0] % 2), mode="replicate")
    assert_close(classifier(filled, 5).logits, logits)


def test_labels_give_the_cross_entropy(classifier):
    sample, labels = torch.randn(3, 2, 16, 16), torch.tensor([0, 1, 1])
    output = classifier(sample, 3, labels=labels)
    assert_close(output.loss, -output.logits.log_softmax(1)[torch.arange(3), labels].mean())
    assert classifier(sample, 3).loss is None


def test_the_loss_sees_slices_at_the_noise_of_their_timesteps():
    image, labels, seen = torch.rand(512, 1, 4, 4, dtype=torch.float64), torch.arange(512) % 2, []
    alphas_cumprod = torch.linspace(0.99, 0.01, 10, dtype=torch.float64)

    class Recorder(torch.nn.Module):
        def forward(self, sample, timestep):
            seen.append((sample, timestep))
            self.logits = sample.flatten(1)[:, :2]
            return self

    weights = torch.tensor([1.0, 3.0])
    loss, logits = noisy_classification_loss(
        Recorder(), image, labels, alphas_cumprod, torch.Generator().manual_seed(0), 8, weights
    )
    sample, timestep = seen[0]
    assert_close(loss, classification_loss(sample.flatten(1)[:, :2].float(), labels, weights))
    assert torch.equal(logits, sample.flatten(1)[:, :2].float())
    assert timestep.unique().tolist() == list(range(8))
    signal = alphas_cumprod[timestep][:, None, None, None]
    noise = (sample - signal.sqrt() * (2 * image - 1)) / (1 - signal).sqrt()
    assert abs(noise.mean()) < 4 / math.sqrt(noise.numel())
    assert noise.std().item() == pytest.approx(1, abs=4 / math.sqrt(2 * noise.numel()))


def test_one_class_alone_is_refused():
    with pytest.raises(ValueError, match="`num_labels` must be at least 2"):
        NoisyClassifier(num_labels=1)
