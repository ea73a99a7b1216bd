"""Stage counts of frames, and single numbers, as a range coder tells them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .frequencies import Tables, encode_symbols, flattened, tables
from .range_coder import RangeDecoder, RangeEncoder

_Ints = NDArray[np.int64]

_COUNT_FALL = 16  # sixteenths of an octave that a count is less likely for each stage that it is away


def tell_one(coder: RangeEncoder, symbol: int, alphabet: int) -> None:
    """One of so many symbols, all about as likely."""
    encode_symbols(coder, _even_table(alphabet), np.array([symbol]))


def read_one(coder: RangeDecoder, alphabet: int) -> int:
    """The symbol that `tell_one` told."""
    return coder.decode(flattened(_even_table(alphabet)), alphabet + 1, 0, 1)[0]


def encode_counts(coder: RangeEncoder, counts: _Ints, most: int) -> None:
    """Stage counts [streams, T] of 1 to `most`."""
    encode_symbols(coder, _count_tables(counts, most), counts.ravel() - 1)


def decode_counts(coder: RangeDecoder, streams: int, frames: int, most: int) -> _Ints:
    """The counts [streams, frames] that `encode_counts` told."""
    flat = flattened(_count_table(most))
    rows = [coder.decode_chain(flat, most + 1, most - 1, frames) for _ in range(streams)]
    return np.array(rows, np.int64) + 1


def _count_tables(counts: _Ints, most: int) -> Tables:
    """Tables [streams * T, most + 1] of the counts, each likelier the nearer it is to the one before."""
    before = np.concatenate([np.full((len(counts), 1), most), counts[:, :-1]], axis=1).ravel()
    wanted: Tables = _count_table(most)[before - 1]
    return wanted


@lru_cache
def _count_table(most: int) -> Tables:
    """Tables [most, most + 1] of the count of a frame, after each count of the frame before."""
    apart = np.abs(np.arange(most)[:, None] - np.arange(most))
    return tables((-_COUNT_FALL * apart).astype(np.float32))


@lru_cache
def _even_table(symbols: int) -> Tables:
    """One table [1, symbols + 1] of symbols that are equally likely, as nearly as whole numbers can."""
    return tables(np.zeros((1, symbols), np.float32))
