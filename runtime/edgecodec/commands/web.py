"""The command `web`: the live page as a folder for any host, or served on this machine."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import EdgecodecError, NetworkError
from .options import Bundle, Force

_ADDRESS = "127.0.0.1"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".wasm": "application/wasm"}


def web(
    target: Annotated[
        Path | None, typer.Argument(metavar="OUT_DIR", help="Folder to write, for any host of static files.")
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Serve it on this machine, until Ctrl-C.")] = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Of --serve; 0 for any that is free.")] = 8317,
    bundle: Bundle = "speech",
    ort: Annotated[
        Path | None,
        typer.Option(
            "--ort", metavar="DIR", help="Folder of onnxruntime-web, instead of what npm installs or fetches."
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Make the live page: microphone, codec and loudspeaker in a browser.

    Example: edgecodec web site
    """
    from .site import write_site

    if target is None and not serve:
        raise typer.BadParameter("name a folder to write, or give --serve", param_hint="OUT_DIR")
    if target is not None and not force and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise EdgecodecError(f"{target}: exists; -f writes into it")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) if target is None else target
        write_site(folder, bundle, ort, lambda text: typer.echo(f"edgecodec: {text}", err=True))
        if target is not None:
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            typer.echo(f"{target}: {size / 1e6:.0f} MB, for any host of static files by https")
        if serve:
            _serve(folder, port)


def _serve(folder: Path, port: int) -> None:
    """Serve a folder on this machine alone: browsers take localhost for secure."""
    try:
        server = _Server((_ADDRESS, port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise NetworkError(f"{_ADDRESS}:{port}: {error.strerror}; choose another by --port") from None
    with server, contextlib.suppress(KeyboardInterrupt):  # which is how it ends
        typer.echo(f"http://{_ADDRESS}:{server.server_port}/  (Ctrl-C ends)")
        server.serve_forever()


class _Server(ThreadingHTTPServer):
    """Says nothing of browsers that go away while they are served."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Show what is no broken connection."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(SimpleHTTPRequestHandler):
    """Names the types that browsers insist on; says nothing."""

    def guess_type(self, path: str | os.PathLike[str]) -> str:
        """The type of a file, whatever this machine believes of its ending."""
        return _TYPES.get(Path(path).suffix) or super().guess_type(path)

    def log_message(self, *words: object) -> None:
        """Nothing."""
