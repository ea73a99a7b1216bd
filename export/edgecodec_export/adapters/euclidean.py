"""A residual quantizer with full-dimensional codebooks, as EnCodec has it: nearest entries, one path."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edgecodec_training.codebook_search import LookupTables, look_up, search
from onnx import ModelProto
from torch import Tensor

from ..quantizer_graphs import quantizer_decode_graph, quantizer_encode_graph
from .adapted import AdaptedQuantizer


class EuclideanQuantizer(AdaptedQuantizer):
    """Codebooks `[S, K, D]`; stage i takes the entry nearest to what earlier stages left (arXiv:2107.03312, III-C)."""

    def __init__(self, codebooks: Tensor) -> None:
        super().__init__()
        self.register_buffer("codebooks", codebooks)

    def tables(self) -> LookupTables:
        """The numbers of the search."""
        books = self.get_buffer("codebooks")
        return LookupTables(None, books.transpose(1, 2), -0.5 * books.square().sum(2), books)

    def encode(self, latents: Tensor, n_stages: int) -> Tensor:
        """See `AdaptedQuantizer.encode`."""
        return search(self.tables(), latents, [1] * n_stages)

    def decode(self, codes: Tensor) -> Tensor:
        """See `AdaptedQuantizer.decode`."""
        return look_up(self.tables(), codes)

    def graphs(self) -> Mapping[str, ModelProto]:
        """See `AdaptedQuantizer.graphs`."""
        tables = self.tables()
        return {"quantizer_encode": quantizer_encode_graph(tables), "quantizer_decode": quantizer_decode_graph(tables)}

    def rounded(self, rounded: Callable[[Tensor], Tensor]) -> EuclideanQuantizer:
        """See `AdaptedQuantizer.rounded`."""
        return EuclideanQuantizer(
            rounded(self.get_buffer("codebooks").flatten(0, 1)).view_as(self.get_buffer("codebooks"))
        )

    def macs(self) -> int:
        """See `AdaptedQuantizer.macs`."""
        return self.tables().macs()
