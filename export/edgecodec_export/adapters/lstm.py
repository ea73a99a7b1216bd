"""The LSTM as a layer with functional state: in torch its own kernel, in ONNX the operator `LSTM` with initial states.

An LSTM that torch exports is tied to one length or one batch; as an operator of ours both stay free, and onnxruntime
runs it in one kernel. Long Short-Term Memory: Hochreiter and Schmidhuber 1997.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from edgecodec_training.causal import Causal
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from .graphs import TRANSLATIONS
from .weights import Weights

_ONNX_GATES, _TORCH_GATES = "iofc", "ifco"


def _reordered(rows: Tensor, have: str, want: str) -> Tensor:
    """The rows of four gates, [4 * H, …], in another order of the gates."""
    gates = dict(zip(have, rows.chunk(4), strict=True))
    return torch.cat([gates[gate] for gate in want])


@torch.library.custom_op("edgecodec::lstm", mutates_args=())
def lstm(
    x: Tensor, weight: Tensor, recurrence: Tensor, bias: Tensor, h: Tensor | None, c: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """`x` [T, B, I] after the states h and c [1, B, H], gates in ONNX's order; outputs [T, B, H], next h, next c.

    Without states it starts from zeros.
    """
    w, r, b = (_reordered(rows, _ONNX_GATES, _TORCH_GATES) for rows in (weight, recurrence, bias))
    parts = [w.contiguous(), r.contiguous(), b.contiguous(), torch.zeros_like(b)]
    nothing = x.new_zeros(1, x.shape[1], recurrence.shape[1])
    states = (nothing if h is None else h, nothing if c is None else c)
    y, next_h, next_c = torch.lstm(x, states, parts, True, 1, 0.0, False, False, False)
    return y.clone(), next_h.clone(), next_c.clone()


@lstm.register_fake
def _(
    x: Tensor, weight: Tensor, recurrence: Tensor, bias: Tensor, h: Tensor | None, c: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    batch, hidden = x.shape[1], recurrence.shape[1]
    return x.new_empty(x.shape[0], batch, hidden), x.new_empty(1, batch, hidden), x.new_empty(1, batch, hidden)


@register_flop_formula(torch.ops.edgecodec.lstm)
def _flops(x: Any, weight: Any, recurrence: Any, *_: Any, **__: Any) -> int:
    steps = int(x[0] * x[1])
    return 2 * steps * int(weight[0] * weight[1] + recurrence[0] * recurrence[1])


def lstm_nodes(x: Any, weight: Any, recurrence: Any, bias: Any, h: Any = None, c: Any = None) -> Any:
    """`lstm` in ONNX, for the exporter's translation table."""
    from onnxscript import opset18 as op

    axis: Any = op.Constant(value_ints=[0])
    direction: Any = op.Constant(value_ints=[1])
    none = op.Sub(bias, bias)  # ONNX adds two biases
    both = op.Unsqueeze(op.Concat(bias, none, axis=0), axis)
    y, next_h, next_c = op.LSTM(
        x,
        op.Unsqueeze(weight, axis),
        op.Unsqueeze(recurrence, axis),
        both,
        None,
        h,
        c,
        hidden_size=int(recurrence.shape[1]),
    )
    return op.Squeeze(y, direction), next_h, next_c


TRANSLATIONS[torch.ops.edgecodec.lstm.default] = lstm_nodes


class LstmLayer(nn.Module):
    """One layer; weights of the four gates below each other, in ONNX's order."""

    def __init__(self, weight: Tensor, recurrence: Tensor, bias: Tensor) -> None:
        """Of a weight `[4 * H, I]`, a recurrence `[4 * H, H]` and a bias `[4 * H]` in torch's order."""
        super().__init__()
        self.weight, self.recurrence, self.bias = (
            nn.Parameter(_reordered(rows, _TORCH_GATES, _ONNX_GATES)) for rows in (weight, recurrence, bias)
        )

    def forward(self, x: Tensor, h: Tensor | None, c: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """`[T, B, I]` and states `[B, H]`, zeros where there are none, to `[T, B, H]` and the next states."""
        states = (None if state is None else state.unsqueeze(0) for state in (h, c))
        y, next_h, next_c = lstm(x, self.weight, self.recurrence, self.bias, *states)
        return y, next_h.squeeze(0), next_c.squeeze(0)


class ResidualLstm(Causal):
    """Layers of LSTM over columns `[B, C, 1, T]`, plus their input (EnCodec, arXiv:2210.13438, section 3.1)."""

    def __init__(self, channels: int, layers: int, weights: Weights, prefix: str) -> None:
        super().__init__()
        self.channels = channels
        self.layers = nn.ModuleList(_layer(channels, weights, prefix, i) for i in range(layers))
        self.state_size = 2 * layers * channels

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, C, 1, T]` to the same shape."""
        y, following = self._run(x, state.split(self.channels, dim=1))
        return y, torch.cat(following, dim=1)

    def whole(self, x: Tensor) -> Tensor:
        """As `forward`, of columns that nothing comes before or after: no state is read or kept."""
        return self._run(x, [None] * 2 * len(self.layers))[0]

    def _run(self, x: Tensor, states: Sequence[Tensor | None]) -> tuple[Tensor, list[Tensor]]:
        """Columns, and of each layer h and c `[B, C]`."""
        y, following = x.squeeze(2).permute(2, 0, 1), []  # [T, B, C]
        for i, layer in enumerate(self.layers):
            y, *after = layer(y, states[2 * i], states[2 * i + 1])
            following += after
        return x + y.permute(1, 2, 0).unsqueeze(2), following


def _layer(channels: int, weights: Weights, prefix: str, i: int) -> LstmLayer:
    weight = weights.take(f"{prefix}.weight_ih_l{i}", 4 * channels, channels)
    recurrence = weights.take(f"{prefix}.weight_hh_l{i}", 4 * channels, channels)
    bias = weights.take(f"{prefix}.bias_ih_l{i}", 4 * channels)
    return LstmLayer(weight, recurrence, bias + weights.take(f"{prefix}.bias_hh_l{i}", 4 * channels))
