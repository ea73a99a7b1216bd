"""Audio that an export needs: some to verify on, some that int8 finds its ranges on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from edgecodec.errors import DataError
from edgecodec.evaluation.clips import find_clips
from edgecodec.progress import Progress, silent
from numpy.typing import NDArray

Audio = NDArray[np.float32]  # [samples]

VERIFIED_SECONDS = 10  # of the clip, at most
CALIBRATION_CLIPS, CALIBRATION_SECONDS = 32, 4
QUIETEST_DB = -24  # of full scale: the loudest sample of the first calibration clip; that of the last one is at 0 dB


def verification_audio(clip: Path | None, sample_rate: int, least_seconds: float) -> Audio:
    """The beginning of a clip or, where there is none, a synthetic voice.

    Raises:
        DataError: a file that is no audio, or too short.
    """
    if clip is None:
        return synthetic_voice(2.0, sample_rate)
    audio = find_clips([clip], sample_rate)[0].read(sample_rate)[: round(VERIFIED_SECONDS * sample_rate)]
    if len(audio) < least_seconds * sample_rate:
        raise DataError(f"{clip}: shorter than {least_seconds} s")
    return audio


def calibration_clips(folder: Path, sample_rate: int, frame_size: int, progress: Progress = silent) -> Iterator[Audio]:
    """Beginnings of clips from all over a folder, of whole frames, each louder than the one before.

    Raises:
        DataError: no audio, or a file that is none.
    """
    found = find_clips([folder], sample_rate)
    count = min(CALIBRATION_CLIPS, len(found))
    for i in range(count):
        audio = found[i * len(found) // count].read(sample_rate)[: CALIBRATION_SECONDS * sample_rate]
        audio = audio[: len(audio) // frame_size * frame_size]
        peak = float(np.abs(audio).max(initial=0))
        if peak > 0:
            yield audio * np.float32(10 ** (QUIETEST_DB / 20 * (1 - (i + 1) / count)) / peak)
        progress("found int8 ranges on clips", i + 1, count)


def channels_of(audio: Audio, channels: int) -> Audio:
    """A sound [samples] in so many channels [channels, samples], each quieter and later than the one before."""
    late = [np.pad(audio, (20 * i, 0))[: len(audio)] * np.float32(0.7**i) for i in range(channels)]
    return np.stack(late)


def loudest_part(audio: Audio, samples: int) -> Audio:
    """So many samples of the audio, where they hold the most energy."""
    energy = np.convolve(audio**2, np.ones(samples), "valid")
    start = int(energy.argmax())
    return audio[start : start + samples]


def synthetic_voice(seconds: float, sample_rate: int) -> Audio:
    """Gliding harmonics with syllables, over a little noise: deterministic, and not unlike speech."""
    rng = np.random.default_rng(0)
    t = np.arange(round(seconds * sample_rate)) / sample_rate
    phase = 2 * np.pi * np.cumsum(140 + 40 * np.sin(2 * np.pi * 1.3 * t)) / sample_rate
    voice = sum(np.sin(k * phase) / k for k in range(1, 21))
    syllables = np.clip(np.sin(2 * np.pi * 3.1 * t), 0, 1)
    return (0.2 * syllables * voice + 0.01 * rng.standard_normal(len(t))).astype(np.float32)
