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

import numpy as np
from numpy.typing import NDArray

from .code_context import Context
from .entropy_model import Parts, Predictor
from .frequencies import Tables, encode_symbols, flattened
from .layout import SIDE_BITS, Layout
from .range_coder import FREQUENCY_BITS, TOTAL, RangeDecoder, RangeEncoder, decode_in_turn
from .stage_counts import decode_counts, encode_counts

_Ints = NDArray[np.int64]

_TOGETHER = 512  # codes that the model is asked about in one go: what it computes stays in the caches


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
                    starts, frequencies = part
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
            bits = np.zeros(len(codes) * told.steps)
            bits[told.index] = 2 * FREQUENCY_BITS - np.log2(told.frequencies[0] * told.frequencies[1])
            found.append(bits.reshape(len(codes), frames, -1).sum(axis=2))
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
        context = Context(self.model, rows)
        for stage in range(stages):
            width = layout.width(stage)
            context.begin(width * frames)
            active = np.repeat(counts > stage, width, axis=1)
            index, turns = _turns(active, step_by_step=stage < self.model.following)
            places, items = context.places(index), index // (active.size // len(coders))
            found = np.full(active.size, -1, np.int64)
            for turn in turns:
                if turn.start < turn.stop:
                    found[index[turn]] = self._decode_steps(stage, context, coders, items[turn], places[turn])
            lines = found.reshape(*shape, frames, width).swapaxes(2, 3)
            codes[:, :, layout.lines(stage) : layout.lines(stage + 1)] = lines
        return codes

    def counts(self, body: bytes, frames: int, most: int) -> _Ints:
        """Only the stage counts [streams, frames] of a body in which they differ."""
        return decode_counts(RangeDecoder(body), self.streams, frames, most)

    def _decode_steps(
        self, stage: int, context: Context, coders: Sequence[RangeDecoder], items: _Ints, places: _Ints
    ) -> _Ints:
        """The entries [N] of one stage at some places, each told by the coder of its item."""
        model, parts, blocks = self.model, [(stage, slice(None))], _blocks(len(places))
        each = np.bincount(items, minlength=len(coders)).tolist() if len(coders) > 1 else [len(places)]
        ahead = [model.ahead(parts, context.at(parts, places[block])) for block in blocks]
        groups = _decode_each(coders, each, [model.groups(part) for part in ahead])
        of_groups = [model.members(parts, part, groups[b]) for part, b in zip(ahead, blocks, strict=True)]
        members = _decode_each(coders, each, of_groups)
        entries = model.entries_at(stage, groups, members)
        context.add(stage, places, entries)
        return entries

    def _told(self, codes: _Ints, counts: _Ints) -> Iterator[_Told]:
        """How each stage's codes are told."""
        model, layout, (rows, lines, frames) = self.model, self.layout, codes.shape
        context = Context(model, rows)
        for run in self._runs(layout.stages(lines), rows * frames):
            first, width = run.start, layout.width(run.start)
            steps = width * frames
            own = codes[:, layout.lines(first) : layout.lines(run.stop)].reshape(rows, len(run), width, frames)
            entries = own.transpose(1, 0, 3, 2).reshape(len(run), rows, steps)
            context.begin(steps, len(run))
            context.tell(first, entries)
            active = np.repeat(counts > np.array(run)[:, None, None], width, axis=2)
            index, ends = np.flatnonzero(active), active.sum(axis=(1, 2)).cumsum().tolist()
            groups, members = model.places_of(first + index // (rows * steps), entries.take(index))
            places = context.places(index)
            starts, frequencies = np.empty((2, 2, len(index)), np.int64)
            for block in _blocks(len(index)):
                parts = _parts(run, ends, block)
                seen = context.at(parts, places[block])
                for i, told in enumerate(model.intervals(parts, seen, groups[block], members[block])):
                    starts[i, block], frequencies[i, block] = told
            for stage, begin, end in zip(run, [0, *ends], ends, strict=False):
                at = slice(begin, end)
                steps_before = (stage - first) * rows * steps
                yield _Told(stage, steps, index[at] - steps_before, starts[:, at], frequencies[:, at])

    def _runs(self, stages: int, frames: int) -> Iterator[range]:
        """Stages that are told in one go: those of as many lines, where few frames of all rows are."""
        first = 0
        while first < stages:
            width, last = self.layout.width(first), first + 1
            most = first + _TOGETHER // (width * frames)
            while last < min(stages, most) and self.layout.width(last) == width:
                last += 1
            yield range(first, last)
            first = last


@dataclass(frozen=True)
class _Told:
    """How one stage's codes are told at its N steps: starts and frequencies [2, N], of groups and of members."""

    stage: int
    steps: int  # of each row
    index: _Ints  # of the N among [rows, steps]
    starts: _Ints
    frequencies: _Ints

    def of_items(self, rows: int, items: int, *, step_by_step: bool) -> list[tuple[_Ints, _Ints]]:
        """Starts and frequencies as each item's bytes tell them; an item is so many rows."""
        item = self.index // (rows * self.steps)
        ends = [0, *np.bincount(item, minlength=items).cumsum().tolist()] if items > 1 else [0, len(item)]
        places = [slice(first, end) for first, end in pairwise(ends)]
        starts, frequencies = self.starts, self.frequencies
        if not step_by_step:  # all groups, then all members
            return [(starts[:, own].ravel(), frequencies[:, own].ravel()) for own in places]
        if rows == 1:
            return [(starts.T[own].ravel(), frequencies.T[own].ravel()) for own in places]
        order = np.argsort(np.tile(item * self.steps + self.index % self.steps, 2), kind="stable")
        starts, frequencies = starts.ravel()[order], frequencies.ravel()[order]
        doubled = [slice(2 * own.start, 2 * own.stop) for own in places]
        return [(starts[own], frequencies[own]) for own in doubled]


def _turns(active: NDArray[np.bool_], *, step_by_step: bool) -> tuple[_Ints, list[slice]]:
    """The codes of [rows, steps] in the order in which they are decoded, and which of them go together.

    Those are all that are there, or the ones of each step.
    """
    if not step_by_step:
        index = np.flatnonzero(active)
        return index, [slice(0, len(index))]
    step, row = active.T.nonzero()
    ends = np.bincount(step).cumsum().tolist()
    return row * active.shape[1] + step, [slice(*turn) for turn in pairwise([0, *ends])]


def _parts(run: range, ends: Sequence[int], block: slice) -> Parts:
    """The stages of a block of the codes of a run, and their rows in it; each stage's codes end at its `ends`."""
    parts, begin = [], 0
    for stage, end in zip(run, ends, strict=True):
        first, last = max(begin, block.start), min(end, block.stop)
        if first < last:
            parts.append((stage, slice(first - block.start, last - block.start)))
        begin = end
    return parts


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
