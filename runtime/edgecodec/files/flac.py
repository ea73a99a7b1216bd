"""FLAC: how many samples there are, by its last frame; libsndfile reads as many as the header says, and no more.

    fLaC | STREAMINFO: 16,000 samples | … | frame 0 | frame 1 | … | frame 9: the samples from 36,864 to 40,000

A header that says too little comes from a recorder that was ended, or from a program that appended frames. Format:
RFC 9639, sections 8.2 (STREAMINFO) and 9.1 (frame headers).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import BinaryIO

from .slices import Piece, bytes_at

_STREAMINFO = 42  # bytes of "fLaC" and the block that comes first
_TOTAL = slice(21, 26)  # where it says how many samples, in 36 bits
_TOTAL_BITS = 36
_LOOKED_AT = 1 << 18  # bytes before the end: more than a frame takes
_MOST_TRIED = 64  # places there that look like the beginning of a frame
_HEADER = 16  # bytes of the largest header of a frame
_SYNC = re.compile(rb"\xff[\xf8\xf9]")
_SIZES = {1: 192, **{n: 144 << n for n in range(2, 6)}, **{n: 1 << n for n in range(8, 16)}}  # samples, by code


@dataclass(frozen=True)
class _Frame:
    """What the header of a frame says."""

    number: int  # of the frame, where all are of one size; else of its first sample
    numbers_samples: bool
    size: int  # samples

    def first(self, block: int) -> int:
        """Its first sample, where all frames but the last have `block`."""
        return self.number if self.numbers_samples else self.number * block


def flac_pieces(file: BinaryIO, start: int, sound: int, end: int) -> list[Piece]:
    """The pieces of a FLAC file from `start` to `end`, whose header says what is there if it said too little.

    `sound`: where its first frame begins.
    """
    head = bytes_at(file, start, _STREAMINFO)
    said = int.from_bytes(head[_TOTAL], "big") & (1 << _TOTAL_BITS) - 1
    if not said or len(head) < _STREAMINFO:  # where it is not known, libsndfile reads to the end
        return [(start, end)]
    first, last = _frame(bytes_at(file, sound, _HEADER)), _last_frame(file, sound, end)
    if first is None or last is None:
        return [(start, end)]
    block = int.from_bytes(head[10:12], "big")  # the most of a frame
    held = last.first(block) + last.size - first.first(block)
    if not said < held < 1 << _TOTAL_BITS:
        return [(start, end)]
    before = int.from_bytes(head[_TOTAL], "big") >> _TOTAL_BITS << _TOTAL_BITS
    return [head[: _TOTAL.start] + (before | held).to_bytes(5, "big") + head[_TOTAL.stop :], (start + len(head), end)]


def _last_frame(file: BinaryIO, sound: int, end: int) -> _Frame | None:
    """The frame that ends where the file does, by its checksum."""
    begin = max(sound, end - _LOOKED_AT)
    data = bytes_at(file, begin, end - begin)
    for place in [match.start() for match in _SYNC.finditer(data)][: -_MOST_TRIED - 1 : -1]:
        frame = _frame(data[place : place + _HEADER])
        if frame is not None and not _checksum(data[place:], _TABLE_16, 16):
            return frame
    return None


def _frame(data: bytes) -> _Frame | None:
    """The header of a frame, None where there is none."""
    if len(data) < _HEADER or not _SYNC.match(data):
        return None
    code, rate = data[2] >> 4, data[2] & 15
    more = max(0, 8 - (data[4] ^ 0xFF).bit_length() - 1)  # bytes of its number behind the first, as in UTF-8
    number = data[4] & (0x7F >> more)
    for byte in data[5 : 5 + more]:
        number = number << 6 | byte & 0x3F
    at = 5 + more
    size = _SIZES.get(code, 0)
    if code in (6, 7):
        size = 1 + int.from_bytes(data[at : at + code - 5], "big")
        at += code - 5
    at += {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if not size or more > 6 or rate == 15 or _checksum(data[: at + 1], _TABLE_8, 8):
        return None
    return _Frame(number, bool(data[1] & 1), size)


def _table(polynomial: int, bits: int) -> list[int]:
    """What each byte adds to a checksum."""
    table = []
    for byte in range(256):
        value = byte << bits - 8
        for _ in range(8):
            value = value << 1 ^ (polynomial if value >> bits - 1 else 0)
            value &= (1 << bits) - 1
        table.append(value)
    return table


_TABLE_8, _TABLE_16 = _table(0x07, 8), _table(0x8005, 16)


def _checksum(data: bytes, table: list[int], bits: int) -> int:
    """0 of sound data with its checksum behind it."""
    value, mask = 0, (1 << bits) - 1
    for byte in data:
        value = (value << 8 & mask) ^ table[(value >> bits - 8) ^ byte]
    return value
