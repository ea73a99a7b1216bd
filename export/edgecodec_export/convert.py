"""A trained model to the four graphs of a bundle, and to the model that these graphs must agree with.

With float16 storage or int8 arithmetic the two are not the trained model itself: it is rounded first, in torch too, so
that the comparison of both sides sees no rounding and tolerates none.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from edgecodec.errors import ExportError
from edgecodec_training.codebook_search import LookupTables
from edgecodec_training.model import CodecModel
from edgecodec_training.quantizer import Quantizer, QuantizerConfig
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor

from .fp16 import store_fp16
from .graphs import decoder_graph, encoder_graph
from .int8 import int8_tables, use_int8
from .quantizer_graphs import QuantizerTables, quantizer_decode_graph, quantizer_encode_graph

Precision = Literal["fp32", "fp16", "int8"]


class StoredQuantizer(Quantizer):
    """The inference form alone: encodes and decodes with the very numbers that a bundle stores."""

    def __init__(self, config: QuantizerConfig, latent_dim: int, tables: LookupTables) -> None:
        super().__init__(config, latent_dim)
        self._tables = tables

    def tables(self) -> LookupTables:
        """See `Quantizer.tables`."""
        return self._tables


@dataclass(frozen=True)
class Converted:
    """The graphs by name, and the torch model whose numbers they hold."""

    model: CodecModel
    graphs: dict[str, ModelProto]


def convert(trained: CodecModel, precision: Precision = "fp32", clips: Iterable[NDArray[np.float32]] = ()) -> Converted:
    """The graphs of a model in evaluation mode; int8 finds its ranges on clips [samples] of whole frames.

    Raises:
        ExportError: numbers that the precision cannot hold, or that are not finite; nothing for int8 to do.
    """
    model = stored_model(trained, precision)
    size, dim = model.config.frame_size, model.config.latent_dim
    try:
        tables, scales = model.quantizer.tables(), None
        if precision == "int8":
            use_int8(model, clips)
            tables, scales = int8_tables(tables)
            model.quantizer = _stored_quantizer(model, tables)
        quantizer = quantizer_tables(tables, scales)
        graphs = {
            "encoder": encoder_graph(model.encoder, size, dim),
            "quantizer_encode": quantizer_encode_graph(quantizer),
            "quantizer_decode": quantizer_decode_graph(quantizer),
            "decoder": decoder_graph(model.decoder, size, dim),
        }
        if precision != "fp32":
            graphs = {name: store_fp16(graph) for name, graph in graphs.items()}
    except ValueError as error:
        raise ExportError(str(error)) from None
    return Converted(model, graphs)


@torch.no_grad()
def stored_model(trained: CodecModel, precision: Precision) -> CodecModel:
    """A copy that computes with the numbers as stored: matrices rounded to float16, vectors (biases, norms) exact.

    The lapped transform is rounded with the rest: its reconstruction error is then 70 dB below the signal.

    Raises:
        ExportError: a weight that float16 cannot hold.
    """
    model = copy.deepcopy(trained)
    if precision != "fp32":
        for tensor in itertools.chain(model.parameters(), model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(_rounded(tensor))
    tables = model.quantizer.tables()
    if precision != "fp32":  # once more, for tables that are computed: projected or normalized codebooks
        project = None if tables.project is None else _rounded(tables.project)
        tables = LookupTables(project, _rounded(tables.score), tables.bias, _rounded(tables.table), tables.paths)
    model.quantizer = _stored_quantizer(model, tables)
    return model.eval().requires_grad_(False)


def _stored_quantizer(model: CodecModel, tables: LookupTables) -> StoredQuantizer:
    return StoredQuantizer(model.config.quantizer, model.config.latent_dim, tables)


def quantizer_tables(tables: LookupTables, scales: Tensor | None = None) -> QuantizerTables:
    """The same tables as numpy arrays; with `scales`, to be stored in 8 bits."""
    return QuantizerTables(
        None if tables.project is None else _array(tables.project),
        _array(tables.score),
        _array(tables.bias),
        _array(tables.table),
        tuple(tables.kept()),
        None if scales is None else _array(scales),
    )


def _rounded(tensor: Tensor) -> Tensor:
    if tensor.ndim < 2:
        return tensor
    rounded = tensor.half().float()
    if not rounded.isfinite().all():
        raise ExportError("a weight leaves the range of float16 (±65504): use --precision fp32")
    return rounded


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), np.float32)
