"""Audio files and pipes, in blocks, at any sample rate and channel count.

`-` is a pipe of WAV (standard input or output), as is any path that is no regular file. Files are WAV, or what
libsndfile reads and writes; it and soxr are imported when they are needed.
"""

from __future__ import annotations

import math
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import AudioError
from ..samples import MAX_CHANNELS, warn_of_scale
from .output import Output
from .slices import size_of
from .wav import Bits, WavWriter
from .wav_stream import WavStream

if TYPE_CHECKING:
    from .sndfile_writer import SndfileWriter

MIN_RATE, MAX_RATE = 1000, 768_000  # Hz
_BLOCK_VALUES = 1 << 16  # samples times channels per block
_PIECE_VALUES = 1 << 20  # the same of what is resampled
_WRITTEN = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".oga": "OGG", ".aiff": "AIFF", ".aif": "AIFF",
            ".au": "AU", ".caf": "CAF", ".w64": "W64", ".rf64": "RF64", ".mp3": "MP3"}  # fmt: skip
_MP3_RATES = 8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000
_LIMITS: dict[str, tuple[int, Callable[[int], bool], str]] = {  # channels, rates, in words
    "OGG": (255, lambda rate: rate <= 200_000, "up to 200000"),
    "FLAC": (8, lambda rate: rate <= 0xFFFF or (rate % 10 == 0 and rate <= 655_350), "up to 65535, tens up to 655350"),
    "MP3": (2, lambda rate: rate in _MP3_RATES, f"one of {', '.join(map(str, _MP3_RATES))}"),
}
AUDIO_SUFFIXES = tuple(_WRITTEN)  # of files that `AudioWriter` writes
INPUT_SUFFIXES = frozenset({*_WRITTEN, ".opus", ".mp2", ".aifc", ".snd"})  # of files that are looked for in folders


class _Source(Protocol):
    """What reads one container; its errors do not name the file."""

    def read(self, samples: int, /) -> NDArray[np.float32]:
        """The next samples [channels, samples], none at the end."""

    def skip(self, samples: int, /) -> None:
        """Pass over samples at the beginning."""


class AudioReader:
    """Audio at its own rate: `sample_rate`, `channels`, `samples` (None where it is not known), and `blocks()`."""

    def __init__(self, name: str, sample_rate: int, channels: int, samples: int | None, source: _Source) -> None:
        with _named(name):
            if not MIN_RATE <= sample_rate <= MAX_RATE:
                raise AudioError(f"sample rate {sample_rate} Hz is outside {MIN_RATE}..{MAX_RATE}")
            if not 1 <= channels <= MAX_CHANNELS:
                raise AudioError(f"{channels} channels, at most {MAX_CHANNELS} can be coded")
        self.name, self.sample_rate, self.channels, self.samples = name, sample_rate, channels, samples
        self._source, self._warned = source, False

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Blocks [channels, samples], none empty, all numbers finite.

        Raises:
            AudioError: audio that is truncated, cannot be decoded, or holds NaN or infinity, and where.
        """
        size, position = max(1, _BLOCK_VALUES // self.channels), 0
        while (block := self._read(size)).shape[1]:
            loudest = max(float(block.max()), -float(block.min()))  # NaN if one is
            if not math.isfinite(loudest):
                at = int(np.isfinite(block).all(axis=0).argmin())
                with _named(self.name):
                    raise AudioError(f"NaN or infinity at sample {position + at}")
            self._warned = self._warned or warn_of_scale(loudest, self.name or "audio")
            position += block.shape[1]
            yield block

    def read(self, samples: int | None) -> NDArray[np.float32]:
        """As many of the next samples as there are, [channels, samples]; all that are left for None. As `blocks`."""
        blocks, wanted = [np.zeros((self.channels, 0), np.float32)], math.inf if samples is None else samples
        for block in self.blocks():
            blocks.append(block[:, : int(min(wanted, block.shape[1]))])
            wanted -= block.shape[1]
            if wanted <= 0:
                break
        return np.concatenate(blocks, axis=1)

    def skip(self, samples: int) -> None:
        """Pass over samples at the beginning of a file that says how many it has."""
        with _named(self.name):
            self._source.skip(samples)

    def _read(self, samples: int) -> NDArray[np.float32]:
        with _named(self.name):
            return self._source.read(samples)


@contextmanager
def open_audio(path: str) -> Iterator[AudioReader]:
    """Open a file or, with `-`, WAV on standard input.

    Raises:
        AudioError: a file that is missing, empty, truncated or no audio, or that cannot be read.
    """
    with ExitStack() as stack:
        if path == "-":
            if sys.stdin is None:
                raise AudioError("standard input: closed")
            yield _pipe_reader("standard input", sys.stdin.buffer)
            return
        with _named(path):
            if Path(path).is_dir():
                raise AudioError("a folder, not an audio file")
            file = stack.enter_context(Path(path).open("rb"))
            regular = stat.S_ISREG(Path(path).stat().st_mode)
        yield audio_in(file, path, stack) if regular else _pipe_reader(path, file)


def audio_in(file: BinaryIO, name: str, stack: ExitStack) -> AudioReader:
    """Audio in a file that can seek; `stack` closes what reads it.

    Raises:
        AudioError: as `open_audio`.
    """
    with _named(name):
        size = size_of(file)
        if not size:
            raise AudioError("empty")
        wav = _wav_in(file, size)
        if wav is not None and wav.header.supported:
            samples = wav.count()
            wav = _wav_in(file, size) or wav
            return AudioReader(name, wav.header.sample_rate, wav.header.channels, samples, wav)
        from .sndfile import SndfileSource

        source = SndfileSource(file, name)
        stack.callback(source.close)
    return AudioReader(name, source.sample_rate, source.channels, source.samples, source)


def _wav_in(file: BinaryIO, size: int) -> WavStream | None:
    """WAV from its beginning, if it is some, and its samples are there."""
    file.seek(0)
    try:
        wav = WavStream(file, size)
    except AudioError:
        return None
    wav.check_size()
    return wav


def _pipe_reader(name: str, file: BinaryIO) -> AudioReader:
    with _named(name):
        try:
            wav = WavStream(file)
        except AudioError as error:
            raise AudioError(f"{error}; a pipe must carry WAV") from None
    if not wav.header.supported:
        raise AudioError(f"{name}: WAV of an encoding that cannot be piped; use PCM or float, or give a file")
    size = wav.header.data_bytes
    samples = None if size is None else size // wav.header.frame_bytes
    return AudioReader(name, wav.header.sample_rate, wav.header.channels, samples, wav)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Say of the file what goes wrong with it; one without a name is named by who opened it."""
    said = f"{name}: " if name else ""
    try:
        yield
    except AudioError as error:
        raise AudioError(f"{said}{error}") from None
    except FileNotFoundError:
        raise AudioError(f"{said}no such file") from None
    except OSError as error:
        raise AudioError(f"{said}cannot read: {error.strerror or error}") from None


class Resampler:
    """Audio [channels, samples] from one rate to another, block by block; equal rates pass through."""

    def __init__(self, source_rate: int, target_rate: int, channels: int) -> None:
        self._stream: Any = None
        self._channels, self._ratio = channels, max(1, -(-target_rate // source_rate))
        if source_rate != target_rate:
            import soxr

            self._stream = soxr.ResampleStream(source_rate, target_rate, channels, dtype="float32", quality="HQ")

    def push(self, audio: NDArray[np.float32], *, last: bool = False) -> NDArray[np.float32]:
        """The output that is ready; with `last`, all that is left."""
        return audio if self._stream is None else np.ascontiguousarray(self._ready(audio, last=last).T)

    def pieces(self, audio: NDArray[np.float32], *, last: bool = False) -> Iterator[NDArray[np.float32]]:
        """The same in pieces: neither many channels nor a high rate makes them large."""
        size = max(1, _PIECE_VALUES // (self._channels * self._ratio))
        for start in range(0, audio.shape[1], size):
            yield from self._cut(audio[:, start : start + size])
        if last:
            yield from self._cut(audio[:, :0], last=True)

    def _cut(self, audio: NDArray[np.float32], *, last: bool = False) -> Iterator[NDArray[np.float32]]:
        ready = audio.T if self._stream is None else self._ready(audio, last=last)
        size = max(1, _PIECE_VALUES // self._channels)  # what comes after much of nothing is much
        for start in range(0, len(ready), size):
            yield np.ascontiguousarray(ready[start : start + size].T)

    def _ready(self, audio: NDArray[np.float32], *, last: bool) -> NDArray[np.float32]:
        """Output [samples, channels]."""
        interleaved = np.ascontiguousarray(audio.T if self._channels > 1 else audio[0])
        output: NDArray[np.float32] = self._stream.resample_chunk(interleaved, last=last)
        return output.reshape(-1, self._channels)


class AudioWriter:
    """Writes audio [channels, samples] to an `Output`, in the format of its suffix; in place it is always WAV.

        with open_output("out.flac", suffixes=AUDIO_SUFFIXES) as output, AudioWriter(output, 24_000, 1) as writer:
            writer.write(audio)

    `bits` of a sample hold for formats that have them. Leaving it completes the file, if no error came before.

    Raises:
        AudioError: a format that cannot hold this audio.
    """

    def __init__(self, output: Output, sample_rate: int, channels: int, bits: Bits = 16) -> None:
        name = "WAV" if output.in_place else _WRITTEN[Path(output.path).suffix.lower()]
        self._size = max(1, _BLOCK_VALUES // channels)
        self._writer: WavWriter | SndfileWriter
        if name == "WAV":
            self._writer = WavWriter(output, sample_rate, channels, bits)
        else:
            from .sndfile_writer import SndfileWriter

            check_holds(output.path, sample_rate, channels)
            self._writer = SndfileWriter(output, name, sample_rate, channels, bits)

    def __enter__(self) -> AudioWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)

    def write(self, audio: NDArray[np.float32]) -> None:
        """Append audio; samples beyond [-1, 1] are clipped."""
        for start in range(0, audio.shape[1], self._size):  # libsndfile crashes of a large piece for Ogg
            self._writer.write(audio[:, start : start + self._size])


def check_holds(path: str, sample_rate: int, channels: int) -> None:
    """Refuse a file whose format cannot hold such audio; it would fail late, and the coder of Ogg crashes.

    Raises:
        AudioError: naming the format and what it holds.
    """
    name = _WRITTEN.get(Path(path).suffix.lower(), "WAV")
    most, held, what = _LIMITS.get(name, (MAX_CHANNELS, lambda _: True, ""))
    if channels > most:
        raise AudioError(f"{path}: {name} cannot hold {channels} channels, {most} at most; write .wav")
    if not held(sample_rate):
        raise AudioError(f"{path}: {name} cannot hold {sample_rate} Hz, but {what}; write .wav")
