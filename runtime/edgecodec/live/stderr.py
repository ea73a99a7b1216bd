"""Keeps C libraries from writing over the display: PortAudio, ALSA and PulseAudio all complain to file descriptor 2."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """While it is entered, descriptor 2 leads nowhere; `sys.stderr` still leads where it did.

    What went wrong reaches us as return values, and is reported once.
    """
    try:
        is_ours = sys.stderr.fileno() == 2
    except (AttributeError, OSError, ValueError):  # closed, or replaced by something that is no file
        is_ours = False
    before = sys.stderr
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    if is_ours:
        before.flush()
        sys.stderr = os.fdopen(saved, "w", buffering=1, encoding=before.encoding, errors="replace", closefd=False)
    try:
        yield
    finally:
        if is_ours:
            sys.stderr.flush()
            sys.stderr = before
        os.dup2(saved, 2)
        os.close(saved)
