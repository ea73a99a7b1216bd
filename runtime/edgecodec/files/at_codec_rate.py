"""Audio as a codec takes it: mixed to one channel where that is asked for, resampled and amplified, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from ..errors import AudioError
from .audio import AudioReader, Resampler
from .level import amplified


class AtCodecRate:
    """The blocks [channels, samples] of `audio` at another rate; `samples` are those of the file that came so far.

    Raises:
        AudioError: no samples at all.
    """

    def __init__(self, audio: AudioReader, rate: int, *, mono: bool = False) -> None:
        self._blocks, self._rate, self._mono = audio.blocks(), rate, mono
        first = next(self._blocks, None)
        if first is None:
            raise AudioError(f"{audio.name}: holds no samples")
        self._first, self.sample_rate = first, audio.sample_rate
        self.channels = 1 if mono else audio.channels
        self.samples = 0

    def blocks(self, amplitude: float = 1.0) -> Iterator[NDArray[np.float32]]:
        """All blocks, multiplied with `amplitude`.

        A resampler rounds, down to nothing, but every sample of the file has its place in them.
        """
        resampler, resampled = Resampler(self.sample_rate, self._rate, self.channels), 0
        for block in chain([self._first], self._blocks):
            mixed = block.mean(axis=0, keepdims=True, dtype=np.float32) if self._mono else block
            ready = resampler.push(mixed)
            self.samples, resampled = self.samples + block.shape[1], resampled + ready.shape[1]
            yield amplified(ready, amplitude)
        last = amplified(resampler.push(np.zeros((self.channels, 0), np.float32), last=True), amplitude)
        lacking = -(-self.samples * self._rate // self.sample_rate) - resampled - last.shape[1]
        yield np.concatenate([last, np.zeros((self.channels, max(0, lacking)), np.float32)], axis=1)
