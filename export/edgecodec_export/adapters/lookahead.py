"""Streams of networks that see the future: symmetric convolutions, exact at both ends of a clip.

A symmetric convolution is a valid one over what is left of earlier calls, the new columns, and zeros after the last:

    first call      0 0 0 | a b c d e f                   gives 3 columns fewer than it got
    later           [the last columns] | g h i            as many as it got
    last call       [the last columns] | j k | 0 0 0      the 3 that were held back too

What a layer holds back, the next one gets late, so that the numbers of columns are worked out when the layers are put
together (`Edges`). `first` is known from a flag in the state, `last` is an input. Only the small state is cut, never
the audio, and no mask is computed: the sums are those of the whole clip, whatever the cuts.

Columns are `[B, C, 1, T]`, as in `edgecodec_training.convolutions`, which says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from edgecodec_training.causal import Causal
from torch import Tensor, nn

from .graphs import TRANSLATIONS
from .mirrored_ends import join_mirrored

_END = 1 << 40  # beyond any column


@dataclass(frozen=True)
class Edges:
    """How the columns of a layer lie in a stream, in columns of its rate."""

    ahead: int = 0  # held back until the last call
    short: int = 0  # missing for good at the end of a clip, after transposed convolutions that give too few


@torch.library.custom_op("edgecodec::join", mutates_args=())
def join(past: Tensor, x: Tensor, first: Tensor, last: Tensor, skip: int, zeros: int) -> Tensor:
    """`past` [B, C, 1, P], without its first `skip` columns if `first`; `x`; and `zeros` columns of zeros if `last`."""
    parts = [past[..., skip * int(first) :], x, x.new_zeros(*x.shape[:3], zeros * int(last))]
    return torch.cat(parts, dim=3)


@join.register_fake
def _(past: Tensor, x: Tensor, first: Tensor, last: Tensor, skip: int, zeros: int) -> Tensor:
    # Of a call in the middle of a stream: so the exporter sees the same relations between all shapes in every call.
    return x.new_empty(*x.shape[:3], past.shape[3] + x.shape[3])


@torch.library.custom_op("edgecodec::kept", mutates_args=())
def kept(past: Tensor, x: Tensor) -> Tensor:
    """The last columns of `past` [B, C, 1, P] and `x` together, as many as `past` has."""
    columns = past.shape[3]
    return torch.cat([past, x[..., -columns:]], dim=3)[..., -columns:].clone()


@kept.register_fake
def _(past: Tensor, x: Tensor) -> Tensor:
    return torch.empty_like(past)


@torch.library.custom_op("edgecodec::trimmed", mutates_args=())
def trimmed(x: Tensor, first: Tensor, last: Tensor, left: int, right: int) -> Tensor:
    """`x` [B, C, 1, T] without its first `left` columns if `first`, without its last `right` ones if `last`."""
    return x[..., left * int(first) : x.shape[3] - right * int(last)].clone()


@trimmed.register_fake
def _(x: Tensor, first: Tensor, last: Tensor, left: int, right: int) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("edgecodec::delayed", mutates_args=())
def delayed(past: Tensor, x: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """`x` [B, C, 1, T] late by the P columns of `past`, which is nothing yet if `first`; all of it if `last`."""
    seen = torch.cat([past[..., past.shape[3] * int(first) :], x], dim=3)
    return seen[..., : seen.shape[3] - past.shape[3] * (1 - int(last))].clone()


@delayed.register_fake
def _(past: Tensor, x: Tensor, first: Tensor, last: Tensor) -> Tensor:
    return torch.empty_like(x)


def _join_nodes(past: Any, x: Any, first: Any, last: Any, skip: int, zeros: int) -> Any:
    from onnxscript import opset18 as op

    parts = [past, x]
    if skip:
        parts[0] = op.Slice(past, op.Mul(first, _whole(skip)), _whole(_END), _whole(3))
    if zeros:
        columns = op.Concat(op.Shape(x, end=3), op.Mul(op.Reshape(last, _whole(1)), _whole(zeros)), axis=0)
        parts.append(op.ConstantOfShape(columns))
    return op.Concat(*parts, axis=3)


def _kept_nodes(past: Any, x: Any) -> Any:
    from onnxscript import opset18 as op

    columns = int(past.shape[3])
    recent = op.Slice(x, _whole(-columns), _whole(_END), _whole(3))
    return op.Slice(op.Concat(past, recent, axis=3), _whole(-columns), _whole(_END), _whole(3))


def _trimmed_nodes(x: Any, first: Any, last: Any, left: int, right: int) -> Any:
    from onnxscript import opset18 as op

    start = op.Mul(first, _whole(left))
    end = _whole(_END)
    if right:  # -right in the last call
        end = op.Sub(end, op.Mul(op.Reshape(last, _whole(1)), _whole(_END + right)))
    return op.Slice(x, start, end, _whole(3))


def _delayed_nodes(past: Any, x: Any, first: Any, last: Any) -> Any:
    from onnxscript import opset18 as op

    columns = int(past.shape[3])
    seen = op.Concat(op.Slice(past, op.Mul(first, _whole(columns)), _whole(_END), _whole(3)), x, axis=3)
    # -columns in all calls but the last
    end = op.Sub(op.Mul(op.Reshape(last, _whole(1)), _whole(_END + columns)), _whole(columns))
    return op.Slice(seen, _whole(0), end, _whole(3))


def _whole(number: int) -> Any:
    from onnxscript import opset18 as op

    return op.Constant(value_ints=[number])


TRANSLATIONS[torch.ops.edgecodec.join.default] = _join_nodes
TRANSLATIONS[torch.ops.edgecodec.kept.default] = _kept_nodes
TRANSLATIONS[torch.ops.edgecodec.trimmed.default] = _trimmed_nodes
TRANSLATIONS[torch.ops.edgecodec.delayed.default] = _delayed_nodes


class LookaheadLayer(nn.Module):
    """A layer `(x, state, first, last) -> (y, state)` that has a state of `[B, C * P]`: its last P columns of x.

    `first` is int64 `[1]`, `last` an int64 scalar: 1 in the first and last call, else 0.
    """

    edges: Edges  # of what comes out
    mirrored = 0  # columns that stand beyond both ends of a clip in place of zeros

    def __init__(self, channels: int, past: int) -> None:
        super().__init__()
        self.channels, self.past = channels, past
        self.state_size = channels * past

    def _seen(self, x: Tensor, state: Tensor, first: Tensor, last: Tensor, skip: int, zeros: int) -> Any:
        """The columns to work on, and the next state."""
        past = state.reshape(-1, self.channels, 1, self.past)
        if self.mirrored:
            seen, past = join_mirrored(past, x, first, last, self.mirrored)
            return seen, past.flatten(1)
        return join(past, x, first, last, skip, zeros), kept(past, x).flatten(1)


class SymmetricConv(LookaheadLayer):
    """Convolution that is padded with zeros at both sides of a clip; a stride of s turns s * T columns into T."""

    def __init__(
        self, channels: int, out: int, kernel: int, edges: Edges, *, stride: int = 1, dilation: int = 1, groups: int = 1
    ) -> None:
        span = (kernel - 1) * dilation + 1
        # As DAC and SNAC pad: evenly, and where the stride is larger than one so that T * s columns give T.
        self.padding = -(-stride // 2) if stride > 1 else (span - 1) // 2
        ahead = -(-(span + edges.ahead - self.padding) // stride) - 1
        past = self.padding - edges.ahead + stride * ahead
        super().__init__(channels, past)
        self.edges = Edges(ahead, edges.short // stride)
        self.conv = nn.Conv2d(
            channels, out, (1, kernel), stride=(1, stride), dilation=(1, dilation), groups=groups, bias=True
        )

    def forward(self, x: Tensor, state: Tensor, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, C, 1, T]` to `[B, C', 1, T / stride]`."""
        if self.past == 0:
            return self.conv(x), state
        seen, state = self._seen(x, state, first, last, self.past - self.padding, self.padding)
        return self.conv(seen), state


class SymmetricUpsample(LookaheadLayer):
    """Transposed convolution of kernel 2 * stride, without its first `padding` columns and last `cut` ones.

    As a convolution of kernel 2 that makes `stride` columns of each; see `edgecodec_training.convolutions`.
    """

    def __init__(self, channels: int, out: int, stride: int, edges: Edges, *, output_padding: int = 0) -> None:
        super().__init__(channels, past=1)
        self.out, self.stride = out, stride
        self.padding = -(-stride // 2)
        self.cut = self.padding - output_padding
        missing = stride * edges.short + self.padding + self.cut - stride
        self.edges = Edges(stride * edges.ahead + self.padding, missing)
        self.conv = nn.Conv2d(channels, out * stride, (1, 2))

    def load(self, weight: Tensor, bias: Tensor) -> None:
        """Take the weight `[C, C', 2 * stride]` and the bias `[C']` of a transposed convolution."""
        now, later = weight.permute(1, 2, 0).chunk(2, dim=1)  # [C', stride, C] each
        assert self.conv.bias is not None
        self.conv.weight.data = torch.stack([later, now], dim=3).reshape_as(self.conv.weight.squeeze(2)).unsqueeze(2)
        self.conv.bias.data = bias.repeat_interleave(self.stride)

    def forward(self, x: Tensor, state: Tensor, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, C, 1, T]` to `[B, C', 1, T * stride]`."""
        seen, state = self._seen(x, state, first, last, 0, 1)
        y = self.conv(seen)
        y = y.reshape(y.shape[0], self.out, self.stride, -1).transpose(2, 3)  # [B, C', T, stride]
        return trimmed(y.reshape(y.shape[0], self.out, 1, -1), first, last, self.padding, self.cut), state


class Snake(nn.Module):
    """x + sin²(a x) / a, a learned for each channel (Ziyin et al. 2020, arXiv:2006.08195)."""

    def __init__(self, alpha: Tensor) -> None:
        """Of a `[C]`."""
        super().__init__()
        # Vectors, which storing matrices in fewer bits leaves exact.
        self.alpha, self.inverse = nn.Parameter(alpha), nn.Parameter(1 / (alpha + 1e-9))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, 1, T]` to the same shape."""
        sine = torch.sin(self.alpha.reshape(-1, 1, 1) * x)
        return x + self.inverse.reshape(-1, 1, 1) * (sine * sine)


class SnakeUnit(LookaheadLayer):
    """Residual unit: Snake, dilated convolution, Snake, pointwise convolution, plus the input, which waits for them."""

    def __init__(self, first: Snake, conv: SymmetricConv, second: Snake, pointwise: nn.Conv2d) -> None:
        super().__init__(conv.channels, conv.past)
        self.first, self.conv, self.second, self.pointwise = first, conv.conv, second, pointwise
        self.padding, self.edges = conv.padding, conv.edges

    def forward(self, x: Tensor, state: Tensor, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, C, 1, T]` to the same shape."""
        # The state holds the input itself: Snake leaves the zeros at the edges zero, and is cheap on few columns.
        seen, state = self._seen(x, state, first, last, self.past - self.padding, self.padding)
        y = self.pointwise(self.second(self.conv(self.first(seen))))
        return seen[..., self.padding : -self.padding] + y, state


class Delay(LookaheadLayer):
    """Hold back more columns, so that all that are held back make whole frames of `columns`."""

    def __init__(self, channels: int, columns: int, edges: Edges) -> None:
        super().__init__(channels, past=-edges.ahead % columns)
        self.edges = Edges(edges.ahead + self.past, edges.short)

    def forward(self, x: Tensor, state: Tensor, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, C, 1, T]` to the same shape."""
        if self.past == 0:
            return x, state
        past = state.reshape(-1, self.channels, 1, self.past)
        return delayed(past, x, first, last), kept(past, x).flatten(1)


class LookaheadChain(nn.Module):
    """Layers one after the other, with and without state; packed states stand in their order."""

    def __init__(self, layers: Sequence[nn.Module], edges: Edges) -> None:
        super().__init__()
        self.layers, self.edges = nn.ModuleList(layers), edges
        self.sizes = [layer.state_size for layer in layers if isinstance(layer, LookaheadLayer)]
        self.state_size = sum(self.sizes)

    def forward(self, x: Tensor, state: Tensor, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Run every layer."""
        states, following = iter(state.split(self.sizes, dim=1)), []
        for layer in self.layers:
            if isinstance(layer, LookaheadLayer):
                x, after = layer(x, next(states), first, last)
                following.append(after)
            else:
                x = layer(x)
        return x, torch.cat(following, dim=1)


class _Flagged(Causal):
    """A chain whose packed state begins with a flag: 0 before the first call, 1 after it."""

    def __init__(self, chain: LookaheadChain) -> None:
        super().__init__()
        self.chain = chain
        self.state_size = 1 + chain.state_size

    def _run(self, x: Tensor, state: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        flag, packed = state.split([1, self.chain.state_size], dim=1)
        first = (flag[:1, 0] == 0).long()  # all rows of a batch are of the same age
        y, packed = self.chain(x, packed, first, last)
        return y, torch.cat([torch.ones_like(flag), packed], dim=1)


class LookaheadEncoder(_Flagged):
    """audio `[B, 1, frame_size * T]`, state and `last` to latents `[B, T', columns * D]`.

    `columns` of the chain make a frame, and it holds back whole frames.
    """

    def __init__(self, chain: LookaheadChain, columns: int = 1) -> None:
        super().__init__(chain)
        self.columns = columns
        self.lookahead = chain.edges.ahead // columns  # frames

    def forward(self, x: Tensor, state: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """See the class and `Contract`."""
        y, state = self._run(x.unsqueeze(2), state, last)
        y = y.squeeze(2).transpose(1, 2)
        return (y if self.columns == 1 else y.reshape(y.shape[0], -1, self.columns * y.shape[2])), state


class LookaheadDecoder(_Flagged):
    """latents `[B, T, columns * D]`, state and `last` to audio `[B, 1, samples]`, in all calls frame_size * T."""

    def __init__(self, chain: LookaheadChain, columns: int = 1) -> None:
        super().__init__(chain)
        self.columns = columns
        self.lookahead = chain.edges.ahead  # samples

    def forward(self, x: Tensor, state: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """See the class and `Contract`."""
        if self.columns > 1:
            x = x.reshape(x.shape[0], -1, x.shape[2] // self.columns)
        y, state = self._run(x.transpose(1, 2).unsqueeze(2), state, last)
        if self.chain.edges.short:  # what strides of 5 leave out
            y = join(y[..., :0], y, torch.zeros_like(state[:1, 0]).long(), last, 0, self.chain.edges.short)
        return y.squeeze(2), state
