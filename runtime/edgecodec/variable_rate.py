"""Which frame gets how many stages, so that the bits go where they take most error away.

    each frame:  the count n of least  error after n stages  +  price * bits of n stages

The errors are those of the search, in the latents; bits are those of the entropy model. One price holds for all frames:
a high one makes few bits. Nothing looks ahead, and greedy choices were as good as those along the best path.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .code_coder import CodeCoder
from .sessions import Sessions

LOWEST_PRICE, HIGHEST_PRICE = 1e-6, 10.0

_COUNT_BITS = 1.4  # that saying a frame's count takes, in the mean
_ROUNDS = 40  # of bisection


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

    def bits_of(self, counts: NDArray[np.int64]) -> float:
        """What all frames take with these stage counts [B, T]."""
        chosen = np.take_along_axis(self.bits, counts[:, None] - 1, axis=1)
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


@dataclass(frozen=True)
class VariableRate:
    """Codes of a clip's latents with a stage count for each frame."""

    sessions: Sessions
    coder: CodeCoder
    paths: int  # of the search for the codes that are kept
    spread: float  # of the first codebook, a measure of the latents of any codec

    @classmethod
    def of(cls, sessions: Sessions, coder: CodeCoder, paths: int) -> VariableRate:
        """Of a codec's graphs and the coder of its codes."""
        m = sessions.manifest
        codes = np.zeros((1, m.layout.lines(1), m.quantizer.codebook_size), np.int64)
        codes[:, m.layout.side :] = np.arange(m.quantizer.codebook_size)
        return cls(sessions, coder, paths, float(sessions.latents(codes)[0].var(axis=0).sum()))

    def costs(self, latents: NDArray[np.float32], chunk_frames: int) -> Costs:
        """The costs of latents [B, T, D], whose codes are told in chunks of so many frames."""
        layout, stages = self.sessions.manifest.layout, self.sessions.manifest.quantizer.max_stages
        codes = self.sessions.quantize(latents, stages, 0)
        errors = [
            np.square(self.sessions.latents(codes[:, : layout.lines(n)]) - latents).sum(axis=2)
            for n in range(1, stages + 1)
        ]
        bits = self.bits(codes, chunk_frames)
        relative = np.stack(errors, axis=1, dtype=np.float64) / self.spread
        return Costs(relative, bits.cumsum(axis=1), codes)

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

    def codes(self, latents: NDArray[np.float32], counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Codes [B, lines, T] of latents [B, T, D], searched anew for each frame's count [B, T]; -1 below it."""
        layout = self.sessions.manifest.layout
        codes = np.full((*counts.shape, layout.lines(int(counts.max()))), -1, np.int64)  # [B, T, lines]
        for n in np.unique(counts).tolist():
            frames = counts == n
            codes[frames, : layout.lines(n)] = self.sessions.quantize(latents[frames][None], n, self.paths)[0].T
        by_line: NDArray[np.int64] = codes.swapaxes(1, 2)
        return by_line
