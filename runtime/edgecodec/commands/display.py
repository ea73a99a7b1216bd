"""A live stream on the screen: a display that is redrawn on a terminal, a line a second elsewhere. All on stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

_REDRAW = 0.2  # seconds; drawing is pure Python and holds up the thread that moves sound
_LINE = 1.0  # seconds between lines where there is no terminal
_METER = 36  # characters
_FLOOR = -60.0  # dB at the left end of a meter


@dataclass(frozen=True)
class View:
    """What to show."""

    title: str
    levels: tuple[tuple[str, float], ...]  # name, dB of full scale
    rows: tuple[tuple[str, str], ...]  # name, text
    line: str  # all of it in one line
    keys: str = ""
    notice: str | None = None


class Screen:
    """Shows views while it is entered; the last one stays."""

    def __init__(self, *, keyboard: bool) -> None:
        self._keyboard = keyboard
        self._live: Any = None
        self._next = 0.0
        self._view: Callable[[], View] | None = None
        self._noticed: str | None = None

    def __enter__(self) -> Screen:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True, highlight=False), auto_refresh=False, transient=False)
            self._live.start()
        self._next = time.monotonic() + (0 if self._live else _LINE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is None:
            return
        with contextlib.suppress(OSError):  # the terminal itself is gone
            try:
                if self._view is not None:
                    self._live.update(draw(self._view(), keyboard=False), refresh=True)
            finally:
                self._live.stop()

    def show(self, view: Callable[[], View]) -> None:
        """Show what `view` makes, if it is time for it."""
        self._view = view
        now = time.monotonic()
        if now < self._next:
            return
        shown = view()
        if self._live is not None:
            self._next = now + _REDRAW
            self._live.update(draw(shown, keyboard=self._keyboard), refresh=True)
            return
        self._next = max(self._next + _LINE, now)
        if shown.notice and shown.notice != self._noticed:
            print(f"edgecodec: {shown.notice}", file=sys.stderr)
        self._noticed = shown.notice
        print(shown.line, file=sys.stderr, flush=True)


def draw(view: View, *, keyboard: bool) -> RenderableType:
    """A view for a terminal."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, db in view.levels:
        table.add_row(name, _meter(db))
    for name, text in view.rows:
        table.add_row(name, Text(text))
    below = []
    if view.notice:
        below.append(Text(view.notice, style="yellow"))
    if keyboard and view.keys:
        below.append(Text(view.keys, style="dim"))
    return Panel(Group(table, *below), title=Text(view.title), title_align="left", expand=False)


def _meter(db: float) -> RenderableType:
    from rich.text import Text

    filled = round(_METER * min(1.0, max(0.0, 1 - db / _FLOOR)))
    style = "red" if db > -1 else "yellow" if db > -6 else "green"
    bar = Text("█" * filled, style=style)
    bar.append("·" * (_METER - filled), style="dim")
    bar.append(f" {db:5.0f} dB")
    return bar
