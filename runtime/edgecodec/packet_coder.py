"""Codes of one packet in few bytes, led by an entropy model that looks at nothing outside the packet.

    stages   differ?   counts   | repeats differ?   counts   |   codes of:   repeated frames   own frames

A lost packet therefore costs what it always did. Frames that a packet repeats come before its own, and tell what those
are likely to be: that pays for most of the repetition.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .code_coder import CodeCoder
from .entropy_model import EntropyModel
from .errors import BitstreamError
from .layout import SIDE_BITS, joined
from .range_coder import RangeDecoder, RangeEncoder
from .stage_counts import decode_counts, encode_counts, read_one, tell_one

_Ints = NDArray[np.int64]
_Codes = tuple[_Ints, _Ints | None]  # own, and repeated


@dataclass(frozen=True)
class PacketCoder:
    """Codes of packets of one bundle, of up to `stages` stages, to bytes and back."""

    coder: CodeCoder
    stages: int

    @property
    def has_model(self) -> bool:
        """Whether codes are told by an entropy model, so that they take fewer bytes than at their bits."""
        return isinstance(self.coder.model, EntropyModel)

    def encode(self, codes: _Ints, previous: _Ints | None = None) -> bytes:
        """Bytes of codes [streams, lines, T], and of those [streams, lines, T'] of the packet before that it repeats.

        Frames may lack the last stages: -1 stands there.

        Raises:
            BitstreamError: codes that no packet of this bundle has.
        """
        layout, coder = self.coder.layout, RangeEncoder()
        for part in (codes,) if previous is None else (codes, previous):
            self._check(part)
        counts = layout.counts(codes)
        most = int(counts.max())
        tell_one(coder, most - 1, self.stages)
        _tell_counts(coder, counts, most)
        told = codes[:, : layout.lines(most)]
        if previous is not None:
            before = layout.counts(previous)
            _tell_counts(coder, before, layout.stages(previous.shape[1]))
            told = joined([previous, told])
        self.coder.tell([coder], told[None])
        return coder.finish()[0]

    def decode(self, body: bytes, frames: int, repeated_stages: int = 0, repeated_frames: int = 0) -> _Codes:
        """The codes, and those repeated, of which the packet says how many stages and frames they have; None for none.

        Raises:
            BitstreamError: bytes that go on behind the codes, or stages that there are not.
        """
        if repeated_stages > self.stages:
            raise BitstreamError("a packet repeats more stages than there are")
        layout, coder, streams = self.coder.layout, RangeDecoder(body), self.coder.streams
        most = read_one(coder, self.stages) + 1
        counts = _read_counts(coder, streams, frames, most)
        if repeated_stages:
            before = _read_counts(coder, streams, repeated_frames, repeated_stages)
            counts = np.concatenate([before, counts], axis=1)
        codes = self.coder.read([coder], counts, max(most, repeated_stages))[0]
        if not coder.is_spent:
            raise BitstreamError("damaged packet")
        own = codes[:, : layout.lines(most), codes.shape[2] - frames :]
        return own, codes[:, : layout.lines(repeated_stages), :repeated_frames] if repeated_stages else None

    def _check(self, codes: _Ints) -> None:
        layout, (streams, lines, frames) = self.coder.layout, codes.shape
        if streams != self.coder.streams or not (1 <= layout.stages(lines) <= self.stages and 1 <= frames <= 255):
            raise BitstreamError(f"codes {list(codes.shape)} do not fit packets of {self.coder.streams} streams")
        if codes.min() < -1 or codes[:, layout.side :].max() >= self.coder.model.entries:
            raise BitstreamError(f"codes must lie in 0..{self.coder.model.entries - 1}")
        if not layout.counts(codes).all():
            raise BitstreamError("a frame has at least 1 stage")
        if not layout.holds_side(codes):
            raise BitstreamError(f"a number beside the stages does not fit into {SIDE_BITS} bits")


def _tell_counts(coder: RangeEncoder, counts: _Ints, most: int) -> None:
    """Stage counts [streams, T] of 1 to `most`: whether any is less, and then all of them."""
    differ = int(counts.min()) < most
    tell_one(coder, int(differ), 2)
    if differ:
        encode_counts(coder, counts, most)


def _read_counts(coder: RangeDecoder, streams: int, frames: int, most: int) -> _Ints:
    if read_one(coder, 2):
        return decode_counts(coder, streams, frames, most)
    return np.full((streams, frames), most)
