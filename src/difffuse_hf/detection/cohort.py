"""Many scans in, their results out: one after the other, or dealt among processes.

A process takes a whole case, and the next one when it has finished. The processes are this one alone, workers that it
starts, or those that `torchrun` or `accelerate launch` has started, on one machine or on several. Every slice draws
from a generator of its own, so the results are the same, whoever makes them.
"""

import json
import os
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch.distributed.rendezvous import rendezvous

from ..errors import InputError
from ..io.files import sweep
from ..io.layouts import Source, case_name
from .run import Outcome, Run, name_in_words, namesake
from .workers import ProcessDied, run_in_processes

POLL_SECONDS = 0.05


def detect_cases(
    run: Run, sources: Sequence[Source], device: str = "cpu", workers: int = 1
) -> tuple[list[dict[str, Any]], list[str]]:
    """Detect lesions in each of many scans, going on after a scan that cannot be used.

    Args:
        run: the model and the settings.
        sources: case folders, files for a model of one modality, or the file of each modality (see `find_case`).
        device: `"cuda"` stands for all GPUs, among which the processes are dealt.
        workers: processes of this machine; with 1, this one does the work. They share the cores, unless
            `OMP_NUM_THREADS` says otherwise.

    Returns:
        the summaries of the scans that went well, with "resumed" where an earlier run had made them, and one sentence
        for each scan that did not; both in the order of the sources. Under `torchrun` the first process gets them and
        the others nothing.

    Raises:
        InputError: the model cannot be used, or a launcher and `workers` are both to make processes.
    """
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    if ranks > 1 and workers > 1:
        raise InputError(f"The launcher has started {ranks} processes already; leave out --workers.")
    cases, outcomes = _without_namesakes(sources)
    sweep(run.output)  # what a killed run has left
    workers = min(workers, len(cases))
    if ranks > 1:
        made = _among_ranks(run, device, list(cases.values()))
    elif workers > 1:
        made = _among_workers(run, device, list(cases.values()), workers)
    else:
        work = run.load(device, progress=True)
        made = ((number, work(case)) for number, case in enumerate(cases.values()))
    places, several = list(cases), max(ranks, workers) > 1
    with closing(made):  # an interrupt ends the processes now, not when the garbage is collected
        for number, outcome in track(made, "Detecting", total=len(cases), disable=not several or process_rank() > 0):
            outcomes[places[number]] = outcome
    if process_rank():
        return [], []
    in_order = [outcomes[place] for place in range(len(sources))]
    return [one for one in in_order if isinstance(one, dict)], [one for one in in_order if isinstance(one, str)]


def _without_namesakes(sources: Sequence[Source]) -> tuple[dict[int, Source], dict[int, Outcome]]:
    """The sources with a name of their own, and a sentence for each of the others, by place; the first one counts."""
    cases: dict[str, tuple[int, Source]] = {}
    refused: dict[int, Outcome] = {}
    for place, source in enumerate(sources):
        if cases.setdefault(case_name(source), (place, source))[0] != place:
            refused[place] = namesake(source)
    return dict(cases.values()), refused


def process_rank() -> int:
    """The number of this process among those of a launcher; 0 for the first one, and for one alone."""
    return int(os.environ.get("RANK", 0))


def _deal(device: str, number: int) -> str:
    """The GPU of the process with this number, where GPUs are meant and none is named."""
    return f"cuda:{number % torch.cuda.device_count()}" if device == "cuda" else device


def _among_workers(run: Run, device: str, cases: Sequence[Source], workers: int) -> Generator[tuple[int, Outcome]]:
    """`(number of the case, outcome)` as they are made by processes of this machine."""
    devices = [_deal(device, worker) for worker in range(workers)]
    for number, outcome in run_in_processes(run.load, devices, cases):
        if isinstance(outcome, ProcessDied):
            sweep(run.output)
            name = name_in_words(cases[number])
            outcome = f"{name}: the process at work on it died, perhaps of too little memory; try fewer --workers."
        yield number, outcome


def _among_ranks(run: Run, device: str, cases: Sequence[Source]) -> Generator[tuple[int, Outcome]]:
    """`(number of the case, outcome)` as they are made by the processes of a launcher; for the first process only.

    The launcher's store holds a counter, from which a process takes the number of its next case, and the outcomes as
    JSON: whoever reaches the store's port may write to it, and a pickle would run. No process group is needed, nor a
    wait for the slowest but at the end.
    """
    store, rank, world = next(rendezvous("env://"))
    work = run.load(_deal(device, int(os.environ.get("LOCAL_RANK", rank))))
    received, left = 0, True
    while left or (rank == 0 and received < len(cases)):
        if left and (left := (number := store.add("taken", 1) - 1) < len(cases)):
            outcome = json.dumps([number, work(cases[number])], default=os.fspath)
            store.set(f"outcome {store.add('finished', 1)}", outcome)
        while rank == 0 and store.check([f"outcome {received + 1}"]):
            received += 1
            yield _unpacked(store.get(f"outcome {received}"))
        if not left:
            time.sleep(POLL_SECONDS)  # not in `store.wait`, which is deaf to signals
    while rank == 0 and store.add("taken", 0) < len(cases) + world:  # the store may live in this process
        time.sleep(POLL_SECONDS)


def _unpacked(text: bytes) -> tuple[int, Outcome]:
    """Number of a case and outcome, as they were before they became JSON."""
    number, outcome = json.loads(text)
    if isinstance(outcome, dict):
        outcome["folder"] = Path(outcome["folder"])
    return number, outcome
