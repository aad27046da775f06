"""Methods side by side on slices with drawn lesions: thresholds from the validation split, scores from the test split.

A row of the table is one function `(pipeline, image, generators) -> (anomaly map, counterfactual or None)`.
"""

from collections.abc import Callable

import torch
from rich.progress import track

from ..pipelines.pipeline_difffuse import DifFusePipeline
from .segmentation import best_dice, best_threshold, dice, iou


def acat_map(pipeline, image, generators):
    """The classifier's counterfactual saliency, thresholded itself; no diffusion."""
    return pipeline.make_saliency(image), None


def unmasked_ddim_ddpm(pipeline, image, generators):
    """DDIM inversion, then DDPM everywhere: Dif-fuse with a mask of ones."""
    output = pipeline(image, mask=torch.ones_like(image[:, :1]), generator=generators, picture_steps=0)
    return output.anomaly_maps, output.counterfactuals


def dif_fuse(pipeline, image, generators):
    """DDIM inversion, then DDPM inside the saliency mask fused with the kept image outside it."""
    output = pipeline(image, generator=generators, picture_steps=0)
    return output.anomaly_maps, output.counterfactuals


METHODS = {"ACAT map alone": acat_map, "DDIM-DDPM, no mask": unmasked_ddim_ddpm, "Dif-fuse": dif_fuse}


def run_method(
    pipeline: DifFusePipeline,
    method: Callable,
    images: torch.Tensor,
    seed: int = 0,
    batch_size: int = 16,
    label: str = "",
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Anomaly maps (N, 1, H, W), and counterfactuals (N, C, H, W) where the method makes them, of slices (N, C, H, W).

    Slice i draws from a generator of its own, seeded with (seed, i): batch size and order do not matter.
    """
    pipeline.set_progress_bar_config(disable=True)
    maps, counterfactuals = [], []
    for index in track(torch.arange(len(images)).split(batch_size), label, disable=not label):
        generators = [torch.Generator().manual_seed(seed * 1_000_003 + i) for i in index.tolist()]
        anomaly, counterfactual = method(pipeline, images[index].to(pipeline.device), generators)
        maps.append(anomaly.float().cpu())
        if counterfactual is not None:
            counterfactuals.append(counterfactual.float().cpu())
    return torch.cat(maps), torch.cat(counterfactuals) if counterfactuals else None


def compare_methods(
    pipeline: DifFusePipeline,
    validation: dict,
    test: dict,
    seed: int = 0,
    batch_size: int = 16,
    methods: dict = METHODS,
) -> dict[str, dict[str, float]]:
    """Scores of each method, `{method: {measure: value}}`.

    Dice and IoU are means over the test slices with a lesion, at the threshold with the best Dice on the validation
    slices with a lesion. `best_dice` is the ceiling with a threshold for each test slice. `healthy_change` is the mean
    absolute change of intensity over the brain of test slices without a lesion.

    Args:
        validation, test: `images` (N, C, H, W), `masks` (N, 1, H, W) and `labels` (N,), as `as_tensors` makes them.
    """
    scores = {}
    for name, method in methods.items():
        sick, drawn = (test[key][test["labels"] == 1] for key in ("images", "masks"))
        known = validation["labels"] == 1
        maps, _ = run_method(pipeline, method, validation["images"][known], seed, batch_size, f"{name}, validation")
        threshold, validation_dice = best_threshold(maps, validation["masks"][known])
        maps, _ = run_method(pipeline, method, sick, seed, batch_size, f"{name}, test")
        scores[name] = {
            "threshold": threshold,
            "validation_dice": validation_dice,
            "dice": float(dice(maps >= threshold, drawn).mean()),
            "iou": float(iou(maps >= threshold, drawn).mean()),
            "best_dice": best_dice(maps, drawn),
        }
        healthy = test["images"][test["labels"] == 0]
        _, counterfactuals = run_method(pipeline, method, healthy, seed, batch_size, f"{name}, healthy")
        if counterfactuals is not None:
            brain = (healthy > 0).any(1, keepdim=True).expand_as(healthy)
            scores[name]["healthy_change"] = float((counterfactuals - healthy).abs()[brain].mean())
    return scores


def as_tensors(slices, limit: int | None = None) -> dict[str, torch.Tensor]:
    """Slices of a `datasets.Dataset` as tensors; with `limit`, so many of each class, evenly spaced."""
    labels = torch.as_tensor(slices["label"])
    index = torch.arange(len(labels))
    if limit is not None:
        groups = [index[labels == label] for label in labels.unique()]
        index = torch.cat([g[torch.linspace(0, len(g) - 1, min(limit, len(g))).long()] for g in groups])
    chosen = slices.select(index.tolist()).with_format("torch", columns=["image", "mask", "label"])[:]
    return {"images": chosen["image"], "masks": chosen["mask"][:, None].float(), "labels": chosen["label"]}
