"""Time of `difffuse detect` over a cohort with one and with several workers, and where it goes.

python benchmarks/cohort.py --subjects 4 --workers 2 --output_dir out/cohort

The sides take turns in one run: the command with one worker on one thread, and on all cores; with several workers,
which share the cores; and, as the bound, as many commands at once that know nothing of each other and share the cases
and the cores. In their time are the start of Python and the loading of the model, once a process. All sides write the
same volumes, which is checked.

The stages are timed in this process: for each, the time in its function less that in the functions of other stages.
Options that this script does not know go to the command: `--samples 1`.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from pydoc import locate
from tempfile import TemporaryDirectory
from unittest.mock import patch

from side_by_side import take_turns, write_results

from difffuse_hf import BrainPhantom
from difffuse_hf.cli.main import main as difffuse
from difffuse_hf.errors import run_script

STAGES = {  # function of each
    "reading": "difffuse_hf.detection.run.read_source",
    "cutting slices": "difffuse_hf.DifFuseProcessor.preprocess_volume",
    "classifier": "difffuse_hf.detection.slices.ScanSlices.classify",
    "saliency": "difffuse_hf.DifFusePipeline.make_saliency",
    "U-Net": "diffusers.UNet2DModel.forward",
    "restoring": "difffuse_hf.DifFuseProcessor.restore",
    "writing": "difffuse_hf.DetectionResult.save",
    "report": "difffuse_hf.reporting.report.write_report",
    "loading": "difffuse_hf.detection.run.load_model",
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--cases", nargs="+", help="case folders; synthetic ones are drawn by default")
    parser.add_argument("--subjects", type=int, default=4, help="to be drawn")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="demo")
    args, options = parser.parse_known_args(argv)
    options += ["--model", args.model, "--device", "cpu"]
    with TemporaryDirectory() as name:
        folder = Path(name)
        drawn = BrainPhantom(layout="brats2021", seed=0)
        cases = args.cases or [str(case) for case in drawn.write(folder / "cases", args.subjects)]
        rows = compare(cases, options, folder, args.workers, args.rounds)
        print(write_results(args.output_dir, "cohort", rows, {**vars(args), "options": options}), flush=True)
        rows = stages(cases, [*options, "--output", str(folder / "stages")])
        print(write_results(args.output_dir, "cohort_stages", rows, {**vars(args), "options": options}))


def compare(cases: Sequence[str], options: Sequence[str], folder: Path, workers: int, rounds: int) -> list[dict]:
    """A row for each way of running over the cohort."""
    cores = len(os.sched_getaffinity(0))

    def start(name, cases, threads, *more):
        words = [sys.executable, "-m", "difffuse_hf.cli", "detect", *cases, *options, "--output", str(folder / name)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        return subprocess.Popen([*words, *more], env=environment, stdout=subprocess.DEVNULL)

    def finish(*processes):
        codes = [process.wait() for process in processes]
        if any(codes):
            raise SystemExit("A detection has failed; see above.")

    def apart():
        shares = [cases[number::workers] for number in range(workers)]
        finish(*[start("apart", share, max(1, cores // workers)) for share in shares if share])

    sides = {
        "one worker, one thread": lambda: finish(start("one", cases, 1)),
        f"one worker, {cores} threads": lambda: finish(start("threads", cases, cores)),
        f"{workers} workers": lambda: finish(start("several", cases, cores, "--workers", str(workers))),
        f"{workers} commands apart": apart,
    }
    timings, _ = take_turns(sides, rounds=rounds, warm_up=False)
    for other in ("threads", "several", "apart"):
        check_same(folder / "one", folder / other)
    first = timings["one worker, one thread"]
    return [
        {"way": name, "wall_s_a_case": timing.row()["wall_s"] / len(cases), **timing.row(first)}
        for name, timing in timings.items()
    ]


def check_same(one: Path, other: Path) -> None:
    """Raise unless both folders hold the same volumes, byte by byte."""
    ours, theirs = ({str(f.relative_to(top)): f.read_bytes() for f in top.rglob("*.nii.gz")} for top in (one, other))
    if not ours or ours != theirs:
        raise SystemExit(f"The volumes in {one.name} and {other.name} differ.")


def stages(cases: Sequence[str], options: Sequence[str]) -> list[dict]:
    """A row for each stage of the command in this process, with its seconds a case and its share of the time."""
    with timed(STAGES) as seconds:
        start = time.perf_counter()
        if difffuse(["detect", *cases, *options]):
            raise SystemExit("The detection has failed; see above.")
        total = time.perf_counter() - start
    seconds["the rest"] = total - sum(seconds.values())
    return [
        {"stage": name, "wall_s_a_case": value / len(cases), "share": value / total} for name, value in seconds.items()
    ]


@contextmanager
def timed(functions: dict[str, str]) -> Iterator[dict[str, float]]:
    """Seconds in each function in here, {name: seconds}, without those in functions of other names that it calls."""
    seconds = dict.fromkeys(functions, 0.0)
    inner = [0.0]  # for each call that is under way, what is to be taken off its time

    def clocked(function, name):
        @wraps(function)
        def call(*arguments, **options):
            inner.append(0.0)
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                took = time.perf_counter() - start
                seconds[name] += took - inner.pop()
                inner[-1] += took

        return call

    with ExitStack() as stack:
        for name, path in functions.items():
            owner, attribute = path.rsplit(".", 1)
            place = locate(owner)
            stack.enter_context(patch.object(place, attribute, clocked(getattr(place, attribute), name)))
        yield seconds


if __name__ == "__main__":
    run_script(main)
