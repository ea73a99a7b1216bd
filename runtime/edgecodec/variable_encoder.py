"""Live variable rate: each frame gets the stages its sound needs, and a slow hand on the price keeps the mean bitrate.

    audio -> latents -> errors after every stage -> counts at the price of now -> codes
                                    price <- what the packets so far have taken

Nothing looks ahead, so that nothing comes later than at a fixed stage count.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .layout import joined
from .packet_coder import PacketCoder
from .variable_rate import HIGHEST_PRICE, LOWEST_PRICE, VariableRate

_USUAL = 6.0  # price of a bit of speech, times the square of the bits wanted a frame
_PULL, _LEARN = 0.7, 0.08  # per second of debt: how far the price gives way now, and how fast for good
_DEBT = 1.5  # seconds of the wanted bitrate: the most that is owed or saved


class PriceControl:
    """The price of a bit by which a stream holds a mean bitrate, from what it took so far."""

    def __init__(self) -> None:
        self._debt = 0.0  # seconds of the wanted bitrate that were taken too much
        self._level = math.log(_USUAL)

    def price(self, wanted: float) -> float:
        """Of the packet to come, in errors of the first codebook's spread, where `wanted` bits a frame are."""
        return min(max(math.exp(self._level + _PULL * self._debt) / wanted**2, LOWEST_PRICE), HIGHEST_PRICE)

    def take(self, bits: float, wanted: float, seconds: float) -> None:
        """A packet of so many seconds took so many bits, and should have taken `wanted`."""
        debt = self._debt + (bits / wanted - 1) * seconds
        self._debt = min(max(debt, -_DEBT), _DEBT)
        if self._debt == debt:  # else the price can do no more, as in long silence
            self._level += _LEARN * self._debt * seconds


class VariableEncoder:
    """Encoder and quantizer of one stream, as `BoundEncoder`, with a stage count for each frame."""

    def __init__(self, rate: VariableRate, streams: int, frames: int) -> None:
        self._sessions, self._rate, self._frames = rate.sessions, rate, frames
        self._coder = PacketCoder(rate.coder, rate.sessions.manifest.quantizer.max_stages)
        self._state = rate.sessions.zero_state("encoder", streams)
        self._control = PriceControl()

    def encode(self, audio: NDArray[np.float32], n_stages: int, *, last: bool = False) -> NDArray[np.int64]:
        """The next audio to codes [streams, lines, T], -1 below each frame's count.

        Their mean bitrate, once coded, is that of `n_stages` stages of fixed width.
        """
        latents, self._state = self._sessions.analyze(audio, self._state, last=last)
        starts = range(0, latents.shape[1], self._frames)
        packets = [self._packet(latents[:, start : start + self._frames], n_stages) for start in starts]
        return joined(packets or [np.zeros((len(latents), self._coder.coder.layout.lines(n_stages), 0), np.int64)])

    def _packet(self, latents: NDArray[np.float32], n_stages: int) -> NDArray[np.int64]:
        m = self._sessions.manifest
        seconds = m.frame_size / m.sample_rate
        wanted = 1000 * m.bitrate(n_stages) * seconds
        counts = self._rate.even_costs(latents).counts(self._control.price(wanted))
        codes, frames = self._rate.search(latents).codes(counts), latents.shape[1]
        self._control.take(8.0 * len(self._coder.encode(codes)), wanted * len(latents) * frames, seconds * frames)
        return codes
