"""Facts about tables of results: what is printed, what is bold, and whose figure it is."""

import json
import math

import numpy as np
import pytest

from difffuse_hf.evaluation.statistics import mean_and_error, percentile_interval
from difffuse_hf.io.files import write_whole
from difffuse_hf.reporting.tables import Column, Table, interval_text, measures_table, write_tables
from difffuse_hf.reporting.thesis import THESIS

ACCURACY = Column("accuracy", "accuracy, %", scale=100)


def test_the_standard_error_is_s_over_the_root_of_n():
    assert mean_and_error([1.0, 2.0, 3.0]) == (2.0, pytest.approx(1 / math.sqrt(3)), 3)
    assert mean_and_error([4.0]) == (4.0, None, 1)  # one run says nothing about the spread
    mean, error, count = mean_and_error([math.nan, None])
    assert math.isnan(mean) and error is None and count == 0


def test_undefined_seeds_are_left_out_and_counted():
    table = measures_table({"A": [{"accuracy": 0.5}, {"accuracy": math.nan}, {}]}, [ACCURACY], "Test.")
    assert table.rows == [["A", "50.00 (n = 1)"]]


def test_an_undefined_measure_is_an_en_dash_in_every_format():
    table = measures_table({"A": [{"accuracy": math.nan}], "B": [{}]}, [ACCURACY], "Test.")
    assert [row[1] for row in table.rows] == ["–", "–"] and not table.bold
    assert "| A | – |" in table.markdown() and r"A & -- \\" in table.latex()
    assert interval_text(math.nan, 0.1, 0.2) == "–"


def test_the_best_row_is_bold_and_so_is_one_that_prints_the_same():
    results = {"A": [{"accuracy": 0.70001}], "B": [{"accuracy": 0.69999}], "C": [{"accuracy": 0.5}]}
    assert measures_table(results, [ACCURACY], "Test.").bold == {(0, 1), (1, 1)}
    smallest = Column("accuracy", "error", best="smallest")
    assert measures_table(results, [smallest], "Test.").bold == {(2, 1)}
    assert not measures_table(results, [Column("accuracy", "count", best=None)], "Test.").bold
    assert not measures_table({"A": [{"accuracy": 0.7}]}, [ACCURACY], "Test.").bold  # best of one
    alike = {name: [{"accuracy": 0.7}] for name in "AB"}
    assert not measures_table(alike, [ACCURACY], "Test.").bold  # nobody is best


def test_the_thesiss_figure_stands_beside_ours_under_its_own_name_and_is_never_bold():
    results = {"acat": [{"accuracy": 0.6}, {"accuracy": 0.7}], "ResNet18": [{"accuracy": 0.5}], "new": [{}]}
    table = measures_table(results, [ACCURACY], "Test.", thesis=["Table 5.1, IST-3", "Table 4.2"])
    assert table.head == ["method", "accuracy, %", "accuracy, %, thesis (real data)"]
    assert table.rows[0] == ["acat", "65.00 ± 5.00", "72.55 (Table 5.1, IST-3)"]
    assert table.rows[1][2] == "64.00 (Table 4.2)"  # not in the first source
    assert table.rows[2][1:] == ["–", "–"]
    assert table.bold == {(0, 1)}
    assert "1 to 2 seeds" in table.caption


def test_a_measure_that_the_thesis_does_not_give_has_no_column_of_it():
    table = measures_table({"ACAT": [{"auc": 0.6}]}, [Column("auc", "AUC")], "Test.", thesis=["Table 4.2"])
    assert table.head == ["method", "AUC"]


def test_chapter_six_prints_dice_with_three_digits():
    column = Column("dice", "Dice", digits=3)
    table = measures_table({"Dif-fuse": [{"dice": 0.5}]}, [column], "Slices.", thesis=["Table 6.1, BraTS"])
    assert table.rows == [["Dif-fuse", "0.500", "0.699 (Table 6.1, BraTS)"]]
    assert table.caption.startswith("Slices. One seed, so no standard error")


def test_one_seed_prints_its_interval_and_several_their_error():
    seed = {"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6}
    table = measures_table({"A": [seed], "B": [seed, seed]}, [ACCURACY], "Test.")
    assert [row[1] for row in table.rows] == ["50.00 (40.00 to 60.00)", "50.00 ± 0.00"]
    count = Column("scans", "scans", digits=0, best=None, spread=False)
    assert measures_table({"A": [{"scans": 4}, {"scans": 6}]}, [count], "Test.").rows == [["A", "5"]]


def test_the_thesiss_figures_are_fractions():
    figures = [value for table in THESIS.values() for rows in table.values() for value in rows.values()]
    assert len(figures) == 5 + 8 + 8 + 16 + 14 and all(0 < value < 1 for value in figures)


def test_latex_escapes_what_latex_would_read():
    table = Table("50 % of A_b & c", ["method", "x < 1"], [["a_1", "1 ± 2"]], {(0, 1)}, "tab:test")
    text = table.latex()
    assert r"\caption{50 \% of A\_b \& c}" in text and r"\label{tab:test}" in text
    assert r"a\_1 & \textbf{1 $\pm$ 2} \\" in text and "x $<$ 1" in text
    assert text.count("{") == text.count("}") and r"\begin{tabular}{lr}" in text


def test_markdown_keeps_its_columns_when_a_name_has_a_bar():
    line = Table("c", ["m", "x"], [["a|b", "1"]]).markdown().splitlines()[-1]
    assert line == r"| a\|b | 1 |"


def test_wrong_tables_are_one_sentence():
    with pytest.raises(ValueError, match="2 cells but its head has 1"):
        Table("c", ["m"], [["a", "b"]])
    with pytest.raises(ValueError, match="`results` has no row"):
        measures_table({}, [ACCURACY], "c")
    with pytest.raises(ValueError, match="names 'Table 9', but|names 'Table 9'"):
        measures_table({"A": [{}]}, [ACCURACY], "c", thesis=["Table 9"])
    with pytest.raises(ValueError, match='`best` is "largest"'):
        Column("a", "b", best="highest")
    with pytest.raises(ValueError, match="`confidence` is a fraction"):
        percentile_interval([1.0], 1.0, confidence=95)


def test_intervals_are_the_central_share_of_the_samples():
    samples = [*np.linspace(0, 1, 101), math.nan]
    assert percentile_interval(samples, 0.5, 0.9) == {"low": pytest.approx(0.05), "high": pytest.approx(0.95)}
    assert math.isnan(percentile_interval([], 0.5)["low"])
    assert interval_text(0.5, 0.25, 0.75) == "50.0 (25.0 to 75.0)" and interval_text(0.5, math.nan, math.nan) == "50.0"


def test_three_files_are_written_and_nan_is_null(tmp_path):
    tables = [Table("First.", ["m", "x"], [["a", "1"]]), Table("Second.", ["m", "x"], [["b", "2"]])]
    write_tables(tables, {"a": np.float64(1.5), "b": [math.nan], "c": np.array([[1, 2]])}, tmp_path / "new", "scores")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["scores.json", "scores.md", "scores.tex"]
    assert json.loads((tmp_path / "new" / "scores.json").read_text()) == {"a": 1.5, "b": [None], "c": [[1, 2]]}
    assert (tmp_path / "new" / "scores.tex").read_text().count(r"\begin{table}") == 2
    assert "First." in (tmp_path / "new" / "scores.md").read_text()


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fail)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"] and path.read_text() == "old"
