"""Whole heads and skull-stripped brains are told apart by what lies below their rim, and by their size."""

import numpy as np
import pytest
from test_processing import ellipsoid

from difffuse_hf.errors import InputError
from difffuse_hf.models.processing_difffuse import DifFuseProcessor
from difffuse_hf.preprocessing.skull import skull_in

SHAPE = (84, 96, 40)  # of 2 x 2 x 4 mm
AFFINE = np.diag([-2.0, -2.0, 4.0, 1.0])
LARGE_MM, SMALL_MM = (78, 92, 80), (66, 80, 70)  # radii of the head
LAYERS_MM = {"scalp": 0, "bone": 5, "fluid": 12, "grey": 14, "white": 20}  # depths at which they begin
CONTRASTS = {  # scalp, bone, fluid, grey and white matter
    "T1": (1.5, 0.15, 0.25, 0.7, 1.0),
    "T2": (0.8, 0.1, 2.5, 1.4, 1.0),
    "PD": (0.9, 0.15, 1.2, 1.15, 1.0),
    "FLAIR with fat suppressed": (0.35, 0.15, 0.2, 1.2, 1.0),
}


def head(contrast, stripped, radii_mm=LARGE_MM, seed=0):
    """Shells around a brain in exact zeros; stripped, without scalp and bone."""
    rng = np.random.default_rng(seed)
    volume = np.zeros(SHAPE, np.float32)
    for (name, below), value in zip(LAYERS_MM.items(), CONTRASTS[contrast]):
        radii = [(radius - below) / size for radius, size in zip(radii_mm, (2, 2, 4))]
        shown = 0 if stripped and name in ("scalp", "bone") else value
        volume[ellipsoid(SHAPE, radii=radii)] = 300 * shown
    return volume * (1 + 0.04 * rng.standard_normal(SHAPE)).clip(0.5).astype(np.float32)


@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize("radii_mm", [LARGE_MM, SMALL_MM], ids=["large", "small"])
def test_a_head_in_zeroed_air_has_a_skull_and_its_brain_has_none(contrast, radii_mm):
    assert skull_in(head(contrast, stripped=False, radii_mm=radii_mm), AFFINE)
    assert skull_in(head(contrast, stripped=True, radii_mm=radii_mm), AFFINE) is None


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_a_few_slices_of_a_head_are_enough(contrast):
    some = np.s_[:, :, 18:24]
    assert skull_in(head(contrast, stripped=False)[some], AFFINE)
    assert skull_in(head(contrast, stripped=True)[some], AFFINE) is None


def test_more_than_a_brain_is_a_head_however_it_looks():
    volume = ellipsoid(SHAPE, radii=(41, 47, 22)).astype(np.float32)
    assert "2300 ml" in skull_in(volume, AFFINE)
    assert skull_in(volume, AFFINE / 1.2) is None


def test_a_brain_whose_rim_is_wide_fluid_has_no_skull():
    volume = head("T1", stripped=True)
    volume[volume > 0] *= np.where(ellipsoid(SHAPE, radii=(25, 32, 13))[volume > 0], 1, 0.3)  # atrophy
    assert skull_in(volume, AFFINE) is None


def test_one_modality_with_its_skull_is_refused_at_the_thesis_geometry_by_name():
    volumes = np.stack([head("T1", True, SMALL_MM), head("T2", False, SMALL_MM)])
    processor = DifFuseProcessor(modalities=("t1", "t2"))
    with pytest.raises(InputError, match="not skull-stripped: on t2, below a bright rim lies a dark shell"):
        processor.preprocess_volume(volumes, AFFINE)
    assert processor.preprocess_volume(volumes[[0, 0]], AFFINE)[0].shape == (40, 2, 256, 256)


def test_a_head_that_is_too_large_for_the_model_is_told_of_its_skull_first():
    small = DifFuseProcessor(modalities=("t1",), image_size=(64, 64), pixel_spacing_mm=2.0, slice_margin=0)
    for stripped, why in ((False, "The scan is not skull-stripped"), (True, "does not fit into the model's field")):
        with pytest.raises(InputError, match=why):
            small.preprocess_volume(head("T1", stripped)[None], AFFINE)
