"""The web page under load: many visitors at once, some slow, some that break off, some hostile; what does it hold?

python benchmarks/page_load.py --clients 20 --output page-load.json

`difffuse app` with a tiny model serves on the loopback. All visitors begin to upload at the same moment: scans of
which a tiny one is worked on, large ones, slow ones, some that break off half way, some over the limit, text by the
name of a scan, zips whose names lead out of their folder (they are unpacked in it all the same), volumes and zips that
unpack to far more. Those that were taken, but for large and slow ones, wait in the queue for their detection.
Meanwhile a stranger asks for every file of the others. Then all leave. Exit code 1 if a promise did not hold; the
last lines name it.
"""

import argparse
import collections
import gzip
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import nibabel
import numpy as np
import psutil
from gradio_client import Client
from hostile import ZEROS, bomb_header

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # its tiny model and scans
from tiny_scans import AFFINE, MODALITIES, tiny_pipeline, tiny_volumes  # noqa: E402

RUN = ("fast", 0, 1, False, True)  # preset, seed, samples, all slices, without the patient
NAME = "Smith"  # begins the name of every file that is uploaded; the log may not hold it
REFUSAL = "gradio.exceptions.InvalidPathError"  # how the log says that a stranger's wish was not granted
SLOW_SECONDS = 15.0
LEAVING_SECONDS = 60.0  # in which the files of those who left have to go; gradio asks every 15 s who is there


# ---- who comes, with what, and how it should end -----------------------------------------------------------------


def volumes(number: int, shape: tuple[int, ...] | None = None) -> dict[str, bytes]:
    """The four files of a case, tiny ones or noise of this shape; no two visitors have the same."""
    rng = np.random.default_rng(number)
    arrays = {m: rng.integers(0, 900, shape or (1,), np.int16) for m in MODALITIES} if shape else tiny_volumes(number)
    return {f"{NAME}{number}_{m}.nii": nibabel.Nifti1Image(one, AFFINE).to_bytes() for m, one in arrays.items()}


def with_flair(number: int, content: bytes) -> dict[str, bytes]:
    """A tiny case whose FLAIR is something else."""
    files = {name: one for name, one in volumes(number).items() if "flair" not in name}
    return {**files, f"{NAME}{number}_flair.nii.gz": content}


def packed(number: int, members: dict[str, bytes]) -> dict[str, bytes]:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return {f"{NAME}{number}.zip": stream.getvalue()}


def large(number: int, megabytes: int) -> dict[str, bytes]:
    return volumes(number, (100, 100, 12 * megabytes))  # four of two bytes a voxel


KINDS: dict[str, tuple[Callable[[int, int], dict[str, bytes]], str]] = {
    "detection": (lambda n, mb: volumes(n), "found"),
    "large": (large, "taken"),
    "slow": (large, "taken"),
    "aborted": (large, "broke off"),
    "oversized": (lambda n, mb: {f"{NAME}{n}_flair.nii": bytes((2 * mb + 1) * 1_000_000)}, "refused"),
    "text": (lambda n, mb: with_flair(n, f"# Read me {n}\n".encode()), "refused"),
    "path": (lambda n, mb: packed(n, {f"../../{name}": one for name, one in volumes(n).items()}), "found"),
    "gzip bomb": (
        lambda n, mb: with_flair(n, gzip.compress(bomb_header((1024, 1024, 1000 - n))) + 120 * ZEROS),
        "refused",
    ),
    "zip bomb": (lambda n, mb: packed(n, {f"{NAME}{n}.nii": bytes(20_000_000 * mb)}), "refused"),
}
ONES_OF_TEN = (
    *("detection", "large", "slow", "aborted", "oversized", "text", "detection", "path", "gzip bomb", "zip bomb"),
)


# ---- the server --------------------------------------------------------------------------------------------------


@dataclass
class Server:
    url: str
    root: Path  # of all that it writes
    process: psutil.Process
    log: Path
    peak: int = 0  # bytes

    @property
    def memory(self) -> int:
        found = 0
        with suppress(psutil.NoSuchProcess):  # it may end meanwhile
            for one in (self.process, *self.process.children(recursive=True)):
                found += one.memory_info().rss
        return found

    def files(self) -> dict[str, int]:
        """Sizes of all that visitors brought, or that was made of it."""
        found = {}
        for part in ("served", "work"):
            for folder, _, names in os.walk(self.root / part):  # which outlives folders that go meanwhile
                for path in (Path(folder, name) for name in names):
                    with suppress(FileNotFoundError):
                        found[str(path.relative_to(self.root))] = path.stat().st_size
        return found


@contextmanager
def serving(top: Path, most_mb: int) -> Iterator[Server]:
    """`difffuse app`, which keeps its files below `top`; while in here its memory is watched."""
    tiny_pipeline().save_pretrained(top / "model")
    (top / "tmp").mkdir()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # where it is ignored, the server would ignore it, too
    command = [sys.executable, "-u", "-m", "difffuse_hf.cli", "app", "--model", str(top / "model"), "--device", "cpu"]
    command += ["--max-upload-mb", str(most_mb)]
    with (top / "log").open("wb") as log:
        started = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(top / "tmp")})
    try:
        while not (found := re.search(r"page is at (\S+);", (top / "log").read_text())):
            if started.poll() is not None:
                raise RuntimeError((top / "log").read_text())
            time.sleep(0.2)
        root = next((top / "tmp").glob("difffuse-app-*"))
        server, stop = Server(found[1], root, psutil.Process(started.pid), top / "log"), threading.Event()

        def watch() -> None:
            while not stop.wait(0.1):
                server.peak = max(server.peak, server.memory)

        watcher = threading.Thread(target=watch)
        watcher.start()
        yield server
        stop.set()
        watcher.join()
    finally:
        started.send_signal(signal.SIGINT)
        started.wait(120)


# ---- a visitor ---------------------------------------------------------------------------------------------------


class Gone(Exception):
    """The visitor breaks off."""


class Trickle(io.BytesIO):
    """A file that is read slowly, or not to its end."""

    def __init__(self, content: bytes, pause: float, breaks_off: bool):
        super().__init__(content)
        self.pause, self.end = pause, len(content) // 2 if breaks_off else None

    def read(self, size: int | None = -1, /) -> bytes:
        time.sleep(self.pause)
        if self.end is not None and self.tell() > self.end:
            raise Gone
        return super().read(size)


class Visitor:
    """One session of the page, over HTTP; gradio's client only says that it is still there."""

    def __init__(self, server: Server, number: int, kind: str):
        self.server, self.number, self.kind = server, number, kind
        self.client = Client(server.url, verbose=False)
        self.http = httpx.Client(base_url=f"{server.url}gradio_api/", timeout=600)
        self.outcome, self.said, self.seconds, self.waited = "", "", 0.0, 0.0
        self.errors: list[str] = []  # answers of the server that are its own fault

    def ask(self, method: str, address: str, **options) -> httpx.Response:
        answer = self.http.request(method, address, **options)
        if answer.status_code >= 500:
            self.errors.append(f"{self.kind}: {answer.status_code} {answer.text[:100]}")
        return answer

    def ask_for(self, step: str, *data) -> str:
        """Put a step of the page into the queue; its event."""
        body = {"data": data, "session_hash": self.client.session_hash}
        return self.ask("POST", f"call/{step}", json=body).json()["event_id"]

    def answer_of(self, step: str, event: str) -> tuple[str, str]:
        """ "good" or "problem" and the sentence, or "error" and all; and the answer whole."""
        text = self.ask("GET", f"call/{step}/{event}").text
        found = re.search(r"class='(good|problem)'[^>]*><p>(.*?)</p>", text)
        kind, self.said = found.groups() if found else ("error", text[:300])
        return kind, text

    def take(self, paths: list[str]) -> str:
        files = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in paths]
        return self.answer_of("take_files", self.ask_for("take_files", files))[0]

    def visit(self, files: dict[str, bytes], queue: "Queue") -> str:
        """Upload, and ask for a detection where the kind of visitor does; how it ended."""
        chunks = sum(map(len, files.values())) / 2**16
        pause = SLOW_SECONDS / chunks if self.kind == "slow" else 0.0
        parts = [("files", (name, Trickle(one, pause, self.kind == "aborted"))) for name, one in files.items()]
        started = time.monotonic()
        try:
            answer = self.ask("POST", "upload", files=parts)
        except Gone:
            return "broke off"
        if answer.status_code == 413:
            self.said = answer.text
            return "refused"
        kind = self.take(answer.json())
        self.seconds = time.monotonic() - started
        if kind != "good" or self.kind in ("large", "slow"):
            return {"good": "taken", "problem": "refused"}.get(kind, kind)
        started = time.monotonic()
        event = queue.join(self)
        kind, text = self.answer_of("detect", event)
        queue.served.append(self.number)
        self.waited = time.monotonic() - started
        if kind == "good":  # the own download can be had, or the stranger's failure to read would mean nothing
            own = re.findall(r'"path": "([^"]+\.zip)"', text)
            return "found" if own and self.ask("GET", f"file={own[0]}").status_code == 200 else "no download"
        return {"problem": "refused"}.get(kind, kind)


class Queue:
    """Who asked for a detection, and who was served, in order."""

    def __init__(self):
        self.lock, self.asked, self.served = threading.Lock(), [], []

    def join(self, visitor: Visitor) -> str:
        with self.lock:
            self.asked.append(visitor.number)
            return visitor.ask_for("detect", *RUN)


def spy(stranger: Visitor, tried: set[str]) -> int:
    """Ask for all files and folders of the other sessions, as an address and as an upload of one's own; those had."""
    root, had = stranger.server.root, 0
    there = {str(root), str(root / "served")}
    for folder, _, names in os.walk(root / "work"):
        there |= {folder, *(os.path.join(folder, name) for name in names)}
    for path in sorted(there - tried)[:20]:
        had += stranger.ask("GET", f"file={path}").status_code == 200
        had += stranger.take([path]) == "good"
        tried.add(path)
    return had


# ---- all of them -------------------------------------------------------------------------------------------------


def run(kinds: list[str], megabytes: int, top: Path) -> dict:
    """All visitors at once; the figures."""
    with serving(top, most_mb=2 * megabytes) as server:
        idle = server.memory
        visitors = [Visitor(server, number, kind) for number, kind in enumerate(kinds)]
        stranger, tried, reads = Visitor(server, -1, "stranger"), set(), 0
        uploads = [KINDS[one.kind][0](one.number, megabytes) for one in visitors]
        start, queue = threading.Barrier(len(visitors)), Queue()

        def come(visitor: Visitor, files: dict[str, bytes]) -> None:
            start.wait()
            try:
                visitor.outcome = visitor.visit(files, queue)
            except Exception as error:
                visitor.outcome = f"{type(error).__name__}: {error}"

        threads = [threading.Thread(target=come, args=pair) for pair in zip(visitors, uploads)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            reads += spy(stranger, tried)
            time.sleep(1)
        for one in (*visitors, stranger):
            one.client.close()
        left, end = ["?"], time.monotonic() + LEAVING_SECONDS
        while left and time.monotonic() < end:
            left = [name for name, size in server.files().items() if size]
            time.sleep(0.5)
        empty = len(server.files()) - len(left)  # gradio makes one a file and forgets it; a sweep takes them
    log = [line for line in server.log.read_text(errors="replace").splitlines() if REFUSAL not in line]
    errors = [error for one in (*visitors, stranger) for error in one.errors]
    return {
        "clients": len(visitors),
        "outcomes": dict(collections.Counter(f"{one.kind}: {one.outcome}" for one in visitors)),
        "unexpected": [f"{one.kind}: {one.outcome}: {one.said}" for one in visitors
                       if one.outcome != KINDS[one.kind][1]],
        "uploads_taken": sum(bool(one.seconds) for one in visitors),
        "refused_with_a_sentence": sum(one.outcome == "refused" for one in visitors),
        "sentences": sorted({f"{one.kind}: {one.said}" for one in visitors if one.outcome == "refused"}),
        "server_errors": errors + [line for line in log if re.match(r"[\w.]+(Error|Exception|Disconnect)\b", line)],
        "names_in_log": sum(NAME in line for line in log),
        "slowest_upload_s": round(max(one.seconds for one in visitors if one.kind != "slow"), 1),
        "slowest_detection_s": round(max(one.waited for one in visitors), 1),
        "asked": queue.asked, "served": queue.served,
        "memory_idle_mb": idle // 10**6, "memory_peak_mb": server.peak // 10**6,
        "foreign_tries": 2 * len(tried), "foreign_reads": reads,
        "left": left, "empty_files_left": empty,
        "left_at_the_end": sorted(path.name for path in (top / "tmp").iterdir()),
    }  # fmt: skip


def broken(found: dict, most_memory_mb: int) -> list[str]:
    """The promises that did not hold."""
    promises = {
        "each visitor's visit ends as it should": not found["unexpected"],
        "no error of the server": not found["server_errors"],
        "no name in the log": not found["names_in_log"],
        "nobody reads a file of somebody else": not found["foreign_reads"] and found["foreign_tries"] > 0,
        "the queue serves in the order of asking": found["asked"] == found["served"],
        f"memory stays below {most_memory_mb} MB": found["memory_peak_mb"] < most_memory_mb,
        "nothing is left of those who left": not found["left"],
        "nothing is left when the server has ended": not found["left_at_the_end"],
    }
    return [promise for promise, held in promises.items() if not held]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--megabytes", type=int, default=12, help="of a large upload; twice that is the limit")
    parser.add_argument("--most_memory_mb", type=int, default=2000, help="of the server, at any moment")
    parser.add_argument("--output", type=Path, help="JSON file of the figures")
    args = parser.parse_args()
    kinds = [ONES_OF_TEN[number % len(ONES_OF_TEN)] for number in range(args.clients)]
    with tempfile.TemporaryDirectory(prefix="page-load-") as top:
        found = run(kinds, args.megabytes, Path(top))
    found["broken"] = broken(found, args.most_memory_mb)
    text = json.dumps(found, indent=2)
    print(text)
    if args.output:
        args.output.write_text(text, encoding="utf-8")
    for promise in found["broken"]:
        print(f"does not hold: {promise}")
    sys.exit(bool(found["broken"]))


if __name__ == "__main__":
    main()
