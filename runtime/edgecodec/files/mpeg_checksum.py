"""What the first frame of an MP3 by LAME says of all others: how many bytes they are, and their checksum.

    Xing or Info | flags | frames, bytes, seek table, quality | LAME … | bytes | checksum of the sound | of this frame

libsndfile plays through damage within a frame, and says nothing of it.
Format: http://gabriel.mp3-tech.org/mp3infotag.html
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_FIELDS = (1, 4), (2, 4), (4, 100), (8, 4)  # flag, and bytes of what is there if it is set
_LAME = 36  # bytes from its name to its checksum
_POLYNOMIAL = 0xA001  # x^16 + x^15 + x^2 + 1, lowest bits first
_ROWS = 4096  # of a block, all taken through a byte at once


class SoundFacts(NamedTuple):
    """What is said of all frames of a run."""

    size: int  # bytes, with the frame that says so
    checksum: int  # of the others


def sound_facts(info: bytes, at: int) -> SoundFacts | None:
    """What a first frame says, None where it says nothing, or is damaged itself; `at`: where its "Xing" stands."""
    flags = int.from_bytes(info[at + 4 : at + 8], "big")
    end = at + 8 + sum(size for flag, size in _FIELDS if flags & flag) + _LAME
    said = int.from_bytes(info[end - 2 : end], "big")
    if len(info) < end or not any(info[end - _LAME : end]) or checksum([info[: end - 2]]) != said:
        return None
    return SoundFacts(int.from_bytes(info[end - 8 : end - 4], "big"), int.from_bytes(info[end - 4 : end - 2], "big"))


def checksum(blocks: Iterable[bytes]) -> int:
    """The CRC-16 of bytes, blocks one behind the other.

    It is linear: rows of a block are taken through it side by side, and joined by what so many zeros make of a state.
    """
    state = 0
    for block in blocks:
        length = len(block) // _ROWS
        if length:
            rows = np.frombuffer(block, np.uint8, _ROWS * length).reshape(_ROWS, length)
            state = _through(rows, state)
        for byte in block[_ROWS * length :]:
            state = state >> 8 ^ int(_TABLE[(state ^ byte) & 255])
    return state


def _through(rows: NDArray[np.uint8], state: int) -> int:
    """The checksum of rows [R, L], one behind the other, after `state`."""
    bits = 1 << np.arange(16, dtype=np.uint16)
    states = np.concatenate([np.zeros(len(rows), np.uint16), bits])  # and what zeros make of each bit
    states[0] = state
    for column in np.pad(rows, ((0, 16), (0, 0))).T.copy():
        states = states >> 8 ^ _TABLE[(states ^ column) & 255]
    zeros = _spanned(states[-16:-8]), _spanned(states[-8:])
    found, *others = states[:-16].tolist()
    for other in others:
        found = zeros[0][found & 255] ^ zeros[1][found >> 8] ^ other
    return int(found)


def _spanned(images: NDArray[np.uint16]) -> list[int]:
    """What each byte becomes, by what each of its eight bits becomes."""
    table = [0]
    for image in images.tolist():
        table += [image ^ value for value in table]
    return table


def _table() -> NDArray[np.uint16]:
    table = np.arange(256, dtype=np.uint16)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint16(_POLYNOMIAL), table >> 1)
    return table


_TABLE = _table()
