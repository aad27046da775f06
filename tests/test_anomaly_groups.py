"""Facts about figures by kind of lesion: pieces of slices, a cohort's table, and the tables of each group."""

import numpy as np
import pytest

from difffuse_hf.errors import InputError
from difffuse_hf.evaluation.admission import AdmissionTest
from difffuse_hf.evaluation.anomaly_runs import AnomalySettings, ScoredMethods
from difffuse_hf.evaluation.lesions import pieces_of_slices
from difffuse_hf.io.subjects import read_subjects
from difffuse_hf.reporting.anomaly_groups import Groups, group_tables
from difffuse_hf.reporting.anomaly_tables import write_anomaly_tables

KINDS = Groups("kind", {"a": "infarct", "b": "glioma", "c": "glioma", "elsewhere": "metastases"})
FAILED = AdmissionTest("change of healthy slices", 0.05, 0.02, False)


def seed(*dice, found=(2, 0, 1), wrong=(0, 3, 1)):
    return {"subject": ["a", "b", "c"], "dice": list(dice), "lesions": [2, 1, 1], "lesions_found": list(found),
            "false_positives": list(wrong)}  # fmt: skip


def scored(**admission):
    slices = {"Dif-fuse": [seed(0.2, 0.5, 0.7), seed(0.4, 0.5, 0.7)], "DDPM": [seed(0.1, 0.5, 0.3)] * 2}
    tiles = {name: np.full((1, 1, 8, 8), 0.5) for name in ("image", "lesion", "counterfactual", "map")}
    tiles["threshold"] = np.array(0.1)
    tests = {name: admission.get(name, [[], []]) for name in slices}
    results = {name: [{"dice": 0.5}, {"dice": 0.5}] for name in slices}
    return ScoredMethods(results, {}, dict.fromkeys(slices, tiles), slices, tests, {})


def test_pieces_of_a_slice_are_lesions_found_ones_and_flagged_ones_beside_them():
    drawn, found = np.zeros((2, 2, 9, 9), bool)
    drawn[0, 1:3, 1:3] = drawn[0, 6:8, 6:8] = True
    found[0, 2, 2] = found[0, 2, 4] = found[0, 0, 8] = True  # one in a lesion, two in none
    found[1, 4, 4] = True
    expected = {"lesions": [2, 0], "lesions_found": [1, 0], "false_positives": [2, 1]}
    assert pieces_of_slices(found, drawn) == expected


def test_each_kind_has_its_mean_over_slices_and_its_differences():
    dice, sensitivity, wrong, differences = group_tables(scored(), KINDS, "split 'test'", ["Dif-fuse", "not there"])
    assert dice.head == ["method", "glioma (2 subjects)", "infarct (1 subjects)", "all (3 subjects)"]
    assert dice.rows[0] == ["Dif-fuse", "0.600 ± 0.000", "0.300 ± 0.100", "0.500 ± 0.033"]
    assert sensitivity.rows[1] == ["DDPM", "50.0 ± 0.0", "100.0 ± 0.0", "75.0 ± 0.0"]  # 1 of 2 lesions, 2 of 2
    assert wrong.rows[1] == ["DDPM", "2.00 ± 0.00", "0.00 ± 0.00", "1.33 ± 0.00"]
    assert differences.rows[0][:3] == ["DDPM", "+0.200 ± 0.200", "+0.200"]  # one subject has no error
    assert "by kind, split 'test'" in dice.caption and len(differences.rows) == 1


def test_a_method_that_fails_its_test_is_judged_in_no_group():
    tables = group_tables(scored(DDPM=[[FAILED], []]), KINDS, "here", ["Dif-fuse"])
    assert [table.rows[1][1:] for table in tables[:3]] == [["–"] * 3] * 3
    assert tables[-1].rows == [["DDPM", *["not judged"] * 3]]


def test_a_subject_without_a_group_is_named(tmp_path):
    with pytest.raises(InputError, match="no row of the subject c, so its kind is not known"):
        group_tables(scored(), Groups("kind", {"a": "infarct", "b": "glioma"}), "here", [])
    write_anomaly_tables(scored(), AnomalySettings(), tmp_path, [str(tmp_path)], groups=KINDS)
    assert "lesions found, %, by kind" in (tmp_path / "anomaly.md").read_text()


def test_a_column_of_a_cohorts_table_is_read_and_what_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="There is no table .*subjects.csv; give the subjects.csv of the cohort"):
        read_subjects(tmp_path, "kind")
    table = tmp_path / "subjects.csv"
    table.write_text("subject,kind\na,glioma\nb,infarct\n")
    assert read_subjects(tmp_path, "kind") == read_subjects(table, "kind") == {"a": "glioma", "b": "infarct"}
    with pytest.raises(InputError, match="has no column group; it has subject, kind"):
        read_subjects(table, "group")
    table.write_text("")
    with pytest.raises(InputError, match="it has none at all"):
        read_subjects(table, "kind")
