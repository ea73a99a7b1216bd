"""Two works run in turns, by how much one is faster, and what chance leaves open.

    A B   B A   A B   B A   …

Each pair stands close together in time, so that what disturbs the machine for longer than a pair disturbs both alike;
who goes first changes, so that neither profits from the other's place.

The ratio is the median over pairs. Its interval is made of two of the ratios themselves, so many places from either end
that the true median lies between them in 95 % of cases (the sign test; Conover, "Practical Nonparametric Statistics",
1999, section 3.2). It needs no shape of the distribution: a pair that another program broke into is one ratio far out,
and moves nothing.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LEAST_PAIRS = 6  # with fewer, not even the whole range holds the median in 95 % of cases
MOST_PAIRS = 20
_CONFIDENCE = 0.95

Work = Callable[[], float]  # does it, and tells what it took


@dataclass(frozen=True)
class Paired:
    """What each work takes, medians, and how many times as much A takes as B: above 1, B is faster."""

    a: float
    b: float
    ratio: float
    low: float  # 95 % interval
    high: float
    pairs: int

    @property
    def differ(self) -> bool:
        """Whether chance is an unlikely reason, for more than the half per cent that nobody is told."""
        return not round(self.low, 2) <= 1 <= round(self.high, 2)

    def text(self, verb: str, noun: str) -> str:
        """In words: `encodes` and `encoding`, for instance."""
        interval = f"({self.low:.2f} to {self.high:.2f})"
        if self.differ:
            return f"B {verb} {self.ratio:.2f} × as fast as A {interval}"
        return f"no difference in {noun} {interval}"


def in_turns(a: Work, b: Work, *, pairs: int = MOST_PAIRS, patience: float = math.inf) -> Paired:
    """Run both in turns, after once each: so many pairs, or fewer once they have taken `patience` seconds."""
    a(), b()
    took: list[tuple[float, float]] = []
    begin = time.perf_counter()
    while len(took) < pairs and (len(took) < LEAST_PAIRS or time.perf_counter() - begin < patience):
        if len(took) % 2:
            second = b()
            took.append((a(), second))
        else:
            took.append((a(), b()))
    return paired([first for first, _ in took], [second for _, second in took])


def paired(a: Sequence[float], b: Sequence[float]) -> Paired:
    """Of what each took in every pair."""
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    low, high = median_interval(ratios)
    return Paired(statistics.median(a), statistics.median(b), statistics.median(ratios), low, high, len(ratios))


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the median of what they are drawn from lies in 95 % of cases or more."""
    n, tail, outside = len(values), 0.0, -1
    if n < LEAST_PAIRS:
        raise ValueError(f"an interval needs {LEAST_PAIRS} values or more, not {n}")
    while (tail := tail + math.comb(n, outside + 1) / 2**n) <= (1 - _CONFIDENCE) / 2:  # fewer than so many below it
        outside += 1
    ordered = sorted(values)
    return ordered[outside], ordered[n - 1 - outside]
