"""What a live stream measures of itself: levels, and how long each frame took.

One thread adds, any other reads: an addition is one assignment, so that a reader at worst sees the frame before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_WINDOW = 1024  # frames that percentiles look back on
_SILENCE = -90.0  # dB of full scale, the lower end of a level
_FALL = 1.5  # dB per frame that a peak meter falls


@dataclass(frozen=True)
class Percentiles:
    """Milliseconds per frame over the last `_WINDOW` frames, and the longest since the start."""

    p50: float
    p95: float
    p99: float
    longest: float


class Timings:
    """Times of the last frames."""

    def __init__(self) -> None:
        self._ring = np.zeros(_WINDOW)
        self._count = 0
        self._longest = 0.0

    def add(self, seconds: float) -> None:
        """One more frame."""
        self._ring[self._count % _WINDOW] = seconds
        self._longest = max(self._longest, seconds)
        self._count += 1

    def percentiles(self) -> Percentiles:
        """Of the window; zeros before the first frame."""
        if not self._count:
            return Percentiles(0.0, 0.0, 0.0, 0.0)
        p50, p95, p99 = 1000 * np.percentile(self._ring[: min(self._count, _WINDOW)], [50, 95, 99])
        return Percentiles(float(p50), float(p95), float(p99), 1000 * self._longest)


class Level:
    """A peak meter that rises at once and falls slowly."""

    def __init__(self) -> None:
        self.db = _SILENCE  # of full scale

    def add(self, audio: NDArray[np.float32]) -> None:
        """One more frame [samples]."""
        peak = float(np.abs(audio).max(initial=0.0))
        self.db = max(20 * math.log10(peak) if peak > 0 else _SILENCE, self.db - _FALL, _SILENCE)


@dataclass(frozen=True)
class Budget:
    """Where the time between a sound and its echo goes, in milliseconds."""

    capture: float  # waits to be read, and resampling
    buffering: float  # until a frame is full
    algorithmic: float  # the codec's own delay
    encode: float
    decode: float
    playback: float  # waits to be played, and resampling

    @property
    def codec(self) -> float:
        """The codec's share: buffering, algorithmic and processing."""
        return self.buffering + self.algorithmic + self.encode + self.decode

    @property
    def total(self) -> float:
        """All parts."""
        return self.capture + self.codec + self.playback
