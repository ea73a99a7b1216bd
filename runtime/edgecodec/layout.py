"""How the code lines of a frame lie: which of them belong to which stage.

    line    0 … side - 1             side                side + 1        …
    is      a number of 8 bits       codes of stage 0    of stage 1      …     widths[i] lines of stage i

Most codecs have one code of every stage in a frame, and nothing beside the stages. SNAC has 1, 2 and 4 codes of its
stages in a frame; EnCodec at 48 kHz has 150 of each, and the loudness of a frame beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MISSING = -1  # what stands in the lines of stages that a frame does not have

MAX_LINES = 1 << 16  # code lines a frame
SIDE_BITS = 8  # of a number beside the stages


@dataclass(frozen=True)
class Layout:
    """`side` lines before those of the first stage, then `widths[i]` of stage i; no widths: one line each."""

    side: int = 0
    widths: tuple[int, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether there is one line of every stage and nothing else."""
        return not self.side and (not self.widths or max(self.widths) == 1)

    def lines(self, stages: int) -> int:
        """Code lines a frame of `stages` stages, those beside them too."""
        return self.side + self.codes(stages)

    def codes(self, stages: int) -> int:
        """Codes a frame of `stages` stages."""
        return sum(self.widths[:stages]) if self.widths else stages

    def width(self, stage: int) -> int:
        """Codes of one stage in a frame."""
        return self.widths[stage] if self.widths else 1

    def stages(self, lines: int) -> int:
        """The stages that this many lines hold, 0 where no stage count has so many."""
        codes = lines - self.side
        if not self.widths:
            return max(0, codes)
        return next((n for n in range(1, len(self.widths) + 1) if self.codes(n) == codes), 0)

    def counts(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Stages of each frame, [B, T], of codes [B, lines, T]: lines of stages that a frame does not have hold -1."""
        first_lines = [self.lines(stage) for stage in range(self.stages(codes.shape[1]))]
        counts: NDArray[np.int64] = (codes[:, first_lines] >= 0).sum(axis=1)
        return counts

    def cut(self, codes: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """A copy of codes [B, lines, T] with no more than `counts` [B, T] stages in each frame."""
        return np.where(self.present(codes.shape[1], counts), codes, MISSING)

    def present(self, lines: int, counts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which lines [B, lines, T] frames of `counts` [B, T] stages have; those beside the stages always."""
        stages = range(self.stages(lines))
        stage_of_line = np.repeat(stages, [self.width(stage) for stage in stages])
        kept: NDArray[np.bool_] = np.concatenate([np.full(self.side, -1), stage_of_line])[:, None] < counts[:, None]
        return kept

    def holds_side(self, codes: NDArray[np.int64]) -> bool:
        """Whether the lines beside the stages of codes [B, lines, T] hold numbers of `SIDE_BITS`."""
        side = codes[:, : self.side]
        return not self.side or bool(0 <= side.min() <= side.max() < 1 << SIDE_BITS)

    def trimmed(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Codes [B, lines, T] without the lines of stages that no frame has."""
        if (codes[:, -1] >= 0).any():
            return codes
        return codes[:, : self.lines(int(self.counts(codes).max()))]


def joined(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Codes [B, lines, T] of several parts, one after another; lines that only others have are missing."""
    lines = max(part.shape[1] for part in parts)
    lacking = [((0, 0), (0, lines - part.shape[1]), (0, 0)) for part in parts]
    padded = [np.pad(part, more, constant_values=MISSING) for part, more in zip(parts, lacking, strict=True)]
    return np.concatenate(padded, axis=2)


PLAIN = Layout()
