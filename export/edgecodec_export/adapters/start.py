"""Causal convolutions whose past before the first column is made of the columns after it, not of silence."""

from __future__ import annotations

from typing import Any

import torch
from edgecodec_training.convolutions import CausalConv
from torch import Tensor, nn

from .graphs import TRANSLATIONS


@torch.library.custom_op("edgecodec::mirrored", mutates_args=())
def mirrored(x: Tensor, past: int) -> Tensor:
    """Columns `past` to 1 of `x` [B, C, 1, T], zeros where it has fewer: what reflection puts before column 0."""
    return nn.functional.pad(x[..., : past + 1], (0, past))[..., 1 : past + 1].flip(3)


@mirrored.register_fake
def _(x: Tensor, past: int) -> Tensor:
    return x.new_empty(*x.shape[:3], past)


def _mirrored_nodes(x: Any, past: int) -> Any:
    from onnxscript import opset18 as op

    def whole(*numbers: int) -> Any:
        return op.Constant(value_ints=list(numbers))

    first = op.Slice(x, whole(0), whole(past + 1), whole(3))
    padded = op.Pad(first, whole(0, 0, 0, 0, 0, 0, 0, past))
    return op.Slice(padded, whole(past), whole(0), whole(3), whole(-1))


TRANSLATIONS[torch.ops.edgecodec.mirrored.default] = _mirrored_nodes


class StartedConv(CausalConv):
    """As `CausalConv`, but `first_past` says what was before the first column.

    The state is `[B, C * past]` and one number that is 0 before the first call, 1 after it.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel, stride=stride, dilation=dilation)
        self.state_size = in_channels * self.past + 1 if self.past else 0

    def first_past(self, x: Tensor) -> Tensor:
        """`[B, C, 1, past]`, or one column for all, of the columns of the first call."""
        raise NotImplementedError

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, C, 1, T]` to `[B, C', 1, T / stride]`."""
        if self.past == 0:
            return self.conv(x), state
        kept, started = state.split([self.channels * self.past, 1], dim=1)
        kept = kept.reshape(-1, self.channels, 1, self.past)
        past = torch.where(started[:, :, None, None] > 0, kept, self.first_past(x))
        y, kept = super().forward(x, past.flatten(1))
        return y, torch.cat([kept, torch.ones_like(started)], dim=1)


class MirroredConv(StartedConv):
    """Started by reflection: exact if the first call has more columns than the layer's past.

    first call:  c b | a b c d      later: the last columns that it saw
    """

    def first_past(self, x: Tensor) -> Tensor:
        """See `StartedConv.first_past`."""
        past: Tensor = mirrored(x, self.past)
        return past


class RepeatedConv(StartedConv):
    """Started by copies of the first column.

    first call:  a a | a b c d      later: the last columns that it saw
    """

    def first_past(self, x: Tensor) -> Tensor:
        """See `StartedConv.first_past`."""
        return x[..., :1]
