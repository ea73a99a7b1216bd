"""Encoder and decoder as ONNX graphs with packed state, any batch size and any number of frames.

`torch.onnx.export` leaves the exporting machine's source paths in the metadata of every node; the graphs made here
hold nothing of the machine, and the same weights give the same bytes.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from edgecodec_training.causal import Causal
from onnx import GraphProto, ModelProto, helper
from torch import Tensor

from .int8 import int8_product_nodes
from .onnx_model import OPSET, onnx_model


def encoder_graph(encoder: Causal, frame_size: int, latent_dim: int) -> ModelProto:
    """`audio` [B, 1, frame_size * T] and `state` [B, S] to `latents` [B, T, D] and `next_state` [B, S]."""
    batch, frames = torch.export.Dim("B"), torch.export.Dim("T")
    audio, state = torch.zeros(2, 1, 3 * frame_size), torch.zeros(2, encoder.state_size)
    program = exported(encoder, [audio, state], ("audio", "latents"), {0: batch, 2: frame_size * frames})
    return clean(program, "encoder", ["B", "T", latent_dim])


def decoder_graph(decoder: Causal, frame_size: int, latent_dim: int) -> ModelProto:
    """`latents` [B, T, D] and `state` [B, S] to `audio` [B, 1, frame_size * T] and `next_state` [B, S]."""
    batch, frames = torch.export.Dim("B"), torch.export.Dim("T")
    latents, state = torch.zeros(2, 3, latent_dim), torch.zeros(2, decoder.state_size)
    program = exported(decoder, [latents, state], ("latents", "audio"), {0: batch, 1: frames})
    return clean(program, "decoder", ["B", 1, f"{frame_size}*T"])


def exported(
    module: Causal,
    example: Sequence[Tensor],
    names: tuple[str, str],
    dynamic: dict[int, Any],
    translations: Mapping[Any, Callable[..., Any]] | None = None,
) -> ModelProto:
    """The graph of a layer, traced on its example inputs: x, `state` and, where it looks ahead, `last` (a scalar).

    `names` are those of x and of the result, `dynamic` the axes of x that may vary (0 is the batch), `translations`
    the ONNX forms of more custom operators.
    """
    source, result = names
    with _quiet():
        program = torch.onnx.export(
            module,
            tuple(example),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[source, "state", "last"][: len(example)],
            output_names=[result, "next_state"],
            dynamic_shapes=(dynamic, {0: dynamic[0]}, {})[: len(example)],
            custom_translation_table={
                torch.ops.aten.gelu.default: _gelu(),
                torch.ops.aten.view.default: _view(),
                torch.ops.aten._unsafe_view.default: _view(),
                torch.ops.edgecodec.int8_product.default: int8_product_nodes,
                **(translations or {}),
            },
            external_data=False,
        )
    assert program is not None  # with dynamo=True
    return program.model_proto


def _gelu() -> Callable[..., Any]:
    """Exact GELU in the order of operations that onnxruntime knows, so that it fuses it with the bias before it.

    torch writes x * (0.5 * (1 + erf(x / sqrt 2))), which stays five nodes.
    """
    from onnxscript import opset18 as op

    def gelu(x: Any, approximate: str = "none") -> Any:
        if approximate != "none":
            raise ValueError(f"only the exact GELU is exported, not {approximate!r}")
        erf = op.Erf(op.Div(x, op.Constant(value_float=2**0.5)))
        return op.Mul(op.Mul(x, op.Add(erf, op.Constant(value_float=1.0))), op.Constant(value_float=0.5))

    return gelu


def _view() -> Callable[..., Any]:
    """Reshape to constants: 0 keeps the batch, -1 is what grows with T. torch would compute both in several nodes."""
    from onnxscript import opset18 as op

    def view(x: Any, size: Sequence[Any]) -> Any:
        batch, *others = size
        shape = [batch if isinstance(batch, int) else 0]
        shape += [length if isinstance(length, int) else -1 for length in others]
        constant: Any = op.Constant(value_ints=shape)
        return op.Reshape(x, constant)

    return view


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes about itself (optional packages, renamed dimensions) off the terminal."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def clean(exported: ModelProto, name: str, result_shape: Sequence[int | str]) -> ModelProto:
    """Only what a runtime needs: no metadata, no inner shapes, and a header that does not vary."""
    graph = GraphProto()
    graph.CopyFrom(exported.graph)
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    graph.ClearField("value_info")
    graph.name = name
    result = graph.output[0]
    result.CopyFrom(helper.make_tensor_value_info(result.name, result.type.tensor_type.elem_type, result_shape))
    return onnx_model(graph)
