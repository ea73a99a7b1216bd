"""Fewer stages of an .edgc file that is there: bytes are cut out of each chunk, and no bundle is needed.

A bitrate is a budget: each second gives some bytes, and each chunk takes as many stages as the bytes that are left
allow, but never more than a step more than the chunk before. So it holds from the first second on, in pipes too.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..bitstream import END_SIZE, Header, Reader, Writer
from ..chunks import Chunk, cuts
from ..errors import BitrateError, BitstreamError
from ..packets import Packet
from .edgc import input_name, open_edgc
from .output import open_output


@dataclass(frozen=True)
class TrimReport:
    """What trimming did."""

    seconds: float  # of audio
    sample_rate: int  # Hz
    channels: int
    stages: int  # the most in a chunk
    file_kbps: float  # of all that was written
    file_bytes: int
    bytes_before: int
    speed: float  # seconds of audio per second of compute


def trim_file(
    source: str, target: str, *, stages: int | None = None, bitrate: float | None = None, force: bool = False
) -> TrimReport:
    """Write an .edgc file again (`-` for pipes) with at most so many stages, or so many kbps a stream with all heads.

    Chunks can be cut to 1, 2, 3, 4, 6, 8, 12, … stages.

    Where even one stage is more than the bitrate, that is what is written.

    Raises:
        BitrateError: not one of both, or none that is above 0. BitstreamError: a damaged file, or no .edgc file.
    """
    if (stages is None) == (bitrate is None):
        raise BitrateError("give a bitrate or a stage count, one of both")
    if (stages is not None and stages < 1) or (bitrate is not None and not bitrate > 0):
        raise BitrateError(f"cannot trim to {stages or 0} stages" if bitrate is None else f"cannot do {bitrate:g} kbps")
    start, most = time.perf_counter(), 0
    with open_edgc(source) as file, open_output(target, force=force, source=source) as output:
        try:
            reader = Reader(file)
            header = reader.header
            budget = None if bitrate is None else _Budget(header, bitrate)
            with Writer(output.file, header) as writer:
                for item in reader:
                    if reader.damage:
                        break
                    cap = stages if budget is None else budget.stages(item)
                    kept = item if cap is None else _trimmed(item, cap)
                    writer.write(kept)
                    most = max(most, kept.stages)
                if reader.damage or reader.samples is None:
                    raise BitstreamError(f"{reader.damage[0]}; only whole files are trimmed")
                writer.samples = reader.samples
        except BitstreamError as error:
            raise BitstreamError(f"{input_name(source)}: {error}") from None
    seconds = reader.samples / header.sample_rate
    return TrimReport(
        seconds=seconds,
        sample_rate=header.sample_rate,
        channels=header.channels,
        stages=most,
        file_kbps=writer.bytes * 8 / seconds / 1000 if seconds else 0.0,
        file_bytes=writer.bytes,
        bytes_before=reader.bytes,
        speed=seconds / (time.perf_counter() - start),
    )


class _Budget:
    """Bytes that may be written, and what each chunk may take of them."""

    def __init__(self, header: Header, bitrate: float) -> None:
        self._header = header
        self._bytes_a_second = bitrate * header.streams * 1000 / 8
        self._left = -float(len(header.to_bytes()) + END_SIZE)
        self._before: int | None = None  # stages of the chunk before

    def stages(self, item: Chunk | Packet) -> int:
        """The stages that this chunk may keep."""
        self._left += self._header.seconds(item.frames) * self._bytes_a_second
        possible = cuts(item.stages) if isinstance(item, Chunk) else range(1, item.stages + 1)
        if self._before is not None:
            step = max(self._before + 1, self._before * 3 // 2)
            possible = [n for n in possible if n <= step]
        stages = next((n for n in reversed(possible) if _size(self._header, item, n) <= self._left), 1)
        self._left -= _size(self._header, item, stages)
        self._before = stages
        return stages


def _size(header: Header, item: Chunk | Packet, stages: int) -> int:
    """Bytes of a chunk or packet with so many stages."""
    if isinstance(item, Chunk):
        return header.chunk_format.size(item, stages)
    return header.format.size(stages, item.frames)


def _trimmed(item: Chunk | Packet, stages: int) -> Chunk | Packet:
    return item.trim(stages) if isinstance(item, Chunk) else item.truncate(stages)
