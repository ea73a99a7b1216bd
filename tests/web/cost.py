"""Processor time that a browser takes, by kind of process and thread, from /proc."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


class Cost:
    """Shares of a core that a browser took while this was entered: its first process, and all below that one."""

    def __init__(self, process: int) -> None:
        self._process = process

    def __enter__(self) -> Cost:
        self._begin, self._before = time.monotonic(), _seconds(self._process)
        return self

    def __exit__(self, *_: object) -> None:
        self._spent = _seconds(self._process)
        self._spent.subtract(self._before)
        self._wall = time.monotonic() - self._begin

    @property
    def shares(self) -> dict[str, float]:
        """By process and thread, of 0.5 % and more, and of all together."""
        shares = {name: seconds / self._wall for name, seconds in self._spent.most_common()}
        return {"all": sum(shares.values())} | {name: own for name, own in shares.items() if own >= 0.005}

    def __str__(self) -> str:
        return ", ".join(f"{name} {100 * share:.1f} %" for name, share in self.shares.items())


def _seconds(process: int) -> Counter[str]:
    """Seconds of each kind of thread in this process and those below it."""
    seconds: Counter[str] = Counter()
    for child in _all_of(process):
        kind = _kind(child)
        for thread in Path(f"/proc/{child}/task").glob("*/stat"):
            name, fields = _stat(thread)
            seconds[f"{kind}/{re.sub(r'[ #]*[0-9]+$', '', name)}"] += (int(fields[11]) + int(fields[12])) / _TICKS
    return seconds


def first_of(program: str) -> int:
    """The first process of a program, of those below this one."""
    return next(one for one in _all_of(os.getpid()) if _kind(one) == program)


def _all_of(process: int) -> list[int]:
    """A process, and all that it, or one of them, started."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(_stat(path)[1][1])
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
    found = [process]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def _stat(path: Path) -> tuple[str, list[str]]:
    """A thread's name, and the fields behind it: its state is the first."""
    before, after = path.read_text().rsplit(")", 1)
    return before.split("(", 1)[1], after.split()


def _kind(process: int) -> str:
    """What a browser's process is for: Chromium says it by an option, Firefox by its last word."""
    words = Path(f"/proc/{process}/cmdline").read_bytes().decode().replace("\0", " ").split()
    types = [word.removeprefix("--type=") for word in words if word.startswith("--type=")]
    return (types or ([words[-1]] if "-contentproc" in words else [Path(word).name for word in words[:1]]) or [""])[0]
