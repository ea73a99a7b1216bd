"""Measures of a decoded clip against its original, in numpy: what training, export and evaluation report.

Every measure takes the original and the decoded clip `[samples]`, and their sample rate in Hz. PESQ and ESTOI need the
extra `eval`; they are NaN for a clip that they cannot score.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

SCORING_RATE = 16_000  # PESQ-WB and ESTOI are defined up to 8 kHz
FLOOR = 1e-5  # of magnitudes before the logarithm; a full-scale sine has 1/2
STFT_WINDOWS = (512, 1024, 2048)  # samples

Function = Callable[[NDArray[Any], NDArray[Any], int], float]


def scoring_lacks(*more: str) -> str | None:
    """The first package that PESQ and ESTOI need, or of those named, that is not installed; None where all are."""
    missing = (package for package in ("pesq", "pystoi", *more) if importlib.util.find_spec(package) is None)
    return next(missing, None)


def pesq_wb(reference: NDArray[Any], decoded: NDArray[Any], sample_rate: int) -> float:
    """PESQ wideband (ITU-T P.862.2) by `pesq`, scored at 16 kHz; NaN where it finds no speech, or too little."""
    from pesq import PesqError, pesq

    x, y = _at_scoring_rate(reference, decoded, sample_rate)
    if not (x.any() and y.any()):
        return float("nan")
    try:
        return float(pesq(SCORING_RATE, x, y, "wb"))
    except PesqError:
        return float("nan")


def estoi(reference: NDArray[Any], decoded: NDArray[Any], sample_rate: int) -> float:
    """Extended short-time objective intelligibility (Jensen & Taal 2016) by `pystoi`, scored at 16 kHz.

    NaN where less than 0.4 s is left once silence is removed.
    """
    from pystoi import stoi

    x, y = _at_scoring_rate(reference, decoded, sample_rate)
    if not x.any():
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(stoi(x, y, SCORING_RATE, extended=True))
        except (RuntimeWarning, ValueError):
            return float("nan")


def si_sdr(reference: NDArray[Any], decoded: NDArray[Any], sample_rate: int = 0) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019, arXiv:1811.02508)."""
    x = reference - reference.mean()
    y = decoded - decoded.mean()
    target = (np.dot(y, x) / max(float(np.dot(x, x)), 1e-12)) * x
    noise = y - target
    return float(10 * np.log10((np.dot(target, target) + 1e-12) / (np.dot(noise, noise) + 1e-12)))


def mel_distance(reference: NDArray[Any], decoded: NDArray[Any], sample_rate: int) -> float:
    """Mean absolute difference of 80-band log10-mel magnitudes (window 1024, floored)."""
    filters = mel_filters(80, 1024, sample_rate)
    a, b = (np.log10(np.abs(stft(x, 1024)) @ filters + FLOOR) for x in (reference, decoded))
    return float(np.abs(a - b).mean())


def stft_distance(reference: NDArray[Any], decoded: NDArray[Any], sample_rate: int = 0) -> float:
    """Multi-resolution STFT distance (Yamamoto et al. 2020, arXiv:1910.11480, section 2.2), at the rate of the codec.

    Spectral convergence, || |X| - |Y| || / || |X| || (Frobenius), plus the mean absolute difference of the natural
    logarithms of the floored magnitudes; the mean of windows of 512, 1024 and 2048 samples, hop = window / 4.
    """
    distances = []
    for window in STFT_WINDOWS:
        x, y = (np.abs(stft(audio, window)) for audio in (reference, decoded))
        convergence = np.linalg.norm(x - y) / max(float(np.linalg.norm(x)), FLOOR)
        magnitude = np.abs(np.log(np.maximum(x, FLOOR)) - np.log(np.maximum(y, FLOOR))).mean()
        distances.append(convergence + magnitude)
    return float(np.mean(distances))


@dataclass(frozen=True)
class Measure:
    """A measure and how it is shown: heading, digits after the point, and which direction is better."""

    heading: str
    digits: int
    higher_is_better: bool
    function: Function
    of_speech: bool = False  # and of nothing else


MEASURES = {
    "pesq_wb": Measure("PESQ-WB", 2, True, pesq_wb, of_speech=True),
    "estoi": Measure("ESTOI", 3, True, estoi, of_speech=True),
    "si_sdr": Measure("SI-SDR dB", 1, True, si_sdr),
    "mel_distance": Measure("mel distance", 3, False, mel_distance),
    "stft_distance": Measure("STFT distance", 3, False, stft_distance),
}


def score(reference: NDArray[Any], decoded: NDArray[Any], sample_rate: int) -> dict[str, float]:
    """All of `MEASURES`, by name."""
    return {name: measure.function(reference, decoded, sample_rate) for name, measure in MEASURES.items()}


def mel_filters(bands: int, window: int, sample_rate: int) -> NDArray[np.float64]:
    """Triangular filters `[window / 2 + 1, bands]` evenly spaced in mel (2595 log10(1 + f / 700)) up to Nyquist."""
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    frequencies = np.linspace(0, sample_rate / 2, window // 2 + 1)[:, None]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    filters = np.maximum(np.minimum(rising, falling), 0)
    return np.asarray(filters / np.maximum(filters.sum(axis=0), 1e-3))


def stft(audio: NDArray[Any], window: int) -> NDArray[np.complex128]:
    """`[samples]` to `[frames, window / 2 + 1]`: Hann window, hop = window / 4, a full-scale sine having magnitude 1/2.

    A clip shorter than the window is padded with zeros; what is left over after the last whole frame is not seen.
    """
    padded = np.pad(audio, (0, max(0, window - len(audio))))
    shape = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[:: window // 4]
    return np.asarray(np.fft.rfft(frames * shape) / shape.sum())


def _at_scoring_rate(
    reference: NDArray[Any], decoded: NDArray[Any], sample_rate: int
) -> Iterator[NDArray[np.floating[Any]]]:
    return (soxr.resample(audio, sample_rate, SCORING_RATE) for audio in (reference, decoded))
