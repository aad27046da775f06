"""How well classifiers tell the side of a lesion, or that there is one: the tables of chapters 4 and 5.

Predictions are a `pandas.DataFrame`, one row a scan: `key`, `patient`, `label` (an index of the classes, the first of
which is "no lesion"), `prob_<class>` for every class in order, and the metadata of the data set. The decision is the
class with the highest probability; nothing is chosen on the scans that are scored.

Every measure is a function of the confusion matrix or of ranks, both of which take weights. One weight a scan and
resample makes the bootstrap a matrix product; patients are drawn, never scans, so the scans of a patient stay
together.
"""

from collections.abc import Iterable

import numpy as np
import pandas
import torch
from rich.progress import track
from scipy.stats import binomtest

from ..errors import InputError
from ..reporting.tables import percentile_interval

PROBABILITY = "prob_"
CONDITIONS = ("old_infarct", "leukoaraiosis", "atrophy", "hyperdense_vessel")
GRADES = {"infarct_size": "infarct size", "severity": "severity"}  # of the lesion: IST-3, MosMed


@torch.no_grad()
def predict(
    classifier, dataset, batch_size: int = 16, saliency: bool | None = None, text: str = ""
) -> pandas.DataFrame:
    """Class probabilities of every scan of a split, with its label and metadata; on the classifier's device.

    Args:
        classifier (`PreTrainedModel`): `classifier(pixel_values, saliency)` with `logits` of shape (B, num_labels).
        dataset (`datasets.Dataset`): rows in torch format with `pixel_values` (S, C, H, W) or (C, H, W) in [0, 1],
            `label` (a `ClassLabel`), `key`, optionally `saliency` (S, 1, H, W) or (1, H, W), and metadata.
        batch_size (`int`): scans in a forward pass.
        saliency (`bool`, *optional*): whether the classifier is given the column `saliency`; by default where there
            is one.
        text (`str`): heads a progress bar; none is shown without it.

    Returns:
        `DataFrame`: predictions as in the head of this module. Class labels among the metadata are given by name.
        `patient` is the column `patient` or `subject`; without either every scan is a patient of its own.

    Raises:
        InputError: the classes of the model are not those of the data set, the split is empty, or a logit is not
            finite.
    """
    missing = [name for name in ("pixel_values", "label", "key") if name not in dataset.column_names]
    if saliency and "saliency" not in dataset.column_names:
        missing.append("saliency")
    if missing:
        raise ValueError(f"`dataset` has no column {' and no column '.join(missing)}; make it with `load_scans`.")
    if len(dataset) == 0:
        raise InputError("The split holds no scan, so there is nothing to score; choose another split.")
    inputs = ["pixel_values", *(["saliency"] if "saliency" in dataset.column_names else [])]
    names = _agreed_names(classifier.config, dataset.features["label"])
    used = inputs if saliency is None or saliency else inputs[:1]

    classifier.eval()
    images, logits = dataset.select_columns(used).with_format("torch"), []
    batches = [slice(start, start + batch_size) for start in range(0, len(dataset), batch_size)]
    for batch in track(batches, text, disable=not text):
        rows = images[batch]
        logits.append(classifier(**{name: rows[name].to(classifier.device) for name in used}).logits.float().cpu())
    logits = torch.cat(logits)  # (N, K)
    finite = logits.isfinite().all(1)
    table = _metadata(dataset, inputs)
    if not finite.all():
        scan = table["key"][int(finite.logical_not().nonzero()[0])]
        raise InputError(
            f"The classifier gives no finite logit for the scan {scan}; check its weights, and the scan's intensities."
        )
    probabilities = logits.double().softmax(1).numpy()
    for index, name in enumerate(names):
        table.insert(3 + index, PROBABILITY + name, probabilities[:, index])
    return table


def class_names(predictions: pandas.DataFrame) -> list[str]:
    """Names of the classes, in order; checks that the table can be scored.

    Raises:
        ValueError: a column is missing, a label is no class, a probability is missing, or a key comes twice.
    """
    names = [name.removeprefix(PROBABILITY) for name in predictions.columns if name.startswith(PROBABILITY)]
    missing = {"key", "patient", "label"} - set(predictions.columns)
    if missing or len(names) < 2:
        wanted = " and ".join(sorted(missing)) or f"{PROBABILITY}<class> for at least two classes"
        raise ValueError(f"`predictions` lacks the column {wanted}; it has {', '.join(predictions.columns)}.")
    if not predictions["label"].isin(range(len(names))).all():
        wrong = predictions.loc[~predictions["label"].isin(range(len(names))), "label"].iloc[0]
        raise ValueError(f"`predictions` has the label {wrong}, which is none of 0 to {len(names) - 1}.")
    if predictions["key"].duplicated().any():
        twice = predictions.loc[predictions["key"].duplicated(), "key"].iloc[0]
        raise ValueError(f"`predictions` has two rows with the key {twice}; keep one of them.")
    if not np.isfinite(_probabilities(predictions)).all():
        raise ValueError("`predictions` has probabilities that are missing or infinite; predict these scans again.")
    return names


def decide(predictions: pandas.DataFrame) -> np.ndarray:
    """The class with the highest probability, (N,)."""
    return _probabilities(predictions).argmax(1)


def confusion_matrix(predictions: pandas.DataFrame, weights: np.ndarray | None = None) -> np.ndarray:
    """Scans of each class (rows) by the class they are given (columns), (K, K); (R, K, K) with weights (R, N)."""
    num_classes = len(class_names(predictions))
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

    NaN where the weights leave no positive or no negative. scikit-learn's `roc_auc_score(sample_weight=...)` of every
    row of weights, in one pass.

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
    labels, probabilities = predictions["label"].to_numpy(), _probabilities(predictions)
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
    several = predictions["patient"].nunique(dropna=False) > 1
    return {
        name: {"value": float(values[0]), **percentile_interval(values[1:] if several else [], values[0], confidence)}
        for name, values in samples.items()
    }


def by_class(predictions: pandas.DataFrame) -> dict[str, dict[str, float]]:
    """Of each class: `scans`, and `sensitivity`, `specificity` and `auc` against the rest; NaN where undefined."""
    names, confusion = class_names(predictions), confusion_matrix(predictions)
    labels, probabilities = predictions["label"].to_numpy(), _probabilities(predictions)
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


def lesion_sites(territory: str) -> list[tuple[str, str]]:
    """Territory and side of every lesion named: `MCA superior left;ACA` gives (MCA superior, left) and (ACA, "")."""
    sites = []
    for entry in filter(None, (part.strip() for part in str(territory).split(";"))):
        words = entry.split()
        side = words[-1].lower() if words[-1].lower() in ("left", "right") else ""
        sites.append((" ".join(words[:-1] if side else words), side))
    return sites


def subgroups(predictions: pandas.DataFrame) -> list[tuple[str, str, np.ndarray]]:
    """Triples (group, value, which scans) in the order of the tables: time, lesion, background findings.

    Groups for which there is no metadata are left out, and a scan whose metadata are missing is in no group of them.
    The groups `lesions` (from `territory`), `side`, `territory`, `infarct size` ("small" is 1-2) and `severity` are
    defined by the lesion itself: but for 0 lesions, and CT-0, they hold no healthy scan, so specificity is not defined
    in them and sensitivity is the measure. A scan with two lesions is in the groups of both.
    """
    names = class_names(predictions)
    lesion = (predictions["label"] > 0).to_numpy()
    groups = []

    def add(group, value, inside):
        inside = np.asarray(inside, bool)
        if inside.any():
            groups.append((group, value, inside))

    if "time" in predictions:
        for value in ("baseline", "follow-up"):
            add("time", value, predictions["time"].eq(value))
    if "territory" in predictions:
        sites = [lesion_sites(text) if isinstance(text, str) else [] for text in predictions["territory"]]
        count = np.array([len(found) for found in sites])
        add("lesions", "0", ~lesion)
        add("lesions", "1", lesion & (count == 1))
        add("lesions", "2 or more", lesion & (count > 1))
    else:
        sites = [[] for _ in range(len(predictions))]
    named = {"left": {"left"}, "right": {"right"}, "both": {"left", "right"}}
    sides = [  # what the label says, or else the territories
        named.get(names[label]) or {side for _, side in found if side}
        for label, found in zip(predictions["label"], sites)
    ]
    for value, wanted in named.items():
        add("side", value, lesion & [side == wanted for side in sides])
    for value in sorted({name for found in sites for name, _ in found if name}):
        add("territory", value, lesion & [value in {name for name, _ in found} for found in sites])
    if "infarct_size" in predictions:
        size = pandas.to_numeric(predictions["infarct_size"]).to_numpy(float, na_value=np.nan)
        for grade in (1, 2, 3, 4):
            add("infarct size", str(grade), lesion & (size == grade))
        add("infarct size", "small (1-2)", lesion & ((size == 1) | (size == 2)))
    if "severity" in predictions:
        for value in sorted(predictions["severity"].dropna().unique()):
            add("severity", str(value), predictions["severity"].eq(value))
    for condition in CONDITIONS:
        if condition in predictions:
            known = pandas.to_numeric(predictions[condition].astype("Float64")).to_numpy(float, na_value=np.nan)
            add(condition.replace("_", " "), "present", known == 1)
            add(condition.replace("_", " "), "absent", known == 0)
    return groups


def subgroup_table(
    predictions: pandas.DataFrame, num_bootstrap: int = 1000, seed: int = 0, confidence: float = 0.95
) -> pandas.DataFrame:
    """Accuracy, and sensitivity and specificity for "lesion present", in every subgroup; "all" is the first row.

    Columns: `group`, `value`, `scans`, `patients`, `lesions` (scans with one), and of `accuracy`, `lesion_sensitivity`
    and `lesion_specificity` the value, `_low` and `_high`, NaN where it is undefined: see `subgroups`. And `auc`,
    lesion against none: of a group that the lesion defines, such as small infarcts, against all scans without one.
    """
    healthy = predictions[predictions["label"] == 0]
    everything = ("all", "", np.ones(len(predictions), bool))
    rows = []
    for group, value, inside in [everything, *subgroups(predictions)]:
        chosen = predictions[inside]
        row = {
            "group": group,
            "value": value,
            "scans": len(chosen),
            "patients": chosen["patient"].nunique(dropna=False),
        }
        row["lesions"] = int((chosen["label"] > 0).sum())
        results = evaluate(chosen, num_bootstrap, seed, confidence)
        for name in ("accuracy", "lesion_sensitivity", "lesion_specificity"):
            row |= {
                f"{name}{end}": results[name][key] for end, key in (("", "value"), ("_low", "low"), ("_high", "high"))
            }
        compared = pandas.concat([chosen, healthy]) if row["lesions"] == len(chosen) else chosen
        suspicion = 1 - _probabilities(compared)[:, 0]
        row["auc"] = float(roc_auc(suspicion, (compared["label"] > 0).to_numpy())[0])
        rows.append(row)
    return pandas.DataFrame(rows)


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
    if class_names(first) != class_names(second) or set(first["key"]) != set(second["key"]):
        raise ValueError("`first` and `second` hold other scans or other classes; compare predictions of one split.")
    second = second.set_index("key").loc[first["key"]].reset_index()
    if (first["label"].to_numpy() != second["label"].to_numpy()).any():
        raise ValueError("`first` and `second` give the same scans other labels; predict both from one data set.")
    drawn = patient_weights(first["patient"], num_bootstrap, seed)
    weights = np.concatenate([np.ones((1, len(first))), drawn])
    difference = measure(second, weights)[name] - measure(first, weights)[name]
    several = first["patient"].nunique(dropna=False) > 1
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


def _agreed_names(config, feature):
    """Class names that model and data set agree on; a model that has not named its classes takes the data's."""
    own = [config.id2label[index] for index in range(config.num_labels)]
    names = getattr(feature, "names", None)
    generic = all(name == f"LABEL_{index}" for index, name in enumerate(own))
    if names is None or own == names:
        return own
    if len(own) == len(names) and generic:
        return names
    raise InputError(
        f"The model tells {', '.join(own)} apart but the labels of the data set are {', '.join(names)}; score it "
        "on data with the labels it was trained on."
    )


def _metadata(dataset, inputs):
    """Everything but images as a table that starts with `key`, `patient` and `label`; class labels by name."""
    import datasets

    plain = dataset.remove_columns(inputs).with_format(None)
    arrays = (datasets.Array2D, datasets.Array3D, datasets.Array4D, datasets.Array5D)
    plain = plain.remove_columns([name for name, kind in plain.features.items() if isinstance(kind, arrays)])
    table = plain.to_pandas()
    for name, kind in plain.features.items():
        if isinstance(kind, datasets.ClassLabel) and name != "label":
            table[name] = [None if pandas.isna(code) else kind.names[int(code)] for code in table[name]]
    patient = next((name for name in ("patient", "subject") if name in table), "key")
    head = {"key": table["key"], "patient": table[patient].fillna(table["key"]), "label": table["label"]}
    return pandas.DataFrame(head | {name: table[name] for name in table if name not in head and name != patient})


def _probabilities(predictions):
    return predictions[[name for name in predictions.columns if name.startswith(PROBABILITY)]].to_numpy(float)


def _ratio(part, whole):
    part, whole = np.broadcast_arrays(np.asarray(part, float), np.asarray(whole, float))
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _mean_of_defined(values):
    """Mean over the last axis of what is not NaN; NaN where nothing is."""
    return _ratio(np.nansum(values, -1), np.isfinite(values).sum(-1))
