"""Augmentation: a crop at a random place, now and then with noise or music behind it, at a random level.

A codec reproduces its input, noise included: what comes out is both the input and the target of training. Only where
denoising is asked for (see `denoising`) do they differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .denoising import Crop, DenoisingConfig

SILENCE = 1e-4  # RMS, -80 dB of full scale: making this louder would be mixing in the rounding of 16 bits
PEAK = 0.99


@dataclass(frozen=True)
class Augmentation:
    """Makes crops of `samples` samples at `sample_rate` Hz; the other values are those of `DataConfig`."""

    samples: int
    gain_db: tuple[float, float]
    noise_chance: float
    noise_snr_db: tuple[float, float]
    denoising: DenoisingConfig = field(default_factory=DenoisingConfig)
    sample_rate: int = 24_000

    def __call__(
        self, clip: NDArray[np.int16], noise: Callable[[], NDArray[np.int16]] | None, random: np.random.Generator
    ) -> Crop:
        """An augmented crop `[samples]` of a clip `[any length]`, as heard and as wanted.

        Args:
            clip: what to crop.
            noise: draws a clip to mix in, where one is wanted; None: this crop stays as it is.
            random: all that is random comes from it, so that the same state makes the same crop.
        """
        crop = self.crop(clip, random)
        heard = wanted = crop
        if noise is not None and self.denoising.share:
            heard, wanted = self._noisy(crop, noise, random)
        elif noise is not None and self.noise_chance and random.random() < self.noise_chance:
            heard = wanted = mix(crop, self.crop(noise(), random), random.uniform(*self.noise_snr_db))
        return self._at_some_level(heard, wanted, random)

    def pair(self, clean: NDArray[np.int16], noisy: NDArray[np.int16], random: np.random.Generator) -> Crop:
        """A crop of a clip and of the same with noise, both `[any length]`, at one place and level."""
        start = self._start(len(clean), random)
        wanted = self._cut(clean, start)
        clean_too = random.random() >= self.denoising.share
        return self._at_some_level(wanted if clean_too else self._cut(noisy, start), wanted, random)

    def _noisy(
        self, speech: NDArray[np.float32], noise: Callable[[], NDArray[np.int16]], random: np.random.Generator
    ) -> Crop:
        if random.random() >= self.denoising.share:
            return Crop(speech, speech)
        heard = wanted = speech
        if random.random() < self.denoising.room_share:
            heard, wanted = self.denoising.in_room(speech, self.sample_rate, random)
        return Crop(mix(heard, self.crop(noise(), random), random.uniform(*self.denoising.snr_db)), wanted)

    def _at_some_level(
        self, heard: NDArray[np.float32], wanted: NDArray[np.float32], random: np.random.Generator
    ) -> Crop:
        """Both at one random gain, limited so that neither clips."""
        gain = 10 ** (random.uniform(*self.gain_db) / 20)
        peak = float(np.abs(heard).max())
        if wanted is not heard:
            peak = max(peak, float(np.abs(wanted).max()))
        factor = np.float32(min(gain, PEAK / max(peak, 1e-9)))
        if wanted is heard:
            heard *= factor
            return Crop(heard, heard)
        return Crop(heard * factor, wanted * factor)

    def crop(self, clip: NDArray[np.int16], random: np.random.Generator) -> NDArray[np.float32]:
        """`[samples]` from a random place of a clip, with silence before and after the recording."""
        return self._cut(clip, self._start(len(clip), random))

    def _start(self, length: int, random: np.random.Generator) -> int:
        return int(random.integers(-min(self.samples // 4, 2400), max(length - self.samples // 2, 1)))

    def _cut(self, clip: NDArray[np.int16], start: int) -> NDArray[np.float32]:
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
