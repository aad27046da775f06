"""Statistics of results: mean and standard error over seeds or clusters, percentile intervals of a bootstrap.

A measure that is undefined is NaN (or None, or missing) and is left out; it never becomes a figure.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike


def mean_and_error(values: Sequence[float | None]) -> tuple[float, float | None, int]:
    """Mean, standard error s/√n with s² over n - 1, and the number n of the values that are defined.

    The mean of no value is NaN; of fewer than two values there is no error (None), which is not an error of 0.
    """
    array = np.asarray([value for value in values if value is not None], float)
    array = array[np.isfinite(array)]
    if len(array) == 0:
        return math.nan, None, 0
    error = float(array.std(ddof=1) / math.sqrt(len(array))) if len(array) > 1 else None
    return float(array.mean()), error, len(array)


def clustered_mean_and_error(values: ArrayLike, clusters: Sequence) -> tuple[float, float | None, int]:
    """Mean of values that are alike within a cluster, its standard error, and the number G of clusters.

        error = √(G / (G − 1) · Σ_g (Σ_{i ∈ g} (x_i − x̄))²) / n

    That is s/√n where every value is a cluster of its own; one cluster has no error (None).
    """
    array = np.asarray(values, float)
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    mean = float(array.mean())
    sums = np.bincount(index, array - mean)
    count = len(sums)
    error = float(np.sqrt(count / (count - 1) * (sums**2).sum()) / len(array)) if count > 1 else None
    return mean, error, count


def percentile_interval(samples: ArrayLike, value: float, confidence: float = 0.95) -> dict[str, float]:
    """`low` and `high` of a bootstrap; samples that are NaN are left out, and NaN has no interval but NaN."""
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` is a fraction between 0 and 1, got {confidence}; 0.95 is usual.")
    array = np.asarray(samples, float)
    array = array[np.isfinite(array)]
    if len(array) == 0 or not math.isfinite(value):
        return {"low": math.nan, "high": math.nan}
    low, high = np.quantile(array, [(1 - confidence) / 2, (1 + confidence) / 2])
    return {"low": float(low), "high": float(high)}


def mean_over_seeds(
    results: Mapping[str, Sequence[Mapping[str, float]]], measures: Sequence[str] | None = None
) -> dict[str, dict[str, dict]]:
    """`{row: {measure: {"mean", "standard_error", "seeds", "values"}}}` of `{row: [measures of a seed, ...]}`.

    Args:
        measures: which ones; by default all that any seed of a row has.
    """
    summary: dict[str, dict[str, dict]] = {}
    for row, seeds in results.items():
        summary[row] = {}
        for measure in dict.fromkeys(name for seed in seeds for name in seed) if measures is None else measures:
            values = [seed.get(measure, math.nan) for seed in seeds]
            mean, error, count = mean_and_error(values)
            summary[row][measure] = {"mean": mean, "standard_error": error, "seeds": count, "values": values}
    return summary
