"""The custom pipeline of the top-level folder is the package's Dif-fuse, and needs nothing of the package."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, DiffusionPipeline
from tiny_models import tiny_unet
from torch.testing import assert_close

from difffuse_hf import DifFusePipeline, DifFuseScheduler

FILE = Path(__file__).parents[1] / "pipelines" / "difffuse.py"


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A stock unconditional pipeline, as anyone may have on the Hub."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("repository")
    DDPMPipeline(tiny_unet(2), DDPMScheduler(clip_sample=False)).save_pretrained(folder)
    return folder


def load(folder, **options):
    return DiffusionPipeline.from_pretrained(folder, custom_pipeline=str(FILE), trust_remote_code=True, **options)


def inputs(batch=3):
    draw = torch.Generator().manual_seed(1)
    image = torch.rand(batch, 2, 16, 16, generator=draw)
    return image, (torch.rand(batch, 1, 16, 16, generator=draw) > 0.5).float()


@pytest.mark.parametrize("options", [{"num_inference_steps": 5}, {"num_inference_steps": 4, "num_samples": 3}])
def test_it_computes_what_the_package_does(repository, options):
    custom = load(repository)
    ours = DifFusePipeline(custom.unet, DifFuseScheduler(), noise_level=200, morphology_size=3)
    image, mask = inputs()
    seeds = [[torch.Generator().manual_seed(i) for i in range(3)] for _ in range(2)]
    expected = ours(image, mask=mask, generator=seeds[0], **options)
    out = custom(image, mask, noise_level=200, morphology_size=3, generator=seeds[1], **options)
    assert_close(out.counterfactuals, expected.counterfactuals, atol=1e-5, rtol=0)
    assert_close(out.anomaly_maps, expected.anomaly_maps, atol=1e-5, rtol=0)
    kept = mask.expand_as(image) == 0
    assert torch.equal(out.counterfactuals[kept], image[kept])


def test_any_stock_scheduler_with_the_same_schedule_gives_the_same(repository):
    image, mask = inputs(1)
    made = [
        load(repository, **options)(image, mask, noise_level=50, num_inference_steps=3,
                                    generator=torch.Generator().manual_seed(0)).counterfactuals
        for options in ({}, {"scheduler": DDIMScheduler(clip_sample=False)})
    ]  # fmt: skip
    assert torch.equal(*made)


def test_the_package_is_not_needed(repository):
    program = f"""
import sys
sys.modules["difffuse_hf"] = None  # importing it would fail
from diffusers import DiffusionPipeline
import torch
pipe = DiffusionPipeline.from_pretrained({str(repository)!r}, custom_pipeline={str(FILE)!r}, trust_remote_code=True)
print(pipe(torch.rand(1, 2, 16, 16), torch.ones(1, 1, 16, 16), 10, 2).counterfactuals.shape)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and "torch.Size([1, 2, 16, 16])" in done.stdout, done.stderr


def test_input_that_does_not_fit_is_named(repository):
    pipe, (image, mask) = load(repository), inputs(1)
    for wrong, sentence in (
        ((image[:, :1], mask), r"must be \(B, 2, H, W\)"),
        ((2 * image, mask), r"must lie in \[0, 1\]"),
        ((image, mask[..., 1:]), "`mask` must have the shape"),
        ((image, mask, 2000), "do not fit the schedule"),
    ):
        with pytest.raises(ValueError, match=sentence):
            pipe(*wrong)
