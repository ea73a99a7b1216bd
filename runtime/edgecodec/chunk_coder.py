"""Codes to chunks and back: by a bundle's entropy model, or at even frequencies where that is shorter or none is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .chunks import Chunk, sizes_of
from .code_coder import Body, CodeCoder, Coded
from .edgc_header import Header
from .entropy_model import Predictor
from .errors import BitstreamError
from .even_coder import decode_even, encode_even
from .layout import SIDE_BITS
from .packets import SEQUENCE_MODULUS, Packet


class ChunkCoder:
    """Makes the chunks of one file of packets, and packets of its chunks. Frames may lack stages: -1 stands there.

    Without the model, chunks that were told by it cannot be decoded.
    """

    def __init__(self, header: Header, model: Predictor | None = None) -> None:
        self._header = header
        self._even = CodeCoder(header.layout, Predictor(1 << header.code_bits), header.streams)
        self._told = None if model is None else CodeCoder(header.layout, model, header.streams)

    def encode(self, packets: Sequence[Packet]) -> list[Chunk]:
        """The shortest chunks of packets' codes [streams, lines, frames]; those of equal shape go in one go.

        Raises:
            BitstreamError: codes that do not fit the header.
        """
        alike: dict[tuple[int, ...], list[int]] = {}
        for i, packet in enumerate(packets):
            self._check(packet.codes)
            alike.setdefault(packet.codes.shape, []).append(i)
        chunks: dict[int, Chunk] = {}
        for places in alike.values():
            codes = np.stack([packets[i].codes for i in places])
            coded = None if self._told is None else self._told.encode_all(codes, self._header.stages)
            for n, i in enumerate(places):
                chunks[i] = self._shortest(packets[i], None if coded is None else coded[n])
        return [chunks[i] for i in range(len(packets))]

    def _shortest(self, packet: Packet, coded: Coded | None) -> Chunk:
        """The chunk of a packet, of what the model makes of it or of even frequencies."""
        layout = self._header.layout
        counts, told = layout.counts(packet.codes), True
        stages = int(counts.max())
        if coded is None or len(coded.data) > self._bits(counts) // 8:
            own = packet.codes[:, : layout.lines(stages)]
            if (counts == stages).all():
                even = encode_even(layout, self._header.code_bits, own)
            else:
                even = self._even.encode(own, self._header.stages)
            if coded is None or len(even.data) < len(coded.data):
                coded, told = even, False
        sizes, mixed = sizes_of(coded.ends, coded.data), bool((counts < stages).any())
        return Chunk(packet.sequence % SEQUENCE_MODULUS, packet.frames, stages, sizes, coded.data, told, mixed)

    def decode(self, chunks: Sequence[Chunk]) -> list[Packet]:
        """The packets of chunks, decoded together, which costs less than one by one.

        Raises:
            BitstreamError: a chunk that was told by the model, where that is not there.
        """
        header, codes = self._header, {}
        for i, chunk in enumerate(chunks):
            if not chunk.told and not chunk.mixed:
                shape = header.streams, chunk.stages, chunk.frames
                codes[i] = decode_even(header.layout, header.code_bits, chunk.body, *shape)
        for told in (True, False):
            places = [i for i, chunk in enumerate(chunks) if chunk.told == told and i not in codes]
            coder = self._told if told else self._even
            if coder is None and places:
                raise BitstreamError("its codes are told by the bundle's entropy model: give the bundle with --bundle")
            if coder is not None and places:
                bodies = [Body(c.body, c.stages, c.frames, c.mixed) for c in (chunks[i] for i in places)]
                codes.update(zip(places, coder.decode_all(bodies, header.stages), strict=True))
        return [Packet(chunk.sequence, codes[i], layout=header.layout) for i, chunk in enumerate(chunks)]

    def counts(self, chunk: Chunk) -> NDArray[np.int64]:
        """Stages of each frame, [streams, frames]; no model is needed."""
        if not chunk.mixed:
            return np.full((self._header.streams, chunk.frames), chunk.stages)
        counts = self._even.counts(chunk.body, chunk.frames, self._header.stages)
        return np.minimum(counts, chunk.stages)

    def fixed_width_bytes(self, chunk: Chunk) -> float:
        """What the chunk's codes would take at a fixed width."""
        return self._bits(self.counts(chunk)) / 8

    def _bits(self, counts: NDArray[np.int64]) -> int:
        layout = self._header.layout
        codes = np.array([layout.codes(stages) for stages in range(self._header.stages + 1)])[counts].sum()
        return int(codes) * self._header.code_bits + layout.side * counts.size * SIDE_BITS

    def _check(self, codes: NDArray[np.int64]) -> None:
        header, layout = self._header, self._header.layout
        streams, lines, frames = codes.shape
        stages = layout.stages(lines)
        if streams != header.streams or not (1 <= stages <= header.stages and 1 <= frames <= header.frames_per_packet):
            raise BitstreamError(f"codes {list(codes.shape)} are not what the header announces")
        if codes.min() < -1 or codes[:, layout.side :].max() >> header.code_bits or not layout.counts(codes).all():
            raise BitstreamError(f"a code does not fit into {header.code_bits} bits")
        if not layout.holds_side(codes):
            raise BitstreamError(f"a number beside the stages does not fit into {SIDE_BITS} bits")
