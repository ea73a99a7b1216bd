"""What of a job is done: lines of JSON in the folder of its results, written as they come, and read by the next run.

    {"begun": "a/b.edgc"}                                                      before anything is written there
    {"target": "a/b.edgc", "source": [[size, time]], "settings": "…", "bytes": 123, "rows": […], "failures": {…}}

A result counts as done where its line stands, its file has that size, and the inputs and the settings are those of the
line, which is written when the file is on the disk: once a second, for waiting for the disk at every file takes as long
as encoding some seconds, and by a thread, so that workers get their next files in the meantime. A line that a sudden
death cut is passed over. Only one job at a time writes into a folder.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, TextIO

from ..durable import flush
from ..errors import EdgecodecError
from .tasks import Result

if sys.platform != "win32":
    import fcntl

NAME = ".edgecodec-journal.jsonl"
Source = list[list[int]]
_SETTLE_SECONDS = 1.0
_KEYS = ("source", "settings", "bytes", "rows", "failures")


@dataclass
class Journal:
    """The journal of one folder, open; see `open_journal`."""

    folder: Path
    settings: str  # all that makes a result what it is, but for its input
    _file: TextIO | None = None  # to read only
    _done: dict[str, dict[str, Any]] = field(default_factory=dict)  # by target
    _begun: set[str] = field(default_factory=set)
    _ended: list[dict[str, Any]] = field(default_factory=list)  # since `_settled`, on the clock
    _settled: float = field(default_factory=time.monotonic)
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))  # starts with its first work
    _settling: Future[None] | None = None
    _lock: Lock = field(default_factory=Lock)  # of the file

    def result_of(self, target: str, source: Source) -> Result | None:
        """What is known of a result that is done, or None where it is to be made."""
        line = self._done.get(target)
        if line is None or line["settings"] != self.settings or line["source"] != source:
            return None
        with suppress(OSError):
            if (self.folder / target).stat().st_size == line["bytes"]:
                return Result(line["rows"], line["failures"])
        return None

    def is_ours(self, target: str) -> bool:
        """Whether a file that is there may be replaced: begun and never finished, or made so of another input."""
        line = self._done.get(target)
        return target in self._begun if line is None else bool(line["settings"] == self.settings)

    def begin(self, target: str) -> None:
        """Say that a result is about to be made."""
        self._begun.add(target)
        self._write({"begun": target})

    def end(self, target: str, source: Source, result: Result) -> None:
        """Say that a result is there, soon."""
        line = {
            "target": target,
            "source": source,
            "settings": self.settings,
            "bytes": (self.folder / target).stat().st_size,
            "rows": list(result.rows),
            "failures": dict(result.failures),
        }
        self._done[target] = line
        self._ended.append(line)
        if time.monotonic() - self._settled > _SETTLE_SECONDS and (self._settling is None or self._settling.done()):
            self._settle()

    def settle(self) -> None:
        """See that all results are on the disk, and say so."""
        try:
            self._settle()
        finally:
            self._thread.shutdown()
        self._raise_failure()

    def _settle(self) -> None:
        """Begin to settle what ended since the last time."""
        self._raise_failure()
        self._settling = self._thread.submit(self._flush, self._ended)
        self._ended, self._settled = [], time.monotonic()

    def _raise_failure(self) -> None:
        if self._settling is not None:
            self._settling.result()

    def _flush(self, ended: Sequence[dict[str, Any]]) -> None:
        paths = [self.folder / line["target"] for line in ended]
        for path in [*paths, *{path.parent for path in paths}]:
            with suppress(FileNotFoundError):  # somebody deleted it: its size is looked at before it counts
                flush(path)
        for line in ended:
            self._write(line)

    def read(self, lines: Iterable[str]) -> None:
        """Take in what was written before."""
        for text in lines:
            with suppress(ValueError, KeyError, TypeError):
                line = json.loads(text)
                if "begun" in line:
                    self._begun.add(str(line["begun"]))
                else:
                    self._done[str(line["target"])] = {key: line[key] for key in _KEYS}

    def _write(self, line: Mapping[str, Any]) -> None:
        assert self._file is not None
        with self._lock:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()


@contextmanager
def open_journal(folder: Path, settings: str) -> Iterator[Journal]:
    """Read and continue the journal of a folder, which is made where it is not there.

    Raises:
        EdgecodecError: another job writes into the folder, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / NAME).open("a+", encoding="utf-8", errors="replace")
    except OSError as error:
        raise EdgecodecError(f"{folder}: {error.strerror}") from None
    with file:
        if sys.platform != "win32":
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise EdgecodecError(f"{folder}: another edgecodec is writing into it") from None
        journal = Journal(folder, settings, file)
        file.seek(0)
        text = file.read()
        journal.read(text.splitlines())
        if text and not text.endswith("\n"):  # a line that was cut
            file.write("\n")
        try:
            yield journal
        finally:
            journal.settle()


def read_journal(folder: Path, settings: str) -> Journal:
    """The journal of a folder as it stands, to look at; an empty one where none is."""
    journal = Journal(folder, settings)
    with suppress(OSError):
        journal.read((folder / NAME).read_text("utf-8", "replace").splitlines())
    return journal
