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
from ..layout import MISSING
from ..packets import SEQUENCE_MODULUS, Packet
from .audio import Resampler

WARMUP_SECONDS = 1.0  # before a part that is asked for
_TOGETHER = 64  # chunks


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
    """Packets that are decoded together, as many as can be read without waiting for a pipe."""
    chunks: list[Chunk] = []
    for item in islice(reader, most):
        if isinstance(item, Packet):
            yield [item]
            continue
        chunks.append(item)
        if len(chunks) == _TOGETHER or reader.waits():
            yield coder.decode(chunks)
            chunks = []
    yield coder.decode(chunks)


def _joined(packets: list[Packet]) -> Iterator[tuple[Packet, int]]:
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
    lines = max(packet.codes.shape[1] for packet in run)
    lacking = [((0, 0), (0, lines - packet.codes.shape[1]), (0, 0)) for packet in run]
    codes = [np.pad(p.codes, more, constant_values=MISSING) for p, more in zip(run, lacking, strict=True)]
    return replace(run[0], codes=np.concatenate(codes, axis=2))


def decoded(codec: Codec, reader: Reader, coder: ChunkCoder, part: Part) -> Iterator[NDArray[np.float32]]:
    """Audio [channels, samples] at the file's rate from `part.first` on, the delay removed.

    It goes on to the end of the codes, or up to `part.end`. Chunks that are lost are as long as they were.
    """
    header = reader.header
    place = _place(header, part.first, codec.delay)
    reader.skip_to(place.chunk)
    resampler = Resampler(header.codec_rate, header.sample_rate, header.channels)
    chunks = samples = None
    if part.end is not None:
        chunks = 1 + _chunk_of(header, part.end, codec.delay) - place.chunk
        samples = part.end - part.first
    batches = _batches_of(reader, coder, chunks)
    blocks = _cut(_synthesized(codec, reader, batches, place.chunk), place.skip, None)
    yield from _cut(_resampled(blocks, resampler), part.first - place.begin, samples)


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
    """What the decoder makes of the packets from number `due` on, [channels, samples].

    The decoder's stream counts on its own: packets that are joined are one of its.
    """
    header = reader.header
    stream = codec.decoder_stream(channels=header.channels)
    due, begun, turn = due % SEQUENCE_MODULUS, False, 0
    for packet, packets in ((joined, n) for batch in batches for joined, n in _joined(batch)):
        missing = (packet.sequence - due) % SEQUENCE_MODULUS
        for left in range(missing, 0, -1):
            turn += 1
            following = replace(packet, sequence=turn % SEQUENCE_MODULUS) if left == 1 else None
            yield stream.conceal(following, frames=header.frames_per_packet).reshape(header.channels, -1)
        audio = stream.push(replace(packet, sequence=turn % SEQUENCE_MODULUS)).reshape(header.channels, -1)
        yield from np.array_split(audio, packets, axis=1)  # what comes after may hold the last block back
        due, begun, turn = (packet.sequence + packets) % SEQUENCE_MODULUS, True, turn + 1
    for _ in range(reader.lost_at_end):
        yield stream.conceal(frames=header.frames_per_packet).reshape(header.channels, -1)
    if begun:
        yield stream.flush().reshape(header.channels, -1)


def _resampled(blocks: Iterator[NDArray[np.float32]], resampler: Resampler) -> Iterator[NDArray[np.float32]]:
    pending: NDArray[np.float32] | None = None  # one back: the resampler must be told which is the last
    for block in blocks:
        if pending is not None:
            yield resampler.push(pending)
        pending = block
    if pending is not None:
        yield resampler.push(pending, last=True)


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
