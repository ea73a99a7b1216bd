"""How far long work is, on standard error: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..progress import Progress

_PATIENCE = 2.0  # seconds without a word
_INTERVAL = 10.0  # seconds between lines where there is no terminal


@contextmanager
def progress_display() -> Iterator[Progress]:
    """Shows what it is told while it is entered; nothing of work that takes less than two seconds."""
    display = _Bar() if sys.stderr.isatty() else _Lines()
    begin = time.monotonic()

    def progress(what: str, done: float, of: float | None) -> None:
        if time.monotonic() - begin >= _PATIENCE:
            display.show(what, done, of)

    try:
        yield progress
    finally:
        display.close()


class _Lines:
    def __init__(self) -> None:
        self._next = 0.0

    def show(self, what: str, done: float, of: float | None) -> None:
        if (now := time.monotonic()) >= self._next:
            self._next = now + _INTERVAL
            all_of_it = "" if of is None else f" of {of:.0f}"
            print(f"{what}: {done:.0f}{all_of_it}", file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


class _Bar:
    def __init__(self) -> None:
        self._rich: Any = None
        self._what: str | None = None
        self._task: Any = None

    def show(self, what: str, done: float, of: float | None) -> None:
        if self._rich is None:
            import rich.console
            import rich.progress

            self._rich = rich.progress.Progress(console=rich.console.Console(stderr=True), transient=True)
            self._rich.start()
        name = what.partition(" (")[0]  # what stands in brackets changes on the way
        if name != self._what:  # one bar, of what is done now
            if self._task is not None:
                self._rich.remove_task(self._task)
            self._what, self._task = name, self._rich.add_task(what, total=of)
        self._rich.update(self._task, completed=done, total=of, description=what)

    def close(self) -> None:
        if self._rich is not None:
            self._rich.stop()
