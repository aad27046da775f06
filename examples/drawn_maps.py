"""Controls for ACAT: maps that tell where to look and not whether there is something, and maps of other scans.

python examples/drawn_maps.py --dataset data/ist3 --output_dir data/ist3_drawn
python examples/drawn_maps.py --dataset data/ist3 --output_dir data/ist3_shuffled --shuffle data/ist3_saliency

A scan with a drawn lesion gets that lesion as its map. Any other scan gets the place where it could have one, where
the data set has that column (synthetic stroke patients drawn to arrays), or else the lesion of a scan drawn at random
from its split, moved onto its own head. All are cut to pixels that look like brain, as the drawn lesions of the split
do: no map lies on bone, air or fluid, for then its place alone would tell that there is no lesion. What train_acat.py
gains from such maps over those of compute_saliency.py is what better maps could gain it. The place tells the side of
a lesion, though: compare the AUC of lesion or none, not the accuracy over sides.

With --shuffle every scan gets the map that another scan of its split has in that folder: what attention gains by such
maps, it does not gain by looking at the lesion.
"""

import argparse
from collections.abc import Callable

import datasets
import numpy as np
import torch
from torch.nn import functional as F

from difffuse_hf.data.scans import SaliencyStore, load_scans
from difffuse_hf.data.splits import SPLITS
from difffuse_hf.errors import InputError, run_script


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("dataset", "output_dir"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--shuffle", metavar="SALIENCY", help="deal the maps of this folder to other scans instead")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn at random")
    parser.add_argument("--chunk", type=int, default=32, help="scans in a file")
    args = parser.parse_args(argv)

    settings = {"method": "shuffled" if args.shuffle else "drawn_maps", "dataset": args.dataset, "seed": args.seed}
    if args.shuffle:
        settings["saliency"] = args.shuffle
    for split in SPLITS:
        scans = load_scans(args.dataset, split, args.shuffle)
        find = others_maps if args.shuffle else drawn_maps
        map_of = find(scans, args.seed, f"The split '{split}' of {args.dataset}")
        store, keys = SaliencyStore(args.output_dir, split, settings, args.chunk), list(scans["key"])
        for chunk in store.missing(len(scans)):
            store.write(chunk, keys[chunk.start : chunk.stop], torch.stack([map_of(index) for index in chunk]))
    print(f"Maps of {args.dataset} are in {args.output_dir}.")


def others_maps(scans: datasets.Dataset, seed: int, name: str) -> Callable[[int], torch.Tensor]:
    """For each scan the map of another one; the scans stand in a ring, in an order drawn at random."""
    if len(scans) < 2:
        raise InputError(f"{name} has one scan only, whose map no other can get.")
    order = np.random.default_rng(seed).permutation(len(scans))
    giver = dict(zip(order.tolist(), np.roll(order, 1).tolist()))
    return lambda index: scans[giver[index]]["saliency"]


def drawn_maps(scans: datasets.Dataset, seed: int, name: str) -> Callable[[int], torch.Tensor]:
    """For each scan its lesion, or the place of one."""
    if "mask" not in scans.column_names:
        raise InputError(f"{name} has no drawn lesions (no column `mask`); prepare it with masks.")
    plain = scans.with_format(None).select_columns("mask")
    masks = [None if row["mask"] is None else np.asarray(row["mask"], bool) for row in plain]
    sick = [index for index, mask in enumerate(masks) if mask is not None and mask.any()]
    if not sick:
        raise InputError(f"{name} has no drawn lesion.")
    pictures = scans.with_format("numpy", columns=["pixel_values"])
    places = scans.with_format("numpy", columns=["place"]) if "place" in scans.column_names else None
    low, high = brain_grey(pictures, masks, sick)

    def map_of(index: int) -> torch.Tensor:
        image, mask = pictures[index]["pixel_values"][..., 0, :, :], masks[index]
        brain = (image >= low) & (image <= high)
        if mask is not None and mask.any():
            lesion = mask & brain
        elif places is not None:
            lesion = places[index]["place"].astype(bool) & brain
        else:
            lesion = elsewhere(np.random.default_rng([seed, index]), brain, image > 0, masks, pictures, sick)
        smooth = F.avg_pool2d(torch.from_numpy(lesion.astype(np.float32))[:, None], 3, stride=1, padding=1)
        return smooth * torch.from_numpy(brain)[:, None] / smooth.max().clamp_min(1e-6)  # [S,1,H,W]

    return map_of


def brain_grey(pictures, masks: list, sick: list[int]) -> tuple[float, float]:
    """The intensities between which nine tenths of the pixels in drawn lesions lie."""
    inside = [pictures[index]["pixel_values"][..., 0, :, :][masks[index]] for index in sick]
    low, high = np.quantile(np.concatenate(inside), (0.05, 0.95))
    return float(low), float(high)


def elsewhere(rng: np.random.Generator, brain: np.ndarray, head: np.ndarray, masks: list, pictures, sick: list[int]):
    """Another scan's lesion in this head (S, H, W), on its brain: the first of ten that keeps half of its pixels
    there, or the one that keeps most."""
    best = np.zeros_like(brain)
    for index in rng.permutation(sick)[:10]:
        moved = move(masks[index], pictures[index]["pixel_values"][..., 0, :, :] > 0, head)
        kept = moved & brain
        best = kept if kept.sum() > best.sum() else best
        if 2 * kept.sum() > moved.sum():
            return kept
    return best


def move(mask: np.ndarray, head: np.ndarray, other: np.ndarray) -> np.ndarray:
    """A mask (S, H, W) in one head, in the box of another one."""
    (top, bottom, left, right), (top2, bottom2, left2, right2) = box(head), box(other)
    height, width = mask.shape[-2:]
    rows = np.clip(np.rint(top + (np.arange(height) - top2) * (bottom - top) / max(bottom2 - top2, 1)), 0, height - 1)
    columns = np.clip(
        np.rint(left + (np.arange(width) - left2) * (right - left) / max(right2 - left2, 1)), 0, width - 1
    )
    return mask[:, rows.astype(int)[:, None], columns.astype(int)]


def box(head: np.ndarray) -> tuple[int, int, int, int]:
    """First and last row and column of a head (S, H, W); of the whole picture where there is none."""
    rows, columns = (np.flatnonzero(head.any(axes)) for axes in ((0, 2), (0, 1)))
    height, width = head.shape[-2:]
    return (
        *(rows[[0, -1]] if len(rows) else (0, height - 1)),
        *(columns[[0, -1]] if len(columns) else (0, width - 1)),
    )


if __name__ == "__main__":
    run_script(main)
