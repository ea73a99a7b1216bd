"""A trained model to the four graphs of a bundle, and to the model that these graphs must agree with.

    trained model -> numbers as a bundle stores them (`stored_model`) -> graphs of these numbers (`codec_graphs`)

With float16 storage or int8 arithmetic the stored model is not the trained one: it is rounded in torch, before there
are graphs, so that the comparison of both sides sees no rounding and tolerates none.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from edgecodec_training.codebook_search import LookupTables
from edgecodec_training.model import CodecModel
from edgecodec_training.quantizer import Quantizer, QuantizerConfig
from numpy.typing import NDArray
from onnx import ModelProto
from torch import nn

from .adapters.adapted import AdaptedCodec
from .adapters.graphs import adapted_graphs
from .adapters.int8_layers import use_int8 as use_int8_layers
from .audio import channels_of
from .fp16 import round_to_fp16, store_fp16
from .graphs import decoder_graph, encoder_graph
from .int8 import int8_tables, use_int8
from .quantizer_graphs import quantizer_decode_graph, quantizer_encode_graph

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

    model: CodecModel | AdaptedCodec
    graphs: dict[str, ModelProto]


def convert(trained: CodecModel, precision: Precision = "fp32", clips: Iterable[NDArray[np.float32]] = ()) -> Converted:
    """The graphs of a model in evaluation mode; int8 finds its ranges on clips [samples] of whole frames.

    Raises:
        ExportError: numbers that the precision cannot hold, or that are not finite; nothing for int8 to do.
    """
    model = stored_model(trained, precision, clips)
    graphs = codec_graphs(model)
    if precision != "fp32":
        graphs = {name: store_fp16(graph) for name, graph in graphs.items()}
    return Converted(model, graphs)


def convert_adapted(
    published: AdaptedCodec, precision: Precision = "fp32", clips: Iterable[NDArray[np.float32]] = ()
) -> Converted:
    """The graphs of somebody else's codec; int8 is as for `convert`.

    Raises:
        ExportError: numbers that the precision cannot hold; nothing for int8 to do.
    """
    model = copy.deepcopy(published)
    if precision != "fp32":
        _round(model.encoder, model.decoder)
        model.quantizer = model.quantizer.rounded(round_to_fp16)
    if precision == "int8":
        use_int8_layers(model, (channels_of(clip, model.contract.channels) for clip in clips))
    graphs = adapted_graphs(model)
    if precision != "fp32":
        graphs = {name: store_fp16(graph) for name, graph in graphs.items()}
    return Converted(model, graphs)


@torch.no_grad()
def stored_model(trained: CodecModel, precision: Precision, clips: Iterable[NDArray[np.float32]] = ()) -> CodecModel:
    """A copy that computes with the numbers as stored: matrices rounded to float16, vectors (biases, norms) exact.

    In int8, its frame blocks multiply and its codebooks are stored in 8 bits besides. The lapped transform is rounded
    with the rest: its reconstruction error is then 70 dB below the signal.

    Raises:
        ExportError: a weight that float16 cannot hold; for int8 as `use_int8`.
    """
    model = copy.deepcopy(trained)
    if precision != "fp32":
        _round(model)
    tables = model.quantizer.tables()
    if precision != "fp32":  # once more, for tables that are computed: projected or normalized codebooks
        project = None if tables.project is None else round_to_fp16(tables.project)
        score, table = round_to_fp16(tables.score), round_to_fp16(tables.table)
        tables = tables._replace(project=project, score=score, table=table)
    model.quantizer = StoredQuantizer(model.config.quantizer, model.config.latent_dim, tables)
    model.eval().requires_grad_(False)
    if precision == "int8":
        use_int8(model, clips)
        model.quantizer = StoredQuantizer(model.config.quantizer, model.config.latent_dim, int8_tables(tables))
    return model


@torch.no_grad()
def _round(*parts: nn.Module) -> None:
    """Round all matrices of these parts to float16, in place."""
    for part in parts:
        for tensor in itertools.chain(part.parameters(), part.buffers()):
            tensor.copy_(round_to_fp16(tensor))


def codec_graphs(model: CodecModel) -> dict[str, ModelProto]:
    """The four graphs of a model, by their names in a bundle."""
    size, dim = model.config.frame_size, model.config.latent_dim
    tables = model.quantizer.tables()
    return {
        "encoder": encoder_graph(model.encoder, size, dim),
        "quantizer_encode": quantizer_encode_graph(tables),
        "quantizer_decode": quantizer_decode_graph(tables),
        "decoder": decoder_graph(model.decoder, size, dim),
    }
