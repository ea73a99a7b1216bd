"""How likely each code is, given the codes before it: a small network in whole numbers, the same on every machine.

Codes are told stage by stage, all steps of a stage together. The entry of a stage is told in two symbols: which of G
groups of alike entries, then which of its M members. The network sees sums of learned vectors, one for each code,

    step        t - 2     t - 1      t       t + 1     t + 2
    stages      before    before   before    before    before      this one: those coded so far
                                     ?

and for the leading stages, whose steps follow one another, also this stage's codes at the steps before:

    hidden  = min(relu(sums @ W + b) >> shift, 255)
    groups  = (hidden @ V + c) >> shift                                       logits, in sixteenths of an octave
    query   = clip((hidden @ Q + d) >> shift, -127, 127);  members = (query @ U[group] + e[group]) >> shift

All numbers are whole and every sum stays below 2**24, so that float32 holds them exactly and no order of summation
changes one. Logits become frequencies by a table of powers of two and a whole division.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import BitstreamError, BundleError
from .frequencies import Tables, intervals, tables
from .npz import read_npz

NO_MODEL = bytes(8)  # in place of an entropy model's fingerprint
MAX_BYTES = 64 << 20
MAX_REACH = 8  # steps before or after
MAX_SHIFT = 24
MAX_ALPHABET = 1024  # groups, and members of a group
CONTEXT_LIMIT = 255  # of the sums that the network sees

HIDDEN_LIMIT, QUERY_LIMIT = 255, 127  # of what the layers hand on
_EXACT = 1 << 24  # whole numbers below it are float32s

_Floats = NDArray[np.float32]
_Ints = NDArray[np.int64]
Ahead = tuple[_Floats, _Floats]  # see `Predictor.ahead`
Parts = Sequence[tuple[int, slice]]  # stages, and their rows of N: all of them, one stage after the other


class _Layer:
    """One layer of every stage, of weights [S, in, out] and biases [S, out] that `_scaled` gives."""

    def __init__(self, weight: _Floats, bias: _Floats) -> None:
        self._weights, self._biases = [*weight], [*bias]

    def __call__(self, parts: Parts, x: _Floats) -> _Floats:
        """Whole numbers [N, in] to [N, out], which are to be rounded down."""
        total = np.empty((len(x), len(self._biases[0])), np.float32)
        for stage, rows in parts:
            own = np.matmul(x[rows], self._weights[stage], out=total[rows])
            own += self._biases[stage]
        return total


class Predictor:
    """Frequencies of codes. This one knows nothing, and finds all codes of a stage equally likely.

    `before` and `after` are the steps that a model looks back and ahead, `following` the leading stages whose context
    holds their own codes at the steps before, and `width` the numbers of the vector of a code.
    """

    before = after = following = width = 0

    def __init__(self, entries: int, groups: int = 0) -> None:
        self.entries = entries
        groups = groups or 1 << (entries - 1).bit_length() // 2
        self._members_each = -(-entries // groups)
        self._groups_used = -(-entries // self._members_each)
        self._sizes = np.full(self._groups_used, self._members_each)  # of each group: the last one may hold fewer
        self._sizes[-1] = entries - (self._groups_used - 1) * self._members_each
        self._is_ragged = bool(self._sizes[-1] < self._members_each)
        self._even_groups = tables(np.zeros((1, self._groups_used), np.float32))
        self._even_members = tables(np.zeros((self._groups_used, self._members_each), np.float32), self._sizes)

    def vectors_of(self, stages: int | _Ints, entries: _Ints) -> _Floats:
        """The vectors [..., E] of entries of stages; -1 stands for none, and has zeros."""
        return np.zeros((*entries.shape, self.width), np.float32)

    def places_of(self, stages: int | _Ints, entries: _Ints) -> tuple[_Ints, _Ints]:
        """Groups and members [N] of entries [N] of stages."""
        return np.divmod(entries, self._members_each)

    def entries_at(self, stage: int, groups: _Ints, members: _Ints) -> _Ints:
        """The entries [N] of groups and members."""
        return groups * self._members_each + members

    def ahead(self, parts: Parts, context: _Floats) -> Ahead:
        """What predictions are made of, from sums [N, (before + 1 + after) * E] within `CONTEXT_LIMIT`."""
        return context, context

    def groups(self, ahead: Ahead) -> Tables:
        """The `tables` [N, G + 1] of the groups."""
        return np.broadcast_to(self._even_groups, (len(ahead[0]), self._groups_used + 1))

    def members(self, parts: Parts, ahead: Ahead, groups: _Ints) -> Tables:
        """The `tables` [N, M + 1] of the members of groups [N]."""
        of_groups: Tables = self._even_members[groups]
        return of_groups

    def intervals(self, parts: Parts, context: _Floats, groups: _Ints, members: _Ints) -> list[tuple[Tables, Tables]]:
        """How entries [N] are told: starts and frequencies [N] of their groups, and of their members."""
        ahead = self.ahead(parts, context)
        of_members = self.members(parts, ahead, groups)
        return [intervals(self.groups(ahead), groups), intervals(of_members, members)]


class EntropyModel(Predictor):
    """What a bundle's codes have taught. Immutable, and shared between threads."""

    def __init__(self, arrays: dict[str, NDArray[Any]]) -> None:
        super().__init__(arrays["order"].shape[1], arrays["group_bias"].shape[1])
        self.before, self.after, self.following = (int(n) for n in arrays["reach"])
        self._order = arrays["order"].astype(np.int64)  # [S, K], the entry at each place: groups lie side by side
        self._places = np.argsort(self._order, axis=1)  # [S, K]
        stages, _, self.width = arrays["vectors"].shape
        vectors = np.zeros((stages, self.entries + 1, self.width), np.float32)
        vectors[:, 1:] = arrays["vectors"]
        self._vectors = vectors.reshape(-1, self.width)  # a row of zeros before those of each stage
        self._hidden = _Layer(*_scaled(arrays, "hidden"))
        both = zip(_scaled(arrays, "group"), _scaled(arrays, "query"), strict=True)
        self._ahead = _Layer(*(np.concatenate(pair, axis=-1) for pair in both))
        weight, bias = _scaled(arrays, "member")
        shape = stages * self._groups_used, self._members_each
        self._member_bias = bias.reshape(shape)  # [S * G, M]
        self._member_weight = np.ascontiguousarray(weight.reshape(*shape, -1).swapaxes(1, 2))  # [S * G, R, M]

    def vectors_of(self, stages: int | _Ints, entries: _Ints) -> _Floats:
        """See `Predictor`."""
        vectors: _Floats = self._vectors.take(stages * (self.entries + 1) + 1 + entries, axis=0)
        return vectors

    def places_of(self, stages: int | _Ints, entries: _Ints) -> tuple[_Ints, _Ints]:
        """See `Predictor`."""
        return super().places_of(stages, self._places[stages, entries])

    def entries_at(self, stage: int, groups: _Ints, members: _Ints) -> _Ints:
        """See `Predictor`."""
        entries: _Ints = self._order[stage][super().entries_at(stage, groups, members)]
        return entries

    def hidden(self, parts: Parts, context: _Floats) -> _Floats:
        """What all predictions begin with, [N, H]."""
        hidden = self._hidden(parts, context)
        np.floor(hidden, out=hidden)
        return hidden.clip(0, HIDDEN_LIMIT, out=hidden)

    def ahead(self, parts: Parts, context: _Floats) -> Ahead:
        """See `Predictor`: logits of the groups [N, G], and the query for members [N, R]."""
        both = self._ahead(parts, self.hidden(parts, context))
        query = np.floor(both[:, self._groups_used :])
        return np.floor(both[:, : self._groups_used]), query.clip(-QUERY_LIMIT, QUERY_LIMIT, out=query)

    def groups(self, ahead: Ahead) -> Tables:
        """See `Predictor`."""
        return tables(ahead[0])

    def members(self, parts: Parts, ahead: Ahead, groups: _Ints) -> Tables:
        """See `Predictor`."""
        places = groups.copy()
        for stage, rows in parts:
            places[rows] += stage * self._groups_used
        logits = np.matmul(ahead[1][:, None], self._member_weight.take(places, axis=0))[:, 0]
        logits += self._member_bias.take(places, axis=0)
        return tables(np.floor(logits, out=logits), self._sizes[groups] if self._is_ragged else None)


def read_entropy_model(data: bytes, stages: int, entries: int) -> EntropyModel:
    """The model of `entropy.npz`, for a quantizer of so many stages of so many entries.

    Raises:
        BundleError: arrays that are missing, of a wrong shape or type, or whose sums could leave what is exact.
    """
    try:
        arrays = read_npz(data, lambda name: name in _TYPES, MAX_BYTES)
    except BitstreamError as error:
        raise BundleError(str(error)) from None
    wrong = _contradiction(arrays, stages, entries)
    if wrong is not None:
        raise BundleError(wrong)
    return EntropyModel(arrays)


_TYPES = {  # of the arrays of entropy.npz
    "reach": "u1",  # [3]: steps before, steps after, stages that follow
    "order": "u2",  # [S, K]
    "vectors": "i1",  # [S, K, E]
    **{f"{layer}_weight": "i1" for layer in ("hidden", "group", "query", "member")},
    **{f"{layer}_bias": "i4" for layer in ("hidden", "group", "query", "member")},
    **{f"{layer}_shift": "u1" for layer in ("hidden", "group", "query", "member")},
}


def _contradiction(arrays: dict[str, NDArray[Any]], stages: int, entries: int) -> str | None:
    """What is wrong with the arrays, or None."""
    for name, kind in _TYPES.items():
        if name not in arrays:
            return f"{name} is missing"
        if arrays[name].dtype != np.dtype(kind).newbyteorder("<"):
            return f"{name} is {arrays[name].dtype}, not {np.dtype(kind)}"
    if arrays["reach"].shape != (3,) or max(arrays["reach"]) > MAX_REACH or arrays["reach"][2] > stages:
        return f"reach is {arrays['reach'].tolist()}"
    if arrays["vectors"].ndim != 3 or arrays["hidden_weight"].ndim != 3 or arrays["query_weight"].ndim != 3:
        return "vectors and weights must have three dimensions"
    width, hidden, query = arrays["vectors"].shape[2], *arrays["query_weight"].shape[1:]
    groups = arrays["group_bias"].shape[-1]
    members = -(-entries // max(groups, 1))
    inputs = (1 + int(arrays["reach"][0]) + int(arrays["reach"][1])) * width
    shapes = {
        "order": (stages, entries),
        "vectors": (stages, entries, width),
        "hidden_weight": (stages, inputs, hidden),
        "group_weight": (stages, hidden, groups),
        "query_weight": (stages, hidden, query),
        "member_weight": (stages, groups * members, query),
        "hidden_bias": (stages, hidden),
        "group_bias": (stages, groups),
        "query_bias": (stages, query),
        "member_bias": (stages, groups * members),
        **{f"{layer}_shift": (stages,) for layer in ("hidden", "group", "query", "member")},
    }
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            return f"{name} is {list(arrays[name].shape)}, expected {list(shape)}"
    if not 1 <= groups <= MAX_ALPHABET or not 1 <= members <= MAX_ALPHABET or (groups - 1) * members >= entries:
        return f"{groups} groups do not hold {entries} entries"
    for layer in ("hidden", "group", "query", "member"):
        if arrays[f"{layer}_shift"].max() > MAX_SHIFT:
            return f"{layer}_shift is more than {MAX_SHIFT}"
    if not np.array_equal(np.sort(arrays["order"], axis=1), np.broadcast_to(np.arange(entries), (stages, entries))):
        return "order names an entry twice"
    limits = {"hidden": CONTEXT_LIMIT, "group": HIDDEN_LIMIT, "query": HIDDEN_LIMIT}
    for name, limit in limits.items():
        most = np.abs(arrays[f"{name}_weight"].astype(np.int64)).sum(axis=1) * limit
        if (most + np.abs(arrays[f"{name}_bias"].astype(np.int64))).max() >= _EXACT:
            return f"{name}: sums may reach 2**24"
    most = np.abs(arrays["member_weight"].astype(np.int64)).sum(axis=2) * QUERY_LIMIT
    if (most + np.abs(arrays["member_bias"].astype(np.int64))).max() >= _EXACT:
        return "member: sums may reach 2**24"
    return None


def _scaled(arrays: dict[str, NDArray[Any]], name: str) -> tuple[_Floats, _Floats]:
    """Weights [S, first, second] and biases [S, out] of a layer, divided by the shift that follows.

    It divides by a power of two, so that sums are as exact as without it.
    """
    scale = np.exp2(-arrays[f"{name}_shift"].astype(np.float32))[:, None]
    weight: _Floats = arrays[f"{name}_weight"].astype(np.float32) * scale[:, :, None]
    return weight, arrays[f"{name}_bias"].astype(np.float32) * scale
