"""The script that scores classifiers, on synthetic scans with the metadata of IST-3 and tiny untrained networks."""

import importlib.util
import json
import os
from pathlib import Path

import datasets
import numpy as np
import pandas
import pytest
import torch
from sklearn.metrics import roc_auc_score

from difffuse_hf import SliceClassifier, SliceClassifierConfig
from difffuse_hf.data.scans import SaliencyStore, load_scans
from difffuse_hf.errors import InputError
from difffuse_hf.evaluation.predictions import ClassifierRun, decide, predict, predict_runs
from difffuse_hf.reporting.classification_tables import common_classes, reader_tables

SCRIPT = Path(__file__).parents[1] / "examples" / "evaluate_classification.py"
SIDES = ["none", "left", "right", "both"]
NUM_SCANS = 12


def run(*flags):
    specification = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    module.main([str(flag) for flag in (*flags, "--bootstrap", 50, "--device", "cpu")])


def write_scans(folder):
    """Twelve scans of six patients, saved as a test split, with a card that calls them synthetic."""
    labels = [i % 4 for i in range(NUM_SCANS)]
    territory = ["", "MCA superior left", "MCA superior right", "MCA superior left;ACA right"]
    columns = {
        "image": (
            datasets.Array4D((2, 1, 16, 16), "float32"),
            np.random.default_rng(0).random((NUM_SCANS, 2, 1, 16, 16)),
        ),
        "label": (datasets.ClassLabel(names=SIDES), labels),
        "time": (datasets.ClassLabel(names=["baseline", "follow-up"]), [i % 2 for i in range(NUM_SCANS)]),
        "infarct_size": (datasets.Value("int32"), [(0, 1, 2, 4)[label] for label in labels]),
        "territory": (datasets.Value("string"), [territory[label] for label in labels]),
        "old_infarct": (datasets.Value("bool"), [None, *[bool(i % 3) for i in range(1, NUM_SCANS)]]),
        "patient": (datasets.Value("string"), [f"p{i // 2}" for i in range(NUM_SCANS)]),
        "scan_id": (datasets.Value("string"), [f"s{i}" for i in range(NUM_SCANS)]),
    }
    features = datasets.Features({name: feature for name, (feature, _) in columns.items()})
    rows = {name: values.astype("float32") if name == "image" else values for name, (_, values) in columns.items()}
    test = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"test": test}).save_to_disk(str(folder))
    (folder / "README.md").write_text("---\ntags:\n- synthetic\n---\nSynthetic scans.\n")
    return folder


def write_classifier(folder, seed):
    torch.manual_seed(seed)
    kwargs = {"channels": [8, 8, 8, 8]}
    names = {"id2label": dict(enumerate(SIDES)), "label2id": {name: i for i, name in enumerate(SIDES)}}
    config = SliceClassifierConfig(backbone="resnet10t", backbone_kwargs=kwargs, num_channels=1, **names)
    model = SliceClassifier(config)
    torch.nn.init.normal_(model.head.weight, std=3.0)  # untrained, but not always of one opinion
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A baseline of two seeds and an ACAT of one, two readers, and a curve of two sizes."""
    root = tmp_path_factory.mktemp("classification")
    data = write_scans(root / "data")
    models = [write_classifier(root / f"model{seed}", seed) for seed in range(3)]
    keys = [f"s{i}" for i in range(NUM_SCANS)]
    store = SaliencyStore(root / "maps", "test", {"method": "none"}, chunk=NUM_SCANS)
    store.write(range(NUM_SCANS), keys, torch.rand(NUM_SCANS, 2, 1, 16, 16))
    lines = [f"{key},{SIDES[i % 4]},{SIDES[(i // 2) % 4] if i else ''}" for i, key in enumerate(keys)]
    (root / "readers.csv").write_text("\n".join(["key,Dr A,Dr B", *lines, "unknown scan,left,left"]) + "\n")
    run(
        *("--method", "baseline", models[0], data, "--method", "baseline", models[1], data),
        *("--method", "ACAT", models[2], data, root / "maps"),
        *("--curve", "baseline", 100, models[0], data, "--curve", "baseline", 200, models[1], data),
        *("--output_dir", root / "out", "--readers", root / "readers.csv", "--cohort", "ist3", "--batch_size", 5),
    )
    return root


def test_every_file_of_the_evaluation_is_there_and_no_half_of_one(root):
    assert sorted(path.name for path in (root / "out").iterdir()) == [
        "accuracy_by_training_scans.png",
        "auc_gain_by_size.png",
        "classification.json",
        "classification.md",
        "classification.tex",
        "confusion_matrices.png",
        "predictions_ACAT_0.parquet",
        "predictions_baseline-100-scans_0.parquet",
        "predictions_baseline-200-scans_0.parquet",
        "predictions_baseline_0.parquet",
        "predictions_baseline_1.parquet",
        "sensitivity_by_size.png",
    ]


def test_predictions_are_those_of_the_model_on_disk(root):
    table = pandas.read_parquet(root / "out" / "predictions_baseline_1.parquet")
    classifier = SliceClassifier.from_pretrained(root / "model1")
    expected = predict(classifier, load_scans(str(root / "data"), "test"))
    pandas.testing.assert_frame_equal(table, expected, check_dtype=False)
    assert table["time"].tolist() == ["baseline", "follow-up"] * 6 and table["patient"].nunique() == 6


def test_the_figures_in_the_json_are_those_of_the_predictions(root):
    data = json.loads((root / "out" / "classification.json").read_text())
    assert data["synthetic"] is True and data["classes"] == SIDES and data["split"] == "test"
    seeds = data["methods"]["baseline"]
    accuracies = []
    for i in (0, 1):
        table = pandas.read_parquet(root / "out" / f"predictions_baseline_{i}.parquet")
        accuracies.append((decide(table) == table["label"]).mean())
        assert seeds[i]["measures"]["accuracy"]["value"] == pytest.approx(accuracies[i])
        assert np.sum(seeds[i]["confusion"]) == seeds[i]["scans"] == NUM_SCANS and seeds[i]["patients"] == 6
    assert [point["training_scans"] for point in data["curve"]] == [100, 200]
    assert data["curve"][0]["seeds"][0]["accuracy"] == pytest.approx(accuracies[0])
    (whole, *by_size) = data["auc_differences"]["ACAT"]
    tables = [pandas.read_parquet(root / "out" / f"predictions_{name}_0.parquet") for name in ("baseline", "ACAT")]
    auc = [roc_auc_score(one["label"] > 0, 1 - one["prob_none"]) for one in tables]
    assert whole["difference"] == pytest.approx(auc[1] - auc[0]) and whole["standard_error"] is None
    assert {row["group"] for row in by_size} == {"infarct size"}
    (comparison,) = data["comparisons"]
    acat = data["methods"]["ACAT"][0]["measures"]["accuracy"]["value"]
    assert comparison["difference"] == pytest.approx(acat - accuracies[0])  # seed by seed
    assert data["methods"]["ACAT"][0]["saliency"].endswith("maps")


def test_the_tables_say_that_the_data_are_synthetic_and_whose_figure_is_whose(root):
    text = (root / "out" / "classification.md").read_text()
    main = text[: text.index("\n\n", text.index("| ACAT"))] if "\n\n" in text[text.index("| ACAT") :] else text
    assert "synthetic data" in main and "12 scans of 6 patients" in main and "1 to 2 seeds" in main
    assert "accuracy, %, thesis (real data)" in main and "72.55 (Table 5.1, IST-3)" in main
    row = next(line for line in text.splitlines() if line.startswith("| infarct size: 1 |"))
    assert row.split(" | ")[4] == "–"  # no healthy scan, so no specificity
    assert "| baseline in place of Dr A |" in text and "on 12 scans" in text
    assert "baseline, 200 scans" in text and "p (McNemar)" in text
    assert "| ACAT − baseline |" in text and "AUC of lesions of a grade" in text
    assert r"\toprule" in (root / "out" / "classification.tex").read_text()


def test_predictions_are_used_again_until_the_model_changes(root, tmp_path):
    run = ClassifierRun(str(write_classifier(tmp_path / "model", 5)), str(root / "data"))
    path = tmp_path / "predictions_A_0.parquet"
    predict_runs({"A": [run]}, tmp_path)
    written = path.stat().st_mtime_ns
    predict_runs({"A": [run]}, tmp_path)
    assert path.stat().st_mtime_ns == written
    predict_runs({"A": [run]}, tmp_path, overwrite=True)
    again = path.stat().st_mtime_ns
    assert again > written
    later = path.stat().st_mtime + 10
    os.utime(write_classifier(tmp_path / "model", 6) / "model.safetensors", (later, later))
    (other,) = predict_runs({"A": [run]}, tmp_path)["A"]
    assert path.stat().st_mtime_ns > again
    (older,) = predict_runs({"A": [run._replace(model=str(root / "model0"))]}, tmp_path)["A"]  # but another one
    assert not older["prob_none"].equals(other["prob_none"])


def test_what_cannot_be_scored_is_one_sentence(root, tmp_path):
    run = ClassifierRun(str(root / "model0"), str(root / "data"))
    with pytest.raises(InputError, match="No classifier could be loaded"):
        predict_runs({"A": [run._replace(model=str(tmp_path / "nothing"))]}, tmp_path)
    with pytest.raises(InputError, match="do not all give different file names"):
        predict_runs({"A b": [run], "A/b": [run]}, tmp_path)
    table = pandas.read_parquet(root / "out" / "predictions_baseline_0.parquet")
    (tmp_path / "readers.csv").write_text("key,R1,R2\nx,left,left\n")
    with pytest.raises(InputError, match="No `key` of .*readers.csv is that of a scan in the split 'test'"):
        reader_tables(tmp_path / "readers.csv", {"A": [table]}, "split 'test'")
    (tmp_path / "readers.csv").write_text("key,A,R2\ns1,left,left\n")
    with pytest.raises(InputError, match="a reader called 'A'"):
        reader_tables(tmp_path / "readers.csv", {"A": [table]}, "split 'test'")
    other = table.rename(columns={"prob_both": "prob_any"})
    with pytest.raises(InputError, match="tell different classes apart .none, left, right, any against none"):
        common_classes([table, other])


def test_wrong_usage_says_what_an_option_takes(tmp_path, capsys):
    for flags, message in {
        (): "give a --method or a --curve",
        ("--method", "A", "model"): "--method takes NAME MODEL DATASET [SALIENCY], got A model",
        ("--curve", "A", "many", "model", "data"): "with a whole number N, got A many model data",
        ("--curve", "A", "5", "m", "d", "--readers", "r.csv"): "give a --method to compare the readers with",
    }.items():
        with pytest.raises(SystemExit) as exit:
            run(*flags, "--output_dir", tmp_path)
        assert exit.value.code == 2 and message in capsys.readouterr().err
