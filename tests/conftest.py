"""Tiny real components, shared by the tests; nothing here needs a network."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before any Hugging Face import
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests share the cores among themselves, and with processes they start

import pytest
import torch
from hub_stub import StubHub
from huggingface_hub import close_session
from tiny_models import tiny_unet
from tiny_scans import tiny_pipeline

from difffuse_hf import (
    DifFusePipeline,
    DifFuseProcessor,
    DifFuseScheduler,
    ResNetAutoencoder,
    SliceClassifier,
    SliceClassifierConfig,
)

torch.set_num_threads(1)


@pytest.fixture
def scheduler():
    return DifFuseScheduler()


@pytest.fixture
def unet():
    """For two channels."""
    return tiny_unet()


@pytest.fixture
def pipeline(unet, scheduler):
    """Dif-fuse without a classifier; the call brings a mask."""
    return quiet(DifFusePipeline(unet, scheduler, noise_level=12))


@pytest.fixture
def whole_pipeline(unet, scheduler):
    """Every component that a model folder can hold."""
    torch.manual_seed(1)
    classifier = SliceClassifier(SliceClassifierConfig(backbone="resnet10t", num_channels=2, num_labels=2)).eval()
    autoencoder = ResNetAutoencoder(in_channels=2, channels=(4, 4, 4)).eval()
    processor = DifFuseProcessor(modalities=("flair", "t1"), image_size=(16, 16))
    options = {"num_steps": 2}
    return quiet(
        DifFusePipeline(
            unet, scheduler, classifier, autoencoder, processor, noise_level=6, percentile=80, saliency_options=options
        )
    )


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Folder of a saved model that can detect in the scans of `tiny_scans`; only to be read."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# Tiny\n\nAn untrained model. It is tiny.\n")
    return folder


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def image():
    return torch.rand(2, 2, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def mask():
    mask = torch.zeros(2, 1, 16, 16)
    mask[..., 4:12, 5:11] = 1
    return mask


@pytest.fixture
def hub():
    with StubHub() as hub:
        yield hub


@pytest.fixture(scope="session")
def slices(tmp_path_factory):
    """Folder of a small set of slices with a training and a validation split; only to be read."""
    from tiny_trainings import write_slices

    folder = tmp_path_factory.mktemp("data") / "slices"
    write_slices(folder)
    return folder


@pytest.fixture
def connected_hub(hub, monkeypatch, tmp_path):
    """The same, and the client of this process talks to it."""
    hub.connect(monkeypatch, tmp_path / "hub cache")
    yield hub
    close_session()
