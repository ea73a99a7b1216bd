"""The recurrence of an int8 LSTM in ONNX: a Scan over columns.

Its body names the integer product itself: onnxruntime does not look into bodies for the QuantizeLinear,
DequantizeLinear and MatMul that it fuses elsewhere. onnxscript reads the source of these functions, where a translation
that it traces could not hold a body; a module of its own, for to import onnxscript takes a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import numpy_helper
from onnxscript import FLOAT, UINT8, graph, script
from onnxscript import opset18 as op

from ..int8 import WEIGHT_ZERO

if TYPE_CHECKING:
    from typing import Any as Bytes
    from typing import Any as Floats
else:
    Floats, Bytes = FLOAT[...], UINT8[...]

_MIDDLE = numpy_helper.from_array(np.array(WEIGHT_ZERO, np.uint8))


@script(default_opset=op)
def recurrence(
    gates: Floats, scale: Floats, zero: Bytes, weight: Bytes, weight_scale: Floats, h: Floats, c: Floats
) -> tuple[Floats, Floats, Floats]:
    """See `int8_lstm.int8_recurrence`."""
    weight_zero = op.Constant(value=_MIDDLE)
    scales = op.Mul(scale, weight_scale)

    @graph()
    def step(h_before: Floats, c_before: Floats, of_inputs: Floats) -> tuple[Floats, Floats, Floats]:
        steps = op.QuantizeLinear(h_before, scale, zero)
        product = op.Cast(op.MatMulInteger(steps, weight, zero, weight_zero), to=1)
        i, o, f, new = op.Split(op.Add(op.Mul(product, scales), of_inputs), axis=1, num_outputs=4)
        c_after = op.Add(op.Mul(op.Sigmoid(f), c_before), op.Mul(op.Sigmoid(i), op.Tanh(new)))
        h_after = op.Mul(op.Sigmoid(o), op.Tanh(c_after))
        output = op.Identity(h_after)
        return h_after, c_after, output

    next_h, next_c, outputs = op.Scan(h, c, gates, body=step, num_scan_inputs=1)  # type: ignore[arg-type,unused-ignore]
    return outputs, next_h, next_c
