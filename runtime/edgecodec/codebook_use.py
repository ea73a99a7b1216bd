"""How much of its codebooks a bundle uses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .layout import PLAIN, Layout


@dataclass(frozen=True)
class CodebookUse:
    """Entries of a stage that some frame uses, and the perplexity: as many entries, used evenly, carry as much."""

    stage: int
    size: int
    used: int
    perplexity: float
    codes: int  # that were counted: frames that have the stage

    @property
    def fraction(self) -> float:
        """Of the entries, those that are used."""
        return self.used / self.size

    @property
    def bits(self) -> float:
        """Entropy of a code."""
        return float(np.log2(self.perplexity))


@dataclass
class CodebookCounts:
    """How often each entry of each codebook was used."""

    size: int
    layout: Layout = PLAIN
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), np.int64))  # [stages, size]

    def __getstate__(self) -> dict[str, Any]:
        """Pickled with integers as small as they may be: workers tell of every file."""
        small = np.min_scalar_type(int(self.counts.max(initial=0)))
        return vars(self) | {"counts": self.counts.astype(small)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Counts are wide again, to be added to."""
        vars(self).update(state | {"counts": state["counts"].astype(np.int64)})

    def add(self, codes: NDArray[np.integer[Any]]) -> None:
        """Count codes [B, lines, T] of one more clip; -1 is none."""
        bounds = [self.layout.lines(n) for n in range(self.layout.stages(codes.shape[1]) + 1)]
        lines = (codes[:, first:end] for first, end in pairwise(bounds))
        self._join(np.stack([np.bincount(line[line >= 0], minlength=self.size) for line in lines]))

    def join(self, others: CodebookCounts) -> None:
        """Count what others have counted."""
        self._join(others.counts)

    def _join(self, counts: NDArray[np.int64]) -> None:
        joined = np.zeros((max(len(counts), len(self.counts)), self.size), np.int64)
        for part in (counts, self.counts):
            if len(part):
                joined[: len(part)] += part
        self.counts = joined

    def use(self) -> list[CodebookUse]:
        """Use of every stage that some frame has; perplexity is 2 ** entropy in bits."""
        return [_use(stage, counts) for stage, counts in enumerate(self.counts, start=1) if counts.any()]

    def as_data(self) -> list[dict[str, Any]]:
        """Of every stage its codes, the entries among them, and their entropy in bits: for JSON."""
        return [
            {"stage": use.stage, "codes": use.codes, "entries": use.used, "bits": round(use.bits, 3)}
            for use in self.use()
        ]


def codebook_use(codes: Iterable[NDArray[np.int64]], size: int, layout: Layout = PLAIN) -> list[CodebookUse]:
    """Use of every stage in codes [B, lines, T] of several clips."""
    counts = CodebookCounts(size, layout)
    for clip in codes:
        counts.add(clip)
    return counts.use()


def _use(stage: int, counts: NDArray[np.int64]) -> CodebookUse:
    shares = counts[counts > 0] / counts.sum()
    perplexity = float(2 ** -(shares * np.log2(shares)).sum())
    return CodebookUse(stage, len(counts), len(shares), perplexity, int(counts.sum()))
