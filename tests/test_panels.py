"""Figures in one call: a montage, what samples disagree about, and volumes against a reference."""

import numpy as np
import pytest
import torch
from conftest import quiet
from PIL import Image
from tiny_scans import tiny_pipeline, write_case

from difffuse_hf import detect_volume, read_case
from difffuse_hf.errors import InputError
from difffuse_hf.reporting import panels


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_a_montage_shows_the_whole_scan_with_its_lesions(tmp_path):
    pipeline = quiet(tiny_pipeline())
    result = detect_volume(pipeline, read_case(write_case(tmp_path / "case"), pipeline.processor.modalities))
    panels.draw_montage(result, tmp_path / "all.png", columns=4)
    panels.draw_montage(result, tmp_path / "few.png", columns=4, rows=1)
    whole, few = pixels(tmp_path / "all.png"), pixels(tmp_path / "few.png")
    assert len(whole) > len(few) and whole.shape[1] == few.shape[1]
    for colour in ((255, 158, 27), (86, 180, 233)):  # detected and reference
        assert (np.abs(whole - colour).max(-1) < 12).any()
    result.slices.image = result.slices.image[:0]
    with pytest.raises(InputError, match="no usable slice"):
        panels.draw_montage(result, tmp_path / "none.png")


def test_what_samples_disagree_about_needs_several(tmp_path):
    pipeline, image = quiet(tiny_pipeline()), torch.rand(2, 4, 32, 32)
    call = {"preset": "exact", "num_inference_steps": 2, "mask": torch.ones(2, 1, 32, 32)}
    panels.draw_samples(image, pipeline(image, num_samples=2, **call), tmp_path / "samples.png")
    assert pixels(tmp_path / "samples.png").std() > 0
    with pytest.raises(InputError, match="one sample.*num_samples=4"):
        panels.draw_samples(image, pipeline(image, **call), tmp_path / "none.png")


def test_limits_of_agreement_are_the_bias_and_1_96_standard_deviations(tmp_path):
    volumes = {"a": (11.0, 10.0), "b": (22.0, 20.0), "c": (33.0, 30.0)}
    found = panels.draw_bland_altman(volumes, tmp_path / "volumes.png")
    assert found == pytest.approx({"bias": 2.0, "lower": 2 - 1.96, "upper": 2 + 1.96})
    assert pixels(tmp_path / "volumes.png").std() > 0
    with pytest.raises(InputError, match="three scans or more, got 2"):
        panels.draw_bland_altman({"a": (1.0, 1.0), "b": (2.0, 2.0)}, tmp_path / "none.png")
