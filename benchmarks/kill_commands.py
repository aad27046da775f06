"""Commands on tiny inputs for kills.py: how each is run or goes on, and what of its output can be checked."""

import contextlib
import hashlib
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # its tiny models, scans and data sets


class Command:
    """A command on tiny inputs below `root`.

    `run(output)` works or continues; `whole(output)` raises where something looks finished and is not;
    `finished(output)` names what no later run may lose or make again; `result(output)` is what two runs that did the
    same have in common. `reference` is the output of an uninterrupted run.
    """

    def __init__(self, root: Path):
        self.root, self.reference = root, root / "reference" / "output"
        self.counts: dict[str, int] = {}  # what else there is to tell of the kills

    def run(self, output: Path) -> None:
        raise NotImplementedError

    def whole(self, output: Path) -> None:
        pass

    def finished(self, output: Path) -> set[str]:
        return set()

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


class PreprocessHeads(Command):
    """Two series of a synthetic head that are registered and kept, and one that does not fit the template."""

    def __init__(self, root: Path):
        super().__init__(root)
        self.registering, self.counts = root / "registering", {"amid_registration": 0}
        from dicom_files import write_series
        from synthetic_head import SPACING, turn, turned_head

        for number, rotation in enumerate((turn("y", 4), turn("y", -6), turn("y", 180))):
            uid = f"1.2.826.0.2.{number + 1}"
            write_series(
                root / "dicom" / f"{number}", turned_head(rotation)[0].hounsfield, SPACING, StudyInstanceUID=uid,
                SeriesInstanceUID=f"{uid}.1", FrameOfReferenceUID=f"{uid}.2", PatientID=f"P{number}",
                SOPInstanceUID=lambda i, uid=uid: f"{uid}.3.{i + 1}",
            )  # fmt: skip

    def run(self, output: Path) -> None:
        from difffuse_hf.preprocessing import steps
        from difffuse_hf.preprocessing.ct import preprocess_ct

        register = steps.register

        def noted(*arguments):
            self.registering.touch()
            registration = register(*arguments)
            self.registering.unlink()
            return registration

        steps.register = noted  # in this process, which ends with the run
        config = steps.CTPreprocessConfig(image_size=(100, 80), num_slices=5)
        preprocess_ct(self.root / "dicom", output, config, progress=False)

    def whole(self, output: Path) -> None:
        """Each scan can be read to its end, and each series that is recorded as kept has one."""
        self.counts["amid_registration"] += self.registering.exists()
        self.registering.unlink(missing_ok=True)
        for scan in output.glob("scans/[!.]*"):
            voxels_of(scan)
        for row in map(json.loads, self.finished(output)):
            assert row["decision"] != "keep" or (output / row["file"]).exists(), f"{row['file']} is missing"

    def finished(self, output: Path) -> set[str]:
        """The lines of the log; the last one may be cut off."""
        records = output / "records.jsonl"
        return (
            {line for line in records.read_text().splitlines(True) if line[-1] == "\n"} if records.exists() else set()
        )

    def result(self, output: Path) -> dict[str, str]:
        """Decisions, measures of the registrations and voxels, whatever the salt named the scans."""
        import pandas

        manifest = pandas.read_csv(output / "manifest.csv")
        told = manifest[["decision", "reason", "nmi", "dice", "rotation_deg", "to_mni_mm", "to_patient_mm"]]
        scans = sorted(hashlib.sha256(voxels_of(scan).tobytes()).hexdigest() for scan in output.glob("scans/*"))
        return {
            "rows": str(sorted(told.to_csv(index=False).splitlines())),
            "records": str(len(self.finished(output))),
            "scans": str(scans),
            "thumbnails": str(len(list(output.glob("thumbnails/*")))),
        }


def voxels_of(file: Path) -> np.ndarray:
    import nibabel

    return np.asarray(nibabel.load(file).dataobj)  # pyright: ignore[reportAttributeAccessIssue]


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

    return sum(pq.read_metadata(shard).num_rows for shard in command.reference.glob("*.parquet"))


def stamped(files) -> set[str]:
    """Files by their name and the moment they were written."""
    return {f"{file.parent.name}/{file.name} {file.stat().st_mtime_ns}" for file in files}


class Phantom(Command):
    """Three synthetic subjects in the layout of BraTS."""

    def run(self, output: Path) -> None:
        from difffuse_hf.phantoms.brain_phantom import BrainPhantom

        list(BrainPhantom("brats2021", seed=3).write(output, 3))

    def whole(self, output: Path) -> None:
        for case in output.glob("BraTS*") if output.exists() else ():
            for file in case.iterdir():
                voxels_of(file)
            assert len(list(case.iterdir())) == 5, f"{case.name} is incomplete"

    def result(self, output: Path) -> dict[str, str]:
        found = {"table": (output / "subjects.csv").read_text()}
        for file in sorted(output.glob("BraTS*/*")):
            found[file.name] = hashlib.sha256(voxels_of(file).tobytes()).hexdigest()
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

    def finished(self, output: Path) -> set[str]:
        return stamped(output.glob("case*/summary.json"))

    def result(self, output: Path) -> dict[str, str]:
        return {name: digest for name, digest in super().result(output).items() if name.endswith((".nii.gz", ".png"))}


class Script(Command):
    """A script of `examples/` with its flags."""

    script: str

    def flags(self, output: Path) -> list:
        raise NotImplementedError

    def run(self, output: Path) -> None:
        from tiny_trainings import load_script

        load_script(self.script).main([str(flag) for flag in (*self.flags(output), "--output_dir", output)])


class Training(Script):
    """A training script with a checkpoint every three steps; each stage and checkpoint that is found can be loaded."""

    steps: tuple = ("--max_steps", 24)
    more: tuple = ()

    def __init__(self, root: Path):
        super().__init__(root)
        self.prepare(root)

    def prepare(self, root: Path) -> None:
        from tiny_trainings import write_slices

        write_slices(root / "data")

    def flags(self, output: Path) -> list:
        from tiny_trainings import TINY

        often = ("--log_every", 2, "--checkpointing_steps", 3, "--validation_steps", 6, "--batch_size", 4)
        common = (
            "--dataset",
            self.root / "data",
            "--cpu",
            "--report_to",
            "none",
            "--resume_from_checkpoint",
            "latest",
        )
        return [*common, *TINY.get(self.script, []), *often, *self.steps, *self.more]

    def whole(self, output: Path) -> None:
        from safetensors.torch import load_file

        for weights in output.rglob("*.safetensors") if output.exists() else ():
            if not any(part.startswith(".") for part in weights.relative_to(output).parts):
                load_file(weights)
        for checkpoint in output.rglob("checkpoint-*/progress.json"):
            assert json.loads(checkpoint.read_text())["step"] > 0

    def finished(self, output: Path) -> set[str]:
        """All steps up to the last checkpoint of a stage, and stages that have ended."""
        steps = set()
        for checkpoint in output.rglob("checkpoint-*"):
            number = int(checkpoint.name.removeprefix("checkpoint-"))
            steps |= {f"{checkpoint.parent.relative_to(output)} step {step}" for step in range(number + 1)}
        return steps | {
            f"{file.parent.relative_to(output)} {file.read_text()}" for file in output.rglob("training.json")
        }

    def result(self, output: Path) -> dict[str, str]:
        """Every file byte for byte, but for the folder that texts in it name; of checkpoints the names."""
        found = {n: "" if "checkpoint-" in n else digest for n, digest in super().result(output).items()}
        texts = [name for name in found if Path(name).name in ("README.md", "config.json") and found[name]]
        return found | {name: (output / name).read_text().replace(str(output), "OUTPUT") for name in texts}


class FAnoGAN(Training):
    """Both stages; one iteration of the first is five steps of the critic and one of the generator."""

    script = "train_fanogan"
    steps = ("--max_steps", 4, "--encoder_steps", 18)


class HalfBrain(Training):
    """The classifier in its three stages, on scans."""

    script = "train_classifier"
    steps = ("--stage_epochs", 3, 3, 3)
    more = ("--backbone", "half_brain", "--num_pools", 2, "--noise_augmentation", 0)

    def prepare(self, root: Path) -> None:
        from tiny_trainings import write_scans

        write_scans(root / "data")


class OnScans(HalfBrain):
    """What needs scans, a trained classifier and an autoencoder."""

    def prepare(self, root: Path) -> None:
        from tiny_trainings import load_script

        from difffuse_hf import ResNetAutoencoder

        super().prepare(root)
        with contextlib.redirect_stdout(None):
            flags = ["--dataset", root / "data", "--backbone", "half_brain", "--num_pools", 2, "--stage_epochs"]
            flags += [1, 1, 1, "--output_dir", root / "classifier", "--cpu", "--report_to", "none", "--batch_size", 4]
            load_script("train_classifier").main([str(flag) for flag in flags])
        ResNetAutoencoder(in_channels=1, channels=(4, 4, 4)).save_pretrained(root / "autoencoder")

    def saliency(self) -> list:
        models = ("--classifier", self.root / "classifier", "--autoencoder", self.root / "autoencoder")
        return ["--dataset", self.root / "data", *models, "--options", '{"num_steps": 2}', "--cpu"]


class Saliency(OnScans):
    """Maps of 24 scans in three splits, two scans in a file; a file that is there is not made again."""

    script = "compute_saliency"

    def flags(self, output: Path) -> list:
        return [*self.saliency(), "--chunk", 2, "--batch_size", 2]

    def finished(self, output: Path) -> set[str]:
        return stamped(output.glob("*.safetensors"))


class ACAT(OnScans):
    """ACAT on maps made before."""

    script = "train_acat"
    steps = ("--epochs", 8)

    def prepare(self, root: Path) -> None:
        from tiny_trainings import load_script

        super().prepare(root)
        flags = [*self.saliency(), "--output_dir", root / "saliency", "--splits", "train", "validation"]
        load_script("compute_saliency").main([str(flag) for flag in flags])

    @property
    def more(self) -> tuple:
        return ("--classifier", self.root / "classifier", "--saliency", self.root / "saliency")


class EvaluateClassification(OnScans):
    """Six runs of one classifier; predictions that are there are taken."""

    script = "evaluate_classification"

    def flags(self, output: Path) -> list:
        run = (self.root / "classifier", self.root / "data")
        methods = [flag for number in range(6) for flag in ("--method", f"method {number // 2}", *run)]
        return [*methods, "--split", "validation", "--bootstrap", 20, "--device", "cpu", "--batch_size", 2]

    def finished(self, output: Path) -> set[str]:
        return stamped(output.glob("predictions_*"))


class EvaluateAnomaly(Script):
    """Six runs of a reconstruction; the scores that are there are taken."""

    script = "evaluate_anomaly"

    def __init__(self, root: Path):
        super().__init__(root)
        import torch
        from tiny_trainings import write_drawn_slices

        from difffuse_hf import DenoisingAutoencoder, ReconstructionPipeline

        write_drawn_slices(root / "data")
        torch.manual_seed(0)
        ReconstructionPipeline(DenoisingAutoencoder(2, [4, 8])).save_pretrained(root / "model")

    def flags(self, output: Path) -> list:
        run = (self.root / "model", self.root / "data")
        methods = [flag for number in range(6) for flag in ("--method", f"method {number // 2}", *run)]
        return [*methods, "--device", "cpu", "--batch_size", 2]

    def finished(self, output: Path) -> set[str]:
        return stamped(output.glob("runs/*"))

    def result(self, output: Path) -> dict[str, str]:
        """The names of all files and the scores but for the seconds."""
        found = dict.fromkeys(super().result(output), "")
        for path in output.glob("runs/*.json"):
            scores = json.loads(path.read_text())
            del scores["test"]["seconds_per_slice"]
            found[f"runs/{path.name}"] = str(scores)
        return found


def training(name: str) -> type[Command]:
    """A training on slices, of a script that needs nothing else."""
    return type(name, (Training,), {"script": name, "__doc__": f"examples/{name}.py on slices."})


ON_SLICES = ("classifier", "autoencoder", "diffusion", "denoising_ae", "noisy_classifier")
COMMANDS: dict[str, type[Command]] = {
    "preprocess": Preprocess,
    "preprocess_heads": PreprocessHeads,
    "prepare": Prepare,
    "phantom": Phantom,
    "detect": Detect,
    "compute_saliency": Saliency,
    "evaluate_anomaly": EvaluateAnomaly,
    "evaluate_classification": EvaluateClassification,
    **{f"train_{name}": training(f"train_{name}") for name in ON_SLICES},
    "train_fanogan": FAnoGAN,
    "train_half_brain": HalfBrain,
    "train_acat": ACAT,
}
