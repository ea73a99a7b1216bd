"""Validation of a codec in training: the mean of every measure, at several stage counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from edgecodec.evaluation.measures import MEASURES, score
from numpy.typing import NDArray

Reconstruct = Callable[[NDArray[np.float32], int], NDArray[np.float32]]  # [samples], n_stages -> [samples]


def validate(
    reconstruct: Reconstruct,
    clips: Sequence[NDArray[np.float32]],
    stage_counts: Sequence[int],
    sample_rate: int,
) -> list[dict[str, float]]:
    """Mean measures over clips `[samples]`, a row a stage count: `{"stages", *MEASURES}`; NaN scores are left out."""
    rows = []
    for stages in stage_counts:
        scores = [score(clip, reconstruct(clip, stages), sample_rate) for clip in clips]
        means = {name: float(np.nanmean([s[name] for s in scores])) for name in MEASURES}
        rows.append({"stages": float(stages)} | means)
    return rows
