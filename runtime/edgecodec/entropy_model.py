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

from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import BitstreamError, BundleError
from .npz import read_npz
from .range_coder import TOTAL, RangeEncoder

NO_MODEL = bytes(8)  # in place of an entropy model's fingerprint
MAX_BYTES = 64 << 20
MAX_REACH = 8  # steps before or after
MAX_SHIFT = 24
MAX_ALPHABET = 1024  # groups, and members of a group
CONTEXT_LIMIT = 255  # of the sums that the network sees

HIDDEN_LIMIT, QUERY_LIMIT = 255, 127  # of what the layers hand on
_EXACT = 1 << 24  # whole numbers below it are float32s
# 2 ** (16 - i / 16), rounded: weights of logits that are i below the largest; an octave below they are half.
_OCTAVE = (
    65536,
    62757,
    60097,
    57549,
    55109,
    52773,
    50535,
    48393,
    46341,
    44376,
    42495,
    40693,
    38968,
    37316,
    35734,
    34219,
)
_WEIGHTS = np.array([_OCTAVE[i % 16] >> i // 16 for i in range(256)], np.float64)

_Floats = NDArray[np.float32]
_Ints = NDArray[np.int64]
Tables = NDArray[np.int32]  # [N, n + 1], see `tables`


@dataclass(frozen=True, eq=False)
class _Layer:
    """One layer of every stage: weights [S, in, out] of at most 127, biases [S, out], and the shifts that follow."""

    weight: _Floats
    bias: _Floats
    scale: _Floats  # [S], 2 ** -shift

    def __call__(self, stage: int, x: _Floats) -> _Floats:
        """Whole numbers [N, in] to whole numbers [N, out]."""
        total: _Floats = x @ self.weight[stage]
        total += self.bias[stage]
        total *= self.scale[stage]
        return np.floor(total, out=total)


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
        self._even_groups = tables(np.zeros((1, self._groups_used), np.float32))
        self._even_members = tables(np.zeros((self._groups_used, self._members_each), np.float32), self._sizes)

    def vectors_of(self, stage: int, entries: _Ints) -> _Floats:
        """The vectors [N, E] of a stage's entries [N]."""
        return np.zeros((len(entries), self.width), np.float32)

    def places_of(self, stage: int, entries: _Ints) -> tuple[_Ints, _Ints]:
        """Group and member of a stage's entries [N]."""
        return entries // self._members_each, entries % self._members_each

    def entries_at(self, stage: int, groups: _Ints, members: _Ints) -> _Ints:
        """The entries [N] of groups and members."""
        return groups * self._members_each + members

    def hidden(self, stage: int, context: _Floats) -> _Floats:
        """What both predictions begin with, [N, H], from sums [N, (before + 1 + after) * E] within `CONTEXT_LIMIT`."""
        return context

    def groups(self, stage: int, hidden: _Floats) -> Tables:
        """The `tables` [N, G + 1] of the groups."""
        return np.broadcast_to(self._even_groups, (len(hidden), self._groups_used + 1))

    def members(self, stage: int, hidden: _Floats, groups: _Ints) -> Tables:
        """The `tables` [N, M + 1] of the members of groups [N]."""
        of_groups: Tables = self._even_members[groups]
        return of_groups


class EntropyModel(Predictor):
    """What a bundle's codes have taught. Immutable, and shared between threads."""

    def __init__(self, arrays: dict[str, NDArray[Any]]) -> None:
        super().__init__(arrays["order"].shape[1], arrays["group_bias"].shape[1])
        self.before, self.after, self.following = (int(n) for n in arrays["reach"])
        self._order = arrays["order"].astype(np.int64)  # [S, K], the entry at each place: groups lie side by side
        self._places = np.argsort(self._order, axis=1)  # [S, K]
        self._vectors = arrays["vectors"].astype(np.float32)  # [S, K, E]
        self.width = self._vectors.shape[2]
        self._hidden, self._groups, self._query = (_layer(arrays, name) for name in ("hidden", "group", "query"))
        self._members = _layer(arrays, "member")

    def vectors_of(self, stage: int, entries: _Ints) -> _Floats:
        """See `Predictor`."""
        vectors: _Floats = self._vectors[stage][entries]
        return vectors

    def places_of(self, stage: int, entries: _Ints) -> tuple[_Ints, _Ints]:
        """See `Predictor`."""
        return super().places_of(stage, self._places[stage][entries])

    def entries_at(self, stage: int, groups: _Ints, members: _Ints) -> _Ints:
        """See `Predictor`."""
        entries: _Ints = self._order[stage][super().entries_at(stage, groups, members)]
        return entries

    def hidden(self, stage: int, context: _Floats) -> _Floats:
        """See `Predictor`."""
        hidden = self._hidden(stage, context)
        return np.clip(hidden, 0, HIDDEN_LIMIT, out=hidden)

    def groups(self, stage: int, hidden: _Floats) -> Tables:
        """See `Predictor`."""
        return tables(self._groups(stage, hidden))

    def members(self, stage: int, hidden: _Floats, groups: _Ints) -> Tables:
        """See `Predictor`."""
        query = self._query(stage, hidden)
        np.clip(query, -QUERY_LIMIT, QUERY_LIMIT, out=query)
        shape = (self._groups_used, self._members_each)
        weight = self._members.weight[stage].reshape(*shape, -1)[groups]  # [N, M, R]
        total = np.matmul(weight, query[:, :, None])[:, :, 0]
        total += self._members.bias[stage].reshape(shape)[groups]
        total *= self._members.scale[stage]
        return tables(np.floor(total, out=total), self._sizes[groups])


def tables(logits: _Floats, alphabet: _Ints | None = None) -> Tables:
    """Rising sums [N, n + 1] from 0 to `TOTAL` of the frequencies, at least 1 each, of whole logits [N, n].

    Logits are in sixteenths of an octave. `alphabet` [N], where it is given: how many symbols each row has; those
    behind them get 0. All numbers are whole and below 2**53, where division and floor of float64 are exact.
    """
    rows, real = np.arange(len(logits)), None
    size: Any = logits.shape[1]
    if alphabet is not None and alphabet.min(initial=size) < size:
        size = alphabet[:, None]
        real = np.arange(logits.shape[1]) < size
        logits = np.where(real, logits, -np.inf)
    best = logits.argmax(axis=1)
    below = np.minimum(logits[rows, best][:, None] - logits, len(_WEIGHTS) - 1)
    weights = _WEIGHTS.take(below.astype(np.intp), mode="clip")  # the fastest mode
    if real is not None:
        weights *= real
    total = weights @ np.ones(logits.shape[1])
    weights *= TOTAL - size
    weights /= total[:, None]
    shares = weights.astype(np.int32)
    shares += 1 if real is None else real
    shares[rows, best] += TOTAL - shares.sum(axis=1, dtype=np.int32)
    sums = np.zeros((len(logits), logits.shape[1] + 1), np.int32)
    np.cumsum(shares, axis=1, out=sums[:, 1:])
    return sums


def intervals(tables: Tables, symbols: _Ints) -> tuple[Tables, Tables]:
    """Of each row's symbol [N]: the sum of the frequencies before it, and its own."""
    rows = np.arange(len(symbols))
    starts = tables[rows, symbols]
    return starts, tables[rows, symbols + 1] - starts


def encode_symbols(coder: RangeEncoder, tables: Tables, symbols: _Ints) -> None:
    """Tell symbols [N], each by its own row of tables [N, n + 1]."""
    starts, frequencies = intervals(tables, symbols)
    coder.encode(starts.tolist(), frequencies.tolist())


def flattened(*parts: Tables) -> array[int]:
    """Tables [N, n + 1], in parts, as a `RangeDecoder` takes them."""
    flat = array("i")
    for part in parts:
        flat.frombytes(part.tobytes())
    return flat


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


def _layer(arrays: dict[str, NDArray[Any]], name: str) -> _Layer:
    shift = arrays[f"{name}_shift"].astype(np.float32)
    return _Layer(
        arrays[f"{name}_weight"].astype(np.float32),
        arrays[f"{name}_bias"].astype(np.float32),
        np.exp2(-shift),
    )
