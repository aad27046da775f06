"""Facts about admission tests, differences on the same slices, and how both stand in the tables."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import constant_unet

pytest.importorskip("sklearn", reason="needs the extra `train`")

from difffuse_hf import (  # noqa: E402
    ClassifierGuidancePipeline,
    DenoisingAutoencoder,
    DifFuseScheduler,
    ReconstructionPipeline,
)
from difffuse_hf.evaluation.admission import AdmissionTest, admission_tests  # noqa: E402
from difffuse_hf.evaluation.anomaly import Slices  # noqa: E402
from difffuse_hf.evaluation.anomaly_runs import AnomalySettings, ScoredMethods  # noqa: E402
from difffuse_hf.evaluation.paired import paired_differences  # noqa: E402
from difffuse_hf.evaluation.statistics import clustered_mean_and_error, mean_and_error  # noqa: E402
from difffuse_hf.reporting import anomaly_tables  # noqa: E402
from difffuse_hf.reporting.anomaly_tables import write_anomaly_tables  # noqa: E402


class Bright(torch.nn.Module):
    """A noisy classifier that takes bright slices for diseased, and refuses noise levels but the first."""

    config = {}

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, sample, timestep):
        assert not timestep.any() and sample.min() < 0
        score = self.scale * sample.mean((1, 2, 3))
        return SimpleNamespace(logits=torch.stack([-score, score], 1))


def slices():
    """Three bright slices with a lesion, and seven healthy ones of which two are bright."""
    images = torch.full((10, 2, 8, 8), 0.3)
    images[:5] = 0.7
    labels = torch.tensor([1, 1, 1, *[0] * 7])
    return Slices(images, torch.zeros(10, 1, 8, 8), labels, list("aabbccddee"), "validation")


def test_a_noisy_classifier_must_tell_the_classes_apart_without_noise():
    pipeline = ClassifierGuidancePipeline(constant_unet(), DifFuseScheduler(), Bright())
    (test,) = admission_tests(pipeline, slices(), lambda images, what: pytest.fail("nothing is made"))
    assert test.value == pytest.approx((1 + 5 / 7) / 2) and test.limit == 0.85 and test.passed
    (test,) = admission_tests(pipeline, slices().select(torch.tensor([0, 3, 4, 5, 6])), lambda *_: None)
    assert test.value == pytest.approx((1 + 2 / 4) / 2) and not test.passed


@pytest.mark.parametrize(("change", "passed"), [(0.019, True), (0.021, False)])
def test_a_reconstruction_must_leave_healthy_brain_as_it_is(change, passed):
    pipeline = ReconstructionPipeline(DenoisingAutoencoder(2, (4, 8)))
    (test,) = admission_tests(pipeline, slices(), lambda images, what: (images[:, :1], images - change))
    assert test.value == pytest.approx(change) and test.passed == passed
    assert test.in_words() == f"change of healthy slices: {change:.3f}, 0.02 at most"


def test_dif_fuse_has_no_test_to_pass(whole_pipeline):
    assert admission_tests(whole_pipeline, slices(), lambda *_: pytest.fail("nothing is made")) == []


def test_the_clustered_error_is_the_plain_one_of_clusters_of_one_and_grows_with_what_they_share():
    values = np.random.default_rng(0).normal(size=12)
    mean, error, count = clustered_mean_and_error(values, range(12))
    assert (mean, error) == pytest.approx(mean_and_error(values)[:2]) and count == 12
    twice = np.repeat(values, 2)  # says nothing that the values once do not say
    assert clustered_mean_and_error(twice, np.repeat(range(12), 2))[1] == pytest.approx(error)
    assert clustered_mean_and_error(twice, range(24))[1] < 0.75 * error
    assert clustered_mean_and_error(values, ["a"] * 12)[1:] == (None, 1)


def test_differences_are_slice_by_slice_and_a_subject_of_two_seeds_is_one_cluster():
    def seeds(*dice):
        return [{"subject": ["a", "a", "b"], "dice": dice[0]}, {"subject": ["b", "c"], "dice": dice[1]}]

    scored = {"Dif-fuse": seeds([0.5, 0.7, 0.9], [0.2, 0.4]), "DDPM": seeds([0.4, 0.6, 0.6], [0.1, 0.4])}
    one_seed = {"one seed": scored["DDPM"][:1]}
    found = paired_differences(scored | one_seed)
    assert list(found) == ["DDPM"] and found["DDPM"]["slices"] == 5 and found["DDPM"]["subjects"] == 3
    assert found["DDPM"]["mean"] == pytest.approx(0.6 / 5)
    sums = np.array([0.2 - 0.24, 0.3 + 0.1 - 0.24, -0.12])  # of the differences to the mean, by subject
    assert found["DDPM"]["standard_error"] == pytest.approx((1.5 * (sums**2).sum()) ** 0.5 / 5)
    assert paired_differences({"DDPM": scored["DDPM"]}) == {}


def test_differences_of_the_error_against_the_twin_stand_in_a_table_of_their_own(tmp_path):
    tiles = {name: np.full((1, 1, 8, 8), 0.5) for name in ("image", "lesion", "counterfactual", "map")}
    errors = {"Dif-fuse": [0.02, 0.04], "DDPM": [0.05, 0.06]}
    scored = ScoredMethods(
        {name: [{"dice": 0.5, "twin_error": np.mean(some), "twin_error_left": 0.25}] for name, some in errors.items()}
        | {"bare": [{"dice": 0.5}]},
        {"elsewhere": {name: [{"dice": 0.5, "twin_error": 0.125}] for name in (*errors, "bare")}},
        {name: {**tiles, "threshold": np.array(0.1)} for name in (*errors, "bare")},
        {name: [{"subject": ["a", "b"], "dice": [0.4, 0.6], "twin_error": some}] for name, some in errors.items()}
        | {"bare": [{"subject": ["a", "b"], "dice": [0.4, 0.6]}]},
        dict.fromkeys((*errors, "bare"), [[]]),
        {},
    )  # fmt: skip
    tables = write_anomaly_tables(scored, AnomalySettings(), tmp_path, [str(tmp_path)])
    rows = {table.caption.split(",")[0]: table.rows for table in reversed(tables)}  # this data set's, then elsewhere's
    assert [row[1:] for row in rows["Counterfactuals inside the lesion"]][1:] == [["0.0550", "25.0"], ["–", "–"]]
    text = (tmp_path / "anomaly.md").read_text()
    assert "| DDPM | -0.0250 ± 0.0050 | 2 | 2 |" in text and "in elsewhere" in text and "0.1250" in text
    data = json.loads((tmp_path / "anomaly.json").read_text())
    assert list(data["twin_differences"]["Dif-fuse"]) == ["DDPM"]
    assert set(data["differences"]["Dif-fuse"]) == {"DDPM", "bare"}
    tables = write_anomaly_tables(
        scored, AnomalySettings(), tmp_path, [str(tmp_path)], references=["Dif-fuse", "DDPM", "x"]
    )
    captions = [table.caption for table in tables if table.caption.startswith("Dice of")]
    assert [caption.split(" minus")[0] for caption in captions] == ["Dice of Dif-fuse", "Dice of DDPM"]
    assert "| Dif-fuse | +0.0250 ± 0.0050 | 2 | 2 |" in (tmp_path / "anomaly.md").read_text()


def test_a_row_that_fails_is_not_judged_and_its_figures_stay_in_the_json(tmp_path, monkeypatch):
    monkeypatch.setattr(anomaly_tables, "MOST_COLUMNS", 1)
    tiles = {name: np.full((1, 1, 8, 8), 0.5) for name in ("image", "lesion", "counterfactual", "map")}
    names, tests = ("Dif-fuse", "f-AnoGAN"), [AdmissionTest("change of healthy slices", 0.05, 0.02, False)]
    of_slices = [{"subject": ["a", "b"], "dice": [0.4, 0.6]}]
    scored = ScoredMethods(
        {name: [{"dice": dice}] for name, dice in zip(names, (0.5, 0.875))}, {},
        {name: {**tiles, "threshold": np.array(0.1)} for name in names},
        dict.fromkeys(names, of_slices), {"Dif-fuse": [[]], "f-AnoGAN": [tests]},
        {"Dif-fuse": [{"setting": {"noise_level": 500, "percentile": 80.0}, "at_an_edge": ["noise_level"]}],
         "f-AnoGAN": [{}]},
    )  # fmt: skip
    write_anomaly_tables(scored, AnomalySettings(), tmp_path, [str(tmp_path)])
    text, data = (tmp_path / "anomaly.md").read_text(), json.loads((tmp_path / "anomaly.json").read_text())
    assert "0.875" not in text and "| Dif-fuse | 0.500 |" in text
    assert "not judged (1 of 1 seeds): change of healthy slices: 0.050, 0.02 at most |" in text
    assert "| f-AnoGAN | not judged | 2 | 2 |" in text
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["anomaly.png", "anomaly_2.png"]
    assert (
        r"| Dif-fuse | 0 | noise_level 500, percentile 80 | noise_level |" in text
        and "| f-AnoGAN | 0 | – | – |" in text
    )
    assert data["results"]["f-AnoGAN"] == [{"dice": 0.875}] and not data["admission"]["f-AnoGAN"][0][0]["passed"]
