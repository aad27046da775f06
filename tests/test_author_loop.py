"""The loop of the thesis's public code, written out for the benchmarks, and the preset that stands for it."""

import importlib.util
from pathlib import Path

import torch

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "author_loop.py"


def load_author_loop():
    spec = importlib.util.spec_from_file_location("author_loop", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.author_loop


def test_the_preset_reference_code_is_the_authors_loop_call_by_call(pipeline, image, mask):
    image, mask, level = image[:1], mask[:1], 100  # the thesis's 500 take 1497 calls
    calls, generator = [], torch.Generator().manual_seed(0)

    def predict(sample, timestep):
        calls.append(timestep)
        return pipeline.unet(sample, timestep).sample

    def draw(sample):
        return torch.randn(sample.shape, generator=generator)

    expected, reconstruction = load_author_loop()(predict, image, mask, pipeline.scheduler.alphas_cumprod, level, draw)
    assert len(calls) == 3 * level - 3 and min(calls) == 0 and max(calls) == level - 1
    generator.manual_seed(0)
    output = pipeline(image, mask=mask, preset="reference_code", noise_level=level, generator=generator)
    torch.testing.assert_close(output.counterfactuals, expected, rtol=0, atol=1e-4)
    outside = (mask == 0).expand_as(image)
    torch.testing.assert_close(output.counterfactuals[outside], reconstruction[outside], rtol=0, atol=1e-4)
    assert (expected - reconstruction)[~outside].abs().max() > 0.01


def test_the_presets_variance_is_the_authors_and_its_map_is_against_the_reconstruction(pipeline, image, mask):
    # At low levels β_t is twice the posterior variance and more.
    image, mask, generator = image[:1], mask[:1], torch.Generator()

    def predict(sample, timestep):
        return pipeline.unet(sample, timestep).sample

    def draw(sample):
        return torch.randn(sample.shape, generator=generator)

    generator.manual_seed(0)
    expected, reconstruction = load_author_loop()(predict, image, mask, pipeline.scheduler.alphas_cumprod, 8, draw)
    generator.manual_seed(0)
    output = pipeline(image, mask=mask, preset="reference_code", noise_level=8, generator=generator)
    torch.testing.assert_close(output.counterfactuals, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(output.anomaly_maps, pipeline.map_of(reconstruction, expected), rtol=0, atol=1e-5)
    assert not torch.allclose(output.anomaly_maps, pipeline.map_of(image, expected), atol=1e-4)
