"""Progress of long work on standard error: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

_PATIENCE = 2.0  # seconds without a word
_INTERVAL = 10.0  # seconds between lines where there is no terminal


class Progress:
    """Counts seconds of audio; says nothing about work of less than two seconds."""

    def __init__(self, task: str, total: float | None) -> None:
        self._task, self._total = task, total
        self._done = 0.0
        self._next = time.monotonic() + _PATIENCE
        self._bar: Any = None
        self._bar_task: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, seconds: float) -> None:
        """So many more seconds of audio are done."""
        self._done += seconds
        if self._bar is not None:
            self._bar.update(self._bar_task, completed=self._done)
        elif time.monotonic() >= self._next:
            if sys.stderr.isatty():
                self._start_bar()
            else:
                of = f" of {self._total:.0f}" if self._total else ""
                print(f"{self._task}: {self._done:.0f}{of} s of audio", file=sys.stderr, flush=True)
                self._next = time.monotonic() + _INTERVAL

    def _start_bar(self) -> None:
        import rich.console
        import rich.progress

        self._bar = rich.progress.Progress(console=rich.console.Console(stderr=True), transient=True)
        self._bar_task = self._bar.add_task(self._task, total=self._total, completed=self._done)
        self._bar.start()
