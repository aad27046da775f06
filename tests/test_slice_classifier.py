"""The timm classifier inside transformers: counts, gradients, slices and the round trip through a folder."""

import pytest
import torch
from transformers import AutoModelForImageClassification

from difffuse_hf import SliceClassifier, SliceClassifierConfig
from difffuse_hf.models.configuration_slice_classifier import THESIS_VIT

NARROW = {"backbone_kwargs": {"channels": [8, 8, 16, 16]}, "num_channels": 2}


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return SliceClassifier(SliceClassifierConfig(**NARROW, num_labels=2, dropout=0.5)).eval()


@pytest.mark.parametrize(
    ("backbone", "parameters"),
    [("resnet18", 11_172_292), ("resnet50", 23_509_956), ("swin_tiny_patch4_window7_224", 27_519_358)],
)
def test_one_channel_and_four_classes_give_the_parameters_of_table_4_2(backbone, parameters):
    config = SliceClassifierConfig(backbone=backbone, num_channels=1, num_labels=4)
    assert SliceClassifier(config).num_parameters() == parameters


def test_the_counted_vision_transformer_takes_scans_that_are_smaller_than_its_canvas():
    classifier = SliceClassifier(SliceClassifierConfig(**THESIS_VIT, num_channels=1, num_labels=4)).eval()
    assert classifier.num_parameters() == 51_439_620
    with torch.no_grad():
        assert classifier(torch.rand(1, 1, 1, 500, 400)).logits.shape == (1, 4)
    with pytest.raises(ValueError, match="the transformer was made for"):
        classifier(torch.rand(1, 1, 501, 400))


def test_two_classes_are_called_healthy_and_lesion(classifier):
    assert classifier.config.id2label == {0: "healthy", 1: "lesion"}
    assert classifier.config.label2id == {"healthy": 0, "lesion": 1}


@pytest.mark.parametrize("labels", [{"num_labels": 2}, {"num_labels": 3}, {}, {"id2label": {0: "no", 1: "yes"}}])
def test_a_saved_classifier_loads_with_the_same_logits_and_labels(labels, tmp_path):
    classifier = SliceClassifier(SliceClassifierConfig(**NARROW, **labels)).eval()
    classifier.save_pretrained(tmp_path)
    image = torch.rand(3, 2, 32, 32)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(image).logits, classifier(image).logits)
    assert loaded.config.id2label == classifier.config.id2label


def test_buffers_that_timm_does_not_save_survive_loading(tmp_path):
    config = SliceClassifierConfig(
        backbone="swin_tiny_patch4_window7_224",
        backbone_kwargs={"img_size": 64, "window_size": 2, "embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2]},
    )
    classifier = SliceClassifier(config).eval()
    classifier.save_pretrained(tmp_path)
    image = torch.rand(2, 1, 64, 64)
    assert torch.equal(SliceClassifier.from_pretrained(tmp_path).eval()(image).logits, classifier(image).logits)


def test_timm_keeps_its_own_initialisation():
    classifier = SliceClassifier(SliceClassifierConfig())
    stage = classifier.backbone.layer4[0].conv2.weight  # He initialisation by fan-out
    assert stage.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.02)


def test_logits_are_the_same_every_time_in_eval_mode_and_not_in_train_mode(classifier):
    image = torch.rand(4, 2, 32, 32)
    assert torch.equal(classifier(image).logits, classifier(image).logits)
    classifier.train()
    assert not torch.equal(classifier(image).logits, classifier(image).logits)


def test_the_probability_of_a_class_can_be_differentiated_by_the_pixels(classifier):
    image = torch.rand(1, 2, 32, 32, requires_grad=True)
    classifier(image).logits.softmax(1)[:, 1].sum().backward()
    assert torch.isfinite(image.grad).all()
    assert (image.grad != 0).any()


def test_a_scan_of_identical_slices_is_classified_as_the_slice(classifier):
    image = torch.rand(2, 2, 32, 32)
    scan = image[:, None].expand(-1, 5, -1, -1, -1)
    torch.testing.assert_close(classifier(scan).logits, classifier(image).logits)


def test_labels_give_the_cross_entropy(classifier):
    image, labels = torch.rand(3, 2, 32, 32), torch.tensor([0, 1, 1])
    output = classifier(image, labels=labels)
    assert output.loss == torch.nn.functional.cross_entropy(output.logits, labels)


def test_a_wrong_number_of_channels_is_named(classifier):
    with pytest.raises(ValueError, match="4 channels but the classifier takes 2"):
        classifier(torch.rand(1, 4, 32, 32))


def test_dropout_must_be_a_probability():
    with pytest.raises(Exception, match="`dropout` is a probability"):
        SliceClassifierConfig(dropout=1.5)


def test_one_class_alone_is_refused():
    with pytest.raises(Exception, match="`num_labels` must be at least 2, got 1"):
        SliceClassifierConfig(num_labels=1)
