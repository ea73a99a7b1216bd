"""Storage precision of graphs: half the bytes in the file, the same float32 arithmetic at run time."""

from __future__ import annotations

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, checker, helper, numpy_helper

SMALLEST = 256  # elements; smaller tensors are not worth a node
FP16_MAX = float(np.finfo(np.float16).max)  # 65504


def store_fp16(model: ModelProto) -> ModelProto:
    """A copy whose float32 matrices of at least 256 elements are stored as float16 and cast back in the graph.

    Vectors stay: they are small, and the |c|²/2 of a codebook entry decides between near neighbours.
    onnxruntime folds the casts when it loads the graph, also in branches and loop bodies, so that speed is that of
    float32. The rounded values are the model's values from then on: verify the copy, not the original.

    Raises:
        ValueError: a weight beyond ±65504, the range of float16, or not finite.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    _store(copy.graph)
    checker.check_model(copy)
    return copy


def _store(graph: GraphProto) -> None:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _store(attribute.g)
            elif attribute.type == AttributeProto.GRAPHS:
                for branch in attribute.graphs:
                    _store(branch)
    inputs = {value.name for value in graph.input}  # an initializer that is also an input is only a default
    casts = []
    for tensor in graph.initializer:
        is_matrix = tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1
        if not is_matrix or tensor.name in inputs or np.prod(tensor.dims) < SMALLEST:
            continue
        values = numpy_helper.to_array(tensor)
        if not np.isfinite(values).all() or np.abs(values).max() > FP16_MAX:
            raise ValueError(f"weight {tensor.name!r} leaves the range of float16 (±65504): store it as float32")
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.fp16"))
        casts.append(helper.make_node("Cast", [f"{name}.fp16"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
