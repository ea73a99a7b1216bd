"""The sound of an .edgc file: its chunks to packets, lost ones concealed, and parts of it in their place.

chunks    | 4 | 5 | 6 | 7 | 8 |
asked               |-----|          from a second of the file on, for a duration
decoded       | 5 | 6 | 7 |          the decoder's memory fills in what comes before
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from math import gcd

import numpy as np
from numpy.typing import NDArray

from ..bitstream import Header, Reader
from ..chunk_coder import ChunkCoder
from ..chunks import Chunk
from ..codec import Codec
from ..layout import joined
from ..packets import SEQUENCE_MODULUS, Packet
from .level import amplified
from .synthesis import Synthesis, resampled

WARMUP_SECONDS = 1.0  # before a part that is asked for
_TOGETHER = 64  # chunks
_MOST_CODES = 1 << 21  # in them


@dataclass(frozen=True)
class Part:
    """Samples of a file, per channel at its rate: from the first, up to the one before the end (None: to its end)."""

    first: int = 0
    end: int | None = None


WHOLE = Part()


def packets_of(reader: Reader, coder: ChunkCoder, most: int | None = None) -> Iterator[Packet]:
    """The packets of a file, or so many of them."""
    return chain.from_iterable(_batches_of(reader, coder, most))


def _batches_of(reader: Reader, coder: ChunkCoder, most: int | None) -> Iterator[list[Packet]]:
    """Packets that are decoded together, as many as can be read without waiting for a pipe.

    Each comes when it is known what comes next: before the last one, `reader.samples` is known.
    """
    chunks: list[Chunk] = []
    codes = reader.header.streams * reader.header.frames_per_packet * reader.header.layout.lines(reader.header.stages)
    together = max(1, min(_TOGETHER, _MOST_CODES // codes))
    for item in _one_behind(islice(reader, most)):
        if isinstance(item, Packet):
            yield [item]
            continue
        chunks.append(item)
        if len(chunks) == together or reader.waits():
            yield coder.decode(chunks)
            chunks = []
    yield coder.decode(chunks)


def _runs(packets: list[Packet]) -> Iterator[tuple[Packet, int]]:
    """Packets that follow one another as one, which the decoder's graphs do faster, and how many they are."""
    run: list[Packet] = []
    for packet in packets:
        if run and packet.sequence != (run[-1].sequence + 1) % SEQUENCE_MODULUS:
            yield _as_one(run), len(run)
            run = []
        run.append(packet)
    if run:
        yield _as_one(run), len(run)


def _as_one(run: list[Packet]) -> Packet:
    return replace(run[0], codes=joined([packet.codes for packet in run]))


def _one_behind(items: Iterator[Chunk | Packet]) -> Iterator[Chunk | Packet]:
    before = next(items, None)
    for item in items:
        if before is not None:
            yield before
        before = item
    if before is not None:
        yield before


def decoded(codec: Codec, reader: Reader, coder: ChunkCoder, part: Part) -> Iterator[NDArray[np.float32]]:
    """Audio [channels, samples] at the file's rate from `part.first` on, the delay removed.

    It goes on to the end of the codes, or up to `part.end`. Chunks that are lost are as long as they were.
    """
    header = reader.header
    place = _place(header, part.first, codec.delay)
    reader.skip_to(place.chunk)
    chunks = samples = None
    if part.end is not None:
        chunks = 1 + _chunk_of(header, part.end, codec.delay) - place.chunk
        samples = part.end - part.first
    batches = _batches_of(reader, coder, chunks)
    synthesized = _synthesized(codec, reader, batches, place.chunk)
    blocks = _cut((amplified(block, 1 / header.amplitude) for block in synthesized), place.skip, None)
    yield from _cut(resampled(blocks, header), part.first - place.begin, samples)


@dataclass(frozen=True)
class _Place:
    """Where to begin for a part: a chunk, what of its sound to skip at the codec's rate, and which sample is then."""

    chunk: int
    skip: int
    begin: int


def _place(header: Header, first: int, delay: int) -> _Place:
    chunk_samples = header.frames_per_packet * header.frame_size
    warmup = -(-int(WARMUP_SECONDS * header.codec_rate) // chunk_samples)  # chunks
    chunk = max(0, _chunk_of(header, first, delay) - warmup)
    if not chunk:
        return _Place(0, delay, 0)
    start = chunk * chunk_samples
    # Begin with a sample of the codec at whose time the file has a sample too.
    step = header.codec_rate // gcd(header.codec_rate, header.sample_rate)
    at = -(-max(0, start - delay) // step) * step
    return _Place(chunk, at + delay - start, at * header.sample_rate // header.codec_rate)


def _chunk_of(header: Header, sample: int, delay: int) -> int:
    """The chunk that holds a sample of the file, which the decoder gives late by `delay` samples of the codec."""
    at = sample * header.codec_rate // header.sample_rate + delay
    return at // (header.frames_per_packet * header.frame_size)


def _synthesized(
    codec: Codec, reader: Reader, batches: Iterator[list[Packet]], due: int
) -> Iterator[NDArray[np.float32]]:
    """What the decoder makes of the packets from number `due` on, [channels, samples]."""
    header = reader.header
    stream = Synthesis(codec, header)
    due, begun = due % SEQUENCE_MODULUS, False
    for packet, packets in (run for batch in batches for run in _runs(batch)):
        missing = (packet.sequence - due) % SEQUENCE_MODULUS
        for left in range(missing, 0, -1):
            yield from stream.conceal(packet if left == 1 else None, header.frames_per_packet)
        yield from stream.push(packet)
        due, begun = (packet.sequence + packets) % SEQUENCE_MODULUS, True
    for _ in range(reader.lost_at_end):
        yield from stream.conceal(None, header.frames_per_packet)
    if begun:
        yield stream.flush()


def _cut(blocks: Iterator[NDArray[np.float32]], skip: int, most: int | None) -> Iterator[NDArray[np.float32]]:
    """Blocks without their first samples; they end after `most`."""
    for block in blocks:
        kept = block[:, skip:]
        skip = max(0, skip - block.shape[1])
        if most is not None and kept.shape[1] >= most:
            yield kept[:, :most]
            return
        most = None if most is None else most - kept.shape[1]
        yield kept
