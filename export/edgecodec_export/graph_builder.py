"""A graph written by hand, node by node, with branches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from .onnx_model import onnx_model


class GraphBuilder:
    """Nodes and constants of a graph, or of a branch of it, in the making.

    A branch has the small constants for itself: onnxruntime hands over whatever comes from outside in every call.
    """

    def __init__(self, root: GraphBuilder | None = None) -> None:
        self.root = root or self
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._names: dict[str, str] = {}  # of constants, by the wanted ones
        self._used: Counter[str] = root._used if root else Counter()  # wanted names, in the graph and all its branches

    def inner(self) -> GraphBuilder:
        """An empty builder for a branch."""
        return GraphBuilder(self.root)

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
        """A constant, once in each builder; returns its name."""
        if name not in self._names:
            self._names[name] = self.name(name)
            self.constants.append(numpy_helper.from_array(np.array(value, dtype, order="C"), self._names[name]))
        return self._names[name]

    def branch(self, output: str) -> GraphProto:
        """What was built as a branch that gives the int64 value of this name."""
        value = helper.make_tensor_value_info(output, TensorProto.INT64, None)
        return helper.make_graph(self.nodes, output, [], [value], self.constants)

    def quantizer_encode(self, latent_dim: int, lines: str = "n_stages", more: Sequence[str] = ()) -> ModelProto:
        """What was built as the graph of `latents` [B, T, D], `n_stages`, `more` scalars to `codes` [B, lines, T]."""
        counts = [helper.make_tensor_value_info(name, TensorProto.INT64, []) for name in ("n_stages", *more)]
        return self.model("quantizer_encode", [_latents(latent_dim), *counts], [_codes(lines)])

    def quantizer_decode(self, latent_dim: int, lines: str = "n_stages") -> ModelProto:
        """What was built as the graph of `codes` [B, lines, T] to `latents` [B, T, D]."""
        return self.model("quantizer_decode", [_codes(lines)], [_latents(latent_dim)])

    def model(self, name: str, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]) -> ModelProto:
        """What was built as a whole graph."""
        return onnx_model(helper.make_graph(self.nodes, name, inputs, outputs, self.constants))


def _latents(dim: int) -> ValueInfoProto:
    return helper.make_tensor_value_info("latents", TensorProto.FLOAT, ["B", "T", dim])


def _codes(lines: str) -> ValueInfoProto:
    return helper.make_tensor_value_info("codes", TensorProto.INT64, ["B", lines, "T"])
