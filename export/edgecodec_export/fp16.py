"""Weights in float16: half the bytes in the file, the same float32 arithmetic at run time.

The model is rounded first, in torch, by `round_to_fp16`; `store_fp16` then only writes shorter what float16 holds
exactly, so that a graph has the very numbers of the model that it is compared with.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from edgecodec.errors import ExportError
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, checker, helper, numpy_helper
from torch import Tensor

SMALLEST = 256  # elements; smaller tensors are not worth a node


def round_to_fp16(tensor: Tensor) -> Tensor:
    """A matrix with its numbers rounded to float16, still float32; vectors and scalars as they are.

    Vectors stay exact: they are small, and the |c|²/2 of a codebook entry decides between near neighbours.

    Raises:
        ExportError: a number that is not finite, or beyond ±65504, the range of float16.
    """
    if tensor.ndim < 2 or not tensor.is_floating_point():
        return tensor
    rounded = tensor.half().float()
    if not rounded.isfinite().all():
        raise ExportError("a weight leaves the range of float16 (±65504): use --precision fp32")
    return rounded


def store_fp16(model: ModelProto) -> ModelProto:
    """A copy whose matrices of at least 256 numbers, all of float16, are stored so and cast back in the graph.

    onnxruntime folds the casts when it loads the graph, also in branches and loop bodies, so that speed is that of
    float32.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    _store(copy.graph)
    checker.check_model(copy)
    return copy


def _store(graph: GraphProto) -> None:
    for branch in _branches(graph):
        _store(branch)
    inputs = {value.name for value in graph.input}  # an initializer that is also an input is only a default
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2 or tensor.name in inputs:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < SMALLEST or not _is_fp16(values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.fp16"))
        casts.append(helper.make_node("Cast", [f"{name}.fp16"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _branches(graph: GraphProto) -> Iterator[GraphProto]:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield attribute.g
            elif attribute.type == AttributeProto.GRAPHS:
                yield from attribute.graphs


def _is_fp16(values: NDArray[np.float32]) -> bool:
    with np.errstate(over="ignore"):
        return np.array_equal(values.astype(np.float16), values)
