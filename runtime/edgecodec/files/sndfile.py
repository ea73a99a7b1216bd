"""Audio files as libsndfile reads them: every part, and each to its end."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from ..errors import AudioError, DamageWarning
from .joined import Part, parts_of
from .slices import Slices, bytes_at

_UNKNOWN = 1 << 40  # samples; libsndfile says more than any file holds where it does not know
_EXACT = {"WAV", "WAVEX", "FLAC", "AIFF", "AU", "CAF", "W64", "RF64"}  # others may estimate their length
_FOREIGN = {  # first bytes of formats that it does not read, from which byte on
    (4, b"ftyp"): "MP4", (0, b"\x1aE\xdf\xa3"): "Matroska or WebM", (0, b"0&\xb2u"): "Windows Media",
    (0, b"ADIF"): "AAC",
    (0, b"\xff\xf1"): "AAC", (0, b"\xff\xf9"): "AAC", (0, b"#!AMR"): "AMR", (0, b"wvpk"): "WavPack",
    (0, b"MAC "): "Monkey's Audio", (0, b"DSD "): "DSD", (0, b"\x0bw"): "AC-3",
}  # fmt: skip


class _Sound(soundfile.SoundFile):  # type: ignore[misc]
    """Read in one go: soundfile would seek after every block, which fails where the length is not known."""

    def seekable(self) -> bool:
        return False


class SndfileSource:
    """The samples of a file, part after part, which are all of one rate and as many channels.

    Raises:
        AudioError: from every method, what is wrong with the file, which is not named.
    """

    def __init__(self, file: BinaryIO, path: str) -> None:
        self._file, self._path = file, path
        self._parts = parts_of(file)
        for doubt in {part.doubt for part in self._parts} - {""}:
            warnings.warn(f"{path or 'audio'}: {doubt}", DamageWarning, stacklevel=2)
        self._number = self._position = 0  # of the part at hand; samples of it that were read
        self._sound, self._slices = self._opened(self._parts[0])
        self.sample_rate: int = self._sound.samplerate
        self.channels: int = self._sound.channels
        known = len(self._parts) == 1 and self._sound.frames < _UNKNOWN
        self.samples: int | None = self._sound.frames if known else None

    def read(self, samples: int) -> NDArray[np.float32]:
        """The next samples [channels, samples], none at the end."""
        while True:
            try:
                block: NDArray[np.float32] = self._sound.read(samples, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                reason = f" ({error.error_string})" if error.error_string else ""
                raise AudioError(f"damaged at sample {self._position}{self._of_part()}{reason}") from None
            self._check_read()
            self._position += len(block)
            if len(block):
                return np.ascontiguousarray(block.T)
            self._check_length()
            if self._number + 1 == len(self._parts):
                return np.zeros((self.channels, 0), np.float32)
            self._go_on()

    def skip(self, samples: int) -> None:
        """Pass over samples at the beginning of a file whose length is known."""
        self._sound.seek(samples)
        self._position = samples

    def close(self) -> None:
        """Close what libsndfile has open; the file itself is its opener's."""
        self._sound.close()

    def _opened(self, part: Part) -> tuple[_Sound, Slices]:
        slices = Slices(self._file, part.pieces)
        try:
            return _Sound(slices), slices
        except soundfile.LibsndfileError as error:
            if slices.error is not None:
                raise slices.error from None
            raise AudioError(self._unreadable(error)) from None

    def _go_on(self) -> None:
        """Open the next part."""
        self._number, self._position = self._number + 1, 0
        self._sound.close()
        self._sound, self._slices = self._opened(self._parts[self._number])
        rate, channels = self._sound.samplerate, self._sound.channels
        if (rate, channels) != (self.sample_rate, self.channels):
            raise AudioError(
                f"several files in one, of {self.channels} channels at {self.sample_rate} Hz, then of {channels} at "
                f"{rate} Hz: encode each for itself"
            )

    def _check_read(self) -> None:
        if self._slices.error is not None:
            raise self._slices.error

    def _check_length(self) -> None:
        """Refuse a part of which libsndfile gave less than its container says."""
        exact = self._sound.format in _EXACT and not self._sound.subtype.startswith("MPEG")
        said = self._parts[self._number].samples or (self._sound.frames if exact else 0)
        if self._position < said < _UNKNOWN:
            raise AudioError(f"truncated, {self._position} of {said} samples are there{self._of_part()}")

    def _of_part(self) -> str:
        return f" of part {self._number + 1}" if len(self._parts) > 1 else ""

    def _unreadable(self, error: soundfile.LibsndfileError) -> str:
        head = bytes_at(self._file, 0, 16)
        foreign = [name for (at, word), name in _FOREIGN.items() if head[at : at + len(word)] == word]
        if foreign:
            return (
                f"{foreign[0]}, which libsndfile does not read; what works: ffmpeg -i {self._path} -f wav - | "
                "edgecodec encode - OUT.edgc"
            )
        if Path(self._path).suffix.lower() in (".raw", ".pcm", ".snd"):
            return (
                "samples without a header; what works, by their format: "
                f"ffmpeg -f s16le -ar 24000 -ac 1 -i {self._path} -f wav - | edgecodec encode - OUT.edgc"
            )
        return f"not an audio file that libsndfile reads ({error.error_string})"
