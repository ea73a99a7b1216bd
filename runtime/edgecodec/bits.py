"""Bit packing: integers of a few bits each, most significant bit first, with no gaps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` values of `bits` bits take."""
    return (count * bits + 7) // 8


def pack_bits(values: NDArray[np.int64], bits: int) -> bytes:
    """Pack values [N], each in 0 .. 2**bits - 1, bits in 1..16; unused bits at the end are zero."""
    shifts = np.arange(bits - 1, -1, -1)
    return np.packbits((values[:, None] >> shifts & 1).astype(np.uint8)).tobytes()


def unpack_bits(data: bytes, count: int, bits: int) -> NDArray[np.int64]:
    """The first `count` values of `bits` bits; `data` must hold them."""
    flat = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits)
    weights = 1 << np.arange(bits - 1, -1, -1)
    return flat.reshape(count, bits).astype(np.int64) @ weights


def clear_after(data: bytes, count: int, bits: int) -> bytes:
    """The packed form of the first `count` values, made by cutting bytes and clearing the bits of others."""
    kept = bytearray(data[: packed_size(count, bits)])
    unused = len(kept) * 8 - count * bits
    if unused:
        kept[-1] &= 0xFF << unused & 0xFF
    return bytes(kept)
