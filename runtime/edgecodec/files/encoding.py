"""Audio to chunks: at a fixed stage count, or with as many stages in each frame as the sound needs.

    audio -> latents | window | -> costs of every stage count -> counts at one price -> codes -> chunks

A window of a file is half a minute: within it one price holds, found so that the mean bitrate comes out; what one
window takes too much, the next ones give back. Of a pipe it is two seconds, so that what goes in soon comes out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..bitstream import END_SIZE, Header
from ..chunk_coder import ChunkCoder
from ..chunks import Chunk
from ..codebook_use import CodebookCounts
from ..codec import Codec
from ..errors import BitrateError
from ..manifest import DEFAULT_BITRATE, Effort
from ..packets import SEQUENCE_MODULUS, Packet
from ..variable_rate import Costs, Search

FILE_WINDOW, PIPE_WINDOW = 30.0, 2.0  # seconds

_PRICES = 0.03, 0.0003  # of quality 0 and 10
_SLACK = 0.02  # of a bitrate: people round
_NEAR = 0.015  # of the bits wanted: near enough
_TRIES = 3
_SHALLOW, _SHALLOW_PRICE = 0.3, 0.0035  # of the bits of all stages; of a bit, in speech of as many
_PROBES = 4  # chunks of the first window


@dataclass(frozen=True)
class Rate:
    """What a file is to take: a stage count for all frames, or a mean in kbps of each stream, or a price of a bit."""

    stages: int | None = None
    kbps: float | None = None
    price: float | None = None

    @classmethod
    def of(
        cls,
        codec: Codec,
        *,
        bitrate: float | None = None,
        quality: float | None = None,
        stages: int | None = None,
        constant: bool = False,
    ) -> Rate:
        """What options ask for: with none of them 6 kbps, or all stages where that is too much.

        `bitrate`: kbps of each stream, the mean of what is written, or with `constant` that of fixed-width codes of as
        many stages in every frame. `quality`: 0 to 10, from one price to another; each step costs a quarter more.

        Raises:
            BitrateError: contradictions, or what this codec does not offer.
        """
        if sum(wish is not None for wish in (bitrate, quality, stages)) > 1:
            raise BitrateError("give one of bitrate, quality and stage count")
        least, most = codec.bitrates[0], codec.bitrates[-1]
        if quality is not None:
            if constant or not 0 <= quality <= 10:
                raise BitrateError(f"quality is 0 to 10 and goes with a variable rate, not {quality:g}")
            return cls(price=_PRICES[0] * (_PRICES[1] / _PRICES[0]) ** (quality / 10))
        if stages is not None or constant or (bitrate is None and not least <= DEFAULT_BITRATE <= most):
            return cls(stages=codec.stages(bitrate=bitrate, stages=stages))
        kbps = DEFAULT_BITRATE if bitrate is None else bitrate
        if not least * (1 - _SLACK) <= kbps <= most * (1 + _SLACK):
            raise BitrateError(f"{codec.manifest.name} cannot do {kbps:g} kbps; possible: {least:.4g} to {most:.4g}")
        return cls(kbps=kbps)


_Encoded = tuple[NDArray[np.int64], list[Chunk]]  # codes [streams, lines, T] of a window, and its chunks


class ChunkStream:
    """Turns audio [channels, samples] at the rate of the codec into chunks; `push` as often as needed, then `flush`."""

    def __init__(
        self,
        codec: Codec,
        header: Header,
        coder: ChunkCoder,
        rate: Rate,
        *,
        effort: Effort = "fast",
        window: float = FILE_WINDOW,
    ) -> None:
        self._header, self._coder, self._rate = header, coder, rate
        size, m = header.frames_per_packet, codec.manifest
        self._window = size if rate.stages else max(1, round(window * m.frame_rate / size)) * size
        self._latents = codec.latent_stream(channels=header.channels, long_calls=window > PIPE_WINDOW)
        self._variable = codec.variable_rate(channels=header.channels, effort=effort)
        self._ahead = np.zeros((header.streams, 0, m.latent_dim), np.float32)
        self._chunks = self._frames = 0
        self._bits = 8.0 * (len(header.to_bytes()) + END_SIZE)  # written
        self._bias = 1.0  # of bits written to bits foreseen
        self.use = CodebookCounts(m.quantizer.codebook_size, m.layout)  # of all codes so far

    def push(self, audio: NDArray[np.float32]) -> list[Chunk]:
        """The chunks of all windows that are full now."""
        return self._take(self._latents.push(audio))

    def flush(self) -> list[Chunk]:
        """The chunks that remain."""
        return self._take(self._latents.flush(), last=True)

    def _take(self, latents: NDArray[np.float32], *, last: bool = False) -> list[Chunk]:
        self._ahead = np.concatenate([self._ahead, latents], axis=1)
        chunks: list[Chunk] = []
        while self._ahead.shape[1] >= self._window or (last and self._ahead.shape[1]):
            chunks += self._encode(self._ahead[:, : self._window])
            self._ahead = self._ahead[:, self._window :]
        return chunks

    def _encode(self, latents: NDArray[np.float32]) -> list[Chunk]:
        """The chunks of one window [streams, T, D]."""
        rate = self._rate
        self._frames += latents.shape[1]
        search = self._variable.search(latents)
        if rate.stages is not None:
            codes, chunks = self._at(search, np.full(latents.shape[:2], rate.stages))
        else:
            price_of = self._price if self._is_shallow(latents) else None
            costs = self._variable.costs(latents, self._header.frames_per_packet, price_of)
            if rate.price is not None:
                codes, chunks = self._at(search, costs.counts(rate.price))
            else:
                codes, chunks = self._within(search, costs)
        self._chunks += len(chunks)
        self._bits += self._size(chunks)
        self.use.add(codes)
        return chunks

    def _within(self, search: Search, costs: Costs) -> _Encoded:
        """Chunks that bring the mean of all so far to what is wanted, as near as stage counts can.

        What the stages of a cut frame take depends on the frames beside it, which were cut too, and another search
        finds other codes: some chunks tell how much more than foreseen all will take, and the price is found anew
        until that holds.
        """
        if not self._chunks:
            self._bias = self._tried(search, costs, costs.counts(self._price(costs)))
        before, wanted = None, self._wanted()
        for _ in range(_TRIES):
            counts = costs.counts(self._price(costs))
            if before is not None and np.array_equal(counts, before):
                break
            (codes, chunks), before = self._at(search, counts), counts
            size = self._size(chunks)
            if abs(size / wanted - 1) < _NEAR:
                break
            self._bias = size / costs.bits_of(counts)
        return codes, chunks

    def _is_shallow(self, latents: NDArray[np.float32]) -> bool:
        """Whether few frames of a window [streams, T, D] will have more than half of the stages."""
        if self._rate.price is not None:
            return bool(self._rate.price > _SHALLOW_PRICE)
        header, (streams, frames, _) = self._header, latents.shape
        most = streams * frames * header.layout.codes(header.stages) * header.code_bits
        return bool(self._wanted() < _SHALLOW * most)

    def _price(self, costs: Costs) -> float:
        """What a bit costs in this window."""
        return self._rate.price or costs.price(self._wanted() / self._bias)

    def _wanted(self) -> float:
        """The bits of this window that bring the mean of all so far to what is asked for."""
        header, kbps = self._header, self._rate.kbps
        assert kbps is not None
        seconds = self._frames * header.frame_size / header.codec_rate
        return max(1.0, 1000 * kbps * header.streams * seconds - self._bits)

    def _tried(self, search: Search, costs: Costs, counts: NDArray[np.int64]) -> float:
        """The bits of some chunks, spread over all, to those foreseen for these counts [streams, T]."""
        size = self._header.frames_per_packet
        whole = counts.shape[1] // size
        if whole < _PROBES:
            return 1.0
        frames = ((np.arange(_PROBES) * whole // _PROBES)[:, None] * size + np.arange(size)).ravel()
        probed = np.zeros_like(counts)
        probed[:, frames] = counts[:, frames]
        codes = search.codes(probed)[:, :, frames]
        return self._size(self._chunks_of(codes)) / costs.bits_of(counts, frames)

    def _at(self, search: Search, counts: NDArray[np.int64]) -> _Encoded:
        """Codes and chunks with these stage counts [streams, T]."""
        codes = search.codes(counts)
        return codes, self._chunks_of(codes)

    def _chunks_of(self, codes: NDArray[np.int64]) -> list[Chunk]:
        size, layout = self._header.frames_per_packet, self._header.layout
        parts = [codes[:, :, start : start + size] for start in range(0, codes.shape[2], size)]
        numbers = range(self._chunks, self._chunks + len(parts))
        return self._coder.encode(
            [Packet(i % SEQUENCE_MODULUS, part, layout=layout) for i, part in zip(numbers, parts, strict=True)]
        )

    def _size(self, chunks: list[Chunk]) -> float:
        form = self._header.chunk_format
        return 8.0 * sum(form.size(chunk, chunk.stages) for chunk in chunks)
