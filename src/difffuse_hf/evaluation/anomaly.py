"""Methods side by side on slices with drawn lesions (thesis Table 6.1): thresholds from the validation split, scores
from the test split, or from data of another kind that nothing was chosen on.

A method is a pipeline, called as `pipeline(image, generator=...) -> CounterfactualOutput`, with its options.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from rich.progress import track

from ..errors import InputError
from ..saliency.common import class_logits
from .lesions import lesions_found
from .localisation import average_precision
from .segmentation import best_dice, best_threshold, dice, iou

HEALTHY_SHARE = 0.01  # of healthy brain that may be flagged, where a threshold is chosen without masks
SIZES = ("small", "medium", "large")  # thirds of the validation lesions, by area
INFARCT_SIZES = (1, 2, 3, 4)  # of IST-3's readers, from lacune to more than half of a territory


@dataclass(frozen=True)
class Slices:
    """Slices of a split: `images` (N, C, H, W) in [0, 1], drawn `masks` (N, 1, H, W), NaN where there is a lesion that
    nobody drew, `labels` (N,) 1 with a lesion, `subjects` (N,), the name of the `split`, and of IST-3 the scan's
    `infarct_sizes` (N,), 0 (none) to 4; of synthetic slices `healthy` (N, C, H, W), each as it was before its lesion
    was painted in, NaN where there is none."""

    images: torch.Tensor
    masks: torch.Tensor
    labels: torch.Tensor
    subjects: list[str]
    split: str
    infarct_sizes: torch.Tensor | None = None
    healthy: torch.Tensor | None = None

    def select(self, chosen: torch.Tensor) -> "Slices":
        """The slices at indices, or where a mask (N,) is true."""
        index = chosen.nonzero()[:, 0] if chosen.dtype == torch.bool else chosen
        subjects = [self.subjects[i] for i in index.tolist()]
        sizes, twins = (None if one is None else one[index] for one in (self.infarct_sizes, self.healthy))
        return Slices(self.images[index], self.masks[index], self.labels[index], subjects, self.split, sizes, twins)

    def with_lesion(self) -> "Slices":
        """The slices with a lesion.

        Raises:
            InputError: there is none, so that nothing can be scored or chosen.
        """
        if not (self.labels == 1).any():
            raise InputError(f"The split '{self.split}' has no slice with a lesion; bring more subjects.")
        return self.select(self.labels == 1)

    def without_lesion(self) -> "Slices":
        """The healthy slices.

        Raises:
            InputError: there is none.
        """
        if not (self.labels == 0).any():
            raise InputError(f"The split '{self.split}' has no healthy slice; bring more subjects.")
        return self.select(self.labels == 0)

    @property
    def drawn(self) -> torch.Tensor:
        """Which slices show a lesion that somebody drew, bool (N,)."""
        return (self.masks > 0).flatten(1).any(1)

    def with_drawn_lesion(self) -> "Slices":
        """The slices in which a lesion is drawn, as Dice and a threshold need it.

        Raises:
            InputError: there is none.
        """
        sick = self.with_lesion()
        if not sick.drawn.any():
            raise InputError(
                f"No lesion is drawn in the split '{self.split}', so there is no Dice and no threshold that is best "
                "by it; bring a column `mask`, or take a threshold of the healthy slices (`--false_positives 0.01`)."
            )
        return sick.select(sick.drawn)

    def given(self, channels: Sequence[int] | None, every: int = 1) -> "Slices":
        """As if only these channels had been acquired: the others are 0 in every `every`-th slice.

        Raises:
            InputError: the slices have no such channel.
        """
        if channels is None:
            return self
        if wrong := [one for one in channels if not 0 <= one < self.images.shape[1]]:
            raise InputError(f"The slices have {self.images.shape[1]} channels, and none that is number {wrong[0]}.")
        images, missing = self.images.clone(), [c for c in range(self.images.shape[1]) if c not in channels]
        for channel in missing:
            images[::every, channel] = 0
        return replace(self, images=images)

    @property
    def brain(self) -> torch.Tensor:
        """Where any channel is not black, (N, 1, H, W)."""
        return (self.images > 0).any(1, keepdim=True)


@dataclass(frozen=True)
class Threshold:
    """An anomaly threshold, the mean Dice it has where it was chosen, and the split that it was chosen on."""

    value: float
    dice: float
    split: str


def as_slices(dataset, split: str, limit: int | None = None, limit_healthy: int | None = None) -> Slices:
    """Slices of a `datasets.Dataset` in memory; with `limit`, so many of each class, evenly spaced, and of the healthy
    ones `limit_healthy`, if that is given.

    Without a column `mask`, nothing is drawn where there is a lesion and nothing is to be drawn elsewhere.
    """
    labels = torch.as_tensor(dataset["label"])
    index = torch.arange(len(labels))
    if limit is not None or limit_healthy is not None:
        of_class = {0: limit if limit_healthy is None else limit_healthy}
        groups = [(index[labels == label], of_class.get(int(label), limit)) for label in labels.unique()]
        index = torch.cat([g[torch.linspace(0, len(g) - 1, min(most or len(g), len(g))).long()] for g, most in groups])
    rows = dataset.select(index.tolist())
    whose = next((name for name in ("subject", "patient") if name in rows.column_names), None)
    subjects = [str(i) for i in range(len(rows))] if whose is None else list(rows[whose])
    columns = [name for name in ("image", "mask", "label", "healthy") if name in rows.column_names]
    chosen = rows.with_format("torch", columns=columns)[:]
    images, labels = chosen["image"], chosen["label"]
    if "mask" in columns:
        masks = chosen["mask"][:, None].float()  # None becomes NaN
    else:
        masks = torch.zeros_like(images[:, :1])
        masks[labels == 1] = torch.nan
    sizes = torch.as_tensor(rows["infarct_size"]) if "infarct_size" in rows.column_names else None
    return Slices(images, masks, labels, subjects, split, sizes, chosen.get("healthy"))


def run_method(
    pipeline, images: torch.Tensor, seed: int = 0, batch_size: int = 16, label: str = "", **options
) -> tuple[torch.Tensor, torch.Tensor]:
    """Anomaly maps (N, 1, H, W) and counterfactuals (N, C, H, W) of slices (N, C, H, W), on the host.

    Slice i draws from a generator of its own, seeded with (seed, i): batch size and order do not matter.

    Args:
        pipeline: called as `pipeline(image, generator=[...], **options)`.
        label (`str`): of a progress bar; none without it.
    """
    pipeline.set_progress_bar_config(disable=True)
    maps, counterfactuals = [], []
    for index in track(torch.arange(len(images)).split(batch_size), label, disable=not label):
        generators = [torch.Generator().manual_seed(seed * 1_000_003 + i) for i in index.tolist()]
        output = pipeline(images[index].to(pipeline.device), generator=generators, **options)
        maps.append(output.anomaly_maps.float().cpu())
        counterfactuals.append(output.counterfactuals.float().cpu())
    return torch.cat(maps), torch.cat(counterfactuals)


def choose_threshold(maps: torch.Tensor, slices: Slices) -> Threshold:
    """The threshold with the best mean Dice over slices with a drawn lesion, of any split but `test`.

    Maps that are 0 everywhere find nothing at any threshold: theirs is infinite, with a Dice of 0.

    Raises:
        ValueError: the slices are of the test split, on which nothing may be chosen.
        InputError: no lesion is drawn.
    """
    if slices.split == "test":
        raise ValueError("A threshold is never chosen on the split 'test'; choose it on 'validation'.")
    maps, slices = maps[(slices.labels == 1) & slices.drawn], slices.with_drawn_lesion()
    if maps.max() <= 0:
        return Threshold(float("inf"), 0.0, slices.split)
    return Threshold(*best_threshold(maps, slices.masks), slices.split)


def false_positive_threshold(maps: torch.Tensor, healthy: Slices, share: float) -> Threshold:
    """The lowest threshold that at most a `share` of healthy slices' brain pixels reach, of any split but `test`."""
    if healthy.split == "test":
        raise ValueError("A threshold is never chosen on the split 'test'; choose it on 'validation'.")
    values = maps[healthy.brain].sort(descending=True).values
    allowed = int(share * len(values))  # pixels that may be flagged
    limit = values[min(allowed, len(values) - 1)]
    return Threshold(float(torch.nextafter(limit, limit + 1)), float("nan"), healthy.split)


def healthy_threshold(maps: torch.Tensor, healthy: Slices, share: float = HEALTHY_SHARE) -> Threshold:
    """A threshold without any drawn lesion: `false_positive_threshold` of a share that is the same for all methods.

    Maps that are 0 or 1 have decided already: theirs is 1.
    """
    threshold = false_positive_threshold(maps, healthy, share)
    return replace(threshold, value=1.0) if ((maps == 0) | (maps == 1)).all() else threshold


def label_threshold(maps: torch.Tensor, sick: Slices, healthy_maps: torch.Tensor, healthy: Slices) -> Threshold:
    """The threshold with the best Dice that image labels let one estimate, of any split but `test`.

    With F_s(τ) and F_h(τ) the shares of the brain that reach τ in slices with a lesion and in healthy ones, and π the
    share of the first that is lesion, F_s = π · sensitivity + (1 − π) F_h, if what surrounds a lesion is flagged as
    often as healthy brain. So, of all pixels together,

        Dice(τ) = 2 (F_s − (1 − π) F_h) / (F_s + π),   1 − π = min over τ of (1 − F_s) / (1 − F_h)

    The last is the largest share of healthy pixels that the first slices can hold (Blanchard et al. 2010): π is exact
    where some threshold has full sensitivity, and too small otherwise. Thresholds that more than half of healthy brain
    reaches do not count in it, for what is left is few pixels.

    Args:
        maps, healthy_maps (`torch.Tensor` of shape `(N, 1, H, W)`): of the slices with a lesion, and without.
        sick, healthy (`Slices`): both; no drawn lesion is looked at.

    Returns:
        `Threshold`: with the estimated Dice; 1 for maps of 0 and 1, which have decided already, and infinite where
        slices with a lesion are flagged no more than healthy ones.
    """
    if "test" in (sick.split, healthy.split):
        raise ValueError("A threshold is never chosen on the split 'test'; choose it on 'validation'.")
    values, others = (some[of.brain].double().sort().values for some, of in ((maps, sick), (healthy_maps, healthy)))
    candidates = values[values > 0].unique()
    flagged, falsely = (1 - torch.searchsorted(one, candidates) / len(one) for one in (values, others))
    counted = falsely <= 0.5
    lesion = 1 - float(((1 - flagged) / (1 - falsely))[counted].min()) if counted.any() else 0.0
    if lesion <= 0:
        return Threshold(float("inf"), 0.0, sick.split)
    estimate = 2 * (flagged - (1 - lesion) * falsely) / (flagged + lesion)
    best = int(estimate.argmax())
    decided = all(((some == 0) | (some == 1)).all() for some in (maps, healthy_maps))
    return Threshold(1.0 if decided else float(candidates[best]), float(estimate[best]), sick.split)


def size_edges(slices: Slices) -> list[float]:
    """Areas in pixels that part the drawn lesions of these slices into thirds."""
    areas = slices.masks[(slices.labels == 1) & slices.drawn].flatten(1).sum(1)
    return torch.quantile(areas, torch.tensor([1 / 3, 2 / 3])).tolist()


def score_maps(maps: torch.Tensor, slices: Slices, threshold: Threshold, edges: Sequence[float]) -> dict[str, float]:
    """How well maps find the lesions of slices that all have one: means over slices, and over subjects.

    `dice`, `iou` at the threshold, and `lesion_sensitivity`, the share of the lesions (pieces of a slice's drawn mask)
    that it finds any pixel of; `best_dice` with a threshold for each slice, a ceiling and no result; `auprc`, the
    area under precision and recall of a slice's pixels; `dice_small`, `dice_medium`, `dice_large` by the areas
    `edges`; `volume_dice`, of each subject's slices together; `dice_infarct_1` and `auprc_infarct_1` to 4 where the
    scans' sizes are known.
    """
    found = maps >= threshold.value
    overlap = dice(found, slices.masks)
    area = torch.tensor([average_precision(m, d[0]) for m, d in zip(maps.numpy(), slices.masks.numpy())])
    hit, number = np.sum([lesions_found(f[0], d[0] > 0) for f, d in zip(found.numpy(), slices.masks.numpy())], axis=0)
    scores = {
        "dice": float(overlap.mean()),
        "iou": float(iou(found, slices.masks).mean()),
        "best_dice": best_dice(maps, slices.masks),
        "auprc": float(area.mean()),
        "lesion_sensitivity": hit / number,
    }
    if slices.infarct_sizes is not None:
        for size in INFARCT_SIZES:
            of_size = slices.infarct_sizes == size
            scores |= {f"dice_infarct_{size}": _mean(overlap[of_size]), f"auprc_infarct_{size}": _mean(area[of_size])}
    group = torch.bucketize(slices.masks.flatten(1).sum(1), torch.tensor(edges))
    scores |= {f"dice_{size}": _mean(overlap[group == i]) for i, size in enumerate(SIZES)}
    subjects = np.array(slices.subjects)
    whole = [torch.from_numpy(subjects == subject) for subject in dict.fromkeys(slices.subjects)]
    stacked = [float(dice(found[one].flatten()[None], slices.masks[one].flatten()[None])) for one in whole]
    return scores | {"volume_dice": float(np.mean(stacked))}


def score_counterfactuals(
    counterfactuals: torch.Tensor, slices: Slices, classifier=None, batch_size: int = 64
) -> dict[str, float]:
    """What counterfactuals of slices with a lesion leave alone, and whether they pass as healthy.

    `change_outside`: mean absolute change of intensity in the brain outside the drawn lesion. `flip_rate`: the share
    of the slices that the classifier takes for diseased whose counterfactual it takes for healthy. Where there are
    healthy twins, `twin_error`, see `twin_errors`, and `twin_error_left`, as a share of what doing nothing leaves.
    """
    outside = (slices.brain & (slices.masks == 0)).expand_as(slices.images)
    scores = {"change_outside": _mean((counterfactuals - slices.images).abs()[outside])}
    error, untouched = twin_errors(counterfactuals, slices), twin_errors(slices.images, slices)
    known = error.isfinite()
    if known.any():
        scores["twin_error"] = _mean(error[known])
        scores["twin_error_left"] = scores["twin_error"] / _mean(untouched[known])
    if classifier is not None:
        before = _lesion_probability(classifier, slices.images, batch_size) > 0.5
        after = _lesion_probability(classifier, counterfactuals, batch_size) > 0.5
        scores["flip_rate"] = _mean((~after[before]).float())
    return scores


def score_healthy(
    maps: torch.Tensor, counterfactuals: torch.Tensor, slices: Slices, threshold: Threshold | None
) -> dict[str, float]:
    """What healthy slices lose: `healthy_change`, the mean absolute change of intensity in the brain, and with a
    threshold `false_positives`, the share of the brain that reaches it, and `false_slices`, the share of the slices of
    which any of it does."""
    brain = slices.brain
    scores = {"healthy_change": _mean((counterfactuals - slices.images).abs()[brain.expand_as(slices.images)])}
    if threshold is not None:
        flagged = (maps >= threshold.value) & brain
        scores["false_positives"] = _mean(flagged[brain].float())
        scores["false_slices"] = _mean(flagged.flatten(1).any(1).float())
    return scores


def twin_errors(images: torch.Tensor, slices: Slices) -> torch.Tensor:
    """How far images (N, C, H, W) in [0, 1] are from the slices' exact healthy twins inside the drawn lesion, (N,).

        mean over the lesion's pixels and the channels of |x̂_0 − x_healthy|

    Of the slices themselves, it is what doing nothing leaves. NaN where there is no twin, or no lesion is drawn.
    """
    twins = torch.full_like(images, torch.nan) if slices.healthy is None else slices.healthy
    inside = slices.masks > 0
    error = (images - twins).abs().mean(1, keepdim=True).masked_fill(~inside, 0)
    return error.sum((1, 2, 3)) / inside.sum((1, 2, 3))


@torch.no_grad()
def _lesion_probability(classifier, images: torch.Tensor, batch_size: int) -> torch.Tensor:
    device = next(classifier.parameters()).device
    logits = [class_logits(classifier, batch.to(device)).float().cpu() for batch in images.split(batch_size)]
    return 1 - torch.cat(logits).softmax(1)[:, 0]


def _mean(values: torch.Tensor) -> float:
    return float(values.float().mean()) if values.numel() else float("nan")
