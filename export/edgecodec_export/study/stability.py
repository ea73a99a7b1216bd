"""How evenly a run trained: from the gradient norms and losses of each of its steps."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
from edgecodec_training.run_scalars import read_scalars
from numpy.typing import NDArray

_KEPT = 200  # points of a curve

Curve = list[tuple[int, float]]


class Stability(msgspec.Struct, frozen=True):
    """What a run's steps tell; None where there are none, as of a finished checkpoint.

    `gradient_norm` is the median before clipping, `gradient_spread` how many times the median its 95th percentile is,
    both over the second half of the steps: the warm-up lies before. `loss` is the mean of the summed reconstruction
    losses over the last quarter, `loss_variation` their standard deviation about their trend, as a share of the mean.
    Batches differ, so that it never is zero; all variants of a seed see the same.
    """

    gradient_norm: float | None = None
    gradient_spread: float | None = None
    loss: float | None = None
    loss_variation: float | None = None
    norms: Curve = []  # by step, thinned


def stability(run: Path) -> Stability:
    """Of a run with a TensorBoard log."""
    scalars = read_scalars(run)
    norms = scalars.get("optimizer/gradient_norm", {})
    if len(norms) < 8:
        return Stability()
    steps = np.array(sorted(norms))
    values = np.array([norms[step] for step in steps])
    late = values[len(values) // 2 :]
    losses = [curve for name, curve in scalars.items() if name.startswith("loss/") and not _is_quantizers(name)]
    summed = np.array([sum(curve.get(step, math.nan) for curve in losses) for step in steps])
    ends = summed[-max(4, len(summed) // 4) :]
    median = float(np.median(late))
    thin = max(1, len(steps) // _KEPT)
    return Stability(
        gradient_norm=median,
        gradient_spread=float(np.quantile(late, 0.95) / max(median, 1e-12)),
        loss=float(ends.mean()),
        loss_variation=float(_about_trend(ends).std() / max(abs(float(ends.mean())), 1e-12)),
        norms=[(int(step), float(norm)) for step, norm in zip(steps[::thin], values[::thin], strict=True)],
    )


def _is_quantizers(name: str) -> bool:
    """Losses that only some quantizers have."""
    return name.removeprefix("loss/") in ("commitment", "codebook", "diversity")


def _about_trend(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a straight line leaves of them."""
    x = np.arange(len(values))
    return np.asarray(values - np.polyval(np.polyfit(x, values, 1), x))
