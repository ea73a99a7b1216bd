"""Single keys from the terminal while sound runs; the terminal is as before afterwards, whatever happens."""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

_ARROWS = {b"A": "up", b"B": "down"}
# What special keys send (ECMA-48, 5.4; xterm's "PC-style function keys"): ESC O A, ESC [ A, with Ctrl ESC [ 1 ; 5 A.
_SEQUENCE = re.compile(rb"\x1b(?:O|\[[0-?]*[ -/]*)([@-~])")
_BEGUN = re.compile(rb"\x1b(?:O|\[[0-?]*[ -/]*)?")


class Keys:
    """Reads keys without echo and without Enter while it is entered; nothing where there is no terminal.

    Ctrl-C stays what it is.
    """

    def __init__(self) -> None:
        self._fd: int | None = None
        self._saved: Any = None
        self._rest = b""  # a sequence that has begun: what follows comes with the next read

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
        """The keys pressed within so many seconds, letters as they are, arrows as `up` and `down`.

        A sequence that has begun goes on with the next call, unless nothing comes until that ends: then it was the
        escape key, which means nothing here.
        """
        if self._fd is not None:
            ready, _, _ = select.select([self._fd], [], [], seconds)
            if ready:
                data = os.read(self._fd, 64)
                if not data:  # hung up: it would be "ready" for ever
                    self._restore()
                yield from self._parse(self._rest + data)
            else:
                self._rest = b""
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

    def _parse(self, data: bytes) -> Iterator[str]:
        self._rest, at = b"", 0
        while at < len(data):
            if sequence := _SEQUENCE.match(data, at):
                if name := _ARROWS.get(sequence[1]):
                    yield name
                at = sequence.end()
            elif _BEGUN.fullmatch(data, at):
                self._rest = data[at:]
                return
            else:
                if 0x20 < data[at] < 0x7F:
                    yield chr(data[at]).lower()
                at += 1
