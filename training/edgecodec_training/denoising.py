"""Denoising: what is heard is a crop of speech in a room, with noise behind it; what is wanted is the speech.

    speech --(*)--------------------------------(+)--> heard
            room                                 |
              `-- its first 50 ms --> wanted     noise at an SNR

The early reflections stay in what is wanted. They are part of how a voice sounds where the microphone stands and help
understanding (Bradley et al. 2003, "On the importance of early reflections for speech in rooms"); a causal network that
sees a fraction of a second learns to cut off a tail far sooner than to undo a colouring.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from .ranges import Decibels, Fraction

Audio = NDArray[np.float32]
Range = tuple[Decibels, Decibels]
DecaySeconds = Annotated[float, Meta(gt=0, le=20)]

DECAY = math.log(1000)  # 60 dB, in nepers


class Crop(NamedTuple):
    """What a codec in training hears, and what it is to make of it: the same array where it is to reproduce it."""

    heard: Audio  # [samples], of a batch [B, 1, samples]
    wanted: Audio


@dataclass(frozen=True)
class DenoisingConfig:
    """How often, and in what, training hears speech whose noise it must leave out.

    A `share` of the speech crops is heard with noise or music behind it, at an SNR within `snr_db`; the others stay
    clean, so that clean speech is left alone (0: no denoising at all). A `room_share` of those with noise is heard in a
    room too, whose sound takes a time within `decay_seconds` to fall by 60 dB; what reaches the microphone directly
    lies within `direct_db` above all reflections. The reflections of the first `early_seconds` are wanted too.
    """

    share: Fraction = 0.0
    snr_db: Range = (-5.0, 20.0)
    room_share: Fraction = 0.3
    decay_seconds: tuple[DecaySeconds, DecaySeconds] = (0.15, 0.8)
    direct_db: Range = (-3.0, 12.0)
    early_seconds: Annotated[float, Meta(ge=0, le=1)] = 0.05

    def __post_init__(self) -> None:
        for name in ("snr_db", "decay_seconds", "direct_db"):
            low, high = getattr(self, name)
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ValueError(f"{name} must be (low, high), got {(low, high)}")

    def in_room(self, speech: Audio, sample_rate: int, random: np.random.Generator) -> Crop:
        """Speech `[samples]` as heard in a room, and with its early reflections alone."""
        seconds = random.uniform(*self.decay_seconds)
        response = room(
            seconds, random.uniform(*self.direct_db), min(len(speech), round(seconds * sample_rate)), random
        )
        early = response[: 1 + round(self.early_seconds * sample_rate)]
        return Crop(_convolved(speech, response), _convolved(speech, early))


def room(seconds: float, direct_db: float, samples: int, random: np.random.Generator) -> Audio:
    """An impulse response `[samples]`, at least one: the direct sound, 1, then noise that decays by 60 dB in `seconds`.

    The reflections of a room are dense and decay exponentially (Polack 1988; Schroeder 1965, "New method of measuring
    reverberation time"); here from the first sample on, `samples` being the whole decay. Their energy lies `direct_db`
    below that of the direct sound.
    """
    tail = random.standard_normal(samples) * np.exp(-DECAY * np.arange(samples) / max(samples, 1))
    tail[:1] = 0.0
    energy = float(np.sum(tail**2))
    response = tail * (10 ** (-direct_db / 20) / math.sqrt(energy) if energy else 0.0)
    return np.append(1.0, response[1:]).astype(np.float32)


def _convolved(audio: Audio, response: Audio) -> Audio:
    """Audio `[samples]` through a response, as long as before."""
    size = 1 << (len(audio) + len(response) - 2).bit_length()  # the end of one never reaches the start of the other
    product = np.fft.rfft(audio, size) * np.fft.rfft(response, size)
    return np.fft.irfft(product, size)[: len(audio)].astype(np.float32)
