"""Chunks: codes of about a second in few bytes, each of which can be read without the others. Little-endian.

    0xA0 + flags u8  sequence u16  (frames u8)  stages u8  bytes up to each cut  body  CRC-16

The flags are 1: the codes are told by the entropy model, else each takes its bits; 2: the stage count changes from
frame to frame; 4: there are fewer frames than the header says, and their count follows the sequence. The body is what
`code_coder.py` makes: a cut behind a stage leaves the stages before it whole, so that a chunk loses stages without a
code being read. It may be cut behind 1, 2, 3, 4, 6, 8, 12, 16, … stages: a number for each would be 3 to 9 % of the
file. The bytes from each cut to the next are numbers of 7 bits a byte, the lowest first, all but the last of a number
with bit 7 set (LEB128).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import NamedTuple

from .errors import BitstreamError
from .packets import CRC16, PacketFormat, crc16

CHUNK_KINDS = range(0xA0, 0xA8)  # what chunks begin with
LEAST_CHUNK = 7  # bytes

_TOLD, _MIXED, _SHORT = 1, 2, 4
_HEAD = struct.Struct("<BH")
_MAX_SIZE_BYTES = 3  # of a number
_CUTS = (1, *(n for power in range(1, 8) for n in (2**power, 3 * 2 ** (power - 1))))


@dataclass(frozen=True)
class Chunk:
    """A chunk whose codes are still coded."""

    sequence: int  # counts chunks modulo 65,536
    frames: int
    stages: int  # the most that a frame has
    sizes: tuple[int, ...]  # bytes of the body up to the first cut, from there to the second, …, to the end
    body: bytes
    told: bool  # by the entropy model
    mixed: bool  # frames have different stage counts

    def trim(self, stages: int) -> Chunk:
        """The same chunk cut behind its first `stages` stages, or behind the last cut before; one of fewer stays."""
        if stages < 1:
            raise BitstreamError(f"a chunk needs at least 1 stage, not {stages}")
        kept = [cut for cut in cuts(self.stages) if cut <= stages]
        sizes = self.sizes[: len(kept)]
        return replace(self, stages=kept[-1], sizes=sizes, body=self.body[: sum(sizes)])


def cuts(stages: int) -> list[int]:
    """Stage counts that a chunk of so many stages can be cut to: 1, 2, 3, 4, 6, 8, 12, … and all."""
    return [*(n for n in _CUTS if n < stages), stages]


class Extent(NamedTuple):
    """A chunk in bytes: what its head says (no body yet), where the body begins, and the end of the chunk."""

    chunk: Chunk
    body: int
    end: int


@dataclass(frozen=True)
class ChunkFormat:
    """How the chunks of a file look as bytes: what its header says. `Header.chunk_format` makes one."""

    packets: PacketFormat  # whose payload is what codes take without a model
    stages: int  # the most
    frames: int  # of every chunk but the last
    has_model: bool

    @property
    def largest(self) -> int:
        """The bytes that no chunk exceeds."""
        return self._largest_body(self.stages, self.frames) + self._head_size([1 << 20] * self.stages) + CRC16.size

    def size(self, chunk: Chunk, stages: int) -> int:
        """Bytes of a chunk that is cut to one of its `cuts`."""
        sizes = chunk.sizes[: cuts(chunk.stages).index(stages) + 1]
        return self._head_size(sizes) - (chunk.frames == self.frames) + sum(sizes) + CRC16.size

    def to_bytes(self, chunk: Chunk) -> bytes:
        """A chunk as bytes.

        Raises:
            BitstreamError: a chunk that does not fit this format.
        """
        short = chunk.frames != self.frames
        flags = _TOLD * chunk.told + _MIXED * chunk.mixed + _SHORT * short
        head = _HEAD.pack(CHUNK_KINDS[flags], chunk.sequence) + bytes([chunk.frames] * short + [chunk.stages])
        data = head + b"".join(map(_size_to_bytes, chunk.sizes)) + chunk.body
        if (
            self.extent(data) is None
            or len(chunk.body) != sum(chunk.sizes)
            or len(chunk.sizes) != len(cuts(chunk.stages))
        ):
            raise BitstreamError("a chunk contradicts its sizes")
        return data + crc16(data)

    def from_bytes(self, data: bytes) -> Chunk:
        """A chunk of its bytes.

        Raises:
            BitstreamError: bytes that are damaged or no chunk of this format.
        """
        extent = self.extent(data)
        if extent is None or extent.end != len(data) or not is_sound(data, 0, extent.end):
            raise BitstreamError("damaged chunk")
        return replace(extent.chunk, body=data[extent.body : -CRC16.size])

    def extent(self, data: bytes | bytearray, at: int = 0) -> Extent | None:
        """Where a chunk lies that begins at `at`, or None where the data end within its head.

        Raises:
            BitstreamError: no chunk of this format begins there.
        """
        try:
            kind, sequence = _HEAD.unpack_from(data, at)
            if kind not in CHUNK_KINDS:
                raise BitstreamError("not a chunk")
            flags, begin, frames = kind - CHUNK_KINDS[0], at + _HEAD.size, self.frames
            if flags & _SHORT:
                frames, begin = data[begin], begin + 1
            stages, begin = data[begin], begin + 1
            fits = 1 <= frames < self.frames if flags & _SHORT else True
            if not fits or not 1 <= stages <= self.stages or (flags & _TOLD and not self.has_model):
                raise BitstreamError("damaged chunk")
            most, sizes = self._largest_body(stages, frames), []
            for _ in cuts(stages):
                size, begin = _size_from_bytes(data, begin)
                most -= size
                if most < 0:
                    raise BitstreamError("damaged chunk")
                sizes.append(size)
        except (IndexError, struct.error):
            return None
        chunk = Chunk(sequence, frames, stages, tuple(sizes), b"", bool(flags & _TOLD), bool(flags & _MIXED))
        return Extent(chunk, begin, begin + sum(sizes) + CRC16.size)

    def _largest_body(self, stages: int, frames: int) -> int:
        """Bytes that a body never exceeds: codes at fixed width, 0.6 % that the range coder loses, 2 a stage count."""
        codes = self.packets.payload_size(stages, frames)
        return codes + codes // 64 + 2 * self.packets.streams * frames + 8

    def _head_size(self, sizes: list[int] | tuple[int, ...]) -> int:
        return _HEAD.size + 2 + sum(len(_size_to_bytes(size)) for size in sizes)


def sizes_of(ends: tuple[int, ...], body: bytes) -> tuple[int, ...]:
    """The bytes of a body up to its first cut, from there to the next, …, of where its stages end."""
    places = (0, *accumulate((ends[cut - 1] for cut in cuts(len(ends))[:-1]), max), len(body))
    return tuple(end - start for start, end in pairwise(places))


def is_sound(data: bytes | bytearray, begin: int, end: int) -> bool:
    """Whether bytes end with the CRC-16 of those before."""
    with memoryview(data) as view:
        return crc16(view[begin : end - CRC16.size]) == data[end - CRC16.size : end]


def _size_to_bytes(size: int) -> bytes:
    data = bytearray()
    while size > 0x7F:
        data.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*data, size])


def _size_from_bytes(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """A number, and the byte behind it. An IndexError says that the data end within."""
    size = 0
    for i in range(_MAX_SIZE_BYTES):
        byte = data[at + i]
        size |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            if not byte and i:
                break  # the same number takes fewer bytes
            return size, at + i + 1
    raise BitstreamError("damaged chunk")
