"""How every graph of a bundle is packed: one opset, one IR version, and nothing of the machine that made it."""

from __future__ import annotations

from collections.abc import Mapping

from edgecodec.errors import ExportError
from onnx import GraphProto, ModelProto, checker, helper

OPSET = 18
IR_VERSION = 8  # the first that allows opset 18: loads in onnxruntime 1.14 and later


def onnx_model(graph: GraphProto) -> ModelProto:
    """The graph as a model that was checked, shapes too."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model.producer_name = "edgecodec"
    checker.check_model(model, full_check=True)
    return model


def opset_of(graphs: Mapping[str, ModelProto]) -> int:
    """The opset that all of these graphs ask for.

    Raises:
        ExportError: graphs that ask for different ones, or for operators that are not of ONNX.
    """
    asked = {name: [(opset.domain, opset.version) for opset in graph.opset_import] for name, graph in graphs.items()}
    opset = max(int(version) for opsets in asked.values() for _, version in opsets)
    for name, opsets in asked.items():
        if opsets != [("", opset)]:
            raise ExportError(f"{name}: has opsets {opsets}, not {opset} as other graphs of the bundle")
    return opset
