"""How much of its codebooks a bundle uses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..layout import PLAIN, Layout


@dataclass(frozen=True)
class CodebookUse:
    """Entries of a stage that some frame uses, and the perplexity: as many entries, used evenly, carry as much."""

    stage: int
    size: int
    used: int
    perplexity: float

    @property
    def fraction(self) -> float:
        """Of the entries, those that are used."""
        return self.used / self.size


def codebook_use(codes: Iterable[NDArray[np.int64]], size: int, layout: Layout = PLAIN) -> list[CodebookUse]:
    """Use of every stage in codes [B, lines, T] of several clips; perplexity is 2 ** entropy in bits."""
    lines = np.concatenate([np.moveaxis(c, 1, 0).reshape(c.shape[1], -1) for c in codes], axis=1)
    bounds = [layout.lines(n) for n in range(layout.stages(len(lines)) + 1)]
    return [_use(stage, lines[first:end].ravel(), size) for stage, (first, end) in enumerate(pairwise(bounds), start=1)]


def _use(stage: int, codes: NDArray[np.int64], size: int) -> CodebookUse:
    shares = np.bincount(codes, minlength=size) / len(codes)
    shares = shares[shares > 0]
    return CodebookUse(stage, size, len(shares), float(2 ** -(shares * np.log2(shares)).sum()))
