"""kill -9 at random moments, again and again: what was finished is kept, nothing is doubled, nothing half is left.

python benchmarks/kills.py --kills 20 --seed 0 --output_dir kills-results

Each command works on tiny inputs in a process of its own, is killed at a random moment of what an uninterrupted run
takes, and is started again, until it has been killed so often as asked; then it may end. Its output has to be that of
an uninterrupted run, and hold no temporary file. After each kill, what looks finished has to be whole, and what was
finished before has to be there still and as it was.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from kill_commands import COMMANDS, Command
from tqdm import tqdm

MODULES = (
    *("pandas", "nibabel", "dicom_files", "synthetic_head", "tiny_scans", "tiny_trainings", "difffuse_hf.models.auto"),
    *("difffuse_hf.preprocessing.ct", "difffuse_hf.preprocessing.steps", "difffuse_hf.data.prepare"),
    *("difffuse_hf.data.brats2021", "difffuse_hf.phantoms.brain_phantom", "difffuse_hf.phantoms.brats2021"),
    *("difffuse_hf.detection.cohort", "difffuse_hf.reporting.report", "difffuse_hf.training.classifiers"),
    *("difffuse_hf.evaluation.round_trip", "difffuse_hf.evaluation.anomaly_runs", "difffuse_hf.saliency.methods"),
    *("difffuse_hf.reporting.anomaly_tables", "difffuse_hf.reporting.classification_tables", "timm", "captum"),
)


def in_a_process(work: Callable[[], object], seconds: float | None = None) -> tuple[bool, float]:
    """Fork, work, and kill -9 after so many seconds; whether it was killed, and how long it ran."""
    started = time.monotonic()
    child = multiprocessing.get_context("fork").Process(target=_quietly, args=(work,))
    child.start()
    child.join(seconds)
    killed = child.is_alive()
    if killed:
        os.kill(child.pid, 9)  # pyright: ignore[reportArgumentType]
        child.join()
    elif child.exitcode:
        raise RuntimeError(f"a run that was not killed ended with {child.exitcode}")
    return killed, time.monotonic() - started


def _quietly(work: Callable[[], object]) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    if not os.environ.get("SHOW"):
        os.dup2(null, 2)
    work()


def torture(name: str, kills: int, rng: np.random.Generator, root: Path) -> dict:
    """Kill one command so often; what was lost, doubled, half or left behind."""
    command = COMMANDS[name](root)
    reference, output = command.reference, root / "out" / command.reference.name
    _, whole_seconds = in_a_process(lambda: command.run(reference))
    expected, landed, faults, started, finished = command.result(reference), 0, [], 0, set()
    while landed < kills and started < 4 * kills:
        started += 1
        killed, _ = in_a_process(lambda: command.run(output), float(rng.uniform(0, whole_seconds)))
        landed += killed
        try:
            command.whole(output)
            before, finished = finished, command.finished(output) if output.exists() else set()
            if before - finished:
                faults.append(f"after kill {landed}, lost or made again: {sorted(before - finished)[:3]}")
        except Exception as error:
            faults.append(f"after kill {landed}: {type(error).__name__}: {error}")
        if not killed:  # it came to its end: from the start again
            check(command, output, expected, faults)
            shutil.rmtree(root / "out")
            finished = set()
    in_a_process(lambda: command.run(output))
    check(command, output, expected, faults)
    told = {"kills": landed, **command.counts, "runs": started + 1, "seconds_uninterrupted": round(whole_seconds, 1)}
    return {**told, "faults": faults}


def check(command: Command, output: Path, expected: dict[str, str], faults: list[str]) -> None:
    found = command.result(output)
    different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if different:
        faults.append(f"not as of an uninterrupted run: {different[:5]}")
    hidden = list(output.parent.rglob(".*"))
    if hidden:
        faults.append(f"left behind: {sorted(map(str, hidden))[:3]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", default=list(COMMANDS), help=", ".join(COMMANDS))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", type=Path)
    args = parser.parse_args()
    for module in MODULES:  # once, and not in each process
        importlib.import_module(module)
    importlib.import_module("torch").set_num_threads(1)
    tqdm.monitor_interval = 0  # its thread might hold a lock while this process forks, and the child would wait for it
    results = {}
    for name in args.commands:
        with tempfile.TemporaryDirectory(prefix="kills-") as root:
            results[name] = torture(name, args.kills, np.random.default_rng(args.seed), Path(root))
        print(name, json.dumps(results[name]), flush=True)
    if args.output_dir:
        args.output_dir.mkdir(parents=True, exist_ok=True)
        (args.output_dir / "kills.json").write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
