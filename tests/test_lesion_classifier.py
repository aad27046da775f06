"""The half-brain CNN: the thesis's parameter count, halves and sides, both tasks as four classes, the round trip."""

import pytest
import torch
from transformers import AutoModelForImageClassification

from difffuse_hf import LesionClassifier, LesionClassifierConfig
from difffuse_hf.models.backbone import FeatureModifier
from difffuse_hf.models.configuration_acat import ACATConfig
from difffuse_hf.models.configuration_competitors import HSMConfig
from difffuse_hf.models.modeling_lesion_classifier import four_classes

TINY = {"hidden_sizes": [4, 6], "num_pools": 1}


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return LesionClassifier(LesionClassifierConfig(**TINY)).eval()


def test_the_default_network_has_the_parameters_of_the_thesis():
    classifier = LesionClassifier(LesionClassifierConfig())
    convolutions = sum(stage.conv.weight.numel() for stage in classifier.backbone.stages)
    heads = sum(p.numel() for head in (classifier.presence_head, classifier.side_head) for p in head.parameters())
    assert (convolutions, heads, classifier.num_parameters()) == (156_816, 5_765, 163_285)


def test_a_hidden_layer_of_128_in_the_heads_needs_more_than_the_thesis_counts():
    assert LesionClassifier(LesionClassifierConfig(hidden_head=128)).num_parameters() > 2 * 128 * 1152


@pytest.mark.parametrize("width", [8, 9])
def test_halves_run_from_the_midline_outwards_and_can_be_put_together_again(classifier, width):
    scan = torch.arange(width, dtype=torch.float).expand(1, 2, 1, 3, width)
    left, right = classifier.to_images(scan)[:2]
    half = (width + 1) // 2
    assert left[0, 0].tolist() == list(range(width - half, width))  # the patient's left is on the picture's right
    assert right[0, 0].tolist() == list(range(half))[::-1]
    assert torch.equal(classifier.to_scan(classifier.to_images(scan), scan), scan)


def test_a_mirrored_scan_exchanges_the_features_of_the_halves(classifier):
    scan = torch.rand(2, 3, 1, 12, 10)
    images, mirrored = classifier.to_images(scan), classifier.to_images(scan.flip(-1))
    assert torch.equal(images.unflatten(0, (-1, 2)).flip(1).flatten(0, 1), mirrored)


def test_four_classes_are_the_product_of_presence_and_side():
    presence, side = torch.tensor([[0.3, 0.7]]).log(), torch.tensor([[0.2, 0.5, 0.3]]).log()
    probability = four_classes(presence, side).exp()[0]
    assert probability.tolist() == pytest.approx([0.3, 0.7 * 0.2, 0.7 * 0.5, 0.7 * 0.3])


@pytest.mark.parametrize(
    ("lesion", "sides", "hard", "soft"),
    [
        (0.6, (0.5, 0.4, 0.1), 1, 0),
        (0.6, (0.34, 0.33, 0.33), 1, 0),
        (0.4, (0.1, 0.9, 0.0), 0, 0),
        (0.9, (0, 1, 0), 2, 2),
    ],
)
def test_presence_is_decided_first_and_then_the_side_unless_the_probabilities_are_to(lesion, sides, hard, soft):
    """Sec. 4.4: a lesion at 0.6 stays one, though no side of it is as likely as none."""
    logits = four_classes(torch.tensor([[1 - lesion, lesion]]).log(), torch.tensor([sides]).log())
    for combination, expected in (("hard", hard), ("soft", soft)):
        assert (
            LesionClassifier(LesionClassifierConfig(combination=combination, **TINY)).decide(logits).item() == expected
        )
    assert LesionClassifierConfig().combination == "hard"
    halves = LesionClassifier(LesionClassifierConfig(stage="halves", **TINY))
    assert halves.decide(logits) == logits.argmax()  # each half has been judged by itself


def test_the_maps_are_averaged_two_by_two_between_the_layers():
    """Table 4.1: AvgPool2D, 2 x 2, stride 2; nothing is lost of an odd size, and six times 500 x 200 leaves 8 x 4."""
    pools = [stage.pool for stage in LesionClassifier(LesionClassifierConfig()).backbone.stages]
    maps = torch.arange(12.0).view(1, 1, 3, 4)
    assert [type(pool) for pool in pools] == [torch.nn.AvgPool2d] * 6 + [torch.nn.Identity]
    assert all(pool(maps).flatten().tolist() == [2.5, 4.5, 8.5, 10.5] for pool in pools[:6])
    assert LesionClassifier(LesionClassifierConfig()).backbone(torch.rand(1, 1, 500, 200), FeatureModifier()).shape[
        2:
    ] == (8, 4)


def test_a_network_saved_before_there_was_a_choice_keeps_its_max_pooling(classifier, tmp_path):
    classifier.save_pretrained(tmp_path)
    assert LesionClassifier.from_pretrained(tmp_path).config.pooling == "average"
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('  "pooling": "average",\n', ""))
    assert type(LesionClassifier.from_pretrained(tmp_path).backbone.stages[0].pool) is torch.nn.MaxPool2d
    before = {name: value for name, value in classifier.config.to_dict().items() if name != "pooling"}
    assert ACATConfig(base=before).base.pooling == "max"
    for config in (ACATConfig, HSMConfig):
        with pytest.raises(ValueError, match="trained by version 0.1.0"):
            config(saliency_channels=16, product_stage=1)


def test_the_whole_brain_is_one_view_with_heads_of_half_the_size():
    classifier = LesionClassifier(LesionClassifierConfig(whole_brain=True)).eval()
    assert classifier.num_parameters() == 157_520 + 5 * 576 + 5
    scan = torch.rand(2, 3, 1, 12, 10)
    assert torch.equal(classifier.to_images(scan), scan.flatten(0, 1))
    assert torch.equal(classifier.to_scan(classifier.to_images(scan), scan), scan)
    assert classifier(scan).logits.shape == (2, 4)
    with pytest.raises(Exception, match="a whole brain, which has no halves"):
        LesionClassifierConfig(whole_brain=True, stage="halves")


def test_halves_judged_alone_give_probabilities_that_sum_to_one():
    classifier = LesionClassifier(LesionClassifierConfig(stage="halves", **TINY)).eval()
    output = classifier(torch.rand(3, 2, 1, 12, 10), labels=torch.tensor([0, 1, 3]))
    torch.testing.assert_close(output.logits.exp().sum(1), torch.ones(3))
    sick = output.half_logits.softmax(-1)[..., 1]  # (3, left and right)
    torch.testing.assert_close(output.logits.exp()[:, 3], sick.prod(1))
    picked = torch.stack([1 - sick[0], torch.stack([sick[1, 0], 1 - sick[1, 1]]), sick[2]])
    torch.testing.assert_close(output.loss, -picked.log().mean())


def test_the_loss_of_a_scan_without_lesion_is_that_of_presence_alone(classifier):
    output = classifier(torch.rand(2, 2, 1, 12, 10))
    losses = classifier.sample_losses(output, torch.tensor([0, 2]))
    presence, side = output.presence_logits.log_softmax(1), output.side_logits.log_softmax(1)
    torch.testing.assert_close(losses, torch.stack([-presence[0, 0], -presence[1, 1] - side[1, 1]]))


def test_the_heads_start_from_a_network_trained_on_halves(tmp_path):
    halves = LesionClassifier(LesionClassifierConfig(stage="halves", **TINY))
    halves.save_pretrained(tmp_path)
    fused = LesionClassifier.from_pretrained(tmp_path, stage="fused")
    assert torch.equal(fused.backbone.stages[1].conv.weight, halves.backbone.stages[1].conv.weight)
    assert fused.presence_head.weight.shape == (2, 2 * 6 * 9) and fused.presence_head.weight.std() > 0


def test_a_saved_classifier_loads_with_the_same_logits(classifier, tmp_path):
    classifier.save_pretrained(tmp_path)
    scan = torch.rand(2, 2, 1, 13, 11)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(scan).logits, classifier(scan).logits)
    assert loaded.config.id2label == {0: "none", 1: "left", 2: "right", 3: "both"}


def test_a_slice_is_a_scan_of_one_slice(classifier):
    image = torch.rand(2, 1, 12, 10)
    torch.testing.assert_close(classifier(image).logits, classifier(image[:, None]).logits)


def test_a_feature_modifier_sees_every_stage_and_what_it_returns_goes_on(classifier):
    class Record(FeatureModifier):
        seen: list = []

        def features(self, stage, maps):
            self.seen.append((stage, tuple(maps.shape)))
            return torch.zeros_like(maps) if stage == 2 else maps

    scan = torch.rand(1, 2, 1, 12, 10)
    output = classifier(scan, feature_modifier=Record())
    assert Record.seen == [(1, (4, 4, 6, 3)), (2, (4, 6, 6, 3))]
    torch.testing.assert_close(output.presence_logits[0], classifier.presence_head.bias)


def test_a_slice_weight_of_zero_hides_a_slice(classifier):
    class FirstOnly(FeatureModifier):
        def slice_weights(self, maps):
            return torch.tensor([1.0, 1.0, 0.0, 0.0])  # two slices, two halves each

    scan = torch.rand(1, 2, 1, 12, 10)
    torch.testing.assert_close(classifier(scan, feature_modifier=FirstOnly()).logits, classifier(scan[:, :1]).logits)


@pytest.mark.parametrize(
    ("pixels", "labels", "sentence"),
    [
        (torch.rand(1, 2, 3, 12, 10), None, "3 channels but the classifier takes 1"),
        (torch.rand(12, 10), None, "slices .B, C, H, W. or scans"),
        (torch.rand(1, 2, 1, 12, 10), torch.tensor([4]), "class 4, but the classifier knows 0 to 3"),
    ],
)
def test_wrong_inputs_are_one_sentence(classifier, pixels, labels, sentence):
    with pytest.raises(ValueError, match=sentence):
        classifier(pixels, labels=labels)


def test_other_classes_than_sides_are_refused():
    with pytest.raises(Exception, match="none, left, right, both"):
        LesionClassifierConfig(id2label={0: "healthy", 1: "lesion"})
    with pytest.raises(Exception, match="`stage` must be one of"):
        LesionClassifierConfig(stage="whole")
