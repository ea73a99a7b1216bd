"""How alike all frames of a decoded clip are: sound that a codec repeats every frame, which ears hear as a buzz.

The square of the phase-locking value (Lachaux et al. 1999, "Measuring phase synchrony in brain signals", Human Brain
Mapping 8) of the phases that frames begin with. Natural sound has none; training has a term against it
(`loss.locking`).
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .measures import Measure

QUIET = 6e-4  # amplitude of full scale, -64 dB: what is quieter has no phase that matters
LOCKING = "locking"


def frame_locking(audio: NDArray[Any], frame_size: int) -> float:
    """0 to 1, the mean over frequencies of a clip `[samples]`: 1 where all frames are alike, 0 expected of chance.

    NaN of fewer than two frames.
    """
    count = len(audio) // frame_size
    if count < 2:
        return float("nan")
    frames = audio[: count * frame_size].reshape(count, frame_size)
    spectra = np.fft.rfft(frames, norm="ortho")[:, 1:-1]
    phases = spectra / (np.abs(spectra) + QUIET)
    locked = np.square(np.abs(phases.mean(axis=0)))
    chance = np.square(np.abs(phases)).mean(axis=0) / count
    return float((locked - chance).mean() * count / (count - 1))


def locking_measure(frame_size: int) -> dict[str, Measure]:
    """The measure, by its name, for frames of so many samples."""
    return {LOCKING: Measure("locking", 3, False, functools.partial(_of_decoded, frame_size=frame_size))}


def _of_decoded(reference: NDArray[Any], decoded: NDArray[Any], sample_rate: int, *, frame_size: int) -> float:
    return frame_locking(decoded, frame_size)
