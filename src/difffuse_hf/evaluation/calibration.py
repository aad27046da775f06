"""Settings and anomaly map of a Dif-fuse model, or of RePaint with its mask, chosen together on validation slices.

Schedules cost network calls and are few; maps of one schedule's samples cost nothing and are many. So every schedule
is run once, every map of it is scored, and the best pair is kept with its threshold. Detection then uses exactly that
schedule. With drawn lesions a map is scored by the mean Dice at its best threshold; with image labels only, by how
much of the brain it flags in slices with a lesion, at the threshold that a given share of healthy brain reaches.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations, product
from typing import Any

import torch
from rich.progress import track

from ..errors import InputError, require_choice
from ..pipelines.calibration import Calibration
from ..pipelines.map_recipe import MapRecipe, map_by_recipe
from ..pipelines.presets import Preset, choose_settings
from .anomaly import Slices, choose_threshold, false_positive_threshold, label_threshold
from .segmentation import dice

LESION_SIGNS = {"flair": 1, "t2": 1, "ct": -1}  # 1 where lesions are brighter than healthy tissue, -1 where darker
WIDTHS = (0, 3)  # pixels of the squares that a map is averaged over, or opened and closed with
EDGES = (0, 1)  # pixels at the edge of the brain that do not count


@dataclass(frozen=True)
class Drawn:
    """What a schedule made of slices, enough for any map: all tensors on the host, of N slices."""

    slices: Slices
    expected: torch.Tensor  # (N, C, H, W)
    deviation: torch.Tensor | None  # (N, C, H, W)
    masks: torch.Tensor  # (N, 1, H, W)
    saliency: torch.Tensor | None  # (N, 1, H, W)

    def maps(self, recipe: MapRecipe, pixel_mm: float) -> torch.Tensor:
        """The anomaly maps (N, 1, H, W) of a recipe."""
        return map_by_recipe(self.slices.images, self.expected, self.deviation, recipe, pixel_mm, self.saliency)


@dataclass(frozen=True)
class Choice:
    """A schedule with a map: what it costs, and how good it is on each slice where it was chosen."""

    calibration: Calibration
    calls: float  # of the U-Net, an image
    scores: torch.Tensor  # (N,), of the slices with a lesion
    by_labels: float | None = None  # the threshold that `label_threshold` gives; None where nothing is found

    @property
    def score(self) -> float:
        """Mean over the slices."""
        return float(self.scores.mean())


def as_other_scanners(slices: Slices, spread: float, seed: int = 0) -> Slices:
    """Slices with the contrast of each modality varied, for models that will see scanners they were not trained on.

    v -> m (v / m)^γ with m the median of the brain, which stays, and log γ drawn evenly from ± `spread`.

    Args:
        spread (`float`): 0 changes nothing; 0.35 is γ between 0.7 and 1.4.
    """
    generator = torch.Generator().manual_seed(seed)
    images = slices.images
    gamma = (spread * (2 * torch.rand(*images.shape[:2], 1, 1, generator=generator) - 1)).exp()
    median = images.masked_fill(images <= 0, float("nan")).flatten(2).nanmedian(2).values[..., None, None]
    varied = (median * (images / median) ** gamma).clamp(0, 1)
    return replace(slices, images=torch.where((images > 0) & (median > 0), varied, images))


def look(pipeline, slices: Slices, batch_size: int = 16) -> torch.Tensor:
    """The pipeline's own saliency of slices, (N, 1, H, W) on the host: the same for every schedule."""
    return torch.cat(
        [pipeline.make_saliency(some.to(pipeline.device)).cpu() for some in slices.images.split(batch_size)]
    )


def draw(
    pipeline,
    slices: Slices,
    saliency: torch.Tensor,
    plan: Calibration,
    seed: int = 0,
    batch_size: int = 16,
    label: str = "",
) -> Drawn:
    """Run a schedule on slices with their saliency; each draws from a generator of its own, as in `run_method`."""
    pipeline.set_progress_bar_config(disable=True)
    outputs = []
    for index in track(torch.arange(len(slices.images)).split(batch_size), label, disable=not label):
        generators = [torch.Generator().manual_seed(seed * 1_000_003 + i) for i in index.tolist()]
        outputs.append(
            pipeline(
                slices.images[index].to(pipeline.device),
                saliency=saliency[index],
                generator=generators,
                **pipeline.call_of(plan),
            )
        )
    together: dict[str, Any] = {}
    for name in ("expected", "deviation", "masks", "saliency"):
        parts = [getattr(output, name) for output in outputs]
        together[name] = None if parts[0] is None else torch.cat(parts).float().cpu()
    return Drawn(slices, **together)


def sample_noise(healthy: Drawn, channels: Sequence[int]) -> float:
    """ε: by how much healthy tissue differs from the mean of its samples (root mean square, inside the masks)."""
    inside = (healthy.masks > 0) & healthy.slices.brain
    change = (healthy.slices.images - healthy.expected)[:, list(channels)]
    values = change[inside.expand_as(change)]
    return float(values.square().mean().sqrt()) if values.numel() else 0.05


def recipes(modalities: Sequence[str], signs: Mapping[str, int], healthy: Drawn, pixel_mm: float) -> list[MapRecipe]:
    """The maps to choose from: which modalities count, signed or not, in standard deviations or not, and how cleaned.

    Args:
        modalities, signs: names of the channels, and whether lesions are brighter (1) or darker (−1) in them; those
            without a sign count in no map but that of all channels.
        healthy (`Drawn`): what the schedule made of healthy slices.
        pixel_mm (`float`): side of a pixel.
    """
    named = [channel for channel, modality in enumerate(modalities) if signs.get(modality)]
    groups = [list(some) for count in range(1, len(named) + 1) for some in combinations(named, count)]
    groups = groups or [list(range(len(modalities)))]
    found = []
    for channels, signed, in_sigmas, mean, square, edge, weighted in product(
        groups, (True, False), (True, False), WIDTHS, WIDTHS, EDGES, (False, True)
    ):
        found.append(
            MapRecipe(
                channels=channels,
                signs=[signs.get(modalities[channel], 0) if signed else 0 for channel in channels],
                sample_noise=sample_noise(healthy, channels) if in_sigmas and healthy.deviation is not None else None,
                smoothing_mm=mean * pixel_mm,
                opening_mm=square * pixel_mm,
                closing_mm=square * pixel_mm,
                edge_mm=edge * pixel_mm,
                weighted=weighted,
            )
        )
    return list(dict.fromkeys(found))


def schedules(pipeline, preset: str, grid: Mapping[str, Sequence[Any]]) -> list[Calibration]:
    """A preset with every combination of values in place of its own; those that act alike are there once.

    Args:
        pipeline (`DifFusePipeline` or `RePaintPipeline`): has the values that the grid leaves out.
        preset (`str`): a name in `PRESETS`.
        grid: names of `Preset`'s values, `"noise_level"` and `"percentile"`, each with the values to try.

    Raises:
        InputError: a name is none of these.
    """
    plain, known = choose_settings(preset), [field.name for field in fields(Preset)]
    for name in grid:
        require_choice("grid", name, ["noise_level", "percentile", *known])
    found = []
    for values in product(*grid.values()):
        chosen = dict(zip(grid, values))
        noise_level = chosen.pop("noise_level", pipeline.config["noise_level"] or pipeline.scheduler.highest_level)
        percentile = chosen.pop("percentile", pipeline.config["percentile"])
        plan = Calibration(_as_it_acts(replace(plain, **chosen)), noise_level, percentile)
        if plan not in found:
            found.append(plan)
    return found


def _as_it_acts(settings: Preset) -> Preset:
    """Settings without the parts of a first look that do nothing, so that schedules which act alike are equal."""
    looks = settings.scout_samples and (settings.scout_rounds or settings.scout_threshold)
    if not looks:
        settings = replace(settings, scout_samples=0, scout_rounds=0, scout_threshold=0.0)
    return settings if settings.scout_threshold else replace(settings, scout_margin_mm=0.0)


def search(
    pipeline,
    plans: Sequence[Calibration],
    diseased: Slices,
    healthy: Slices,
    signs: Mapping[str, int],
    false_positives: Sequence[float] = (),
    with_masks: bool = True,
    seed: int = 0,
    batch_size: int = 16,
) -> Iterator[list[Choice]]:
    """The maps of each schedule, best first, one schedule after the other.

    Args:
        pipeline (`DifFusePipeline` or `RePaintPipeline`): with a classifier and a processor.
        plans (`Sequence[Calibration]`): the schedules to choose from; their recipes and thresholds are replaced.
        diseased, healthy (`Slices`): of any split but `test`.
        signs: see `recipes`.
        false_positives: shares of healthy brain to calibrate thresholds for; without masks the first of them decides.
        with_masks (`bool`): score by the drawn lesions, else by the labels alone.

    Raises:
        InputError: there are no healthy slices, or no share is given to calibrate by labels.
    """
    healthy = healthy.without_lesion()
    if not with_masks and not false_positives:
        raise InputError("Calibration by labels needs a share of healthy brain that may be flagged, such as 0.01.")
    pixel_mm, modalities = pipeline.processor.pixel_spacing_mm, pipeline.processor.modalities
    seen = [look(pipeline, slices, batch_size) for slices in (diseased, healthy)]
    for number, plan in enumerate(plans):
        with Calls(pipeline.unet) as calls:
            sick = draw(pipeline, diseased, seen[0], plan, seed, batch_size, f"Schedule {number + 1} of {len(plans)}")
            of_an_image = calls.images / len(diseased.images)
            well = draw(pipeline, healthy, seen[1], plan, seed, batch_size)
        choices = []
        for recipe in recipes(modalities, signs, well, pixel_mm):
            made = replace(plan, recipe=recipe)
            choices.append(_score(made, sick, well, of_an_image, pixel_mm, false_positives, with_masks))
        yield sorted(choices, key=lambda choice: -choice.score)


def _score(
    made: Calibration,
    sick: Drawn,
    well: Drawn,
    calls: float,
    pixel_mm: float,
    false_positives: Sequence[float],
    with_masks: bool,
) -> Choice:
    """A schedule with a map, its thresholds chosen, and how good it is."""
    assert made.recipe is not None
    maps, healthy_maps = sick.maps(made.recipe, pixel_mm), well.maps(made.recipe, pixel_mm)
    limits = {
        f"{share:g}": false_positive_threshold(healthy_maps, well.slices, share).value for share in false_positives
    }
    if with_masks:
        value = choose_threshold(maps, sick.slices).value
        scores = dice(maps >= value, sick.slices.masks)
    else:
        value = limits[f"{false_positives[0]:g}"]
        flagged = (maps >= value) & sick.slices.brain
        scores = flagged.flatten(1).sum(1) / sick.slices.brain.flatten(1).sum(1).clamp_min(1)
    of_labels = label_threshold(maps, sick.slices, healthy_maps, well.slices).value
    kept, of_labels = (one if math.isfinite(one) else None for one in (value, of_labels))  # maps of zeros have none
    return Choice(replace(made, threshold=kept, false_positive_thresholds=limits), calls, scores, of_labels)


def decide(choices: Sequence[Choice], max_calls: float = float("inf")) -> Choice:
    """The choice to keep: the cheapest, and of equally cheap ones the most cautious, that is as good as the best.

    As good means that its scores, slice by slice, fall short of the best ones by no more than one standard error of
    the difference. Cautious means that less of the slice is repainted, and then that the map is averaged, opened and
    closed over larger squares: of choices that validation cannot tell apart, the one that is least likely to flag the
    healthy tissue of a scanner it has not seen.

    Raises:
        InputError: none of the schedules stays within `max_calls`.
    """
    affordable = [choice for choice in choices if choice.calls <= max_calls]
    if not affordable:
        raise InputError(f"No schedule stays within {max_calls:g} network calls an image; allow more calls.")
    best = max(affordable, key=lambda choice: choice.score)

    def as_good(choice: Choice) -> bool:
        short = best.scores - choice.scores
        return float(short.mean()) <= float(short.std() / len(short) ** 0.5) if len(short) > 1 else choice is best

    def order(choice: Choice):
        recipe = choice.calibration.recipe
        cleaned = 0.0 if recipe is None else recipe.smoothing_mm + recipe.opening_mm + recipe.closing_mm
        return (choice.calls, -choice.calibration.percentile, -cleaned, -choice.score)

    return min((choice for choice in affordable if as_good(choice)), key=order)


class Calls:
    """Counts the images that go through networks: `with Calls(unet) as calls: ...`, then `calls.images`."""

    def __init__(self, *networks: torch.nn.Module):
        self.networks, self.images = networks, 0

    def __enter__(self):
        def count(module, inputs):
            self.images += len(inputs[0])

        self.handles = [network.register_forward_pre_hook(count) for network in self.networks]
        return self

    def __exit__(self, *details):
        for handle in self.handles:
            handle.remove()
