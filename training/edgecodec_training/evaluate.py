"""Evaluation of a codec in training: the mean of every measure, at several stage counts."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from edgecodec.errors import DataError
from edgecodec.evaluation.measures import MEASURES, score
from numpy.typing import NDArray

from .data import Clip, find_clips

__all__ = ["MEASURES", "evaluate", "validation_clips"]

Reconstruct = Callable[[NDArray[np.float32], int], NDArray[np.float32]]  # [samples], n_stages -> [samples]


def validation_clips(folder: Path, sample_rate: int, *, kind: str = "speech", limit: int = 0) -> list[Clip]:
    """Clips of one kind under a folder, evenly thinned to `limit` (0 = all).

    A `manifest.csv` in the folder with the columns `file` and `kind` says what kind each file is; without one, every
    file counts as speech.
    """
    clips = find_clips([folder], sample_rate)
    manifest = folder / "manifest.csv"
    if manifest.exists():
        with manifest.open(newline="") as file:
            kinds = {str(folder / row["file"]): row["kind"] for row in csv.DictReader(file)}
        clips = [clip for clip in clips if kinds.get(str(clip.path), "speech") == kind]
    if not clips:
        raise DataError(f"no {kind} clips in {folder}")
    return clips[:: max(1, len(clips) // limit)][:limit] if limit else clips


def evaluate(
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
