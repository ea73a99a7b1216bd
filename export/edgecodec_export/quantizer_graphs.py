"""The quantizer as two ONNX graphs: codes from latents at a run-time stage count, and latents from codes.

Every quantizer kind (RVQ with or without projections, VQ, PQ, Gumbel) comes down to the same stage,

    code = argmax((residual @ project) @ score + bias);  residual -= table[code]

so one pair of graphs serves them all. Stages are nested, so that the compute falls with `n_stages`:

    if n_stages > 5 { stages 1 to 8; if n_stages > 8 { stages 9 to 12; if n_stages > 12 { ... } } }
    else { stage 1; if n_stages > 1 { stage 2; ... } }

Where several paths are followed, the residuals of a frame's paths are rows side by side, and TopK over all their scores
picks the next paths; from the stage on where one is left, ArgMax does. Each stage remembers which path its own went on
from; the last one traces the best path back. Which path that is depends on where the search ends, so it may end after
any of the stages that keep several. After them, and after the second stage, four stages go in one step, and codes
beyond `n_stages` are dropped: a branch costs as much as ten nodes, and as a whole stage when caches are cold.

A Loop that gathers each stage's matrix copies it on every iteration, and its
matrix is no constant: onnxruntime cannot lay it out for its kernel at load. Branches hold constants.
Measured with 16 stages of 1024, D = 96, one frame, one thread, one path, µs at 1 / 2 / 8 / 16 stages: Loop 48 / 69 /
212 / 411, a branch for each stage 32 / 47 / 133 / 255; for 750 frames both take 2.3 ms a stage.

Where several paths are followed, files may ask for more of them at every stage: `wide_search`. It is the last branch
of those that end after one stage, so that no other ending passes by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from edgecodec.errors import ExportError
from edgecodec_training.codebook_search import LookupTables
from onnx import ModelProto, TensorProto
from torch import Tensor

from .graph_builder import GraphBuilder
from .stored_tables import StoredTables
from .wide_search import add_wide_search

MAX_PATHS = 16  # of the wide search

_STEP = 4  # stages that are searched in one go, where one path is left


def scored_by_table(tables: LookupTables) -> bool:
    """Whether the scores are the transposed table: one copy serves the search and the lookup."""
    return tables.project is None and torch.equal(tables.score, tables.table.transpose(1, 2))


def max_paths(tables: LookupTables) -> int:
    """The most paths that a graph can be asked for; 0 where it has no wide search."""
    return MAX_PATHS if tables.paths and len(tables.table) > 1 and scored_by_table(tables) else 0


def quantizer_encode_graph(tables: LookupTables) -> ModelProto:
    """`latents` [B, T, D] and `n_stages` (int64 scalar, 1..S) to `codes` int64 [B, n_stages, T].

    Where `max_paths` is not 0, there is a third input, `paths` (int64 scalar, 0..max_paths): 0 for those of the tables
    (`kept` after each stage), else so many after every stage.

    A Euclidean codebook has score = tableᵀ and bias = -|c|²/2: the largest score is then the nearest entry.
    Ties go to the lowest index. Of several paths, scores add up and the largest sum wins.

    Raises:
        ExportError: numbers that are not finite, or that the scales of the tables cannot hold.
    """
    _require_finite(tables)
    latent_dim = tables.table.shape[2]
    graph = GraphBuilder()
    search = _Search(tables, graph)
    rows = graph.add("Reshape", ["latents", graph.constant("as_rows", [-1, latent_dim])], "rows")  # [N, D], N = B * T
    search.add_frame_numbers(rows, graph)
    batch_time = graph.add("Shape", ["latents"], "batch_time", end=2)
    graph.add("Concat", [graph.constant("as_list", [-1]), batch_time], "stages_batch_time", axis=0)
    codes = search.add(_Paths(rows), graph)
    graph.add("Transpose", [codes], "codes", perm=[1, 0, 2])
    return graph.quantizer_encode(latent_dim, more=["paths"] if search.max_paths else [])


def quantizer_decode_graph(tables: LookupTables) -> ModelProto:
    """`codes` int64 [B, n, T], any n in 1..S, to `latents` [B, T, D]: one lookup in the flat table, and a sum.

    Raises:
        ExportError: as `quantizer_encode_graph`.
    """
    _require_finite(tables)
    stages, entries, latent_dim = tables.table.shape
    graph = GraphBuilder()
    stored = StoredTables(tables, graph)
    flat = stored.add_flat(graph)
    offsets = graph.constant("offsets", (np.arange(stages) * entries)[:, None])  # [S, 1]
    graph.add("Shape", ["codes"], "n_stages", start=1, end=2)
    graph.add("Slice", [offsets, graph.constant("first_axis", [0]), "n_stages"], "used")  # [n, 1]
    graph.add("Add", ["codes", "used"], "rows")
    found = stored.add_rows(flat, "rows", graph)  # [B, n, T, D]
    graph.add("ReduceSum", [found, graph.constant("stage_axis", [1])], "latents", keepdims=0)
    return graph.quantizer_decode(latent_dim)


@dataclass(frozen=True)
class _Codebook:
    """Names of the constants of one stage, in the graph or branch that searches it."""

    table: str  # [K, D]; none where nobody looks it up
    score: str  # [d, K], or [K, d] if transposed
    bias: str  # [K]
    project: str  # [D, d]; none where nothing is projected
    transposed: bool


@dataclass(frozen=True)
class _Step:
    """Names of what one stage chose for the paths of all frames, those of one frame side by side."""

    entry: str  # [N * kept]
    parent: str  # [N * kept], the row of the path that each goes on from; none where it is the row itself


@dataclass(frozen=True)
class _Paths:
    """Names of what is handed on from stage to stage."""

    residual: str  # [N * count, D]
    merit: str = ""  # [N * count, 1], the sum of scores; none for a single path
    count: int = 1
    steps: tuple[_Step, ...] = ()


class _Search:
    """The search for codes, which its methods add to a graph or to a branch of it."""

    def __init__(self, tables: LookupTables, graph: GraphBuilder) -> None:
        self.tables, self.kept, self.stored = tables, tables.kept(), StoredTables(tables, graph)
        self.stages, self.entries, _ = tables.table.shape
        self.scored_by_table, self.max_paths = scored_by_table(tables), max_paths(tables)

    def add_frame_numbers(self, rows: str, graph: GraphBuilder) -> None:
        """Add what tells the scores of one frame from those of the next, where a frame has several paths."""
        if max(self.kept) > 1:
            graph.add("Squeeze", [graph.add("Shape", [rows], "frames", end=1)], "frame_count")
            limits = [graph.constant("zero", 0), "frame_count", graph.constant("one", 1)]
            graph.add("Range", limits, "frame_numbers")
            graph.add("Reshape", ["frame_numbers", graph.constant("as_column", [-1, 1])], "frame_column")  # [N, 1]
        # Path counts that a choice is made from, or that are to be chosen; none where there is never more than one.
        before_after = zip((1, *self.kept), self.kept, strict=False)
        for count in sorted({before for before, after in before_after if max(before, after) > 1}):
            width = graph.constant(f"width.{count}", count * self.entries)
            graph.add("Mul", ["frame_column", width], f"starts.{count}")  # among the scores of all frames

    def add(self, paths: _Paths, part: GraphBuilder) -> str:
        """Add all stages; the name of the codes [n_stages, B, T]."""
        few, many = self._ends()
        if not few:
            return _asked_for(self._stages_from(0, paths, many, part), part)
        if not many:
            return part.add("Reshape", [self._stages_from(0, paths, few, part), "stages_batch_time"], "stages_first")
        short, long = part.inner(), part.inner()
        exact = self._stages_from(0, paths, few, short)
        branches = {
            "then_branch": long.branch(_asked_for(self._stages_from(0, paths, many, long), long)),
            "else_branch": short.branch(short.add("Reshape", [exact, "stages_batch_time"], "stages_first")),
        }
        return part.add("If", [self._more_than(few[-1], part)], "codes_of_paths", **branches)

    def _ends(self) -> tuple[range, list[int]]:
        """Stage counts at which the search may end: while there are several paths any; and those after that."""
        several = max((i for i, paths in enumerate(self.kept, start=1) if paths > 1), default=0)
        rest = range(several + 1, self.stages + 1)
        later = {n if n <= _STEP // 2 else min(-(-n // _STEP) * _STEP, self.stages) for n in rest}
        return range(1, several + 1), sorted(later)

    def _stages_from(self, i: int, paths: _Paths, ends: Sequence[int], part: GraphBuilder) -> str:
        """Add the stages from i on, which may end after `ends` stages; the name of the codes of all stages."""
        book = self._codebook(i, part)
        chosen = self._choose(i, book, paths, part)
        if i + 1 == ends[-1]:
            return self._ended(chosen, part)
        more = part.inner() if i + 1 in ends else part
        entry, parent = chosen.steps[-1].entry, chosen.steps[-1].parent
        before = paths.residual if not parent else more.add("Gather", [paths.residual, parent], f"before.{i}", axis=0)
        vectors = more.add("Gather", [book.table, entry], f"vectors.{i}", axis=0)
        residual = more.add("Sub", [before, vectors], f"residual.{i}")
        codes = self._stages_from(i + 1, replace(chosen, residual=residual), ends, more)
        if more is part:
            return codes
        stop = part.inner()
        branches = {"then_branch": more.branch(codes), "else_branch": stop.branch(self._ended(chosen, stop))}
        more_than = self._more_than if i == 0 else _more_than
        return part.add("If", [more_than(i + 1, part)], f"codes.{i}", **branches)

    def _ended(self, paths: _Paths, part: GraphBuilder) -> str:
        """The codes where these are all the stages; where it is only the first, the wide search may be asked for."""
        if len(paths.steps) > 1 or not self.max_paths:
            return _best(paths, part)
        wide, narrow = part.inner(), part.inner()
        branches = {
            "then_branch": wide.branch(add_wide_search("rows", self.stored, wide)),
            "else_branch": narrow.branch(_best(paths, narrow)),
        }
        return part.add("If", [part.add("Cast", ["paths"], "is_wide", to=TensorProto.BOOL)], "codes_of_all", **branches)

    def _more_than(self, count: int, part: GraphBuilder) -> str:
        """Whether more stages than this are asked for, of the paths as exported: a wide search never exceeds its limit.

        A number of paths that is out of range ends here, in an error.
        """
        if not self.max_paths:
            return _more_than(count, part)
        limits = part.constant(f"limits.{count}", [count, *[1 << 62] * self.max_paths])
        limit = part.add("Gather", [limits, "paths"], f"limit.{count}", axis=0)
        return part.add("Greater", ["n_stages", limit], f"more_than.{count}")

    def _choose(self, i: int, book: _Codebook, paths: _Paths, part: GraphBuilder) -> _Paths:
        """The paths after stage i, still without their residual."""
        kept = self.kept[i]
        scores = _scores(i, book, paths.residual, part)  # [N * count, K]
        if paths.count > 1:
            sums = part.add("Add", [scores, paths.merit], f"sums.{i}")
            frames = part.constant(f"as_frames.{i}", [-1, paths.count * self.entries])
            scores = part.add("Reshape", [sums, frames], f"sums_of_frames.{i}")  # [N, count * K]
        merit = ""
        if kept == 1:
            index = part.add("ArgMax", [scores], f"best.{i}", axis=1, keepdims=int(paths.count > 1))
        else:
            index = part.name(f"best.{i}")
            top = part.add("TopK", [scores, part.constant(f"kept.{i}", [kept])], f"top.{i}", index, axis=1)
            merit = part.add("Reshape", [top, part.constant("as_column", [-1, 1])], f"merit.{i}")
        if paths.count == kept == 1:
            step = _Step(index, "")
        else:  # the index counts through all scores of a frame; now through those of all frames
            flat = part.add("Add", [index, f"starts.{paths.count}"], f"flat.{i}")
            flat = part.add("Reshape", [flat, part.constant("as_list", [-1])], f"flat_list.{i}")
            width = part.constant("entries", self.entries)
            entry = part.add("Mod", [flat, width], f"entry.{i}")
            step = _Step(entry, part.add("Div", [flat, width], f"parent.{i}"))
        return _Paths("", merit, kept, (*paths.steps, step))

    def _codebook(self, i: int, part: GraphBuilder) -> _Codebook:
        """Stage i's codebook, as constants of the part that searches it."""
        tables, shared = self.tables, self.scored_by_table
        table = ""
        if shared or i + 1 < self.stages:  # nobody looks up the last one
            table = self.stored.add_stage(i, part)
        return _Codebook(
            table,
            table if shared else part.constant(f"score.{i}", tables.score[i].numpy(), np.float32),
            self.stored.add_bias(i, part),
            "" if tables.project is None else part.constant(f"project.{i}", tables.project[i].numpy(), np.float32),
            transposed=shared,
        )


def _require_finite(tables: LookupTables) -> None:
    for name, table in tables._asdict().items():
        if isinstance(table, Tensor) and not table.isfinite().all():
            raise ExportError(f"the quantizer's {name} holds a number that is not finite")


def _more_than(count: int, part: GraphBuilder) -> str:
    """Whether more stages than this are asked for."""
    return part.add("Greater", ["n_stages", part.constant(f"count.{count}", count)], f"more_than.{count}")


def _asked_for(codes: str, part: GraphBuilder) -> str:
    """Codes [n_stages, B, T] of those of as many stages or more, one after the other."""
    codes = part.add("Reshape", [codes, "stages_batch_time"], "stages_first")
    end = part.add("Reshape", ["n_stages", part.constant("as_list", [-1])], "end")
    return part.add("Slice", [codes, part.constant("begin", [0]), end], "asked_for")


def _best(paths: _Paths, part: GraphBuilder) -> str:
    """The codes of each frame's first path, which is the best one, traced back: [stages * N]."""
    last = len(paths.steps) - 1
    rows = ""  # of the path before the stage at hand, one a frame; none while a frame has one path only
    if paths.count > 1:
        rows = part.add("Mul", ["frame_numbers", part.constant(f"paths.{last}", paths.count)], f"rows.{last}")
    codes = []
    for i, step in reversed(list(enumerate(paths.steps))):
        codes.append(part.add("Gather", [step.entry, rows], f"code.{i}.of.{last}") if rows else step.entry)
        if i > 0 and step.parent:
            rows = part.add("Gather", [step.parent, rows], f"rows.{i}.of.{last}") if rows else step.parent
    return part.add("Concat", codes[::-1], f"codes_to.{last}", axis=0)


def _scores(i: int, book: _Codebook, residual: str, part: GraphBuilder) -> str:
    """Scores of all entries of stage i."""
    query = part.add("MatMul", [residual, book.project], f"query.{i}") if book.project else residual
    return part.add("Gemm", [query, book.score, book.bias], f"scores_of_paths.{i}", transB=int(book.transposed))
