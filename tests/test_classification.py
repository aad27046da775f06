"""Facts about the scores of classifiers, on tables written by hand."""

import datasets
import numpy as np
import pandas
import pytest
import torch
from sklearn import metrics

from difffuse_hf import SliceClassifier, SliceClassifierConfig
from difffuse_hf.errors import InputError
from difffuse_hf.evaluation.classification import (
    by_class,
    compare,
    confusion_matrix,
    confusion_measures,
    evaluate,
    measure,
    patient_weights,
    roc_auc,
)
from difffuse_hf.evaluation.predictions import decide, predict, predicted_classes
from difffuse_hf.evaluation.subgroups import auc_differences, lesion_sites, subgroup_table, subgroups
from difffuse_hf.reporting.charts import draw_confusions, draw_lines
from difffuse_hf.reporting.classification_tables import compare_with_first

SIDES = ["none", "left", "right", "both"]


def table(labels, given, names=("healthy", "lesion"), patients=None, **metadata):
    """Predictions that give scan i the class given[i] with probability 0.7."""
    probabilities = np.full((len(labels), len(names)), 0.3 / (len(names) - 1))
    probabilities[range(len(labels)), given] = 0.7
    columns = {f"prob_{name}": column for name, column in zip(names, probabilities.T)}
    keys = [f"scan{i}" for i in range(len(labels))]
    return pandas.DataFrame(
        {"key": keys, "patient": keys if patients is None else patients, "label": labels, **columns, **metadata}
    )


def random_table(num_scans, names, seed=0, skill=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(len(names), size=num_scans)
    logits = rng.normal(size=(num_scans, len(names))).round(1)  # rounded: with ties
    logits[range(num_scans), labels] += skill
    odds = np.exp(logits)
    frame = table(labels, labels, names, patients=[f"p{i // 2}" for i in range(num_scans)])
    frame[[f"prob_{name}" for name in names]] = odds / odds.sum(1, keepdims=True)
    return frame


def value(frame, name):
    return float(measure(frame)[name][0])


def test_sensitivity_and_specificity_of_two_classes_by_hand():
    frame = table([0, 0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 0, 0, 0])
    assert confusion_matrix(frame).tolist() == [[3, 1], [3, 2]]
    assert value(frame, "accuracy") == pytest.approx(5 / 9)
    assert value(frame, "lesion_sensitivity") == pytest.approx(2 / 5)
    assert value(frame, "lesion_specificity") == pytest.approx(3 / 4)
    assert value(frame, "macro_sensitivity") == pytest.approx((3 / 4 + 2 / 5) / 2)
    assert value(frame, "macro_specificity") == value(frame, "macro_sensitivity")  # with two classes they mirror


def test_the_wrong_side_is_an_error_but_the_lesion_is_found():
    frame = table([0, 1, 2, 3, 1], [0, 2, 2, 1, 0], SIDES)
    assert value(frame, "accuracy") == pytest.approx(2 / 5)
    assert value(frame, "lesion_sensitivity") == pytest.approx(3 / 4)
    assert by_class(frame)["right"] == {
        "scans": 1,
        "sensitivity": 1.0,
        "specificity": pytest.approx(3 / 4),
        "auc": pytest.approx(3.5 / 4),  # one of four other scans ties with it
    }


def test_micro_sensitivity_is_accuracy_and_micro_specificity_follows_from_it():
    frame = random_table(60, SIDES)
    assert value(frame, "micro_sensitivity") == value(frame, "accuracy")
    assert value(frame, "micro_specificity") == pytest.approx(1 - (1 - value(frame, "accuracy")) / 3)  # K - 1 = 3


@pytest.mark.parametrize("names", [["healthy", "lesion"], SIDES])
def test_measures_are_those_of_scikit_learn(names):
    frame = random_table(80, names, seed=1)
    labels, given = frame["label"], decide(frame)
    probabilities = frame[[f"prob_{name}" for name in names]].to_numpy()
    assert (confusion_matrix(frame) == metrics.confusion_matrix(labels, given)).all()
    assert value(frame, "accuracy") == pytest.approx(metrics.accuracy_score(labels, given))
    assert value(frame, "balanced_accuracy") == pytest.approx(metrics.balanced_accuracy_score(labels, given))
    assert value(frame, "macro_sensitivity") == pytest.approx(metrics.recall_score(labels, given, average="macro"))
    tn, fp = metrics.multilabel_confusion_matrix(labels, given)[:, 0].T
    assert value(frame, "macro_specificity") == pytest.approx((tn / (tn + fp)).mean())
    assert value(frame, "micro_specificity") == pytest.approx(tn.sum() / (tn + fp).sum())
    scores = probabilities if len(names) > 2 else probabilities[:, 1]
    assert value(frame, "auc") == pytest.approx(metrics.roc_auc_score(labels, scores, multi_class="ovr"))
    assert value(frame, "lesion_auc") == pytest.approx(metrics.roc_auc_score(labels > 0, probabilities[:, 1:].sum(1)))


def test_weighted_auc_is_that_of_scikit_learn_with_ties_and_weights_of_zero():
    rng = np.random.default_rng(2)
    scores, positive = rng.integers(5, size=40) / 5, rng.random(40) < 0.4
    weights = rng.integers(3, size=(6, 40)).astype(float)
    expected = [metrics.roc_auc_score(positive, scores, sample_weight=row) for row in weights]
    assert roc_auc(scores, positive, weights) == pytest.approx(expected)
    assert np.isnan(roc_auc(scores, np.zeros(40, bool)))


def test_a_class_that_is_absent_leaves_the_means_to_the_others():
    frame = table([0, 0, 1, 2], [0, 1, 1, 2], SIDES)
    assert value(frame, "macro_sensitivity") == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert np.isnan(by_class(frame)["both"]["sensitivity"])
    assert by_class(frame)["both"]["specificity"] == 1.0
    assert np.isfinite(value(frame, "auc"))


def test_measures_without_a_denominator_are_undefined_and_not_zero():
    ill, well = table([1, 1], [1, 0]), table([0, 0], [0, 1])
    assert np.isnan(value(ill, "lesion_specificity")) and value(ill, "lesion_sensitivity") == 0.5
    assert np.isnan(value(well, "lesion_sensitivity")) and value(well, "lesion_specificity") == 0.5
    assert np.isnan(value(ill, "lesion_auc")) and np.isnan(evaluate(ill, 50)["lesion_auc"]["low"])
    assert all(np.isnan(values) for values in confusion_measures(np.zeros((2, 2))).values())


def test_the_scans_of_a_patient_stay_together_in_the_bootstrap():
    patients = ["a", "b", "a", "c", "b", "a"]
    weights = patient_weights(patients, 200, seed=3)
    assert (weights[:, 0] == weights[:, 2]).all() and (weights[:, 0] == weights[:, 5]).all()
    assert (weights[:, 1] == weights[:, 4]).all()
    assert (weights[:, [0, 1, 3]].sum(1) == 3).all()  # as many patients as there are
    assert (patient_weights(patients, 200, seed=3) == weights).all()
    assert (patient_weights(patients, 200, seed=4) != weights).any()


def test_repeating_a_scan_does_not_narrow_the_interval_when_the_patient_is_the_same():
    once = table([0, 1] * 15, [0, 0, 0, 1, 1, 1] * 5)
    often = pandas.concat([once] * 4, ignore_index=True)
    often["key"] = [f"scan{i}" for i in range(len(often))]
    assert evaluate(often, 300)["accuracy"] == evaluate(once, 300)["accuracy"]


def test_the_interval_holds_the_estimate_and_halves_with_four_times_the_patients():
    width = {}
    for copies in (1, 4):
        frame = table([0, 1] * (20 * copies), [0, 1, 1, 1] * (10 * copies))
        result = evaluate(frame, 2000)["accuracy"]
        assert result["low"] <= result["value"] <= result["high"] and result["value"] == 0.75
        width[copies] = result["high"] - result["low"]
    assert width[4] == pytest.approx(width[1] / 2, rel=0.15)
    assert width[1] == pytest.approx(2 * 1.96 * (0.75 * 0.25 / 40) ** 0.5, rel=0.15)  # that of a binomial share


def test_one_patient_has_no_interval():
    result = evaluate(table([0, 1], [0, 0], patients=["a", "a"]), 100)["accuracy"]
    assert result["value"] == 0.5 and np.isnan(result["low"]) and np.isnan(result["high"])


def test_territories_are_read_entry_by_entry():
    assert lesion_sites("MCA superior left; ACA Right ;lacune") == [
        ("MCA superior", "left"),
        ("ACA", "right"),
        ("lacune", ""),
    ]
    assert lesion_sites("") == []


@pytest.fixture
def stroke():
    """Six scans of four patients with the metadata of IST-3, some of it missing."""
    return table(
        [0, 1, 2, 3, 1, 0],
        [0, 1, 1, 3, 0, 2],
        SIDES,
        patients=["a", "b", "b", "c", "d", "d"],
        time=["baseline", "baseline", "follow-up", None, "follow-up", "follow-up"],
        infarct_size=[0, 1, 2, 4, np.nan, None],
        territory=["", "MCA superior left", "MCA superior right", "MCA superior left;ACA right", "", None],
        old_infarct=[True, False, None, True, False, None],
    )


def test_subgroups_by_hand(stroke):
    groups = {(group, value): np.flatnonzero(inside).tolist() for group, value, inside in subgroups(stroke)}
    crossed = {key: scans for key, scans in groups.items() if ", " in key[0]}
    assert {key: scans for key, scans in groups.items() if key not in crossed} == {
        ("time", "baseline"): [0, 1],
        ("time", "follow-up"): [2, 4, 5],
        ("lesions", "0"): [0, 5],
        ("lesions", "1"): [1, 2],
        ("lesions", "2 or more"): [3],
        ("side", "left"): [1, 4],
        ("side", "right"): [2],
        ("side", "both"): [3],
        ("territory", "ACA"): [3],
        ("territory", "MCA superior"): [1, 2, 3],
        ("lesion sites", "MCA"): [1, 2],
        ("lesion sites", "ACA + MCA"): [3],
        ("infarct size", "1"): [1],
        ("infarct size", "2"): [2],
        ("infarct size", "4"): [3],
        ("infarct size", "small (1-2)"): [1, 2],
        ("old infarct", "present"): [0, 3],
        ("old infarct", "absent"): [1, 4],
    }
    assert crossed["infarct size, baseline", "1"] == [1] and crossed["lesion sites, follow-up", "MCA"] == [2]
    assert crossed["side, follow-up", "left"] == [4] and ("side, baseline", "right") not in crossed
    assert not any("time" in group for group, _ in crossed)  # Table 4.6: all but the time itself


def test_groups_that_the_lesion_defines_have_a_sensitivity_and_no_specificity(stroke):
    rows = subgroup_table(stroke, 50).set_index(["group", "value"])
    small = rows.loc[("infarct size", "small (1-2)")]
    assert (small["scans"], small["patients"], small["lesions"]) == (2, 1, 2)
    assert small["lesion_sensitivity"] == 1.0 and small["accuracy"] == 0.5  # found on the wrong side
    assert np.isnan(small["lesion_specificity"])
    none = rows.loc[("lesions", "0")]
    assert np.isnan(none["lesion_sensitivity"]) and none["lesion_specificity"] == 0.5
    assert rows.loc[("all", ""), "scans"] == 6


def test_the_auc_of_a_group_of_lesions_is_against_all_scans_without_one():
    frame = table([0, 0, 1, 1], [0, 0, 1, 1], infarct_size=[0, 0, 1, 4])
    frame["prob_healthy"], frame["prob_lesion"] = [0.9, 0.3, 0.5, 0.1], [0.1, 0.7, 0.5, 0.9]
    rows = subgroup_table(frame, 0).set_index(["group", "value"])["auc"]
    assert rows["infarct size", "1"] == 0.5 and rows["infarct size", "4"] == 1.0 and rows["all", ""] == 0.75


def suspicions(*of_scans, sizes, patients=None):
    """A table in which scan i has a lesion with probability of_scans[i], and one of size sizes[i] (0: none)."""
    frame = table([int(size > 0) for size in sizes], [0] * len(sizes), patients=patients, infarct_size=sizes)
    return frame.assign(prob_healthy=[1 - one for one in of_scans], prob_lesion=of_scans)


def test_the_gain_in_auc_is_that_of_each_size_and_a_mean_over_the_seeds():
    sizes = [0, 0, 1, 4]
    blind = suspicions(0.3, 0.7, 0.5, 0.9, sizes=sizes)  # AUC of size 1: 0.5, of size 4: 1
    sharp = suspicions(0.3, 0.4, 0.5, 0.9, sizes=sizes).sample(frac=1, random_state=1)
    rows = auc_differences([blind, blind], [sharp, blind], 100).set_index(["group", "value"])
    small, large, whole = rows.loc[("infarct size", "1")], rows.loc[("infarct size", "4")], rows.loc[("all", "")]
    assert (small["first"], small["difference"], small["lesions"]) == (0.5, 0.25, 2)  # (0.5 + 0) / 2
    assert small["standard_error"] == pytest.approx(0.25)  # of 0.5 and 0
    assert (large["difference"], large["low"], large["high"]) == (0, 0, 0)
    assert whole["difference"] == pytest.approx((0.25 + 0) / 2) and whole["lesions"] == 4
    with pytest.raises(ValueError, match="other scans or labels"):
        auc_differences([blind], [sharp.assign(key=list("abcd"))])


def test_the_interval_of_a_gain_draws_a_patient_once_for_all_seeds():
    """Two seeds that test the same patients say no more of the patients than one."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(0, 3, 60).tolist()
    first, second = (suspicions(*rng.random(60), sizes=sizes) for _ in range(2))
    one, two = (auc_differences([first] * n, [second] * n, 400).iloc[0] for n in (1, 2))
    assert one["low"] < one["difference"] < one["high"]
    assert (two["low"], two["high"]) == pytest.approx((one["low"], one["high"]), abs=0.03)
    assert two["standard_error"] == 0 and one["standard_error"] is None


def test_without_metadata_there_is_the_side_of_the_label_alone():
    groups = subgroups(table([0, 1, 2, 3], [0, 1, 2, 3], SIDES))
    assert {(group, value) for group, value, _ in groups} == {("side", "left"), ("side", "right"), ("side", "both")}
    assert subgroups(table([0, 1], [0, 1])) == []


def test_sides_come_from_the_territory_where_the_label_does_not_say_them():
    frame = table([0, 1, 1], [0, 1, 1], territory=["", "MCA left", "ACA left;PCA right"])
    groups = {(group, value): np.flatnonzero(inside).tolist() for group, value, inside in subgroups(frame)}
    assert groups["side", "left"] == [1] and groups["side", "both"] == [2]


def test_severity_zero_holds_the_healthy_scans_and_the_others_do_not():
    frame = table([0, 0, 1, 1], [0, 1, 1, 0], severity=["CT-0", "CT-0", "CT-2", "CT-3"])
    rows = subgroup_table(frame, 0).set_index("value")
    assert rows.loc["CT-0", "lesion_specificity"] == 0.5 and np.isnan(rows.loc["CT-0", "lesion_sensitivity"])
    assert rows.loc["CT-2", "lesion_sensitivity"] == 1.0 and np.isnan(rows.loc["CT-2", "lesion_specificity"])


def test_mcnemar_counts_the_scans_on_which_the_methods_differ():
    labels = [1] * 12
    first = table(labels, [1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0])
    second = table(labels, [1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 0, 0])  # one lost, five gained
    result = compare(first, second, num_bootstrap=200)
    assert (result["only_first"], result["only_second"], result["scans"]) == (1, 5, 12)
    assert result["p_value"] == pytest.approx(2 * (1 + 6) / 2**6)  # P(X <= 1) of six fair coins, two-sided
    assert result["difference"] == pytest.approx(4 / 12)
    assert result["low"] <= result["difference"] <= result["high"]


def test_a_method_compared_with_itself_in_another_order_does_not_differ():
    frame = random_table(30, SIDES)
    result = compare(frame, frame.sample(frac=1, random_state=0), num_bootstrap=100)
    assert (result["difference"], result["low"], result["high"], result["p_value"]) == (0, 0, 0, 1)


def test_a_constant_gain_has_an_interval_without_width():
    labels = [0, 1] * 10
    gain = compare(table(labels, [1 - label for label in labels]), table(labels, labels), num_bootstrap=100)
    assert (gain["low"], gain["high"]) == (1.0, 1.0)  # paired: every patient gains the same


def test_methods_on_other_scans_are_not_compared():
    frame = table([0, 1], [0, 1])
    with pytest.raises(ValueError, match="compare predictions of one split"):
        compare(frame, frame.assign(key=["x", "y"]))
    with pytest.raises(ValueError, match="other labels"):
        compare(frame, frame.assign(label=[1, 1]))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"label": [0, 2]}, "label 2, which is none of 0 to 1"),
        ({"key": ["a", "a"]}, "two rows with the key a"),
        ({"prob_lesion": [0.5, np.nan]}, "missing or infinite"),
    ],
)
def test_a_table_that_cannot_be_scored_says_why(change, message):
    with pytest.raises(ValueError, match=message):
        predicted_classes(table([0, 1], [0, 1]).assign(**change))


def test_missing_columns_are_named():
    with pytest.raises(ValueError, match="lacks the column patient"):
        predicted_classes(table([0, 1], [0, 1]).drop(columns="patient"))
    with pytest.raises(ValueError, match="at least two classes"):
        predicted_classes(table([0, 1], [0, 1]).drop(columns="prob_lesion"))


def scans(num_scans=5, names=("healthy", "lesion"), slices=3, factor=1.0, **columns):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(num_scans, slices, 1, 16, 16, generator=generator)
    pixels[1] *= factor
    features = {
        "pixel_values": datasets.Array4D((slices, 1, 16, 16), "float32"),
        "label": datasets.ClassLabel(names=list(names)),
        "key": datasets.Value("string"),
        "severity": datasets.ClassLabel(names=["CT-0", "CT-1"]),
        "infarct_size": datasets.Value("int32"),
        "mask": datasets.Array3D((slices, 16, 16), "uint8"),
    }
    rows = {
        "pixel_values": pixels.numpy(),
        "label": [i % 2 for i in range(num_scans)],
        "key": [f"k{i}" for i in range(num_scans)],
        "severity": [None, *(i % 2 for i in range(1, num_scans))],
        "infarct_size": [None, *range(1, num_scans)],
        "mask": np.zeros((num_scans, slices, 16, 16), np.uint8),
    }
    features |= {name: datasets.Value("string") for name in columns}
    return datasets.Dataset.from_dict(rows | columns, features=datasets.Features(features)).with_format("torch")


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    kwargs = {"channels": [8, 8, 8, 8]}
    config = SliceClassifierConfig(backbone="resnet10t", backbone_kwargs=kwargs, num_channels=1, num_labels=2)
    return SliceClassifier(config).eval()


def test_predictions_are_the_classifiers_probabilities_whatever_the_batch(classifier):
    dataset = scans(subject=["a", "a", "b", "b", None])
    frame = predict(classifier, dataset, batch_size=2)
    assert list(frame.columns) == [
        *("key", "patient", "label", "prob_healthy", "prob_lesion", "decision", "severity", "infarct_size")
    ]
    with torch.no_grad():
        expected = classifier(dataset[:]["pixel_values"]).logits.softmax(1)[:, 1]
    assert frame["prob_lesion"].to_numpy() == pytest.approx(expected.numpy(), abs=1e-6)
    assert frame["patient"].tolist() == ["a", "a", "b", "b", "k4"]
    assert frame["severity"].tolist()[1:] == ["CT-1", "CT-0", "CT-1", "CT-0"] and pandas.isna(frame["severity"][0])
    assert np.isnan(frame["infarct_size"][0]) and frame["infarct_size"][4] == 4


class Recording(torch.nn.Module):
    """A classifier that calls a scan a lesion where its saliency is above one half on average."""

    config = SliceClassifierConfig(num_labels=2)
    device = torch.device("cpu")

    def forward(self, pixel_values, saliency=None):
        score = torch.zeros(len(pixel_values)) if saliency is None else saliency.mean((1, 2, 3, 4)) - 0.5
        return SimpleLogits(torch.stack([-score, score], 1))


class SimpleLogits:
    def __init__(self, logits):
        self.logits = logits


def test_saliency_goes_along_where_there_is_some_unless_it_is_not_wanted():
    plain = scans(2)
    maps = {"saliency": np.stack([np.full((3, 1, 16, 16), shade, np.float32) for shade in (0.1, 0.9)])}
    features = datasets.Features({"saliency": datasets.Array4D((3, 1, 16, 16), "float32")})
    dataset = datasets.concatenate_datasets([plain, datasets.Dataset.from_dict(maps, features=features)], axis=1)
    with_maps, without = predict(Recording(), dataset), predict(Recording(), dataset, saliency=False)
    assert decide(with_maps).tolist() == [0, 1] and "saliency" not in with_maps
    assert (without["prob_lesion"] == 0.5).all()
    with pytest.raises(ValueError, match="no column saliency"):
        predict(Recording(), plain, saliency=True)


def test_a_model_of_other_classes_is_one_sentence(classifier):
    with pytest.raises(InputError, match="tells healthy, lesion apart but the labels of the data set are none, left"):
        predict(classifier, scans(names=SIDES))


def test_a_model_that_did_not_name_its_classes_takes_the_names_of_the_data(classifier):
    nameless = SliceClassifier(
        SliceClassifierConfig(
            backbone="resnet10t", backbone_kwargs=classifier.config.backbone_kwargs, num_channels=1, num_labels=4
        )
    )
    assert predicted_classes(predict(nameless, scans(names=SIDES))) == SIDES


def test_logits_that_are_not_finite_name_the_scan(classifier):
    with pytest.raises(InputError, match="no finite logit for the scan k1"):
        predict(classifier, scans(3, factor=float("nan")))


def test_an_empty_split_has_nothing_to_score(classifier):
    with pytest.raises(InputError, match="holds no scan"):
        predict(classifier, scans(2).select([]))


def test_figures_are_written_whole(tmp_path):
    draw_confusions({"A": np.array([[3, 1], [0, 0]])}, ["healthy", "lesion"], "synthetic data", tmp_path / "c.png")
    lines = {"A": {1: (0.5, 0.1), 2: (0.7, None)}, "B": {1: (float("nan"), None)}}
    draw_lines(lines, ("infarct size", "sensitivity, %"), "synthetic data", tmp_path / "l.png")
    draw_lines({"A": {"CT-2": (0.5, None), "CT-3": (1.0, None)}}, ("severity", "%"), "", tmp_path / "s.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.png", "l.png", "s.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())


@pytest.mark.parametrize(("metadata", "word"), [({"slice": [3, 4]}, "slices"), ({}, "scans")])
def test_tables_call_slices_slices_and_scans_scans(metadata, word):
    predictions = {name: [table([0, 1], given, **metadata)] for name, given in (("one", [0, 1]), ("other", [1, 1]))}
    (comparison,), _ = compare_with_first(predictions, "split 'test'", num_bootstrap=10)
    assert f"Accuracy against one on the same {word}, split 'test'" in comparison.caption
