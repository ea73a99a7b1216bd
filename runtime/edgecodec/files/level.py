"""How loud a recording is, and by how much a quiet one is made louder before it is encoded.

A codec is best at the levels that it was trained on: of speech at -45 dBFS, 20 dB below what is usual, 6 kbps keep what
4 kbps keep else. So an .edgc file says by how many dB its audio was made louder, and decoding takes that back, as the
output gain of Opus does (RFC 7845, section 5.1). What is not quiet is left alone.

    tenths of a second of the file:  | | |||||||| |    nine of ten are below this level, which is brought to -22 dBFS
    the highest peak                                    stays below full scale
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ..edgc_header import MAX_GAIN

USUAL = -22  # dBFS, of usual speech: nine of ten tenths of a second are below it
LEAST = 6  # dB: what is nearer is left as it is
PEAK = -1.0  # dBFS: the most
SILENCE = -75  # dBFS: below this there is nothing to be heard

_WINDOW = 0.1  # seconds
_SHARE = 0.9
_FLOOR = 120  # dB below full scale


def gain_of(blocks: Iterable[NDArray[np.float32]], sample_rate: int) -> int:
    """By how many whole dB audio, in blocks [channels, samples], is made louder: 0, or `LEAST` to `MAX_GAIN`."""
    size = max(1, round(_WINDOW * sample_rate))
    levels, peak, rest = np.zeros(_FLOOR + 1, np.int64), 0.0, None
    for block in blocks:
        peak = max(peak, float(np.abs(block).max(initial=0.0)))
        ahead = block if rest is None else np.concatenate([rest, block], axis=1)
        whole = ahead.shape[1] // size * size
        rest = ahead[:, whole:].copy()
        levels += _counted(ahead[:, :whole].reshape(len(ahead), -1, size))
    if not levels.any() and rest is not None:  # all of it is shorter than a window
        levels += _counted(rest[:, None])
    if not levels.any() or peak <= 0:
        return 0
    level = int(np.searchsorted(levels.cumsum(), _SHARE * levels.sum())) - _FLOOR
    gain = int(min(USUAL - level, PEAK - 20 * np.log10(peak), MAX_GAIN))
    return gain if gain >= LEAST and level >= SILENCE else 0


def amplified(audio: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """The same audio, louder or quieter; by 1 it is left as it is."""
    return audio if factor == 1 else audio * np.float32(factor)


def _counted(windows: NDArray[np.float32]) -> NDArray[np.int64]:
    """How many of the windows [channels, N, samples] have each level in whole dB, the lowest first."""
    power = np.square(windows, dtype=np.float64).mean(axis=(0, 2)) if windows.size else np.zeros(0)
    decibels = 10 * np.log10(np.maximum(power, 10 ** (-_FLOOR / 10)))
    return np.bincount(np.rint(decibels.clip(-_FLOOR, 0)).astype(np.int64) + _FLOOR, minlength=_FLOOR + 1)
