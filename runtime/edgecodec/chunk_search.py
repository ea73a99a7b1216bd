"""Finds the chunks of a file: where one should be, or, behind damage, the next one that is sound and may follow.

A byte that may begin a chunk is tried only if its sequence is a little ahead and its sizes are possible; so few CRCs
are computed, and however the bytes are made, no more than a fixed number of bytes for each that is passed.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import NamedTuple

from .chunks import CHUNK_KINDS, LEAST_CHUNK, ChunkFormat, Extent, is_sound
from .edgc_input import EdgcInput
from .errors import BitstreamError
from .packets import SEQUENCE_MODULUS

MOST_MISSING = 60  # chunks that may lack without a trace; where bytes are damaged, as many more as they could hold

_END = b"E"
_END_RECORD = struct.Struct("<cQII")
_CRC32 = struct.Struct("<I")
END_SIZE = _END_RECORD.size + _CRC32.size  # bytes
_BEGINNINGS = re.compile(b"[%b%b]" % (bytes(CHUNK_KINDS), _END))
_COST = 16  # bytes whose CRC may be computed for each byte that is passed
_PASSED = 1 << 18  # bytes that are kept while they are searched


class EndRecord(NamedTuple):
    """What the end of a file says."""

    samples: int  # per channel, at the input rate
    chunks: int
    checksum: int  # CRC-32 of all chunks

    def to_bytes(self) -> bytes:
        """The record's bytes."""
        record = _END_RECORD.pack(_END, *self)
        return record + _CRC32.pack(zlib.crc32(record))


class ChunkSearch:
    """Looks for chunks and end records in what is ahead of an input.

    `damaged_from` is the byte behind the last sound one, while nothing sound is found.
    """

    def __init__(self, source: EdgcInput, form: ChunkFormat) -> None:
        self._source, self._form = source, form
        self._computed, self._largest = 0, form.largest  # bytes: for CRCs in searches; of a chunk
        self.damaged_from: int | None = None

    def extent(self) -> Extent | None:
        """What the head of the chunk that is ahead says, or None where none is."""
        return self._extent_at(0)

    def chunk(self) -> Extent | None:
        """The sound chunk that is ahead, or None."""
        extent = self._extent_at(0)
        return extent if extent is not None and self._is_sound(0, extent.end) else None

    def end(self) -> EndRecord | None:
        """The sound end record that is ahead, or None."""
        return self._end_at(0)

    def has_whole(self) -> bool:
        """Whether the next chunk is already read to its end."""
        try:
            extent = self._form.extent(self._source.ahead)
        except BitstreamError:
            return False
        return extent is not None and extent.end <= len(self._source.ahead)

    def go_on(self, due: int) -> bool:
        """Pass over what is damaged, up to a sound chunk or end record that may follow; false where there is none."""
        source, at = self._source, 1
        if self.damaged_from is None:
            self.damaged_from = source.position
        while source.fill(at + 1):
            match = _BEGINNINGS.search(source.ahead, at)
            at = len(source.ahead) if match is None else match.start()
            if match is not None and self._may_follow(at, due):
                source.drop(at)
                return True
            if match is None or at > _PASSED:
                source.drop(at)
                at = -1
            at += 1
        source.drop(len(source.ahead))
        return False

    def missing(self, number: int, due: int, at: int = 0) -> int | None:
        """Chunks lost before one of this number (or sequence), `at` bytes ahead; None where it cannot follow."""
        missing = (number - due) % SEQUENCE_MODULUS
        damaged = 0 if self.damaged_from is None else self._source.position + at - self.damaged_from
        return missing if missing <= min(MOST_MISSING + damaged // LEAST_CHUNK, SEQUENCE_MODULUS // 2) else None

    def what_is_cut(self, where: str) -> str | None:
        """Whether the end of the file cuts the chunk that is ahead, which is called `where`, or the end record."""
        source = self._source
        if source.ahead[:1] == _END and not source.fill(END_SIZE + 1):
            return "the end record is truncated or damaged"
        try:
            extent = self._form.extent(source.ahead)
        except BitstreamError:
            return None
        return f"truncated in {where}" if extent is None or not source.fill(extent.end) else None

    def _may_follow(self, at: int, due: int) -> bool:
        """Whether a sound chunk or end record that may follow begins so many bytes ahead."""
        source = self._source
        record = self._end_at(at)
        if record is not None:
            return record.chunks >= due and self.missing(record.chunks, due, at) is not None
        if not source.fill(at + LEAST_CHUNK):
            return False
        sequence = int.from_bytes(source.ahead[at + 1 : at + 3], "little")
        if self.missing(sequence, due, at) is None:
            return False
        extent = self._extent_at(at)
        if extent is None:
            return False
        cost = self._computed + extent.end - at
        if cost > _COST * (source.position + at + self._largest):
            return False
        self._computed = cost
        return self._is_sound(at, extent.end)

    def _extent_at(self, at: int) -> Extent | None:
        source = self._source
        try:
            while (extent := self._form.extent(source.ahead, at)) is None:
                if not source.fill(len(source.ahead) + 1):
                    return None
        except BitstreamError:
            return None
        return extent

    def _is_sound(self, at: int, end: int) -> bool:
        return self._source.fill(end) and is_sound(self._source.ahead, at, end)

    def _end_at(self, at: int) -> EndRecord | None:
        source = self._source
        if source.ahead[at : at + 1] != _END or not source.fill(at + END_SIZE):
            return None
        end = at + _END_RECORD.size
        if _CRC32.unpack_from(source.ahead, end)[0] != zlib.crc32(source.ahead[at:end]):
            return None
        return EndRecord(*_END_RECORD.unpack_from(source.ahead, at)[1:])
