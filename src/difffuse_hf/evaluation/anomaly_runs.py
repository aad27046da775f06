"""Seeds of many methods on slices with drawn lesions (thesis Table 6.1): scored once, kept in files, and taken again.

Every threshold is the best on the run's validation split; the test split, and data sets that a model has never seen,
choose nothing. Where no validation lesion is drawn there is no threshold, and what needs one is not scored.
"""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..data.slices import load_slices
from ..errors import InputError
from ..io.files import write_whole
from ..models.auto import load_classifier
from ..models.precision import fastest_dtype, to_fastest
from ..pipelines.auto import load_pipeline
from ..pipelines.pipeline_masked import MaskedPipeline
from .admission import AdmissionTest, admission_tests
from .anomaly import (
    Slices,
    Threshold,
    as_slices,
    choose_threshold,
    healthy_threshold,
    label_threshold,
    run_method,
    score_counterfactuals,
    score_healthy,
    score_maps,
    size_edges,
    twin_errors,
)
from .calibration import Calls
from .effort import at_an_edge, chosen_of
from .image_quality import classifier_features, inception_features, kid
from .lesions import pieces_of_slices
from .needs import labels_needed, networks_needed, painters
from .segmentation import dice

Make = Callable[[torch.Tensor, str], tuple[torch.Tensor, torch.Tensor]]
SHOWN = 4  # slices that are kept for the figure


class AnomalyRun(NamedTuple):
    """One seed of a method: model folder, data set folder, options of the pipeline's call as JSON, and the classifier
    that judges its counterfactuals: a folder, or the pipeline's own where it has one."""

    model: str
    dataset: str
    options: str = "{}"
    classifier: str | None = None


@dataclass(frozen=True)
class AnomalySettings:
    """How all runs are scored."""

    out_of_domain: Sequence[str] = ()  # data sets whose test splits are scored as well, thresholds as before
    classifiers: Sequence[str] = ()  # of each seed: judges the counterfactuals; its features make the kernel distance
    inception: bool = False  # take Inception's features instead
    limit: int | None = None  # slices of each class and split
    limit_healthy: int | None = None  # of the healthy ones, if not as many
    seed: int = 0  # of the sampling; a run's number is added
    batch_size: int = 16
    device: str = "cpu"
    dtype: str = "float32"  # of the U-Net; "auto" is the fastest that the device has, as in detection
    channels: Sequence[int] | None = None  # those that the slices keep, the others are 0; all by default

    def features(self) -> str:
        """What KID is computed over, in words."""
        if self.inception:
            return "Inception's features"
        if not self.classifiers:
            return "features of each model's own classifier, where it has one, not Inception's"
        whose = "" if len(self.classifiers) == 1 else "each seed's classifier, "
        return f"features of {whose}{', '.join(self.classifiers)}, not Inception's"

    def with_classifiers(self, methods: Mapping[str, Sequence[AnomalyRun]]) -> dict[str, list[AnomalyRun]]:
        """The runs with the classifier of their seed.

        Raises:
            InputError: one classifier would judge seeds of different data, whose test slices it may have learned; or
                there are fewer classifiers than seeds.
        """
        given, judged = self.classifiers, {}
        for name, runs in methods.items():
            if len(given) == 1 and len({run.dataset for run in runs}) > 1:
                raise InputError(
                    f"{given[0]} would judge {name} on seeds of different data, and may have been trained on the test "
                    "slices of one; give a --classifier for each seed, in their order."
                )
            if 1 < len(given) < len(runs):
                raise InputError(f"{name} has {len(runs)} seeds, but there are {len(given)} classifiers.")
            chosen = [None] * len(runs) if not given else list(given) * len(runs) if len(given) == 1 else given
            judged[name] = [run._replace(classifier=one) for run, one in zip(runs, chosen)]
        return judged


class ScoredMethods(NamedTuple):
    """Of each method the measures of its seeds, the same for every other data set, the slices of its first seed for
    the figure (`image`, `lesion`, `counterfactual`, `map`, `threshold`), the admission tests, and `about` each seed
    what it needs (`networks`, `labels`) and how it was tuned (`setting`, `at_an_edge`), where its folder says so.

    `slices` has lists over the test slices of each seed: `subject`, `dice`, what `pieces_of_slices` counts and, where
    there are healthy twins, `twin_error`."""

    results: dict[str, list[dict]]
    out_of_domain: dict[str, dict[str, list[dict]]]
    tiles: dict[str, dict[str, np.ndarray]]
    slices: dict[str, list[dict[str, list]]]
    admission: dict[str, list[list[AdmissionTest]]]
    about: dict[str, list[dict[str, Any]]]


class Thresholds(NamedTuple):
    """What is chosen on validation slices: the threshold with the best Dice and the areas that part the lesions, None
    and none where no lesion is drawn; the threshold of the healthy slices alone, where there are some; and that of the
    labels of both, where there are."""

    best: Threshold | None
    edges: Sequence[float]
    healthy: Threshold | None
    labels: Threshold | None = None


def assembled_methods(folder: str, dataset: str) -> list[tuple[str, AnomalyRun]]:
    """Names and runs of the methods in a folder of assemble_competitors.py."""
    path = Path(folder) / "methods.json"
    if not path.exists():
        raise InputError(f"{folder} holds no methods.json; make it with examples/assemble_competitors.py.")
    methods = json.loads(path.read_text())
    return [(one["name"], AnomalyRun(one["model"], dataset, json.dumps(one["options"]))) for one in methods]


def score_runs(
    methods: Mapping[str, Sequence[AnomalyRun]], folder: Path, settings: AnomalySettings, overwrite: bool = False
) -> ScoredMethods:
    """Score every run, or take what `folder` has of it from before (`<method>_<number>.json` and `.npz`).

    Raises:
        InputError: the options of a run are no JSON, or a model or data set cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scored = ScoredMethods({}, {dataset: {} for dataset in settings.out_of_domain}, {}, {}, {}, {})
    for name, runs in settings.with_classifiers(methods).items():
        stem = re.sub(r"[^\w.-]+", "_", name)
        paths = [folder / f"{stem}_{number}.json" for number in range(len(runs))]
        done = []
        for number, (run, path) in enumerate(zip(runs, paths)):
            found = None if overwrite else read_result(path, run, settings)
            done.append(found or score_run(name, number, run, path, settings))
        scored.results[name] = [one["test"] for one in done]
        scored.slices[name] = [one["slices"] for one in done]
        scored.about[name] = [one["about"] for one in done]
        scored.admission[name] = [[AdmissionTest(**test) for test in one["admission"]] for one in done]
        for dataset, elsewhere in scored.out_of_domain.items():
            elsewhere[name] = [one["out_of_domain"][dataset] for one in done]
        scored.tiles[name] = dict(np.load(paths[0].with_suffix(".npz")))
    return scored


def read_result(path: Path, run: AnomalyRun, settings: AnomalySettings) -> dict | None:
    """A result from before, if it is of the same model, data and settings and newer than the model."""
    if not path.exists() or not path.with_suffix(".npz").exists():
        return None
    done = json.loads(path.read_text())
    index = Path(run.model) / "model_index.json"
    newer = index.exists() and path.stat().st_mtime > index.stat().st_mtime and "about" in done
    return done if newer and done["origin"] == _origin(run, settings) else None


def score_run(name: str, number: int, run: AnomalyRun, path: Path, settings: AnomalySettings) -> dict:
    """Threshold from the validation split, measures of the test split and of the other data sets; kept in `path`."""
    try:
        options = json.loads(run.options)
    except json.JSONDecodeError as error:
        raise InputError(f"The options of {name}, {run.options}, are no JSON ({error}).") from error
    pipeline = load_pipeline(run.model, settings.device)
    if settings.dtype == "auto" and "unet" in pipeline.components:
        to_fastest(pipeline.unet, fastest_dtype(settings.device))
    judge = judge_of(pipeline, run, settings.device)
    sampling = {"seed": settings.seed + number, "batch_size": settings.batch_size, **options}

    def make(images: torch.Tensor, what: str) -> tuple[torch.Tensor, torch.Tensor]:
        return run_method(pipeline, images, label=f"{name}, {what}", **sampling)

    limits = (settings.limit, settings.limit_healthy)
    validation, test = (
        as_slices(load_slices(run.dataset, split), split, *limits).given(settings.channels)
        for split in ("validation", "test")
    )
    result: dict[str, Any] = {"origin": _origin(run, settings), "about": about(pipeline, run.model)}
    result["admission"] = [asdict(one) for one in admission_tests(pipeline, validation, make)]
    thresholds = choose_thresholds(make, validation)
    if thresholds.best is not None:
        result |= {"threshold": thresholds.best.value, "validation_dice": thresholds.best.dice}
    with Calls(*painters(pipeline)) as calls:
        result["test"], result["slices"], shown = score_slices(make, test, thresholds, judge, settings.inception)
    if calls.networks:
        result["test"]["calls"] = calls.images / len(test.images)
    result["out_of_domain"] = {}
    for dataset in settings.out_of_domain:
        foreign = as_slices(load_slices(dataset, "test"), "test", *limits).given(settings.channels)
        foreign = foreign.with_lesion()
        result["out_of_domain"][dataset] = score_slices(make, foreign, thresholds, judge, settings.inception)[0]
    write_whole(path.with_suffix(".npz"), lambda file: _save_arrays(file, shown))
    write_whole(path, lambda file: file.write_text(json.dumps(result, indent=2)))
    return result


def about(pipeline, folder: str) -> dict[str, Any]:
    """What a method needs, and how it was tuned where its folder has a `tuning.json`."""
    tuned, found = Path(folder) / "tuning.json", {}
    if tuned.exists():
        tuning = json.loads(tuned.read_text())
        found = {"setting": chosen_of(tuning), "at_an_edge": at_an_edge(tuning)}
    return {"networks": networks_needed(pipeline), "labels": labels_needed(pipeline), **found}


def judge_of(pipeline, run: AnomalyRun, device: str):
    """The classifier that says whether counterfactuals pass as healthy: the run's, or the pipeline's own, or None."""
    if run.classifier is not None:
        return load_classifier(run.classifier).eval().to(device)  # pyright: ignore[reportArgumentType]
    return pipeline.classifier if isinstance(pipeline, MaskedPipeline) else None


def choose_thresholds(make: Make, validation: Slices) -> Thresholds:
    """What the slices of a validation split decide; `make` as in `score_slices`."""
    best, edges, healthy, labels = None, [], None, None
    sick, well = (validation.select(validation.labels == label) for label in (1, 0))
    maps, healthy_maps = (
        make(some.images, what)[0] if len(some.images) else some.masks
        for some, what in ((sick, "validation"), (well, "validation, healthy"))
    )
    if sick.drawn.any():
        best, edges = choose_threshold(maps[sick.drawn], sick.select(sick.drawn)), size_edges(sick)
    if len(healthy_maps):
        healthy = healthy_threshold(healthy_maps, well)
    if len(maps) and len(healthy_maps):
        labels = label_threshold(maps, sick, healthy_maps, well)
    return Thresholds(best, edges, healthy, labels)


def score_slices(
    make: Make,
    slices: Slices,
    thresholds: Thresholds,
    judge=None,
    inception: bool = False,
) -> tuple[dict[str, float], dict[str, list], dict[str, np.ndarray]]:
    """All measures on one set of slices, some of each slice (see `ScoredMethods`), and a few with what became of them.

    `dice_no_masks` is the Dice at the threshold of healthy validation slices, `dice_by_labels` at that of their labels
    and all others'; all else is at the best threshold.

    Args:
        make: `make(images, text of a progress bar)` gives anomaly maps and counterfactuals, see `run_method`.
        thresholds: overlaps are of the slices in which a lesion is drawn.
        judge (`PreTrainedModel`, *optional*): classifier that says whether counterfactuals pass as healthy.
        inception (`bool`): KID over Inception's features; over those of the judge otherwise.
    """
    sick, healthy = slices.with_lesion(), slices.select(slices.labels == 0)
    start = time.perf_counter()
    maps, made = make(sick.images, slices.split)
    measures = {"seconds_per_slice": (time.perf_counter() - start) / len(sick.images)}
    drawn = sick.drawn
    threshold, found, known = thresholds.best, maps[drawn], sick.select(drawn)
    of_slices: dict[str, list] = {"subject": [], "dice": []}
    if threshold is not None and drawn.any():
        measures["threshold"] = threshold.value
        measures |= score_maps(found, known, threshold, thresholds.edges)
        flagged = found >= threshold.value
        of_slices = {"subject": known.subjects, "dice": dice(flagged, known.masks).tolist()}
        of_slices |= pieces_of_slices(flagged[:, 0].numpy(), known.masks[:, 0].numpy() > 0)
        if known.healthy is not None:
            of_slices["twin_error"] = twin_errors(made[drawn], known).tolist()
    for name, without_masks in (("dice_no_masks", thresholds.healthy), ("dice_by_labels", thresholds.labels)):
        if without_masks is not None and drawn.any():
            measures[name] = float(dice(found >= without_masks.value, known.masks).mean())
    measures |= score_counterfactuals(made, sick, judge)
    if len(healthy.images):
        kept_maps, kept = make(healthy.images, "healthy")
        measures |= score_healthy(kept_maps, kept, healthy, threshold)
        if (inception or judge is not None) and min(len(healthy.images), len(made)) > 1:  # of one slice there is none
            extractor = inception_features() if inception else classifier_features(judge)
            measures["kid"] = kid(healthy.images, made, extractor)[0]
    few = torch.linspace(0, len(maps) - 1, min(SHOWN, len(maps))).long()
    return (
        measures,
        of_slices,
        {
            "image": sick.images[few, :1].numpy(),
            "lesion": sick.masks[few].nan_to_num().numpy(),  # no outline where nobody drew one
            "counterfactual": made[few, :1].numpy(),
            "map": maps[few].numpy(),
            "threshold": np.array(np.inf if threshold is None else threshold.value),
        },
    )


def _origin(run: AnomalyRun, settings: AnomalySettings) -> dict:
    """What a result depends on."""
    names = ("inception", "limit", "limit_healthy", "seed", "channels", "dtype")
    known = {name: getattr(settings, name) for name in names}
    return {**run._asdict(), "out_of_domain": list(settings.out_of_domain), **known}


def _save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]
