"""Packets of any size through a decoder stream, in pieces: 255 channels at 768 kHz take no more memory than few."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..bitstream import Header
from ..codec import Codec
from ..packets import SEQUENCE_MODULUS, Packet
from .audio import Resampler

_SYNTHESIZED = 1 << 19  # samples of all channels that a graph gives at a time


class Synthesis:
    """Turns the packets of a file, which come in their order, into audio [channels, samples] at the codec's rate."""

    def __init__(self, codec: Codec, header: Header) -> None:
        self._stream, self._channels = codec.decoder_stream(channels=header.channels), header.channels
        self._most = max(1, _SYNTHESIZED // (header.streams * header.stream_channels * header.frame_size))  # frames
        self._next = 0  # sequence of the next piece

    def push(self, packet: Packet) -> Iterator[NDArray[np.float32]]:
        """Decode a packet."""
        for piece in self._pieces(packet):
            yield self._stream.push(piece).reshape(self._channels, -1)
            self._next = (self._next + 1) % SEQUENCE_MODULUS

    def conceal(self, following: Packet | None, frames: int) -> Iterator[NDArray[np.float32]]:
        """Answer for a packet that is lost, where `following` is the one after it or None."""
        for left in range(frames, 0, -self._most):
            self._next = (self._next + 1) % SEQUENCE_MODULUS
            near = following if left <= self._most else None
            first = None if near is None else next(self._pieces(near))
            yield self._stream.conceal(first, frames=min(left, self._most)).reshape(self._channels, -1)

    def flush(self) -> NDArray[np.float32]:
        """What the decoder still holds back."""
        return self._stream.flush().reshape(self._channels, -1)

    def _pieces(self, packet: Packet) -> Iterator[Packet]:
        """A packet in pieces that the stream is due to get; each is made when its number is known."""
        for start in range(0, packet.frames, self._most):
            codes = packet.codes[:, :, start : start + self._most]
            yield Packet(self._next, codes, layout=packet.layout)


def resampled(blocks: Iterator[NDArray[np.float32]], header: Header) -> Iterator[NDArray[np.float32]]:
    """Blocks at the codec's rate as blocks at the file's."""
    resampler = Resampler(header.codec_rate, header.sample_rate, header.channels)
    begun = False
    for block in blocks:
        begun = True
        yield from resampler.pieces(block)
    if begun:
        yield from resampler.pieces(np.zeros((header.channels, 0), np.float32), last=True)
