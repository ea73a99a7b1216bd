"""The quantizer as two ONNX graphs: codes from latents at a run-time stage count, and latents from codes.

Every quantizer kind (RVQ with or without projections, VQ, PQ, Gumbel) comes down to the same stage,

    code = argmax((residual @ project) @ score + bias);  residual -= table[code]

so one pair of graphs serves them all. Stages are nested, each one inside the "one more?" branch of the one before:

    stage 0; if n_stages > 1 { stage 1; if n_stages > 2 { stage 2; ... } }

so that the compute falls with `n_stages`. A Loop that gathers each stage's matrix copies it on every iteration, and its
matrix is no constant: onnxruntime cannot lay it out for its kernel at load. Nested branches hold constants.
Measured with 16 stages of 1024, D = 96, one frame, one thread, µs at 1 / 2 / 8 / 16 stages: Loop 48 / 69 / 212 / 411,
nested 32 / 47 / 133 / 255; for 750 frames both take 2.3 ms a stage.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

OPSET = 17
IR_VERSION = 8  # loads in onnxruntime 1.10 and later

_FLOAT, _INT64 = TensorProto.FLOAT, TensorProto.INT64


@dataclass(frozen=True)
class QuantizerTables:
    """The inference form of a quantizer: S stages, K entries, latents of D, code vectors of d dimensions.

    A Euclidean codebook has score = tableᵀ and bias = -|c|²/2: the largest score is then the nearest entry.
    Ties go to the lowest index.

    Raises:
        ValueError: shapes that do not fit each other, or a number that is not finite.
    """

    project: NDArray[np.float32] | None  # [S, D, d]; None when d == D and nothing is projected
    score: NDArray[np.float32]  # [S, d, K]
    bias: NDArray[np.float32]  # [S, K]
    table: NDArray[np.float32]  # [S, K, D]

    def __post_init__(self) -> None:
        stages, entries, latent_dim = self.table.shape
        code_dim = latent_dim if self.project is None else self.project.shape[2]
        shapes = {"score": (stages, code_dim, entries), "bias": (stages, entries)}
        if self.project is not None:
            shapes["project"] = (stages, latent_dim, code_dim)
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, the table asks for {shape}")
        for name in ("table", *shapes):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name} holds a number that is not finite")


def quantizer_encode_graph(tables: QuantizerTables) -> ModelProto:
    """`latents` [B, T, D] and `n_stages` (int64 scalar, 1..S) to `codes` int64 [B, n_stages, T]."""
    latent_dim = tables.table.shape[2]
    constants = [_tensor("rows", [-1, latent_dim]), _tensor("one_dim", [-1]), _tensor("first_axis", [0])]
    nested, weights, codes = _stages_from(0, "residual.0", tables)
    nodes = [
        helper.make_node("Reshape", ["latents", "rows"], ["residual.0"]),  # [B * T, D]
        *nested,
        helper.make_node("Shape", ["latents"], ["batch_time"], end=2),
        helper.make_node("Concat", ["one_dim", "batch_time"], ["codes_shape"], axis=0),
        helper.make_node("Reshape", [codes, "codes_shape"], ["stages_first"]),  # [n, B, T]
        helper.make_node("Transpose", ["stages_first"], ["codes"], perm=[1, 0, 2]),
    ]
    inputs = [
        helper.make_tensor_value_info("latents", _FLOAT, ["B", "T", latent_dim]),
        helper.make_tensor_value_info("n_stages", _INT64, []),
    ]
    outputs = [helper.make_tensor_value_info("codes", _INT64, ["B", "n_stages", "T"])]
    return _model(helper.make_graph(nodes, "quantizer_encode", inputs, outputs, constants + weights))


def quantizer_decode_graph(tables: QuantizerTables) -> ModelProto:
    """`codes` int64 [B, n, T], any n in 1..S, to `latents` [B, T, D]: one lookup in the flat table, and a sum."""
    stages, entries, latent_dim = tables.table.shape
    constants = [
        numpy_helper.from_array(np.ascontiguousarray(tables.table.reshape(-1, latent_dim)), "table"),
        _tensor("offsets", (np.arange(stages) * entries)[:, None]),  # [S, 1]
        _tensor("first_axis", [0]),
        _tensor("stage_axis", [1]),
    ]
    nodes = [
        helper.make_node("Shape", ["codes"], ["n_stages"], start=1, end=2),
        helper.make_node("Slice", ["offsets", "first_axis", "n_stages"], ["used"]),  # [n, 1]
        helper.make_node("Add", ["codes", "used"], ["rows"]),
        helper.make_node("Gather", ["table", "rows"], ["entries"], axis=0),  # [B, n, T, D]
        helper.make_node("ReduceSum", ["entries", "stage_axis"], ["latents"], keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info("codes", _INT64, ["B", "n_stages", "T"])]
    outputs = [helper.make_tensor_value_info("latents", _FLOAT, ["B", "T", latent_dim])]
    return _model(helper.make_graph(nodes, "quantizer_decode", inputs, outputs, constants))


def _stages_from(stage: int, residual: str, tables: QuantizerTables) -> tuple[list[NodeProto], list[TensorProto], str]:
    """Nodes and weights of this stage and all later ones, and the name of their codes [n_stages - stage, B * T]."""
    i = str(stage)
    nodes, weights = _one_stage(stage, residual, tables)
    nodes.append(helper.make_node("Unsqueeze", [f"code.{i}", "first_axis"], [f"row.{i}"]))
    if stage + 1 == len(tables.table):
        return nodes, weights, f"row.{i}"
    later, later_weights, later_codes = _stages_from(stage + 1, f"residual.{stage + 1}", tables)
    later.append(helper.make_node("Concat", [f"row.{i}", later_codes], [f"more.{i}"], axis=0))
    stop = [helper.make_node("Identity", [f"row.{i}"], [f"last.{i}"])]
    weights.append(_tensor(f"count.{i}", stage + 1))
    nodes += [
        helper.make_node("Gather", [f"table.{i}", f"code.{i}"], [f"entry.{i}"], axis=0),
        helper.make_node("Sub", [residual, f"entry.{i}"], [f"residual.{stage + 1}"]),
        helper.make_node("Greater", ["n_stages", f"count.{i}"], [f"continues.{i}"]),
        helper.make_node(
            "If",
            [f"continues.{i}"],
            [f"codes.{i}"],
            then_branch=_branch(f"more.{i}", later, later_weights),
            else_branch=_branch(f"last.{i}", stop, []),
        ),
    ]
    return nodes, weights, f"codes.{i}"


def _one_stage(i: int, residual: str, tables: QuantizerTables) -> tuple[list[NodeProto], list[TensorProto]]:
    """Nodes that make `code.<i>` [B * T] of the residual, and their weights with the table for its lookup."""
    table, score = tables.table[i], tables.score[i]
    last = i + 1 == len(tables.table)  # nobody looks up its entry
    nodes, weights = [], []
    query = residual
    if tables.project is not None:
        weights.append(_weight(f"project.{i}", tables.project[i]))
        nodes.append(helper.make_node("MatMul", [residual, f"project.{i}"], [f"query.{i}"]))
        query = f"query.{i}"
    weights.append(_weight(f"bias.{i}", tables.bias[i]))
    # One copy serves scoring and lookup when the scores are the transposed table.
    shared = np.array_equal(score, table.T)
    if shared or not last:
        weights.append(_weight(f"table.{i}", table))
    if not shared:
        weights.append(_weight(f"score.{i}", score))
    matrix, transposed = (f"table.{i}", 1) if shared else (f"score.{i}", 0)
    nodes += [
        helper.make_node("Gemm", [query, matrix, f"bias.{i}"], [f"scores.{i}"], transB=transposed),
        helper.make_node("ArgMax", [f"scores.{i}"], [f"code.{i}"], axis=1, keepdims=0),
    ]
    return nodes, weights


def _branch(output: str, nodes: list[NodeProto], weights: list[TensorProto]) -> GraphProto:
    value = helper.make_tensor_value_info(output, _INT64, ["stages", "rows"])
    return helper.make_graph(nodes, output, [], [value], weights)


def _tensor(name: str, value: object) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value, np.int64), name)


def _weight(name: str, value: NDArray[np.float32]) -> TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name)


def _model(graph: GraphProto) -> ModelProto:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model.producer_name = "edgecodec"
    checker.check_model(model, full_check=True)
    return model
