"""The entropy model while it learns: the network of `edgecodec.entropy_model`, in floating point, and its rounding.

Sums of learned vectors in, a group and one of its members out; see there for the figure. The vectors begin as the
leading directions of the codebooks, and groups are halves of halves of them: alike entries lie side by side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from edgecodec.entropy_model import CONTEXT_LIMIT, HIDDEN_LIMIT, QUERY_LIMIT
from edgecodec.layout import Layout
from numpy.typing import NDArray
from torch import Tensor, nn

_LOGIT_UNITS = 16 / math.log(2)  # sixteenths of an octave in one unit of a logit
_LARGEST = 127


@dataclass(frozen=True)
class EntropyConfig:
    """Size and training. `following`: leading stages that see their own codes at the steps before.

    `chunk_frames`: frames that are coded together in files; a fifth of the training sees packets of 2 to 8 frames.
    """

    width: int = 32  # of the vector of a code
    hidden: int = 96
    query: int = 16
    before: int = 3  # steps
    after: int = 2
    following: int = 2  # stages
    chunk_frames: int = 75
    batch_frames: int = 1200
    steps: int = 6000
    learning_rate: float = 1e-2


class EntropyNetwork(nn.Module):
    """Weights of all stages, one stage after another, as `EntropyModel` has them."""

    def __init__(self, config: EntropyConfig, layout: Layout, codebooks: NDArray[np.float32], counts: NDArray[Any]):
        """From code vectors [S, K, D], and how often each was used, [S, K]."""
        super().__init__()
        self.config, self.layout = config, layout
        stages, entries, _ = codebooks.shape
        self.members = -(-entries // (1 << (entries - 1).bit_length() // 2))
        self.groups = -(-entries // self.members)
        used = torch.from_numpy(counts).float() + 0.5
        share = used / used.sum(dim=1, keepdim=True)
        vectors = leading_directions(torch.from_numpy(codebooks), share, config.width)
        self.order = torch.stack([tree_order(stage, self.members) for stage in vectors])  # [S, K]
        self.places = self.order.argsort(dim=1)
        self.following = min(config.following, stages)
        inputs = (config.before + 1 + config.after) * config.width

        def weights(fan_in: int, out: int) -> nn.ParameterList:
            return _each_stage(torch.randn(stages, fan_in, out) / fan_in**0.5)

        def zeros(*shape: int) -> nn.ParameterList:
            return _each_stage(torch.zeros(stages, *shape))

        rank = min(config.query, config.width)
        placed = F.pad(share.gather(1, self.order), (0, self.groups * self.members - entries), value=1e-9)
        member = torch.zeros(stages, self.groups * self.members, config.query)
        for stage in range(stages):
            member[stage, :entries, :rank] = 0.3 * vectors[stage, self.order[stage], :rank]
        self.vectors = _each_stage(vectors)
        self.hidden, self.hidden_bias = weights(inputs, config.hidden), zeros(config.hidden)
        self.group = zeros(config.hidden, self.groups)
        self.group_bias = _each_stage(placed.unflatten(1, (self.groups, self.members)).sum(dim=2).log())
        self.query, self.query_bias = weights(config.hidden, config.query), zeros(config.query)
        self.member, self.member_bias = _each_stage(member), _each_stage(placed.log())

    def forward(self, codes: list[Tensor], active: list[Tensor]) -> Tensor:
        """Bits of all active codes; stage s has codes [B, steps of s], active where a frame has that stage."""
        return torch.cat([self._bits(*step) for step in self._contexts(codes, active)])

    def _contexts(self, codes: list[Tensor], active: list[Tensor]) -> Iterator[tuple[int, Tensor, Tensor]]:
        """For each stage what is seen at its active steps, [N, inputs], and the codes there, [N]."""
        past: Tensor | None = None
        for stage, (code, is_active) in enumerate(zip(codes, active, strict=True)):
            vectors = F.embedding(code, self.vectors[stage]) * is_active[..., None]
            past = torch.zeros_like(vectors) if past is None else past
            past = past.repeat_interleave(code.shape[1] // past.shape[1], dim=1)
            now = past + vectors
            context = self._context(past, now if stage < self.following else past)
            yield stage, context[is_active], code[is_active]
            past = now

    def _context(self, past: Tensor, seen: Tensor) -> Tensor:
        """Steps before from `seen`, the others from `past`, [B, T, E] each: [B, T, (before + 1 + after) * E]."""
        c, steps = self.config, past.shape[1]
        before, after = (F.pad(x, (0, 0, c.before, c.after)) for x in (seen, past))
        parts = [before[:, i : i + steps] for i in range(c.before)]
        parts += [after[:, i : i + steps] for i in range(c.before, c.before + 1 + c.after)]
        return torch.cat(parts, dim=2)

    def _bits(self, stage: int, context: Tensor, code: Tensor) -> Tensor:
        place = self.places[stage][code]
        group, member = place // self.members, place % self.members
        hidden = torch.relu(torch.addmm(self.hidden_bias[stage], context, self.hidden[stage]))
        groups = torch.addmm(self.group_bias[stage], hidden, self.group[stage])
        query = torch.addmm(self.query_bias[stage], hidden, self.query[stage])
        tables = F.embedding(group, self.member[stage].reshape(self.groups, -1)).unflatten(1, (self.members, -1))
        members = torch.bmm(tables, query[:, :, None])[:, :, 0]
        members = members + F.embedding(group, self.member_bias[stage].reshape(self.groups, -1))
        nats = F.cross_entropy(groups, group, reduction="none") + F.cross_entropy(members, member, reduction="none")
        return nats / math.log(2)

    @torch.no_grad()
    def to_arrays(self, codes: list[Tensor], active: list[Tensor]) -> dict[str, NDArray[Any]]:
        """The arrays of `entropy.npz`: whole numbers, whose units come from what these codes make of the network."""
        ranges = self._ranges(codes, active)
        vectors = torch.stack([*self.vectors])
        unit = max(float(vectors.abs().max()) / _LARGEST, ranges["context"] / CONTEXT_LIMIT)
        hidden_unit, query_unit = ranges["hidden"] / HIDDEN_LIMIT, ranges["query"] / QUERY_LIMIT
        logit_unit = torch.tensor(1 / _LOGIT_UNITS)
        arrays: dict[str, NDArray[Any]] = {
            "reach": np.array([self.config.before, self.config.after, self.following], np.uint8),
            "order": self.order.numpy().astype(np.uint16),
            "vectors": (vectors / unit).round().clamp(-_LARGEST, _LARGEST).numpy().astype(np.int8),
        }
        arrays |= _whole("hidden", self.hidden, self.hidden_bias, torch.tensor(unit) / hidden_unit, hidden_unit)
        arrays |= _whole("group", self.group, self.group_bias, hidden_unit / logit_unit, logit_unit)
        arrays |= _whole("query", self.query, self.query_bias, hidden_unit / query_unit, query_unit)
        arrays |= _whole("member", self.member, self.member_bias, query_unit / logit_unit, logit_unit)
        return arrays

    def _ranges(self, codes: list[Tensor], active: list[Tensor]) -> dict[str, Any]:
        """How large numbers get: of the context, one for all; of hidden and query, [S]."""
        largest: dict[str, list[float]] = {"context": [], "hidden": [], "query": []}
        for stage, context, _ in self._contexts(codes, active):
            hidden = torch.relu(torch.addmm(self.hidden_bias[stage], context, self.hidden[stage]))
            query = torch.addmm(self.query_bias[stage], hidden, self.query[stage])
            for name, values in (("context", context), ("hidden", hidden), ("query", query)):
                largest[name].append(_nearly_largest(values.abs()))
        return {
            "context": max(largest["context"]),
            "hidden": torch.tensor(largest["hidden"]),
            "query": torch.tensor(largest["query"]),
        }


def _nearly_largest(values: Tensor) -> float:
    """What one in 10,000 exceeds: those are cut."""
    flat = values.flatten()
    return max(float(flat.kthvalue(max(1, round(0.9999 * len(flat)))).values), 1e-6)


def _each_stage(values: Tensor) -> nn.ParameterList:
    """Values [S, ...] as one parameter a stage: an index into a whole would have a gradient of the whole."""
    return nn.ParameterList(nn.Parameter(value.clone()) for value in values)


def _whole(
    name: str, weights: nn.ParameterList, biases: nn.ParameterList, scale: Tensor, unit: Tensor
) -> dict[str, NDArray[Any]]:
    """A layer in whole numbers: weights times `scale` [S], biases over `unit`, both times 2**shift as 127 allows.

    The shift rounds down: half a unit more in the bias rounds to the nearest.
    """
    weight, bias = torch.stack([*weights]), torch.stack([*biases])
    stages = len(weight)
    scaled = weight * scale.reshape(-1, 1, 1).expand(stages, 1, 1)
    shift = torch.floor(torch.log2(_LARGEST / scaled.abs().amax(dim=(1, 2)).clamp(min=1e-9))).clamp(0, 20)
    factor = torch.exp2(shift)
    offsets = (bias / unit.reshape(-1, 1) + 0.5) * factor[:, None]
    return {
        f"{name}_weight": (scaled * factor[:, None, None]).round().numpy().astype(np.int8),
        f"{name}_bias": offsets.clamp(-(2**22), 2**22).round().numpy().astype(np.int32),
        f"{name}_shift": shift.numpy().astype(np.uint8),
    }


def leading_directions(codebooks: Tensor, share: Tensor, width: int) -> Tensor:
    """Code vectors [S, K, D] in their `width` leading directions together, [S, K, width]; the sum has unit spread."""
    centred = codebooks - (share[..., None] * codebooks).sum(dim=1, keepdim=True)
    spread = torch.einsum("skd,sk,ske->de", centred, share, centred)
    values, directions = torch.linalg.eigh(spread)
    used = directions[:, -width:].flip(1)
    leading = centred @ used / values[-width:].mean().clamp(min=1e-12).sqrt()
    return F.pad(leading, (0, width - leading.shape[2])).contiguous()


def tree_order(vectors: Tensor, members: int) -> Tensor:
    """Entries [K] in an order in which groups of `members`, and groups of groups, are alike.

    A set is cut in two, at a whole number of groups, along the direction in which it spreads most.
    """

    def ordered(entries: Tensor) -> Tensor:
        if len(entries) <= 1:
            return entries
        x = vectors[entries] - vectors[entries].mean(dim=0)
        direction = torch.linalg.eigh(x.T @ x)[1][:, -1]
        entries = entries[(x @ direction).argsort()]
        groups = -(-len(entries) // members)
        half = groups // 2 * members if groups > 1 else len(entries) // 2
        return torch.cat([ordered(entries[:half]), ordered(entries[half:])])

    return ordered(torch.arange(len(vectors)))
