"""What symmetric convolutions see beyond both ends of a clip where they mirror it, as a stream finds it out.

    first call      c b | a b c d e f                    needs more columns than are mirrored
    later           [the last columns] | g h i
    last call       [the last columns] | j k | j i

A clip that is a single call may be as short as it is: as the original, it is then filled up with zeros to one column
more than are mirrored, and what comes out is cut as if nothing had been.

    a clip of two   0 b | a b | 0 b
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .graphs import TRANSLATIONS
from .start import mirrored

_END = 1 << 40  # beyond any column


@torch.library.custom_op("edgecodec::join_mirrored", mutates_args=())
def join_mirrored(past: Tensor, x: Tensor, first: Tensor, last: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """`past` [B, C, 1, P] and `x`, mirrored by `columns` before them if `first`, behind them if `last`; next past.

    If `first`, there is no past.
    """
    before = mirrored(x, columns) if first else past
    clip = x if first else torch.cat([past, x], dim=3)
    missing = max(0, columns + 1 - clip.shape[3])
    tail = nn.functional.pad(clip[..., -columns - 1 :], (0, missing))
    behind = nn.functional.pad(tail[..., -columns - 1 : -1].flip(3), (missing, 0))[..., : columns * int(last)]
    seen = torch.cat([before, x], dim=3)
    kept = torch.cat([past, seen], dim=3)[..., -past.shape[3] :]
    return torch.cat([seen, behind], dim=3), kept.clone()


@join_mirrored.register_fake
def _(past: Tensor, x: Tensor, first: Tensor, last: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    # Of a call in the middle of a stream, as in `lookahead`.
    return x.new_empty(*x.shape[:3], past.shape[3] + x.shape[3]), torch.empty_like(past)


def _join_mirrored_nodes(past: Any, x: Any, first: Any, last: Any, columns: int) -> Any:
    from onnxscript import opset18 as op

    def whole(*numbers: int) -> Any:
        return op.Constant(value_ints=list(numbers))

    axis, end, kept = whole(3), whole(_END), int(past.shape[3])
    begin = op.Pad(op.Slice(x, whole(0), whole(columns + 1), axis), whole(0, 0, 0, 0, 0, 0, 0, columns))
    before = op.Slice(begin, op.Mul(first, whole(columns)), whole(0), axis, whole(-1))  # nothing, unless first
    earlier = op.Slice(past, op.Mul(first, whole(kept)), end, axis)
    tail = op.Concat(earlier, op.Slice(x, whole(-columns - 1), end, axis), axis=3)
    missing = op.Max(op.Sub(whole(columns + 1), op.Shape(tail, start=3)), whole(0))
    tail = op.Pad(tail, op.Concat(whole(0, 0, 0, 0, 0, 0, 0), missing, axis=0))
    behind = op.Slice(tail, whole(-2), whole(-columns - 2), axis, whole(-1))
    behind = op.Pad(behind, op.Concat(whole(0, 0, 0), missing, whole(0, 0, 0, 0), axis=0))
    behind = op.Slice(behind, whole(0), op.Mul(op.Reshape(last, whole(1)), whole(columns)), axis)
    recent = op.Concat(past, before, op.Slice(x, whole(-kept), end, axis), axis=3)
    return op.Concat(before, earlier, x, behind, axis=3), op.Slice(recent, whole(-kept), end, axis)


TRANSLATIONS[torch.ops.edgecodec.join_mirrored.default] = _join_mirrored_nodes
