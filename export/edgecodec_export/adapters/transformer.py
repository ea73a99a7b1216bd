"""A causal transformer that remembers: rotary phases and a window of keys and values, all in packed state.

Pre-norm layers of attention and MLP, each scaled by channel before it is added (LayerScale, Touvron et al. 2021,
arXiv:2103.17239); positions are rotary (Su et al. 2021, arXiv:2104.09864). A query sees itself and `window - 1`
positions before it, as Mimi's do (Défossez et al. 2024, arXiv:2410.00037, section 3.3).

Keys and values lie in rings, each position in the slot where the oldest was:

    slot    0     1     2     3     4     5         R = 6, window 6, two positions a call
    holds  n-2   n-1   n-6   n-5   n-4   n-3        n and n + 1 see what is less than 6 before them: not n - 6

The order in a ring does not matter to attention, so that nothing moves: of a state of megabytes, a call writes two
columns. Only differences of phases matter: each is kept in turns, modulo 1, so that no stream is too long. There is no
counter that grows either: `count` goes up to 2R, and then back to R.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from edgecodec_training.causal import Causal
from torch import Tensor, nn

from .weights import Weights

_UNSEEN = -1e30  # added to a score: nothing is left of it after the softmax, and no NaN comes of it


@dataclass(frozen=True)
class TransformerSizes:
    """What a transformer is built by."""

    hidden: int
    heads: int
    head_dim: int
    intermediate: int
    layers: int
    window: int  # positions that a query sees, itself among them
    step: int  # positions of every call
    epsilon: float  # of layer norms
    period: float  # positions that the slowest phase takes for a radian


class Attention(nn.Module):
    """Attention of a call's positions to each other and to a ring of earlier ones."""

    def __init__(self, sizes: TransformerSizes, weights: Weights, prefix: str) -> None:
        super().__init__()
        self.heads, self.head_dim = sizes.heads, sizes.head_dim
        inner = sizes.heads * sizes.head_dim
        rows = _query_key_value(sizes, weights, prefix)
        rows[:inner] *= sizes.head_dim**-0.5
        self.inside = linear(rows)
        self.outside = linear(weights.take(f"{prefix}.o_proj.weight", sizes.hidden, inner))

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor], biases: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """`x` `[B, T, C]` to the same shape, and the new keys and values `[B, 2 * heads, T, head_dim]`.

        `past` are keys and values `[B, heads, R, head_dim]`; `biases` those of the scores `[B, 1, T, R]` and `[T, T]`.
        """
        steps, ring = x.shape[1], past[0].shape[2]
        every = self.inside(x).reshape(-1, steps, 3 * self.heads, self.head_dim).transpose(1, 2)
        turned, value = every.split([2 * self.heads, self.heads], dim=1)
        turned = rotated(turned, *rotation)
        query, key = turned.chunk(2, dim=1)
        scores = [query @ past[0].transpose(2, 3) + biases[0], query @ key.transpose(2, 3) + biases[1]]
        seen, new = torch.cat(scores, dim=3).softmax(dim=3).split([ring, steps], dim=3)
        y = (seen @ past[1] + new @ value).transpose(1, 2).reshape(-1, steps, self.heads * self.head_dim)
        return self.outside(y), torch.cat([key, value], dim=1)


class TransformerLayer(nn.Module):
    """Attention, then an MLP, each of the normed input, scaled, and added to it."""

    def __init__(self, sizes: TransformerSizes, weights: Weights, prefix: str) -> None:
        super().__init__()
        hidden, wide = sizes.hidden, sizes.intermediate
        self.attention_norm = norm(sizes.hidden, sizes.epsilon, weights, f"{prefix}.input_layernorm")
        self.attention = Attention(sizes, weights, f"{prefix}.self_attn")
        self.attention_scale = _vector(weights, f"{prefix}.self_attn_layer_scale.scale", hidden)
        self.norm = norm(sizes.hidden, sizes.epsilon, weights, f"{prefix}.post_attention_layernorm")
        self.expand = linear(weights.take(f"{prefix}.mlp.fc1.weight", wide, hidden))
        self.activation = nn.GELU()
        self.contract = linear(weights.take(f"{prefix}.mlp.fc2.weight", hidden, wide))
        self.scale = _vector(weights, f"{prefix}.mlp_layer_scale.scale", hidden)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor], biases: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """See `Attention.forward`."""
        y, new = self.attention(self.attention_norm(x), rotation, past, biases)
        x = x + self.attention_scale * y
        return x + self.scale * self.contract(self.activation(self.expand(self.norm(x)))), new


class Transformer(nn.Module):
    """Layers over one call's positions; what is to be remembered goes in and out in parts (see `AroundTransformer`)."""

    frequencies: Tensor  # [head_dim / 2], turns a position

    def __init__(self, sizes: TransformerSizes, weights: Weights, prefix: str) -> None:
        super().__init__()
        self.sizes = sizes
        self.layers = nn.ModuleList(
            [TransformerLayer(sizes, weights, f"{prefix}.layers.{i}") for i in range(sizes.layers)]
        )
        exponents = torch.arange(0, sizes.head_dim, 2, dtype=torch.float64) / sizes.head_dim
        self.register_buffer("frequencies", (sizes.period**-exponents / (2 * math.pi)).float())
        self.slots = -(-(sizes.window - 1) // sizes.step) * sizes.step  # of a ring; a call's never wrap around its end
        self.clock_size = 1 + len(self.frequencies)  # count of positions, phases in turns
        self.rings = 2 * sizes.layers  # keys and values of every layer
        self.ring_size = sizes.heads * self.slots * sizes.head_dim

    def forward(self, x: Tensor, clock: Tensor, rings: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`x` `[B, step, C]`, `clock` `[B, clock_size]` and `rings` `[B, ring_size]` each.

        Returns the output `[B, step, C]`, the next clock, the first slot `[B, 1]` that the new keys and values belong
        to, and these, `[B, rings * heads, step, head_dim]`.
        """
        sizes, steps = self.sizes, self.sizes.step
        count, turns = clock.split([1, self.clock_size - 1], dim=1)
        slot = torch.where(count < self.slots, count, count - self.slots)
        own = torch.arange(steps, device=x.device)[:, None]  # of queries
        ahead = own - torch.arange(steps, device=x.device)  # by how much a query is later than a new key
        biases = self._past_bias(count, slot, own), _bias((ahead >= 0) & (ahead < sizes.window))
        angles = 2 * math.pi * (turns[:, None] + own * self.frequencies).unsqueeze(1)  # [B, 1, T, head_dim / 2]
        rotation = angles.cos(), angles.sin()
        shape = (-1, sizes.heads, self.slots, sizes.head_dim)
        written = []
        for i, layer in enumerate(self.layers):
            past = rings[2 * i].reshape(shape), rings[2 * i + 1].reshape(shape)
            x, new = layer(x, rotation, past, biases)
            written.append(new)
        turns = turns + steps * self.frequencies
        count = count + steps
        count = torch.where(count < 2 * self.slots, count, count - self.slots)
        return x, torch.cat([count, turns - turns.floor()], dim=1), slot, torch.cat(written, dim=1)

    def _past_bias(self, count: Tensor, slot: Tensor, own: Tensor) -> Tensor:
        """`[B, 1, T, R]`: which slots hold what the queries see, from `count` and `slot` `[B, 1]`."""
        since = slot - torch.arange(self.slots, device=slot.device)  # [B, R]
        age = torch.where(since > 0, since, since + self.slots)  # how long before the first query; 1..R
        age = age[:, None, None]
        return _bias((age <= count[:, None, None]) & (age + own < self.sizes.window))


class AroundTransformer(Causal):
    """What an encoder and a decoder with a transformer inside have in common: its state, and calls of one frame.

    The state is packed as [what the other layers keep | clock | rings]. The next state is a copy of it in which only
    this call's slots, and all before the rings, are overwritten: a state of 8 MB is copied once, not in every layer.
    """

    def __init__(self, transformer: Transformer, kept: int, axis: int, call: int) -> None:
        """`kept` floats of the other layers; x is cut along `axis` into calls of the length `call`."""
        super().__init__()
        self.transformer, self.kept, self.axis, self.call = transformer, kept, axis, call
        self._sizes = [kept, transformer.clock_size, *[transformer.ring_size] * transformer.rings]
        self.state_size = sum(self._sizes)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See `Causal.forward`; longer inputs are as many calls as they have frames."""
        if x.shape[self.axis] == self.call:
            return self._frame(x, state)
        pieces = []
        for frame in x.split(self.call, dim=self.axis):
            y, state = self._frame(frame, state)
            pieces.append(y)
        return torch.cat(pieces, dim=3 - self.axis), state

    def _before(self, x: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Give x as `[B, step, C]`, and what these layers keep next."""
        raise NotImplementedError

    def _after(self, x: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Give the result of x `[B, step, C]`, and what these layers keep next; `kept` comes from `_before`."""
        raise NotImplementedError

    def _frame(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        kept, clock, *rings = state.split(self._sizes, dim=1)
        x, kept = self._before(x, kept)
        x, clock, slot, new = self.transformer(x, clock, rings)
        x, kept = self._after(x, kept)
        places = self._places(slot.long())
        return x, state.scatter(1, places, torch.cat([kept, clock, new.flatten(1)], dim=1))

    def _places(self, slot: Tensor) -> Tensor:
        """Where in the state the new numbers belong, int64 `[B, …]`, from the first slot `[B, 1]`."""
        t, device = self.transformer, slot.device
        sizes, first = t.sizes, self.kept + t.clock_size
        starts = first + torch.arange(t.rings * sizes.heads, device=device)[:, None] * (t.slots * sizes.head_dim)
        written = (starts + torch.arange(sizes.step * sizes.head_dim, device=device)).flatten()
        return torch.cat([torch.arange(first, device=device) + 0 * slot, written + slot * sizes.head_dim], dim=1)


def halves_of_pairs(rows: Tensor, heads: int) -> Tensor:
    """Rows `[heads * head_dim, C]`, in each head the first of all pairs of neighbours, then the second.

    The order in which `rotated` wants a head's dimensions. Scores are the same in any that queries and keys share.
    """
    return rows.reshape(heads, -1, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`[…, T, head_dim]`, each dimension of the first half turned in the plane with one of the second half."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def _bias(seen: Tensor) -> Tensor:
    return torch.where(seen, 0.0, _UNSEEN)


def _query_key_value(sizes: TransformerSizes, weights: Weights, prefix: str) -> Tensor:
    """The three projections as one matrix `[3 * inner, hidden]`, from three tensors or from Kyutai's one."""
    inner = sizes.heads * sizes.head_dim
    if f"{prefix}.in_proj_weight" in weights:
        query, key, value = weights.take(f"{prefix}.in_proj_weight", 3 * inner, sizes.hidden).chunk(3)
        return torch.cat([halves_of_pairs(query, sizes.heads), halves_of_pairs(key, sizes.heads), value])
    return torch.cat([weights.take(f"{prefix}.{name}_proj.weight", inner, sizes.hidden) for name in "qkv"])


def linear(rows: Tensor) -> nn.Linear:
    """A product with rows `[out, inside]`."""
    layer = nn.Linear(rows.shape[1], rows.shape[0], bias=False)
    layer.weight.data = rows
    return layer


def norm(channels: int, epsilon: float, weights: Weights, name: str) -> nn.LayerNorm:
    """A layer norm with its weights."""
    layer = nn.LayerNorm(channels, eps=epsilon)
    layer.weight.data = weights.take(f"{name}.weight", channels)
    layer.bias.data = weights.take(f"{name}.bias", channels)
    return layer


def _vector(weights: Weights, name: str, size: int) -> nn.Parameter:
    return nn.Parameter(weights.take(name, size))
