"""Which method for these data: one table, one figure of Dice against cost, and three sentences.

python examples/choose_method.py out/anomaly --networks out/0/healthy out/1/healthy out/0/classifier \\
    --output_dir out/choosing

out/anomaly is what evaluate_anomaly.py wrote; `--by_labels` is its output for the same methods tuned by
`assemble_competitors.py --without_masks`, of which the Dice without drawn lesions is then taken. `--networks` are
folders of trained networks, those of one name being seeds: for each, steps, hours and whether it still improves.
"""

import argparse
from pathlib import Path

from difffuse_hf.errors import run_script
from difffuse_hf.evaluation.effort import Training, training_of
from difffuse_hf.io.files import own_folder
from difffuse_hf.reporting.choosing import write_choice


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", help="output folder of evaluate_anomaly.py")
    parser.add_argument("--by_labels", help="the same, of methods that were tuned without masks")
    parser.add_argument("--networks", nargs="*", default=[], help="folders of trained networks, of every seed")
    parser.add_argument("--output_dir", type=Path, required=True)
    args = parser.parse_args(argv)
    trainings: dict[str, list[Training]] = {}
    for folder in args.networks:
        one = training_of(folder)
        trainings.setdefault(one.name, []).append(one)
    with own_folder(args.output_dir):
        said = write_choice(args.results, args.output_dir, args.by_labels, trainings)
    print("\n".join(said))
    print(f"The table is {args.output_dir / 'choosing.md'}, the figure beside it.")


if __name__ == "__main__":
    run_script(main)
