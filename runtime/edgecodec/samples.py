"""Samples as they come from outside, made fit for the graphs."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import AudioError

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
    if not size.item(size.argmax()) < np.inf:  # the largest, or a NaN
        first = int(np.argwhere(~np.isfinite(x))[0][-1])
        raise AudioError(f"audio holds NaN or infinity, first at sample {first}")
    x[size < _SUBNORMAL] = 0
    return x
