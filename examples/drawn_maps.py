"""Control for ACAT: maps that tell where to look and not whether there is something (beyond the thesis).

python examples/drawn_maps.py --dataset data/ist3 --output_dir data/ist3_drawn

A scan with a drawn lesion gets that lesion as its map, any other scan the lesion of a scan drawn at random from its
split. What train_acat.py gains from such maps over those of compute_saliency.py is what better maps could gain it. The
place tells the side of a lesion, though: compare the AUC of lesion or none, not the accuracy over sides.
"""

import argparse

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
    parser.add_argument("--seed", type=int, default=0, help="of the lesions that scans without one get")
    parser.add_argument("--chunk", type=int, default=32, help="scans in a file")
    args = parser.parse_args(argv)

    rng = np.random.default_rng(args.seed)
    settings = {"method": "drawn_maps", "dataset": args.dataset, "seed": args.seed}
    for split in SPLITS:
        scans = load_scans(args.dataset, split)
        if "mask" not in scans.column_names:
            raise InputError(f"{args.dataset} has no drawn lesions (no column `mask`); prepare it with masks.")
        masks = [None if mask is None else np.asarray(mask, np.float32) for mask in scans.with_format(None)["mask"]]
        drawn = [mask for mask in masks if mask is not None and mask.any()]
        if not drawn:
            raise InputError(f"The split '{split}' of {args.dataset} has no drawn lesion.")
        maps = []
        for mask in masks:
            lesion = mask if mask is not None and mask.any() else drawn[rng.integers(len(drawn))]
            smooth = F.avg_pool2d(torch.from_numpy(lesion)[:, None], 3, stride=1, padding=1)  # [S,1,H,W]
            maps.append(smooth / smooth.max())
        store, keys = SaliencyStore(args.output_dir, split, settings, args.chunk), list(scans["key"])
        for chunk in store.missing(len(scans)):
            store.write(chunk, keys[chunk.start : chunk.stop], torch.stack(maps[chunk.start : chunk.stop]))
    print(f"Maps of {args.dataset} are in {args.output_dir}.")


if __name__ == "__main__":
    run_script(main)
