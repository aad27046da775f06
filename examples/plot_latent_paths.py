"""Draw how three counterfactual searches fare along their paths (thesis Sec. 5.5.4): a figure and its numbers.

python examples/plot_latent_paths.py --classifier out/classifier --autoencoder out/autoencoder --dataset data/ist3 \
    --output_dir out/latent_paths

Every image moves towards health if a lesion is predicted, else towards its likeliest lesion class. Median and
quartiles over the images are drawn to `latent_paths.png`; `latent_paths.json` holds them and the settings. Several
`--step_size` and `--l1_weight` make a grid, with a figure each.

`--pictures` images are shown, with the probability of the class that they move towards: what one-step latent shift
makes of them at every λ of `--shifts`, five step sizes by default (Fig. 5.5, `latent_shift_pictures.png`), and what
Eq. 5.4 makes of them at every pair of the grid (Fig. 5.6, `latent_grid_pictures.png`). Of a scan it is the slice that
changes the most. The values of λ are ours: they have the units of the autoencoder's latent code over its gradient.
"""

import argparse
import json
from itertools import product
from pathlib import Path

import torch

from difffuse_hf import ResNetAutoencoder, latent_counterfactual, load_classifier
from difffuse_hf.data.scans import load_scans
from difffuse_hf.errors import InputError, run_script
from difffuse_hf.evaluation.latent_paths import other_class, paths_of_split, shifted_images, summarise_paths
from difffuse_hf.io.files import write_whole
from difffuse_hf.reporting.charts import draw_latent_paths
from difffuse_hf.reporting.figures import settings_figure


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("classifier", "autoencoder", "dataset", "output_dir"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, default=100, help="images or scans, evenly spaced over the split")
    parser.add_argument("--saliency", help="folder of maps, for a classifier that needs them")
    parser.add_argument("--num_steps", type=int, default=20)
    parser.add_argument("--step_size", type=float, nargs="+", default=[1.0])
    parser.add_argument("--l1_weight", type=float, nargs="+", default=[100.0])
    parser.add_argument("--pictures", type=int, default=4, help="images that are shown; 0 for none")
    parser.add_argument("--shifts", type=float, nargs="+", default=[1.0, 5.0, 20.0, 50.0, 100.0],
                        help="step sizes λ of the latent shift that is shown")  # fmt: skip
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)

    classifier = load_classifier(args.classifier).float()
    autoencoder = ResNetAutoencoder.from_pretrained(args.autoencoder, dtype=torch.float32)
    classifier, autoencoder = classifier.to(args.device).eval(), autoencoder.to(args.device).eval()
    rows = load_scans(args.dataset, args.split, args.saliency)
    if not len(rows):
        raise InputError(f"The split '{args.split}' of {args.dataset} is empty.")
    count = min(args.limit, len(rows))
    rows = rows.select([i * len(rows) // count for i in range(count)])

    output, found = Path(args.output_dir), []
    output.mkdir(parents=True, exist_ok=True)
    grid = list(product(args.step_size, args.l1_weight))
    print(
        "| β | α | search | start | end | distance | reached | fell back |\n|---:|---:|---|---:|---:|---:|---:|---:|"
    )
    for step_size, l1_weight in grid:
        search = {"num_steps": args.num_steps, "step_size": step_size, "l1_weight": l1_weight}
        summary = summarise_paths(
            paths_of_split(classifier, autoencoder, rows, args.batch_size, args.device, **search)
        )
        found.append({"settings": {**search, "split": args.split}, "paths": summary})
        name = "latent_paths.png" if len(grid) == 1 else f"latent_paths_{step_size:g}_{l1_weight:g}.png"
        draw_latent_paths(summary, output / name, f"{count} images, β = {step_size:g}, α = {l1_weight:g}")
        for search_name, row in summary.items():
            probability, distance = row["probability"]["median"], row["distance"]["median"]
            print(
                f"| {step_size:g} | {l1_weight:g} | {search_name} | {probability[0]:.3f} | {probability[-1]:.3f} "
                f"| {distance[-1]:.4f} | {row['reached']:.0%} | {row['fell_back']:.0%} |"
            )
    text = json.dumps(found[0] if len(grid) == 1 else {"grid": found}, indent=2) + "\n"
    write_whole(output / "latent_paths.json", lambda path: path.write_text(text))
    if args.pictures:
        shown = rows.select([i * count // min(args.pictures, count) for i in range(min(args.pictures, count))])
        draw_pictures(classifier, autoencoder, shown[:], grid, args)


def draw_pictures(classifier, autoencoder, batch: dict, grid: list[tuple[float, float]], args) -> None:
    """Write the two figures with pictures of a few images."""
    image = batch["pixel_values"].to(args.device)
    saliency = batch["saliency"].to(args.device) if "saliency" in batch else None
    target, output = other_class(classifier, image, saliency), Path(args.output_dir)
    made, probability = shifted_images(classifier, autoencoder, image, [0.0, *args.shifts], target, saliency)
    headings = ["λ = 0", *(f"λ = {shift:g}" for shift in args.shifts)]
    show(image, made, probability, headings, "One-step latent shift", output / "latent_shift_pictures.png")
    found = [
        latent_counterfactual(
            classifier, autoencoder, image, target, args.num_steps, step_size, l1_weight,
            step_rule="proximal", saliency=saliency,
        )
        for step_size, l1_weight in grid
    ]  # fmt: skip
    made = torch.stack([found[0].reconstruction, *(one.counterfactual for one in found)])
    probability = torch.stack([found[0].probability[0], *(one.probability[-1] for one in found)])
    headings = ["reconstruction", *(f"β = {step_size:g}, α = {l1_weight:g}" for step_size, l1_weight in grid)]
    show(image, made, probability, headings, "Eq. 5.4", output / "latent_grid_pictures.png")


def show(image: torch.Tensor, made: torch.Tensor, probability: torch.Tensor, headings: list[str], title: str, path):
    """Write the first channel of images (B, …) and of what K settings make of them (K, B, …), the start first."""
    image, made = image[..., 0, :, :].cpu(), made[..., 0, :, :].cpu()
    if image.ndim == 4:  # scans: the slice that changes the most
        most = (made[1:] - made[:1]).abs().amax(0).flatten(2).sum(2).argmax(1)
        index = torch.arange(len(image))
        image, made = image[index, most], made[:, index, most]
    settings_figure(image.numpy(), made.numpy(), probability.cpu().numpy(), headings, title, path)


if __name__ == "__main__":
    run_script(main)
