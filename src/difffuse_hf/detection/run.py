"""Scans in, one folder of results per scan out: what `difffuse detect` and `difffuse demo` do.

A folder appears when it is complete (NIfTI files, report.html, overview.png, summary.json); an older one of the same
name is replaced only then.
"""

import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging
from rich.console import Console
from rich.table import Table
from transformers.utils import logging as transformers_logging

from ..errors import InputError
from ..io.hub import check_model_folder
from ..phantoms.common import SYNTHETIC
from ..pipelines.pipeline_difffuse import DifFusePipeline
from ..reporting.report import write_report
from .volume import detect_volume, read_case

DEMO_MODEL = "demo"  # the name of the embedded checkpoint


def fastest_dtype(device: str | torch.device) -> torch.dtype:
    """bfloat16 where the device computes in it, else float32."""
    device = torch.device(device)
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if native else torch.float32


def to_fastest(unet: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """The network in `dtype`, laid out for convolutions; the network itself, not a copy."""
    # torch's own `to`: that of diffusers warns about modules to be kept in float32, of which this network has none
    return torch.nn.Module.to(unet, dtype=dtype, memory_format=torch.channels_last)


def load_model(
    model: str, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> tuple[DifFusePipeline, str]:
    """The pipeline in a folder, in a Hub repository (`user/name`) or embedded (`demo`), and a line of its model card.

    The U-Net, which takes nearly all of the time, computes in `dtype`, by default the fastest that the device has;
    everything else in float32.

    Raises:
        InputError: there is no such model, or it is not a complete Dif-fuse model for scans.
    """
    folder = Path(str(files("difffuse_hf"))) / "assets" / "demo" if model == DEMO_MODEL else Path(model)
    check_model_folder(folder)
    if not folder.is_dir():
        folder = Path(DifFusePipeline.download(model))
    diffusers_logging.disable_progress_bar()  # of loading from disk, which takes no time
    transformers_logging.disable_progress_bar()
    try:
        pipeline = DifFusePipeline.from_pretrained(folder)
    except Exception as error:  # whatever the loaders of four libraries raise, the remedy is the same
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise InputError(f"The model in {folder} cannot be loaded ({reason}); copy or download it again.") from error
    if pipeline.processor is None:
        raise InputError(f"The model in {folder} has no processor, so its modalities and slice size are not known.")
    channels, modalities = pipeline.unet.config.in_channels, pipeline.processor.modalities
    if channels != len(modalities):
        raise InputError(
            f"The model in {folder} contradicts itself: its U-Net takes {channels} channels "
            f"but its processor names {len(modalities)} modalities ({', '.join(modalities)})."
        )
    pipeline.to(device)
    to_fastest(pipeline.unet, dtype or fastest_dtype(device))
    return pipeline, card_line(folder)


def detect_case(
    pipeline: DifFusePipeline,
    source: str | Path,
    output: str | Path,
    model: str = "",
    model_line: str = "",
    taken: Sequence[str] = (),
    **options,
) -> dict:
    """Detect lesions in one scan and write `output/<case name>/`; returns the summary, with the folder under "folder".

    Args:
        source: a case folder in the BraTS layout, or one NIfTI file if the model takes one modality.
        model, model_line: name of the model and a line of its card, for the report.
        taken: names of cases written before, which must not be replaced by a namesake.
        options: passed on to `detect_volume`.
    """
    start = time.perf_counter()
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


@contextmanager
def complete_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place when the block ends well, and vanishes otherwise."""
    new_parents = [parent for parent in folder.parents if not parent.exists()]
    temporary, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("new", "old"))
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise InputError(
            f"Cannot write to {folder.parent} ({error.strerror}); choose another output folder."
        ) from error
    try:
        yield temporary
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in new_parents:
            if not any(parent.iterdir()):
                parent.rmdir()
        raise


def card_line(folder: Path) -> str:
    """The first sentence of running text in a model's README.md, or an empty string."""
    card = folder / "README.md"
    if not card.is_file():
        return ""
    text = re.sub(r"\A---\n.*?\n---\n", "", card.read_text(encoding="utf-8"), flags=re.DOTALL)
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    prose = [part for part in paragraphs if part and not part.startswith(("#", "|", "<", "!", "```", "-", ">"))]
    return re.split(r"(?<=[.!?])\s", prose[0])[0].replace("**", "") if prose else ""


def print_results(summaries: Sequence[dict], console: Console):
    """A table with one line per scan, then where the reports are."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("case")
    for heading in ("lesion, ml", "slices flagged", "Dice", "seconds"):
        table.add_column(heading, justify="right")
    for one in summaries:
        table.add_row(
            one["case"] + (" (synthetic)" if one["synthetic"] else ""),
            f"{one['lesion_ml']:.1f}",
            f"{one['slices_flagged']} of {one['slices']}",
            "no reference" if one["dice"] is None else f"{one['dice']:.3f}",
            f"{one['seconds']:.0f}",
        )
    console.print(table)
    for one in summaries:
        console.print(str(one["folder"] / "report.html"), markup=False, highlight=False, soft_wrap=True)
