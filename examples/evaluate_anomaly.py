"""Score a Dif-fuse model and its ablations on a test split: calibrated Dice and IoU, their ceiling, change of health.

python examples/evaluate_anomaly.py --model out/difffuse --dataset data/brats_slices --output_dir out/evaluation

Every method's threshold is its best on the validation split; the test split chooses nothing. Sampling is repeated with
`--seeds` seeds; the table gives mean and standard error over them (the networks are trained once).
"""

import argparse
import json
from pathlib import Path

import torch

from difffuse_hf.data.slices import load_slices
from difffuse_hf.detect import load_model
from difffuse_hf.evaluation.anomaly import as_tensors, compare_methods
from difffuse_hf.training import run_script

MEASURES = ("dice", "iou", "best_dice", "healthy_change")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "dataset", "output_dir"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--limit", type=int, help="slices of each class and split; all by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=16)
    args = parser.parse_args(argv)

    pipeline, _ = load_model(args.model, "cuda" if torch.cuda.is_available() else "cpu")
    validation, test = (as_tensors(load_slices(args.dataset, split), args.limit) for split in ("validation", "test"))
    runs = [compare_methods(pipeline, validation, test, seed, args.batch_size) for seed in range(args.seeds)]

    lines = ["| method | " + " | ".join(MEASURES) + " |", "|---" * (len(MEASURES) + 1) + "|"]
    for method in runs[0]:
        cells = []
        for measure in MEASURES:
            values = torch.tensor([run[method][measure] for run in runs if measure in run[method]])
            error = values.std() / len(values) ** 0.5 if len(values) > 1 else 0.0
            cells.append(f"{values.mean():.4f} ± {error:.4f}" if len(values) else "–")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    sizes = {split: part["labels"].bincount().tolist() for split, part in (("validation", validation), ("test", test))}
    lines.append(f"\nSlices (healthy, lesion): {sizes}; {args.seeds} sampling seeds; preset {pipeline.config.preset}.")
    print("\n".join(lines))

    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    (output / "anomaly.md").write_text("\n".join(lines) + "\n")
    (output / "anomaly.json").write_text(json.dumps({"slices": sizes, "runs": runs}, indent=2))


if __name__ == "__main__":
    run_script(main)
