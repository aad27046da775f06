"""examples/evaluate_scans.py: whole scans scored against their drawn lesions."""

import json
import shutil

import numpy as np
import pytest
from test_examples import run
from tiny_scans import lesion, tiny_pipeline, tiny_volumes, write_case

from difffuse_hf.errors import InputError
from difffuse_hf.io.nifti import SYNTHETIC
from difffuse_hf.reporting.scan_tables import by_group

SCRIPT = "examples/evaluate_scans.py"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A model that takes flair alone, too, and three cases with the kind of their lesions."""
    root = tmp_path_factory.mktemp("scans")
    pipeline = tiny_pipeline()
    pipeline.processor.optional_modalities = tuple(pipeline.processor.modalities[1:])
    pipeline.register_to_config(anomaly_channels=[0])
    pipeline.save_pretrained(root / "model")
    rows = ["subject,kind"]
    for number, kind in enumerate(("glioma", "infarct", "glioma")):
        write_case(root / "cases" / f"Case_{number}", tiny_volumes(number), descrip=SYNTHETIC)
        rows.append(f"Case_{number},{kind}")
    (root / "cases" / "subjects.csv").write_text("\n".join(rows) + "\n")
    return root


def test_each_kind_of_lesion_has_a_row_and_what_is_finished_is_not_made_again(cohort, tmp_path, capsys, monkeypatch):
    flags = (cohort / "model", "--cases", cohort / "cases", "--group_by", "kind", "--seeds", 0, 1, "--device", "cpu",
             "--output_dir", tmp_path / "out")  # fmt: skip
    run(SCRIPT, *flags)
    table = (tmp_path / "out" / "scans.md").read_text()
    assert "3 synthetic" in table and "over 2 seeds" in table
    assert all(row in table for row in ("| glioma (2 scans) |", "| infarct (1 scans) |", "| all (3 scans) |"))
    found = json.loads((tmp_path / "out" / "scans.json").read_text())["results"]
    drawn = np.count_nonzero(lesion()) / 1000
    assert [one["drawn_ml"] for seeds in found.values() for one in seeds] == pytest.approx([drawn] * 6)
    assert found["Case_0"][0]["found_ml"] != found["Case_0"][1]["found_ml"]  # another seed

    monkeypatch.setattr("difffuse_hf.evaluation.lesions.score_scan", None)  # so that nothing more can be scored
    run(SCRIPT, *flags)
    assert json.loads((tmp_path / "out" / "scans.json").read_text())["results"] == found
    with pytest.raises(TypeError):
        run(SCRIPT, *flags, "--modalities", "flair")  # other settings: made again


def test_modalities_that_are_not_named_are_as_if_never_acquired(cohort, tmp_path, capsys):
    case = cohort / "cases" / "Case_0"
    run(SCRIPT, cohort / "model", "--cases", case, "--output_dir", tmp_path / "all", "--device", "cpu")
    run(SCRIPT, cohort / "model", "--cases", case, "--output_dir", tmp_path / "one", "--device", "cpu",
        "--modalities", "flair", "--pictures")  # fmt: skip
    results = [json.loads((tmp_path / name / "scans.json").read_text())["results"] for name in ("all", "one")]
    assert results[0]["Case_0"][0]["found_ml"] != results[1]["Case_0"][0]["found_ml"]
    assert (tmp_path / "one" / "Case_0.png").exists() and not (tmp_path / "all" / "Case_0.png").exists()
    tables = [(tmp_path / name / "scans.md").read_text() for name in ("all", "one")]
    assert "only flair" in tables[1] and ["grain" in table for table in tables] == [False, True]


@pytest.mark.parametrize(
    ("cases", "flags", "said"),
    [
        (["nowhere"], (), "nowhere is no folder"),
        (["cases", "cases"], (), "named Case_0"),
        (["cases"], ("--group_by", "colour"), "has no column colour; it has subject, kind"),
        (["cases/Case_0/.."], ("--group_by", "kind", "--modalities", "t9"), "lacks flair"),
    ],
)
def test_what_cannot_be_scored_is_said(cohort, tmp_path, cases, flags, said):
    with pytest.raises(InputError, match=said):
        run(SCRIPT, cohort / "model", "--cases", *(cohort / one for one in cases), *flags, "--device", "cpu",
            "--output_dir", tmp_path / "out")  # fmt: skip


def test_a_group_has_the_mean_of_its_scans_in_each_seed_and_leaves_out_what_is_undefined():
    results = {
        "a": [{"dice": 0.2, "false_positives": 1}, {"dice": 0.4, "false_positives": 2}],
        "b": [{"dice": 0.6, "false_positives": 3}, {"dice": 0.8, "false_positives": 4}],
        "c": [{"false_positives": 11}, {"false_positives": 12}],  # without a lesion
    }
    rows = by_group(results, {"a": "x", "b": "x", "c": "none"})
    assert [one["dice"] for one in rows["x (2 scans)"]] == pytest.approx([0.4, 0.6])
    assert [one["false_positives"] for one in rows["all (3 scans)"]] == pytest.approx([5, 6])
    assert [one["dice"] for one in rows["all (3 scans)"]] == pytest.approx([0.4, 0.6])


def test_another_scan_of_the_same_name_is_scored_anew(cohort, tmp_path, capsys):
    drawn = []
    for number in (0, 1):
        case = write_case(tmp_path / str(number) / "Case", reference=number == 0)
        run(SCRIPT, cohort / "model", "--cases", case, "--output_dir", tmp_path / "out", "--device", "cpu")
        drawn.append("drawn_ml" in json.loads((tmp_path / "out" / "scans.json").read_text())["results"]["Case"][0])
    assert drawn == [True, False]


def test_a_case_of_bids_is_one_case_and_a_folder_of_them_holds_several(cohort, tmp_path, capsys):
    for number in (1, 2):
        folder = tmp_path / "bids" / f"sub-0{number}" / "anat"
        folder.mkdir(parents=True)
        for file in (cohort / "cases" / "Case_0").glob("Case_0_*"):
            end = {"flair": "FLAIR", "t1": "T1w", "t1ce": "ce-gd_T1w", "t2": "T2w", "seg": "dseg"}
            shutil.copy(file, folder / f"sub-0{number}_{end[file.name.split('.')[0].rsplit('_', 1)[1]]}.nii.gz")
    for cases, names in (("bids/sub-01", ["sub-01"]), ("bids", ["sub-01", "sub-02"])):
        output = tmp_path / names[-1]
        run(SCRIPT, cohort / "model", "--cases", tmp_path / cases, "--output_dir", output, "--device", "cpu")
        assert list(json.loads((output / "scans.json").read_text())["results"]) == names
