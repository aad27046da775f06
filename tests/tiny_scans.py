"""A tiny complete model and tiny scans in the BraTS layout, for the tests of the command line and of the report."""

from pathlib import Path

import nibabel
import numpy as np
import torch

from difffuse_hf import (
    DifFusePipeline,
    DifFuseProcessor,
    DifFuseScheduler,
    ResNetAutoencoder,
    SliceClassifier,
    SliceClassifierConfig,
    make_healthy_unet,
)

MODALITIES = ("flair", "t1", "t1ce", "t2")
AFFINE = np.array([[-1.0, 0, 0, 0], [0, -1.0, 0, 31.0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]])  # as in BraTS
SHAPE = (32, 32, 10)


def tiny_pipeline(modalities=MODALITIES, threshold=0.05) -> DifFusePipeline:
    """Untrained networks with all the parts that detection needs; slices of 32 x 32."""
    torch.manual_seed(0)
    channels = len(modalities)
    backbone = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}
    return DifFusePipeline(
        unet=make_healthy_unet(
            channels,
            sample_size=32,
            block_out_channels=(8, 8),
            attention_levels=1,
            norm_num_groups=4,
            layers_per_block=1,
        ),
        scheduler=DifFuseScheduler(),
        classifier=SliceClassifier(
            SliceClassifierConfig(backbone="resnet18", backbone_kwargs=backbone, num_channels=channels, num_labels=2)
        ).eval(),
        autoencoder=ResNetAutoencoder(in_channels=channels, channels=(8, 8, 8)),
        processor=DifFuseProcessor(
            modalities=modalities,
            image_size=(32, 32),
            slice_margin=0,
            anomaly_threshold=threshold,
            lesion_probability_threshold=0.0,
        ),
        noise_level=200,
        percentile=50.0,
        percentile_over="foreground",
        morphology_size=1,  # untrained networks repaint specks
        saliency_options={"num_steps": 2},
    )


def tiny_volumes(seed=0) -> dict[str, np.ndarray]:
    """An ellipsoid of tissue in zeros with a bright ball on the patient's right, one int16 volume a modality."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    brain = ((x - 15.5) / 11) ** 2 + ((y - 15.5) / 13) ** 2 + ((z - 4.5) / 6) ** 2 < 1
    volumes = {name: (brain * (300 + 40 * rng.random(SHAPE))).astype(np.int16) for name in MODALITIES}
    volumes["flair"][lesion()] = 650
    return volumes


def lesion() -> np.ndarray:
    x, y, z = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    return (x - 21) ** 2 + (y - 15) ** 2 + (2 * (z - 5)) ** 2 < 20


def write_case(folder: Path, volumes=None, reference=True, descrip=b"") -> Path:
    """Write a case folder in the BraTS layout; returns it."""
    folder.mkdir(parents=True)
    volumes = tiny_volumes() if volumes is None else volumes
    labels = {"seg": lesion().astype(np.uint8)} if reference else {}
    for suffix, data in {**volumes, **labels}.items():
        image = nibabel.Nifti1Image(data, AFFINE)
        image.header["descrip"] = descrip
        nibabel.save(image, folder / f"{folder.name}_{suffix}.nii.gz")
    return folder


def everything_in(folder: Path) -> list[str]:
    """All files and folders below a folder, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
