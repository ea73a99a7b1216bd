"""The one way by which output is written: complete or not there, or else in place.

    a file, or a link to one        a temporary file in the same folder, renamed at the end (see `durable`); links
                                    stay links, soft and hard ones, and a file that is replaced leaves its mode
    - , a FIFO, a device, or a      in place, as the data comes: it is not edgecodec's, so it is never sought, cut
    descriptor (/dev/stdout …)      short or replaced, and holds what was there before

What goes wrong with the output is said of the output, and nothing else is: errors of what is read in the meantime pass.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from ..durable import claimed_file, finish_copy, put_file
from ..errors import EdgecodecError

_DESCRIPTORS = re.compile(r"/dev/fd|/proc/(\d+)(?:/task/\d+)?/fd")  # folders of them, links resolved
_MOST_LINKS = 40  # as Linux follows


class OutputFile:
    """An open file or pipe that is written; its errors name what was asked for.

    Raises:
        EdgecodecError: from every method, where the system refuses it.
        BrokenPipeError: from every method, where the reader of a pipe went away.
    """

    def __init__(self, what: str, file: BinaryIO) -> None:
        self._what, self._file = what, file

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            with _said_of(self._what):
                self._file.close()
            return
        with suppress(OSError):  # the first error is the one to hear
            self._file.close()

    @property
    def name(self) -> str:
        """The path of the file itself, which has its final name only at the end."""
        return str(self._file.name)

    def write(self, data: bytes) -> None:
        """Write all of `data`."""
        rest = memoryview(data)
        with _said_of(self._what):
            while rest:  # standard output may be unbuffered, and then takes a part
                rest = rest[self._file.write(rest) :]

    def flush(self) -> None:
        """Hand over what is buffered."""
        with _said_of(self._what):
            self._file.flush()

    def tell(self) -> int:
        """Bytes before the next one."""
        return self._file.tell()

    def seek(self, position: int, whence: int = os.SEEK_SET) -> None:
        """Go on at a byte; only in files that are not written in place."""
        with _said_of(self._what):
            self._file.seek(position, whence)


@dataclass(frozen=True)
class Output:
    """Where output goes: the path that was asked for, the open file, and whether it is written in place."""

    path: str
    file: OutputFile
    in_place: bool


@contextmanager
def open_output(
    path: str, *, force: bool = False, suffixes: Collection[str] | None = None, source: str | None = None
) -> Iterator[Output]:
    """Open `path` for writing, `-` for standard output. On any error, also Ctrl-C, no part of a file stays behind.

    All that can be known beforehand is checked here: open the output before long work.

    Args:
        path: a file, or anything that is written in place.
        force: replace a file that exists.
        suffixes: those that a file may have, in lower case.
        source: what is read for it, `-` for standard input; it is not to be written.

    Raises:
        EdgecodecError: a file that exists without `force`, the source itself, a terminal without `force`, another
            suffix, or a folder that is missing, read-only or full.
        BrokenPipeError: a pipe whose reader went away.
    """
    if path == "-":
        if sys.stdout is None:
            raise EdgecodecError("standard output: closed")
        _check_in_place("standard output", sys.stdout.buffer, source, force=force)
        output = OutputFile("standard output", sys.stdout.buffer)
        yield Output(path, output, in_place=True)
        output.flush()
        return
    with _said_of(path):
        in_place = _opened_in_place(Path(path))
    if in_place is not None:
        with OutputFile(path, in_place) as file:
            _check_in_place(path, in_place, source, force=force)
            yield Output(path, file, in_place=True)
        return
    target = Path(os.path.realpath(path))
    _check(path, target, force=force, suffixes=suffixes)
    _check_source(path, _status(target), source)
    with ExitStack() as stack:
        with _said_of(path):
            finish_copy(target)
            temporary = stack.enter_context(claimed_file(target))
            new = temporary.open("wb")
        with OutputFile(path, new) as file:
            yield Output(path, file, in_place=False)
        _check(path, target, force=force, suffixes=suffixes)
        with _said_of(path):
            put_file(temporary, target)


def is_standard_output(path: str) -> bool:
    """Whether what is written to `path` comes out on standard output: `-`, and whatever else leads there."""
    try:
        return path == "-" or os.path.samestat(Path(path).stat(), os.fstat(1))
    except (OSError, ValueError):  # no such file; or standard output is closed
        return False


def _check(path: str, target: Path, *, force: bool, suffixes: Collection[str] | None) -> None:
    """Refuse to write a file that would be no good, or in the place of something that is to stay."""
    suffix = Path(path).suffix.lower()
    if target.is_dir():
        raise EdgecodecError(f"{path}: is a folder")
    if target.is_symlink():
        raise EdgecodecError(f"{path}: cannot write: a loop of links")
    if suffixes is not None and suffix not in suffixes:
        what = suffix or "files without a suffix"
        raise EdgecodecError(f"{path}: cannot write {what}; choose {', '.join(suffixes)}")
    if target.exists() and not force:
        raise EdgecodecError(f"{path}: exists; -f replaces it")


def _check_in_place(what: str, file: BinaryIO, source: str | None, *, force: bool) -> None:
    """Refuse to fill a screen with bytes, and to append to what is being read."""
    if file.isatty() and not force:
        raise EdgecodecError(f"{what}: a terminal, which cannot show this; redirect it, or write there with -f")
    with suppress(OSError, ValueError):  # no file of the system
        _check_source(what, os.fstat(file.fileno()), source)


def _check_source(what: str, target: os.stat_result | None, source: str | None) -> None:
    """Refuse to write the file that is read."""
    if source is None or target is None or not stat.S_ISREG(target.st_mode):
        return
    with suppress(OSError, ValueError):  # a source that is missing or closed is said of it
        if os.path.samestat(target, os.fstat(0) if source == "-" else Path(source).stat()):
            raise EdgecodecError(f"{what}: is also what is read; write to another file")


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _opened_in_place(path: Path) -> BinaryIO | None:
    """What is written in place, open; None for a file."""
    descriptor = _descriptor(path)
    if descriptor is not None:
        process, number = descriptor
        # Opening the path would begin at the first byte of a file again; a descriptor goes on where others stopped.
        return os.fdopen(os.dup(number), "wb") if process == os.getpid() else path.open("ab")
    if path.exists() and not path.is_file() and not path.is_dir():
        return path.open("wb")
    return None


def _descriptor(path: Path) -> tuple[int, int] | None:
    """Process and number of the open descriptor that a path stands for, or links to."""
    for _ in range(_MOST_LINKS):
        folder = _DESCRIPTORS.fullmatch(os.path.realpath(path.parent)) if path.name.isdecimal() else None
        if folder is not None:
            return int(folder[1] or os.getpid()), int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None


@contextmanager
def _said_of(what: str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise EdgecodecError(f"{what}: cannot write: {error.strerror or error}") from None
