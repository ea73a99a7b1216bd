"""The recurrence of an int8 LSTM in ONNX: a Scan over columns.

Its body names the integer product itself: onnxruntime does not look into bodies for the QuantizeLinear,
DequantizeLinear and MatMul that it fuses elsewhere. onnxscript reads the source of these functions, where a translation
that it traces could not hold a body; a module of its own, for to import onnxscript takes a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import numpy_helper
from onnxscript import FLOAT, UINT8, graph, opset18, script

from ..int8 import FINER, STATE_STEP, WEIGHT_ZERO

if TYPE_CHECKING:
    from typing import Any as Bytes
    from typing import Any as Floats
else:
    Floats, Bytes = FLOAT[...], UINT8[...]

op: Any = opset18
_ZERO = numpy_helper.from_array(np.array(WEIGHT_ZERO, np.uint8))
_COARSE, _FINE, _SHARE = (
    numpy_helper.from_array(np.array(number, np.float32)) for number in (STATE_STEP, STATE_STEP / FINER, 1 / FINER)
)


@script(default_opset=op)
def recurrence(
    gates: Floats, weight: Bytes, weight_scale: Floats, h: Floats, c: Floats
) -> tuple[Floats, Floats, Floats]:
    """See `int8_lstm.int8_recurrence`."""
    zero = op.Constant(value=_ZERO)
    coarse_step = op.Constant(value=_COARSE)
    fine_step = op.Constant(value=_FINE)
    share = op.Constant(value=_SHARE)
    scales = op.Mul(coarse_step, weight_scale)

    @graph()
    def step(h_before: Floats, c_before: Floats, of_inputs: Floats) -> tuple[Floats, Floats, Floats]:
        coarse = op.QuantizeLinear(h_before, coarse_step, zero)
        left = op.Sub(h_before, op.DequantizeLinear(coarse, coarse_step, zero))
        both = op.Concat(coarse, op.QuantizeLinear(left, fine_step, zero), axis=0)
        products = op.Cast(op.MatMulInteger(both, weight, zero, zero), to=1)
        of_coarse, of_fine = op.Split(products, axis=0, num_outputs=2)
        product = op.Add(of_coarse, op.Mul(of_fine, share))
        i, o, f, new = op.Split(op.Add(op.Mul(product, scales), of_inputs), axis=1, num_outputs=4)
        c_after = op.Add(op.Mul(op.Sigmoid(f), c_before), op.Mul(op.Sigmoid(i), op.Tanh(new)))
        h_after = op.Mul(op.Sigmoid(o), op.Tanh(c_after))
        output = op.Identity(h_after)
        return h_after, c_after, output

    next_h, next_c, outputs = op.Scan(h, c, gates, body=step, num_scan_inputs=1)
    return outputs, next_h, next_c
