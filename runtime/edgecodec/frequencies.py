"""Frequencies of symbols: from the logits of an entropy model to the tables by which a range coder tells symbols.

Logits are whole numbers, in sixteenths of an octave, and frequencies come from them by a table of powers of two and a
whole division: the same on every machine.
"""

from __future__ import annotations

from array import array
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .range_coder import TOTAL, RangeEncoder

# 2 ** (16 - i / 16), rounded: weights of logits that are i below the largest; an octave below they are half.
_OCTAVE = (
    65536,
    62757,
    60097,
    57549,
    55109,
    52773,
    50535,
    48393,
    46341,
    44376,
    42495,
    40693,
    38968,
    37316,
    35734,
    34219,
)
_FEW_WEIGHTS = [_OCTAVE[i % 16] >> i // 16 for i in range(256)]
_WEIGHTS = np.array(_FEW_WEIGHTS, np.float64)
_FEW = 2  # rows
_NEVER = -(1 << 25)  # a logit below all others

_Floats = NDArray[np.float32]
_Ints = NDArray[np.int64]
Tables = NDArray[np.int32]  # [N, n + 1], see `tables`


def tables(logits: _Floats, alphabet: _Ints | None = None) -> Tables:
    """Rising sums [N, n + 1] from 0 to `TOTAL` of the frequencies, at least 1 each, of whole logits [N, n].

    Logits are in sixteenths of an octave. `alphabet` [N], where it is given: how many symbols each row has; those
    behind them get 0. All numbers are whole and below 2**53, where division and floor of float64 are exact.
    """
    rows, symbols = logits.shape
    real: Any = True
    if alphabet is None and rows <= _FEW:
        return np.array([_sums(row) for row in logits.astype(np.int64).tolist()], np.int32)
    if alphabet is not None:
        real = np.arange(symbols) < alphabet[:, None]
        logits = np.where(real, logits, _NEVER)
    best = logits.argmax(axis=1)
    best += np.arange(0, rows * symbols, symbols)  # among all numbers
    below = (logits.take(best)[:, None] - logits).astype(np.intp)
    weights = _WEIGHTS.take(below, mode="clip")  # the last one for all that are further below
    if alphabet is not None:
        weights *= real
    total = weights @ _ones(symbols)
    weights *= TOTAL - (symbols if alphabet is None else alphabet[:, None])
    weights /= total[:, None]
    shares = weights.astype(np.int32)
    shares += real
    shares.reshape(-1)[best] += TOTAL - np.add.reduce(shares, axis=1, dtype=np.int32)
    sums = np.zeros((rows, symbols + 1), np.int32)
    np.add.accumulate(shares, axis=1, out=sums[:, 1:])
    return sums


@lru_cache
def _ones(count: int) -> NDArray[np.float64]:
    """Weights times them are sums of rows, in half the time of `sum`."""
    return np.ones(count)


def _sums(logits: list[int]) -> list[int]:
    """One row of `tables`: for few of them Python's integers are faster than a dozen calls of numpy."""
    best = max(logits)
    weights = [_FEW_WEIGHTS[best - logit] if best - logit < 256 else 1 for logit in logits]
    total, shared = sum(weights), TOTAL - len(logits)
    shares = [weight * shared // total + 1 for weight in weights]
    shares[logits.index(best)] += TOTAL - sum(shares)
    return [0, *accumulate(shares)]


def intervals(tables: Tables, symbols: _Ints) -> tuple[Tables, Tables]:
    """Of each row's symbol [N]: the sum of the frequencies before it, and its own."""
    rows, size = tables.shape
    at = np.arange(0, rows * size, size)
    at += symbols
    starts = tables.take(at)
    at += 1
    return starts, tables.take(at) - starts


def encode_symbols(coder: RangeEncoder, tables: Tables, symbols: _Ints) -> None:
    """Tell symbols [N], each by its own row of tables [N, n + 1]."""
    starts, frequencies = intervals(tables, symbols)
    coder.encode(starts.tolist(), frequencies.tolist())


def flattened(*parts: Tables) -> array[int]:
    """Tables [N, n + 1], in parts, as a `RangeDecoder` takes them."""
    flat = array("i")
    for part in parts:
        flat.frombytes(part.tobytes())
    return flat
