"""WAV as a stream: read from a pipe that cannot seek, and written to files and pipes of unknown length.

libsndfile needs files that seek; this covers what pipes carry, PCM and floating point.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import AudioError
from .output import Output

Bits = Literal[16, 24]

_UNKNOWN = 0xFFFFFFFF
_UNKNOWN_FROM = 0x7FFF0000  # sizes from here on mean "unknown" to programs that write pipes
_HEADER_BYTES = 44
_LONGEST = _UNKNOWN - 1 - (_HEADER_BYTES - 8)  # bytes of samples that RIFF's 32 bits can say
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_ENCODINGS = {(_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32), (_FLOAT, 64)}
_MAX_CHUNK = 1 << 20  # of chunks before the samples: tags and the like


@dataclass(frozen=True)
class WavHeader:
    """What stands before the samples; `data_bytes` is None where the writer did not know."""

    channels: int
    sample_rate: int
    encoding: tuple[int, int]  # format tag (1 PCM, 3 float), bits
    data_bytes: int | None

    @property
    def supported(self) -> bool:
        """Whether `decode_samples` reads this encoding."""
        return self.encoding in _ENCODINGS

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of all channels."""
        return self.channels * self.encoding[1] // 8


def read_header(file: BinaryIO) -> WavHeader:
    """Read up to the first sample.

    Raises:
        AudioError: not WAV, or cut off before the samples.
    """
    riff = read_exactly(file, 12)
    if riff[:4] != b"RIFF" or riff[8:] != b"WAVE":
        raise AudioError("not a WAV stream")
    fields: tuple[int, ...] | None = None
    while True:
        head = read_exactly(file, 8)
        if len(head) < 8:
            raise AudioError("truncated before the first sample")
        kind, size = head[:4], int.from_bytes(head[4:], "little")
        if kind == b"data":
            break
        if size > _MAX_CHUNK:
            raise AudioError("not a WAV stream that can be read from a pipe: a large chunk before the samples")
        body = read_exactly(file, size + size % 2)
        if len(body) < size:
            raise AudioError("truncated before the first sample")
        if kind == b"fmt " and size >= 16:
            tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", body)
            if tag == _EXTENSIBLE and size >= 26:
                tag = int.from_bytes(body[24:26], "little")
            fields = (tag, channels, rate, bits)
    if fields is None or not fields[1] or not fields[2]:
        raise AudioError("a WAV stream without a format")
    tag, channels, rate, bits = fields
    return WavHeader(channels, rate, (tag, bits), None if size >= _UNKNOWN_FROM else size)


def read_exactly(file: BinaryIO, size: int) -> bytes:
    """`size` bytes, fewer only at the end; a pipe may give them piece by piece."""
    pieces = []
    while size and (piece := file.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def decode_samples(data: bytes, header: WavHeader) -> NDArray[np.float32]:
    """Whole sample frames as float32 [channels, samples] in [-1, 1]."""
    tag, bits = header.encoding
    flat: NDArray[np.float32]
    if tag == _FLOAT:
        flat = np.frombuffer(data, f"<f{bits // 8}").astype(np.float32)
    elif bits == 8:
        flat = np.frombuffer(data, np.uint8).astype(np.float32) / np.float32(128) - np.float32(1)
    elif bits == 24:
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        flat = (padded.reshape(-1).view("<i4") / np.float64(1 << 31)).astype(np.float32)
    else:
        flat = (np.frombuffer(data, f"<i{bits // 8}").astype(np.float64) / (1 << (bits - 1))).astype(np.float32)
    return np.ascontiguousarray(flat.reshape(-1, header.channels).T)


class WavWriter:
    """Writes PCM; samples beyond [-1, 1] are clipped. Leaving it fills in the sizes, if no error came before.

    What is written in place, or is longer than 32 bits can say (4 GiB), keeps "unknown".
    """

    def __init__(self, output: Output, sample_rate: int, channels: int, bits: Bits = 16) -> None:
        self._output, self._rate, self._channels, self._bits = output, sample_rate, channels, bits
        output.file.write(self._header(None))

    def __enter__(self) -> WavWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None or self._output.in_place:
            return
        data_bytes = self._output.file.tell() - _HEADER_BYTES
        if data_bytes <= _LONGEST:
            self._output.file.seek(0)
            self._output.file.write(self._header(data_bytes))

    def write(self, audio: NDArray[np.float32]) -> None:
        """Append audio [channels, samples]."""
        highest = (1 << (self._bits - 1)) - 1
        numbers = (np.clip(audio.T, -1, 1).astype(np.float64) * highest).round().astype("<i4")
        data = numbers.reshape(-1, 1).view(np.uint8)[:, : self._bits // 8].tobytes()  # the low bytes come first
        self._output.file.write(data)

    def _header(self, data_bytes: int | None) -> bytes:
        riff, data = (_UNKNOWN, _UNKNOWN) if data_bytes is None else (36 + data_bytes, data_bytes)
        frame = self._bits // 8 * self._channels
        form = (16, _PCM, self._channels, self._rate, self._rate * frame, frame, self._bits)
        return struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", riff, b"WAVE", b"fmt ", *form, b"data", data)
