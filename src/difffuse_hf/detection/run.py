"""A scan in, one folder of results out: what `difffuse detect` and `difffuse demo` do for each of their cases.

A folder appears when it is complete (NIfTI files and what the report writer adds); an older one of the same name is
replaced only then. `cohort.py` deals many cases among processes.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from PIL import Image

from .. import __version__
from ..errors import InputError, one_sentence
from ..io.files import complete_folder
from ..io.hub import model_folder
from ..io.layouts import Source, case_name
from ..io.nifti import SYNTHETIC
from ..pipelines.pipeline_difffuse import DifFusePipeline
from ..preprocessing.pictures import save_picture
from .load import load_model
from .result import DetectionResult, result_files
from .slices import Tell
from .sources import files_of, opened, read_source, zip_file_of
from .volume import detect_volume

FINGERPRINT = "fingerprint"  # among the parameters of a summary
WITHOUT_EFFECT = {"batch_size", "progress"}  # options that change no result
MODEL_FILES = {".json", ".safetensors", ".bin"}

Outcome: TypeAlias = "dict[str, Any] | str"  # the summary of a scan, or a sentence on why there is none


class ReportWriter(Protocol):
    """Adds its files to the folder of a result and returns a summary; `difffuse_hf.reporting.report.write_report`."""

    def __call__(
        self, result: DetectionResult, folder: Path, *, model: str, model_line: str, seconds: float, synthetic: bool
    ) -> dict[str, Any]: ...


def detect_case(
    pipeline: DifFusePipeline,
    source: Source,
    output: str | Path,
    write_report: ReportWriter,
    model: str = "",
    model_line: str = "",
    taken: Sequence[str] = (),
    fingerprint: str | None = None,
    register: bool = True,
    brain_extraction: bool = True,
    series: Sequence[str] = (),
    dicom_out: bool | None = False,
    deidentify: bool = False,
    unpacked_from: Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Detect lesions in one scan and write `output/<case name>/`; returns the summary, with the folder under "folder".

    Args:
        source: a case folder, a file if the model takes one modality, the file of each, or DICOM (see `sources.py`).
        write_report: makes the summary, and the report beside the NIfTI files.
        model, model_line: name of the model and a line of its card, for the report.
        taken: names of cases written before, which must not be replaced by a namesake.
        fingerprint: of all that the result depends on, kept with its parameters (see `Run`).
        register, brain_extraction, series: as in `read_source`.
        dicom_out: write the result as DICOM, too (see `dicom_out.py`), or None to do so where the input and what is
            installed allow it; with `deidentify`, without the patient's identity.
        unpacked_from: the zip file that `source` was unpacked from, for the report.
        options: passed on to `detect_volume`.

    Raises:
        InputError: the scan, the model or the output folder cannot be used.
    """
    start = time.perf_counter()
    if pipeline.processor is None:
        raise InputError("The model has no processor, so its modalities and slice size are not known.")
    case, pictures = read_source(source, pipeline.processor, register, brain_extraction, series)
    if unpacked_from is not None:
        case.files = dict.fromkeys(case.files, unpacked_from)
    if dicom_out is None:
        dicom_out = bool(case.dicom) and find_spec("highdicom") is not None
    if dicom_out and not case.dicom:
        raise InputError(f"--dicom-out needs CT in DICOM to refer to, and {name_in_words(source)} holds none.")
    if case.name in taken:
        raise InputError(namesake(source))
    folder = Path(output) / case.name
    with complete_folder(folder) as temporary:
        result = detect_volume(pipeline, case, **options)
        if fingerprint is not None:
            result.parameters[FINGERPRINT] = fingerprint
        result.save(temporary)
        if dicom_out:
            dicom = import_module(".dicom_out", __package__)  # needs the extra `dicom`
            dicom.write_dicom(result, temporary / "dicom", model, deidentify)
        for name, picture in pictures.items():
            save_picture(Image.fromarray(picture), temporary / f"{name}.png")
        synthetic = case.header["descrip"].item() == SYNTHETIC
        seconds = time.perf_counter() - start
        summary = write_report(
            result, temporary, model=model, model_line=model_line, seconds=seconds, synthetic=synthetic
        )
    return {**summary, "folder": folder}


@dataclass(frozen=True)
class Run:
    """What all cases of a run share. It holds no network, so that it can be sent to another process.

    Args:
        model: folder, Hub repository or `"demo"` (see `load_model`); `dtype` is that of its U-Net.
        output: gets a folder for each case.
        write_report: makes the summary and the report of a case.
        false_positives: take the threshold that so large a share of healthy brain reaches.
        resume: a case whose folder is there, complete and with the same fingerprint, is not made again. The
            fingerprint is of the files of the model and of the scan and of all that decides the result: the options
            (but not the batch size), the precision of the U-Net, the version of the package. The device is not part
            of it: a run may go on elsewhere.
        options: of `detect_case`.
    """

    model: str
    output: Path
    write_report: ReportWriter
    dtype: torch.dtype | None = None
    false_positives: float | None = None
    resume: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def load(self, device: str, progress: bool = False) -> Callable[[Source], Outcome]:
        """Load the model; what is returned detects in one scan.

        Raises:
            InputError: the model cannot be used.
        """
        folder = model_folder(self.model)
        return self.with_model(folder, *load_model(folder, device, self.dtype), progress)

    def with_model(
        self, folder: Path, pipeline: DifFusePipeline, line: str, progress: bool | Tell = False
    ) -> Callable[[Source], Outcome]:
        """The same with a model that was loaded before from its folder, and a line of its card."""
        options = {**self.options, "progress": progress}
        if self.false_positives is not None:
            plan = pipeline.calibration(options.get("preset"))
            options["anomaly_threshold"] = plan.threshold_for(self.false_positives)
        deciding = {name: value for name, value in options.items() if name not in WITHOUT_EFFECT}
        settings = json.dumps([__version__, str(pipeline.unet.dtype), deciding], sort_keys=True, default=_as_text)
        files = sorted(file for file in folder.rglob("*") if file.suffix in MODEL_FILES)
        made_with = fingerprint_of(files, settings)
        return partial(_detect_or_say_why, self, pipeline, line, made_with, options)


def fingerprint_of(files: Sequence[Path], settings: str = "") -> str:
    """Sixteen hexadecimal digits of what the files hold, in this order, and of the settings; names have no part."""
    digest = hashlib.sha256(settings.encode())
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _as_text(array: np.ndarray) -> str:
    """What stands for an option that is an array, such as a mask."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _detect_or_say_why(run: Run, pipeline, model_line, made_with, options, source) -> Outcome:
    """The summary of one scan, or one sentence if it cannot be used."""
    try:
        name = case_name(source)
        modalities, files = files_of(source, pipeline.processor)
        made_from = fingerprint_of(files, made_with)
        earlier = _earlier(run.output / name, name, modalities, made_from) if run.resume else None
        if earlier is not None:
            return earlier
        with opened(source) as place:
            return detect_case(
                pipeline, place, run.output, run.write_report, run.model, model_line, fingerprint=made_from,
                unpacked_from=zip_file_of(source), **options,
            )  # fmt: skip
    except torch.OutOfMemoryError:
        return f"{name_in_words(source)}: the device ran out of memory; try a smaller batch size (--batch-size)."
    except Exception as error:  # one case must not end a cohort, whatever a library makes of its files
        name, sentence = name_in_words(source), one_sentence(error)
        if not isinstance(error, (ValueError, OSError)):
            sentence = f"it could not be worked on ({type(error).__name__}: {sentence.rstrip('.')})."
        return sentence if name in sentence else f"{name}: {sentence}"


def name_in_words(source: Source) -> str:
    """A source as a sentence names it: its path, or the case's name where its files were named one by one."""
    return case_name(source) if isinstance(source, Mapping) else str(source)


def namesake(source: Source) -> str:
    """The sentence on a source whose results would replace those of another one."""
    return f"{name_in_words(source)} has the same name as an earlier input; run it by itself with another --output."


def _earlier(folder: Path, name: str, modalities: Sequence[str], fingerprint: str) -> dict[str, Any] | None:
    """The summary in the folder of an earlier run, with "resumed", if it is complete and came out of the same."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        same = summary["parameters"][FINGERPRINT] == fingerprint
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not same or not all((folder / file).is_file() for file in (*result_files(name, modalities), "report.html")):
        return None
    return {**summary, "folder": folder, "resumed": True}
