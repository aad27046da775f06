"""Facts about Krippendorff's alpha and about a model among readers."""

import numpy as np
import pandas
import pytest

from difffuse_hf.errors import InputError
from difffuse_hf.evaluation.agreement import krippendorff_alpha, pairwise_alpha, read_readers, reader_agreement

nan = np.nan
# Krippendorff (2011), Computing Krippendorff's Alpha-Reliability: 4 observers, 12 units.
TEXTBOOK = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
    [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan],
]


def alpha_by_double_sum(ratings, distance):
    """1 - D_o / D_e straight from the definition."""
    units = [[v for v in unit if v == v] for unit in np.asarray(ratings, float).T]
    units = [unit for unit in units if len(unit) > 1]
    every = [v for unit in units for v in unit]
    n = len(every)
    observed = sum(sum(distance(a, b) for a in unit for b in unit) / (len(unit) - 1) for unit in units) / n
    expected = sum(distance(a, b) for a in every for b in every) / (n * (n - 1))
    return 1 - observed / expected


@pytest.mark.parametrize("level, alpha", [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_the_textbook_example(level, alpha):
    assert krippendorff_alpha(TEXTBOOK, level) == pytest.approx(alpha, abs=5e-4)


@pytest.mark.parametrize("seed", range(3))
def test_alpha_is_the_double_sum_of_its_definition(seed):
    rng = np.random.default_rng(seed)
    ratings = rng.integers(3, size=(3, 6)).astype(float)
    ratings[rng.random(ratings.shape) < 0.2] = nan
    assert krippendorff_alpha(ratings) == pytest.approx(alpha_by_double_sum(ratings, lambda a, b: a != b))
    squares = alpha_by_double_sum(ratings, lambda a, b: (a - b) ** 2)
    assert krippendorff_alpha(ratings, "interval") == pytest.approx(squares)


def test_perfect_agreement_is_one_and_chance_about_zero():
    codes = np.random.default_rng(0).integers(4, size=(3, 3000))
    assert krippendorff_alpha([codes[0]] * 3) == 1
    assert krippendorff_alpha(codes) == pytest.approx(0, abs=0.03)


def test_two_readers_who_always_disagree_are_worse_than_chance():
    assert krippendorff_alpha([[0, 1, 0, 1], [1, 0, 1, 0]]) == pytest.approx(1 - 7 / 4)  # D_o = 1, D_e = 4/7


def test_the_names_of_nominal_codes_do_not_matter():
    swapped = np.array([nan, 4, 1, 5, 2, 3])[np.nan_to_num(TEXTBOOK).astype(int)]
    assert krippendorff_alpha(swapped) == pytest.approx(krippendorff_alpha(TEXTBOOK))
    assert krippendorff_alpha(swapped, "interval") != pytest.approx(krippendorff_alpha(TEXTBOOK, "interval"))


def test_without_variation_alpha_is_undefined():
    assert np.isnan(krippendorff_alpha([[1, 1, 1], [1, 1, nan]]))
    assert np.isnan(krippendorff_alpha([[1, 1, 2], [1, 1, nan]]))  # the 2 has nobody to compare with


def test_the_interval_holds_alpha_and_shrinks_with_the_units():
    width = {}
    for copies in (2, 32):
        result = krippendorff_alpha(np.tile(TEXTBOOK, copies), num_bootstrap=400)
        assert result["low"] <= result["alpha"] <= result["high"]
        width[copies] = result["high"] - result["low"]
    assert width[32] == pytest.approx(width[2] / 4, rel=0.3)
    again = krippendorff_alpha(TEXTBOOK, num_bootstrap=50, seed=1)
    assert again == krippendorff_alpha(TEXTBOOK, num_bootstrap=50, seed=1)


def test_wrong_arguments_are_one_sentence():
    with pytest.raises(ValueError, match="`level` is one of nominal"):
        krippendorff_alpha(TEXTBOOK, "cardinal")
    with pytest.raises(ValueError, match="no unit that two readers rated"):
        krippendorff_alpha([[1, nan], [nan, 2]])
    with pytest.raises(ValueError, match="at least two readers"):
        reader_agreement(pandas.DataFrame({"a": [0, 1], "model": [0, 1]}))
    with pytest.raises(ValueError, match="a column 'model'"):
        reader_agreement(pandas.DataFrame({"a": [0, 1], "b": [0, 1], "c": [0, 1]}))


@pytest.fixture
def readings():
    truth = np.random.default_rng(5).integers(4, size=120)
    noisy = {}
    for seed, (name, wrong) in enumerate({"R1": 0.1, "R2": 0.1, "R3": 0.6, "model": 0.1}.items()):
        rng = np.random.default_rng(seed)
        noisy[name] = np.where(rng.random(120) < wrong, rng.integers(4, size=120), truth).astype(float)
    return pandas.DataFrame(noisy)


def test_panels_are_alphas_of_their_members(readings):
    rows = reader_agreement(readings, num_bootstrap=0).set_index("panel")
    assert list(rows.index) == [
        "readers",
        "readers and model",
        *(f"model in place of R{i}" for i in (1, 2, 3)),
    ]
    for panel, members in {
        "readers": ["R1", "R2", "R3"],
        "readers and model": ["R1", "R2", "R3", "model"],
        "model in place of R2": ["R1", "R3", "model"],
    }.items():
        assert rows.loc[panel, "alpha"] == pytest.approx(krippendorff_alpha(readings[members].T))
    assert rows.loc["readers", "change_from_readers"] == 0
    change = rows["alpha"] - rows.loc["readers and model", "alpha"]
    assert rows["change_from_all"].to_numpy() == pytest.approx(change.to_numpy())


def test_a_model_in_place_of_the_worst_reader_raises_agreement(readings):
    rows = reader_agreement(readings, num_bootstrap=200).set_index("panel")
    worst = rows.loc["model in place of R3"]
    assert worst["change_from_readers_low"] > 0  # the whole interval of the paired change
    assert abs(rows.loc["model in place of R1", "change_from_readers"]) < worst["change_from_readers"] / 2


def test_a_model_that_copies_a_reader_changes_nothing_in_that_readers_place(readings):
    rows = reader_agreement(readings.assign(model=readings["R2"]), num_bootstrap=50).set_index("left_out")
    assert rows.loc["R2", [f"change_from_readers{end}" for end in ("", "_low", "_high")]].tolist() == [0, 0, 0]


def test_the_alpha_of_every_two_readers_is_that_of_their_common_scans(readings):
    """Table 4.4."""
    readings = readings.assign(R2=readings["R2"].where(readings.index > 3))
    table = pairwise_alpha(readings)
    assert list(table.columns) == list(table.index) == list(readings.columns)
    expected = krippendorff_alpha(readings.loc[readings.index > 3, ["R1", "R2"]].to_numpy().T)
    assert table.loc["R1", "R2"] == table.loc["R2", "R1"] == pytest.approx(expected)
    assert np.isnan(np.diag(table)).all() and table.loc["model", "R3"] == pytest.approx(
        krippendorff_alpha(readings[["model", "R3"]].to_numpy().T)
    )


def test_readings_are_read_by_name_or_index_and_blanks_are_missing(tmp_path):
    path = tmp_path / "readers.csv"
    path.write_text("key,R1,R2\ns1,none,Left\ns2,, 2\ns3,3,right\n")
    table = read_readers(path, ["none", "left", "right", "both"])
    assert table.index.tolist() == ["s1", "s2", "s3"]
    assert table["R2"].tolist() == [1, 2, 2]
    assert np.isnan(table.loc["s2", "R1"]) and table.loc["s3", "R1"] == 3


@pytest.mark.parametrize(
    "text, message",
    [
        ("scan,R1,R2\ns1,0,0\n", "needs a column 'key'"),
        ("key,R1\ns1,0\n", "at least two readers"),
        ("key,R1,R2\ns1,0,0\ns1,0,1\n", "two rows with the key s1"),
        ("key,R1,R2\ns1,0,middle\n", "column 'R2': 'middle' is none of the classes healthy, lesion"),
    ],
)
def test_readings_that_cannot_be_used_say_why(tmp_path, text, message):
    path = tmp_path / "readers.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_readers(path, ["healthy", "lesion"])
