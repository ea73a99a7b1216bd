"""Codes of a few frames to bytes and back: the range coder, led by an entropy model or by none.

    stage 0: all steps of all streams   stage 1: …   …        a cut behind a stage leaves the stages before it whole

A step is a frame or, where a frame has several codes of a stage (`layout.py`), one of those. Of each stage the groups
of all steps come first, then their members; of the stages that follow themselves, step by step. How many stages a frame
has may change from frame to frame: those counts come before everything. Without a model, all codes are equally likely
and take what they take in packets.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .entropy_model import CONTEXT_LIMIT, Predictor, tables
from .layout import SIDE_BITS, Layout
from .range_coder import FREQUENCY_BITS, TOTAL, RangeDecoder, RangeEncoder

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float32]
_Where = tuple[NDArray[Any], ...]  # rows and steps, each [N]

_COUNT_FALL = 16  # sixteenths of an octave that a count is less likely for each stage that it is away


@dataclass(frozen=True)
class Coded:
    """Bytes, and how many of them each stage ends at: `ends[s]` bytes hold the stages up to s."""

    data: bytes
    ends: tuple[int, ...]


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
                _encode(coder, *_intervals(_even(len(side), 1 << SIDE_BITS), side))
        for told in self._told(rows, counts):
            item, step = told.where[0] // streams, told.where[1]
            order = np.tile(item, 2)  # groups, then members, of each item
            if told.stage < self.model.following:  # of each of its steps
                order = order * told.steps + np.tile(step, 2)
            order = np.argsort(order, kind="stable")
            starts, frequencies = (np.concatenate(parts)[order] for parts in (told.starts, told.frequencies))
            ends = 2 * np.bincount(item, minlength=items).cumsum()
            for i, coder in enumerate(coders):
                if told.stage < stages[i]:
                    own_part = slice(ends[i - 1] if i else 0, ends[i])
                    _encode(coder, starts[own_part], frequencies[own_part])
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
        coders = [RangeDecoder(body) for body in bodies]
        counts = np.full((len(bodies) * self.streams, frames), stages)
        if mixed:
            told = [decode_counts(coder, self.streams, frames, most or stages) for coder in coders]
            counts = np.minimum(np.concatenate(told), stages)
        return self.read(coders, counts, stages)

    def read(self, coders: Sequence[RangeDecoder], counts: _Ints, stages: int) -> _Ints:
        """The codes [N, streams, lines, T] that `tell` told N coders, of known counts [N * streams, T]."""
        rows, frames = counts.shape
        layout = self.layout
        codes = np.full((len(coders), self.streams, layout.lines(stages), frames), -1, np.int64)
        if layout.side:
            numbers = self.streams * layout.side * frames
            side = _decode_each(coders, [numbers] * len(coders), _even(numbers * len(coders), 1 << SIDE_BITS))
            codes[:, :, : layout.side] = side.reshape(len(coders), self.streams, layout.side, frames)
        context = _Context(self.model, rows)
        for stage in range(stages):
            width = layout.width(stage)
            context.begin(width * frames)
            active = np.repeat(counts > stage, width, axis=1)
            found = np.full(active.shape, -1, np.int64)
            if stage < self.model.following:
                for step, rows_of_step in enumerate(active.T):
                    row = np.flatnonzero(rows_of_step)
                    self._decode_steps(stage, context, (row, np.full(len(row), step)), coders, found)
            else:
                self._decode_steps(stage, context, np.nonzero(active), coders, found)
            lines = found.reshape(len(coders), self.streams, frames, width).swapaxes(2, 3)
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
        hidden = self.model.hidden(stage, context.at(stage, where))
        groups = _decode_each(coders, each, self.model.groups(stage, hidden))
        members = _decode_each(coders, each, self.model.members(stage, hidden, groups))
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
            hidden = self.model.hidden(stage, context.at(stage, where))
            groups, members = self.model.places_of(stage, entries)
            told = [
                _intervals(self.model.groups(stage, hidden), groups),
                _intervals(self.model.members(stage, hidden, groups), members),
            ]
            yield _Told(stage, active.shape[1], where, [starts for starts, _ in told], [own for _, own in told])


@dataclass(frozen=True)
class _Told:
    """How one stage's codes are told at its steps: starts and frequencies of the groups, and of the members."""

    stage: int
    steps: int  # of each row
    where: _Where
    starts: list[_Ints]
    frequencies: list[_Ints]


class _Context:
    """The sums of the vectors of all codes so far, and what the model sees of them at a step.

    Sums [rows, before + steps + after, E], zeros past the ends: of the stages before the one at hand, and with it.
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
        self._before, self._with = sums, sums.copy()

    def add(self, stage: int, where: _Where, entries: _Ints) -> None:
        """The codes of the stage at hand at some steps."""
        assert self._with is not None
        row, step = where
        self._with[row, step + self._model.before] += self._model.vectors_of(stage, entries)

    def at(self, stage: int, where: _Where) -> _Floats:
        """What the model sees at N steps: [N, (before + 1 + after) * E]."""
        m = self._model
        assert self._before is not None and self._with is not None
        row, step = where[0][:, None], where[1][:, None]
        past = self._with if stage < m.following else self._before
        seen = [
            past[row, step + np.arange(m.before)],
            self._before[row, step + np.arange(m.before, m.before + 1 + m.after)],
        ]
        context = np.concatenate(seen, axis=1).reshape(len(row), (m.before + 1 + m.after) * m.width)
        within: _Floats = np.clip(context, -CONTEXT_LIMIT, CONTEXT_LIMIT)
        return within


def tell_one(coder: RangeEncoder, symbol: int, alphabet: int) -> None:
    """One of so many symbols, all about as likely."""
    _encode(coder, *_intervals(_even_table(alphabet), np.array([symbol])))


def read_one(coder: RangeDecoder, alphabet: int) -> int:
    """The symbol that `tell_one` told."""
    return coder.decode(_flat(_even_table(alphabet)), alphabet + 1, 0, 1)[0]


def encode_counts(coder: RangeEncoder, counts: _Ints, most: int) -> None:
    """Stage counts [streams, T] of 1 to `most`."""
    _encode(coder, *_intervals(_count_tables(counts, most), counts.ravel() - 1))


def decode_counts(coder: RangeDecoder, streams: int, frames: int, most: int) -> _Ints:
    """The counts [streams, frames] that `encode_counts` told."""
    flat, counts = _flat(_count_table(most)), np.empty((streams, frames), np.int64)
    for row in counts:
        last = most
        for t in range(frames):
            row[t] = last = coder.decode(flat, most + 1, last - 1, 1)[0] + 1
    return counts


def _count_tables(counts: _Ints, most: int) -> _Ints:
    """Tables [streams * T, most + 1] of the counts, each likelier the nearer it is to the one before."""
    before = np.concatenate([np.full((len(counts), 1), most), counts[:, :-1]], axis=1).ravel()
    wanted: _Ints = _count_table(most)[before - 1]
    return wanted


def _count_table(most: int) -> _Ints:
    """Tables [most, most + 1] of the count of a frame, after each count of the frame before."""
    apart = np.abs(np.arange(most)[:, None] - np.arange(most))
    return tables((-_COUNT_FALL * apart).astype(np.float32))


def _even(rows: int, symbols: int) -> _Ints:
    """Tables [rows, symbols + 1] of symbols that are equally likely; their number divides `TOTAL`."""
    return np.broadcast_to(np.arange(symbols + 1) * (TOTAL // symbols), (rows, symbols + 1))


def _encode(coder: RangeEncoder, starts: _Ints, frequencies: _Ints) -> None:
    coder.encode(starts.tolist(), frequencies.tolist())


def _intervals(tables: _Ints, symbols: _Ints) -> tuple[_Ints, _Ints]:
    """Of each row's symbol [N]: the sum of the frequencies before it, and its own."""
    rows = np.arange(len(symbols))
    starts = tables[rows, symbols]
    return starts, tables[rows, symbols + 1] - starts


def _even_table(symbols: int) -> _Ints:
    """One table [1, symbols + 1] of symbols that are equally likely, as nearly as whole numbers can."""
    return tables(np.zeros((1, symbols), np.float32))


def _flat(tables: _Ints) -> array[int]:
    """Tables [N, n + 1] as a `RangeDecoder` takes them."""
    return array("i", tables.astype(np.int32).tobytes())


def _decode_each(coders: Sequence[RangeDecoder], each: Sequence[int], tables: _Ints) -> _Ints:
    """Symbols [N]: of the tables [N, n + 1], each coder takes its number in turn."""
    flat, size = _flat(tables), tables.shape[1]
    symbols: list[int] = []
    for coder, count in zip(coders, each, strict=True):
        if count:
            symbols += coder.decode(flat, size, len(symbols), count)
    return np.array(symbols, np.int64)
