"""WAV to files and pipes: its length stands before its samples, and is filled in at the end where that can be done."""

from __future__ import annotations

import struct
from types import TracebackType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .output import Output

Bits = Literal[16, 24]

_UNKNOWN = 0xFFFFFFFF
_HEADER_BYTES = 44
_LONGEST = _UNKNOWN - 1 - (_HEADER_BYTES - 8)  # bytes of samples that RIFF's 32 bits can say
_PCM = 1


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
