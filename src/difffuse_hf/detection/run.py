"""Scans in, one folder of results per scan out: what `difffuse detect` and `difffuse demo` do.

A folder appears when it is complete (NIfTI files and what the report writer adds); an older one of the same name is
replaced only then.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from ..errors import InputError, one_sentence
from ..io.case import read_case
from ..io.files import complete_folder
from ..phantoms.common import SYNTHETIC
from ..pipelines.pipeline_difffuse import DifFusePipeline
from .result import DetectionResult
from .volume import detect_volume


class ReportWriter(Protocol):
    """Adds its files to the folder of a result and returns a summary; `difffuse_hf.reporting.report.write_report`."""

    def __call__(
        self, result: DetectionResult, folder: Path, *, model: str, model_line: str, seconds: float, synthetic: bool
    ) -> dict[str, Any]: ...


def detect_case(
    pipeline: DifFusePipeline,
    source: str | Path,
    output: str | Path,
    write_report: ReportWriter,
    model: str = "",
    model_line: str = "",
    taken: Sequence[str] = (),
    **options: Any,
) -> dict[str, Any]:
    """Detect lesions in one scan and write `output/<case name>/`; returns the summary, with the folder under "folder".

    Args:
        source: a case folder in the BraTS layout, or one NIfTI file if the model takes one modality.
        write_report: makes the summary, and the report beside the NIfTI files.
        model, model_line: name of the model and a line of its card, for the report.
        taken: names of cases written before, which must not be replaced by a namesake.
        options: passed on to `detect_volume`.

    Raises:
        InputError: the scan, the model or the output folder cannot be used.
    """
    start = time.perf_counter()
    if pipeline.processor is None:
        raise InputError("The model has no processor, so its modalities and slice size are not known.")
    case = read_case(source, pipeline.processor.modalities)
    if case.name in taken:
        raise InputError(f"{source} has the same name as an earlier input; run it by itself with another --output.")
    folder = Path(output) / case.name
    with complete_folder(folder) as temporary:
        result = detect_volume(pipeline, case, **options)
        result.save(temporary)
        synthetic = case.header["descrip"].item() == SYNTHETIC
        seconds = time.perf_counter() - start
        summary = write_report(
            result, temporary, model=model, model_line=model_line, seconds=seconds, synthetic=synthetic
        )
    return {**summary, "folder": folder}


def detect_cases(
    pipeline: DifFusePipeline,
    sources: Sequence[str | Path],
    output: str | Path,
    write_report: ReportWriter,
    model: str = "",
    model_line: str = "",
    **options: Any,
) -> tuple[list[dict[str, Any]], list[str]]:
    """`detect_case` for each of many scans, going on after a scan that cannot be used.

    Returns:
        the summaries of the scans that went well, and one sentence for each that did not.
    """
    summaries: list[dict[str, Any]] = []
    failures: list[str] = []
    for source in sources:
        try:
            taken = [one["case"] for one in summaries]
            summaries.append(detect_case(pipeline, source, output, write_report, model, model_line, taken, **options))
        except torch.OutOfMemoryError:
            failures.append(f"{source}: the device ran out of memory; try a smaller batch size (--batch-size).")
        except (ValueError, OSError) as error:
            sentence = one_sentence(error)
            failures.append(sentence if str(source) in sentence else f"{source}: {sentence}")
    return summaries, failures
