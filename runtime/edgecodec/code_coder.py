"""Codes of a few frames to bytes and back: the range coder, led by an entropy model or by none.

    stage 0: all steps of all streams   stage 1: …   …        a cut behind a stage leaves the stages before it whole

A step is a frame or, where a frame has several codes of a stage (`layout.py`), one of those. Of each stage the groups
of all steps come first, then their members; of the stages that follow themselves, step by step. How many stages a frame
has may change from frame to frame: those counts come before everything. Without a model, all codes are equally likely
and take what they take in packets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from .entropy_model import CONTEXT_LIMIT, Predictor, Tables, encode_symbols, flattened, intervals
from .layout import SIDE_BITS, Layout
from .range_coder import FREQUENCY_BITS, TOTAL, RangeDecoder, RangeEncoder, decode_in_turn
from .stage_counts import decode_counts, encode_counts

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float32]
_Where = tuple[NDArray[Any], ...]  # rows and steps, each [N]

_TOGETHER = 1024  # steps that the model is asked about in one go: what it computes stays in the caches


@dataclass(frozen=True)
class Coded:
    """Bytes, and how many of them each stage ends at: `ends[s]` bytes hold the stages up to s."""

    data: bytes
    ends: tuple[int, ...]


@dataclass(frozen=True)
class Body:
    """Bytes of codes, and what they hold: the most stages of a frame, frames, and whether stage counts differ."""

    data: bytes
    stages: int
    frames: int
    mixed: bool


@dataclass(frozen=True)
class CodeCoder:
    """Codes [streams, lines, T] of one bundle's layout to bytes, and back."""

    layout: Layout
    model: Predictor
    streams: int

    def encode(self, codes: _Ints, most: int = 0) -> Coded:
        """Bytes of codes, -1 where a frame has fewer stages; some frame has all of them, and each has one.

        Stage counts are told as numbers of 1 to `most`, by default the stages of the codes.
        """
        return self.encode_all(codes[None], most)[0]

    def encode_all(self, codes: _Ints, most: int = 0) -> list[Coded]:
        """The same of several, [N, streams, lines, T], in one go; each has as many stages as one of its frames."""
        items, streams, lines, frames = codes.shape
        counts = self.layout.counts(codes.reshape(items * streams, lines, frames)).reshape(items, streams, frames)
        coders = [RangeEncoder() for _ in range(items)]
        for coder, each in zip(coders, counts, strict=True):
            n = int(each.max())
            if (each < n).any():
                encode_counts(coder, each, most or n)
        self.tell(coders, codes)
        return [Coded(data, tuple(marks)) for data, marks in (coder.finish() for coder in coders)]

    def tell(self, coders: Sequence[RangeEncoder], codes: _Ints) -> None:
        """Codes [N, streams, lines, T], each item to its coder, without the counts; ends of its stages are marked."""
        items, streams, lines, frames = codes.shape
        rows, layout = codes.reshape(items * streams, lines, frames), self.layout
        counts = layout.counts(rows)
        stages = counts.reshape(items, -1).max(axis=1)
        if layout.side:
            for coder, own in zip(coders, codes, strict=True):
                side = own[:, : layout.side].ravel()
                encode_symbols(coder, _even(len(side), 1 << SIDE_BITS), side)
        for told in self._told(rows, counts):
            parts = told.of_items(streams, items, step_by_step=told.stage < self.model.following)
            for coder, part, n in zip(coders, parts, stages, strict=True):
                if told.stage < n:
                    for starts, frequencies in part:
                        coder.encode(starts.tolist(), frequencies.tolist())
                    coder.mark()

    def intervals(self, codes: _Ints) -> _Ints:
        """How each code is told, [N, 4], stage by stage, stream by stream: start and frequency of group and member."""
        told = self._told(codes, self.layout.counts(codes))
        columns = [np.stack([t.starts[0], t.frequencies[0], t.starts[1], t.frequencies[1]], axis=1) for t in told]
        return np.concatenate(columns)

    def bits(self, codes: _Ints) -> NDArray[np.float64]:
        """What each frame's codes of each stage take, [streams, stages, T]; 0 where there are none."""
        counts = self.layout.counts(codes)
        frames, found = codes.shape[2], []
        for told in self._told(codes, counts):
            bits = np.zeros((len(codes), told.steps))
            bits[told.where] = 2 * FREQUENCY_BITS - np.log2(told.frequencies[0] * told.frequencies[1])
            found.append(bits.reshape(len(bits), frames, -1).sum(axis=2))
        return np.stack(found, axis=1)

    def decode(self, bodies: Sequence[bytes], stages: int, frames: int, *, mixed: bool, most: int = 0) -> _Ints:
        """The codes [bodies, streams, lines, frames] of bodies that `encode` made, all in one go.

        `mixed` where the counts of their frames differ, of 1 to `most` as in `encode`; what a cut took of them is gone.
        Any bytes give codes in range.
        """
        return np.stack(self.decode_all([Body(body, stages, frames, mixed) for body in bodies], most or stages))

    def decode_all(self, bodies: Sequence[Body], most: int) -> list[_Ints]:
        """The codes [streams, lines, frames] of each of several bodies of any shape, all in one go."""
        coders = [RangeDecoder(body.data) for body in bodies]
        stages, frames = max(body.stages for body in bodies), max(body.frames for body in bodies)
        counts = np.zeros((len(bodies), self.streams, frames), np.int64)
        for own, body, coder in zip(counts, bodies, coders, strict=True):
            told = decode_counts(coder, self.streams, body.frames, most) if body.mixed else body.stages
            own[:, : body.frames] = np.minimum(told, body.stages)
        codes = self.read(coders, counts.reshape(-1, frames), stages)
        return [own[:, : self.layout.lines(b.stages), : b.frames] for own, b in zip(codes, bodies, strict=True)]

    def read(self, coders: Sequence[RangeDecoder], counts: _Ints, stages: int) -> _Ints:
        """The codes [N, streams, lines, T] that `tell` told N coders, of known counts [N * streams, T].

        Items may have fewer frames: their counts are 0 behind the last one, as if nothing but zeros came there.
        """
        rows, frames = counts.shape
        layout, shape = self.layout, (len(coders), self.streams)
        codes = np.full((*shape, layout.lines(stages), frames), -1, np.int64)
        if layout.side:
            each = [(own > 0).sum() for own in counts.reshape(*shape, frames)[:, 0]]
            for own, coder, n in zip(codes, coders, each, strict=True):
                numbers = self.streams * layout.side * n
                side = _decode_each([coder], [numbers], [_even(numbers, 1 << SIDE_BITS)])
                own[:, : layout.side, :n] = side.reshape(self.streams, layout.side, n)
        context = _Context(self.model, rows)
        for stage in range(stages):
            width = layout.width(stage)
            context.begin(width * frames)
            active = np.repeat(counts > stage, width, axis=1)
            found = np.full(active.shape, -1, np.int64)
            for where in _steps_of(active, step_by_step=stage < self.model.following):
                self._decode_steps(stage, context, where, coders, found)
            lines = found.reshape(*shape, frames, width).swapaxes(2, 3)
            codes[:, :, layout.lines(stage) : layout.lines(stage + 1)] = lines
        return codes

    def counts(self, body: bytes, frames: int, most: int) -> _Ints:
        """Only the stage counts [streams, frames] of a body in which they differ."""
        return decode_counts(RangeDecoder(body), self.streams, frames, most)

    def _decode_steps(
        self, stage: int, context: _Context, where: _Where, coders: Sequence[RangeDecoder], found: _Ints
    ) -> None:
        """Decode the codes of one stage at some steps into `found` [rows, steps]."""
        each = np.bincount(where[0] // self.streams, minlength=len(coders)).tolist()
        blocks = _blocks(len(where[0]))
        hidden = [self.model.hidden(stage, context.at(stage, where, block)) for block in blocks]
        groups = _decode_each(coders, each, [self.model.groups(stage, part) for part in hidden])
        of_groups = [self.model.members(stage, part, groups[b]) for part, b in zip(hidden, blocks, strict=True)]
        members = _decode_each(coders, each, of_groups)
        entries = found[where] = self.model.entries_at(stage, groups, members)
        context.add(stage, where, entries)

    def _told(self, codes: _Ints, counts: _Ints) -> Iterator[_Told]:
        """How each stage's codes are told."""
        context = _Context(self.model, len(codes))
        for stage in range(self.layout.stages(codes.shape[1])):
            width = self.layout.width(stage)
            context.begin(width * codes.shape[2])
            lines = codes[:, self.layout.lines(stage) : self.layout.lines(stage + 1)]
            steps = lines.swapaxes(1, 2).reshape(len(codes), -1)
            active = np.repeat(counts > stage, width, axis=1)
            where, entries = np.nonzero(active), steps[active]
            context.add(stage, where, entries)
            groups, members = self.model.places_of(stage, entries)
            found = np.empty((4, len(entries)), np.int64)
            for block in _blocks(len(entries)):
                hidden, own = self.model.hidden(stage, context.at(stage, where, block)), groups[block]
                found[:2, block] = intervals(self.model.groups(stage, hidden), own)
                found[2:, block] = intervals(self.model.members(stage, hidden, own), members[block])
            yield _Told(stage, active.shape[1], where, found[::2], found[1::2])


@dataclass(frozen=True)
class _Told:
    """How one stage's codes are told at its N steps: starts and frequencies [2, N], of groups and of members."""

    stage: int
    steps: int  # of each row
    where: _Where
    starts: _Ints
    frequencies: _Ints

    def of_items(self, rows: int, items: int, *, step_by_step: bool) -> list[list[tuple[_Ints, _Ints]]]:
        """Starts and frequencies as each item's bytes tell them; an item is so many rows."""
        item, step = self.where[0] // rows, self.where[1]
        ends = [0, *np.bincount(item, minlength=items).cumsum().tolist()]
        places = [slice(first, end) for first, end in pairwise(ends)]
        if not step_by_step:  # all groups, then all members
            both = list(zip(self.starts, self.frequencies, strict=True))
            return [[(starts[own], frequencies[own]) for starts, frequencies in both] for own in places]
        order = np.argsort(np.tile(item * self.steps + step, 2), kind="stable")
        starts, frequencies = self.starts.ravel()[order], self.frequencies.ravel()[order]
        doubled = [slice(2 * own.start, 2 * own.stop) for own in places]
        return [[(starts[own], frequencies[own])] for own in doubled]


class _Context:
    """The sums of the vectors of all codes so far, and what the model sees of them at a step.

    Sums [rows, before + steps + after, E], zeros past the ends: of the stages before the one at hand, within
    `CONTEXT_LIMIT`, and with it.
    """

    def __init__(self, model: Predictor, rows: int) -> None:
        self._model, self._rows = model, rows
        self._before: _Floats | None = None
        self._with: _Floats | None = None

    def begin(self, steps: int) -> None:
        """Go on to a stage of so many steps: as many as the one before had, or a multiple."""
        m = self._model
        sums = np.zeros((self._rows, m.before + steps + m.after, m.width), np.float32)
        if self._with is not None:
            last = self._with[:, m.before : self._with.shape[1] - m.after]
            sums[:, m.before : m.before + steps] = np.repeat(last, steps // last.shape[1], axis=1)
        self._with, self._before = sums, np.clip(sums, -CONTEXT_LIMIT, CONTEXT_LIMIT)

    def add(self, stage: int, where: _Where, entries: _Ints) -> None:
        """The codes of the stage at hand at some steps."""
        assert self._with is not None
        row, step = where
        self._with[row, step + self._model.before] += self._model.vectors_of(stage, entries)

    def at(self, stage: int, where: _Where, block: slice) -> _Floats:
        """What the model sees at a block of N of the steps: [N, (before + 1 + after) * E]."""
        m = self._model
        assert self._before is not None and self._with is not None
        own = where[0][block], where[1][block]
        seen: _Floats = _windows(self._before, m.before + 1 + m.after)[own]
        if stage < m.following and m.before:
            past = seen[:, : m.before * m.width]
            np.clip(_windows(self._with, m.before)[own], -CONTEXT_LIMIT, CONTEXT_LIMIT, out=past)
        return seen


def _windows(sums: _Floats, steps: int) -> _Floats:
    """So many steps side by side, from each on: a view [rows, T - steps + 1, steps * E] of sums [rows, T, E]."""
    rows, length, width = sums.shape
    shape, strides = (rows, length - steps + 1, steps * width), sums.strides
    return as_strided(sums, shape, strides, writeable=False)


def _steps_of(active: NDArray[np.bool_], *, step_by_step: bool) -> Iterator[_Where]:
    """Where codes are decoded in one go: all that are [rows, steps], or those of one step after the other."""
    if not step_by_step:
        yield np.nonzero(active)
        return
    for step, rows in enumerate(active.T):
        row = np.flatnonzero(rows)
        yield row, np.full(len(row), step)


def _blocks(steps: int) -> list[slice]:
    return [slice(first, first + _TOGETHER) for first in range(0, steps, _TOGETHER)]


def _even(rows: int, symbols: int) -> Tables:
    """Tables [rows, symbols + 1] of symbols that are equally likely; their number divides `TOTAL`."""
    row = np.arange(symbols + 1, dtype=np.int32) * (TOTAL // symbols)
    return np.broadcast_to(row, (rows, symbols + 1))


def _decode_each(coders: Sequence[RangeDecoder], each: Sequence[int], parts: Sequence[Tables]) -> _Ints:
    """Symbols [N]: of the tables [N, n + 1], in parts, each coder takes its number in turn."""
    if not parts:
        return np.zeros(0, np.int64)
    return np.array(decode_in_turn(coders, each, flattened(*parts), parts[0].shape[1]), np.int64)
