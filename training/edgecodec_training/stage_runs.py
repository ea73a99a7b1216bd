"""Stage counts that change from frame to frame, as variable rate makes them: training draws them instead."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_RUN_FRAMES = 6  # mean length of a run of frames with one stage count


def runs_of_counts(
    middle: NDArray[np.floating] | NDArray[np.integer], frames: int, most: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """Stage counts [B, frames] in runs, each between half and twice of the clip's `middle` [B, 1], within 1..most."""
    batch = len(middle)
    run = (random.random((batch, frames)) < 1 / _RUN_FRAMES).cumsum(axis=1)  # the number of each frame's run
    octaves = np.take_along_axis(random.uniform(-1, 1, (batch, frames + 1)), run, axis=1)
    counts: NDArray[np.int64] = np.rint(middle * 2.0**octaves).clip(1, most).astype(np.int64)
    return counts
