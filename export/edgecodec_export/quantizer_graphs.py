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
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

OPSET = 17
IR_VERSION = 8  # loads in onnxruntime 1.10 and later

_FLOAT, _INT64 = TensorProto.FLOAT, TensorProto.INT64
_MIDDLE = 128  # of unsigned bytes, stands for zero
_STEP = 4  # stages that are searched in one go, where one path is left


@dataclass(frozen=True)
class QuantizerTables:
    """The inference form of a quantizer: S stages, K entries, latents of D, code vectors of d dimensions.

    A Euclidean codebook has score = tableᵀ and bias = -|c|²/2: the largest score is then the nearest entry.
    Ties go to the lowest index. Of several paths (`kept` after each stage), scores add up and the largest sum wins.

    Where there are `scales`, each entry is its scale times whole numbers from -127 to 127, and is stored so.

    Raises:
        ValueError: shapes that do not fit each other, or a number that is not finite.
    """

    project: NDArray[np.float32] | None  # [S, D, d]; None when d == D and nothing is projected
    score: NDArray[np.float32]  # [S, d, K]
    bias: NDArray[np.float32]  # [S, K]
    table: NDArray[np.float32]  # [S, K, D]
    kept: tuple[int, ...]  # [S], paths after each stage
    scales: NDArray[np.float32] | None = None  # [S, K, 1]

    def __post_init__(self) -> None:
        stages, entries, latent_dim = self.table.shape
        if len(self.kept) != stages:
            raise ValueError(f"kept {self.kept} must have a count for each of {stages} stages")
        code_dim = latent_dim if self.project is None else self.project.shape[2]
        shapes = {"score": (stages, code_dim, entries), "bias": (stages, entries)}
        if self.project is not None:
            shapes["project"] = (stages, latent_dim, code_dim)
        if self.scales is not None:
            shapes["scales"] = (stages, entries, 1)
            if not self.euclidean:
                raise ValueError("only Euclidean codebooks in the latents' own dimension are stored in 8 bits")
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, the table asks for {shape}")
        for name in ("table", *shapes):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name} holds a number that is not finite")

    @property
    def euclidean(self) -> bool:
        """Whether the scores are the transposed table."""
        return self.project is None and np.array_equal(self.score, self.table.transpose(0, 2, 1))


def quantizer_encode_graph(tables: QuantizerTables) -> ModelProto:
    """`latents` [B, T, D] and `n_stages` (int64 scalar, 1..S) to `codes` int64 [B, n_stages, T]."""
    latent_dim = tables.table.shape[2]
    part = _Part()
    rows = part.add("Reshape", ["latents", part.constant("as_rows", [-1, latent_dim])], "rows")  # [N, D], N = B * T
    if max(tables.kept) > 1:
        part.add("Squeeze", [part.add("Shape", [rows], "frames", end=1)], "frame_count")
        limits = [part.constant("zero", 0), "frame_count", part.constant("one", 1)]
        part.add("Range", limits, "frame_numbers")
        part.add("Reshape", ["frame_numbers", part.constant("as_column", [-1, 1])], "frame_column")  # [N, 1]
    for count in sorted(_searched(tables.kept)):  # where the scores of a frame begin, among those of all frames
        width = part.constant(f"width.{count}", count * tables.table.shape[1])
        part.add("Mul", ["frame_column", width], f"starts.{count}")
    batch_time = part.add("Shape", ["latents"], "batch_time", end=2)
    part.add("Concat", [part.constant("as_list", [-1]), batch_time], "stages_batch_time", axis=0)
    codes = _all_stages(_Paths(rows), tables, part)
    part.add("Transpose", [codes], "codes", perm=[1, 0, 2])
    inputs = [
        helper.make_tensor_value_info("latents", _FLOAT, ["B", "T", latent_dim]),
        helper.make_tensor_value_info("n_stages", _INT64, []),
    ]
    outputs = [helper.make_tensor_value_info("codes", _INT64, ["B", "n_stages", "T"])]
    return _model(helper.make_graph(part.nodes, "quantizer_encode", inputs, outputs, part.constants))


def quantizer_decode_graph(tables: QuantizerTables) -> ModelProto:
    """`codes` int64 [B, n, T], any n in 1..S, to `latents` [B, T, D]: one lookup in the flat table, and a sum."""
    stages, entries, latent_dim = tables.table.shape
    part = _Part()
    scales = None if tables.scales is None else tables.scales.reshape(-1, 1)
    table = _table("table", tables.table.reshape(-1, latent_dim), scales, part)
    offsets = part.constant("offsets", (np.arange(stages) * entries)[:, None])  # [S, 1]
    part.add("Shape", ["codes"], "n_stages", start=1, end=2)
    part.add("Slice", [offsets, part.constant("first_axis", [0]), "n_stages"], "used")  # [n, 1]
    part.add("Add", ["codes", "used"], "rows")
    part.add("Gather", [table, "rows"], "entries", axis=0)  # [B, n, T, D]
    part.add("ReduceSum", ["entries", part.constant("stage_axis", [1])], "latents", keepdims=0)
    inputs = [helper.make_tensor_value_info("codes", _INT64, ["B", "n_stages", "T"])]
    outputs = [helper.make_tensor_value_info("latents", _FLOAT, ["B", "T", latent_dim])]
    return _model(helper.make_graph(part.nodes, "quantizer_decode", inputs, outputs, part.constants))


@dataclass(frozen=True)
class _Codebook:
    """Names of the constants of one stage, in one part."""

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


def _searched(kept: tuple[int, ...]) -> set[int]:
    """Path counts that a choice is made from, or that are to be chosen; none where there is never more than one."""
    return {before for before, after in zip((1, *kept), kept, strict=False) if max(before, after) > 1}


def _ends(kept: tuple[int, ...]) -> tuple[range, list[int]]:
    """Stage counts at which the search may end: while there are several paths any; and those after that."""
    stages = len(kept)
    several = max((i for i, paths in enumerate(kept, start=1) if paths > 1), default=0)
    later = {n if n <= _STEP // 2 else min(-(-n // _STEP) * _STEP, stages) for n in range(several + 1, stages + 1)}
    return range(1, several + 1), sorted(later)


def _all_stages(paths: _Paths, tables: QuantizerTables, part: _Part) -> str:
    """Add the search to a part; the name of the codes [n_stages, B, T]."""
    few, many = _ends(tables.kept)
    if not few:
        return _asked_for(_stages_from(0, paths, tables, many, part), part)
    if not many:
        return part.add("Reshape", [_stages_from(0, paths, tables, few, part), "stages_batch_time"], "stages_first")
    short, long = part.inner(), part.inner()
    exact = _stages_from(0, paths, tables, few, short)
    branches = {
        "then_branch": long.branch(_asked_for(_stages_from(0, paths, tables, many, long), long)),
        "else_branch": short.branch(short.add("Reshape", [exact, "stages_batch_time"], "stages_first")),
    }
    return part.add("If", [part.more_than(few[-1])], "codes_of_paths", **branches)


def _asked_for(codes: str, part: _Part) -> str:
    """Codes [n_stages, B, T] of those of as many stages or more, one after the other."""
    codes = part.add("Reshape", [codes, "stages_batch_time"], "stages_first")
    end = part.add("Reshape", ["n_stages", part.constant("as_list", [-1])], "end")
    return part.add("Slice", [codes, part.constant("begin", [0]), end], "asked_for")


def _stages_from(i: int, paths: _Paths, tables: QuantizerTables, ends: Sequence[int], part: _Part) -> str:
    """Add the stages from i on to a part, which may end after `ends` stages; the name of the codes of all stages."""
    book = _codebook(i, tables, part)
    chosen = _choose(i, book, paths, tables, part)
    if i + 1 == ends[-1]:
        return _best(chosen, part)
    more = part.inner() if i + 1 in ends else part
    entry, parent = chosen.steps[-1].entry, chosen.steps[-1].parent
    before = paths.residual if not parent else more.add("Gather", [paths.residual, parent], f"before.{i}", axis=0)
    vectors = more.add("Gather", [book.table, entry], f"vectors.{i}", axis=0)
    residual = more.add("Sub", [before, vectors], f"residual.{i}")
    codes = _stages_from(i + 1, replace(chosen, residual=residual), tables, ends, more)
    if more is part:
        return codes
    stop = part.inner()
    branches = {"then_branch": more.branch(codes), "else_branch": stop.branch(_best(chosen, stop))}
    return part.add("If", [part.more_than(i + 1)], f"codes.{i}", **branches)


def _choose(i: int, book: _Codebook, paths: _Paths, tables: QuantizerTables, part: _Part) -> _Paths:
    """The paths after stage i, still without their residual."""
    kept, entries = tables.kept[i], tables.table.shape[1]
    scores = _scores(i, book, paths.residual, part)  # [N * count, K]
    if paths.count > 1:
        sums = part.add("Add", [scores, paths.merit], f"sums.{i}")
        frames = part.constant(f"as_frames.{i}", [-1, paths.count * entries])
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
        width = part.constant("entries", entries)
        entry = part.add("Mod", [flat, width], f"entry.{i}")
        step = _Step(entry, part.add("Div", [flat, width], f"parent.{i}"))
    return _Paths("", merit, kept, (*paths.steps, step))


def _best(paths: _Paths, part: _Part) -> str:
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


def _codebook(i: int, tables: QuantizerTables, part: _Part) -> _Codebook:
    """Stage i's codebook, as constants of the part that searches it."""
    euclidean = tables.euclidean
    # One copy serves scoring and lookup when the scores are the transposed table; nobody looks up the last one.
    table = ""
    if euclidean or i + 1 < len(tables.table):
        table = _table(f"table.{i}", tables.table[i], None if tables.scales is None else tables.scales[i], part)
    return _Codebook(
        table,
        table if euclidean else part.constant(f"score.{i}", tables.score[i], np.float32),
        part.constant(f"bias.{i}", tables.bias[i], np.float32),
        "" if tables.project is None else part.constant(f"project.{i}", tables.project[i], np.float32),
        transposed=euclidean,
    )


def _table(name: str, table: NDArray[np.float32], scales: NDArray[np.float32] | None, part: _Part) -> str:
    """A table [N, D], as whole numbers where there are scales [N, 1]; onnxruntime multiplies them out at load.

    In plain arithmetic: a DequantizeLinear it would keep, and compute anew in every call. And in the part at hand,
    though the whole numbers are there but once: from a matrix outside, a branch multiplies a quarter slower.
    """
    if scales is None:
        return part.constant(name, table, np.float32)
    whole = np.round(table / scales)
    if np.abs(whole).max() >= _MIDDLE or not np.array_equal(whole * scales, table):
        raise ValueError(f"{name} is no whole multiple of its scales")
    stored = part.root.constant(f"{name}.bytes", whole + _MIDDLE, np.uint8)
    column = part.root.constant(f"{name}.scales", scales[:, 0], np.float32)
    column = part.add("Unsqueeze", [column, part.constant("last_axis", [1])], f"{name}.column")
    shifted = part.add("Cast", [stored], f"{name}.shifted", to=_FLOAT)
    middle = part.constant("middle", _MIDDLE, np.float32)
    return part.add("Mul", [part.add("Sub", [shifted, middle], f"{name}.whole"), column], name)


def _scores(i: int, book: _Codebook, residual: str, part: _Part) -> str:
    """Scores of all entries of stage i."""
    query = part.add("MatMul", [residual, book.project], f"query.{i}") if book.project else residual
    return part.add("Gemm", [query, book.score, book.bias], f"scores_of_paths.{i}", transB=int(book.transposed))


class _Part:
    """Nodes and constants of a graph, or of a branch, in the making.

    A branch has the small constants for itself: onnxruntime hands over whatever comes from outside in every call.
    """

    def __init__(self, root: _Part | None = None) -> None:
        self.root = root or self
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._names: dict[str, str] = {}  # of constants, by the wanted ones
        self._used: Counter[str] = root._used if root else Counter()  # wanted names, in all parts of the graph

    def inner(self) -> _Part:
        """An empty part for a branch."""
        return _Part(self.root)

    def name(self, wanted: str) -> str:
        """A name that no other value has: two branches may hold the same stage."""
        self._used[wanted] += 1
        return wanted if self._used[wanted] == 1 else f"{wanted}.copy{self._used[wanted]}"

    def add(self, kind: str, inputs: list[str], output: str, *others: str, **attributes: Any) -> str:
        """A node; returns the name of its first output, as near to the wanted one as it can be."""
        name = self.name(output)
        self.nodes.append(helper.make_node(kind, inputs, [name, *others], **attributes))
        return name

    def constant(self, name: str, value: object, dtype: type[np.generic] = np.int64) -> str:
        """A constant, once in each part; returns its name."""
        if name not in self._names:
            self._names[name] = self.name(name)
            self.constants.append(numpy_helper.from_array(np.array(value, dtype, order="C"), self._names[name]))
        return self._names[name]

    def more_than(self, count: int) -> str:
        """Whether more stages than this are asked for."""
        return self.add("Greater", ["n_stages", self.constant(f"count.{count}", count)], f"more_than.{count}")

    def branch(self, output: str) -> GraphProto:
        """The part as a branch that gives codes."""
        value = helper.make_tensor_value_info(output, _INT64, None)
        return helper.make_graph(self.nodes, output, [], [value], self.constants)


def _model(graph: GraphProto) -> ModelProto:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model.producer_name = "edgecodec"
    checker.check_model(model, full_check=True)
    return model
