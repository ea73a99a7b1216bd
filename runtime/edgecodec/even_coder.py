"""Codes at even frequencies and with one stage count, packed: the bytes of `code_coder`, without a range coder.

A symbol of 2**b that are equally likely is b bits of the number that a range coder writes, as long as all symbols
before it are of that kind: so are all where no stage counts come before them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .code_coder import Coded
from .layout import SIDE_BITS, Layout
from .range_coder import length_to_reach

_Ints = NDArray[np.int64]
_Bits = NDArray[np.uint8]


def encode_even(layout: Layout, code_bits: int, codes: _Ints) -> Coded:
    """Bytes of codes [streams, lines, T] of `code_bits` bits, none of them missing."""
    low, high = _halves(code_bits)
    parts, ends = [_to_bits(codes[:, : layout.side].ravel(), SIDE_BITS)], []
    for stage in range(layout.stages(codes.shape[1])):
        lines = codes[:, layout.lines(stage) : layout.lines(stage + 1)].swapaxes(1, 2).ravel()
        parts += [_to_bits(lines >> low, high), _to_bits(lines & (1 << low) - 1, low)]
        ends.append(sum(map(len, parts)))
    bits = np.concatenate(parts)
    data = np.packbits(bits).tobytes().rstrip(b"\0")
    reached = [np.packbits(bits[:end]).tobytes() + bytes(3) for end in ends]  # as long as the range coder's
    return Coded(data, tuple(length_to_reach(data, least) for least in reached))


def decode_even(layout: Layout, code_bits: int, data: bytes, streams: int, stages: int, frames: int) -> _Ints:
    """The codes [streams, lines, frames] that `encode_even` made bytes of; what a cut took of them is gone."""
    low, high = _halves(code_bits)
    codes = np.empty((streams, layout.lines(stages), frames), np.int64)
    total = streams * frames * (layout.side * SIDE_BITS + layout.codes(stages) * code_bits)
    bits = np.unpackbits(np.frombuffer(data.ljust(-(-total // 8), b"\0"), np.uint8), count=total)
    shape, at = (streams, layout.side, frames), streams * layout.side * frames * SIDE_BITS
    codes[:, : layout.side] = _from_bits(bits[:at], at // SIDE_BITS).reshape(shape)
    for stage in range(stages):
        shape = (streams, frames, layout.width(stage))
        size = streams * frames * layout.width(stage)
        groups = _from_bits(bits[at : at + size * high], size)
        at += size * code_bits
        members = _from_bits(bits[at - size * low : at], size)
        lines = (groups << low | members).reshape(shape).swapaxes(1, 2)
        codes[:, layout.lines(stage) : layout.lines(stage + 1)] = lines
    return codes


def _halves(code_bits: int) -> tuple[int, int]:
    """Bits of a member and of a group."""
    return code_bits - code_bits // 2, code_bits // 2


def _to_bits(numbers: _Ints, width: int) -> _Bits:
    """The bits [N * width] of numbers [N], highest first."""
    return (numbers[:, None] >> np.arange(width - 1, -1, -1) & 1).astype(np.uint8).ravel()


def _from_bits(bits: _Bits, count: int) -> _Ints:
    """So many numbers of bits [count * width], which may be none."""
    width = len(bits) // max(count, 1)
    numbers: _Ints = bits.reshape(count, width) @ (1 << np.arange(width)[::-1])
    return numbers
