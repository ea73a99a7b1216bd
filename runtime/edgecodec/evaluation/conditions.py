"""Speech as other people's machines record it: levels, a telephone, two at once.

Clips are changed before any codec hears them, and scores are those against the changed clip: how well it is carried,
not how good it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Audio = NDArray[np.float32]  # [samples]

QUIET = -45.0  # dBFS, RMS over the clip
TELEPHONE_BAND = 300, 3_400  # Hz
_EDGE = 100  # Hz, of which the band falls off to nothing
_PEAK = 0.99


def quiet(clips: Sequence[Audio], sample_rate: int) -> list[Audio]:
    """Each clip at an RMS of -45 dBFS, as a microphone at the other end of a room gives it."""
    return [clip * np.float32(10 ** (QUIET / 20) / max(_rms(clip), 1e-9)) for clip in clips]


def loud(clips: Sequence[Audio], sample_rate: int) -> list[Audio]:
    """Each clip with its highest peak at full scale."""
    return [clip / max(np.abs(clip).max(), np.float32(1e-9)) for clip in clips]


def telephone(clips: Sequence[Audio], sample_rate: int) -> list[Audio]:
    """Each clip as a narrowband line carries it: 300 to 3400 Hz, which 8000 samples a second hold."""
    return [_in_band(clip, sample_rate, *TELEPHONE_BAND) for clip in clips]


def two_speakers(clips: Sequence[Audio], sample_rate: int) -> list[Audio]:
    """Each clip with the next one, equally loud, behind it; one that is too short begins again."""
    both = []
    for clip, other in zip(clips, [*clips[1:], *clips[:1]], strict=True):
        behind = np.resize(other, len(clip))
        mixed = clip + behind * np.float32(_rms(clip) / max(_rms(behind), 1e-9))
        both.append(mixed * np.float32(min(1.0, _PEAK / max(float(np.abs(mixed).max()), 1e-9))))
    return both


CONDITIONS: dict[str, Callable[[Sequence[Audio], int], list[Audio]]] = {
    "quiet": quiet,
    "loud": loud,
    "telephone": telephone,
    "two-speakers": two_speakers,
}
"""What is made of speech clips `[samples]` and their rate, by name."""


def _in_band(audio: Audio, sample_rate: int, low: float, high: float) -> Audio:
    """What lies between two frequencies; edges are cosines, outside the band."""
    frequencies = np.fft.rfftfreq(len(audio), 1 / sample_rate)
    outside = np.maximum(low - frequencies, frequencies - high) / _EDGE
    gain = (1 + np.cos(np.pi * outside.clip(0, 1))) / 2
    return np.fft.irfft(gain * np.fft.rfft(audio), len(audio)).astype(np.float32)


def _rms(audio: Audio) -> float:
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64))))
