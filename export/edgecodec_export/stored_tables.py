"""Codebooks as a graph stores them: all stages in one constant, once, whichever branches need them."""

from __future__ import annotations

import numpy as np
import torch
from edgecodec.errors import ExportError
from edgecodec_training.codebook_search import LookupTables
from onnx import TensorProto

from .graph_builder import GraphBuilder

_MIDDLE = 128  # of unsigned bytes, stands for zero


class StoredTables:
    """Code vectors [S, K, D], which are bytes where there are scales [S, K], and biases [S, K] of all stages.

    Raises:
        ExportError: vectors that their scales cannot hold.
    """

    def __init__(self, tables: LookupTables, graph: GraphBuilder) -> None:
        self.entries, self._bias, self._graph = tables.table.shape[1], tables.bias, graph
        self._scales = ""
        if tables.scales is None:
            self._vectors = graph.constant("tables", tables.table.numpy(), np.float32)
            return
        whole = torch.round(tables.table / tables.scales)
        if whole.abs().max() >= _MIDDLE or not torch.equal(whole * tables.scales, tables.table):
            raise ExportError("a table is no whole multiple of its scales")
        self._vectors = graph.constant("tables", (whole + _MIDDLE).numpy(), np.uint8)
        self._scales = graph.constant("scales", tables.scales[:, :, 0].numpy(), np.float32)

    def add_flat(self, part: GraphBuilder) -> str:
        """All vectors as they are stored, [S * K, D], for `add_rows`."""
        return part.add("Flatten", [self._vectors], "vectors", axis=2)

    def add_rows(self, flat: str, rows: str, part: GraphBuilder) -> str:
        """The vectors [..., D] that stand in rows [...] of the flat table.

        Bytes become floats behind the lookup: in front of it, onnxruntime would keep the whole table as floats.
        """
        if not self._scales:
            return part.add("Gather", [flat, rows], "entries", axis=0)
        scales = part.add("Reshape", [self._scales, part.constant("as_list", [-1])], "flat_scales")
        found = part.add("Gather", [flat, rows], "stored_entries", axis=0)
        return self._multiplied_out(found, part.add("Gather", [scales, rows], "entry_scales", axis=0), "entries", part)

    def add_stage(self, i: int, part: GraphBuilder) -> str:
        """Stage i's vectors [K, D], which onnxruntime makes at load.

        In the part at hand: from a matrix outside, a branch multiplies a quarter slower.
        """
        stage = part.constant(f"stage.{i}", i)
        vectors = part.add("Gather", [self._vectors, stage], f"vectors.{i}", axis=0)
        scales = self._scales and part.add("Gather", [self._scales, stage], f"scales.{i}", axis=0)
        return self._multiplied_out(vectors, scales, f"table.{i}", part)

    def add_bias(self, i: int, part: GraphBuilder) -> str:
        """Stage i's biases [K], as `add_stage`."""
        return part.add("Gather", [self._biases(), part.constant(f"stage.{i}", i)], f"bias.{i}", axis=0)

    def add_turned(self, stage: str, size: int, part: GraphBuilder) -> tuple[str, str]:
        """Vectors [K, D] and biases [K, 1] of a stage that is known at run time only.

        Of each `size` entries the first one comes first, then each second one, and so on.
        """
        vectors = part.add("Gather", [self._vectors, stage], "stored_vectors", axis=0)
        if self._scales:  # in every call: as floats, all stages would take four times the memory
            scales = part.add("Gather", [self._scales, stage], "stored_scales", axis=0)
            middles = part.constant("middles", np.full(self.entries, _MIDDLE), np.uint8)
            vectors = part.add("DequantizeLinear", [vectors, scales, middles], "float_vectors", axis=0)
        biases = part.add("Gather", [self._biases(), stage], "stored_biases", axis=0)
        return self._turned(vectors, size, part), self._turned(biases, size, part)

    def _turned(self, rows: str, size: int, part: GraphBuilder) -> str:
        grouped = part.constant("grouped", [self.entries // size, size, -1])
        turned = part.add("Reshape", [rows, grouped], f"{rows}.grouped")
        turned = part.add("Transpose", [turned], f"{rows}.members", perm=[1, 0, 2])
        return part.add("Reshape", [turned, part.constant("as_table", [self.entries, -1])], f"{rows}.turned")

    def _biases(self) -> str:
        return self._graph.constant("biases", self._bias.numpy(), np.float32)

    def _multiplied_out(self, vectors: str, scales: str, name: str, part: GraphBuilder) -> str:
        """In plain arithmetic: a DequantizeLinear onnxruntime would keep, and compute anew in every call."""
        if not scales:
            return vectors
        column = part.add("Unsqueeze", [scales, part.constant("minus_one", [-1])], f"{name}.column")
        shifted = part.add("Cast", [vectors], f"{name}.shifted", to=TensorProto.FLOAT)
        middle = part.constant("middle", _MIDDLE, np.float32)
        return part.add("Mul", [part.add("Sub", [shifted, middle], f"{name}.whole"), column], name)
