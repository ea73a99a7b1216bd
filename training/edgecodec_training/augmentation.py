"""Augmentation: a crop at a random place, now and then with noise or music behind it, at a random level.

What comes out is both the input and the target of training: a codec reproduces its input, noise included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SILENCE = 1e-4  # RMS, -80 dB of full scale: making this louder would be mixing in the rounding of 16 bits
PEAK = 0.99


@dataclass(frozen=True)
class Augmentation:
    """Makes crops of `samples` samples; the other values are those of `DataConfig`."""

    samples: int
    gain_db: tuple[float, float]
    noise_chance: float
    noise_snr_db: tuple[float, float]

    def __call__(
        self, clip: NDArray[np.int16], noise: Callable[[], NDArray[np.int16]] | None, random: np.random.Generator
    ) -> NDArray[np.float32]:
        """An augmented crop `[samples]` of a clip `[any length]`.

        Args:
            clip: what to crop.
            noise: draws a clip to mix in, where one is wanted; None: this crop stays clean.
            random: all that is random comes from it, so that the same state makes the same crop.
        """
        crop = self.crop(clip, random)
        if noise is not None and self.noise_chance and random.random() < self.noise_chance:
            crop = mix(crop, self.crop(noise(), random), random.uniform(*self.noise_snr_db))
        gain = 10 ** (random.uniform(*self.gain_db) / 20)
        peak = float(np.abs(crop).max())
        crop *= np.float32(min(gain, PEAK / max(peak, 1e-9)))
        return crop

    def crop(self, clip: NDArray[np.int16], random: np.random.Generator) -> NDArray[np.float32]:
        """`[samples]` from a random place of a clip, with silence before and after the recording."""
        start = int(random.integers(-min(self.samples // 4, 2400), max(len(clip) - self.samples // 2, 1)))
        crop = np.zeros(self.samples, np.float32)
        part = clip[max(start, 0) : start + self.samples]
        crop[max(-start, 0) : max(-start, 0) + len(part)] = part / np.float32(32768)
        return crop


def mix(speech: NDArray[np.float32], noise: NDArray[np.float32], snr_db: float) -> NDArray[np.float32]:
    """Speech `[samples]` with noise `[samples]` scaled to lie `snr_db` below it, by RMS over both.

    Silent noise leaves the speech as it is, and so does silence for speech: nothing lies below it.
    """
    speech_rms, noise_rms = (float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) for x in (speech, noise))
    if noise_rms < SILENCE:
        return speech
    mixture: NDArray[np.float32] = speech + noise * np.float32(speech_rms / noise_rms * 10 ** (-snr_db / 20))
    return mixture
