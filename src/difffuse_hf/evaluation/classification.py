"""How well classifiers tell the side of a lesion, or that there is one: the measures of chapters 4 and 5.

Every measure is a function of the confusion matrix or of ranks, both of which take weights. One weight a scan and
resample makes the bootstrap a matrix product; patients are drawn, never scans, so the scans of a patient stay
together. scikit-learn's functions give the same figures, one row of weights at a time.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas
from scipy.stats import binomtest

from .predictions import class_probabilities, decide, predicted_classes
from .statistics import percentile_interval


def confusion_matrix(predictions: pandas.DataFrame, weights: np.ndarray | None = None) -> np.ndarray:
    """Scans of each class (rows) by the class they are given (columns), (K, K); (R, K, K) with weights (R, N)."""
    num_classes = len(predicted_classes(predictions))
    cells = np.eye(num_classes**2)[predictions["label"].to_numpy() * num_classes + decide(predictions)]  # (N, K²)
    counts = cells.sum(0) if weights is None else weights @ cells
    return counts.reshape(*counts.shape[:-1], num_classes, num_classes)


def confusion_measures(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Measures of confusion matrices, NaN where a denominator is 0.

    Sensitivity TP / (TP + FN) and specificity TN / (TN + FP) of one class against the rest. *Macro* is the mean over
    the classes for which it is defined, *micro* that of the pooled counts, *lesion* that of "any class but the first".
    Micro sensitivity is the accuracy, and macro sensitivity the balanced accuracy; both are given under either name.

    Args:
        confusion (`np.ndarray` of shape `(..., K, K)`): [true class, class given], counts or weights.

    Returns:
        `dict`: measure to array of shape (...).
    """
    confusion = np.asarray(confusion, float)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)  # (..., K)
    positives = confusion.sum(-1)
    negatives = positives.sum(-1, keepdims=True) - positives
    rejected = negatives - (confusion.sum(-2) - hits)  # true negatives
    macro_sensitivity = _mean_of_defined(_ratio(hits, positives))
    micro_sensitivity = _ratio(hits.sum(-1), positives.sum(-1))
    return {
        "accuracy": micro_sensitivity,
        "balanced_accuracy": macro_sensitivity,
        "macro_sensitivity": macro_sensitivity,
        "macro_specificity": _mean_of_defined(_ratio(rejected, negatives)),
        "micro_sensitivity": micro_sensitivity,
        "micro_specificity": _ratio(rejected.sum(-1), negatives.sum(-1)),
        "lesion_sensitivity": _ratio(confusion[..., 1:, 1:].sum((-2, -1)), positives[..., 1:].sum(-1)),
        "lesion_specificity": _ratio(confusion[..., 0, 0], positives[..., 0]),
    }


def roc_auc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Area under the ROC curve, (R,): the chance that a positive scores above a negative, ties counting half.

    NaN where the weights leave no positive or no negative. The figures of scikit-learn's
    `roc_auc_score(sample_weight=...)` for every row of weights, 200 times as fast for 1,000 rows of 300 scans.

    Args:
        scores (`np.ndarray` of shape `(N,)`): larger is more positive.
        positive (`np.ndarray` of shape `(N,)`): bool.
        weights (`np.ndarray` of shape `(R, N)`, *optional*): one row of ones by default.
    """
    weights = np.ones((1, len(scores))) if weights is None else weights
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)  # of runs of equal scores
    above, below = (np.add.reduceat((weights * side)[:, order], starts, 1) for side in (positive, ~positive))  # (R, U)
    pairs = (above * (below.cumsum(1) - below / 2)).sum(1)
    return _ratio(pairs, above.sum(1) * below.sum(1))


def measure(predictions: pandas.DataFrame, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """All measures, (R,) each: those of `confusion_measures`, `auc` and `lesion_auc`.

    `lesion_auc` ranks the scans by the sum of the probabilities of all classes but the first; `auc` is the mean over
    the classes of the AUC of one class against the rest, which with two classes is `lesion_auc`.

    Args:
        weights (`np.ndarray` of shape `(R, N)`, *optional*): times that each scan is counted; once by default.
    """
    weights = np.ones((1, len(predictions))) if weights is None else weights
    labels, probabilities = predictions["label"].to_numpy(), class_probabilities(predictions)
    values = confusion_measures(confusion_matrix(predictions, weights))
    values["lesion_auc"] = roc_auc(probabilities[:, 1:].sum(1), labels > 0, weights)
    one_against_rest = [roc_auc(p, labels == k, weights) for k, p in enumerate(probabilities.T)]
    two = probabilities.shape[1] == 2
    values["auc"] = values["lesion_auc"] if two else _mean_of_defined(np.stack(one_against_rest, 1))
    return values


def patient_weights(patients: Iterable, num_bootstrap: int = 1000, seed: int = 0) -> np.ndarray:
    """Times that each scan is in each bootstrap sample, (num_bootstrap, N): as often as its patient is drawn.

    As many patients are drawn as there are, with replacement.
    """
    codes, known = pandas.factorize(np.asarray(list(patients), object), use_na_sentinel=False)
    draws = np.random.default_rng(seed).multinomial(len(known), np.full(len(known), 1 / len(known)), num_bootstrap)
    return draws[:, codes].astype(float)


def num_patients(predictions: pandas.DataFrame) -> int:
    """How many patients the scans are of."""
    return len(set(predictions["patient"]))


def evaluate(
    predictions: pandas.DataFrame, num_bootstrap: int = 1000, seed: int = 0, confidence: float = 0.95
) -> dict[str, dict[str, float]]:
    """Every measure with its percentile interval over bootstrap samples of patients.

    Samples in which a measure is undefined are left out of its interval. There is no interval (NaN) with one patient,
    with `num_bootstrap` = 0, or of an undefined measure. Where all scans are right, or none, no sample differs: that
    interval has no width, and is no certainty.

    Returns:
        `dict`: measure to `{"value": ..., "low": ..., "high": ...}`, fractions in [0, 1].
    """
    if len(predictions) == 0:
        raise ValueError("`predictions` has no row, so no measure is defined.")
    weights = patient_weights(predictions["patient"], num_bootstrap, seed)
    samples = measure(predictions, np.concatenate([np.ones((1, len(predictions))), weights]))
    several = num_patients(predictions) > 1
    return {
        name: {"value": float(values[0]), **percentile_interval(values[1:] if several else [], values[0], confidence)}
        for name, values in samples.items()
    }


def flat(results: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """`{"accuracy": ..., "accuracy_low": ..., "accuracy_high": ...}` of what `evaluate` gives."""
    ends = {"value": "", "low": "_low", "high": "_high"}
    return {f"{name}{end}": result[key] for name, result in results.items() for key, end in ends.items()}


def by_class(predictions: pandas.DataFrame) -> dict[str, dict[str, float]]:
    """Of each class: `scans`, and `sensitivity`, `specificity` and `auc` against the rest; NaN where undefined."""
    names, confusion = predicted_classes(predictions), confusion_matrix(predictions)
    labels, probabilities = predictions["label"].to_numpy(), class_probabilities(predictions)
    rows = {}
    for k, name in enumerate(names):
        others = np.delete(confusion, k, axis=0)  # scans of the other classes
        rows[name] = {
            "scans": int(confusion[k].sum()),
            "sensitivity": float(_ratio(confusion[k, k], confusion[k].sum())),
            "specificity": float(_ratio(others.sum() - others[:, k].sum(), others.sum())),
            "auc": float(roc_auc(probabilities[:, k], labels == k)[0]),
        }
    return rows


def compare(
    first: pandas.DataFrame,
    second: pandas.DataFrame,
    name: str = "accuracy",
    num_bootstrap: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, float]:
    """Second minus first in the measure `name`, on the same scans, and McNemar's exact test of who is right.

    Both methods are scored on the same bootstrap samples of patients. McNemar's test takes scans for independent,
    which several scans of a patient are not: the interval is the one to go by where they differ.

    Returns:
        `dict`: `difference`, `low`, `high`; `only_first` and `only_second`, scans that one method alone classifies
        rightly; `p_value`, two-sided, 1 where these are both 0; `scans`.

    Raises:
        ValueError: the tables do not hold the same scans with the same labels.
    """
    if predicted_classes(first) != predicted_classes(second) or set(first["key"]) != set(second["key"]):
        raise ValueError("`first` and `second` hold other scans or other classes; compare predictions of one split.")
    second = second.set_index("key").loc[first["key"]].reset_index()
    if (first["label"].to_numpy() != second["label"].to_numpy()).any():
        raise ValueError("`first` and `second` give the same scans other labels; predict both from one data set.")
    drawn = patient_weights(first["patient"], num_bootstrap, seed)
    weights = np.concatenate([np.ones((1, len(first))), drawn])
    difference = measure(second, weights)[name] - measure(first, weights)[name]
    several = num_patients(first) > 1
    right, right_too = (decide(table) == table["label"].to_numpy() for table in (first, second))
    only_first, only_second = int((right & ~right_too).sum()), int((right_too & ~right).sum())
    discordant = only_first + only_second
    return {
        "difference": float(difference[0]),
        **percentile_interval(difference[1:] if several else [], difference[0], confidence),
        "only_first": only_first,
        "only_second": only_second,
        "p_value": float(binomtest(only_first, discordant).pvalue) if discordant else 1.0,
        "scans": len(first),
    }


def _ratio(part, whole):
    part, whole = np.broadcast_arrays(np.asarray(part, float), np.asarray(whole, float))
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _mean_of_defined(values):
    """Mean over the last axis of what is not NaN; NaN where nothing is."""
    return _ratio(np.nansum(values, -1), np.isfinite(values).sum(-1))
