"""A residual quantizer in groups that all search the same latents, each with projections of its own.

Mimi's split RVQ (Défossez et al. 2024, arXiv:2410.00037, section 3.3.3): a semantic group of one stage beside, not
before, an acoustic one. A group projects the latents, searches its stages one after the other, and projects the sum of
their entries back; decoded latents are the sum over groups. The graphs keep the projections apart from the codebooks:
multiplied out, tables would be twice as large.

`n_stages` counts through the groups. In the graph, stages are nested, so that the compute falls with it (see
`quantizer_graphs`, which measured that form); the projections of a group are computed where its first stage is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor

from ..graph_builder import GraphBuilder
from .adapted import AdaptedQuantizer

_STEP = 4  # stages that are searched in one go


@dataclass(frozen=True)
class Group:
    """Stages that share their projections; matrices are as they are multiplied, rows from the left."""

    inside: Tensor  # [D, d]
    codebooks: Tensor  # [S, K, d]
    outside: Tensor  # [d, D]


class GroupedQuantizer(AdaptedQuantizer):
    """Groups of residual stages over the same latents; the nearest entry wins, one path."""

    def __init__(self, groups: Sequence[Group]) -> None:
        super().__init__()
        self._count = len(groups)
        for i, group in enumerate(groups):
            self.register_buffer(f"inside_{i}", group.inside)
            self.register_buffer(f"codebooks_{i}", group.codebooks)
            self.register_buffer(f"outside_{i}", group.outside)

    def groups(self) -> list[Group]:
        """The groups in the order of their stages."""
        names = ("inside", "codebooks", "outside")
        return [Group(*(self.get_buffer(f"{name}_{i}") for name in names)) for i in range(self._count)]

    @torch.no_grad()
    def encode(self, latents: Tensor, n_stages: int) -> Tensor:
        """See `AdaptedQuantizer.encode`."""
        codes: list[Tensor] = []
        for group in self.groups():
            residual = latents @ group.inside
            for book in group.codebooks[: n_stages - len(codes)]:
                codes.append((residual @ book.T + _bias(book)).argmax(2))
                residual = residual - book[codes[-1]]
        return torch.stack(codes, dim=1)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """See `AdaptedQuantizer.decode`."""
        latents, lines = torch.zeros(()), iter(codes.unbind(1))
        for group in self.groups():
            entries = [book[line] for book, line in zip(group.codebooks, lines, strict=False)]
            if entries:
                latents = latents + sum(entries[1:], start=entries[0]) @ group.outside
        return latents

    def graphs(self) -> Mapping[str, ModelProto]:
        """See `AdaptedQuantizer.graphs`."""
        groups = self.groups()
        return {"quantizer_encode": _encode_graph(groups), "quantizer_decode": _decode_graph(groups)}

    def rounded(self, rounded: Callable[[Tensor], Tensor]) -> GroupedQuantizer:
        """See `AdaptedQuantizer.rounded`."""
        return GroupedQuantizer(
            [
                Group(rounded(g.inside), rounded(g.codebooks.flatten(0, 1)).view_as(g.codebooks), rounded(g.outside))
                for g in self.groups()
            ]
        )

    def macs(self) -> int:
        """See `AdaptedQuantizer.macs`."""
        return sum(group.inside.numel() + group.codebooks.numel() for group in self.groups())


def _bias(book: Tensor) -> Tensor:
    """`[K]`: with it, the entry of the highest score is the nearest one."""
    return -0.5 * book.square().sum(1)


@dataclass(frozen=True)
class _Stage:
    """One stage, and its group's projection where it is the first."""

    book: Tensor  # [K, d]
    inside: Tensor | None


def _encode_graph(groups: Sequence[Group]) -> ModelProto:
    """`latents` [B, T, D] and `n_stages` (int64 scalar, 1..S) to `codes` int64 [B, n_stages, T]."""
    latent_dim = groups[0].inside.shape[0]
    stages = [_Stage(book, g.inside if i == 0 else None) for g in groups for i, book in enumerate(g.codebooks)]
    graph = GraphBuilder()
    graph.add("Reshape", ["latents", graph.constant("as_rows", [-1, latent_dim])], "rows")  # [N, D], N = B * T
    flat = _add_stages(stages, 0, "", [], graph)
    batch_time = graph.add("Shape", ["latents"], "batch_time", end=2)
    shape = graph.add("Concat", [graph.constant("as_list", [-1]), batch_time], "stages_batch_time", axis=0)
    every = graph.add("Reshape", [flat, shape], "stages_first")
    end = graph.add("Reshape", ["n_stages", graph.constant("as_list", [-1])], "end")
    asked = graph.add("Slice", [every, graph.constant("begin", [0]), end], "asked_for")
    graph.add("Transpose", [asked], "codes", perm=[1, 0, 2])
    return graph.quantizer_encode(latent_dim)


def _ends(stages: int) -> Iterator[int]:
    """Stage counts after which the search may end; codes beyond what was asked for are dropped."""
    return (n for n in range(1, stages + 1) if n <= _STEP // 2 or n % _STEP == 0 or n == stages)


def _add_stages(stages: Sequence[_Stage], i: int, residual: str, codes: list[str], part: GraphBuilder) -> str:
    """Add stage i and those after it; the name of the codes of all stages, [n * N], stage after stage."""
    stage, book = stages[i], part.constant(f"book.{i}", stages[i].book.numpy(), np.float32)
    if stage.inside is not None:
        inside = part.constant(f"inside.{i}", stage.inside.numpy(), np.float32)
        residual = part.add("MatMul", ["rows", inside], f"projected.{i}")
    bias = part.constant(f"bias.{i}", _bias(stage.book).numpy(), np.float32)
    scores = part.add("Gemm", [residual, book, bias], f"scores.{i}", transB=1)
    codes = [*codes, part.add("ArgMax", [scores], f"code.{i}", axis=1, keepdims=0)]
    if i + 1 == len(stages):
        return part.add("Concat", codes, f"codes_to.{i}", axis=0)
    may_end = i + 1 in _ends(len(stages))
    more = part.inner() if may_end else part
    if stages[i + 1].inside is None:
        vectors = more.add("Gather", [book, codes[-1]], f"vectors.{i}", axis=0)
        residual = more.add("Sub", [residual, vectors], f"residual.{i}")
    every = _add_stages(stages, i + 1, residual, codes, more)
    if not may_end:
        return every
    stop = part.inner()
    branches = {
        "then_branch": more.branch(every),
        "else_branch": stop.branch(stop.add("Concat", codes, f"codes_to.{i}", axis=0)),
    }
    condition = part.add("Greater", ["n_stages", part.constant(f"count.{i + 1}", i + 1)], f"more_than.{i + 1}")
    return part.add("If", [condition], f"codes.{i}", **branches)


def _decode_graph(groups: Sequence[Group]) -> ModelProto:
    """`codes` int64 [B, n, T], any n in 1..S, to `latents` [B, T, D].

    One lookup in all codebooks, and a sum and a product for each group. Codes are first filled up to all stages with
    that of an entry of zeros, but not further than each group needs to have at least one: no sum is over nothing.
    """
    entries, width = groups[0].codebooks.shape[1:]
    latent_dim = groups[0].inside.shape[0]
    stages = [len(group.codebooks) for group in groups]
    before = [sum(stages[:i]) for i in range(len(groups))]
    table = torch.cat([*(group.codebooks.flatten(0, 1) for group in groups), torch.zeros(1, width)])
    graph = GraphBuilder()
    offsets = graph.constant("offsets", (np.arange(sum(stages)) * entries)[:, None])  # [S, 1]
    graph.add("Shape", ["codes"], "n_stages", start=1, end=2)
    graph.add("Slice", [offsets, graph.constant("begin", [0]), "n_stages"], "used")  # [n, 1]
    graph.add("Add", ["codes", "used"], "sent")
    fill = graph.constant("fill", [0, 0, 0, 0, before[-1], 0])
    graph.add("Pad", ["sent", fill, graph.constant("nothing", len(table) - 1)], "rows")
    graph.add("Gather", [graph.constant("table", table.numpy(), np.float32), "rows"], "entries", axis=0)  # [B, n, T, d]
    axis, parts = graph.constant("stage_axis", [1]), []
    for i, group in enumerate(groups):
        end = np.iinfo(np.int64).max if i + 1 == len(groups) else before[i] + stages[i]
        bounds = [graph.constant(f"begin.{i}", [before[i]]), graph.constant(f"end.{i}", [end])]
        own = graph.add("Slice", ["entries", *bounds, axis], f"entries.{i}")
        total = graph.add("ReduceSum", [own, axis], f"sum.{i}", keepdims=0)
        outside = graph.constant(f"outside.{i}", group.outside.numpy(), np.float32)
        parts.append(graph.add("MatMul", [total, outside], f"latents.{i}"))
    graph.add("Sum", parts, "latents")
    return graph.quantizer_decode(latent_dim)
