"""Single keys from the terminal while sound runs; the terminal is as before afterwards, whatever happens."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

_ARROWS = {b"A": "up", b"B": "down"}


class Keys:
    """Reads keys without echo and without Enter while it is entered; nothing where there is no terminal.

    Ctrl-C stays what it is.
    """

    def __init__(self) -> None:
        self._fd: int | None = None
        self._saved: Any = None
        self._rest = b""

    def __enter__(self) -> Keys:
        if os.name == "posix" and sys.stdin is not None and sys.stdin.isatty():
            import termios
            import tty

            self._fd = sys.stdin.fileno()
            self._saved = termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    @property
    def available(self) -> bool:
        """Whether there is a keyboard."""
        return self._fd is not None or (os.name == "nt" and sys.stdin is not None and sys.stdin.isatty())

    def wait(self, seconds: float) -> Iterator[str]:
        """The keys pressed within so many seconds, letters as they are, arrows as `up` and `down`."""
        if self._fd is not None:
            ready, _, _ = select.select([self._fd], [], [], seconds)
            if ready:
                data = os.read(self._fd, 64)
                if not data:  # hung up: it would be "ready" for ever
                    self._restore()
                self._rest += data
            yield from self._parse()
        elif sys.platform == "win32" and self.available:
            import msvcrt

            time.sleep(seconds)
            while msvcrt.kbhit():
                key = msvcrt.getwch()
                yield {"H": "up", "P": "down"}.get(msvcrt.getwch(), "") if key in "\0\xe0" else key.lower()
        else:
            time.sleep(seconds)

    def _restore(self) -> None:
        if self._fd is None:
            return
        import termios

        with contextlib.suppress(termios.error):  # the terminal itself is gone
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)
        self._fd = None

    def _parse(self) -> Iterator[str]:
        """An arrow is ESC [ A, or ESC O A in application mode."""
        data, self._rest = self._rest, b""
        at = 0
        while at < len(data):
            if data[at] == 0x1B and data[at + 1 : at + 2] in (b"[", b"O"):
                if name := _ARROWS.get(data[at + 2 : at + 3]):
                    yield name
                at += 3
            else:
                if 0x20 < data[at] < 0x7F:
                    yield chr(data[at]).lower()
                at += 1
