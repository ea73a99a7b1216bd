"""What codecs hear in place of a clip, where it is scored how much of the noise behind it they leave out."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .clips import decode, find_clips

Audio = NDArray[np.float32]  # [samples]

PEAK = 0.99


class Pair(NamedTuple):
    """A clip as scores want it and as codecs hear it, `[samples]` both."""

    clean: Audio
    heard: Audio


Hear = Callable[[str, Audio], Pair]  # of a clip by its name in the folder


def as_it_is(name: str, clean: Audio) -> Pair:
    """Nothing behind it."""
    return Pair(clean, clean)


@dataclass(frozen=True)
class NoiseBehind:
    """Puts noise behind clips, its mean power over the clip `snr_db` below that of the clip.

    Which of the `noises` `[samples]`, and from where on, follows from the name of the clip alone, so that every codec
    and every run hears the same; one that is too short begins again. Where the mixture would clip, both are attenuated.
    """

    noises: Sequence[Audio]
    snr_db: float

    @classmethod
    def of(cls, source: Path, snr_db: float, sample_rate: int) -> NoiseBehind:
        """All recordings of a folder or file.

        Raises:
            DataError: none there, one that is no audio, or one that is silent.
        """
        noises = []
        for clip in find_clips([source], sample_rate):
            audio = clip.read(sample_rate)
            if not audio.any():
                raise DataError(f"{clip.path}: silence is no noise")
            noises.append(audio)
        return cls(noises, snr_db)

    def __call__(self, name: str, clean: Audio) -> Pair:
        """See the class."""
        random = np.random.default_rng(zlib.crc32(name.encode()))
        noise = self.noises[int(random.integers(len(self.noises)))]
        noise = np.resize(np.roll(noise, -int(random.integers(len(noise)))), len(clean))
        power = float(np.mean(np.square(noise, dtype=np.float64)))
        wanted = float(np.mean(np.square(clean, dtype=np.float64))) * 10 ** (-self.snr_db / 10)
        heard = clean + noise * np.float32(np.sqrt(wanted / max(power, 1e-20)))
        factor = np.float32(min(1.0, PEAK / max(float(np.abs(heard).max()), 1e-9)))
        return Pair(clean * factor, heard * factor)


@dataclass(frozen=True)
class NoisyRecordings:
    """Takes the noisy recording of the same name from another folder, as VoiceBank-DEMAND has them."""

    folder: Path
    sample_rate: int

    def __call__(self, name: str, clean: Audio) -> Pair:
        """See the class.

        Raises:
            DataError: there is none, or its length is another.
        """
        path = self.folder / name
        try:
            heard = decode(path.read_bytes(), self.sample_rate).audio
        except OSError as error:
            raise DataError(f"{path}: {error.strerror or error}") from None
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        if len(heard) != len(clean):
            raise DataError(f"{path}: {len(heard)} samples, and {len(clean)} of the clean recording")
        return Pair(clean, heard)
