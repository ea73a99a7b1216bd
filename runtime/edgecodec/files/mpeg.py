"""MPEG audio, frame by frame: what libsndfile believes of its length is the header of the first frame, or a guess.

    ID3  | Xing: 100 frames | frame … | ID3 | Xing: 80 frames | frame …          two files joined end to end

Each run of frames is made a file of its own, whose first frame says how many there are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import BinaryIO

from ..errors import AudioError
from .mpeg_checksum import checksum, sound_facts
from .slices import Piece, bytes_at, size_of

_KBPS = {  # version 1 or not, layer: by index
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = 44100, 48000, 32000  # of version 1; version 2 has half of it, 2.5 a quarter
_HIGHEST = 14  # index of a bitrate
_NO_CRC, _PADDED = 0x01, 0x02  # in bytes 1 and 2 of a header
_LOOKED_AT = 64  # bytes of a frame
_FRAMES_BYTES = 1 << 16  # that are read at once
_BLOCK = 1 << 20
_SYNC = re.compile(rb"\xff[\xe0-\xff]")


@dataclass(frozen=True)
class _Header:
    """What the four bytes before a frame say."""

    version: int  # 3: MPEG 1, 2: MPEG 2, 0: MPEG 2.5
    layer: int
    sample_rate: int  # Hz
    mono: bool
    size: int  # bytes of the frame

    @property
    def kind(self) -> tuple[int, int, int, bool]:
        """What stays the same within a file."""
        return self.version, self.layer, self.sample_rate, self.mono

    @property
    def samples(self) -> int:
        """Samples of a frame per channel."""
        return 384 if self.layer == 1 else 1152 if self.layer == 2 or self.version == 3 else 576

    @property
    def info_at(self) -> int:
        """Where a frame that says how many follow does so."""
        return 4 + ((17 if self.mono else 32) if self.version == 3 else (9 if self.mono else 17))

    @classmethod
    @lru_cache(maxsize=1024)  # the frames of a file have few between them
    def of(cls, data: bytes) -> _Header | None:
        """Parse four bytes, None where there is none."""
        if len(data) < 4 or data[0] != 0xFF or data[1] & 0xE0 != 0xE0:
            return None
        version, layer = data[1] >> 3 & 3, 4 - (data[1] >> 1 & 3)
        bitrate, rate, padding = data[2] >> 4, data[2] >> 2 & 3, data[2] >> 1 & 1
        if version == 1 or layer == 4 or not 1 <= bitrate <= _HIGHEST or rate == 3:
            return None
        sample_rate = _RATES[rate] // {3: 1, 2: 2, 0: 4}[version]
        bits = 1000 * _KBPS[version == 3, layer][bitrate]
        if layer == 1:
            size = (12 * bits // sample_rate + padding) * 4
        else:
            size = (72 if layer == 3 and version != 3 else 144) * bits // sample_rate + padding
        return cls(version, layer, sample_rate, data[3] >> 6 == 3, size)


@dataclass
class MpegRun:
    """Frames of one kind, of a file of its own."""

    first: bytes  # the header of its first frame
    header: _Header
    info: bytes = b""  # the frame that says how many follow, where there is one
    promised: int | None = None  # by it
    frames: int = 0
    ranges: list[tuple[int, int]] = field(default_factory=list)  # bytes of the file that hold them

    @property
    def samples(self) -> int:
        """Per channel, with what the coder added at both ends."""
        return self.frames * self.header.samples

    @property
    def can_be_told(self) -> bool:
        """Whether a first frame can say how many follow; only layer III has such frames."""
        return self.header.layer == 3

    def as_found(self) -> list[Piece]:
        """The pieces of its file."""
        return [*self.ranges]

    def told(self) -> list[Piece]:
        """The same, where the first frame says how many frames follow, whatever it said."""
        info, at = bytearray(self.info), self.header.info_at
        if not info:
            start = bytearray(self.first)
            start[1] |= _NO_CRC
            start[2] = start[2] & ~_PADDED & 0x0F | _HIGHEST << 4
            header = _Header.of(bytes(start))
            assert header is not None
            info = start + bytes(header.size - len(start))
            info[at : at + 8] = b"Xing\0\0\0\1"
        info[at + 8 : at + 12] = self.frames.to_bytes(4, "big")
        if info[at + 7] & 2:
            size = len(info) + sum(end - start for start, end in self.ranges)
            info[at + 12 : at + 16] = size.to_bytes(4, "big")
        return [bytes(info), *self.ranges]


def is_as_it_was_made(file: BinaryIO, run: MpegRun) -> bool:
    """Whether the bytes of a run are those of which its first frame has the checksum; true where it has none."""
    facts = sound_facts(run.info, run.header.info_at) if run.info else None
    if facts is None or facts.size != len(run.info) + sum(end - start for start, end in run.ranges):
        return True
    blocks = (
        bytes_at(file, position, min(_BLOCK, end - position))
        for start, end in run.ranges
        for position in range(start, end, _BLOCK)
    )
    return checksum(blocks) == facts.checksum


def mpeg_runs(file: BinaryIO) -> list[MpegRun]:
    """The runs of frames in a file, tags left out.

    Raises:
        AudioError: a file that is truncated or damaged.
    """
    runs: list[MpegRun] = []
    for position, data, header in _frames(file, size_of(file)):
        end, at = position + header.size, header.info_at
        named = data[at : at + 4] in (b"Xing", b"Info") and int.from_bytes(data[at + 4 : at + 8], "big") & 1
        other = data[36:40] == b"VBRI"  # tells as much; as libsndfile reads one, it is left out
        if not runs or runs[-1].header.kind != header.kind or ((named or other) and runs[-1].frames):
            runs.append(MpegRun(data[:4], header))
        run = runs[-1]
        if named:
            run.info, run.promised = (
                bytes_at(file, position, header.size),
                int.from_bytes(data[at + 8 : at + 12], "big"),
            )
        elif other:
            run.promised = int.from_bytes(data[50:54], "big")
        elif run.ranges and run.ranges[-1][1] == position:
            run.ranges[-1] = run.ranges[-1][0], end
        else:
            run.ranges.append((position, end))
        run.frames += not (named or other)
    for run in runs:
        if run.promised is not None and run.promised > run.frames + 1:  # some count the frame that says it
            raise AudioError(f"truncated, its header promises {run.promised} frames, it has {run.frames}")
    return [run for run in runs if run.frames]


def _frames(file: BinaryIO, size: int) -> Iterator[tuple[int, bytes, _Header]]:
    """Position, first bytes and header of each frame."""
    position, begun = 0, False
    block, start = b"", 0  # what was read last: many frames
    while position < size:
        if not start <= position <= start + len(block) - _LOOKED_AT:
            block, start = bytes_at(file, position, _FRAMES_BYTES), position
        data = block[position - start : position - start + _LOOKED_AT]
        header = _Header.of(data[:4])
        if header is not None and (begun or _another_follows(file, position + header.size, size)):
            if position + header.size > size:
                raise AudioError(f"truncated in the frame at byte {position}")
            yield position, data, header
            position, begun = position + header.size, True
        elif (tag := _tag_size(data)) or begun:
            if not tag:
                if _next_frame(file, position, size) is not None:
                    raise AudioError(f"damaged at byte {position}: no frame begins there")
                return
            position += tag
        else:
            found = _next_frame(file, position + 1, size)
            if found is None:
                return
            position = found


def behind_tags(file: BinaryIO) -> int:
    """Where a file begins behind the ID3 tags before it."""
    position = 0
    while (head := bytes_at(file, position, 10))[:3] == b"ID3" and len(head) == 10:
        position += _tag_size(head)
    return position


def _tag_size(data: bytes) -> int:
    """Bytes of the tag, or of the zeros, that begin here; 0 where neither does."""
    if data[:3] == b"ID3" and len(data) >= 10:
        return 10 + sum((byte & 0x7F) << 7 * i for i, byte in enumerate(reversed(data[6:10])))
    if data[:8] == b"APETAGEX" and len(data) >= 32:
        return 32 + int.from_bytes(data[12:16], "little") - (0 if data[23] & 0x20 else 32)
    return 128 if data[:3] == b"TAG" else len(data) - len(data.lstrip(b"\0"))


def _next_frame(file: BinaryIO, position: int, size: int) -> int | None:
    """Where the next two frames begin that follow each other."""
    while position < size:
        block = bytes_at(file, position, _BLOCK)
        for match in _SYNC.finditer(block):
            at = position + match.start()
            header = _Header.of(bytes_at(file, at, 4))
            if header is not None and _another_follows(file, at + header.size, size):
                return at
        position += max(1, len(block) - 1)
    return None


def _another_follows(file: BinaryIO, position: int, size: int) -> bool:
    return position == size or _Header.of(bytes_at(file, position, 4)) is not None
