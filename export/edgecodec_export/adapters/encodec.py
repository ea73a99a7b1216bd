"""EnCodec (Défossez et al. 2022, arXiv:2210.13438), of transformers' or the original's names: which of its kinds it is.

    encoder  conv 7 · (residual unit, ELU, conv 2r / r) for r = 2, 4, 5, 8 · LSTM · ELU · conv 7
    decoder  conv 7 · LSTM · (ELU, transposed conv 2r / r, residual unit) for r = 8, 5, 4, 2 · ELU · conv 7

Here is the causal model (24 kHz); `encodec_chunked` has the stereo one (48 kHz), `encodec_symmetric` MusicGen's (32
kHz).

The original pads the start of a clip by reflection, which needs samples that a stream has not heard yet. The causal
model has two ways to start. `zero`: from silence; the codes of the first frames differ (most of the first 7, none after
the 22nd), all others are the original's. `exact`: as the original, where the first call of a stream has 7 frames or is
the whole clip. The symmetric one has both ways too, and they hold for its end as well.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from edgecodec.errors import CheckpointError
from edgecodec_training.causal import Causal
from edgecodec_training.convolutions import CausalConv, CausalUpsample
from torch import Tensor

from .adapted import AdaptedCodec
from .encodec_chunked import chunked_codec
from .encodec_config import LEARNING, STEREO_48_KHZ, codebooks, completed, contract, facts, kind_of
from .encodec_symmetric import symmetric_codec
from .euclidean import EuclideanQuantizer
from .seanet import Kind, seanet_decoder, seanet_encoder
from .start import MirroredConv
from .weights import Weights

Start = Literal["exact", "zero"]
# From the original package's names to those of transformers.
_ORIGINAL_NAMES = (
    (r"(encoder|decoder)\.model\.(.*)\.conv\.(conv|norm)\.(.*)", r"\1.layers.\2.\3.\4"),
    (r"(encoder|decoder)\.model\.(.*)\.convtr\.convtr\.(.*)", r"\1.layers.\2.conv.\3"),
    (r"(encoder|decoder)\.model\.(.*)\.convtr\.norm\.(.*)", r"\1.layers.\2.norm.\3"),
    (r"(encoder|decoder)\.model\.(.*)", r"\1.layers.\2"),
    (r"quantizer\.vq\.layers\.(\d+)\._codebook\.(.*)", r"quantizer.layers.\1.codebook.\2"),
)


def from_original(weights: Weights, config: dict[str, Any] | None = None, *, start: Start = "zero") -> AdaptedCodec:
    """The codec of a state dict of the `encodec` package, or of audiocraft, which has its names.

    Without a configuration, which files of `encodec` do not hold, it is the 24 or the 48 kHz model.

    Raises:
        CheckpointError: tensors that are missing, left over, or of other shapes.
    """
    renamed = weights.renamed(_ORIGINAL_NAMES)
    if config:
        return from_transformers(config, renamed, start=start)
    first = "encoder.layers.0.conv.weight"  # plain only in the stereo model, the other has weight norm
    stereo = first in renamed and renamed.take(first, -1, -1, -1).shape[1] == 2
    return from_transformers(STEREO_48_KHZ if stereo else {}, renamed, start=start)


def from_transformers(config: dict[str, Any], weights: Weights, *, start: Start = "zero") -> AdaptedCodec:
    """The codec of transformers' `EncodecModel`.

    Raises:
        CheckpointError: a configuration of no kind that is known, or that the tensors contradict; an exact start where
            there is none to choose.
    """
    if start not in ("exact", "zero"):
        raise ValueError(f"start must be exact or zero, not {start!r}")
    c = completed(config, weights.where)
    kind = kind_of(c, weights.where)
    if kind == "chunked":
        if start == "exact":
            raise CheckpointError(f"{weights.where}: EnCodec in chunks (48 kHz) starts in one way, which is exact")
        return chunked_codec(c, weights)
    if kind == "symmetric":
        return symmetric_codec(c, weights, exact=start == "exact")
    return _causal_codec(c, weights, CausalConv if start == "zero" else MirroredConv)


def _causal_codec(c: dict[str, Any], weights: Weights, kind: Kind = CausalConv) -> AdaptedCodec:
    encoder, decoder = EncodecEncoder(c, weights, kind), EncodecDecoder(c, weights, kind)
    books = codebooks(c, weights)
    weights.finish(LEARNING)
    starts = {
        "encoder_start": _start_frames(encoder, math.prod(c["upsampling_ratios"])),
        "decoder_start": _start_frames(decoder, 1),
    }
    promises = contract(c, len(books), **starts)
    return AdaptedCodec("encodec", promises, encoder, EuclideanQuantizer(books), decoder, facts(c))


class EncodecEncoder(Causal):
    """audio `[B, 1, frame_size * T]` to latents `[B, T, D]`."""

    def __init__(self, c: dict[str, Any], weights: Weights, kind: Kind) -> None:
        super().__init__()
        self.chain = seanet_encoder(c, weights, kind)
        self.state_size = self.chain.state_size

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See the class and `Causal.forward`."""
        latents, state = self.chain(x.unsqueeze(2), state)
        return latents.squeeze(2).transpose(1, 2), state


class EncodecDecoder(Causal):
    """latents `[B, T, D]` to audio `[B, 1, frame_size * T]`."""

    def __init__(self, c: dict[str, Any], weights: Weights, kind: Kind) -> None:
        super().__init__()
        self.chain = seanet_decoder(c, weights, kind)
        self.state_size = self.chain.state_size

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See the class and `Causal.forward`."""
        audio, state = self.chain(x.transpose(1, 2).unsqueeze(2), state)
        return audio.squeeze(2), state


def _start_frames(network: Causal, columns: int) -> int:
    """Least frames of a first call in which every mirrored layer sees all that it mirrors; `columns` a frame go in."""
    least = 1
    for layer in network.modules():  # in the order in which they run
        if isinstance(layer, CausalUpsample):
            columns *= layer.stride
        if isinstance(layer, MirroredConv) and layer.past:
            least = max(least, -(-(layer.past + 1) // columns))
        if isinstance(layer, CausalConv):
            columns //= layer.conv.stride[1]
    return least
