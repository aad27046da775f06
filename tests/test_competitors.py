"""Facts about all competing pipelines, then about the ablations and AnoDDPM, on tiny real networks."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny_models import LinearNoisyClassifier, constant_unet, tiny_unet

from difffuse_hf import (
    AnoDDPMPipeline,
    AnoFPDMPipeline,
    AutoDDPMPipeline,
    ClassifierFreeGuidancePipeline,
    ClassifierGuidancePipeline,
    DifFuseProcessor,
    DifFuseScheduler,
    RePaintPipeline,
    SliceClassifier,
    SliceClassifierConfig,
    THORPipeline,
    UnmaskedPipeline,
)
from difffuse_hf.errors import InputError
from difffuse_hf.schedulers.simplex import simplex_noise


def unmasked(channels, **unet):
    return UnmaskedPipeline(tiny_unet(channels, **unet), DifFuseScheduler(), noise_level=5, forward="noise")


def anoddpm(channels, **unet):
    return AnoDDPMPipeline(tiny_unet(channels, **unet), DifFuseScheduler(), noise_level=5)


def autoddpm(channels, **unet):
    options = {"noise_level": 5, "inpaint_level": 2, "num_resamples": 2, "mask_threshold": 1e-4}
    return AutoDDPMPipeline(tiny_unet(channels, **unet), DifFuseScheduler(), **options)


def classifier_guidance(channels, **unet):
    torch.manual_seed(2)
    classifier = LinearNoisyClassifier(channels, size=8)
    return ClassifierGuidancePipeline(tiny_unet(channels, **unet), DifFuseScheduler(), classifier, noise_level=5)


def classifier_free_guidance(channels, **unet):
    unet = tiny_unet(channels, num_class_embeds=3, **unet)
    return ClassifierFreeGuidancePipeline(unet, DifFuseScheduler(), noise_level=5)


def repaint(channels, **unet):
    options = {"noise_level": 5, "num_inference_steps": 4, "jump_length": 2, "num_resamples": 2, "morphology_size": 1}
    return RePaintPipeline(tiny_unet(channels, **unet), DifFuseScheduler(), **options)


def anofpdm(channels, **unet):
    return AnoFPDMPipeline(tiny_unet(channels, num_class_embeds=3, **unet), DifFuseScheduler(), noise_level=5)


def thor(channels, **unet):
    options = {"noise_level": 20, "harmonization_levels": [10], "map_spacing": 10, "region_size": 3}
    return THORPipeline(tiny_unet(channels, **unet), DifFuseScheduler(), **options)


RANDOM = [unmasked, anoddpm, autoddpm, repaint, thor]
WITH_A_WAY_DOWN = [*RANDOM, classifier_guidance, classifier_free_guidance]
ALL = [*WITH_A_WAY_DOWN, anofpdm]


def call(pipeline, image, **arguments):
    pipeline.set_progress_bar_config(disable=True)
    if isinstance(pipeline, RePaintPipeline):
        arguments["saliency"] = image[:, :1]
    return pipeline(image, **arguments)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(channels=2, batch=3):
    return torch.rand(batch, channels, 8, 8, generator=seeded(3))


@pytest.mark.parametrize("make", ALL)
def test_a_saved_pipeline_gives_identical_output(make, tmp_path):
    pipeline = make(2)
    pipeline.register_modules(processor=DifFuseProcessor(modalities=("flair", "t1"), image_size=(8, 8)))
    pipeline.save_pretrained(tmp_path)
    own = {"classifier": pipeline.classifier} if make is classifier_guidance else {}  # a class of the caller's
    loaded = type(pipeline).from_pretrained(tmp_path, **own)
    before, after = (call(one, images(), generator=seeded()) for one in (pipeline, loaded))
    for name in ("counterfactuals", "anomaly_maps", "masks"):
        assert torch.equal(before[name], after[name])
    settings = [name for name in pipeline.config if not name.startswith("_") and name not in pipeline.components]
    assert "noise_level" in settings
    assert all(loaded.config[name] == pipeline.config[name] for name in settings)
    assert loaded.processor.modalities == ("flair", "t1")


@pytest.mark.parametrize("make", ALL)
def test_a_batch_is_its_images_one_by_one(make):
    pipeline = make(2)
    together = call(pipeline, images(), generator=[seeded(i) for i in range(3)], unet_batch_size=2)
    for i in range(3):
        alone = call(pipeline, images()[i : i + 1], generator=seeded(i))
        for name in ("counterfactuals", "anomaly_maps", "masks"):
            torch.testing.assert_close(alone[name][0], together[name][i], rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("make", ALL)
def test_other_numbers_of_channels_give_one_map(make, channels):
    image = images(channels, batch=2)
    output = call(make(channels), image, generator=seeded())
    assert output.counterfactuals.shape == image.shape
    assert output.anomaly_maps.shape == output.masks.shape == (2, 1, 8, 8)
    assert 0 <= output.counterfactuals.min() and output.counterfactuals.max() <= 1
    assert output.anomaly_maps.min() >= 0 and output.anomaly_maps.max() > 0
    assert set(output.masks.unique().tolist()) <= {0, 1} and output.masks.sum() > 0


@pytest.mark.parametrize("make", RANDOM)
def test_the_seed_decides(make):
    pipeline = make(2)
    first, second, other = (call(pipeline, images(), generator=seeded(i)).counterfactuals for i in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)


@pytest.mark.parametrize("make", RANDOM)
def test_with_shared_noise_equal_slices_have_equal_counterfactuals(make):
    pipeline, twice = make(2), images(batch=1).repeat(2, 1, 1, 1)
    for generator in (seeded(), [seeded(0), seeded(1)]):
        one, other = call(pipeline, twice, generator=generator, shared_noise=True).counterfactuals
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    one, other = call(pipeline, twice, generator=seeded()).counterfactuals
    assert not torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("make", ALL)
def test_of_a_unet_with_learned_variance_the_first_channels_are_the_noise(make):
    both, noise = make(2, out_channels=4), make(2)
    weights = both.unet.state_dict()
    for name in ("conv_out.weight", "conv_out.bias"):
        weights[name] = weights[name][:2]
    noise.unet.load_state_dict(weights)
    expected = call(noise, images(), generator=seeded()).counterfactuals
    torch.testing.assert_close(call(both, images(), generator=seeded()).counterfactuals, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("make", RANDOM)
def test_a_learned_variance_is_used_when_the_scheduler_asks_for_it(make):
    pipeline = make(2, out_channels=4)
    fixed = call(pipeline, images(), generator=seeded()).counterfactuals
    pipeline.scheduler = DifFuseScheduler(variance_type="learned_range")
    assert not torch.equal(call(pipeline, images(), generator=seeded()).counterfactuals, fixed)


@pytest.mark.parametrize("make", ALL)
def test_numpy_goes_in_and_out(make):
    pipeline = make(2)
    expected = call(pipeline, images(), generator=seeded())
    actual = call(pipeline, images().numpy(), generator=seeded(), output_type="np")
    for name in ("counterfactuals", "anomaly_maps", "masks"):
        assert isinstance(actual[name], np.ndarray) and np.array_equal(actual[name], expected[name].numpy())


@pytest.mark.parametrize("make", ALL)
def test_what_does_not_fit_is_refused_in_one_sentence(make):
    pipeline, image = make(2), images()
    for wrong, options, sentence in (
        (image[:, :1], {}, r"`image` has 1 channels but the U-Net takes 2\.$"),
        (2 * image - 1, {}, r"`image` must lie in \[0, 1\], got -"),
        (image.masked_fill(image > 0.9, float("nan")), {}, "NaN or infinite"),
        (image, {"generator": [seeded(), seeded()]}, "holds 2 generators for 3 images"),
        (image, {"output_type": "banana"}, "`output_type` must be one of pt, np, got 'banana'"),
    ):
        with pytest.raises(InputError, match=sentence):
            call(pipeline, wrong, **options)


@pytest.mark.parametrize("make", WITH_A_WAY_DOWN)
def test_a_callback_sees_the_steps_down_to_the_image_and_may_change_the_sample(make):
    seen = []

    def blank(pipe, step, timestep, tensors):
        seen.append((step, timestep))
        return {"sample": torch.zeros_like(tensors["sample"])}

    pipeline = make(2)
    levels = pipeline.scheduler.levels
    output = call(pipeline, images(), generator=seeded(), callback_on_step_end=blank)
    assert [step for step, _ in seen] == list(range(len(seen))) and seen[-1][1] == 0
    changed = output.masks.expand_as(output.counterfactuals) == 1
    assert (output.counterfactuals[changed] == 0.5).all()
    assert pipeline.scheduler.levels == levels  # the scheduler's own grid
    entries = call(pipeline, images(), generator=seeded(), callback_on_step_end=blank, return_dict=False)
    assert torch.equal(entries[0], output.counterfactuals) and len(entries) == 8


@pytest.mark.slow
def test_a_pipeline_finds_the_classes_of_its_components_in_a_new_process(tmp_path):
    pipeline = classifier_guidance(2)
    pipeline.register_modules(
        classifier=SliceClassifier(SliceClassifierConfig(backbone="resnet10t", num_channels=2, num_labels=2))
    )
    pipeline.save_pretrained(tmp_path)
    client = (
        "import sys; from difffuse_hf import ClassifierGuidancePipeline as P; "
        "print(type(P.from_pretrained(sys.argv[1]).classifier).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", client, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.split() == ["SliceClassifier"], done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("make", ALL)
def test_the_gpu_gives_what_the_cpu_gives(make):
    pipeline = make(2)
    expected = call(pipeline, images(), generator=seeded()).counterfactuals
    actual = call(pipeline.to("cuda"), images(), generator=seeded()).counterfactuals.cpu()
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-2)


# The ablations


@pytest.mark.parametrize("steps", [None, 4])
def test_ddim_ddpm_is_dif_fuse_with_a_mask_of_ones(pipeline, image, steps):
    ablation = UnmaskedPipeline(pipeline.unet, pipeline.scheduler, noise_level=12)
    for generator in ([5, 6], [7, 8]):
        options = {"num_inference_steps": steps}
        ones = torch.ones(2, 1, 16, 16)
        expected = pipeline(image, mask=ones, generator=[seeded(i) for i in generator], **options)
        actual = call(ablation, image, generator=[seeded(i) for i in generator], **options)
        for name in ("counterfactuals", "anomaly_maps", "masks"):
            torch.testing.assert_close(actual[name], expected[name], rtol=0, atol=1e-6)


def test_ddim_after_inversion_gives_the_image_back_when_the_noise_does_not_depend_on_it(image):
    ablation = UnmaskedPipeline(constant_unet(noise=0.3), DifFuseScheduler(), forward="inversion", reverse="ddim")
    output = call(ablation, image, num_inference_steps=7)
    torch.testing.assert_close(output.counterfactuals, image, rtol=0, atol=1e-5)


def test_ddpm_ddim_depends_on_the_noise_of_the_way_up_only():
    # With ε = 0 DDIM divides by √ᾱ_K: what comes back is the image and the noise of the way up.
    image = 0.4 + 0.2 * images()
    scheduler = DifFuseScheduler()
    ablation = UnmaskedPipeline(constant_unet(), scheduler, noise_level=20, forward="noise", reverse="ddim")
    noise = torch.randn(3, 2, 8, 8, generator=seeded())
    signal = scheduler.alpha_bar(20)
    expected = image + ((1 - signal) / signal) ** 0.5 * noise / 2
    actual = call(ablation, image, num_inference_steps=3, generator=seeded()).counterfactuals
    torch.testing.assert_close(actual, expected.clamp(0, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("argument", ["forward", "reverse"])
def test_unknown_ways_up_and_back_are_refused(image, argument):
    with pytest.raises(InputError, match=f"`{argument}` must be one of .*, .*, got 'sideways'"):
        call(unmasked(2), image, **{argument: "sideways"})


# AnoDDPM


def test_anoddpm_noises_with_simplex_noise_at_the_timestep_of_its_level():
    image = 0.4 + 0.2 * images()
    scheduler = DifFuseScheduler()
    pipeline = AnoDDPMPipeline(constant_unet(), scheduler, noise_level=20, wavelength=8.0)
    output = call(pipeline, image, num_inference_steps=1, generator=[seeded(i) for i in range(3)])
    noise = simplex_noise(image.shape, 19, [seeded(i) for i in range(3)], wavelength=8.0)
    signal = scheduler.alpha_bar(20)
    expected = image + ((1 - signal) / signal) ** 0.5 * noise / 2
    torch.testing.assert_close(output.counterfactuals, expected, rtol=0, atol=1e-5)


def test_anoddpms_public_code_clamps_the_sample_where_it_predicts_the_image():
    sample, noise, level = 3 * torch.randn(2, 2, 8, 8, generator=seeded()).double(), torch.full((), 0.3), 400
    pipeline = anoddpm(2)
    noise_pred, _ = pipeline.clamped(lambda sample, level: (noise.expand_as(sample), None))(sample, level)
    signal = pipeline.scheduler.alpha_bar(level)
    expected = (sample.clamp(-1, 1) - (1 - signal) ** 0.5 * 0.3) / signal**0.5
    torch.testing.assert_close((sample - (1 - signal) ** 0.5 * noise_pred) / signal**0.5, expected)
    plain, clamped = (
        call(AnoDDPMPipeline(constant_unet(), DifFuseScheduler(), noise_level=300, wavelength=8.0, clamp_sample=clamp),
             images(), num_inference_steps=3, generator=seeded()).counterfactuals for clamp in (False, True)
    )  # fmt: skip
    assert not torch.allclose(plain, clamped, atol=1e-3)


def test_anoddpms_map_is_the_squared_difference_of_images_between_minus_1_and_1():
    image = images()
    output = call(anoddpm(2), image, generator=seeded())
    expected = (4 * (image - output.counterfactuals) ** 2).mean(1, keepdim=True)
    torch.testing.assert_close(output.anomaly_maps, expected, rtol=0, atol=1e-5)
