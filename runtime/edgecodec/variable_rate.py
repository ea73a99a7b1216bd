"""Which frame gets how many stages, so that the bits go where they take most error away.

    each frame:  the count n of least  error after n stages  +  price * bits of n stages

The errors are those of the search, in the latents; bits are those of the entropy model. One price holds for all frames:
a high one makes few bits. Nothing looks ahead, and greedy choices were as good as those along the best path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .code_coder import CodeCoder
from .layout import MISSING
from .sessions import Sessions

LOWEST_PRICE, HIGHEST_PRICE = 1e-6, 10.0

_COUNT_BITS = 1.4  # that saying a frame's count takes, in the mean
_LOW = 0.7  # of their bits at fixed width, what codes take that an entropy model tells, or a little less
_ROUNDS = 40  # of bisection
_ERROR_FRAMES = 256  # whose errors are found in one go: their latents stay in the caches


@dataclass(frozen=True, eq=False)
class Costs:
    """What each stage count of each frame costs, [B, stages, T]: its error, and its bits; and all stages' codes."""

    errors: NDArray[np.float64]  # of the first codebook's spread
    bits: NDArray[np.float64]
    codes: NDArray[np.int64]

    def counts(self, price: float) -> NDArray[np.int64]:
        """The best stage counts [B, T] at a price of a bit."""
        counts: NDArray[np.int64] = (self.errors + price * self.bits).argmin(axis=1) + 1
        return counts

    def bits_of(self, counts: NDArray[np.int64], frames: NDArray[np.int64] | None = None) -> float:
        """What frames, or those named, take with these stage counts [B, T]."""
        chosen = np.take_along_axis(self.bits, counts[:, None] - 1, axis=1)
        if frames is not None:
            chosen = chosen[:, :, frames]
        return float(chosen.sum()) + _COUNT_BITS * chosen.size

    def price(self, bits: float) -> float:
        """The lowest price at which all frames take no more than so many bits; the highest where none does."""
        low, high = LOWEST_PRICE, HIGHEST_PRICE
        if self.bits_of(self.counts(low)) <= bits:
            return low
        for _ in range(_ROUNDS):
            middle = float(np.sqrt(low * high))
            low, high = (low, middle) if self.bits_of(self.counts(middle)) <= bits else (middle, high)
        return high


def first_spread(sessions: Sessions) -> float:
    """The variance of the first codebook's latents, a measure of the latents of any codec."""
    m = sessions.manifest
    codes = np.zeros((1, m.layout.lines(1), m.quantizer.codebook_size), np.int64)
    codes[:, m.layout.side :] = np.arange(m.quantizer.codebook_size)
    return float(sessions.latents(codes)[0].var(axis=0).sum())


@dataclass(frozen=True)
class VariableRate:
    """Codes of a clip's latents with a stage count for each frame."""

    sessions: Sessions
    coder: CodeCoder
    paths: int  # of the search for the codes that are kept
    spread: float  # see `first_spread`

    def costs(
        self, latents: NDArray[np.float32], chunk_frames: int, price_of: Callable[[Costs], float] | None = None
    ) -> Costs:
        """The costs of latents [B, T, D], whose codes are told in chunks of so many frames.

        They are those of the codes that one path finds, where the search can be told so: more paths would find codes
        that are better by about as much everywhere. Where few frames will have more than half of the stages, tell by
        `price_of` what a bit will cost, given rough costs: those that will not are searched no further, but by two
        paths, since early stages gain more by that.
        """
        m = self.sessions.manifest
        stages = m.quantizer.max_stages
        if price_of is None or stages == 1:
            codes = self._found(latents, stages, paths=1)
            return Costs(self._errors(latents, codes), self.bits(codes, chunk_frames).cumsum(axis=1), codes)
        half = stages // 2
        codes = np.full((len(latents), m.layout.lines(stages), latents.shape[1]), MISSING, np.int64)
        errors = np.full((len(latents), stages, latents.shape[1]), np.inf)
        codes[:, : m.layout.lines(half)] = shallow = self._found(latents, half, paths=2)
        errors[:, :half] = self._errors(latents, shallow)
        rough = Costs(errors[:, :half], _LOW * self._even_bits(half), shallow)
        deep = rough.counts(price_of(rough)) == half
        if deep.any():
            there = latents[deep][None]
            found = self._found(there, stages, paths=1)
            codes.swapaxes(1, 2)[deep], errors.swapaxes(1, 2)[deep] = found[0].T, self._errors(there, found)[0].T
        return Costs(errors, self.bits(codes, chunk_frames).cumsum(axis=1), codes)

    def even_costs(self, latents: NDArray[np.float32]) -> Costs:
        """The costs of latents [B, T, D] where all codes take their bits: less work, and almost the same choice."""
        m = self.sessions.manifest
        codes = self._found(latents, m.quantizer.max_stages, paths=1)
        return Costs(self._errors(latents, codes), self._even_bits(m.quantizer.max_stages), codes)

    def _found(self, latents: NDArray[np.float32], stages: int, *, paths: int) -> NDArray[np.int64]:
        """Codes [B, lines, T] that so few paths find, where the search can be told so."""
        return self.sessions.quantize(latents, stages, min(paths, self.sessions.manifest.max_paths))

    def _even_bits(self, stages: int) -> NDArray[np.float64]:
        """What each stage count takes at fixed width, [1, stages, 1]."""
        m = self.sessions.manifest
        codes = np.array([m.layout.codes(n) for n in range(1, stages + 1)], np.float64)
        return m.quantizer.code_bits * codes[None, :, None]

    def _errors(self, latents: NDArray[np.float32], codes: NDArray[np.int64]) -> NDArray[np.float64]:
        """The error after each stage of codes, [B, stages, T]."""
        layout = self.sessions.manifest.layout
        stages = layout.stages(codes.shape[1])
        errors = np.empty((len(codes), stages, codes.shape[2]))
        for first in range(0, codes.shape[2], _ERROR_FRAMES):
            part = slice(first, first + _ERROR_FRAMES)
            for n in range(1, stages + 1):
                apart = self.sessions.latents(codes[:, : layout.lines(n), part]) - latents[:, part]
                errors[:, n - 1, part] = np.einsum("btd,btd->bt", apart, apart)
        return errors / self.spread

    def bits(self, codes: NDArray[np.int64], chunk_frames: int) -> NDArray[np.float64]:
        """Bits [B, stages, T] of codes [B, lines, T], all whole chunks in one go."""
        whole = codes.shape[2] // chunk_frames * chunk_frames
        parts = []
        if whole:
            rows = codes[:, :, :whole].reshape(*codes.shape[:2], -1, chunk_frames).swapaxes(1, 2)
            bits = self.coder.bits(rows.reshape(-1, codes.shape[1], chunk_frames))
            bits = bits.reshape(len(codes), -1, *bits.shape[1:]).swapaxes(1, 2)
            parts.append(bits.reshape(*bits.shape[:2], -1))
        if whole < codes.shape[2]:
            parts.append(self.coder.bits(codes[:, :, whole:]))
        return np.concatenate(parts, axis=2)

    def search(self, latents: NDArray[np.float32]) -> Search:
        """The search for codes of latents [B, T, D] at the stage counts that each call asks for."""
        return Search(self.sessions, self.paths, latents)


class Search:
    """Codes of latents [B, T, D] at stage counts. What was found once is kept for the next counts."""

    def __init__(self, sessions: Sessions, paths: int, latents: NDArray[np.float32]) -> None:
        self._sessions, self._paths, self._latents = sessions, paths, latents
        self._layout, stages = sessions.manifest.layout, sessions.manifest.quantizer.max_stages
        self._counts = np.zeros(latents.shape[:2], np.int64)
        self._codes = np.full((*latents.shape[:2], self._layout.lines(stages)), MISSING, np.int64)  # [B, T, lines]

    def codes(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Codes [B, lines, T], each frame searched for its count [B, T]; -1 below it, and where the count is 0."""
        changed = (counts != self._counts) & (counts > 0)
        for n in np.flatnonzero(np.bincount(counts[changed])).tolist():
            frames = changed & (counts == n)
            latents = self._latents.reshape(-1, self._latents.shape[2]) if frames.all() else self._latents[frames]
            found = self._sessions.quantize(latents[None], n, self._paths)[0].T
            self._codes[frames, : self._layout.lines(n)] = found
            self._codes[frames, self._layout.lines(n) :] = MISSING
        self._counts[changed] = counts[changed]
        by_line = self._codes[:, :, : self._layout.lines(int(counts.max()))].swapaxes(1, 2)
        return np.where(counts[:, None] > 0, by_line, MISSING)
