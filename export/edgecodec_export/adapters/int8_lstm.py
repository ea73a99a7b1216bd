"""A layer of LSTM with both products in int8.

    x [T, B, I] -> round, * weight -> + bias --------------------+
                   all columns at once: `Int8Linear`             + -> gates -> h, c
    h [B, H]    -> round twice, * recurrence --------------------+             |
     ^             one column after the other                                  |
     +-------------------------------------------------------------------------+

h is rounded to 8 bits, and what that leaves to 8 more; both go through one product, which reads the weights once. Of 8
bits alone, a number that falls to the other side of a step would be heard in all columns after it, and two machines
whose last bits differ would not come together again.

In ONNX the columns are the steps of a Scan: see `int8_recurrence`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..int8 import FINER, STATE_STEP, WEIGHT_ZERO, Int8Linear
from .graphs import TRANSLATIONS
from .lstm import LstmLayer


@torch.library.custom_op("edgecodec::int8_recurrence", mutates_args=())
def int8_recurrence(
    gates: Tensor, weight: Tensor, weight_scale: Tensor, h: Tensor, c: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs [T, B, H], next h and next c of an LSTM that goes on from h and c [B, H].

    `gates` [T, B, 4 * H] are what the inputs give to them, in ONNX's order; `weight` uint8 [H, 4 * H] is what h is
    multiplied with.
    """
    exact, scales, outputs = weight.float() - WEIGHT_ZERO, weight_scale * STATE_STEP, []
    for of_inputs in gates:
        coarse = torch.round(h / STATE_STEP)
        fine = torch.clamp(torch.round((h - coarse * STATE_STEP) / (STATE_STEP / FINER)), -128, 127)
        product = coarse @ exact + fine @ exact / FINER
        i, o, f, new = (product * scales + of_inputs).chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * new.tanh()
        h = o.sigmoid() * c.tanh()
        outputs.append(h)
    return torch.stack(outputs), h.clone(), c.clone()


@int8_recurrence.register_fake
def _(gates: Tensor, weight: Tensor, weight_scale: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return gates.new_empty(gates.shape[0], *h.shape), torch.empty_like(h), torch.empty_like(c)


def int8_recurrence_nodes(*inputs: Any) -> Any:
    """`int8_recurrence` in ONNX, for the exporter's translation table."""
    from .int8_recurrence import recurrence

    return recurrence(*inputs)


TRANSLATIONS[torch.ops.edgecodec.int8_recurrence.default] = int8_recurrence_nodes


class Int8Lstm(nn.Module):
    """See the module, and `LstmLayer`."""

    def __init__(self, layer: LstmLayer, seen: Tensor) -> None:
        """Of a layer and what is typical for it, [N, I + H]: inputs, and beside them outputs."""
        super().__init__()
        self.hidden = layer.recurrence.shape[1]
        inputs, states = seen.split([seen.shape[1] - self.hidden, self.hidden], dim=1)
        self.inputs = Int8Linear(layer.weight, layer.bias, inputs)
        self.states = Int8Linear(layer.recurrence, None, states)

    def forward(self, x: Tensor, h: Tensor | None, c: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """See `LstmLayer.forward`."""
        gates, s = self.inputs(x) + self.states.bias, self.states
        nothing = torch.zeros_like(gates[0, :, : self.hidden])
        states = (nothing if state is None else state for state in (h, c))
        y, next_h, next_c = int8_recurrence(gates, s.weight, s.weight_scale, *states)
        return y, next_h, next_c
