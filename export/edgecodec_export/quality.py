"""Scores of a finished bundle, run through the runtime as an application would run it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from edgecodec import Codec
from edgecodec_training.data import Clip, DataError
from edgecodec_training.evaluate import MEASURES, evaluate, validation_clips
from numpy.typing import NDArray

from .errors import ExportError

USUAL_BITRATES = (1.5, 3.0, 6.0, 12.0)  # kbps
KINDS = ("speech", "music", "noise")
HEADINGS = ("kbps", "stages", "PESQ-WB", "ESTOI", "SI-SDR dB", "mel distance")
Row = dict[str, Any]  # kind, clips, kbps, stages, and the measures; a measure that no clip has is None


def usual_stages(codec: Codec) -> list[int]:
    """The stage counts of the usual bitrates, as far as the codec has them; else 1, half and all of its stages."""
    wanted = [n for n, kbps in enumerate(codec.bitrates, start=1) if any(abs(kbps - u) < 0.01 for u in USUAL_BITRATES)]
    return wanted or sorted({1, -(-codec.max_stages // 2), codec.max_stages})


def measure(
    codec: Codec,
    folder: Path,
    stages: Sequence[int],
    *,
    kinds: Sequence[str] = ("speech",),
    limit: int = 0,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[Row]:
    """Mean measures over at most `limit` (0: all) clips of each kind in a folder, a row a kind and stage count.

    Raises:
        ExportError: no such clips, or a clip that cannot be read.
    """

    def reconstruct(clip: NDArray[np.float32], n: int) -> NDArray[np.float32]:
        decoded: NDArray[np.float32] = codec.decode(codec.encode(clip, stages=n), samples=len(clip))[0, 0]
        return decoded

    try:
        found = _find(folder, codec.sample_rate, kinds, limit)
        rows: list[Row] = []
        total = sum(len(clips) for clips in found.values()) * len(stages)
        before = 0
        for kind, clips in found.items():
            audio = [clip.read(codec.sample_rate) for clip in clips]

            def show(done: int, _: int, before: int = before) -> None:
                progress(before + done, total)

            scored = evaluate(reconstruct, audio, stages, codec.sample_rate, show)
            before += len(clips) * len(stages)
            rows += [_row(codec, kind, len(clips), scores) for scores in scored]
    except (DataError, OSError) as error:
        raise ExportError(str(error)) from None
    return rows


def table(rows: Sequence[Row]) -> list[str]:
    """Lines of a Markdown table, aligned to be read as text; the kind is named where there are several."""
    several = len({row["kind"] for row in rows}) > 1
    cells = [[*(["kind"] if several else []), *HEADINGS]]
    for row in rows:
        measures = (f"{row[name]:.{digits}f}" if row[name] is not None else "-" for name, digits in _DIGITS.items())
        cells.append([*([row["kind"]] if several else []), f"{row['kbps']:g}", str(row["stages"]), *measures])
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = ["| " + " | ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 1) + ":" for w in widths) + "|")
    return lines


def _find(folder: Path, sample_rate: int, kinds: Sequence[str], limit: int) -> dict[str, list[Clip]]:
    """Clips by kind; of several kinds, some may be missing."""
    found = {}
    for kind in kinds:
        try:
            found[kind] = validation_clips(folder, sample_rate, kind=kind, limit=limit)
        except DataError:
            if kind == kinds[-1] and not found:
                raise
    return found


_DIGITS = dict(zip(MEASURES, (2, 3, 1, 3), strict=True))


def _row(codec: Codec, kind: str, clips: int, scores: dict[str, float]) -> Row:
    stages = int(scores["stages"])
    measures = {name: round(scores[name], 4) if math.isfinite(scores[name]) else None for name in MEASURES}
    return {"kind": kind, "clips": clips, "kbps": round(codec.bitrates[stages - 1], 4), "stages": stages} | measures
