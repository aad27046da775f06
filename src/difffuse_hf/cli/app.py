"""`difffuse app`: the web page, for one machine or a small group."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from .options import Device, check_device, needs_extra

AUTH = "DIFFFUSE_APP_AUTH"


def app(
    model: Annotated[
        str, typer.Option(help="Model folder, Hub repository user/name, or embedded: demo or ct.")
    ] = "demo",
    port: Annotated[int | None, typer.Option(min=1, max=65535, show_default="7860, or the next free one")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    device: Device = None,
    auth_file: Annotated[
        Path | None, typer.Option(help=f"File of USER:PASSWORD lines; or the environment variable {AUTH}.")
    ] = None,
    max_upload_mb: Annotated[int, typer.Option(min=1, help="Most that one visitor may upload at a time.")] = 500,
):
    """Open the web page: drop a scan, see what was found, change the mask, download the results."""
    device = check_device(device)
    from ..app.server import LOCAL, read_auth, serve

    text = auth_file.read_text(encoding="utf-8") if auth_file else os.environ.get(AUTH)
    auth = None if text is None else read_auth(text)
    if host not in LOCAL and auth is None:
        print(
            f"Anybody who reaches {host} can use this page and its device; name users by --auth-file or {AUTH}, and "
            "put it behind HTTPS for real scans.",
            file=sys.stderr,
        )
    options: dict[str, Any] = {} if port is None else {"server_port": port}
    try:
        with needs_extra("app"):
            serve(model, device, max_upload_mb, server_name=host, auth=auth, **options)
    except OSError as error:  # gradio's, with the ports that it tried
        if error.filename is not None:
            raise
        ports = port or "7860 and the next ones"
        raise InputError(f"The page cannot listen on {host}, port {ports}; choose another one by --port.") from error
