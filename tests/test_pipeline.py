"""Facts about the whole method on tiny real networks."""

import json
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

import difffuse_hf
from difffuse_hf import DifFusePipeline, DifFuseScheduler, gradient
from difffuse_hf.errors import InputError
from difffuse_hf.io.hub import model_folder
from difffuse_hf.pipelines.auto import PIPELINES, load_pipeline
from difffuse_hf.pipelines.presets import PRESETS, Preset
from difffuse_hf.pipelines.sampling import images_a_call


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def calls(unet):
    """(batch size, timestep) of every call of the U-Net."""
    recorded = []
    unet.register_forward_hook(lambda module, inputs, output: recorded.append((len(inputs[0]), int(inputs[1]))))
    return recorded


def test_outside_the_mask_the_image_is_unchanged_exactly(pipeline, image, mask):
    output = pipeline(image, mask=mask, generator=seeded())
    outside = (mask == 0).expand_as(image)
    assert torch.equal(output.counterfactuals[outside], image[outside])
    assert not torch.equal(output.counterfactuals, image)


def test_an_empty_mask_gives_the_image_back(pipeline, image, mask):
    output = pipeline(image, mask=torch.zeros_like(mask))
    assert torch.equal(output.counterfactuals, image) and output.anomaly_maps.sum() == 0


def test_an_empty_mask_reconstructs_in_algorithm_2_and_better_with_more_steps(pipeline, image, mask):
    def error(steps):
        output = pipeline(
            image, mask=torch.zeros_like(mask), preset="thesis", num_inference_steps=steps, noise_level=200
        )
        return (output.counterfactuals - image).abs().mean().item()

    errors = [error(steps) for steps in (10, 20, 40)]
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(2, rel=0.3)


@pytest.mark.parametrize("steps", [None, 5])
@pytest.mark.parametrize("preset", ["exact", "thesis"])
def test_a_full_mask_is_ancestral_sampling_from_the_inverted_image(pipeline, unet, scheduler, image, steps, preset):
    output = pipeline(
        image, mask=torch.ones(2, 1, 16, 16), generator=seeded(), preset=preset, num_inference_steps=steps
    )
    stock = DDPMScheduler(clip_sample=False)
    levels = scheduler.levels_from(12, steps)
    sample = 2 * image - 1
    with torch.no_grad():
        for level, target in pairwise(levels[::-1]):
            sample = scheduler.invert_step(unet(sample, max(level - 1, 0)).sample, level, target, sample)
        stock.set_timesteps(timesteps=[level - 1 for level in levels[:-1]])
        generator = seeded()
        for timestep in stock.timesteps:
            sample = stock.step(unet(sample, timestep).sample, timestep, sample, generator=generator).prev_sample
    torch.testing.assert_close(output.counterfactuals, (sample / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("preset", ["exact", "thesis"])
def test_the_network_is_called_once_per_reverse_step(pipeline, calls, image, mask, preset):
    pipeline(image, mask=mask, preset=preset, num_inference_steps=4, noise_level=12)
    inversion, reverse = [0, 2, 5, 8], [11, 8, 5, 2]
    assert calls == [(2, timestep) for timestep in inversion + reverse]


def test_the_reference_code_calls_twice_per_step_on_levels_that_are_off_by_one(pipeline, calls, image, mask):
    pipeline(image, mask=mask, preset="reference_code", noise_level=6)
    inversion, reverse = [1, 2, 3, 4, 5], [4, 3, 2, 1, 0]
    assert [timestep for _, timestep in calls] == inversion + [t for t in reverse for _ in range(2)]


def test_the_reference_codes_reconstruction_does_not_see_the_repainted_tissue(pipeline, image, mask):
    call = {"preset": "reference_code", "generator": seeded()}
    fused = pipeline(image, mask=mask, **call).counterfactuals
    reconstruction = pipeline(image, mask=torch.zeros_like(mask), **call).counterfactuals
    outside = (mask == 0).expand_as(image)
    torch.testing.assert_close(fused[outside], reconstruction[outside], rtol=0, atol=1e-6)


def test_samples_share_one_inversion_and_the_picture_has_its_own_chain(pipeline, calls, image, mask):
    preset = Preset(num_inference_steps=10, num_samples=4, display_steps=20)
    output = pipeline(image[:1], mask=mask[:1], preset=preset, noise_level=30)
    assert [batch for batch, _ in calls] == [1] * 20 + [4] * 10 + [1] * 20
    assert output.uncertainty.shape == (1, 1, 16, 16)
    inside = mask[:1] == 1
    assert (output.uncertainty[inside] > 0).all() and (output.uncertainty[~inside] == 0).all()


def test_with_several_samples_the_map_is_taken_against_their_mean(pipeline, image, mask):
    call = {"mask": mask[:1], "noise_level": 100, "num_inference_steps": 5}
    pipeline.register_to_config(morphology_size=1)
    one_by_one = []
    generator = seeded()  # the samples draw from it in turn, step by step
    draws = [[torch.randn(1, 2, 16, 16, generator=generator) for _ in range(3)] for _ in range(5)]
    for index in range(3):
        replay = iter([step[index] for step in draws])
        one_by_one.append(replayed(pipeline, image[:1], replay, **call))
    several = pipeline(image[:1], num_samples=3, generator=seeded(), **call)
    samples = torch.stack(one_by_one)
    expected = (image[:1] - samples.mean(0)).abs().mean(1, keepdim=True)
    torch.testing.assert_close(several.anomaly_maps, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(several.counterfactuals, samples[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(several.uncertainty, samples.std(0).mean(1, keepdim=True), rtol=0, atol=1e-5)


def replayed(pipeline, image, draws, mask, noise_level, num_inference_steps):
    """Dif-fuse written out, with the noise given."""
    scheduler = DifFuseScheduler()
    scheduler.set_timesteps(num_inference_steps, noise_level)
    trajectory = {0: 2 * image - 1}
    with torch.no_grad():
        for level, target in pairwise(scheduler.levels[::-1]):
            noise_pred = pipeline.unet(trajectory[level], max(level - 1, 0)).sample
            trajectory[target] = scheduler.invert_step(noise_pred, level, target, trajectory[level])
        sample = trajectory[noise_level]
        for level, target in pairwise(scheduler.levels):
            noise_pred = pipeline.unet(sample, level - 1).sample
            sample = scheduler.reverse_step(noise_pred, level, target, sample, eta=1.0, noise=next(draws))
            sample = mask * sample + (1 - mask) * trajectory[target]
    return (sample / 2 + 0.5).clamp(0, 1)


def test_late_blending_is_ddim_ddpm_with_the_image_put_back_at_the_end(pipeline, image, mask):
    ones = torch.ones_like(mask)
    everywhere = pipeline(image, mask=ones, generator=seeded()).counterfactuals
    late = pipeline(image, mask=mask, generator=seeded(), background="late").counterfactuals
    torch.testing.assert_close(late, mask * everywhere + (1 - mask) * image, rtol=0, atol=1e-6)
    assert (late - pipeline(image, mask=mask, generator=seeded()).counterfactuals).abs().max() > 1e-4


@pytest.mark.parametrize("preset", PRESETS)
def test_with_shared_noise_equal_slices_have_equal_counterfactuals(pipeline, image, mask, preset):
    image, mask = image[:1].repeat(3, 1, 1, 1), mask[:1].repeat(3, 1, 1, 1)
    call = {"mask": mask, "preset": preset, "noise_level": 8, "num_inference_steps": 3, "display_steps": 4}
    for generator in (seeded(), [seeded(i) for i in range(3)]):
        shared = pipeline(image, generator=generator, shared_noise=True, **call)
        for name in ("counterfactuals", "anomaly_maps"):
            torch.testing.assert_close(shared[name], shared[name][:1].expand_as(shared[name]), rtol=0, atol=1e-6)
    own = pipeline(image, generator=seeded(), **call).counterfactuals
    assert not torch.allclose(own[0], own[1], atol=1e-4)


def test_agreement_is_the_share_of_samples_that_reach_the_threshold_each_by_itself(whole_pipeline, image):
    whole_pipeline.register_to_config(morphology_size=1)
    mask = torch.ones_like(image[:, :1])

    def call(**options):
        return whole_pipeline(image, mask=mask, generator=seeded(), num_inference_steps=3, **options)

    assert call(num_samples=4).agreement is None  # no threshold was calibrated
    several = call(num_samples=4)
    middle = float(several.anomaly_maps.median())
    whole_pipeline.processor.anomaly_threshold = middle
    agreement = call(num_samples=4).agreement
    assert agreement.shape == mask.shape and set((4 * agreement).unique().tolist()) <= {0, 1, 2, 3, 4}
    assert len(agreement.unique()) > 2
    assert call().agreement is None
    whole_pipeline.processor.anomaly_threshold = 2.0  # nothing changes by so much
    assert call(num_samples=4).agreement.max() == 0


def test_with_shared_noise_the_samples_of_an_image_still_differ(pipeline, image, mask):
    uncertainty = pipeline(image, mask=mask, num_samples=3, generator=seeded(), shared_noise=True).uncertainty
    assert (uncertainty[mask == 1] > 0).all()


@pytest.mark.parametrize("preset", PRESETS)
def test_the_same_seed_gives_the_same_result(pipeline, image, mask, preset):
    call = {"mask": mask, "preset": preset, "noise_level": 8, "num_inference_steps": 3, "display_steps": 4}
    first, second, other = (pipeline(image, generator=seeded(seed), **call).counterfactuals for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_batch_is_its_images_one_by_one(pipeline, preset):
    images = torch.rand(3, 2, 16, 16, generator=seeded())
    saliency = torch.rand(3, 1, 16, 16, generator=seeded())
    call = {"preset": preset, "noise_level": 8, "num_inference_steps": 3, "display_steps": 4, "percentile": 70}
    together = pipeline(images, saliency=saliency, generator=[seeded(i) for i in range(3)], **call)
    for i in range(3):
        alone = pipeline(images[i : i + 1], saliency=saliency[i : i + 1], generator=seeded(i), **call)
        for name in ("counterfactuals", "anomaly_maps", "masks"):
            torch.testing.assert_close(alone[name][0], together[name][i], rtol=0, atol=1e-5)


def test_small_network_calls_and_a_trajectory_on_the_host_change_next_to_nothing(pipeline, calls, image, mask):
    call = {"mask": mask, "num_samples": 3, "noise_level": 100, "num_inference_steps": 5}
    expected = pipeline(image, generator=seeded(), **call).counterfactuals
    del calls[:]
    actual = pipeline(image, generator=seeded(), unet_batch_size=4, offload_trajectory=True, **call).counterfactuals
    torch.testing.assert_close(actual, expected, rtol=0, atol=5e-3)
    assert [batch for batch, _ in calls] == [2] * 5 + [4, 2] * 5


def test_a_callback_sees_every_reverse_step_and_may_change_the_sample(pipeline, image, mask):
    seen = []

    def blank(pipe, step, timestep, tensors):
        seen.append((step, timestep))
        return {"sample": torch.zeros_like(tensors["sample"])}

    output = pipeline(image, mask=mask, num_inference_steps=3, callback_on_step_end=blank)
    assert seen == [(0, 11), (1, 7), (2, 3)]
    inside = (mask == 1).expand_as(image)
    assert (output.counterfactuals[inside] == 0.5).all()


def test_a_bfloat16_unet_is_close_to_float32(pipeline, image, mask):
    expected = pipeline(image, mask=mask, generator=seeded()).counterfactuals
    pipeline.unet.to(torch.bfloat16)
    actual = pipeline(image, mask=mask, generator=seeded()).counterfactuals
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=0, atol=0.02)


def test_numpy_goes_in_and_out(pipeline, image, mask):
    call = {"num_inference_steps": 2}
    expected = pipeline(image, mask=mask, generator=seeded(), **call)
    actual = pipeline(image.numpy(), mask=mask.numpy(), generator=seeded(), output_type="np", **call)
    assert isinstance(actual.counterfactuals, np.ndarray) and actual.saliency is None
    assert np.array_equal(actual.counterfactuals, expected.counterfactuals.numpy())


def test_percentile_over_the_foreground_leaves_out_the_background(pipeline, image):
    image[..., :8] = 0
    saliency = torch.rand(2, 1, 16, 16, generator=seeded())
    pipeline.register_to_config(percentile_over="foreground")
    masks = pipeline(image, saliency=saliency, percentile=75).masks
    assert masks[..., :8].sum() == 0
    assert masks.sum(dim=(1, 2, 3)).tolist() == pytest.approx([32, 32], abs=1)


def test_the_pipelines_own_classifier_and_autoencoder_make_the_saliency(whole_pipeline, image):
    output = whole_pipeline(image)
    assert output.saliency.shape == (2, 1, 16, 16) and not output.saliency.requires_grad
    assert 0 <= output.saliency.min() and output.saliency.max() <= 1
    assert output.masks.mean().item() == pytest.approx(0.2, abs=0.02)  # the model's own percentile, 80


def test_a_saved_pipeline_gives_identical_output(whole_pipeline, image, tmp_path):
    whole_pipeline.save_pretrained(tmp_path)
    loaded = DifFusePipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    before, after = (pipe(image, generator=seeded()) for pipe in (whole_pipeline, loaded))
    for name in ("counterfactuals", "anomaly_maps", "masks", "saliency"):
        assert torch.equal(before[name], after[name])
    assert loaded.processor.modalities == ("flair", "t1")
    assert loaded.config.saliency_options == {"num_steps": 2} and loaded.config.noise_level == 6


def test_the_mask_can_come_from_any_saliency_method_by_its_name(whole_pipeline, image):
    whole_pipeline.register_to_config(saliency_options={"method": "gradient"})
    whole_pipeline.register_modules(autoencoder=None)  # not needed for it
    named = whole_pipeline(image, generator=seeded())
    with torch.enable_grad():
        saliency = gradient(whole_pipeline.classifier, image)
    given = whole_pipeline(image, saliency=saliency, generator=seeded())
    assert torch.equal(named.masks, given.masks) and torch.equal(named.counterfactuals, given.counterfactuals)
    whole_pipeline.register_to_config(saliency_options={"method": "latent_shift"})
    with pytest.raises(InputError, match="no classifier and autoencoder of its own"):
        whole_pipeline(image)
    whole_pipeline.register_to_config(saliency_options={"method": "wishful_thinking"})
    with pytest.raises(InputError, match="must be one of .*, got 'wishful_thinking'"):
        whole_pipeline(image)


def test_weights_saved_in_half_precision_load_in_single(whole_pipeline, tmp_path):
    whole_pipeline.to(torch.float16).save_pretrained(tmp_path)
    loaded = DifFusePipeline.from_pretrained(tmp_path)
    assert {loaded.unet.dtype, loaded.classifier.dtype, loaded.autoencoder.dtype} == {torch.float32}
    assert DifFusePipeline.from_pretrained(tmp_path, dtype=torch.bfloat16).unet.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            lambda x: torch.cat([x, x[:, :1]], dim=1),
            r"has 3 channels but the U-Net takes 2; stack flair, t1 on dim 1\.$",
        ),
        (lambda x: 2 * x - 1, r"must lie in \[0, 1\], got -"),
        (lambda x: 255 * x, r"must lie in \[0, 1\], got .* to 25\d"),
        (lambda x: x.masked_fill(x > 0.9, float("nan")), "NaN or infinite"),
        (lambda x: x.masked_fill(x > 0.9, float("inf")), "NaN or infinite"),
        (lambda x: x[0], r"must have the shape \(B, C, H, W\), got \(2, 16, 16\)"),
        (lambda x: x[..., :15], "is 16 x 15 pixels but the U-Net takes multiples of 2"),
    ],
)
def test_images_that_do_not_fit_the_model_are_refused_in_one_sentence(whole_pipeline, image, mask, spoil, sentence):
    with pytest.raises(InputError, match=sentence):
        whole_pipeline(spoil(image), mask=mask)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"mask": torch.zeros(2, 2, 16, 16)}, r"`mask` must have the shape \(2, 1, 16, 16\)"),
        ({"mask": torch.full((2, 1, 16, 16), 2.0)}, r"`mask` must lie in \[0, 1\]"),
        ({"saliency": torch.zeros(1, 1, 16, 16)}, r"`saliency` must have the shape"),
        ({"saliency": torch.full((2, 1, 16, 16), float("nan"))}, "`saliency` has pixels that are NaN"),
        ({}, "no classifier and autoencoder of its own: pass `saliency` or `mask`"),
        ({"preset": "quick"}, "`preset` must be one of exact, thesis, reference_code, fast, got 'quick'"),
        ({"output_type": "banana"}, "`output_type` must be one of pt, np, got 'banana'"),
        ({"callback_on_step_end_tensor_inputs": ["x"]}, "must be one of sample, noise_pred, mask, got 'x'"),
        ({"unet_batch_size": 0}, "`unet_batch_size` must be at least 1"),
        ({"generator": [seeded()]}, "holds 1 generators for 2 images"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_in_one_sentence(pipeline, image, arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        pipeline(image, **arguments)


def test_folders_that_hold_no_model_are_refused_in_one_sentence(pipeline, tmp_path):
    with pytest.raises(InputError, match="There is no model folder"):
        DifFusePipeline.from_pretrained(tmp_path / "nothing")
    with pytest.raises(InputError, match="is not a saved pipeline: it has no model_index.json"):
        DifFusePipeline.from_pretrained(tmp_path)
    pipeline.save_pretrained(tmp_path)
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InputError, match="has no weights: unet/ has no .safetensors file"):
        DifFusePipeline.from_pretrained(tmp_path)
    assert DifFusePipeline.from_pretrained(tmp_path, unet=pipeline.unet).unet is pipeline.unet
    (tmp_path / "unet" / "config.json").unlink()
    with pytest.raises(InputError, match="is incomplete: unet/ is missing"):
        DifFusePipeline.from_pretrained(tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("preset", PRESETS)
def test_the_gpu_gives_what_the_cpu_gives(pipeline, image, mask, preset):
    call = {"mask": mask, "preset": preset, "noise_level": 25}
    expected = pipeline(image, generator=seeded(), **call).counterfactuals
    actual = pipeline.to("cuda")(image, generator=seeded(), **call).counterfactuals.cpu()
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-2)


PUSHES = """
import sys
from difffuse_hf import DifFuseScheduler
from difffuse_hf.errors import InputError
from difffuse_hf.pipelines.auto import load_pipeline

pipe = load_pipeline(sys.argv[1])
for what, name in ((pipe, "pipeline"), (DifFuseScheduler(), "scheduler")):
    what.push_to_hub(f"tester/{name}")
    what.push_to_hub(f"tester/{name}-public", public=True)
    try:
        what.push_to_hub(f"tester/{name}-public")
    except InputError as error:
        assert "is public" in str(error), error
    else:
        raise AssertionError("pushed to a public repository without a word")
pipe.save_pretrained(sys.argv[2], push_to_hub=True, repo_id="tester/saved")
assert type(load_pipeline("tester/pipeline")) is type(pipe)
"""


@pytest.mark.slow
def test_pipelines_and_schedulers_go_to_private_repositories_unless_public_is_said(pipeline, hub, tmp_path):
    pipeline.save_pretrained(tmp_path / "model")
    client = [sys.executable, "-c", PUSHES, str(tmp_path / "model"), str(tmp_path / "saved")]
    done = subprocess.run(client, env=hub.environment(tmp_path / "home"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert hub.private == {"tester/pipeline", "tester/scheduler", "tester/saved"}
    assert {"tester/pipeline-public", "tester/scheduler-public"} <= set(hub.repos)


def test_a_pipeline_is_loaded_by_its_folder_or_as_the_demo_and_nothing_else_is(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    loaded = load_pipeline(tmp_path)
    assert type(loaded) is DifFusePipeline and loaded.config.noise_level == 12 and not loaded.unet.training
    assert (model_folder("demo") / "model_index.json").is_file()
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({**index, "_class_name": "DDPMPipeline"}))
    with pytest.raises(InputError, match="must be one of DifFusePipeline, .*, got 'DDPMPipeline'"):
        load_pipeline(tmp_path)


def test_every_public_pipeline_can_be_loaded():
    public = {name for name in difffuse_hf.__all__ if name.endswith("Pipeline")}
    assert {kind.__name__ for kind in PIPELINES} == public


def test_a_tuple_holds_the_eight_entries_in_order(pipeline, image, mask):
    call = {"mask": mask, "num_samples": 2, "num_inference_steps": 2}
    named = pipeline(image, generator=seeded(), **call)
    entries = pipeline(image, generator=seeded(), return_dict=False, **call)
    assert type(entries) is tuple and len(entries) == 8 and entries[3] is entries[5] is None
    for name, entry in zip(("counterfactuals", "anomaly_maps", "masks"), entries):
        assert torch.equal(named[name], entry)
    assert torch.equal(named.uncertainty, entries[4])


def test_a_call_leaves_the_pipeline_as_it_was(whole_pipeline, image):
    whole_pipeline.set_progress_bar_config(disable=True, desc="mine")
    whole_pipeline.scheduler.set_timesteps(7)
    before = dict(whole_pipeline.config), whole_pipeline.scheduler.levels, whole_pipeline._progress_bar_config
    whole_pipeline(image, preset="reference_code", num_inference_steps=2)
    after = dict(whole_pipeline.config), whole_pipeline.scheduler.levels, whole_pipeline._progress_bar_config
    assert after == before


@pytest.mark.parametrize("stock", [DDPMScheduler, DDIMScheduler])
def test_a_stock_scheduler_is_refused_with_the_way_to_make_ours_of_it(pipeline, image, mask, stock):
    pipeline.scheduler = stock()
    with pytest.raises(InputError, match="DifFuseScheduler.from_config"):
        pipeline(image, mask=mask)


@pytest.mark.parametrize("field", ["background", "mask_variant"])
def test_a_preset_with_an_unknown_word_is_refused(field):
    with pytest.raises(InputError, match=f"`{field}` must be one of .*, got 'white'"):
        Preset(**{field: "white"})


def test_unknown_arguments_and_inputs_that_are_no_tensors_are_refused(pipeline, image, mask):
    with pytest.raises(TypeError, match="There is no argument `batchsize`; .* unet_batch_size"):
        pipeline(image, mask=mask, batchsize=3)
    with pytest.raises(InputError, match="`image` must be a tensor or an array .* got list"):
        pipeline(list(image), mask=mask)
    with pytest.raises(InputError, match="`mask` must be a tensor or an array .* got list"):
        pipeline(image, mask=list(mask))
    pipeline.register_to_config(percentile_over="brain")
    with pytest.raises(InputError, match="`percentile_over` must be one of image, foreground, got 'brain'"):
        pipeline(image, mask=mask)


def test_a_network_call_that_does_not_fit_into_memory_is_made_in_halves(pipeline, calls, image, mask):
    call = {"mask": mask, "num_samples": 4, "num_inference_steps": 2}
    expected = pipeline(image, generator=seeded(), **call).counterfactuals
    del calls[:]

    def refuse(module, inputs):
        if len(inputs[0]) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with pipeline.unet.register_forward_pre_hook(refuse):
        actual = pipeline(image, generator=seeded(), **call).counterfactuals
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    assert [batch for batch, _ in calls] == [2, 2] + [2, 2, 2, 2] * 2


def test_a_cpu_takes_as_many_images_a_call_as_have_the_pixels_of_eight_of_96():
    assert images_a_call(torch.empty(64, 4, 96, 96)) == 8
    assert images_a_call(torch.empty(64, 4, 192, 192)) == 2
    assert images_a_call(torch.empty(64, 1, 1024, 1024)) == 1
    assert images_a_call(torch.empty(64, 4, 96, 96, device="meta")) == 32


def test_half_precision_is_for_the_unet_alone_so_that_the_masks_stay(whole_pipeline, image, tmp_path):
    whole_pipeline.save_pretrained(tmp_path)
    low = DifFusePipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    full = DifFusePipeline.from_pretrained(tmp_path)
    assert [low.unet.dtype, low.classifier.dtype, low.autoencoder.dtype] == [torch.bfloat16, *[torch.float32] * 2]
    again = DifFusePipeline.from_pretrained(tmp_path, torch_dtype={"default": torch.float32}).to(torch.bfloat16)
    assert again.unet.dtype == torch.bfloat16 and again.classifier.dtype == torch.float32
    for one in (low, again):
        output = one(image, generator=torch.Generator().manual_seed(0))
        assert torch.equal(output.masks, full(image, generator=torch.Generator().manual_seed(0)).masks)
    assert again.to("cpu", torch.float32).unet.dtype == again.to(dtype=torch.float32).dtype == torch.float32
