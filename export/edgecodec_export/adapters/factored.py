"""The factored residual quantizer of DAC and SNAC: each stage searches in few dimensions, by angle.

    query = in_proj(residual);  code = argmax(query · codebook / |codebook|);  residual -= out_proj(codebook[code])

(Improved RVQGAN, Kumar et al. 2023, arXiv:2306.06546, section 3.2.) Both projections are linear, so that no residual
of the latents' dimension is ever needed: all queries come out of one product with the latents, and what a chosen
vector c of stage j takes off the query of stage i is cross[i, j] c, a matrix of d x d. With 9 stages of 1024 entries,
d = 8 and latents of 1024 dimensions that is 0.9 MB for the search, where a table of each stage's vectors takes 34 MB.

In SNAC (Siuzdak et al. 2024, arXiv:2410.14411) a frame is several columns of latents, and a stage of width w has w
codes for it: each is searched for the mean of the columns that it stands for, and repeated over them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from onnx import ModelProto, TensorProto
from torch import Tensor, nn

from ..graph_builder import GraphBuilder
from .adapted import AdaptedQuantizer
from .weights import Weights

_STEP = 4  # stages in one branch: a branch costs as much as several nodes (`quantizer_graphs`)


@dataclass(frozen=True)
class FactoredTables:
    """The numbers of S stages of K entries of d dimensions, for latents of D dimensions a column."""

    widths: tuple[int, ...]  # codes of each stage in a frame, never falling; the last is the columns of a frame
    query: Tensor  # [D, S * d]
    query_bias: Tensor  # [S * d]
    cross: tuple[Tensor, ...]  # for each stage i but the first, [i * d, d]
    score: Tensor  # [S, d, K], entries of length one
    codebook: Tensor  # [S, K, d]
    out: Tensor  # [S * d, D]
    out_bias: Tensor  # [S, D], of all stages up to this one

    @property
    def columns(self) -> int:
        """Columns of latents in a frame."""
        return self.widths[-1]


def factored_tables(weights: Weights, dim: int, size: int, code_dim: int, widths: Sequence[int]) -> FactoredTables:
    """From `quantizer.quantizers.{i}.in_proj`, `out_proj` and `codebook`, which DAC and SNAC call alike.

    Raises:
        CheckpointError: tensors that are missing or of other shapes.
    """
    into, into_bias, out, out_bias, books = [], [], [], [], []
    for i in range(len(widths)):
        name = f"quantizer.quantizers.{i}"
        into.append(weights.kernel(f"{name}.in_proj", code_dim, dim, 1)[..., 0].double())
        into_bias.append(weights.take(f"{name}.in_proj.bias", code_dim).double())
        out.append(weights.kernel(f"{name}.out_proj", dim, code_dim, 1)[..., 0].double())
        out_bias.append(weights.take(f"{name}.out_proj.bias", dim).double())
        books.append(weights.take(f"{name}.codebook.weight", size, code_dim))
    codebook = torch.stack(books)
    biases = [into_bias[i] - into[i] @ sum(out_bias[:i], start=torch.zeros(dim).double()) for i in range(len(widths))]
    return FactoredTables(
        tuple(widths),
        torch.cat(into).T.float().contiguous(),
        torch.cat(biases).float(),
        tuple(-torch.cat([(into[i] @ out[j]).T for j in range(i)]).float() for i in range(1, len(widths))),
        nn.functional.normalize(codebook, dim=2).transpose(1, 2).contiguous(),
        codebook,
        torch.cat(out, dim=1).T.float().contiguous(),
        torch.stack(out_bias).cumsum(0).float(),
    )


class FactoredQuantizer(AdaptedQuantizer):
    """See the module; latents are `[B, T, columns * D]`."""

    def __init__(self, tables: FactoredTables) -> None:
        super().__init__()
        self.tables = tables

    @torch.no_grad()
    def encode(self, latents: Tensor, n_stages: int) -> Tensor:
        """See `AdaptedQuantizer.encode`."""
        t = self.tables
        size = t.score.shape[1]
        queries = latents.reshape(-1, t.query.shape[0]) @ t.query + t.query_bias  # [N * columns, S * d], N = B * T
        codes, chosen, before = [], queries[:0], 1
        for i, width in enumerate(t.widths[:n_stages]):
            query = queries[:, i * size : (i + 1) * size].reshape(-1, t.columns // width, size).mean(1)
            if i:
                chosen = chosen.repeat_interleave(width // before, dim=0)
                query = query + chosen @ t.cross[i - 1]
            code = (query @ t.score[i]).argmax(1)  # [N * width]
            chosen = torch.cat([chosen, t.codebook[i][code]], dim=1) if i else t.codebook[i][code]
            codes.append(code.reshape(-1, width).T)
            before = width
        return torch.cat(codes).reshape(-1, *latents.shape[:2]).transpose(0, 1)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """See `AdaptedQuantizer.decode`."""
        t, lines = self.tables, codes.shape[1]
        stages = int((_ends(t) <= lines).sum())
        rows = (codes + torch.from_numpy(_offsets(t))[:lines])[:, torch.from_numpy(_line_of(t))[:stages]]
        vectors = t.codebook.flatten(0, 1)[rows].permute(0, 3, 2, 1, 4).flatten(3)  # [B, T, columns, stages * d]
        return (vectors @ t.out[: vectors.shape[3]] + t.out_bias[stages - 1]).flatten(2)

    def graphs(self) -> Mapping[str, ModelProto]:
        """See `AdaptedQuantizer.graphs`."""
        return {"quantizer_encode": _Search(self.tables).graph(), "quantizer_decode": _decode_graph(self.tables)}

    def rounded(self, rounded: Callable[[Tensor], Tensor]) -> FactoredQuantizer:
        """See `AdaptedQuantizer.rounded`."""
        t = self.tables
        score, codebook = (rounded(books.flatten(0, 1)).view_as(books) for books in (t.score, t.codebook))
        cross = tuple(rounded(matrix) for matrix in t.cross)
        return FactoredQuantizer(
            replace(t, query=rounded(t.query), cross=cross, score=score, codebook=codebook, out=rounded(t.out))
        )

    def macs(self) -> int:
        """See `AdaptedQuantizer.macs`."""
        t = self.tables
        _, size, entries = t.score.shape
        return t.columns * t.query.numel() + sum(w * size * (i * size + entries) for i, w in enumerate(t.widths))


class _Search:
    """`latents` [B, T, columns * D] and `n_stages` (int64 scalar) to `codes` int64 [B, lines, T], stages nested."""

    def __init__(self, tables: FactoredTables) -> None:
        self.tables = tables
        stages = range(1, len(tables.widths) + 1)
        # Codes beyond n_stages are only dropped where each stage is one line.
        self.one_line = set(tables.widths) == {1}
        rounded = {n if n <= _STEP // 2 else min(-(-n // _STEP) * _STEP, len(tables.widths)) for n in stages}
        self.ends = sorted(rounded) if self.one_line else list(stages)

    def graph(self) -> ModelProto:
        """The graph."""
        t, graph = self.tables, GraphBuilder()
        dim = t.query.shape[0]
        rows = graph.add("Reshape", ["latents", graph.constant("as_rows", [-1, dim])], "rows")
        query = graph.constant("query", t.query.numpy(), np.float32)
        graph.add("Gemm", [rows, query, graph.constant("query_bias", t.query_bias.numpy(), np.float32)], "queries")
        batch_time = graph.add("Shape", ["latents"], "batch_time", end=2)
        graph.add("Concat", [graph.constant("as_list", [-1]), batch_time], "lines_batch_time", axis=0)
        codes = self._stages_from(0, "", [], graph)
        graph.add("Transpose", [codes], "codes", perm=[1, 0, 2])
        return graph.quantizer_encode(t.columns * dim, "lines")

    def _stages_from(self, i: int, chosen: str, lines: list[str], part: GraphBuilder) -> str:
        """Add stage i and those after it; `chosen` are the vectors of earlier stages, the name of all codes returns."""
        t = self.tables
        chosen = self._repeated(i, chosen, part)
        query = self._query(i, part)
        if i:
            cross = part.constant(f"cross.{i}", t.cross[i - 1].numpy(), np.float32)
            query = part.add("Gemm", [chosen, cross, query], f"left.{i}")
        score = part.constant(f"score.{i}", t.score[i].numpy(), np.float32)
        code = part.add("ArgMax", [part.add("MatMul", [query, score], f"scores.{i}")], f"code.{i}", axis=1, keepdims=0)
        lines = [*lines, self._lines(i, code, part)]
        if i + 1 == len(t.widths):
            return self._codes(lines, part)
        more = part.inner() if i + 1 in self.ends else part
        book = more.constant(f"codebook.{i}", t.codebook[i].numpy(), np.float32)
        vectors = more.add("Gather", [book, code], f"vectors.{i}", axis=0)
        chosen = more.add("Concat", [chosen, vectors], f"chosen.{i}", axis=1) if i else vectors
        codes = self._stages_from(i + 1, chosen, lines, more)
        if more is part:
            return codes
        stop = part.inner()
        branches = {"then_branch": more.branch(codes), "else_branch": stop.branch(self._codes(lines, stop))}
        asked = part.add("Greater", ["n_stages", part.constant(f"count.{i + 1}", i + 1)], f"more_than.{i + 1}")
        return part.add("If", [asked], f"codes.{i}", **branches)

    def _query(self, i: int, part: GraphBuilder) -> str:
        """The query of stage i [N * width, d], before what earlier stages take off it."""
        t = self.tables
        size, span = t.score.shape[1], t.columns // t.widths[i]
        bounds = [part.constant(f"bound.{n}", [n * size]) for n in (i, i + 1)]
        query = part.add("Slice", ["queries", *bounds, part.constant("second_axis", [1])], f"query.{i}")
        if span == 1:
            return query
        spans = part.add("Reshape", [query, part.constant(f"as_spans.{span}", [-1, span, size])], f"spans.{i}")
        return part.add("ReduceMean", [spans, part.constant("second_axis", [1])], f"mean.{i}", keepdims=0)

    def _repeated(self, i: int, chosen: str, part: GraphBuilder) -> str:
        """The vectors chosen before stage i, one row for each of its codes."""
        t = self.tables
        times = t.widths[i] // t.widths[i - 1] if i else 1
        if times == 1:
            return chosen
        width = i * t.score.shape[1]
        apart = part.add("Reshape", [chosen, part.constant(f"apart.{i}", [-1, 1, width])], f"apart_rows.{i}")
        tiled = part.add("Tile", [apart, part.constant(f"times.{i}", [1, times, 1])], f"tiled.{i}")
        return part.add("Reshape", [tiled, part.constant(f"together.{i}", [-1, width])], f"repeated.{i}")

    def _lines(self, i: int, code: str, part: GraphBuilder) -> str:
        """Codes [N * width] of a stage as lines, [width * N]."""
        width = self.tables.widths[i]
        if width == 1:
            return code
        frames = part.add("Reshape", [code, part.constant(f"frames.{i}", [-1, width])], f"of_frames.{i}")
        lines = part.add("Transpose", [frames], f"of_lines.{i}", perm=[1, 0])
        return part.add("Reshape", [lines, part.constant("flat", [-1])], f"lines.{i}")

    def _codes(self, lines: list[str], part: GraphBuilder) -> str:
        """Lines one after the other, [lines, B, T]; those beyond `n_stages` are left out."""
        n = len(lines)
        codes = part.add("Concat", lines, f"flat_codes.{n}", axis=0)
        codes = part.add("Reshape", [codes, "lines_batch_time"], f"codes_to.{n}")
        if not self.one_line or n - 1 in self.ends or n == 1:
            return codes
        end = part.add("Reshape", ["n_stages", part.constant("flat", [-1])], f"end.{n}")
        return part.add("Slice", [codes, part.constant("begin", [0]), end], f"asked_for.{n}")


def _decode_graph(t: FactoredTables) -> ModelProto:
    """`codes` int64 [B, lines, T], of any number of stages, to `latents` [B, T, columns * D]."""
    graph, size = GraphBuilder(), t.codebook.shape[2]
    graph.add("Shape", ["codes"], "lines", start=1, end=2)
    begin = graph.constant("begin", [0])
    graph.add("Slice", [graph.constant("offsets", _offsets(t)), begin, "lines"], "used")
    rows, stages = graph.add("Add", ["codes", "used"], "rows"), "lines"
    if t.columns > 1:
        whole = graph.add("LessOrEqual", [graph.constant("ends", _ends(t)), "lines"], "whole")
        whole = graph.add("Cast", [whole], "whole_numbers", to=TensorProto.INT64)
        stages = graph.add("ReduceSum", [whole], "stages")  # [1]
        lines = graph.add("Slice", [graph.constant("line_of", _line_of(t)), begin, stages], "line_of_column")
        rows = graph.add("Gather", [rows, lines], "column_rows", axis=1)  # [B, stages, columns, T]
    book = graph.constant("codebook", t.codebook.flatten(0, 1).numpy(), np.float32)
    graph.add("Gather", [book, rows], "vectors", axis=0)  # [B, stages, (columns,) T, d]
    graph.add("Transpose", ["vectors"], "by_frame", perm=[0, 3, 2, 1, 4] if t.columns > 1 else [0, 2, 1, 3])
    side_by_side = [0, 0, t.columns, -1] if t.columns > 1 else [0, 0, -1]
    graph.add("Reshape", ["by_frame", graph.constant("side_by_side", side_by_side)], "chosen")
    graph.add("Mul", [stages, graph.constant("size", [size])], "dimensions")
    graph.add("Slice", [graph.constant("out", t.out.numpy(), np.float32), begin, "dimensions"], "out_used")
    graph.add("MatMul", ["chosen", "out_used"], "projected")
    graph.add("Sub", [stages, graph.constant("one", [1])], "last_stage")
    graph.add("Gather", [graph.constant("out_bias", t.out_bias.numpy(), np.float32), "last_stage"], "bias", axis=0)
    latents = graph.add("Add", ["projected", "bias"], "columns" if t.columns > 1 else "latents")
    if t.columns > 1:
        graph.add("Reshape", [latents, graph.constant("as_frames", [0, 0, -1])], "latents")
    return graph.quantizer_decode(t.columns * t.out.shape[1], "lines")


def _offsets(t: FactoredTables) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """[lines, 1]: where the codebook of each line begins among all entries."""
    stages = np.repeat(np.arange(len(t.widths)), t.widths)
    return (stages * t.codebook.shape[1])[:, None]


def _ends(t: FactoredTables) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """[S]: the code lines of all stages up to each."""
    return np.cumsum(t.widths)


def _line_of(t: FactoredTables) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """[S, columns]: the code line of each stage that stands for a column of the frame."""
    firsts = _ends(t) - t.widths
    return np.stack([first + np.arange(t.columns) * w // t.columns for first, w in zip(firsts, t.widths, strict=True)])
