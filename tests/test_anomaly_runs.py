"""Facts about scored runs: what is kept, when it is scored again, and what a run that cannot be scored says."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_trainings import write_drawn_slices

pytest.importorskip("sklearn", reason="needs the extra `train`")

from difffuse_hf import DenoisingAutoencoder, ReconstructionPipeline  # noqa: E402
from difffuse_hf.data.slices import load_slices  # noqa: E402
from difffuse_hf.errors import InputError  # noqa: E402
from difffuse_hf.evaluation.anomaly import as_slices, healthy_threshold, label_threshold, run_method  # noqa: E402
from difffuse_hf.evaluation.anomaly_runs import (  # noqa: E402
    AnomalyRun,
    AnomalySettings,
    assembled_methods,
    judge_of,
    score_runs,
)
from difffuse_hf.evaluation.segmentation import dice  # noqa: E402
from difffuse_hf.pipelines.auto import load_pipeline  # noqa: E402

SETTINGS = AnomalySettings(limit=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Four slices a split, every second with a lesion, and a pipeline that reconstructs them in one pass."""
    root = tmp_path_factory.mktemp("runs")
    write_drawn_slices(root / "slices")
    torch.manual_seed(0)
    ReconstructionPipeline(DenoisingAutoencoder(2, [4, 8])).save_pretrained(root / "model")
    return AnomalyRun(str(root / "model"), str(root / "slices"))


def written(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_what_is_finished_is_taken_again_and_new_settings_models_and_options_are_scored(run, tmp_path):
    methods = {"a / b": [run, run], "other": [run]}
    first = score_runs(methods, tmp_path, SETTINGS)
    names = ["a_b_0.json", "a_b_0.npz", "a_b_1.json", "a_b_1.npz", "other_0.json", "other_0.npz"]
    before = written(tmp_path)
    assert sorted(before) == names
    again = score_runs(methods, tmp_path, SETTINGS)
    assert written(tmp_path) == before
    np.testing.assert_equal(again.results, first.results)  # NaN where no lesion is of a size
    one = {"other": [run]}
    for runs, settings, overwrite in (
        (one, AnomalySettings(limit=1), False),
        ({"other": [run._replace(options='{"batch_size": 1}')]}, AnomalySettings(limit=1), False),
        (one, SETTINGS, False),
        (one, SETTINGS, True),
    ):
        score_runs(runs, tmp_path, settings, overwrite)
        assert written(tmp_path)["other_0.json"] > before["other_0.json"]
        before = written(tmp_path)
    later = (tmp_path / "other_0.json").stat().st_mtime + 10
    os.utime(f"{run.model}/model_index.json", (later, later))
    score_runs(one, tmp_path, SETTINGS)
    assert written(tmp_path)["other_0.json"] > before["other_0.json"]


def test_a_result_holds_the_measures_and_the_slices_of_the_figure(run, tmp_path):
    scored = score_runs({"m": [run]}, tmp_path, AnomalySettings(out_of_domain=[run.dataset]))
    (measures,) = scored.results["m"]
    (foreign,) = scored.out_of_domain[run.dataset]["m"]
    assert 0 <= measures["iou"] <= measures["dice"] <= measures["best_dice"] + 1e-6
    assert foreign["dice"] == measures["dice"] and "healthy_change" not in foreign  # slices with a lesion alone
    assert scored.tiles["m"]["image"].shape == scored.tiles["m"]["map"].shape == (2, 1, 16, 16)
    origin = json.loads((tmp_path / "m_0.json").read_text())["origin"]
    settings = {"out_of_domain": [run.dataset], "inception": False, "limit": None, "limit_healthy": None, "seed": 0}
    assert origin == {**run._asdict(), **settings, "channels": None, "dtype": "float32"}


def test_every_seed_is_judged_by_its_own_classifier_or_by_the_models_own(run, whole_pipeline):
    other, two = run._replace(dataset="elsewhere"), AnomalySettings(classifiers=["a", "b"])
    judged = two.with_classifiers({"m": [run, other], "n": [run]})
    assert [[one.classifier for one in runs] for runs in judged.values()] == [["a", "b"], ["a"]]
    one = AnomalySettings(classifiers=["a"])
    assert [some.classifier for some in one.with_classifiers({"m": [run, run]})["m"]] == ["a", "a"]
    with pytest.raises(InputError, match="a would judge m on seeds of different data"):
        one.with_classifiers({"m": [run, other]})
    with pytest.raises(InputError, match="m has 3 seeds, but there are 2 classifiers"):
        two.with_classifiers({"m": [run, run, run]})
    assert AnomalySettings().with_classifiers({"m": [run]})["m"] == [run]
    assert judge_of(whole_pipeline, run, "cpu") is whole_pipeline.classifier
    assert judge_of(load_pipeline(run.model), run, "cpu") is None


def of_label(slices, maps, label):
    """The maps of the slices with a label, and these slices."""
    chosen = slices.labels == label
    return maps[chosen], slices.select(chosen)


def test_the_dice_without_masks_has_the_threshold_of_healthy_validation_slices(run, tmp_path):
    (measures,) = score_runs({"m": [run]}, tmp_path, AnomalySettings()).results["m"]
    pipeline = load_pipeline(run.model)
    maps = {}
    for split in ("validation", "test"):
        slices = as_slices(load_slices(run.dataset, split), split)
        maps[split] = slices, run_method(pipeline, slices.images)[0]
    slices, made = maps["validation"]
    threshold = made[slices.labels == 0].flatten().quantile(0.99, interpolation="higher")  # all of it is brain
    slices, made = maps["test"]
    sick = slices.labels == 1
    expected = dice(made[sick] >= threshold, slices.masks[sick]).mean()
    assert measures["dice_no_masks"] == pytest.approx(float(expected), abs=0.02)
    by_labels = label_threshold(*(part for label in (1, 0) for part in of_label(*maps["validation"], label))).value
    assert measures["dice_by_labels"] == pytest.approx(float(dice(made[sick] >= by_labels, slices.masks[sick]).mean()))
    masks = (made > made.median()).float()
    assert healthy_threshold(masks, replace(slices, split="validation")).value == 1  # decided already


def test_options_that_are_no_json_are_one_sentence(run, tmp_path):
    with pytest.raises(InputError, match="The options of m, {noise, are no JSON"):
        score_runs({"m": [run._replace(options="{noise")]}, tmp_path, SETTINGS)


def test_methods_are_read_from_a_folder_of_assembled_ones(tmp_path):
    with pytest.raises(InputError, match="holds no methods.json; make it with"):
        assembled_methods(str(tmp_path), "data")
    listed = [{"name": "DDPM", "model": "out/DDPM", "options": {"noise_level": 10}, "tuning": []}]
    (tmp_path / "methods.json").write_text(json.dumps(listed))
    assert assembled_methods(str(tmp_path), "data") == [
        ("DDPM", AnomalyRun("out/DDPM", "data", '{"noise_level": 10}'))
    ]


def test_kid_is_named_by_its_features():
    assert AnomalySettings().features().startswith("features of each model's own classifier, where it has one")
    assert AnomalySettings(classifiers=["out/c"]).features() == "features of out/c, not Inception's"
    two = AnomalySettings(classifiers=["a", "b"]).features()
    assert two == "features of each seed's classifier, a, b, not Inception's"
    assert AnomalySettings(classifiers=["out/c"], inception=True).features() == "Inception's features"


def test_a_limit_is_of_each_class_and_healthy_slices_may_have_one_of_their_own(run):
    slices = load_slices(run.dataset, "test")
    for limits, expected in (((None,), [2, 2]), ((1,), [1, 1]), ((2, 1), [1, 2]), ((None, 1), [1, 2])):
        assert as_slices(slices, "test", *limits).labels.bincount().tolist() == expected
