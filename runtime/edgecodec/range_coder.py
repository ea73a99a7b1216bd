"""A range coder: symbols of known frequencies to bytes and back, in whole numbers alone (Martin 1979).

    range   |--------------------------------------------|   up to 2**32, and never below 2**24
    symbol       |== start, frequency of 2**15 ==|            becomes the range of what follows

What is written is a number inside the last range, as few bytes as name one; after its end a decoder reads zeros. So
the bytes can also be cut behind any symbol: `marks` says where the symbols so far are still told apart.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable

FREQUENCY_BITS = 15
TOTAL = 1 << FREQUENCY_BITS  # of the frequencies of a symbol's alphabet

_TOP, _LEAST = 1 << 32, 1 << 24


class RangeEncoder:
    """Turns symbols into bytes: `encode` and `mark` as often as needed, then `finish`."""

    def __init__(self) -> None:
        self._bytes = bytearray()  # what is settled, but for a carry
        self._low, self._range = 0, _TOP
        self._marks: list[bytes] = []  # the least number of the range at each mark

    def encode(self, starts: Iterable[int], frequencies: Iterable[int]) -> None:
        """Append symbols, each as the sum of the frequencies before its own, and its own, of `TOTAL`."""
        settled, low, width = self._bytes, self._low, self._range
        for start, frequency in zip(starts, frequencies, strict=True):
            unit = width >> FREQUENCY_BITS
            low += unit * start
            width = unit * frequency
            if low >= _TOP:
                low -= _TOP
                _carry(settled)
            while width < _LEAST:
                settled.append(low >> 24)
                low = (low & 0xFFFFFF) << 8
                width <<= 8
        self._low, self._range = low, width

    def mark(self) -> None:
        """Remember this place, to cut the bytes at."""
        self._marks.append(bytes(self._bytes) + self._low.to_bytes(4, "big"))

    def finish(self) -> tuple[bytes, list[int]]:
        """The bytes, and for each mark how many of them tell all symbols before it."""
        settled, end = self._bytes, self._low + self._range
        for bits in range(24, -1, -8):  # the fewest bytes whose number, zeros behind it, lies in the range
            number = -(-self._low >> bits) << bits
            if number < end:
                break
        if number >= _TOP:
            number -= _TOP
            _carry(settled)
        data = (bytes(settled) + number.to_bytes(4, "big")).rstrip(b"\0")
        return data, [length_to_reach(data, least) for least in self._marks]


class RangeDecoder:
    """Turns the bytes of a `RangeEncoder` into its symbols. Any bytes give symbols: a checksum must vouch for them."""

    __slots__ = "_code", "_data", "_next", "_padded", "_range"

    def __init__(self, data: bytes) -> None:
        self._data = self._padded = data
        self._next = 4
        self._code, self._range = int.from_bytes(data[:4].ljust(4, b"\0"), "big"), _TOP

    @property
    def is_spent(self) -> bool:
        """Whether no byte is left; the symbols of whole bytes take all of them."""
        return self._next >= len(self._data)

    def decode(self, tables: array[int], size: int, first: int, count: int) -> list[int]:
        """The next symbols, one for each of `count` tables of `size` numbers that lie side by side, from `first` on.

        A table of n symbols has n + 1 rising numbers: before each symbol the sum of the frequencies so far, and
        `TOTAL` at the end.
        """
        symbols: list[int] = []
        self._decode(tables, size, range(first * size, (first + count) * size, size), count, symbols)
        return symbols

    def decode_chain(self, tables: array[int], size: int, first: int, count: int) -> list[int]:
        """The next symbols, each by the table whose number is the symbol before: at the start, `first`."""
        symbols: list[int] = []
        bases = (size * (symbols[-1] if symbols else first) for _ in range(count))
        self._decode(tables, size, bases, count, symbols)
        return symbols

    def _decode(self, tables: array[int], size: int, bases: Iterable[int], count: int, symbols: list[int]) -> None:
        """Append the next `count` symbols, by the tables that begin at `bases`."""
        at, code, width = self._next, self._code, self._range
        if len(self._padded) < at + 2 * count:  # no symbol takes more than two bytes
            self._padded += bytes(at + 2 * count)
        data = self._padded
        for base in bases:
            unit = width >> FREQUENCY_BITS
            value = code // unit
            if value >= TOTAL:
                value = TOTAL - 1
            place = bisect_right(tables, value, base, base + size) - 1
            start = tables[place]
            code -= unit * start
            width = unit * (tables[place + 1] - start)
            while width < _LEAST:
                code = code << 8 | data[at]
                width <<= 8
                at += 1
            symbols.append(place - base)
        self._next, self._code, self._range = at, code, width


def decode_in_turn(decoders: Iterable[RangeDecoder], counts: Iterable[int], tables: array[int], size: int) -> list[int]:
    """The next symbols of several decoders, one after the other: each takes its count of the tables."""
    symbols: list[int] = []
    base = 0
    for decoder, count in zip(decoders, counts, strict=True):
        if count:
            end = base + count * size
            decoder._decode(tables, size, range(base, end, size), count, symbols)
            base = end
    return symbols


def _carry(settled: bytearray) -> None:
    """Add one to a number of bytes, which is never all ones."""
    i = len(settled) - 1
    while settled[i] == 0xFF:
        settled[i] = 0
        i -= 1
    settled[i] += 1


def length_to_reach(data: bytes, least: bytes) -> int:
    """The fewest first bytes of `data` that, zeros behind them, are not below `least`; `data` is not."""
    alike, end = 0, min(len(data), len(least)) + 1  # so many first bytes are alike, so many are not
    while end - alike > 1:
        middle = (alike + end) // 2
        if data[alike:middle] == least[alike:middle]:
            alike = middle
        else:
            end = middle
    return alike + 1 if alike < min(len(data), len(least)) else len(least.rstrip(b"\0"))
