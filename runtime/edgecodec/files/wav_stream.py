"""WAV as a stream, from files and pipes alike, to its end.

    RIFF | fmt | data …                       | RIFF | fmt | data …
         one recording                          another, as `cat` and text-to-speech join them: read on

libsndfile needs files that seek, and believes sizes that were never filled in; this covers PCM and floating point.
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import AudioError

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_ENCODINGS = {(_PCM, 1), (_PCM, 2), (_PCM, 3), (_PCM, 4), (_FLOAT, 4), (_FLOAT, 8)}
_RIFFS = b"RIFF", b"RF64", b"BW64"  # the others have sizes of 64 bits in a chunk `ds64`
_CHUNKS = {*_RIFFS, b"fmt ", b"data", b"LIST", b"fact", b"bext", b"JUNK", b"PEAK", b"cue ", b"id3 ", b"smpl", b"iXML"}
_ANOTHER = re.compile(rb"RIFF.{4}WAVE[A-Za-z]{3}[A-Za-z ]", re.DOTALL)  # the head of a file, and of a chunk
_ANOTHER_BYTES = 16
_PIECE = 1 << 16
_LONGEST_FORMAT = 1 << 16
_PLACEHOLDERS = (0x7FFF0000, 0x80010000), (0xFFFF0000, 0xFFFFFFFF), (1_999_990_000, 2_000_010_000)


@dataclass(frozen=True)
class WavHeader:
    """What stands before the samples; `data_bytes` is None where the writer did not know."""

    channels: int
    sample_rate: int
    encoding: tuple[int, int]  # format tag (1 PCM, 3 float), bytes that hold a sample
    data_bytes: int | None

    @property
    def supported(self) -> bool:
        """Whether `decode_samples` reads this encoding."""
        return self.encoding in _ENCODINGS

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of all channels."""
        return self.channels * self.encoding[1]


class WavStream:
    """The samples of WAV from its first byte on, and of what is joined to it.

    Raises:
        AudioError: from every method: no WAV, truncated, or with something behind its samples that is none of them.
    """

    def __init__(self, file: BinaryIO, size: int | None = None) -> None:
        """`size`: bytes of a file that can seek, None of a pipe."""
        self._source = _Source(file, size)
        self.header = self._part = _read_header(self._source)
        self._left, self._position = self._part.data_bytes, 0  # bytes of the part; its samples that were read

    def read(self, samples: int) -> NDArray[np.float32]:
        """The next samples [channels, samples], none at the end."""
        while True:
            size = samples * self._part.frame_bytes
            data = self._unknown(size) if self._left is None else self._known(min(size, self._left))
            whole = len(data) // self._part.frame_bytes
            if whole:
                self._position += whole
                return decode_samples(data[: whole * self._part.frame_bytes], self._part)
            if not self._go_on():
                return np.zeros((self.header.channels, 0), np.float32)

    def skip(self, samples: int) -> None:
        """Pass over samples of which all sizes are known."""
        while self._left is not None:
            whole = min(samples, self._left // self._part.frame_bytes)
            self._source.pass_over(whole * self._part.frame_bytes)
            self._left -= whole * self._part.frame_bytes
            self._position += whole
            samples -= whole
            if not samples or not (self._source.pass_over(self._left) and self._go_on()):
                return

    def count(self) -> int | None:
        """Samples of a file by what its headers say, None where one does not; it is at its end then."""
        samples = 0
        while self._left is not None:
            self.check_size()
            samples += self._left // self._part.frame_bytes
            self._source.pass_over(self._left)
            if not self._go_on():
                return samples
        return None

    def check_size(self) -> None:
        """Refuse a file that is shorter than the header at hand says."""
        promised, size = self._source.position + (self._left or 0), self._source.size
        if size is not None and promised > size:
            raise AudioError(f"truncated, its header promises {promised} bytes, it has {size}")

    def _known(self, size: int) -> bytes:
        """Bytes of samples of a part whose size is known."""
        assert self._left is not None and self._part.data_bytes is not None
        data = self._source.read(size)
        self._left -= len(data)
        if len(data) < min(size, self._part.frame_bytes):
            total = self._part.data_bytes // self._part.frame_bytes
            raise AudioError(f"truncated, {self._position} of {total} samples are there")
        return data

    def _unknown(self, size: int) -> bytes:
        """Bytes of samples up to the end, or to the head of another file."""
        data = self._source.read(size + _ANOTHER_BYTES)
        another = _ANOTHER.search(data)
        if another is None and len(data) < size + _ANOTHER_BYTES:
            return data
        end = size if another is None else min(size, another.start())
        self._source.give_back(data[end:])
        return data[:end]

    def _go_on(self) -> bool:
        """Go to the samples that come next, in this file or in one that is joined to it; false at the end."""
        odd = bool((self._part.data_bytes or 0) % 2)
        while True:
            head = _chunk_head(self._source, after_odd=odd)
            kind, size = head[:4], int.from_bytes(head[4:], "little")
            if kind in _RIFFS:
                self._source.give_back(head)
                self._begin(_read_header(self._source))
                return True
            if len(head) < 8 or kind[:3] in (b"TAG", b"ID3"):
                return False
            if re.fullmatch(rb"[ -~]{4}", kind) is None:
                at = self._source.position - 8
                if self._source.is_zero(head):  # filling
                    return False
                raise AudioError(f"what follows its samples at byte {at} is no part of WAV")
            if kind == b"data":
                self._begin(replace(self._part, data_bytes=size))
                return True
            self._source.pass_over(size)
            odd = bool(size % 2)

    def _begin(self, part: WavHeader) -> None:
        """Go on with another part."""
        ours, theirs = self.header, part
        if (theirs.channels, theirs.sample_rate) != (ours.channels, ours.sample_rate) or not theirs.supported:
            raise AudioError(
                f"several files in one, of {ours.channels} channels at {ours.sample_rate} Hz, then of "
                f"{theirs.channels} at {theirs.sample_rate} Hz: encode each for itself"
            )
        self._part, self._left, self._position = part, part.data_bytes, 0


class _Source:
    """A file or pipe whose bytes can be given back."""

    def __init__(self, file: BinaryIO, size: int | None) -> None:
        self._file, self._ahead = file, b""
        self.size, self.position = size, 0

    def read(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end; a pipe may give them piece by piece."""
        pieces = [self._ahead[:size]]
        self._ahead = self._ahead[size:]
        left = size - len(pieces[0])
        while left and (piece := self._file.read(left)):
            pieces.append(piece)
            left -= len(piece)
        data = b"".join(pieces)
        self.position += len(data)
        return data

    def give_back(self, data: bytes) -> None:
        """Have them read once more."""
        self._ahead = data + self._ahead
        self.position -= len(data)

    def is_zero(self, data: bytes) -> bool:
        """Whether these bytes and all that are left are zero."""
        while data and not data.strip(b"\0"):
            data = self.read(_PIECE)
        return not data

    def pass_over(self, size: int) -> bool:
        """Go on behind so many bytes; false where there are fewer."""
        if self.size is not None:
            if size > self.size - self.position:
                return False
            self._file.seek(size - len(self._ahead), os.SEEK_CUR)
            self._ahead, self.position = b"", self.position + size
            return True
        while size and (piece := self.read(min(size, _PIECE))):
            size -= len(piece)
        return not size


def _read_header(source: _Source) -> WavHeader:
    """Read up to the first sample."""
    start = source.position
    riff = source.read(12)
    if riff[:4] not in _RIFFS or riff[8:] != b"WAVE":
        raise AudioError("not a WAV stream")
    header: WavHeader | None = None
    long_size = odd = 0
    while True:
        head = _chunk_head(source, after_odd=bool(odd))
        kind, size = head[:4], int.from_bytes(head[4:], "little")
        if len(head) < 8:
            raise AudioError("truncated before the first sample")
        if kind == b"data":
            break
        taken = source.read(size) if size <= _LONGEST_FORMAT else b""
        if len(taken) < size and (taken or not source.pass_over(size)):
            raise AudioError("truncated before the first sample")
        if kind == b"fmt " and len(taken) >= 16:
            header = _parse_format(taken)
        elif kind == b"ds64" and len(taken) >= 16:
            long_size = int.from_bytes(taken[8:16], "little")
        odd = size % 2
    if header is None or not header.channels or not header.sample_rate:
        raise AudioError("a WAV stream without a format")
    if riff[:4] != b"RIFF" and size == 0xFFFFFFFF:
        return replace(header, data_bytes=long_size if 0 < long_size < 1 << 62 else None)
    promised = int.from_bytes(riff[4:8], "little")
    return replace(header, data_bytes=size if _is_meant(size, promised, source, start) else None)


def _is_meant(size: int, promised: int, source: _Source, start: int) -> bool:
    """Whether the size of the samples was known to the writer, who says also how long all of it is.

    Who writes to a pipe puts 0, or about 2,000,000,000, 2^31 or 2^32, less or more some bytes of head.
    """
    if not size:
        return not _is_placeholder(promised) and start + 8 + promised > source.position
    if source.size is not None and size <= source.size - source.position:
        return True
    return not _is_placeholder(size)


def _is_placeholder(size: int) -> bool:
    return not size or any(low <= size <= high for low, high in _PLACEHOLDERS)


def _parse_format(data: bytes) -> WavHeader:
    """What the chunk `fmt ` says; samples of fewer bits than their bytes hold stand at the upper end of them."""
    tag, channels, rate, byte_rate, align, bits = struct.unpack_from("<HHIIHH", data)
    if tag == _EXTENSIBLE and len(data) >= 26:
        tag = int.from_bytes(data[24:26], "little")
    held = (bits + 7) // 8
    if channels and align % channels == 0 and align > held * channels and byte_rate == rate * align:
        held = align // channels
    return WavHeader(channels, rate, (tag, held), None)


def _chunk_head(source: _Source, *, after_odd: bool) -> bytes:
    """The 8 bytes before a chunk; behind one of odd length there is a byte to fill it up, or some writer forgot it."""
    if not after_odd:
        return source.read(8)
    data = source.read(9)
    forgotten = data[:4] in _CHUNKS or (data[:1] != b"\0" and data[1:5] not in _CHUNKS and data[:4].isalnum())
    if forgotten:
        source.give_back(data[8:])
        return data[:8]
    return data[1:]


def decode_samples(data: bytes, header: WavHeader) -> NDArray[np.float32]:
    """Whole sample frames as float32 [channels, samples] in [-1, 1]."""
    tag, held = header.encoding
    flat: NDArray[np.float32]
    if tag == _FLOAT:
        with np.errstate(over="ignore"):  # what is too large becomes infinity, which is refused
            flat = np.frombuffer(data, f"<f{held}").astype(np.float32)
    elif held == 1:
        flat = np.frombuffer(data, np.uint8).astype(np.float32) / np.float32(128) - np.float32(1)
    elif held == 3:
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        flat = (padded.reshape(-1).view("<i4") / np.float64(1 << 31)).astype(np.float32)
    else:
        flat = (np.frombuffer(data, f"<i{held}").astype(np.float64) / (1 << (8 * held - 1))).astype(np.float32)
    return np.ascontiguousarray(flat.reshape(-1, header.channels).T)
