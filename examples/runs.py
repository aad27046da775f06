"""Everything from nothing, on synthetic cohorts, in the order of the thesis: data, networks, tables and figures.

python examples/runs.py classification smoke|night|full OUT ANATOMIES --jobs 2
python examples/runs.py layers smoke|night|full OUT ANATOMIES
python examples/runs.py subtle smoke|evening|night OUT ANATOMIES
python examples/runs.py anomaly smoke|evening|ranking|full OUT ANATOMIES --cases CASES
python examples/runs.py stroke smoke|evening OUT ANATOMIES
python examples/runs.py demo_model full OUT ANATOMIES
python examples/runs.py flair_model smoke|evening OUT ANATOMIES
python examples/runs.py brain_model smoke|evening|full OUT ANATOMIES
python examples/runs.py kinds smoke|evening|full OUT ANATOMIES

`classification` is chapters 4 and 5: classifiers, saliency maps, ACAT and its competitors. `layers` is Fig. 4.3, the
half-brain CNN with one to eight convolutions, on the data of `classification` where OUT is the same. `subtle` asks
whether ACAT finds the small infarct, beside a floor and a ceiling, on patients drawn straight to arrays. `anomaly` is
chapter 6: all networks, every method of Table 6.1 tuned and scored, and which to take; `stroke` is its methods on head
CT, and the model `ct` of the package. `demo_model` is the package's model `demo`, `flair_model` its model
`flair`, and `brain_model` one of finer slices for any modalities; what its evening gave is in docs/real-scans.md.
`kinds` asks what the model `demo` finds of each kind of lesion, beside its own map, RePaint and DDIM-DDPM.
smoke: does everything run? its figures mean nothing. night, evening: small slices, three seeds, for two cores and so
long. ranking: 96 x 96 pixels, each network until its validation stops improving, 225 test slices of each class, for
a GPU. full: the thesis's sizes and epochs, for GPUs (of the demo model: two hours on two cores). ANATOMIES is a folder
of label maps to draw heads on (SynthSeg's training_seg_*.nii.gz), at least three, because the splits are by anatomy.

What is finished is kept in OUT/steps.json: after an interrupt, repeat the command. `--jobs 2` runs two steps at a
time where none needs the other, for machines with that many cores (with OMP_NUM_THREADS=1) to spare.
"""

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from run_tables.anomaly import anomaly
from run_tables.classification import classification, layers
from run_tables.kinds import kinds
from run_tables.models import brain_model, demo_model, flair_model
from run_tables.steps import Steps
from run_tables.stroke import stroke
from run_tables.subtle import subtle

from difffuse_hf.cli.runner import command_line, run_steps
from difffuse_hf.errors import InputError, run_script

ROOT = Path(__file__).resolve().parents[1]
# What glibc gives back to the system after each step costs the next one up to a third of its time.
KEEP_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TOP_PAD_": "100000000",
}

RUNS: dict[str, Callable[..., Steps]] = {
    "classification": classification,
    "layers": layers,
    "subtle": subtle,
    "anomaly": anomaly,
    "stroke": stroke,
    "demo_model": demo_model,
    "flair_model": flair_model,
    "brain_model": brain_model,
    "kinds": kinds,
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", choices=RUNS)
    parser.add_argument("size", choices=["smoke", "evening", "night", "ranking", "full"])
    parser.add_argument("out", type=Path)
    parser.add_argument("anatomies", type=Path, help="folder of label maps")
    parser.add_argument("--cases", type=Path, help="of anomaly: BraTS cases of your own, to be scored as well")
    parser.add_argument("--jobs", type=int, default=1, help="steps at a time")
    parser.add_argument("--launch", default="python", help='of the networks; "accelerate launch" uses several GPUs')
    parser.add_argument("--dry-run", action="store_true", help="print the command lines and run none")
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f"--jobs is 1 or more, got {args.jobs}")
    out, anatomies = str(args.out.resolve()), str(args.anatomies.resolve())
    cases = args.cases and str(args.cases.resolve())
    steps = RUNS[args.run](args.size, out, anatomies, cases)
    if args.dry_run:
        for step in steps:
            print(shlex.join(command_line(step, {"launch": args.launch.split()})))
        return
    for path in (args.anatomies, args.cases):
        if path is not None and not path.is_dir():
            raise InputError(f"There is no folder {path}; name one that holds the files the run starts from.")
    python, difffuse = [sys.executable], [str(Path(sys.executable).with_name("difffuse"))]
    launch = python if args.launch == "python" else args.launch.split()
    programs = {"python": python, "difffuse": difffuse, "launch": launch}
    run_steps(steps, Path(out, "steps.json"), programs, args.jobs, ROOT, KEEP_MEMORY)
    real = f", but for {cases}" if cases else ""
    print(f"Tables and figures are in {steps[-1].output} and beside it; all of them are of synthetic scans{real}.")


if __name__ == "__main__":
    run_script(main)
