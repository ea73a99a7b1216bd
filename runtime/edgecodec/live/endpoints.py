"""Where live sound comes from and where it goes: devices (`devices.py`) and, in their place, files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..files.audio import AUDIO_SUFFIXES, AudioReader, AudioWriter, Resampler, open_audio
from ..files.output import open_output
from ..files.wav import Bits


class Source(Protocol):
    """Mono sound at the codec's rate, block by block. One thread uses it."""

    name: str
    is_device: bool  # whether `read` takes as long as the sound lasts
    overruns: int  # times that sound was lost because nobody read it

    @property
    def resampling(self) -> float:
        """Seconds that resampling adds."""

    def start(self) -> None:
        """Begin."""

    def read(self) -> NDArray[np.float32] | None:
        """The next block [samples]; None after the end."""

    def waiting(self) -> float:
        """Seconds of sound that wait to be read."""

    def close(self) -> None:
        """Let go."""


class Sink(Protocol):
    """Takes mono sound at the codec's rate. One thread uses it."""

    name: str
    is_device: bool  # whether `write` waits while the sound plays
    ahead: float  # seconds of silence before the first sound
    underruns: int  # times that there was nothing to play

    @property
    def resampling(self) -> float:
        """Seconds that resampling adds."""

    def start(self) -> None:
        """Begin."""

    def write(self, audio: NDArray[np.float32]) -> None:
        """Take [samples]."""

    def waiting(self) -> float:
        """Seconds of sound that wait to be played."""

    def drain(self) -> None:
        """Wait until all has been played."""

    def close(self) -> None:
        """Let go; a file is complete then."""


class FileSource:
    """An audio file, `-` for WAV on standard input, as a `Source`: all channels mixed, resampled by soxr."""

    is_device = False
    overruns = 0
    resampling = 0.0

    def __init__(self, path: str, codec_rate: int, block: int) -> None:
        self.name, self._block = path, block
        self._stack = ExitStack()
        self._audio = self._stack.enter_context(open_audio(path))
        self._blocks = self._mono(self._audio, codec_rate)
        self._rest = np.zeros(0, np.float32)

    def start(self) -> None:
        """Nothing to do."""

    def read(self) -> NDArray[np.float32] | None:
        """The next block [samples], the last one shorter.

        Raises:
            AudioError: a file that is damaged.
        """
        while len(self._rest) < self._block and (more := next(self._blocks, None)) is not None:
            self._rest = np.concatenate([self._rest, more])
        block, self._rest = self._rest[: self._block], self._rest[self._block :]
        return block if len(block) else None

    def waiting(self) -> float:
        """None: a file waits for its reader."""
        return 0.0

    def close(self) -> None:
        """Close the file."""
        self._stack.close()

    @staticmethod
    def _mono(audio: AudioReader, codec_rate: int) -> Iterator[NDArray[np.float32]]:
        resampler = Resampler(audio.sample_rate, codec_rate, 1)
        for block in audio.blocks():
            yield resampler.push(block.mean(axis=0, keepdims=True, dtype=np.float32))[0]
        yield resampler.push(np.zeros((1, 0), np.float32), last=True)[0]


class FileSink:
    """An audio file, `-` for WAV on standard output, as a `Sink`; it appears when it is complete.

    Raises:
        EdgecodecError: a file that exists without `force`, or cannot be written.
    """

    is_device = False
    ahead = 0.0
    underruns = 0
    resampling = 0.0

    def __init__(self, path: str, codec_rate: int, *, channels: int = 1, bits: Bits = 16, force: bool = False) -> None:
        self.name = path
        self._channels = channels
        with ExitStack() as stack:
            output = stack.enter_context(open_output(path, force=force, suffixes=AUDIO_SUFFIXES))
            self._writer: AudioWriter | None = stack.enter_context(AudioWriter(output, codec_rate, channels, bits))
            self._stack = stack.pop_all()

    def start(self) -> None:
        """Nothing to do."""

    def write(self, audio: NDArray[np.float32]) -> None:
        """Append [samples], or [channels, samples]."""
        if self._writer is None:
            return
        try:
            self._writer.write(audio.reshape(self._channels, -1))
        except BaseException as error:
            self.discard(error)
            raise

    def discard(self, error: BaseException) -> None:
        """Leave no file, because of an error."""
        if self._writer is not None:
            self._writer = None
            self._stack.__exit__(type(error), error, error.__traceback__)

    def waiting(self) -> float:
        """None: a file takes all at once."""
        return 0.0

    def drain(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Complete the file."""
        if self._writer is None:
            return
        self._writer = None
        self._stack.close()
