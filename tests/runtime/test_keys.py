"""Keys from a real pseudo-terminal, however its reads cut what special keys send."""

from __future__ import annotations

import os
import pty
import sys
from collections.abc import Iterator

import pytest
from edgecodec.commands.keys import Keys


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The end of a pseudo-terminal at which somebody types; the other one is standard input."""
    typing, standing = pty.openpty()
    with os.fdopen(standing, "r") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield typing
    os.close(typing)


def read(terminal: int, *pieces: bytes) -> list[str]:
    """What is read of pieces of which each comes in a read of its own; after an empty one nothing comes for a while."""
    found = []
    with Keys() as keys:
        assert keys.available
        for piece in pieces:
            os.write(terminal, piece)
            found += keys.wait(5.0 if piece else 0.05)
    return found


def test_letters_and_arrows(terminal: int) -> None:
    assert read(terminal, b"q", b"M", b"\x1b[A", b"\x1bOB", b"b\x1b[Br") == ["q", "m", "up", "down", "b", "down", "r"]


@pytest.mark.parametrize("sequence", [b"\x1b[A", b"\x1bOA", b"\x1b[1;5A"])
def test_a_sequence_in_pieces_is_one_key(terminal: int, sequence: bytes) -> None:
    for cut in range(1, len(sequence)):
        assert read(terminal, sequence[:cut], sequence[cut:]) == ["up"]
    assert read(terminal, *(sequence[i : i + 1] for i in range(len(sequence)))) == ["up"]


def test_sequences_of_other_keys_are_no_letters(terminal: int) -> None:
    """Page up, F5, Shift-F3, Home, Delete with Ctrl."""
    assert read(terminal, b"\x1b[5~", b"\x1b[15~", b"\x1b[1;2R", b"\x1bOH", b"\x1b[3;5~", b"x") == ["x"]


def test_the_escape_key_alone_is_nothing_and_takes_no_letter_with_it(terminal: int) -> None:
    assert read(terminal, b"\x1b", b"", b"[", b"A") == ["[", "a"]
    assert read(terminal, b"\x1b", b"q") == ["q"]
