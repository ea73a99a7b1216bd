"""Audio files as libsndfile writes them, with every error of the file, that of closing it too."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

import numpy as np
import soundfile
from numpy.typing import NDArray

from ..errors import AudioError
from .output import Output, OutputFile
from .wav import Bits

_T = TypeVar("_T")


class SndfileWriter:
    """Writes audio [channels, samples] in a format that libsndfile names so."""

    def __init__(self, output: Output, name: str, sample_rate: int, channels: int, bits: Bits) -> None:
        self._path, self._file = output.path, _Kept(output.file)
        pcm = f"PCM_{bits}"
        subtype = pcm if soundfile.check_format(name, pcm) else None
        try:
            self._sound = soundfile.SoundFile(self._file, "w", sample_rate, channels, subtype, format=name)
        except (soundfile.LibsndfileError, ValueError) as error:
            self._file.check()
            reason = getattr(error, "error_string", error)
            raise AudioError(
                f"{output.path}: {name} cannot hold {channels} channels at {sample_rate} Hz ({reason})"
            ) from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._call(self._sound.close)
        except Exception:
            if error is None:
                raise

    def write(self, audio: NDArray[np.float32]) -> None:
        """Append audio; samples beyond [-1, 1] are clipped."""
        self._call(lambda: self._sound.write(np.clip(audio.T, -1, 1)))

    def _call(self, call: Callable[[], object]) -> None:
        try:
            call()
        except (soundfile.LibsndfileError, AssertionError) as error:  # the assertion: fewer samples out than in
            self._file.check()
            raise AudioError(f"{self._path}: cannot write ({error or 'is the disk full?'})") from None
        self._file.check()


class _Kept:
    """A file that libsndfile writes; it hears of no error, and forgets those of the last bytes: the first is kept."""

    def __init__(self, file: OutputFile) -> None:
        self._file = file
        self._error: BaseException | None = None

    def check(self) -> None:
        """Raise the error that was kept."""
        if self._error is not None:
            raise self._error

    def write(self, data: bytes) -> int:
        """Write all, or nothing after an error."""

        def write() -> int:
            self._file.write(data)
            return len(data)

        return self._kept(write, 0)

    def seek(self, position: int, whence: int) -> int:
        """Go on at a byte."""

        def seek() -> int:
            self._file.seek(position, whence)
            return self._file.tell()

        return self._kept(seek, -1)

    def tell(self) -> int:
        """Bytes before the next one."""
        return self._kept(self._file.tell, -1)

    def _kept(self, call: Callable[[], _T], otherwise: _T) -> _T:
        if self._error is not None:
            return otherwise
        try:
            return call()
        except BaseException as error:  # an interruption, too, would be lost in the library
            self._error = error
            return otherwise
