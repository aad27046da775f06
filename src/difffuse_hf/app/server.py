"""The server of the page: one process, one device, no word to any other machine, nothing left behind."""

import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..detection.workers import keep_memory
from ..errors import InputError
from .session import MAX_UPLOAD_MB, MEGABYTE, Sessions, make_root

if TYPE_CHECKING:
    from .job import Detector

LOCAL = ("127.0.0.1", "localhost", "::1")
SWEEP_SECONDS = 300
MOST_WAITING = 32  # jobs in the queue
QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_SSR_MODE": "False",
    "GRADIO_RUN_HISTORY": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


@contextmanager
def folders_of_server() -> Iterator[Path]:
    """A folder for all that the server writes, in which gradio and Python put their temporary files while in here."""
    root = make_root()
    served, work = root / "served", root / "work"
    for folder in (served, work):
        folder.mkdir()
    settings = {**QUIET, "GRADIO_TEMP_DIR": str(served)}
    before, place = {name: os.environ.get(name) for name in settings}, tempfile.tempdir
    os.environ.update(settings)
    tempfile.tempdir = str(work)
    try:
        yield root
    finally:
        tempfile.tempdir = place
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        shutil.rmtree(root, ignore_errors=True)


def serve(model: str = "demo", device: str = "cpu", max_upload_mb: int = MAX_UPLOAD_MB, **options: Any) -> None:
    """Serve the page until an interrupt; everything that visitors brought is deleted at the end.

    Args:
        model, device: see `Detector`.
        max_upload_mb: the most that one visitor may upload at a time.
        options: of gradio's `launch`, such as `server_name`, `server_port` and `auth`.

    Raises:
        InputError: the model cannot be used.
        OSError: no port is free.
    """
    with folders_of_server() as root:
        from .job import Detector  # with the settings of the server, as is gradio

        keep_memory()
        with serving(Detector(model, device), root, max_upload_mb, **options) as (blocks, _):
            print(f"The page is at {blocks.local_url}; Ctrl-C ends it.", flush=True)
            with suppress(KeyboardInterrupt):  # how it is meant to end
                threading.Event().wait()


@contextmanager
def serving(
    detector: "Detector", root: Path, max_upload_mb: int = MAX_UPLOAD_MB, **options: Any
) -> Iterator[tuple[Any, Sessions]]:
    """A server of the page, while in here: gradio's blocks, and the sessions of its visitors."""
    import gradio as gr
    from starlette.middleware import Middleware

    from .layout import make_blocks, text_of, theme
    from .page import Page
    from .viewer import write_script

    sessions = Sessions(root)
    static = root / "static"
    static.mkdir()
    script = write_script(static)
    if script is not None:
        gr.set_static_paths([script])
    blocks = make_blocks(Page(detector, sessions, max_upload_mb * MEGABYTE, script))
    blocks.queue(default_concurrency_limit=1, max_size=MOST_WAITING)
    settings = {
        "share": False, "quiet": True, "prevent_thread_lock": True, "max_file_size": max_upload_mb * MEGABYTE,
        "ssr_mode": False, "pwa": False, "run_history": False, "footer_links": [], "theme": theme(),
        "css": text_of("page.css"), "mcp_server": False, "enable_monitoring": False, "show_error": True,
        "app_kwargs": {"middleware": [Middleware(OwnFilesOnly)]},
    }  # fmt: skip
    stop = threading.Event()
    threading.Thread(target=_sweep, args=(sessions, stop), daemon=True).start()
    try:
        blocks.launch(**{**settings, **options})
        yield blocks, sessions
    finally:
        stop.set()
        sessions.close_all()
        blocks.close(verbose=False)


class OwnFilesOnly:
    """Refuses what gradio would fetch from elsewhere for a visitor: `/file=https://...` and `/proxy=...`.

    An upload that breaks off is told to gradio as one that is malformed: only of those does it delete what had come.
    """

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and re.search(r"/(file=\w+:|proxy=)", scope["path"]):
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"This server has its own files only."})
        elif scope["type"] == "http" and scope["method"] == "POST" and scope["path"].endswith("/upload"):
            await self.app(scope, _until_it_breaks_off(receive), send)
        else:
            await self.app(scope, receive, send)


def _until_it_breaks_off(receive: Any) -> Any:
    from starlette.formparsers import MultiPartException

    complete = False

    async def received() -> Any:
        nonlocal complete
        message = await receive()
        if message["type"] == "http.disconnect" and not complete:
            raise MultiPartException("The upload broke off.")
        complete = complete or not message.get("more_body", False)
        return message

    return received


def _sweep(sessions: Sessions, stop: threading.Event) -> None:
    while not stop.wait(SWEEP_SECONDS):
        sessions.sweep()


def read_auth(text: str) -> list[tuple[str, str]]:
    """Names and passwords of USER:PASSWORD, one a line.

    Raises:
        InputError: a line is not that.
    """
    pairs = [line.strip().partition(":") for line in text.splitlines() if line.strip()]
    if not pairs or not all(user and password for user, _, password in pairs):
        raise InputError("The names for the page must be USER:PASSWORD, one a line.")
    return [(user, password) for user, _, password in pairs]
