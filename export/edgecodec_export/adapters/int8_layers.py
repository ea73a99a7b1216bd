"""int8 products in the large layers of somebody else's codec, with ranges found on sound that runs through it.

What `int8` does for frame blocks, for linear layers, LSTMs and causal convolutions. A frame of a stream reads all
weights for a column or two: 100 MB in the transformers of Mimi, 30 MB on each side of EnCodec, which is most of its
time on one core.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from edgecodec.errors import ExportError
from edgecodec_training.convolutions import CausalConv
from numpy.typing import NDArray
from torch import Tensor, nn

from ..int8 import LEAST_WEIGHTS, Int8Linear, inputs_of, int8_linear, linear_rows, replace_layers
from .adapted import AdaptedCodec
from .int8_lstm import Int8Lstm
from .lstm import LstmLayer

_MOST_ROWS = 4096  # of inputs that a layer's range is found on
_CONVOLUTIONS = 16  # times the least weights of other layers: their columns must be laid out as rows first


class Int8Conv(nn.Module):
    """A convolution as one int8 product of its windows."""

    def __init__(self, layer: nn.Conv2d, rows: Tensor) -> None:
        """Of a layer and `windows` that are typical for it."""
        super().__init__()
        self.kernel, self.stride = layer.kernel_size[1], layer.stride[1]
        blocks = layer.weight.reshape(layer.out_channels, layer.in_channels, -1, self.stride)
        self.product = Int8Linear(blocks.transpose(1, 2).flatten(1), layer.bias, rows)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, 1, T]` to `[B, C', 1, T']`."""
        y: Tensor = self.product(windows(x, self.kernel, self.stride))
        return y.transpose(1, 2).unsqueeze(2)


def windows(x: Tensor, kernel: int, stride: int) -> Tensor:
    """What a convolution sees of `x` [B, C, 1, T] for each of its columns, as rows [B, T', C * kernel].

    Blocks of a stride each are put beside those that follow: kernel 4, stride 2, `12 34 56` gives `1234` and `3456`.
    """
    blocks = x.reshape(x.shape[0], x.shape[1], -1, stride).transpose(1, 2).flatten(2)  # [B, T / stride, C * stride]
    later = kernel // stride - 1
    return torch.cat([blocks[:, i : i - later or None] for i in range(later + 1)], dim=2)


@torch.no_grad()
def use_int8(codec: AdaptedCodec, clips: Iterable[NDArray[np.float32]], *, least: int = LEAST_WEIGHTS) -> None:
    """Give layers of `least` weights or more int8 form; clips are `[channels, samples]` of whole frames.

    Raises:
        ExportError: no layer that is large enough, or no clip.
    """
    layers = dict(_large_layers(codec, least))
    if not layers:
        raise ExportError(f"{codec.architecture} has no layer that is large enough to gain from int8")
    sounds = (torch.from_numpy(clip)[None] for clip in clips)
    seen = inputs_of(layers, codec, sounds, codec.contract.max_stages, rows=_rows)
    replace_layers(codec, {name: rows[:: -(-len(rows) // _MOST_ROWS)] for name, rows in seen.items()}, _int8)


def _large_layers(codec: AdaptedCodec, least: int) -> Iterator[tuple[str, nn.Module]]:
    """Layers that have an int8 form, by their names in the codec.

    Convolutions only beside an LSTM, where reading weights is most of what a frame takes. Mimi's frames of 80 ms do
    without: what their rounding costs there is more than that of all transformers.
    """
    parts = {"encoder": codec.encoder, "decoder": codec.decoder}
    named = [(f"{part}.{name}", layer) for part, of_part in parts.items() for name, layer in of_part.named_modules()]
    recurrent = any(isinstance(layer, LstmLayer) for _, layer in named)
    for name, layer in named:
        if isinstance(layer, nn.Linear | LstmLayer) and layer.weight.numel() >= least:
            yield name, layer
        if recurrent and isinstance(layer, CausalConv) and _is_rows(layer.conv, _CONVOLUTIONS * least):
            yield f"{name}.conv", layer.conv


def _is_rows(conv: nn.Conv2d, least: int) -> bool:
    """Whether a convolution is large enough, and its windows are of whole strides."""
    return conv.weight.numel() >= least and conv.kernel_size[1] % conv.stride[1] == 0 and conv.dilation == (1, 1)


def _rows(layer: nn.Module, x: Tensor, y: Any) -> Tensor:
    """What the products of a layer see; see `inputs_of`."""
    if isinstance(layer, nn.Conv2d):
        return windows(x, layer.kernel_size[1], layer.stride[1]).flatten(0, 1)
    if isinstance(layer, LstmLayer):
        return torch.cat([x, y[0]], dim=2).flatten(0, 1)
    return linear_rows(layer, x, y)


def _int8(layer: nn.Module, seen: Tensor) -> nn.Module:
    if isinstance(layer, nn.Conv2d):
        return Int8Conv(layer, seen)
    return Int8Lstm(layer, seen) if isinstance(layer, LstmLayer) else int8_linear(layer, seen)
