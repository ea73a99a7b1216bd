"""EnCodec's model of 32 kHz, which MusicGen has (Copet et al. 2023, arXiv:2306.05284): it sees both sides of a sample.

Its graphs hold back what they do not know yet, as those of `dac`: 4 frames in the encoder and 2,402 samples in the
decoder, 155 ms. The LSTM runs forward only.

Where `pad_mode` is reflect, the original mirrors a clip at both ends, in every layer. An exact start does that too; by
default both ends see zeros, as the original does where its `pad_mode` is constant. With random weights at the published
strides that changes the latents of the first 21 frames and of the last 4 by more than a thousandth of their size, and
the sound of the first 6 frames and of the last 4.
"""

from __future__ import annotations

import math
from typing import Any

from edgecodec.errors import CheckpointError
from torch import Tensor, nn

from .adapted import AdaptedCodec
from .dac import conv, upsample
from .encodec_config import LEARNING, codebooks, contract, facts
from .euclidean import EuclideanQuantizer
from .lookahead import (
    Edges,
    LookaheadChain,
    LookaheadDecoder,
    LookaheadEncoder,
    LookaheadLayer,
    SymmetricConv,
    SymmetricUpsample,
)
from .lstm import ResidualLstm
from .seanet import decoder_layers, encoder_layers
from .weights import Weights


def symmetric_codec(c: dict[str, Any], weights: Weights, *, exact: bool = False) -> AdaptedCodec:
    """The codec of a symmetric configuration; `exact`: its ends are the original's too.

    Raises:
        CheckpointError: kernels without a middle, tensors that contradict the configuration.
    """
    for key, least in (("kernel_size", 1), ("last_kernel_size", 1), ("residual_kernel_size", 3)):
        if c[key] % 2 == 0 or c[key] < least:
            raise CheckpointError(f"{weights.where}: {key} = {c[key]} is not adapted, only odd ones from {least}")
    mirrors = exact and c["pad_mode"] == "reflect"
    into, back = SymmetricLayers(weights, mirrors=mirrors), SymmetricLayers(weights, mirrors=mirrors)
    encoder = LookaheadEncoder(LookaheadChain(encoder_layers(c, into), into.edges))
    decoder = LookaheadDecoder(LookaheadChain(decoder_layers(c, back), back.edges))
    books = codebooks(c, weights)
    weights.finish(LEARNING)
    promises = contract(
        c,
        len(books),
        encoder_lookahead=encoder.lookahead,
        decoder_lookahead=decoder.lookahead,
        encoder_start=encoder.lookahead + 1,
        decoder_start=decoder.lookahead // math.prod(c["upsampling_ratios"]) + 1,
    )
    return AdaptedCodec("encodec", promises, encoder, EuclideanQuantizer(books), decoder, facts(c))


class EluUnit(LookaheadLayer):
    """ELU, dilated convolution, ELU, pointwise convolution, plus the input, or a pointwise convolution of it."""

    def __init__(self, wide: SymmetricConv, pointwise: nn.Conv2d, shortcut: nn.Module) -> None:
        super().__init__(wide.channels, wide.past)
        self.wide, self.pointwise, self.shortcut = wide.conv, pointwise, shortcut
        self.padding, self.edges, self.mirrored = wide.padding, wide.edges, wide.mirrored
        self.elu = nn.ELU()

    def forward(self, x: Tensor, state: Tensor, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, C, 1, T]` to the same shape."""
        # The state holds the input itself: zeros stay zeros in ELU, and columns may be mirrored before or after it.
        seen, state = self._seen(x, state, first, last, self.past - self.padding, self.padding)
        y = self.pointwise(self.elu(self.wide(self.elu(seen))))
        return self.shortcut(seen[..., self.padding : -self.padding]) + y, state


class ForwardLstm(LookaheadLayer):
    """LSTM, plus its input: it waits for nothing."""

    def __init__(self, lstm: ResidualLstm, edges: Edges) -> None:
        super().__init__(lstm.channels, 2 * len(lstm.layers))
        self.lstm, self.edges = lstm, edges

    def forward(self, x: Tensor, state: Tensor, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, C, 1, T]` to the same shape."""
        y, state = self.lstm(x, state)
        return y, state


class SymmetricLayers:
    """See `seanet.Layers`; `edges` are those of what comes out of the last layer made."""

    def __init__(self, weights: Weights, *, mirrors: bool) -> None:
        self.weights, self.mirrors, self.edges = weights, mirrors, Edges()

    def conv(
        self, name: str, inside: int, out: int, kernel: int, *, stride: int = 1, dilation: int = 1
    ) -> SymmetricConv:
        """See `seanet.Layers.conv`."""
        options = {"stride": stride, "dilation": dilation}
        layer = conv(self.weights, f"{name}.conv", inside, out, kernel, self.edges, **options)
        layer.mirrored = layer.padding if self.mirrors else 0
        self.edges = layer.edges
        return layer

    def upsample(self, name: str, inside: int, out: int, stride: int) -> SymmetricUpsample:
        """See `seanet.Layers.upsample`; of an odd stride one column more is cut off at the left."""
        layer = upsample(self.weights, f"{name}.conv", inside, out, stride, self.edges, output_padding=stride % 2)
        self.edges = layer.edges
        return layer

    def unit(self, name: str, channels: int, hidden: int, kernel: int, dilation: int, *, shortcut: bool) -> EluUnit:
        """See `seanet.Layers.unit`."""
        wide = self.conv(f"{name}.block.1", channels, hidden, kernel, dilation=dilation)
        pointwise = self.conv(f"{name}.block.3", hidden, channels, 1).conv
        around = self.conv(f"{name}.shortcut", channels, channels, 1).conv if shortcut else nn.Identity()
        return EluUnit(wide, pointwise, around)

    def lstm(self, name: str, channels: int, layers: int) -> ForwardLstm:
        """See `seanet.Layers.lstm`."""
        return ForwardLstm(ResidualLstm(channels, layers, self.weights, name), self.edges)
