"""How many multiplications a second one core does at best in onnxruntime: a product of two matrices in the caches.

The graph is written field by field, since the runtime has no package for that. Field numbers:
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import time
from typing import Any, Literal

import numpy as np

SIDE = 256  # of all three matrices: 64 KiB in bytes, 256 KiB in floats, near what a block of frames has
_RUNS, _WARMING = 40, 5
_OPSET, _IR_VERSION = 13, 7
_FLOAT, _UINT8, _INT8, _INT32 = 1, 2, 3, 6  # types of tensors

Numbers = Literal["fp32", "int8"]
NUMBERS: tuple[Numbers, ...] = ("fp32", "int8")


def matrix_limit(numbers: Numbers) -> float:
    """Multiply-accumulates per second of one thread, in the fastest of some runs."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(product_graph(numbers), options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).integers(0, 9, (SIDE, SIDE)).astype(np.float32 if numbers == "fp32" else np.uint8)
    times = []
    for _ in range(_WARMING + _RUNS):
        begin = time.perf_counter()
        session.run(None, {"x": x})
        times.append(time.perf_counter() - begin)
    return float(SIDE**3 / min(times[_WARMING:]))


def product_graph(numbers: Numbers) -> bytes:
    """An ONNX model of `y` = `x` times a constant matrix, all [SIDE, SIDE]."""
    operator, x, w, y = (
        ("MatMul", _FLOAT, _FLOAT, _FLOAT) if numbers == "fp32" else ("MatMulInteger", _UINT8, _INT8, _INT32)
    )
    constant = np.random.default_rng(1).integers(-9, 9, (SIDE, SIDE)).astype("<f4" if w == _FLOAT else "i1")
    weights = _message((1, SIDE), (1, SIDE), (2, w), (8, "w"), (9, constant.tobytes()))
    node = _message((1, "x"), (1, "w"), (2, "y"), (4, operator))
    graph = _message((1, node), (2, "product"), (5, weights), (11, _value("x", x)), (12, _value("y", y)))
    return _message((1, _IR_VERSION), (7, graph), (8, _message((2, _OPSET))))


def _value(name: str, kind: int) -> bytes:
    """Name, type and shape of an input or output."""
    side = _message((1, SIDE))
    return _message((1, name), (2, _message((1, _message((1, kind), (2, _message((1, side), (1, side))))))))


def _message(*fields: tuple[int, Any]) -> bytes:
    """A protobuf message: numbers are varints, texts and bytes have their length before them."""
    encoded = b""
    for number, value in fields:
        if isinstance(value, int):
            encoded += _varint(number << 3) + _varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            encoded += _varint(number << 3 | 2) + _varint(len(data)) + data
    return encoded


def _varint(value: int) -> bytes:
    """Groups of seven bits, lowest first."""
    groups = [value & 127]
    while value := value >> 7:
        groups.append(value & 127)
    return bytes([group | 128 for group in groups[:-1]] + groups[-1:])
