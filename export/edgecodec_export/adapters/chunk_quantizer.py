"""The quantizer of a codec whose frame is a chunk: many columns of codes, and the chunk's scale beside them.

    lines of a frame   4 of the scale · stage 0 at each column · stage 1 at each column · …

The scale is kept whole, for it multiplies every sample: line 0 is the exponent byte of its float32, lines 1 to 3 are
the 23 bits of its mantissa, highest first. ONNX cannot look at the bits of a number, so the graph counts the powers of
two up to it, and divides by the last of them: both are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from onnx import ModelProto, TensorProto
from torch import Tensor

from ..graph_builder import GraphBuilder
from .adapted import AdaptedQuantizer

SIDE = 4  # lines of the scale
_BYTES = np.array([1 << 16, 1 << 8, 1])[:, None]  # what one counts in each line of the mantissa
_POWERS = np.ldexp(np.float32(1), np.arange(-126, 128))  # all that float32 has, but denormal ones
_LOUDEST = np.float32(2**16)  # beyond any sound: codes from strangers decode to nothing that is not finite
_LARGEST = float(np.nextafter(2 * _LOUDEST, np.float32(0)))


class ChunkQuantizer(AdaptedQuantizer):
    """Latents `[B, T, columns * D + 1]`: the columns go to a quantizer of `[B, T, D]`, the last number is the scale."""

    def __init__(self, inner: AdaptedQuantizer, columns: int, dim: int) -> None:
        super().__init__()
        self.inner, self.columns, self.dim = inner, columns, dim

    def encode(self, latents: Tensor, n_stages: int) -> Tensor:
        """See `AdaptedQuantizer.encode`."""
        batch, frames = latents.shape[:2]
        codes = self.inner.encode(latents[..., :-1].reshape(batch, -1, self.dim), n_stages)
        lines = codes.reshape(batch, n_stages, frames, self.columns).transpose(2, 3).flatten(1, 2)
        return torch.cat([_scale_lines(latents[..., -1]), lines], dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """See `AdaptedQuantizer.decode`."""
        batch, _, frames = codes.shape
        columns = codes[:, SIDE:].reshape(batch, -1, self.columns, frames).transpose(2, 3).flatten(2)
        vectors = self.inner.decode(columns).reshape(batch, frames, -1)
        return torch.cat([vectors, _scale_of(codes[:, :SIDE])[..., None]], dim=2)

    def graphs(self) -> Mapping[str, ModelProto]:
        """See `AdaptedQuantizer.graphs`."""
        inner = self.inner.graphs()
        return {
            "quantizer_encode": self._encode_graph(inner["quantizer_encode"]),
            "quantizer_decode": self._decode_graph(inner["quantizer_decode"]),
        }

    def rounded(self, rounded: Callable[[Tensor], Tensor]) -> ChunkQuantizer:
        """See `AdaptedQuantizer.rounded`."""
        return ChunkQuantizer(self.inner.rounded(rounded), self.columns, self.dim)

    def macs(self) -> int:
        """See `AdaptedQuantizer.macs`."""
        return self.columns * self.inner.macs()

    def _encode_graph(self, inner: ModelProto) -> ModelProto:
        """`latents` [B, T, columns * D + 1] and `n_stages` to `codes` int64 [B, lines, T]."""
        graph, width = GraphBuilder(), self.columns * self.dim
        split = graph.constant("columns_and_scale", [width, 1])
        graph.add("Split", ["latents", split], "chunk_columns", "scale", axis=2)
        graph.add("Reshape", ["chunk_columns", graph.constant("one_a_row", [0, -1, self.dim])], "columns")
        _include(inner, {"latents": "columns", "codes": "column_codes"}, graph)  # [B, n, T * columns]
        graph.add("Reshape", ["column_codes", graph.constant("of_chunks", [0, 0, -1, self.columns])], "by_chunk")
        graph.add("Transpose", ["by_chunk"], "by_column", perm=[0, 1, 3, 2])  # [B, n, columns, T]
        frames = graph.add("Shape", ["latents"], "frames_of_clip", start=1, end=2)
        graph.add("Concat", [graph.constant("batch_lines", [0, -1]), frames], "as_lines", axis=0)
        graph.add("Reshape", ["by_column", "as_lines"], "lines_of_columns")
        graph.add("Concat", [*_add_scale_lines(graph), "lines_of_columns"], "codes", axis=1)
        return graph.quantizer_encode(width + 1, "lines")

    def _decode_graph(self, inner: ModelProto) -> ModelProto:
        """`codes` int64 [B, lines, T], of any whole number of stages, to `latents` [B, T, columns * D + 1]."""
        graph, width = GraphBuilder(), self.columns * self.dim
        begin, end, axis = (graph.constant(*c) for c in (("side", [SIDE]), ("all", [1 << 40]), ("line_axis", [1])))
        graph.add("Slice", ["codes", begin, end, axis], "lines_of_columns")
        frames = graph.add("Shape", ["codes"], "frames_of_clip", start=2, end=3)
        graph.add("Concat", [graph.constant("stages_columns", [0, -1, self.columns]), frames], "as_columns", axis=0)
        graph.add("Reshape", ["lines_of_columns", "as_columns"], "by_column")
        graph.add("Transpose", ["by_column"], "by_chunk", perm=[0, 1, 3, 2])
        graph.add("Reshape", ["by_chunk", graph.constant("one_a_row", [0, 0, -1])], "column_codes")
        _include(inner, {"latents": "columns", "codes": "column_codes"}, graph)  # [B, T * columns, D]
        graph.add("Reshape", ["columns", graph.constant("of_chunks", [0, -1, width])], "chunk_columns")
        graph.add("Concat", ["chunk_columns", _add_scale(graph)], "latents", axis=2)
        return graph.quantizer_decode(width + 1, "lines")


def _include(model: ModelProto, names: Mapping[str, str], graph: GraphBuilder) -> None:
    """Add the nodes of a whole graph, its input and output under other names; its own must not be in `graph` yet."""
    for node in model.graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]
        graph.nodes.append(node)
    graph.constants.extend(model.graph.initializer)


def _scale_lines(scale: Tensor) -> Tensor:
    """Scales `[B, T]` as lines `[B, 4, T]`."""
    bits = scale.clamp(0, _LARGEST).contiguous().view(torch.int32).long()
    return torch.stack([bits >> 23, bits >> 16 & 127, bits >> 8 & 255, bits & 255], dim=1)


def _scale_of(lines: Tensor) -> Tensor:
    """Lines `[B, 4, T]` as scales `[B, T]`; exponents above that of the loudest count as that."""
    exponent, mantissa = lines[:, 0], (lines[:, 1:] * torch.from_numpy(_BYTES)).sum(1)
    powers = torch.from_numpy(_powers_by_exponent())
    return (mantissa.float() * 2.0**-23 + (exponent > 0).float()) * powers[exponent]


def _powers_by_exponent() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """What 1 counts, for each exponent byte."""
    powers: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = np.concatenate([_POWERS[:1], _POWERS, _POWERS[-1:]])
    return np.clip(powers, None, _LOUDEST)


def _add_scale_lines(graph: GraphBuilder) -> list[str]:
    """Add what makes lines of `scale` [B, T, 1]: names of the exponent [B, 1, T] and of the mantissa [B, 3, T]."""
    none, largest = (graph.constant(n, v, np.float32) for n, v in (("none", 0), ("largest", _LARGEST)))
    graph.add("Transpose", [graph.add("Clip", ["scale", none, largest], "in_range")], "scale_line", perm=[0, 2, 1])
    powers, axis = graph.constant("powers", _POWERS[:, None], np.float32), graph.constant("line_axis", [1])
    reached = graph.add("GreaterOrEqual", ["scale_line", powers], "reached")  # [B, 254, T]
    graph.add("Cast", [reached], "reached_or_not", to=TensorProto.INT64)
    exponent = graph.add("ReduceSum", ["reached_or_not", axis], "exponent")
    table = graph.constant("powers_by_exponent", _powers_by_exponent(), np.float32)
    power = graph.add("Gather", [table, exponent], "power")
    graph.add("Div", ["scale_line", power], "fraction")  # 1 up to 2; less than 1 where the exponent is 0
    graph.add("Sub", ["fraction", _add_leading_bit(exponent, graph)], "rest")
    graph.add("Mul", ["rest", graph.constant("steps", 1 << 23, np.float32)], "mantissa_as_float")
    graph.add("Cast", ["mantissa_as_float"], "mantissa", to=TensorProto.INT64)
    graph.add("Div", ["mantissa", graph.constant("bytes", _BYTES)], "from_each_byte")
    return [exponent, graph.add("Mod", ["from_each_byte", graph.constant("byte", 256)], "mantissa_lines")]


def _add_scale(graph: GraphBuilder) -> str:
    """Add what makes scales of the first lines of `codes`: the name of [B, T, 1]."""
    axis, bounds = graph.constant("line_axis", [1]), [graph.constant(f"line.{i}", [i]) for i in (0, 1, SIDE)]
    exponent = graph.add("Slice", ["codes", *bounds[:2], axis], "exponent")
    graph.add("Slice", ["codes", *bounds[1:], axis], "mantissa_lines")
    graph.add("Mul", ["mantissa_lines", graph.constant("bytes", _BYTES)], "of_each_byte")
    mantissa = graph.add(
        "Cast", [graph.add("ReduceSum", ["of_each_byte", axis], "sum")], "mantissa", to=TensorProto.FLOAT
    )
    graph.add("Mul", [mantissa, graph.constant("step", 2.0**-23, np.float32)], "rest")
    graph.add("Add", ["rest", _add_leading_bit(exponent, graph)], "fraction")
    power = graph.add(
        "Gather", [graph.constant("powers_by_exponent", _powers_by_exponent(), np.float32), exponent], "power"
    )
    line = graph.add("Mul", ["fraction", power], "scale_line")
    return graph.add("Transpose", [line], "scale", perm=[0, 2, 1])


def _add_leading_bit(exponent: str, graph: GraphBuilder) -> str:
    """Add the bit before the mantissa: 1, or 0 where the exponent is 0."""
    normal = graph.add("Greater", [exponent, graph.constant("zero", 0)], "normal")
    return graph.add("Cast", [normal], "leading_bit", to=TensorProto.FLOAT)
