"""Samples as they come from outside, made fit for the graphs."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import AudioError, ScaleWarning

MAX_CHANNELS = 255
_LOUDEST = 16.0  # 24 dB above full scale: no mix is as loud
_SCALES = 1 << 15, 1 << 23, 1 << 31  # of 16, 24 and 32 bits
_SUBNORMAL = np.float32(1e-20)  # smaller input is silence; subnormal numbers would run 100 times slower


def as_audio(audio: ArrayLike) -> NDArray[np.float32]:
    """Samples as float32 in which every number is finite and none is subnormal, a copy, or an AudioError.

    With cold caches, as in live audio, numpy's machinery costs more than the work, and `argmax` has the least of it.
    """
    x = np.asarray(audio)
    if x.dtype == np.float32:
        x = x.copy()
    elif x.dtype.kind == "f":
        with np.errstate(over="ignore"):
            x = x.astype(np.float32)
    else:
        raise AudioError(f"audio must be floating point in [-1, 1], not {x.dtype}")
    if not x.size:
        return x
    size = np.abs(x)
    loudest = size.item(size.argmax())  # or a NaN
    if not loudest < np.inf:
        first = int(np.argwhere(~np.isfinite(x))[0][-1])
        raise AudioError(f"audio holds NaN or infinity, first at sample {first}")
    if loudest > _LOUDEST:
        warn_of_scale(loudest, "audio")
    x[size < _SUBNORMAL] = 0
    return x


def warn_of_scale(loudest: float, what: str) -> bool:
    """Say of samples far beyond full scale, which would be clipped, what they most likely are; whether it was said."""
    if loudest > _LOUDEST:
        scale = next((scale for scale in _SCALES if loudest <= scale), _SCALES[-1])
        text = f"{what} has samples far outside [-1, 1], which will be clipped: integers as floats? divide by {scale}"
        warnings.warn(text, ScaleWarning, stacklevel=4)
    return loudest > _LOUDEST


def grouped(audio: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """Channels [..., C, T] as streams of `channels` each, [..., streams, channels, T]; the last fills a group up."""
    lacking = -audio.shape[-2] % channels
    if lacking:
        audio = np.concatenate([audio, *[audio[..., -1:, :]] * lacking], axis=-2)
    *clips, every, samples = audio.shape
    return audio.reshape(*clips, every // channels, channels, samples)


def check_channels(channels: int) -> None:
    """Refuse a number of channels that no stream has."""
    if not 1 <= channels <= MAX_CHANNELS:
        advice = "; audio is [channels, samples]: transpose it (audio.T)" if channels > MAX_CHANNELS else ""
        raise AudioError(f"channels must be 1 to {MAX_CHANNELS}, not {channels}{advice}")
