"""Output that is either complete or not there: a temporary file in the same folder, renamed at the end."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..errors import EdgecodecError


@dataclass(frozen=True)
class Output:
    """Where output goes: the path that was asked for, the open file, and whether it is a pipe or device."""

    path: str
    file: BinaryIO
    is_pipe: bool


@contextmanager
def open_output(path: str, *, force: bool = False) -> Iterator[Output]:
    """Open `path` for writing, `-` for standard output. On any error, also Ctrl-C, nothing stays behind.

    Pipes and devices are written as the data comes.

    Raises:
        EdgecodecError: a file that exists without `force`, or a folder that is missing, read-only or full.
    """
    try:
        if path == "-":
            yield Output(path, sys.stdout.buffer, is_pipe=True)
            sys.stdout.buffer.flush()
            return
        target = Path(path)
        if target.is_dir():
            raise EdgecodecError(f"{path}: is a folder")
        if target.exists() and not target.is_file():
            with target.open("wb") as file:
                yield Output(path, file, is_pipe=True)
            return
        check_free(path, force=force)
        temporary = target.with_name(f".edgecodec-{secrets.token_hex(6)}.tmp")
        try:
            with temporary.open("xb") as file:
                yield Output(path, file, is_pipe=False)
            check_free(path, force=force)
            temporary.replace(target)
        finally:
            with suppress(OSError):
                temporary.unlink()
    except OSError as error:
        raise EdgecodecError(f"{path}: cannot write: {error.strerror or error}") from None


def check_free(path: str, *, force: bool) -> None:
    """Refuse to replace a file that exists, unless told to."""
    if not force and Path(path).is_file():
        raise EdgecodecError(f"{path}: exists; -f replaces it")
