"""What an ONNX file says before onnxruntime reads it: whether a tensor lies in another file.

A model is a tree of protobuf messages; only the branches that can hold a tensor are walked:

    model ─┬─ graph ──────────┬─ initializers, sparse initializers ──────────────────────── tensors
           ├─ training steps ─┤
           │   (two graphs)   └─ nodes ─┐
           └─ functions ─┬─ nodes ──────┴─ attributes ─┬─ tensors, sparse tensors (two tensors each)
                         └─ attributes' defaults ──────┴─ graphs, again

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto; encoding: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .errors import BundleError

MOST_DEPTH = 32  # of messages within messages; protobuf itself stops at 100
MOST_FIELDS = 2_000_000

_MODEL, _GRAPH, _TRAINING, _FUNCTION, _NODE, _ATTRIBUTE, _SPARSE, _TENSOR = range(8)
_BRANCHES: dict[int, dict[int, int]] = {
    _MODEL: {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a tensor: where in which file; 1 for "in another file"
_ORT_IDENTIFIER = b"ORTM"
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


class _Field(NamedTuple):
    """One field of a message: a number, or where its bytes lie."""

    number: int
    kind: int
    value: int
    start: int
    end: int


def is_ort_format(model: bytes) -> bool:
    """Whether onnxruntime takes a file for its own format, a FlatBuffer, whatever it is called.

    Such a file passes by all that is checked here. It cannot name another one either: its tensors lie in it, or at
    an offset of a file that the caller must hand over, and no session does.
    """
    return model[4:8] == _ORT_IDENTIFIER


def keeps_data_elsewhere(model: bytes) -> bool:
    """Whether any tensor of an ONNX model is to be read from another file.

    Raises:
        BundleError: no protobuf, or one too deep or of too many parts to be a model.
    """
    waiting = [(_MODEL, 0, len(model), 0)]
    count = 0
    while waiting:
        kind, start, end, depth = waiting.pop()
        branches = _BRANCHES[kind]
        for field in _fields(model, start, end):
            count += 1
            if count > MOST_FIELDS or depth > MOST_DEPTH:
                raise BundleError("is too large or too deep to be a graph of a codec")
            if kind == _TENSOR:
                if field.number == _EXTERNAL_DATA or (field.number == _DATA_LOCATION and field.value):
                    return True
            elif field.number in branches:
                if field.kind != _LENGTH:
                    raise BundleError("is no ONNX model")
                waiting.append((branches[field.number], field.start, field.end, depth + 1))
    return False


def _fields(data: bytes, position: int, end: int) -> Iterator[_Field]:
    while position < end:
        tag, position = _varint(data, position, end)
        number, kind, value, start = tag >> 3, tag & 7, 0, position
        if kind == _VARINT:
            value, position = _varint(data, position, end)
        elif kind == _LENGTH:
            size, start = _varint(data, position, end)
            position = start + size
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        else:  # groups, which ONNX has none of
            raise BundleError("is no ONNX model")
        if position > end or not number or tag >> 32:
            raise BundleError("is no ONNX model, or one that was cut short")
        yield _Field(number, kind, value, start, position)


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """A number in groups of seven bits, lowest first; and where it ends."""
    value = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
    raise BundleError("is no ONNX model, or one that was cut short")
