"""Saliency methods held against the lesions of many scans, and sanity checks of them (thesis Ch. 5).

A run is a seed: a classifier, an autoencoder and the data set whose scans are looked at, and optionally ACAT with the
maps that it was trained on, as a classifier of its own: the second round.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from rich.progress import track
from torch import nn

from ..data.scans import load_scans
from ..errors import InputError
from ..models.auto import load_classifier
from ..models.modeling_autoencoder import ResNetAutoencoder
from ..saliency.methods import METHODS, saliency_method
from .atlas import cerebral_territories, load_atlas, regions_of_scan, territory_mask
from .localisation import known_mask, localise
from .robustness import preactivation_variances, randomisation_check

SECOND_ROUND = "acat_own_classifier"
MODES = ("cascade", "independent")  # of the randomisation check


class SaliencyRun(NamedTuple):
    """One seed: folders of its networks and its data, of ACAT, and of the maps that ACAT was trained on."""

    classifier: str
    autoencoder: str
    dataset: str
    acat: str | None = None
    saliency: str | None = None


@dataclass(frozen=True)
class SaliencySettings:
    """How all runs are scored."""

    split: str = "test"
    limit: int | None = None  # scans of each run, evenly spaced
    atlas: str | None = None  # NIfTI label map in MNI space, or "jhu"
    methods: Sequence[str] = METHODS
    options: Mapping[str, Mapping] = field(default_factory=dict)  # {method: {name: value}}
    target: str = "label"  # class that is explained: "label" or "predicted"
    tolerance: float = 0.0  # pixels by which the maximum may miss
    seed: int = 0  # of the methods that draw at random, for every scan
    device: str = "cpu"


class LesionScan(NamedTuple):
    """A scan with a lesion: `image` ((S,) C, H, W), `saliency` for ACAT, and what is known of the lesion."""

    key: str
    image: torch.Tensor
    saliency: torch.Tensor | None
    label: int
    size: int | None
    mask: np.ndarray | None
    territory: np.ndarray | None

    def batch(self, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Image, label and saliency as a batch of one."""
        saliency = None if self.saliency is None else self.saliency[None].to(device)
        return self.image[None].to(device), torch.tensor([self.label], device=device), saliency


class Explainer(NamedTuple):
    """A method and the model that it explains: `method(model, image, label, saliency)` gives the maps of a batch."""

    method: Callable[..., torch.Tensor]
    model: nn.Module


class ScoredRun(NamedTuple):
    """Of each method the measures of each scan; the methods and scans themselves; the maps of a few scans."""

    measures: dict[str, list[dict]]
    explainers: dict[str, Explainer]
    scans: list[LesionScan]
    maps: dict[int, dict[str, torch.Tensor]]


def score_run(run: SaliencyRun, settings: SaliencySettings, text: str = "", num_kept: int = 0) -> ScoredRun:
    """Every method on every scan with a known lesion.

    Args:
        text (`str`): heads the progress bars.
        num_kept (`int`): scans with a drawn lesion whose maps are kept, evenly spread.
    """
    scans = lesion_scans(run.dataset, run.saliency, settings)
    explainers = make_explainers(run, settings)
    drawn = [index for index, scan in enumerate(scans) if scan.mask is not None]
    kept = {index: {} for index in _spread(drawn, num_kept)}
    measures: dict[str, list[dict]] = {}
    for name, (method, model) in explainers.items():
        measures[name] = []
        for index, scan in enumerate(track(scans, f"{text}, {name}", disable=not text)):
            found = method(model, *scan.batch(settings.device))[0].cpu()
            measures[name].append(measure_map(scan, found, settings.tolerance))
            if index in kept:
                kept[index][name] = found
    return ScoredRun(measures, explainers, scans, kept)


def lesion_scans(dataset: str, saliency: str | None, settings: SaliencySettings) -> list[LesionScan]:
    """Scans (or slices) of the split whose lesion is drawn, or whose territory the atlas knows.

    Args:
        dataset, saliency: folders of the data set and of its maps.

    Raises:
        InputError: there is none.
    """
    rows = load_scans(dataset, settings.split, saliency)
    atlas = settings.atlas and load_atlas(None if settings.atlas == "jhu" else settings.atlas)
    sick = np.flatnonzero(np.asarray(rows["label"][:]) > 0)
    about = [name for name in ("infarct_size", "territory", "to_mni_mm", "source_slices") if name in rows.column_names]
    facts = rows.select_columns(about).with_format(None) if about else None
    masks = rows.select_columns(["mask"]).with_format("numpy") if "mask" in rows.column_names else None
    images = rows.with_format("torch", columns=[n for n in ("pixel_values", "saliency") if n in rows.column_names])

    def look(index: int) -> LesionScan:
        fact, tensors = (facts[index] if facts else {}), images[index]
        mask, territory = None if masks is None else known_mask(masks[index]), None
        named = fact.get("territory") or ""
        named = cerebral_territories(named) if settings.atlas == "jhu" else named
        if atlas and named:
            row = {**fact, "pixel_values": tensors["pixel_values"]}
            territory = territory_mask(regions_of_scan(row, atlas), atlas, named)
        if territory is not None and not territory.any():
            territory = None
        label, size = int(rows["label"][index]), fact.get("infarct_size")
        key, given = rows["key"][index], tensors.get("saliency")
        return LesionScan(key, tensors["pixel_values"], given, label, size, mask, territory)

    known = [scan for scan in map(look, sick.tolist()) if scan.mask is not None or scan.territory is not None]
    if not known:
        raise InputError(
            f"No scan in the split '{settings.split}' of {dataset} has a drawn lesion (column `mask`) or, with an "
            "atlas, a territory that the atlas knows; prepare the data set with masks."
        )
    return _spread(known, settings.limit or len(known))


def make_explainers(run: SaliencyRun, settings: SaliencySettings) -> dict[str, Explainer]:
    """The methods of the settings on the run's classifier and, where there is ACAT, the second round on ACAT."""
    network = _frozen(load_classifier(run.classifier), settings.device)
    autoencoder = _frozen(ResNetAutoencoder.from_pretrained(run.autoencoder).eval(), settings.device)
    highest = network.config.num_labels - 1  # pyright: ignore[reportOptionalOperand]

    def make(name: str, guided: bool = False) -> Callable[..., torch.Tensor]:
        def method(model, image, label, saliency):
            torch.manual_seed(settings.seed)  # SmoothGrad and RISE: every scan and every network gets the same noise
            # A classifier of two classes tells lesion or not.
            target = label.clamp(max=highest) if settings.target == "label" else None
            given = {"saliency": saliency} if guided else {}
            function = saliency_method(name, model, autoencoder, **settings.options.get(name, {}))
            return function(image, target, **given)

        return method

    explainers = {name: Explainer(make(name), network) for name in settings.methods}
    if run.acat:
        model = _frozen(load_classifier(run.acat), settings.device)
        explainers[SECOND_ROUND] = Explainer(make("class_agnostic_saliency", guided=True), model)
    return explainers


def measure_map(scan: LesionScan, saliency: torch.Tensor, tolerance: float = 0.0) -> dict:
    """What is said of one map, the lesion's measures and, with `territory_` before them, the territory's."""
    measures: dict = {"infarct_size": scan.size}
    for region, prefix in ((scan.mask, ""), (scan.territory, "territory_")):
        if region is not None:
            measures |= localise(saliency, region, scan.image, tolerance, prefix)
    return measures


def randomised_maps(
    explainers: Mapping[str, Explainer], scans: Sequence[LesionScan], num_steps: int, device: str = "cpu"
) -> dict[str, list[dict]]:
    """{method: the steps of both modes of `randomisation_check` for each scan}."""
    checks: dict[str, list[dict]] = {}
    for name, (method, model) in explainers.items():
        checks[name] = []
        for scan in track(scans, f"randomised, {name}"):
            image, label, saliency = scan.batch(device)

            def maps(network, batch, method=method, label=label, saliency=saliency):
                return method(network, batch, label, saliency)

            given = saliency if name == SECOND_ROUND else None
            steps = {mode: randomisation_check(maps, model, image, given, mode, num_steps) for mode in MODES}
            checks[name].append(steps)
    return checks


def likeness(steps: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, float]:
    """{mode_measure: value} of one scan: for the cascade with the wholly random network, else the mean over groups."""
    measures = {}
    for measure in ("spearman", "ssim"):
        measures[f"cascade_{measure}"] = steps["cascade"][-1][measure]
        measures[f"independent_{measure}"] = float(np.mean([step[measure] for step in steps["independent"]]))
    return measures


def noise_variances(
    explainers: Mapping[str, Explainer],
    scans: Sequence[LesionScan],
    noise_std: float,
    device: str = "cpu",
    acat: str | None = None,
) -> dict[str, list[dict]]:
    """{network: its stages} of the classifier and of ACAT, see `preactivation_variances`.

    Args:
        acat: folder of another ACAT, such as one that was trained from scratch.
    """
    if acat and SECOND_ROUND not in explainers:
        raise InputError("--noise_model needs --acat, whose saliency maps it is given.")
    if acat:
        other = explainers[SECOND_ROUND]._replace(model=_frozen(load_classifier(acat), device))
        explainers = {**explainers, SECOND_ROUND: other}
    images = torch.stack([scan.image for scan in scans]).to(device)
    variances: dict[str, list[dict]] = {}
    for name, (_, model) in explainers.items():
        key = "ACAT" if name == SECOND_ROUND else "classifier"
        if key not in variances and model.num_stages:
            given = [scan.saliency for scan in scans if scan.saliency is not None] if key == "ACAT" else []
            maps = torch.stack(given).to(device) if given else None
            variances[key] = preactivation_variances(model, images, noise_std, maps)
    return variances


def _frozen(network, device: str):
    """A network on a device, with gradients for its input alone."""
    return network.requires_grad_(False).to(device)


def _spread(items: list, count: int) -> list:
    """At most `count` of the items, evenly spaced, the first and the last among them."""
    if not items or count < 1:
        return []
    return [items[i] for i in np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)]
