"""Slices of a scan looked at together: which are repainted, one percentile for all, and how it is chosen and kept."""

import dataclasses
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import label

from difffuse_hf.detection.pieces import salient_pieces
from difffuse_hf.detection.repainted import Repainted
from difffuse_hf.detection.slices import Made, find_suspicious
from difffuse_hf.errors import InputError
from difffuse_hf.evaluation.lesions import dice_of_counts, reached, share_threshold
from difffuse_hf.pipelines.calibration import Calibration, ScanRule
from difffuse_hf.pipelines.map_recipe import MapRecipe
from difffuse_hf.pipelines.presets import PRESETS
from difffuse_hf.saliency.mask import saliency_to_mask

PROBABILITY = torch.tensor([0.6, 0.7, 0.99, 0.6, 0.2, 0.8, 0.8, 0.1, 0.97])


def test_slices_that_adjoin_a_suspicious_one_are_repainted_as_far_as_they_are_probable_enough():
    usable = torch.arange(1, 9)
    assert find_suspicious(PROBABILITY, usable, 0.9).tolist() == [2, 8]
    assert find_suspicious(PROBABILITY, usable, 0.9, 0.5).tolist() == [1, 2, 3, 8]  # 5 and 6 touch none, 0 is not used
    assert find_suspicious(PROBABILITY, usable, 0.9, 0.0).tolist() == list(range(1, 9))
    assert find_suspicious(PROBABILITY, usable, 0.995, 0.5).tolist() == []


def test_one_percentile_for_all_images_gives_more_of_the_mask_to_the_more_salient_ones():
    saliency = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    saliency[0] *= 0.5
    apart, together = (saliency_to_mask(saliency, 90, blur_kernel=1, together=one) for one in (False, True))
    assert apart.flatten(1).mean(1).tolist() == pytest.approx([0.1, 0.1], abs=0.002)
    assert together.mean() == pytest.approx(0.1, abs=0.001) and not together[0].any()
    inside = torch.zeros_like(saliency)
    inside[:, :, :16] = 1
    masks = saliency_to_mask(saliency, 80, foreground=inside, together=True)
    assert masks.mean() == pytest.approx(0.1, abs=0.001) and not masks[:, :, 16:].any()
    assert not saliency_to_mask(saliency, 80, foreground=torch.zeros_like(inside), together=True).any()


def test_at_every_threshold_those_pieces_are_left_that_hold_a_salient_voxel():
    generator = np.random.default_rng(0)
    anomaly = generator.integers(0, 6, (5, 12, 12)).astype(np.float32)
    salient = generator.random(anomaly.shape) < 0.03
    left = salient_pieces(anomaly, salient)
    for threshold in range(1, 6):
        pieces, _ = label(anomaly >= threshold)  # by faces
        expected = np.isin(pieces, np.unique(pieces[salient & (pieces > 0)]))
        np.testing.assert_array_equal(left >= threshold, expected)
    assert left.dtype == np.float32 and (left <= anomaly).all() and 0.1 < (left < anomaly).mean() < 0.9
    np.testing.assert_array_equal(left[salient], anomaly[salient])
    assert not salient_pieces(anomaly, np.zeros_like(salient)).any()


def test_a_rule_is_kept_with_the_calibration_and_models_without_one_stay_as_they_are():
    plain = Calibration(PRESETS["fast"], 350, 95.0, threshold=0.7)
    assert "scan" not in plain.to_dict() and Calibration.of(plain.to_dict()) == plain
    ruled = dataclasses.replace(plain, scan=ScanRule(4.0, True, 0.5))
    assert Calibration.of(json.loads(json.dumps(ruled.to_dict()))) == ruled
    with pytest.raises(InputError, match="calibration cannot be read"):
        Calibration.of({**plain.to_dict(), "scan": {"smoothing": 4}})
    for wrong in ({"smoothing_mm": -1.0}, {"smoothing_mm": float("nan")}, {"neighbour_probability": 2.0},
                  {"peak_saliency": -0.1}, {"peak_anomaly": -1.0}, {"peak_share": 1.5}):  # fmt: skip
        with pytest.raises(InputError, match=next(iter(wrong))):
            ScanRule(**wrong)


def test_counts_give_the_dice_and_the_share_of_the_brain_at_every_threshold():
    anomaly = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    drawn = np.array([False, False, False, True, True, False])
    brain = np.array([False, True, True, True, True, True])
    thresholds = np.array([0.5, 2.5, 3.5, 6.0])
    counts = reached(anomaly, drawn, brain, thresholds)
    assert counts.tolist() == [[2, 2, 1, 0], [3, 1, 1, 0], [2] * 4, [3] * 4]
    assert dice_of_counts(counts).tolist() == pytest.approx([4 / 7, 4 / 5, 2 / 4, 0])
    assert share_threshold(counts[None], thresholds, 0.4) == 2.5 and share_threshold(counts[None], thresholds, 0) == 6
    with pytest.raises(InputError, match="More than 10.0% of the brain reaches"):
        share_threshold(counts[None, :, :3], thresholds[:3], 0.1)


def script():
    path = Path(__file__).parents[1] / "examples" / "calibrate_scans.py"
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_rule_with_the_best_dice_over_scans_that_have_a_lesion_is_chosen_with_its_threshold():
    thresholds, calibrate = np.array([1.0, 2.0, 3.0]), script()
    plan = Calibration(PRESETS["fast"], 350, 95.0, threshold=2.0, chosen_by="slices")
    plans = [calibrate.rule_of(plan, {"together": one}) for one in (False, True)]
    counts = np.zeros((2, 3, 4, 4))  # rules, scans, (hit, wrong, lesion, brain), thresholds and the scan's own
    counts[:, :2, 2], counts[:, :, 3] = 10, 1000
    counts[0, :2, 0], counts[1, :2, 0] = [8, 6, 2, 10], [10, 9, 3, 10]
    counts[:, :, 1] = [20, 2, 0, 0]
    chosen = calibrate.choose(plans, counts, thresholds, [0.01, 0])
    assert chosen.scan == ScanRule(together=True) and chosen.threshold == 2.0
    assert chosen.false_positive_thresholds == {"0.01": 2.0, "0": 3.0}
    assert chosen.chosen_by.startswith(
        "slices; then 2 whole scans with a lesion and 1 without: mean Dice 0.857, +0.19"
    )
    own = [plans[0], calibrate.rule_of(plan, {"peak_share": 0.4})]
    chosen = calibrate.choose(own, counts, thresholds, [0.01])
    assert chosen.scan == ScanRule(peak_share=0.4)
    assert chosen.threshold == 2.0  # the best one for all is kept beside it
    assert "mean Dice 1.000, +0.333" in chosen.chosen_by and chosen.false_positive_thresholds == {"0.01": 2.0}
    with pytest.raises(InputError, match="unknown name"):
        calibrate.rule_of(plan, {"smoothing": 1})
    counts[:, :, 2] = 0
    with pytest.raises(InputError, match="None of the scans has a drawn lesion"):
        calibrate.choose(plans, counts, thresholds, [])


def test_rules_that_differ_in_what_counts_share_a_run_of_the_networks(monkeypatch, tmp_path):
    calibrate, runs = script(), []
    plan = Calibration(PRESETS["fast"], 350, 95.0, threshold=1.0)
    saliency = torch.zeros(2, 1, 4, 4)
    saliency[0, 0, 0, 0] = 0.6
    anomaly = torch.zeros(2, 1, 4, 4)
    anomaly[0, 0, 0, :2], anomaly[1, 0, 3, 3] = 2.0, 3.0

    def repaint(pipeline, case, preset, **options):
        runs.append(pipeline.processor.calibrations[preset]["percentile"])
        made = Made(torch.zeros(2, 4, 4, 4), anomaly, torch.ones(2, 1, 4, 4), saliency)
        of_model = SimpleNamespace(preprocess_labels=lambda labels, geometry: torch.from_numpy(labels))
        slices = SimpleNamespace(pipeline=SimpleNamespace(processor=of_model))
        scan = Repainted(slices, SimpleNamespace(tissue=np.ones((2, 4, 4))), [0], *[torch.tensor([])] * 3,
                         torch.tensor([], dtype=torch.long), made)  # fmt: skip
        monkeypatch.setattr(Repainted, "restore", lambda self, one: one[:, 0].numpy())
        return scan

    case = SimpleNamespace(reference=(anomaly[:, 0] == 2).numpy())
    monkeypatch.setattr(calibrate, "repaint_volume", repaint)
    monkeypatch.setattr(calibrate, "read_source", lambda folder, processor: (case, {}))
    pipeline = SimpleNamespace(processor=SimpleNamespace(calibrations={"fast": "before"}))
    rules = [{}, {"peak_saliency": 0.5}, {"percentile": 90}, {"peak_saliency": 0.7}, {"peak_anomaly": 2.5},
             {"peak_share": 0.9}]  # fmt: skip
    plans = [calibrate.rule_of(plan, rule) for rule in rules]
    found = {id(one): counts for one, counts in calibrate.score(pipeline, tmp_path, "fast", plans, np.array([1.0]), 0)}
    assert sorted(runs) == [90.0, 95.0] and pipeline.processor.calibrations == {"fast": "before"}
    hits = [found[id(one)][:2, 0].tolist() for one in plans]
    assert hits == [[2, 1], [2, 0], [2, 1], [0, 0], [0, 1], [2, 1]]  # voxels of the lesion, and outside it
    assert found[id(plans[-1])][:2, 1].tolist() == [0, 1]  # at 0.9 of the highest value, 3


def test_a_search_of_thresholds_starts_from_the_slices_or_from_one_standard_deviation():
    start, plan = script().starting_from, Calibration(PRESETS["fast"], 350, 95.0, threshold=0.7)
    assert start(plan, "m") == plan
    nothing_found = dataclasses.replace(plan, threshold=None, recipe=MapRecipe(sample_noise=0.1))
    assert start(nothing_found, "m").threshold == 1.0
    for other in (dataclasses.replace(plan, threshold=None), dataclasses.replace(nothing_found, recipe=MapRecipe())):
        with pytest.raises(InputError, match="m has no threshold of slices to start from"):
            start(other, "m")
