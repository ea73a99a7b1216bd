"""Audio files and pipes, in blocks, at any sample rate and channel count.

`-` is a pipe of WAV (standard input or output), as is any path that is no regular file. Files are what libsndfile reads
and writes; it and soxr are imported when they are needed.
"""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import AudioError
from .output import Output
from .wav import Bits, WavHeader, WavWriter, decode_samples, read_exactly, read_header

MAX_CHANNELS = 255
MIN_RATE, MAX_RATE = 1000, 768_000  # Hz
_BLOCK_VALUES = 1 << 16  # samples times channels per block
_WRITTEN = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".oga": "OGG", ".aiff": "AIFF", ".aif": "AIFF",
            ".au": "AU", ".caf": "CAF", ".w64": "W64", ".rf64": "RF64", ".mp3": "MP3"}  # fmt: skip
AUDIO_SUFFIXES = tuple(_WRITTEN)  # of files that `AudioWriter` writes


class AudioReader:
    """Audio at its own rate: `sample_rate`, `channels`, `samples` (None where a pipe does not say), and `blocks()`."""

    def __init__(self, name: str, sample_rate: int, channels: int, samples: int | None, source: Any) -> None:
        if not MIN_RATE <= sample_rate <= MAX_RATE:
            raise AudioError(f"{name}: sample rate {sample_rate} Hz is outside {MIN_RATE}..{MAX_RATE}")
        if not 1 <= channels <= MAX_CHANNELS:
            raise AudioError(f"{name}: {channels} channels, at most {MAX_CHANNELS} can be coded")
        self.name, self.sample_rate, self.channels, self.samples = name, sample_rate, channels, samples
        self._read = source

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Blocks [channels, samples], none empty, all numbers finite.

        Raises:
            AudioError: audio that is truncated, cannot be decoded, or holds NaN or infinity, and where.
        """
        size, position = max(1, _BLOCK_VALUES // self.channels), 0
        while (block := self._read(size)).shape[1]:
            finite = np.isfinite(block).all(axis=0)
            if not finite.all():
                raise AudioError(f"{self.name}: NaN or infinity at sample {position + int(finite.argmin())}")
            position += block.shape[1]
            yield block
        if self.samples is not None and position < self.samples:
            raise AudioError(f"{self.name}: truncated, {position} of {self.samples} samples are there")


@contextmanager
def open_audio(path: str) -> Iterator[AudioReader]:
    """Open a file or, with `-`, WAV on standard input.

    Raises:
        AudioError: a file that is missing, empty, truncated or no audio, or that cannot be read.
    """
    with ExitStack() as stack:
        try:
            reader = _reader(path, stack)
        except FileNotFoundError:
            raise AudioError(f"{path}: no such file") from None
        except OSError as error:
            raise _cannot_read(path, error) from None
        yield reader


def _reader(path: str, stack: ExitStack) -> AudioReader:
    if path == "-":
        return _pipe_reader("standard input", sys.stdin.buffer)
    if not stat.S_ISREG(Path(path).stat().st_mode) and not Path(path).is_dir():
        return _pipe_reader(path, stack.enter_context(Path(path).open("rb")))
    return _file_reader(path, stack)


def _pipe_reader(name: str, file: BinaryIO) -> AudioReader:
    try:
        header = read_header(file)
    except AudioError as error:
        raise AudioError(f"{name}: {error}; a pipe must carry WAV") from None
    except OSError as error:
        raise _cannot_read(name, error) from None
    if not header.supported:
        raise AudioError(f"{name}: WAV of an encoding that cannot be piped; use PCM or float, or give a file")
    left = header.data_bytes

    def read(samples: int) -> NDArray[np.float32]:
        nonlocal left
        size = samples * header.frame_bytes
        try:
            data = read_exactly(file, size if left is None else min(left, size))
        except OSError as error:
            raise _cannot_read(name, error) from None
        if left is not None:
            left -= len(data)
        return decode_samples(data[: len(data) // header.frame_bytes * header.frame_bytes], header)

    total = None if header.data_bytes is None else header.data_bytes // header.frame_bytes
    return AudioReader(name, header.sample_rate, header.channels, total, read)


def _cannot_read(name: str, error: OSError) -> AudioError:
    return AudioError(f"{name}: cannot read: {error.strerror or error}")


def _file_reader(path: str, stack: ExitStack) -> AudioReader:
    import soundfile

    if Path(path).is_dir():
        raise AudioError(f"{path}: a folder, not an audio file")
    size = Path(path).stat().st_size
    if not size:
        raise AudioError(f"{path}: empty")
    promised = _promised_bytes(path)
    if promised is not None and promised > size:
        raise AudioError(f"{path}: truncated, its header promises {promised} bytes, it has {size}")
    try:
        sound = stack.enter_context(soundfile.SoundFile(path))
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{path}: not an audio file that libsndfile reads ({error.error_string})") from None

    def read(samples: int) -> NDArray[np.float32]:
        try:
            block: NDArray[np.float32] = sound.read(samples, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise AudioError(f"{path}: damaged at sample {sound.tell()} ({error.error_string})") from None
        return np.ascontiguousarray(block.T)

    exact = sound.format in ("WAV", "WAVEX", "FLAC", "AIFF")  # others estimate their length
    return AudioReader(path, sound.samplerate, sound.channels, sound.frames if exact else None, read)


def _promised_bytes(path: str) -> int | None:
    """Bytes that a WAV file must have by its header; libsndfile itself reads a truncated one as if it were shorter."""
    with Path(path).open("rb") as file:
        try:
            header: WavHeader = read_header(file)
        except AudioError:
            return None
        return None if header.data_bytes is None else file.tell() + header.data_bytes


class Resampler:
    """Audio [channels, samples] from one rate to another, block by block; equal rates pass through."""

    def __init__(self, source_rate: int, target_rate: int, channels: int) -> None:
        self._stream: Any = None
        self._channels = channels
        if source_rate != target_rate:
            import soxr

            self._stream = soxr.ResampleStream(source_rate, target_rate, channels, dtype="float32", quality="HQ")

    def push(self, audio: NDArray[np.float32], *, last: bool = False) -> NDArray[np.float32]:
        """The output that is ready; with `last`, all that is left."""
        if self._stream is None:
            return audio
        interleaved = np.ascontiguousarray(audio.T if self._channels > 1 else audio[0])
        output: NDArray[np.float32] = self._stream.resample_chunk(interleaved, last=last)
        return np.ascontiguousarray(output.reshape(-1, self._channels).T)


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
        self._writer: WavWriter | _LibsndfileWriter = (
            WavWriter(output, sample_rate, channels, bits)
            if name == "WAV"
            else _LibsndfileWriter(output, name, sample_rate, channels, bits)
        )

    def __enter__(self) -> AudioWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)

    def write(self, audio: NDArray[np.float32]) -> None:
        """Append audio; samples beyond [-1, 1] are clipped."""
        self._writer.write(audio)


class _LibsndfileWriter:
    def __init__(self, output: Output, name: str, sample_rate: int, channels: int, bits: Bits) -> None:
        import soundfile

        self._path = output.path
        pcm = f"PCM_{bits}"
        subtype = pcm if soundfile.check_format(name, pcm) else None
        try:
            self._sound = soundfile.SoundFile(output.file.name, "w", sample_rate, channels, subtype, format=name)
        except (soundfile.LibsndfileError, ValueError) as error:
            reason = getattr(error, "error_string", error)
            raise AudioError(
                f"{output.path}: {name} cannot hold {channels} channels at {sample_rate} Hz ({reason})"
            ) from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._call(self._sound.close)
        except AudioError:
            if error is None:
                raise

    def write(self, audio: NDArray[np.float32]) -> None:
        self._call(lambda: self._sound.write(np.clip(audio.T, -1, 1)))

    def _call(self, call: Callable[[], object]) -> None:
        import soundfile

        try:
            call()
        except (soundfile.LibsndfileError, AssertionError) as error:  # the assertion: fewer samples out than in
            raise AudioError(f"{self._path}: cannot write ({error or 'is the disk full?'})") from None
