"""Codes as the sequences that language models read and write, and back.

Three stages of four frames, `a0` the code of stage a in frame 0, `.` the padding:

    parallel           delay                    flattened
    a0 a1 a2 a3        a0 a1 a2 a3 .  .         a0 b0 c0 a1 b1 c1 a2 b2 c2 a3 b3 c3
    b0 b1 b2 b3        .  b0 b1 b2 b3 .
    c0 c1 c2 c3        .  .  c0 c1 c2 c3

`parallel` predicts all stages of a frame at once; `flattened` one code after another, each knowing all before it;
`delay` one column a step, in which stage k is k frames late, so that it may know the stages before it (Copet et al.
2023, "Simple and Controllable Music Generation", section 2.2). All take codes [..., stages, T] of any batch, and have
an inverse.

Where a frame has several code lines of a stage, or lines beside them (see `layout`), lines stand in place of stages.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import BitrateError, BitstreamError
from .layout import MISSING

LAYOUTS = ("parallel", "flattened", "delay")

_Codes = NDArray[np.integer[Any]]
_Unsigned = NDArray[np.unsignedinteger[Any]]


def to_layout(
    codes: ArrayLike,
    name: str,
    codebook_size: int,
    *,
    stages: int | None = None,
    offset: bool = True,
    padding: int | None = None,
) -> _Codes:
    """Codes [..., stages, T] in a layout, in the smallest unsigned integers that hold all of its ids.

    Args:
        codes: integers in 0..codebook_size - 1.
        name: one of `LAYOUTS`.
        codebook_size: entries of each codebook.
        stages: take the first so many; all of them by default.
        offset: of `flattened`: stage k gets ids from k * codebook_size on, so that the stages do not share ids.
        padding: of `delay`: the id in the corners, codebook_size or more; codebook_size by default.

    Raises:
        BitstreamError: codes of a wrong shape, type or range, or with frames of fewer stages (-1); `parallel` holds
            those, in signed integers.
        BitrateError: more stages than there are.
        ValueError: no such layout, or a padding that could be a code.
    """
    _check_name(name)
    if name == "parallel":
        return parallel(codes, codebook_size, stages=stages)
    if name == "flattened":
        return flattened(codes, codebook_size, stages=stages, offset=offset)
    return delayed(codes, codebook_size, stages=stages, padding=padding)


def from_layout(
    laid: ArrayLike,
    name: str,
    codebook_size: int,
    *,
    stages: int | None = None,
    offset: bool = True,
    padding: int | None = None,
) -> _Codes:
    """The codes [..., stages, T] of what `to_layout` gave, with the same arguments.

    `stages` are those that it holds: a flattened sequence does not tell, the others are checked where it is given.

    Raises:
        BitstreamError: what no codes of this layout are: ids out of range or in another stage's place, a broken delay
            pattern, or a length that the stages do not divide.
        ValueError: no such layout, a padding that could be a code, or no stages for `flattened`.
    """
    _check_name(name)
    if name == "flattened":
        if stages is None:
            raise ValueError("a flattened sequence does not tell its stages: give stages")
        return from_flattened(laid, stages, codebook_size, offset=offset)
    codes = parallel(laid, codebook_size) if name == "parallel" else from_delayed(laid, codebook_size, padding=padding)
    if stages is not None and codes.shape[-2] != stages:
        raise BitstreamError(f"codes of {codes.shape[-2]} stages, expected {stages}")
    return codes


def parallel(codes: ArrayLike, codebook_size: int, *, stages: int | None = None) -> _Codes:
    """Codes [..., stages, T] as they are, checked; with -1 in place of stages that frames lack, in signed integers."""
    checked = _checked(codes, codebook_size, stages)
    if checked.size and checked.min() == MISSING:
        return checked.astype(np.min_scalar_type(-codebook_size))
    return _smallest(checked, codebook_size - 1)


def flattened(codes: ArrayLike, codebook_size: int, *, stages: int | None = None, offset: bool = True) -> _Unsigned:
    """[..., T * stages]: frame after frame, stage by stage; with `offset`, those of stage k from k * codebook_size."""
    checked = _complete(_checked(codes, codebook_size, stages), "flattened")
    *batch, n, frames = checked.shape
    ids: NDArray[np.int64] = checked + _offsets(n, codebook_size, offset)
    sequence = ids.swapaxes(-1, -2).reshape(*batch, frames * n)
    return _smallest(sequence, (n if offset else 1) * codebook_size - 1)


def from_flattened(sequence: ArrayLike, stages: int, codebook_size: int, *, offset: bool = True) -> _Unsigned:
    """The codes [..., stages, T] of a sequence [..., T * stages]."""
    if stages < 1:
        raise BitrateError(f"stages must be 1 or more, not {stages}")
    ids = _integers(sequence, "a flattened sequence", dimensions=1)
    *batch, length = ids.shape
    if length % stages:
        raise BitstreamError(f"a flattened sequence of {length} codes does not divide into frames of {stages} stages")
    codes = ids.reshape(*batch, length // stages, stages).swapaxes(-1, -2) - _offsets(stages, codebook_size, offset)
    wrong = (codes < 0) | (codes >= codebook_size)
    if wrong.any():
        *_, stage, frame = np.argwhere(wrong)[0]
        low = int(stage) * codebook_size if offset else 0
        raise BitstreamError(
            f"position {frame * stages + stage} of a flattened sequence, stage {stage} of frame {frame}, "
            f"must hold {low}..{low + codebook_size - 1}, not {int(codes[wrong][0]) + low}"
        )
    return _smallest(codes, codebook_size - 1)


def delayed(
    codes: ArrayLike, codebook_size: int, *, stages: int | None = None, padding: int | None = None
) -> _Unsigned:
    """[..., stages, T + stages - 1]: stage k begins k steps late; `padding` stands before and after it."""
    checked = _complete(_checked(codes, codebook_size, stages), "delay")
    filler = _padding(codebook_size, padding)
    *batch, n, frames = checked.shape
    steps = np.full((*batch, n, frames + n - 1), filler, np.int64)
    for k in range(n):
        steps[..., k, k : k + frames] = checked[..., k, :]
    return _smallest(steps, filler)


def from_delayed(steps: ArrayLike, codebook_size: int, *, padding: int | None = None) -> _Unsigned:
    """The codes [..., stages, T] of a delay pattern [..., stages, T + stages - 1]."""
    filler = _padding(codebook_size, padding)
    ids = _integers(steps, "a delay pattern", dimensions=2)
    n = ids.shape[-2]
    frames = ids.shape[-1] - (n - 1)
    if not n or frames < 0:
        raise BitstreamError(f"a delay pattern of {n} stages has {n - 1} steps or more, not {ids.shape[-1]}")
    late = np.arange(ids.shape[-1]) - np.arange(n)[:, None]  # the frame that stands at each place, [stages, steps]
    inside = np.broadcast_to((late >= 0) & (late < frames), ids.shape)
    wrong = np.where(inside, (ids < 0) | (ids >= codebook_size), ids != filler)
    if wrong.any():
        where = tuple(np.argwhere(wrong)[0])
        found = "padding" if ids[where] == filler else str(int(ids[where]))
        expected = f"a code in 0..{codebook_size - 1}" if inside[where] else f"padding ({filler})"
        raise BitstreamError(
            f"a damaged delay pattern: stage {where[-2]} holds {found} at step {where[-1]}, where {expected} belongs"
        )
    codes = np.stack([ids[..., k, k : k + frames] for k in range(n)], axis=-2)
    return _smallest(codes, codebook_size - 1)


def _checked(codes: ArrayLike, codebook_size: int, stages: int | None) -> NDArray[np.int64]:
    """Codes of the first `stages`, in range; -1 only in the last stages of frames, and never in all."""
    array = _integers(codes, "codes", dimensions=2)
    present = array.shape[-2]
    if not present:
        raise BitstreamError(f"codes must be [..., stages, T], not of shape {list(array.shape)}")
    if stages is not None:
        if not 1 <= stages <= present:
            raise BitrateError(f"these codes have 1 to {present} stages, not {stages}")
        array = array[..., :stages, :]
    if array.size and not MISSING <= array.min() <= array.max() < codebook_size:
        raise BitstreamError(f"codes must lie in 0..{codebook_size - 1}")
    missing = array == MISSING
    if missing[..., 0, :].any() or (missing[..., :-1, :] & ~missing[..., 1:, :]).any():
        raise BitstreamError("-1 may only stand in the last stages of a frame, and not in all")
    return array


def _complete(codes: NDArray[np.int64], name: str) -> NDArray[np.int64]:
    """Codes, if no frame lacks stages."""
    least = int((codes != MISSING).sum(axis=-2).min()) if codes.size else codes.shape[-2]
    if least < codes.shape[-2]:
        raise BitstreamError(
            f"the layout {name} cannot hold frames of fewer stages (-1): every frame has {least}, take as many"
        )
    return codes


def _integers(ids: ArrayLike, what: str, *, dimensions: int) -> NDArray[np.int64]:
    array = np.asarray(ids)
    shape = "[..., stages, T]" if dimensions == 2 else "[..., T * stages]"
    if array.dtype.kind not in "iu":
        raise BitstreamError(f"{what} must be integers, not {array.dtype}")
    if array.ndim < dimensions:
        raise BitstreamError(f"{what} must be {shape}, not of shape {list(array.shape)}")
    if array.size and array.max() > np.iinfo(np.int64).max:
        raise BitstreamError(f"{what} hold {array.max()}, which is no code")
    return array.astype(np.int64, copy=False)


def _offsets(stages: int, codebook_size: int, offset: bool) -> NDArray[np.int64]:
    """What is added to the codes of each stage, [stages, 1]."""
    return codebook_size * offset * np.arange(stages, dtype=np.int64)[:, None]


def _padding(codebook_size: int, padding: int | None) -> int:
    if padding is None:
        return codebook_size
    if not codebook_size <= padding < 1 << 63:
        raise ValueError(f"padding must be {codebook_size} or more, which is no code, not {padding}")
    return padding


def _smallest(ids: NDArray[np.int64], most: int) -> _Unsigned:
    """Ids in the smallest unsigned integers that hold `most`."""
    small: _Unsigned = ids.astype(np.min_scalar_type(most))
    return small


def _check_name(name: str) -> None:
    if name not in LAYOUTS:
        raise ValueError(f"layout must be {', '.join(LAYOUTS)}, not {name!r}")
