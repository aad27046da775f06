"""One scan through the model for the page: what `difffuse detect` does, told stage by stage and stopped when asked to.

The functions are those of the command line (`detection/run.py: Run`), so that its results are the same, bit for bit.
"""

import shutil
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nibabel.affines import apply_affine

from ..detection.load import load_model
from ..detection.result import DetectionResult
from ..detection.run import Run
from ..detection.slices import Tell
from ..io.files import write_whole
from ..io.hub import model_folder
from ..io.nifti import write_volume
from ..reporting.report import write_report
from .picture import Shown
from .session import Finished, Session
from .viewer import white_of

READING, WRITING = "Reading and preparing the scan", "Writing the results"


class Cancelled(BaseException):
    """The visitor has stopped the job, or gone; like an interrupt, no `except Exception` holds it up."""


@dataclass(frozen=True)
class Choices:
    """What the visitor chose; the same words as the options of `difffuse detect`."""

    preset: str = "fast"
    seed: int = 0
    samples: int | None = None
    all_slices: bool = False
    deidentify: bool = False
    masks: Mapping[int, np.ndarray] = field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        """As `detect_case` takes them."""
        options: dict[str, Any] = {"preset": self.preset, "seed": self.seed, "all_slices": self.all_slices}
        options |= {"batch_size": 8, "dicom_out": None, "deidentify": self.deidentify}
        options |= {} if self.samples is None else {"num_samples": self.samples}
        return options | ({"masks": dict(self.masks)} if self.masks else {})


class Detector:
    """A model, loaded once, through which one scan goes at a time.

    Args:
        model: folder, Hub repository or `"demo"`, see `load_model`.
        device: where it computes.

    Raises:
        InputError: the model cannot be used.
    """

    def __init__(self, model: str, device: str = "cpu"):
        self.model, self.device = model, device
        self.folder = model_folder(model)
        self.pipeline, self.line = load_model(self.folder, device)
        self.one_at_a_time = threading.Lock()

    def detect(self, session: Session, choices: Choices, tell: Tell = lambda *_: None) -> Finished | str:
        """Detect the lesions of the session's scan; a sentence if it cannot be used.

        Raises:
            Cancelled: the session was cancelled or closed.
        """
        assert session.source is not None  # the page asks for a scan first
        kept: list[DetectionResult] = []

        def stop_or_tell(stage: str, done: int = 0, total: int = 0) -> None:
            _stop_if_cancelled(session)
            tell(stage, done, total)

        def keep_and_report(result: DetectionResult, folder: Path, **about: Any) -> dict[str, Any]:
            stop_or_tell(WRITING)
            kept.append(result)
            result.case.files = {one: Path(file.name) for one, file in result.case.files.items()}  # no server's folder
            return write_report(result, folder, **about)

        with self.one_at_a_time, session.held(wait=True):
            stop_or_tell(READING)
            run = Run(self.model, session.work / "results", keep_and_report, options=choices.options())
            with _stopped_by(self.pipeline, session):
                outcome = run.with_model(self.folder, self.pipeline, self.line, stop_or_tell)(session.source)
            if isinstance(outcome, str):
                return session.plain(outcome)
            return _finish(session, kept[-1], outcome)


def _stop_if_cancelled(session: Session) -> None:
    if session.cancelled.is_set():
        raise Cancelled


@contextmanager
def _stopped_by(pipeline, session: Session) -> Iterator[None]:
    """In here every call of a network looks first whether the session was cancelled."""
    networks = [one for one in pipeline.components.values() if isinstance(one, torch.nn.Module)]
    hooks = [one.register_forward_pre_hook(lambda *_: _stop_if_cancelled(session)) for one in networks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _finish(session: Session, result: DetectionResult, summary: dict[str, Any]) -> Finished:
    """The files that the visitor may fetch, in a folder of this result's own; those of an earlier one go."""
    shutil.rmtree(session.served, ignore_errors=True)
    session.served.mkdir(parents=True)
    folder, name = Path(summary["folder"]), result.case.name
    volumes = sorted(folder.glob("*.nii.gz"))
    downloads = {
        "volumes": _zip(session.served / f"{name}_volumes.zip", {file.name: file for file in volumes}),
        "report": Path(shutil.copy(folder / "report.html", session.served / f"{name}_report.html")),
    }
    dicom = sorted(file for file in (folder / "dicom").rglob("*") if file.is_file())
    if dicom:
        inside = {str(file.relative_to(folder)): file for file in dicom}
        downloads["dicom"] = _zip(session.served / f"{name}_dicom.zip", inside)
    first, header = next(iter(result.case.headers.items()))
    in_viewer = {"image": session.served / "image.nii.gz"}
    write_volume(in_viewer["image"], result.case.volumes[0], header, np.float32)
    for what, ending in {"counterfactual": f"counterfactual_{first}", "anomaly": "anomaly"}.items():
        in_viewer[what] = session.served / f"{what}.nii.gz"
        in_viewer[what].hardlink_to(folder / f"{name}_{ending}.nii.gz")
    peak = apply_affine(result.case.affine, np.unravel_index(result.anomaly.argmax(), result.anomaly.shape))
    return Finished(summary, Shown.of(result), downloads, in_viewer, white_of(result), tuple(map(float, peak)))


def _zip(file: Path, inside: Mapping[str, Path]) -> Path:
    """Files in an archive, as they are: volumes are compressed already."""

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w") as archive:
            for name, one in inside.items():
                archive.write(one, name)

    write_whole(file, write)
    return file
