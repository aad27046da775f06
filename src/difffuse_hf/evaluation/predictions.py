"""What classifiers say about the scans of a split: class probabilities in a table, kept in files.

Predictions are a `pandas.DataFrame`, one row a scan: `key`, `patient`, `label` (an index of the classes, the first of
which is "no lesion"), `prob_<class>` for every class in order, `decision`, the class that the model decides on (of the
half-brain CNN presence first, then side; of others the likeliest), and the metadata of the data set. Nothing is chosen
on the scans that are scored.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import pandas
import torch
from rich.progress import track

from ..data.scans import load_scans
from ..errors import InputError
from ..io.files import write_whole
from ..models.auto import load_classifier

PROBABILITY, DECISION = "prob_", "decision"


class ClassifierRun(NamedTuple):
    """One seed of a method: its model, the data set that it is scored on, and the maps it needs, all as folders."""

    model: str
    dataset: str
    saliency: str | None = None


def predict_runs(
    methods: Mapping[str, Sequence[ClassifierRun]],
    folder: str | Path,
    split: str = "test",
    batch_size: int = 16,
    device: str = "cpu",
    overwrite: bool = False,
    soft: bool = False,
) -> dict[str, list[pandas.DataFrame]]:
    """Predictions of every seed of every method, kept in `folder`.

    A file that is there is taken if it is of this model and data and newer than both, unless `overwrite`. With `soft`
    the models' own decisions are left out, so that the highest probability decides.

    Raises:
        InputError: two names of methods give one file name, or a model or data set cannot be used.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stems = {name: re.sub(r"[^\w.-]+", "_", name) for name in methods}
    if len(set(stems.values())) < len(stems):
        raise InputError(f"The names {', '.join(stems)} do not all give different file names; rename a method.")
    predictions: dict[str, list[pandas.DataFrame]] = {}
    for name, runs in methods.items():
        predictions[name] = []
        for number, run in enumerate(runs):
            path = folder / f"predictions_{stems[name]}_{number}.parquet"
            table = None if overwrite else read_predictions(path, run, split)
            if table is None:
                classifier = load_classifier(run.model).to(device)  # pyright: ignore[reportArgumentType]
                rows = load_scans(run.dataset, split, saliency=run.saliency)
                table = predict(classifier, rows, batch_size, text=path.stem.removeprefix("predictions_"))
                table.attrs = _origin(run, split)
                write_whole(path, table.to_parquet)
            predictions[name].append(table.drop(columns=DECISION) if soft else table)
    return predictions


def read_predictions(path: Path, run: ClassifierRun, split: str) -> pandas.DataFrame | None:
    """The predictions in a file, if they are of this model and data and newer than both."""
    if not path.exists():
        return None
    table, written = pandas.read_parquet(path), path.stat().st_mtime
    known = DECISION in table and table.attrs == _origin(run, split)  # 0.1.0 wrote no decisions
    current = known and all(written > _last_change(one) for one in run if one)
    return table if current else None


def _origin(run: ClassifierRun, split: str) -> dict:
    return {**run._asdict(), "split": split}


def _last_change(folder: str) -> float:
    """When the newest file of a folder was written; 0 for what is not on this disk."""
    return max((file.stat().st_mtime for file in Path(folder).rglob("*") if file.is_file()), default=0.0)


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
    if hasattr(classifier, "decide"):  # of ours
        table.insert(3 + len(names), DECISION, classifier.decide(logits).numpy())
    return table


def predicted_classes(predictions: pandas.DataFrame) -> list[str]:
    """Names of the classes, in order; checks that the table can be scored.

    Raises:
        ValueError: a column is missing, a label is no class, a probability is missing, or a key comes twice.
    """
    names = [name.removeprefix(PROBABILITY) for name in predictions.columns if name.startswith(PROBABILITY)]
    missing = {"key", "patient", "label"} - set(predictions.columns)
    if missing or len(names) < 2:
        wanted = " and ".join(sorted(missing)) or f"{PROBABILITY}<class> for at least two classes"
        raise ValueError(f"`predictions` lacks the column {wanted}; it has {', '.join(predictions.columns)}.")
    unknown = [label for label in predictions["label"] if label not in range(len(names))]
    if unknown:
        raise ValueError(f"`predictions` has the label {unknown[0]}, which is none of 0 to {len(names) - 1}.")
    if predictions["key"].duplicated().any():
        twice = predictions.loc[predictions["key"].duplicated(), "key"].iloc[0]
        raise ValueError(f"`predictions` has two rows with the key {twice}; keep one of them.")
    if not np.isfinite(class_probabilities(predictions)).all():
        raise ValueError("`predictions` has probabilities that are missing or infinite; predict these scans again.")
    return names


def class_probabilities(predictions: pandas.DataFrame) -> np.ndarray:
    """The probabilities of all classes, (N, K)."""
    return predictions[[name for name in predictions.columns if name.startswith(PROBABILITY)]].to_numpy(float)


def decide(predictions: pandas.DataFrame) -> np.ndarray:
    """The class that the model decided on, (N,); that of highest probability in a table without decisions."""
    if DECISION in predictions:
        return predictions[DECISION].to_numpy(int)
    return class_probabilities(predictions).argmax(1)


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
