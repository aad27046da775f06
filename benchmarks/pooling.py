"""Does the kind of pooling decide whether small infarcts are seen? AUC by infarct size on a cohort of arrays.

difffuse phantom cohort/train --layout ist3 --arrays --subjects 2000 --seed 100 --anatomies ANATOMIES_1
python benchmarks/pooling.py --train cohort/train --validation cohort/validation --test cohort/test \\
    --pooling average 4 --pooling max 4 --epochs 2 --seeds 0 1 2 --output_dir out/pooling

The half-brain CNN in the first stage of its recipe: each half by itself, Adam 1e-3 with a cosine, weight decay 5e-5,
flips; a scan is suspicious as far as it is unlikely that both halves are healthy. Of pixels of 2 mm, four poolings go
as far as the thesis's six of 0.5 mm. Several folders to train on count as one. The same seed gives the same weights
and order of scans to every pooling. What is in `OUTPUT_DIR/<pooling>-<number>-<seed>.json` already, or with another
window in its name, is not run again.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from difffuse_hf import LesionClassifier, LesionClassifierConfig
from difffuse_hf.errors import run_script
from difffuse_hf.evaluation.classification import roc_auc
from difffuse_hf.io.files import write_whole
from difffuse_hf.phantoms.ist3_arrays import SIDES, WINDOW_HU, read_rows
from difffuse_hf.training.augmentation import flip_labels

SIZES = {"1-2": (1, 2), "1": (1,), "2": (2,), "3": (3,), "4": (4,), "all": (1, 2, 3, 4)}


class Cohort:
    """Scans of some folders, mapped into memory."""

    def __init__(self, folders: Sequence[str], window_hu: Sequence[float] = WINDOW_HU):
        self.images = [np.load(Path(folder, "image.npy"), mmap_mode="r") for folder in folders]
        self.first = np.cumsum([0, *(len(images) for images in self.images)])  # number of a folder's first scan
        rows = [row for folder in folders for row in read_rows(folder)]
        self.labels = torch.tensor([int(row["label"]) for row in rows])
        self.sizes = np.array([int(row["infarct_size"]) for row in rows])
        self.window_hu = window_hu

    def __len__(self):
        return len(self.labels)

    def batch(self, indices) -> torch.Tensor:
        """Scans (B, S, 1, H, W) in [0, 1]."""
        folders = np.searchsorted(self.first, indices, side="right") - 1
        scans = [self.images[folder][index - self.first[folder]] for folder, index in zip(folders, indices)]
        stored = torch.from_numpy(np.stack(scans))[:, :, None].float() / 255
        (low, high), (first, last) = self.window_hu, WINDOW_HU
        return ((stored * (last - first) + first - low) / (high - low)).clamp(0, 1)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("train", "validation", "test"):
        parser.add_argument(f"--{name}", nargs="+", required=True)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--pooling", nargs=2, action="append", required=True, metavar=("KIND", "NUMBER"))
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--window_hu", type=float, nargs=2, default=WINDOW_HU, metavar=("LOW", "HIGH"))
    args = parser.parse_args(argv)

    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    cohorts = {name: Cohort(getattr(args, name), args.window_hu) for name in ("train", "validation", "test")}
    for seed in args.seeds:
        for kind, number in args.pooling:
            window = "" if tuple(args.window_hu) == WINDOW_HU else "-{:g}-{:g}".format(*args.window_hu)
            path = Path(args.output_dir, f"{kind}-{number}-{seed}{window}.json")
            if not path.exists():
                start = time.process_time()
                found = compare(cohorts, kind, int(number), seed, args.epochs, args.batch_size)
                found["cpu_minutes"] = (time.process_time() - start) / 60
                text = json.dumps({"arguments": vars(args), **found}, indent=2)
                write_whole(path, lambda temporary, text=text: temporary.write_text(text))
            print(path.name, json.loads(path.read_text())["auc"], flush=True)


def compare(cohorts: dict[str, Cohort], kind: str, number: int, seed: int, epochs: int, batch_size: int) -> dict:
    """Train one network; its AUC by size on validation after every epoch, and on test at the end."""
    torch.manual_seed(seed)
    config = LesionClassifierConfig(pooling=kind, num_pools=number, stage="halves")
    model, train = LesionClassifier(config).to(memory_format=torch.channels_last), cohorts["train"]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=5e-5)
    steps = epochs * math.ceil(len(train) / batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng, history = np.random.default_rng(seed), []
    for epoch in range(epochs):
        model.train()
        losses = []
        for indices in np.array_split(rng.permutation(len(train)), math.ceil(len(train) / batch_size)):
            indices = np.sort(indices)
            images, flipped = train.batch(indices), torch.from_numpy(rng.random(len(indices)) < 0.5)
            images = torch.where(flipped.view(-1, 1, 1, 1, 1), images.flip(-1), images)
            loss = model(images, labels=flip_labels(train.labels[indices], flipped, SIDES)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        history.append({"loss": float(np.mean(losses)), "auc": auc_by_size(model, cohorts["validation"], batch_size)})
        print(f"{kind} {number} seed {seed} epoch {epoch + 1}: {json.dumps(history[-1])}", flush=True)
    auc = {"validation": history[-1]["auc"], "test": auc_by_size(model, cohorts["test"], batch_size)}
    return {"auc": auc, "scans": {name: len(cohort) for name, cohort in cohorts.items()}, "history": history}


@torch.no_grad()
def auc_by_size(model: LesionClassifier, cohort: Cohort, batch_size: int) -> dict[str, float]:
    """Area under the ROC curve of scans with an infarct of each size against all scans without one."""
    model.eval()
    parts = np.array_split(np.arange(len(cohort)), math.ceil(len(cohort) / batch_size))
    healthy = torch.cat([model(cohort.batch(part)).logits[:, 0] for part in parts]).double().numpy()
    auc = {}
    for name, grades in SIZES.items():
        chosen = np.isin(cohort.sizes, (0, *grades))
        auc[name] = round(float(roc_auc(-healthy[chosen], cohort.sizes[chosen] > 0)[0]), 4)
    return auc


if __name__ == "__main__":
    run_script(main)
