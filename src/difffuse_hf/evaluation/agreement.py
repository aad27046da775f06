"""Agreement among readers of scans, and of a model with them: Krippendorff's alpha (Tables 4.4 and 4.5).

    α = 1 - D_o / D_e,   D_o = 1/n Σ_u Σ_{i≠j in u} d(v_i, v_j) / (m_u - 1),   D_e = 1/(n (n - 1)) Σ_{i≠j} d(v_i, v_j)

over the n ratings of units u that m_u >= 2 readers rated (Krippendorff, Content Analysis, Ch. 12): 1 is perfect
agreement, 0 that of chance. d is 0 or 1 at the nominal level.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas

from ..errors import InputError
from .statistics import percentile_interval

LEVELS = ("nominal", "ordinal", "interval", "ratio")


def krippendorff_alpha(
    ratings,
    level: str = "nominal",
    num_bootstrap: int = 0,
    seed: int = 0,
    confidence: float = 0.95,
) -> float | dict[str, float]:
    """Krippendorff's alpha; with `num_bootstrap` also its percentile interval over resampled units.

    NaN where every rating is the same: without variation chance agrees as well, and alpha is undefined. Such bootstrap
    samples are left out of the interval.

    Args:
        ratings (`array` of shape `(readers, units)`): numbers, NaN where a reader did not rate a unit.
        level (`str`): "nominal", "ordinal", "interval" or "ratio".
        num_bootstrap (`int`): bootstrap samples of the units; 0 for the value alone.

    Returns:
        `float`, or `{"alpha": ..., "low": ..., "high": ...}` with `num_bootstrap`.

    Raises:
        ValueError: the level is unknown, or no unit is rated by two readers.
    """
    counts, domain = _value_counts(ratings, level)
    alpha = _alpha(counts, domain, level)
    if not num_bootstrap:
        return alpha
    draws = np.random.default_rng(seed).integers(len(counts), size=(num_bootstrap, len(counts)))
    return {
        "alpha": alpha,
        **percentile_interval([_alpha(counts[draw], domain, level) for draw in draws], alpha, confidence),
    }


def reader_agreement(
    table: pandas.DataFrame,
    model: str = "model",
    level: str = "nominal",
    num_bootstrap: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> pandas.DataFrame:
    """Alpha among the readers, of readers and model, and with the model in the place of each reader (Tables 4.4, 4.5).

    Of the panel "readers and model", leaving out the model gives the readers, and leaving out a reader puts the model
    in that reader's place: one row for each member left out says both how the panel does without that member, and how
    well the model stands in. All panels are scored on the same bootstrap samples of units, so that changes are paired.

    Args:
        table (`DataFrame`): a row a scan, a column of numbers (or NaN) for every reader and one for the model.
        model (`str`): the model's column.

    Returns:
        `DataFrame`: `panel`, `left_out`, `members`, and `alpha`, `change_from_readers` (the alpha minus that of the
        readers), both with `_low` and `_high`, and `change_from_all` (minus that of readers and model).

    Raises:
        ValueError: there is no column of the model, or there are fewer than two readers.
    """
    readers = [name for name in table.columns if name != model]
    if model not in table.columns or len(readers) < 2:
        raise ValueError(
            f"`table` needs a column {model!r} and at least two readers, got {', '.join(map(str, table.columns))}."
        )
    panels = {("readers", model): readers, ("readers and model", ""): [*readers, model]}
    for reader in readers:
        panels[f"{model} in place of {reader}", reader] = [*(name for name in readers if name != reader), model]
    draws = np.random.default_rng(seed).integers(len(table), size=(num_bootstrap, len(table)))
    values, samples = {}, {}
    for panel, members in panels.items():
        counts, domain = _value_counts(table[members].to_numpy(float).T, level, keep_units=True)
        values[panel] = _alpha(counts, domain, level)
        samples[panel] = np.array([_alpha(counts[draw], domain, level) for draw in draws])
    first, everyone = list(panels)[:2]
    rows = []
    for panel, members in panels.items():
        row = {"panel": panel[0], "left_out": panel[1], "members": len(members)}
        change = values[panel] - values[first]
        for name, value, drawn in (
            ("alpha", values[panel], samples[panel]),
            ("change_from_readers", change, samples[panel] - samples[first]),
        ):
            interval = percentile_interval(drawn, value, confidence)
            row |= {name: value, f"{name}_low": interval["low"], f"{name}_high": interval["high"]}
        row["change_from_all"] = values[panel] - values[everyone]
        rows.append(row)
    return pandas.DataFrame(rows)


def pairwise_alpha(table: pandas.DataFrame, level: str = "nominal") -> pandas.DataFrame:
    """Alpha of every two columns of readings, a square table (Table 4.4); NaN where two share no scan."""
    names = list(table.columns)
    values = pandas.DataFrame(float("nan"), index=names, columns=names)
    for first, second in combinations(names, 2):
        both = table[[first, second]].dropna()
        if len(both):
            alpha = krippendorff_alpha(both.to_numpy(float).T, level)
            values.loc[first, second] = values.loc[second, first] = alpha
    return values


def read_readers(path: str | Path, names: Sequence[str]) -> pandas.DataFrame:
    """A CSV of readings, `key` and one column a reader, as class indices by key; NaN where a cell is blank.

    Args:
        names: the classes in order; a cell holds one of them (in upper or lower case) or its index.

    Raises:
        InputError: no column `key`, fewer than two readers, a key that comes twice, or a word that is no class.
    """
    table = pandas.read_csv(path, dtype=str, keep_default_na=False).rename(columns=str.strip)
    readers = [name for name in table.columns if name != "key"]
    if "key" not in table or len(readers) < 2:
        raise InputError(
            f"{path} needs a column 'key' and one for each of at least two readers; it has {', '.join(table.columns)}."
        )
    if table["key"].duplicated().any():
        twice = table.loc[table["key"].duplicated(), "key"].iloc[0]
        raise InputError(f"{path} has two rows with the key {twice}; keep one of them.")
    codes = {name.lower(): index for index, name in enumerate(names)} | {str(i): i for i in range(len(names))}
    readings = {}
    for reader in readers:
        words = table[reader].str.strip().str.lower()
        wrong = ~words.isin([*codes, ""])
        if wrong.any():
            raise InputError(
                f"{path}, column '{reader}': '{table.loc[wrong, reader].iloc[0]}' is none of the classes "
                f"{', '.join(names)}; correct it, or leave the cell blank."
            )
        readings[reader] = words.map(codes).astype(float)
    return pandas.DataFrame(readings).set_index(table["key"].str.strip())


def _value_counts(ratings, level, keep_units=False):
    """How often each value was given to each unit (units, V), of units rated twice, and the values."""
    ratings = np.asarray(ratings, float)
    if level not in LEVELS:
        raise ValueError(f"`level` is one of {', '.join(LEVELS)}, got {level!r}.")
    if ratings.ndim != 2:
        raise ValueError(f"`ratings` has the shape (readers, units), got {ratings.shape}.")
    domain = np.unique(ratings[np.isfinite(ratings)])
    counts = (ratings.T[..., None] == domain).sum(1)
    pairable = counts.sum(1) > 1
    if not pairable.any():
        raise ValueError("`ratings` has no unit that two readers rated; alpha compares ratings of the same unit.")
    return (counts * pairable[:, None] if keep_units else counts[pairable]), domain


def _alpha(counts, domain, level):
    import krippendorff

    if len(domain) < 2 or (counts.sum(1) < 2).all():
        return float("nan")
    with np.errstate(invalid="ignore", divide="ignore"):  # 0/0 where a sample holds one value only
        return float(krippendorff.alpha(value_counts=counts, value_domain=domain, level_of_measurement=level))
