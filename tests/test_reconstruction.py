"""The pipeline of the competitors that do not diffuse."""

import numpy as np
import pytest
import torch
from conftest import quiet
from tiny_models import tiny_unet
from torch.testing import assert_close

from difffuse_hf import (
    DenoisingAutoencoder,
    DifFusePipeline,
    DifFuseScheduler,
    FAnoGAN,
    ReconstructionPipeline,
    ResNetAutoencoder,
    SliceClassifier,
    SliceClassifierConfig,
)
from difffuse_hf.errors import InputError
from difffuse_hf.models.modeling_fanogan import resize
from difffuse_hf.pipelines.anomaly_map import residual_map
from difffuse_hf.saliency.counterfactual import class_agnostic_saliency, latent_counterfactual

SEARCH = {"num_steps": 2, "step_size": 10.0, "l1_weight": 0.0}  # moves, though the networks are not trained
OPTIONS = {**SEARCH, "reference": "reconstruction"}


@pytest.fixture(params=["denoising", "fanogan", "saliency"])
def pipeline(request):
    torch.manual_seed(0)
    if request.param == "denoising":
        return quiet(ReconstructionPipeline(DenoisingAutoencoder(2, (4, 8))))
    if request.param == "fanogan":
        return quiet(ReconstructionPipeline(FAnoGAN(2, 16, 2, 3)))
    classifier = SliceClassifier(SliceClassifierConfig(backbone="resnet10t", num_channels=2, num_labels=2)).eval()
    autoencoder = ResNetAutoencoder(in_channels=2, channels=(4, 4, 4)).eval()
    return quiet(
        ReconstructionPipeline(classifier=classifier, autoencoder=autoencoder, percentile=75, saliency_options=OPTIONS)
    )


def fresh_image(size=(16, 16)):
    return torch.rand(3, 2, *size, generator=torch.Generator().manual_seed(3))


def test_the_output_has_one_type_and_shape_whatever_the_method(pipeline):
    image = fresh_image((20, 24))
    output = pipeline(image, generator=torch.Generator())
    assert output.counterfactuals.shape == image.shape
    assert output.anomaly_maps.shape == output.masks.shape == (3, 1, 20, 24)
    assert 0 <= output.counterfactuals.min() and output.counterfactuals.max() <= 1
    assert output.anomaly_maps.min() >= 0 and output.anomaly_maps.max() > 0
    assert output.uncertainty is None and (output.saliency is None) == (pipeline.reconstructor is not None)


def test_an_images_result_does_not_depend_on_its_batch(pipeline):
    image = fresh_image()
    together, alone = pipeline(image), pipeline(image, batch_size=1)
    for name in ("counterfactuals", "anomaly_maps", "masks"):
        assert_close(together[name], alone[name], rtol=0, atol=1e-5)


def test_a_saved_pipeline_gives_identical_output_and_numpy_goes_in_and_out(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    loaded = quiet(ReconstructionPipeline.from_pretrained(tmp_path))
    image = fresh_image()
    before, after = pipeline(image), loaded(image.numpy(), output_type="np")
    for name in ("counterfactuals", "anomaly_maps", "masks"):
        assert isinstance(after[name], np.ndarray) and np.array_equal(before[name].numpy(), after[name])
    assert type(loaded.reconstructor) is type(pipeline.reconstructor)
    assert loaded.config.percentile == pipeline.config.percentile


def test_the_denoising_autoencoder_is_scored_as_published_or_as_told():
    torch.manual_seed(0)
    model, image = DenoisingAutoencoder(2, (4, 8)), fresh_image()
    raw = model.eval()(image).detach()
    output = quiet(ReconstructionPipeline(model))(image)
    assert_close(output.anomaly_maps, residual_map(image, raw, 5, 5))  # the raw reconstruction, not clamped
    assert_close(output.counterfactuals, raw.clamp(0, 1))
    assert output.masks.min() == 1
    told = quiet(ReconstructionPipeline(model, erosion_size=3, median_size=1))(image)
    assert_close(told.anomaly_maps, residual_map(image, raw, 3, 1))
    told = quiet(ReconstructionPipeline(model, erosion_size=3))(image, erosion_size=1, median_size=3)
    assert_close(told.anomaly_maps, residual_map(image, raw, 1, 3))


def test_f_anogan_is_compared_at_the_size_of_its_networks():
    torch.manual_seed(0)
    model, image = FAnoGAN(2, 16, 2, 3).eval(), fresh_image((32, 24))
    output = quiet(ReconstructionPipeline(model))(image)
    small = resize(image, (16, 16))
    made = (model.generator(model.encoder(2 * small - 1)) + 1).detach() / 2
    difference = (small - made).abs().mean(1, keepdim=True)
    assert_close(output.anomaly_maps, resize(difference, (32, 24)))
    assert_close(output.counterfactuals, model(image).detach())


@pytest.mark.parametrize("pipeline", ["saliency"], indirect=True)
def test_without_a_reconstructor_the_map_is_the_saliency(pipeline):
    image = fresh_image()
    output = pipeline(image)
    networks = pipeline.classifier, pipeline.autoencoder
    expected = class_agnostic_saliency(*networks, image, **OPTIONS)
    assert_close(output.saliency, expected, rtol=0, atol=1e-4)  # convolved with the channels last
    assert torch.equal(output.anomaly_maps, output.saliency)
    healthy = latent_counterfactual(*networks, image, torch.zeros(3).long(), **SEARCH)
    assert_close(output.counterfactuals, healthy.counterfactual)
    assert output.masks.mean((1, 2, 3)).tolist() == pytest.approx([0.25] * 3, abs=0.02)


@pytest.mark.parametrize("over", ["image", "foreground"])
@pytest.mark.parametrize("pipeline", ["saliency"], indirect=True)
def test_the_thesiss_acat_is_the_mask_that_dif_fuse_repaints_and_the_blurred_map_what_it_is_cut_from(pipeline, over):
    networks = {"classifier": pipeline.classifier, "autoencoder": pipeline.autoencoder, "saliency_options": OPTIONS}
    image = fresh_image()
    image[..., :5] = 0
    difffuse = quiet(DifFusePipeline(tiny_unet(2), DifFuseScheduler(), percentile_over=over, **networks))
    repainted = difffuse(image, noise_level=1, percentile=80).masks
    made = {
        kind: quiet(ReconstructionPipeline(percentile_over=over, saliency_as=kind, **networks))(image, percentile=80)
        for kind in ("mask", "blurred")
    }
    assert 0 < repainted.mean() < 0.3
    assert torch.equal(made["mask"].anomaly_maps, repainted) and torch.equal(made["blurred"].masks, repainted)
    for blurred, mask in zip(made["blurred"].anomaly_maps, repainted > 0):
        assert blurred[mask].min() > blurred[~mask].max()


def test_a_residual_may_be_of_some_channels_only():
    image, made = fresh_image(), fresh_image().flip(0)
    assert_close(residual_map(image, made, 1, 1, [1]), (image - made).abs()[:, 1:])
    torch.manual_seed(0)
    model = DenoisingAutoencoder(2, (4, 8)).eval()
    output = quiet(ReconstructionPipeline(model, anomaly_channels=[0]))(image)
    assert_close(output.anomaly_maps, residual_map(image, model(image).detach(), channels=[0]))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda x: x[:, :1], r"has 1 channels but the \w+ takes 2"),
        (lambda x: x[0], r"must have the shape \(B, C, H, W\), got \(2, 16, 16\)"),
        (lambda x: 2 * x - 1, r"must lie in \[0, 1\], got -"),
        (lambda x: x.masked_fill(x > 0.9, float("nan")), r"NaN or infinite"),
    ],
)
def test_images_that_do_not_fit_are_refused_in_one_sentence(pipeline, spoil, sentence):
    with pytest.raises(InputError, match=sentence):
        pipeline(spoil(fresh_image()))


def test_a_reconstructor_in_training_mode_reconstructs_in_eval_mode_and_goes_on_training():
    torch.manual_seed(0)
    model, image = FAnoGAN(2, 16, 2, 3), fresh_image()
    model.encoder.eval()
    output = quiet(ReconstructionPipeline(model))(image)
    assert model.training and model.generator.training and not model.encoder.training
    assert torch.equal(output.counterfactuals, quiet(ReconstructionPipeline(model.eval()))(image).counterfactuals)


def test_a_pipeline_of_nothing_is_refused():
    with pytest.raises(ValueError, match="needs a `reconstructor`, or a `classifier` and an `autoencoder`"):
        ReconstructionPipeline(classifier=None)
