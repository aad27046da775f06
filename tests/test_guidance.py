"""Facts about guidance, with a classifier and without one."""

from itertools import pairwise

import pytest
import torch
from tiny_models import LinearNoisyClassifier, constant_unet, tiny_unet

from difffuse_hf import ClassifierFreeGuidancePipeline, ClassifierGuidancePipeline, DifFuseScheduler, UnmaskedPipeline
from difffuse_hf.errors import InputError
from difffuse_hf.pipelines.anomaly_map import otsu_threshold

NULL = 2  # the last of three labels


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def image():
    """Away from 0 and 1, so that nothing is clipped."""
    return 0.4 + 0.2 * torch.rand(2, 2, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def guided():
    """Classifier guidance with a U-Net that always predicts no noise."""
    torch.manual_seed(1)
    return quiet(ClassifierGuidancePipeline(constant_unet(), DifFuseScheduler(), LinearNoisyClassifier()))


@pytest.fixture
def free():
    unet = tiny_unet(num_class_embeds=3)
    torch.nn.init.normal_(unet.class_embedding.weight, generator=torch.Generator().manual_seed(5))
    return quiet(ClassifierFreeGuidancePipeline(unet, DifFuseScheduler(), noise_level=40))


def test_the_gradient_is_the_difference_quotient_of_the_log_probability(guided, image):
    guided.classifier.double()
    sample, level, step = image.double(), 300, 1e-5
    gradient = guided.log_probability_gradient(sample, level)
    timestep = torch.tensor([299, 299])

    def log_probability(x):
        return guided.classifier(x, timestep).logits.log_softmax(1)[:, 0]

    with torch.no_grad():
        for index in [(0, 0, 0), (1, 7, 9), (0, 15, 15)]:
            moved = torch.zeros_like(sample)
            moved[(slice(None), *index)] = step
            quotient = (log_probability(sample + moved) - log_probability(sample - moved)) / (2 * step)
            torch.testing.assert_close(gradient[(slice(None), *index)], quotient, rtol=0, atol=1e-8)


def test_one_guided_step_shifts_the_image_along_the_gradient(guided, image):
    # One step of DDIM: x̂_0 = (x_L − √(1 − ᾱ) ε) / √ᾱ with ε = −√(1 − ᾱ) s g, and half of it in [0, 1].
    level, scale = 60, 3.0
    output = guided(image, noise_level=level, num_inference_steps=1, guidance_scale=scale)
    signal = guided.scheduler.alpha_bar(level)
    encoded = signal**0.5 * (2 * image - 1)
    gradient = guided.log_probability_gradient(encoded, level)
    expected = image + (1 - signal) / signal**0.5 * scale * gradient / 2
    torch.testing.assert_close(output.counterfactuals, expected, rtol=0, atol=1e-5)
    assert (expected - image).abs().max() > 1e-3


def test_the_way_up_is_not_guided(guided, image):
    # With ε = 0 the inversion is x_L = √ᾱ_L x_0; only the two steps down from there see the classifier.
    scheduler, scale, (high, middle, low) = guided.scheduler, 20.0, (200, 100, 0)
    sample = scheduler.alpha_bar(high) ** 0.5 * (2 * image - 1)
    for level, target in ((high, middle), (middle, low)):
        gradient = guided.log_probability_gradient(sample, level)
        noise_pred = -((1 - scheduler.alpha_bar(level)) ** 0.5) * scale * gradient
        sample = scheduler.reverse_step(noise_pred, level, target, sample)
    output = guided(image, noise_level=high, num_inference_steps=2, guidance_scale=scale)
    torch.testing.assert_close(output.counterfactuals, (sample / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-5)


def test_guidance_raises_the_probability_of_the_healthy_class(guided, image):
    def probability(x):
        return guided.classifier(2 * x - 1, torch.tensor([0, 0])).logits.softmax(1)[:, 0]

    for label in (0, 1):
        guided.register_to_config(healthy_label=label)
        counterfactual = guided(image, noise_level=100, num_inference_steps=5, guidance_scale=10).counterfactuals
        rise = probability(counterfactual) - probability(image)
        assert (rise > 0.01).all() if label == 0 else (rise < -0.01).all()


def test_without_guidance_the_image_is_decoded_as_it_was_encoded(guided, image):
    output = guided(image, num_inference_steps=6, guidance_scale=0.0)
    torch.testing.assert_close(output.counterfactuals, image, rtol=0, atol=1e-5)


def test_the_map_is_the_sum_over_channels_and_binary_with_otsu(guided, image):
    call = {"noise_level": 60, "num_inference_steps": 2, "guidance_scale": 5.0}
    output = guided(image, **call)
    expected = (image - output.counterfactuals).abs().sum(1, keepdim=True)
    torch.testing.assert_close(output.anomaly_maps, expected, rtol=0, atol=1e-6)
    binary = guided(image, otsu=True, **call).anomaly_maps
    assert torch.equal(binary, (expected > otsu_threshold(expected)).float()) and 0 < binary.mean() < 1


def test_a_class_conditional_unet_is_asked_for_the_healthy_class(image):
    unet = tiny_unet(num_class_embeds=2)
    asked = []
    unet.register_forward_hook(
        lambda module, inputs, keywords, output: asked.append(keywords["class_labels"].tolist()), with_kwargs=True
    )
    pipeline = quiet(ClassifierGuidancePipeline(unet, DifFuseScheduler(), LinearNoisyClassifier(), healthy_label=1))
    pipeline(image, noise_level=4)
    assert asked == [[1, 1]] * 8


def conditional(pipeline, image, up, down):
    """Inversion with the label `up`, DDIM with the label `down`, written out."""
    scheduler = pipeline.scheduler
    levels = scheduler.levels_from(40, 4)
    sample = 2 * image - 1
    with torch.no_grad():
        for way, label in ((levels[::-1], up), (levels, down)):
            for level, target in pairwise(way):
                labels = torch.as_tensor(label).expand(len(image))
                noise_pred = pipeline.unet(sample, max(level - 1, 0), class_labels=labels).sample
                sample = scheduler.reverse_step(noise_pred, level, target, sample)
    return sample / 2 + 0.5


def test_classifier_free_guidance_at_scale_1_is_the_conditional_model(free, image):
    expected = conditional(free, image, up=NULL, down=0)
    actual = free(image, num_inference_steps=4, guidance_scale=1.0).counterfactuals
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    assert (expected - conditional(free, image, up=NULL, down=1)).abs().max() > 1e-3


def test_classifier_free_guidance_at_scale_0_is_the_unconditional_model(free, image):
    expected = conditional(free, image, up=NULL, down=NULL)
    actual = free(image, num_inference_steps=4, guidance_scale=0.0).counterfactuals
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_one_step_of_classifier_free_guidance_is_affine_in_the_scale(free, image):
    none, once, thrice = (
        free(image, noise_level=20, num_inference_steps=1, guidance_scale=scale).counterfactuals
        for scale in (0.0, 1.0, 3.0)
    )
    torch.testing.assert_close(thrice, none + 3 * (once - none), rtol=0, atol=1e-5)


def test_the_images_own_labels_can_be_inverted_with(free, image):
    expected = conditional(free, image, up=torch.tensor([0, 1]), down=0)
    actual = free(image, labels=torch.tensor([0, 1]), num_inference_steps=4, guidance_scale=1.0).counterfactuals
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    healthy = free(image, labels=[0, 0], num_inference_steps=80, noise_level=80, guidance_scale=1.0).counterfactuals
    torch.testing.assert_close(healthy, image, rtol=0, atol=0.02)  # healthy stays as it is


@pytest.mark.parametrize("labels", [[0], [0, 3], [-1, 0]])
def test_labels_that_do_not_fit_are_refused(free, image, labels):
    with pytest.raises(InputError, match="`labels` must be 2 class indices from 0 to 2, got"):
        free(image, labels=labels)


def test_a_unet_without_classes_is_refused_by_classifier_free_guidance(unet, scheduler):
    with pytest.raises(InputError, match="needs a class-conditional U-Net"):
        ClassifierFreeGuidancePipeline(unet, scheduler)


def test_classifier_guidance_at_scale_0_is_the_ablation_ddim(image):
    unet = tiny_unet()
    ablation = quiet(UnmaskedPipeline(unet, DifFuseScheduler(), reverse="ddim"))
    guided = quiet(ClassifierGuidancePipeline(unet, DifFuseScheduler(), LinearNoisyClassifier(), guidance_scale=0.0))
    expected, actual = (pipe(image, num_inference_steps=3).counterfactuals for pipe in (ablation, guided))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)
