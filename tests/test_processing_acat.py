"""The classifiers' preprocessing: windows, sizes, slices and flips of images and maps together, and its own file."""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoImageProcessor

from difffuse_hf import ACATConfig, ACATProcessor, SliceClassifier, SliceClassifierConfig
from difffuse_hf.errors import InputError


def test_a_window_maps_its_ends_to_zero_and_one_and_cuts_beyond():
    scan = np.array([[[-50.0, 0.0, 25.0, 100.0, 3000.0]]])  # (S, H, W) in HU
    pixels = ACATProcessor(num_slices=1, window=(0, 100))(scan)["pixel_values"]
    assert pixels.shape == (1, 1, 1, 1, 5)
    assert pixels.flatten().tolist() == pytest.approx([0, 0, 0.25, 1, 1])


def test_a_map_stays_on_the_lesion_when_both_are_resized_and_flipped():
    image, saliency = torch.zeros(2, 3, 1, 40, 32), torch.zeros(2, 3, 1, 40, 32)
    image[:, 1, :, 8:16, 4:12] = saliency[:, 1, :, 8:16, 4:12] = 1
    flip = torch.tensor([False, True])
    out = ACATProcessor(image_size=(20, 16))(image, saliency=saliency, flip=flip)
    assert out["pixel_values"].shape == out["saliency"].shape == (2, 3, 1, 20, 16)
    assert torch.equal(out["pixel_values"], out["saliency"])
    columns = out["saliency"][:, 1, 0].amax(1) > 0.5
    assert [row.nonzero().flatten().tolist() for row in columns] == [[2, 3, 4, 5], [10, 11, 12, 13]]


def test_resizing_keeps_the_range_and_the_mean_of_a_slice():
    image = torch.rand(2, 4, 64, 48)
    out = ACATProcessor(image_size=(16, 12), num_channels=4)(image)["pixel_values"]
    assert out.shape == (2, 4, 16, 12) and 0 <= out.min() <= out.max() <= 1
    torch.testing.assert_close(out.mean((2, 3)), image.mean((2, 3)), rtol=0.05, atol=0.02)


def test_a_scan_is_sampled_from_its_first_to_its_last_slice():
    scan = torch.arange(21.0).view(21, 1, 1).expand(-1, 4, 4) / 20
    sampled = ACATProcessor(num_slices=11)(scan)["pixel_values"]
    torch.testing.assert_close(sampled[0, :, 0, 0, 0], torch.linspace(0, 1, 11))


def test_the_processor_is_saved_beside_a_model_and_found_by_auto_classes(tmp_path):
    processor = ACATProcessor(image_size=(20, 16), num_slices=5, window=(0, 100))
    processor.save_pretrained(tmp_path)
    ACATConfig().save_pretrained(tmp_path)
    for loaded in (ACATProcessor.from_pretrained(tmp_path), AutoImageProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is ACATProcessor
        assert (loaded.image_size, loaded.num_slices, loaded.window) == ((20, 16), 5, (0, 100))


@pytest.mark.parametrize(
    ("images", "options", "sentence"),
    [
        (np.full((1, 1, 4, 4), 40.0), {}, r"lie in \[40, 40\] where \[0, 1\] is expected"),
        (np.full((1, 1, 4, 4), np.nan), {}, "NaN or infinite"),
        (np.zeros((1, 3, 4, 4)), {}, "neither slices .B, 1, H, W. nor scans"),
        (np.zeros((4, 4)), {"num_slices": 3}, "neither slices .B, 1, H, W. nor scans"),
    ],
)
def test_unusable_images_are_one_sentence(images, options, sentence):
    with pytest.raises(InputError, match=sentence):
        ACATProcessor(**options)(images)


def test_maps_of_other_images_and_windows_upside_down_are_refused():
    with pytest.raises(InputError, match="make the maps from these images"):
        ACATProcessor()(torch.rand(2, 3, 1, 8, 8), saliency=torch.rand(2, 2, 1, 8, 8))
    with pytest.raises(ValueError, match="`window` goes from"):
        ACATProcessor(window=(100, 0))
    with pytest.raises(ValueError, match="`image_size` is"):
        ACATProcessor(image_size=(4,))


def test_a_call_gives_the_arrays_that_are_asked_for():
    images = np.random.default_rng(0).random((2, 3, 1, 8, 8))
    tensors, arrays = ACATProcessor()(images, saliency=images), ACATProcessor()(images, images, return_tensors="np")
    for name, array in arrays.items():
        assert type(array) is np.ndarray and type(tensors[name]) is torch.Tensor
        np.testing.assert_array_equal(array, tensors[name].numpy())
    with pytest.raises(InputError, match="`return_tensors` must be one of pt, np, got 'jax'"):
        ACATProcessor()(images, return_tensors="jax")


def test_pictures_lists_and_slices_without_a_channel_are_what_arrays_of_shares_are():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    expected = torch.from_numpy(grey / 255).float()[None, None]
    processor = ACATProcessor()
    forms = {
        "bytes": grey,
        "shares": grey / 255,
        "channel last": grey[..., None],
        "channel first": grey[None],
        "picture": Image.fromarray(grey),
        "coloured picture": Image.fromarray(np.stack([grey] * 3, -1)),
    }
    for name, form in forms.items():
        torch.testing.assert_close(processor(form)["pixel_values"], expected, msg=name)
        torch.testing.assert_close(processor([form, form])["pixel_values"], torch.cat([expected] * 2), msg=name)
    assert isinstance(processor(grey, return_tensors=None)["pixel_values"], np.ndarray)
    with pytest.raises(InputError, match=r"have the shapes \[\(1, 3, 4\), \(1, 4, 3\)\]"):
        processor([grey, grey.T])
    hounsfield = ACATProcessor(window=(0, 100))(grey[None])["pixel_values"]
    torch.testing.assert_close(hounsfield, torch.from_numpy(grey / 100).float().clamp(max=1)[None, None])


def test_a_saved_classifier_answers_transformers_pipeline(tmp_path):
    torch.manual_seed(0)
    config = SliceClassifierConfig(backbone="resnet10t", num_channels=1, id2label={0: "healthy", 1: "lesion"})
    classifier = SliceClassifier(config).eval()
    classifier.save_pretrained(tmp_path)
    ACATProcessor(image_size=(32, 32)).save_pretrained(tmp_path)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 36), np.uint8))
    answers = {
        one["label"]: one["score"] for one in transformers.pipeline("image-classification", str(tmp_path))(picture)
    }
    with torch.no_grad():
        expected = classifier(**ACATProcessor(image_size=(32, 32))(picture)).logits.softmax(1)[0]
    assert [answers["healthy"], answers["lesion"]] == pytest.approx(expected.tolist(), abs=1e-5)
