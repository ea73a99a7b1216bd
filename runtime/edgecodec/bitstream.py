"""The .edgc container: a header (`edgc_header.py`), chunks or packets, and an end record, little-endian.

    header  chunk  chunk  …  end        chunks (`chunks.py`) stand alone, so that damage costs those it lies in
    header  packet  packet  …  end      version 1, of packets (`packets.py`): it is read up to the damage
    end     "E" u8  samples per channel at the input rate u64  chunks u32  CRC-32 of all chunks  CRC-32 of this record

The length comes last, so that pipes need not know it beforehand. A chunk's CRC finds damage where it is, the CRC of
all chunks finds what a CRC-16 misses once in 65,536 times. Everything read is bounded before it is read: no number in
a file makes more memory than `MAX_PACKET` bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType
from typing import Protocol

from .chunk_search import END_SIZE, ChunkSearch, EndRecord
from .chunks import Chunk
from .edgc_header import MAX_PACKET, VERSION, Header, read_header
from .edgc_input import EdgcInput, Readable
from .errors import BitstreamError
from .manifest import MAX_NAME
from .packets import CRC16, PACKET, PACKET_HEAD, SEQUENCE_MODULUS, Packet

__all__ = ["END_SIZE", "MAX_NAME", "MAX_PACKET", "VERSION", "Header", "Readable", "Reader", "Writable", "Writer"]


class Writable(Protocol):
    """What a `Writer` needs of a file or pipe."""

    def write(self, data: bytes, /) -> object:
        """Write all of `data`."""


class Writer:
    """Writes an .edgc file or pipe: the header at once, then chunks, then the end record, if no error comes before.

        with Writer(file, header) as writer:
            writer.write(chunk)
            writer.samples = 24_000

    `samples` is the length per channel at the rate of the audio that was encoded; set it before the end. Of a header of
    version 1, packets are written in place of chunks.
    """

    def __init__(self, file: Writable, header: Header) -> None:
        self._file, self.header = file, header
        self.samples: int | None = None
        self._chunks = self._checksum = 0
        self._ended = False  # by a chunk of fewer frames
        self.payload_bytes = 0
        self.bytes = 0
        self._write(header.to_bytes())

    def write(self, item: Chunk | Packet) -> None:
        """Append a chunk, whose sequence must follow the one before; of a packet, what it repeats is left out."""
        header = self.header
        if item.sequence != self._chunks % SEQUENCE_MODULUS or self._ended:
            raise BitstreamError(f"{self._what} {item.sequence} out of order")
        if item.stages > header.stages or item.frames > header.frames_per_packet:
            raise BitstreamError(f"{item.stages} stages, {item.frames} frames are more than the header announces")
        if isinstance(item, Packet):
            if header.version != 1:
                raise BitstreamError("files of version 2 hold chunks, not packets")
            data = header.format.to_bytes(replace(item, previous=None))
        else:
            if header.version == 1:
                raise BitstreamError("files of version 1 hold packets, not chunks")
            data = header.chunk_format.to_bytes(item)
            self._ended = item.frames < header.frames_per_packet
        self._checksum = zlib.crc32(data, self._checksum)
        self._chunks += 1
        self.payload_bytes += header.payload_size(item)
        self._write(data)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            return
        if self.samples is None:
            raise BitstreamError("the length of the audio was not said before the end")
        self._write(EndRecord(self.samples, self._chunks, self._checksum).to_bytes())

    @property
    def _what(self) -> str:
        return "packet" if self.header.version == 1 else "chunk"

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self.bytes += len(data)


class _DamageError(Exception):
    """What ends the reading."""


class Reader:
    """Reads an .edgc file or pipe: the header at once, then chunks (packets, of version 1) by iteration.

    Chunks come in the order of their sequence; where it jumps, those between are lost. `damage` says, place by place,
    what is wrong. After the iteration `samples` is the exact length, or None where the end record was not found or
    contradicts the chunks, and `lost_at_end` the chunks that are lost behind the last one that was given.

    Raises:
        BitstreamError: no .edgc file, a newer version, a damaged header, or, also later, a file that cannot be read.
    """

    def __init__(self, file: Readable) -> None:
        self._input = EdgcInput(file)
        self.header = read_header(self._input.take)
        self._search = ChunkSearch(self._input, self.header.chunk_format)
        self.samples: int | None = None
        self.damage: list[str] = []
        self.lost_at_end = 0
        self.payload_bytes = 0
        self.chunks = self.frames = 0  # that were given
        self._due = 0  # number of the next chunk, which its sequence says modulo 65,536
        self._held: Chunk | Packet | None = None  # read, and not given yet
        self._over = False
        self._checksum = 0
        self._skipped = False  # whether chunks were passed over, so that there is no checksum of all

    @property
    def bytes(self) -> int:
        """Bytes that were read so far, or passed over."""
        return self._input.position

    @property
    def passed(self) -> int:
        """Frames up to the chunk that was given last, those that are lost or were passed over too."""
        return self._due * self.header.frames_per_packet

    def __iter__(self) -> Iterator[Chunk | Packet]:
        while (item := self._held or self._next()) is not None:
            self._held = None
            self.chunks += 1
            self.frames += item.frames
            self.payload_bytes += self.header.payload_size(item)
            yield item

    def waits(self) -> bool:
        """Whether the next chunk may have to be waited for, as in a pipe of which all was read."""
        if self._input.seekable or self._held is not None:
            return False
        return self.header.version == 1 or not self._search.has_whole()

    def skip_to(self, number: int) -> None:
        """Pass over all chunks before this number; the next one that is given is this one or, if it is lost, a later.

        Where the file can seek, only heads are read, so that damage before is not seen.
        """
        self._skipped = number > self._due
        if self._input.seekable:
            start = position = self._input.position
            while (size := self._size_if_due()) is not None and self._due < number:
                start, position = position, position + size
                self._input.go_to(position)
                self._due += 1
            if size is None and position > start:  # the size of the chunk before may be wrong: read that one whole
                self._input.go_to(start)
                self._due -= 1
        while self._due < number:
            item = self._next()
            if item is None:
                return
            if self._due > number:
                self._held = item

    def _next(self) -> Chunk | Packet | None:
        if self._over:
            return None
        item: Chunk | Packet | None = None
        try:
            item = self._next_packet() if self.header.version == 1 else self._next_chunk()
        except _DamageError as damage:
            self.damage.append(str(damage))
        self._over = item is None
        return item

    def _next_packet(self) -> Packet | None:
        """The next packet of version 1, or None at the end."""
        where = f"packet {self._due} (byte {self.bytes})"
        source, header = self._input, self.header
        if not source.fill(1):
            raise _DamageError(f"truncated after packet {self._due}: no end record")
        if source.ahead[:1] == b"E":
            if (record := self._search.end()) is None:
                raise _DamageError("the end record is truncated or damaged")
            self._end(record)
            if self.damage:
                self.samples = None
            return None
        if source.ahead[:1] != PACKET:
            raise _DamageError(f"{where}: damaged")
        if not source.fill(PACKET_HEAD.size):
            raise _DamageError(f"truncated in {where}")
        _, stages, frames, sequence = PACKET_HEAD.unpack_from(source.ahead)
        if not (1 <= stages <= header.stages and 1 <= frames <= header.frames_per_packet):
            raise _DamageError(f"{where}: damaged")
        size = header.format.size(stages, frames)
        if not source.fill(size):
            raise _DamageError(f"truncated in {where}")
        data = source.take(size)
        try:
            packet = header.format.from_bytes(data)
        except BitstreamError:
            raise _DamageError(f"{where}: damaged") from None
        if sequence != self._due % SEQUENCE_MODULUS:
            raise _DamageError(f"{where}: packets are missing or out of order")
        self._checksum = zlib.crc32(data, self._checksum)
        self._due += 1
        return packet

    def _next_chunk(self) -> Chunk | None:
        """The next sound chunk, or None at the end."""
        source, search = self._input, self._search
        while source.fill(1):
            where = f"chunk {self._due} (byte {self.bytes})"
            if (record := search.end()) is not None:
                self._end(record)
                return None
            if (extent := search.chunk()) is None:
                cut = search.what_is_cut(where)
                if not search.go_on(self._due):
                    raise _DamageError(cut or f"{where}: damaged, and nothing sound comes behind it")
                continue
            missing = search.missing(extent.chunk.sequence, self._due)
            data = source.take(extent.end)
            if missing is None:
                self.damage.append(f"chunk {extent.chunk.sequence} comes in place of {where}: out of order")
                continue
            self._say_lost(missing)
            self._due += missing + 1
            self._checksum = zlib.crc32(data, self._checksum)
            return replace(extent.chunk, body=data[extent.body : -CRC16.size])
        raise _DamageError(f"truncated after chunk {self._due}: no end record")

    def _say_lost(self, missing: int) -> None:
        """Put into words what is lost before the chunk or record at hand."""
        first, last, start = self._due, self._due + missing - 1, self._search.damaged_from
        chunks = f"chunk {first}" if missing == 1 else f"chunks {first} to {last}"
        if start is not None:
            where = f"{chunks} (byte {start})" if missing else f"byte {start}"
            self.damage.append(f"{where}: damaged" + ("" if missing else ", but no chunk"))
        elif missing:
            self.damage.append(f"{chunks}: missing")
        self._search.damaged_from = None

    def _end(self, record: EndRecord) -> None:
        """Compare the end record ahead with what was read."""
        header, lost = self.header, record.chunks - self._due
        possible = lost == (0 if header.version == 1 else self._search.missing(record.chunks, self._due))
        if possible:
            self._say_lost(lost)
        self._input.drop(END_SIZE)
        whole = not self.damage and not self._skipped
        frames = self.frames if whole else record.chunks * header.frames_per_packet
        # A length beyond all frames is refused (one sample more is the resampler's rounding); how much the delay of the
        # codec takes off is the bundle's business.
        most = frames * header.frame_size * header.sample_rate / header.codec_rate + 1
        if not possible or record.samples > most or (whole and record.checksum != self._checksum):
            self.damage.append(f"the end record contradicts the {'packets' if header.version == 1 else 'chunks'}")
            return
        self.samples, self.lost_at_end = record.samples, lost
        if self._input.fill(1):
            self.damage.append("bytes follow the end record")

    def _size_if_due(self) -> int | None:
        """Bytes of the chunk or packet ahead by its head, if that is the one that is due."""
        source, header = self._input, self.header
        if header.version == 1:
            if not source.fill(PACKET_HEAD.size):
                return None
            kind, stages, frames, sequence = PACKET_HEAD.unpack_from(source.ahead)
            size = header.format.size(stages, frames)
            sound = kind == PACKET and 1 <= stages <= header.stages and frames == header.frames_per_packet
        else:
            if (extent := self._search.extent()) is None:
                return None
            size, sequence, sound = extent.end, extent.chunk.sequence, extent.chunk.frames == header.frames_per_packet
        return size if sound and sequence == self._due % SEQUENCE_MODULUS else None
