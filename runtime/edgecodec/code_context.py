"""What an entropy model sees at a step: sums of the vectors of the codes told so far, there and around it.

    sums, one row     0  0  0 | t - 3   t - 2   t - 1     t     t + 1   t + 2 | 0  0       E numbers each
    seen at t                 '-----------------------------------------------'  side by side, so that it is a view

A row is one stream of one item. Rows and stages lie one after another, so that one number names a step: its place.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .entropy_model import CONTEXT_LIMIT, Parts, Predictor

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float32]


class Context:
    """Sums before and with each of some stages: `begin`, then `tell` their codes or `add` them as they are found."""

    def __init__(self, model: Predictor, rows: int) -> None:
        self._model, self._rows, self._steps = model, rows, 0
        self._sums: _Floats = np.zeros((1, rows, 0, model.width), np.float32)  # [stages + 1, rows, steps, E]

    def begin(self, steps: int, stages: int = 1) -> None:
        """Go on to the next stages, of so many steps: as many as the ones before had, or a multiple."""
        m, last, before = self._model, self._sums[-1], self._steps
        if steps == before and len(self._sums) == stages + 1:
            self._sums[:-1] = last
        else:
            self._sums = np.zeros((stages + 1, self._rows, m.before + steps + m.after, m.width), np.float32)
            if before:
                last = np.repeat(last[:, m.before : m.before + before], steps // before, axis=1)
                self._sums[:, :, m.before : m.before + steps] = last
            self._steps, self._one_stage = steps, self._rows * self._sums.shape[2]
            self._flat = self._sums.reshape((stages + 1) * self._one_stage, m.width)  # at every place
            self._seen = np.empty_like(self._flat)  # the same within limits, once `_looked`
            self._around, self._past = _windows(self._seen, m.before + 1 + m.after), _windows(self._seen, m.before)
        self._looked = False

    def tell(self, first: int, entries: _Ints) -> None:
        """All codes [stages, rows, steps] of the stages at hand, the first of which has this number; -1 for none."""
        vectors = self._model.vectors_of(np.arange(first, first + len(entries))[:, None, None], entries)
        for before, after in pairwise(vectors):
            after += before
        self._sums[1:, :, self._model.before : self._model.before + self._steps] += vectors

    def add(self, stage: int, places: _Ints, entries: _Ints) -> None:
        """The codes [N] of the one stage at hand at some places."""
        m, at = self._model, places + (self._one_stage + self._model.before)
        sums = self._flat[at]
        sums += m.vectors_of(stage, entries)
        self._flat[at] = sums
        if stage < m.following:
            self._seen[at] = sums.clip(-CONTEXT_LIMIT, CONTEXT_LIMIT, out=sums)

    def places(self, index: _Ints) -> _Ints:
        """Places of steps, which are given by their numbers among [stages, rows, steps]."""
        margin = self._model.before + self._model.after
        return index + index // self._steps * margin if margin else index

    def at(self, parts: Parts, places: _Ints) -> _Floats:
        """What the model sees at N places, which are those of parts: [N, (before + 1 + after) * E]."""
        m = self._model
        if not self._looked:
            self._flat.clip(-CONTEXT_LIMIT, CONTEXT_LIMIT, out=self._seen)
            self._looked = True
        seen: _Floats = self._around[places]
        for stage, rows in parts:
            if stage < m.following and m.before:
                seen[rows, : self._past.shape[1]] = self._past[places[rows] + self._one_stage]
        return seen


def _windows(sums: _Floats, steps: int) -> _Floats:
    """So many steps side by side, from each on: a view [T - steps + 1, steps * E] of sums [T, E]."""
    length, width = sums.shape
    windows: _Floats = np.ndarray((length + 1 - steps, steps * width), np.float32, sums, 0, sums.strides)
    return windows
