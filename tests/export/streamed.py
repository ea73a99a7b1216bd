"""Codecs that look ahead, for the modules that test their adapters: graphs in onnxruntime, streams, and differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime
from edgecodec_export.adapters.adapted import AdaptedCodec
from edgecodec_export.adapters.graphs import adapted_graphs
from onnx import ModelProto

Run = Callable[..., list[Any]]


def in_onnxruntime(graph: ModelProto) -> Run:
    """A graph on one thread, as the runtime has it: several cut sums elsewhere, and the last bits may differ."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    return lambda *inputs: session.run(None, dict(zip(names, map(np.asarray, inputs), strict=True)))


class Streamed:
    """A codec of ours in torch, and its graphs in onnxruntime; encoder and decoder look ahead."""

    def __init__(self, ours: AdaptedCodec) -> None:
        self.ours, self.contract = ours, ours.contract
        self.models = adapted_graphs(ours)
        self.graphs = {name: in_onnxruntime(graph) for name, graph in self.models.items()}

    def stream(self, part: str, x: Any, cuts: Sequence[int]) -> np.ndarray[Any, Any]:
        """x [B, ...] through a graph, cut at frames; the last call has what is left, perhaps nothing."""
        axis, size = (2, self.contract.frame_size) if part == "encoder" else (1, 1)
        width = getattr(self.ours, part).state_size
        state, out = np.zeros((len(x), width), np.float32), []
        pieces = np.split(np.asarray(x), [cut * size for cut in cuts], axis=axis)
        for i, piece in enumerate(pieces):
            y, state = self.graphs[part](piece, state, np.array(int(i + 1 == len(pieces))))
            assert state.shape == (len(x), width)
            out.append(y)
        return np.concatenate(out, axis=3 - axis)


def apart(a: Any, b: Any) -> float:
    """The largest difference, in sizes of the first."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(a).max())
