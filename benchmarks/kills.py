"""kill -9 at random moments, again and again: what was finished is kept, nothing is doubled, nothing half is left.

python benchmarks/kills.py --kills 20 --seed 0 --output_dir kills-results

Each command works on tiny inputs in a process of its own, is killed at a random moment of what an uninterrupted run
takes, and is started again, until it has been killed so often as asked; then it may end. Its output has to be that of
an uninterrupted run, and hold no temporary file. After each kill, what looks finished has to be whole.
"""

import argparse
import hashlib
import importlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # its tiny models, scans and data sets


class Command:
    """A command on tiny inputs below `root`.

    `run(output)` works or continues; `whole(output)` raises where something looks finished and is not;
    `result(output)` is what two runs that did the same have in common.
    """

    def __init__(self, root: Path):
        self.root = root

    def run(self, output: Path) -> None:
        raise NotImplementedError

    def whole(self, output: Path) -> None:
        pass

    def result(self, output: Path) -> dict[str, str]:
        return {
            str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(output.rglob("*"))
            if path.is_file()
        }


class Preprocess(Command):
    """Twelve series of head CT, all left out: by their headers, or since they show no head."""

    def __init__(self, root: Path):
        super().__init__(root)
        from dicom_files import write_series

        rng = np.random.default_rng(0)
        for number in range(12):
            uid = f"1.2.826.0.1.{number + 1}"
            write_series(
                root / "dicom" / f"{number}", rng.integers(-1000, 2000, (26 + number % 2 * 4, 32, 32)),
                spacing_mm=(5.0, 6.0, 6.0), StudyInstanceUID=uid, SeriesInstanceUID=f"{uid}.1",
                FrameOfReferenceUID=f"{uid}.2", SOPInstanceUID=lambda i, uid=uid: f"{uid}.3.{i + 1}",
                PatientID=f"P{number}", **({"ConvolutionKernel": "H70h"} if number % 2 else {}),
            )  # fmt: skip

    def run(self, output: Path) -> None:
        from difffuse_hf.preprocessing.ct import preprocess_ct

        preprocess_ct(self.root / "dicom", output, progress=False)

    def result(self, output: Path) -> dict[str, str]:
        import pandas

        decided = ["decision", "reason", "detail", "num_slices", "rows", "columns"]  # the rest depends on the salt
        rows = pandas.read_csv(output / "manifest.csv")[decided].to_csv(index=False).splitlines()
        records = [json.loads(line)["scan_id"] for line in (output / "records.jsonl").read_text().splitlines()]
        return {
            "rows": str(sorted(rows)),
            "doubled": str(len(records) - len(set(records))),
            "thumbnails": str(len(list((output / "thumbnails").iterdir()))),
        }


class Prepare(Command):
    """Slices of eight cases; each version that is found holds all its rows."""

    def __init__(self, root: Path):
        super().__init__(root)
        from tiny_scans import tiny_volumes, write_case

        for number in range(8):
            write_case(root / "raw" / f"BraTS2021_{number:05d}", tiny_volumes(number))

    def run(self, output: Path) -> None:
        from difffuse_hf.data.prepare import make_builder, prepare

        prepare(make_builder("brats2021", self.root / "raw", image_size=(32, 32), slice_margin=0), output)

    def whole(self, output: Path) -> None:
        import pyarrow.parquet as pq

        if output.exists():
            rows = sum(pq.read_metadata(shard).num_rows for shard in output.glob("*.parquet"))
            expected = rows_of(self)
            assert rows == expected, f"{rows} of {expected} rows"
            assert (output / "README.md").exists() and (output / "preprocessor_config.json").exists()

    def result(self, output: Path) -> dict[str, str]:
        import pyarrow.parquet as pq

        tables = {shard.name: pq.read_table(shard) for shard in sorted(output.glob("*.parquet"))}
        named = {name: hashlib.sha256(str(table.to_pydict()).encode()).hexdigest() for name, table in tables.items()}
        return {**named, "rows": str(rows_of(self))}


def rows_of(command: Prepare) -> int:
    """Rows of an uninterrupted run, made once."""
    import pyarrow.parquet as pq

    reference = command.root / "reference"
    return sum(pq.read_metadata(shard).num_rows for shard in reference.glob("*.parquet"))


class Phantom(Command):
    """Three synthetic subjects in the layout of BraTS."""

    def run(self, output: Path) -> None:
        from difffuse_hf.phantoms.brain_phantom import BrainPhantom

        list(BrainPhantom("brats2021", seed=3).write(output, 3))

    def whole(self, output: Path) -> None:
        import nibabel

        for case in output.glob("BraTS*") if output.exists() else ():
            for file in case.iterdir():
                np.asarray(nibabel.load(file).dataobj)  # pyright: ignore[reportAttributeAccessIssue]
            assert len(list(case.iterdir())) == 5, f"{case.name} is incomplete"

    def result(self, output: Path) -> dict[str, str]:
        import nibabel

        found = {"table": (output / "subjects.csv").read_text()}
        for file in sorted(output.glob("BraTS*/*")):
            voxels = np.asarray(nibabel.load(file).dataobj)  # pyright: ignore[reportAttributeAccessIssue]
            found[file.name] = hashlib.sha256(voxels.tobytes()).hexdigest()
        return found


class Detect(Command):
    """Five cases, with `--resume`."""

    def __init__(self, root: Path):
        super().__init__(root)
        from tiny_scans import tiny_pipeline, tiny_volumes, write_case

        tiny_pipeline().save_pretrained(root / "model")
        self.cases = [write_case(root / "cases" / f"case{i}", tiny_volumes(i)) for i in range(5)]

    def run(self, output: Path) -> None:
        from difffuse_hf.detection.cohort import detect_cases
        from difffuse_hf.detection.run import Run
        from difffuse_hf.reporting.report import write_report

        options = {"preset": "fast", "num_inference_steps": 2, "num_samples": 1, "noise_level": 100, "seed": 0}
        run = Run(str(self.root / "model"), output, write_report, resume=True, options=options)
        _, failures = detect_cases(run, self.cases)
        assert not failures, failures

    def whole(self, output: Path) -> None:
        for case in output.glob("case*") if output.exists() else ():
            assert (case / "summary.json").exists() and (case / "report.html").exists(), f"{case.name} is incomplete"
            assert len(list(case.glob("*.nii.gz"))) == 8, f"{case.name} is incomplete"

    def result(self, output: Path) -> dict[str, str]:
        return {name: digest for name, digest in super().result(output).items() if name.endswith((".nii.gz", ".png"))}


class Train(Command):
    """Forty steps of a small network with a checkpoint every four."""

    def __init__(self, root: Path):
        super().__init__(root)
        from tiny_trainings import write_slices

        write_slices(root / "slices")

    def run(self, output: Path) -> None:
        import torch

        from difffuse_hf import ResNetAutoencoder
        from difffuse_hf.data.slices import load_slices
        from difffuse_hf.training.arguments import TrainingArguments
        from difffuse_hf.training.loop import Trainer

        torch.manual_seed(0)
        model = ResNetAutoencoder(in_channels=2, channels=(4, 4, 4))
        args = TrainingArguments(
            dataset="slices", output_dir=str(output), batch_size=4, max_steps=40, cpu=True, report_to="none",
            log_every=1, checkpointing_steps=4, resume_from_checkpoint="latest", ema_decay=0.9,
        )  # fmt: skip

        def compute_loss(model, batch, generator):
            noise = torch.rand(batch["image"].shape, generator=generator)
            return (model(batch["image"] * noise) - batch["image"]).square().mean()

        Trainer(model, load_slices(str(self.root / "slices"), "train"), compute_loss, args, columns=["image"]).fit()

    def whole(self, output: Path) -> None:
        from safetensors.torch import load_file

        for checkpoint in output.glob("checkpoint-*") if output.exists() else ():
            load_file(checkpoint / "model.safetensors")
            assert json.loads((checkpoint / "progress.json").read_text())["step"] > 0

    def result(self, output: Path) -> dict[str, str]:
        weights = (output / "diffusion_pytorch_model.safetensors").read_bytes()
        return {"weights": hashlib.sha256(weights).hexdigest(), "history": (output / "history.jsonl").read_text()}


COMMANDS: dict[str, type[Command]] = {
    "preprocess": Preprocess,
    "prepare": Prepare,
    "phantom": Phantom,
    "detect": Detect,
    "train": Train,
}


MODULES = (
    *("pandas", "nibabel", "dicom_files", "tiny_scans", "tiny_trainings", "difffuse_hf.models.auto"),
    *("difffuse_hf.preprocessing.ct", "difffuse_hf.preprocessing.steps", "difffuse_hf.data.prepare"),
    *("difffuse_hf.data.brats2021", "difffuse_hf.phantoms.brain_phantom", "difffuse_hf.phantoms.brats2021"),
    *("difffuse_hf.detection.cohort", "difffuse_hf.reporting.report", "difffuse_hf.training.loop"),
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
    reference, output = root / "reference", root / "out" / "output"
    _, whole_seconds = in_a_process(lambda: command.run(reference))
    expected, landed, faults, started = command.result(reference), 0, [], 0
    while landed < kills and started < 4 * kills:
        started += 1
        killed, _ = in_a_process(lambda: command.run(output), float(rng.uniform(0, whole_seconds)))
        landed += killed
        try:
            command.whole(output)
        except Exception as error:
            faults.append(f"after kill {landed}: {type(error).__name__}: {error}")
        if not killed:  # it came to its end: from the start again
            check(command, output, expected, faults)
            shutil.rmtree(root / "out")
    in_a_process(lambda: command.run(output))
    check(command, output, expected, faults)
    return {"kills": landed, "runs": started + 1, "seconds_uninterrupted": round(whole_seconds, 1), "faults": faults}


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
