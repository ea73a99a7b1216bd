"""The one display of progress: lines where nobody looks, a bar on a real pseudo-terminal, nothing of short work."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest
from edgecodec.commands import progress

WORK = """
import sys
from edgecodec.commands import progress
progress._PATIENCE = float(sys.argv[1])
with progress.progress_display() as tell:
    for done in (1, 30, 60):
        tell("seconds encoded", done, 60)
    tell("clips scored", 5, None)
"""


def test_lines_where_there_is_no_terminal(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with progress.progress_display() as tell:
        for second in range(25):
            now = 100.0 + second
            tell("seconds encoded", 10 * second, 240)
        tell("clips scored", 3, None)
        now += 10
        tell("clips scored", 4, None)
    assert capsys.readouterr().err.splitlines() == [
        "seconds encoded: 20 of 240",
        "seconds encoded: 120 of 240",
        "seconds encoded: 220 of 240",
        "clips scored: 4",
    ]


def test_nothing_of_short_work() -> None:
    done = subprocess.run([sys.executable, "-c", WORK, "60"], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


def test_a_bar_on_a_terminal_that_is_gone_in_the_end() -> None:
    reading, terminal = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run([sys.executable, "-c", WORK, "0"], stderr=terminal, stdout=subprocess.PIPE, env=environment)
    os.close(terminal)
    seen = b""
    try:
        while piece := os.read(reading, 4096):
            seen += piece
    except OSError:  # all is read
        pass
    os.close(reading)
    assert done.returncode == 0
    assert done.stdout == b""
    for words in (b"seconds encoded", b"clips scored"):
        assert words in seen
    assert seen.rstrip().endswith(b"\x1b[2K")  # the line is cleared


def test_short_work_on_a_terminal_leaves_it_alone() -> None:
    reading, terminal = pty.openpty()
    os.set_blocking(reading, False)
    subprocess.run([sys.executable, "-c", WORK, "60"], stderr=terminal, check=True)
    with pytest.raises(BlockingIOError):
        os.read(reading, 4096)
    os.close(terminal)
    os.close(reading)
