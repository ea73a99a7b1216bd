"""int8 where most weights are: arithmetic in the matrix products of frame blocks, storage in the codebooks.

Inputs are rounded to 8 bits over a range that is fixed at export (a range of its own for each call would make codes
depend on how the audio is cut), weights to 8 bits with a scale for each output:

    x [..., in] -> round(x / scale) + zero, clipped to 0..255 -+
                                                               (integer product) -> * scales -> + bias
    weight [in, out], 0..255, 128 stands for zero -------------+

The graph says it in standard operators, QuantizeLinear and DequantizeLinear around a MatMul, which onnxruntime turns
into one integer product. Weights are unsigned because the kernels for signed ones add in 16 bits on processors without
VNNI, and saturate: the same codes everywhere are worth more. After Krishnamoorthi 2018, Quantizing deep convolutional
networks for efficient inference, arXiv:1806.08342 (per-channel weights, asymmetric inputs), and Nagel et al. 2019,
Data-free quantization, arXiv:1906.04721, section 4.2 (the bias takes up the mean error).

Codebooks are stored in 8 bits, with a scale for each entry, and searched in float32: the search is no faster in int8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from edgecodec.errors import ExportError
from edgecodec_training.codebook_search import LookupTables
from edgecodec_training.convolutions import FrameBlock
from edgecodec_training.model import CodecModel
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from .quantizer_graphs import scored_by_table

LEAST_WEIGHTS = 1 << 16  # smaller products gain less than the rounding of their input costs
STAGES_KEPT = (0.125, 0.5, 1.0)  # of all, that the decoder's ranges are found for
_FRAMES_KEPT = 3  # every so many, of all that a layer sees
_SHRUNK = (1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2)  # of the largest input: clipping few may leave less error to all
_HIGHEST, WEIGHT_ZERO = 255, 128
STATE_STEP, FINER = 1 / 127, 256  # of the states of an LSTM, within (-1, 1), and what their rest is rounded to
Rows = Callable[[nn.Module, Tensor, Any], Tensor]


@torch.library.custom_op("edgecodec::int8_product", mutates_args=())
def int8_product(x: Tensor, scale: Tensor, zero: Tensor, weight: Tensor, weight_scale: Tensor) -> Tensor:
    """`x` [..., in] times `weight` uint8 [in, out]: what onnxruntime computes, up to the rounding of float32."""
    steps = torch.clamp(torch.round(x / scale) + zero, 0, _HIGHEST) - zero
    return steps @ (weight.float() - WEIGHT_ZERO) * (scale * weight_scale)


@int8_product.register_fake
def _(x: Tensor, scale: Tensor, zero: Tensor, weight: Tensor, weight_scale: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[1])


def int8_product_nodes(x: Any, scale: Any, zero: Any, weight: Any, weight_scale: Any) -> Any:
    """`int8_product` in ONNX, for the exporter's translation table."""
    from onnxscript import opset18 as op

    rounded = op.DequantizeLinear(op.QuantizeLinear(x, scale, zero), scale, zero)
    middle: Any = op.Constant(value=numpy_helper.from_array(np.array(WEIGHT_ZERO, np.uint8)))
    weight_zero = op.Expand(middle, op.Shape(weight_scale))
    return op.MatMul(rounded, op.DequantizeLinear(weight, weight_scale, weight_zero, axis=1))


class Int8Linear(nn.Module):
    """`x @ weight.T + bias` with the product in int8, and the bias in float32."""

    scale: Tensor  # []
    zero: Tensor  # [], uint8
    weight: Tensor  # [in, out], uint8
    weight_scale: Tensor  # [out]
    bias: Tensor  # [out]

    def __init__(self, weight: Tensor, bias: Tensor | None, inputs: Tensor) -> None:
        """Of a weight [out, in], and inputs [N, in] that are typical for it."""
        super().__init__()
        exact = weight.detach().T
        weight_scale = exact.abs().amax(0).clamp(min=1e-12) / (WEIGHT_ZERO - 1)
        self.register_buffer("weight", (torch.round(exact / weight_scale) + WEIGHT_ZERO).to(torch.uint8).contiguous())
        self.register_buffer("weight_scale", weight_scale)
        scale, zero = _least_error_range(inputs)
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero)
        own = torch.zeros(exact.shape[1]) if bias is None else bias.detach()
        self.register_buffer("bias", own + (inputs @ exact - self._product(inputs)).mean(0))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return self._product(x) + self.bias

    def _product(self, x: Tensor) -> Tensor:
        product: Tensor = int8_product(x, self.scale, self.zero, self.weight, self.weight_scale)
        return product


@torch.no_grad()
def use_int8(model: CodecModel, clips: Iterable[NDArray[np.float32]]) -> None:
    """Give the large linear layers of frame blocks int8 form, with ranges found on clips [samples] of whole frames.

    Raises:
        ExportError: no layer that is large enough, or no clip.
    """
    sounds = (torch.from_numpy(clip)[None, None] for clip in clips)
    stages = model.config.quantizer.max_stages
    replace_layers(model, inputs_of(_large_layers(model), model, sounds, stages, every=_FRAMES_KEPT))


class _Coding(Protocol):
    """A codec, as far as finding ranges needs it."""

    quantizer: Any

    def encode_latents(self, audio: Tensor) -> Tensor: ...

    def decode_latents(self, latents: Tensor) -> Tensor: ...


def int8_linear(layer: Any, inputs: Tensor) -> nn.Module:
    """The int8 form of a linear layer."""
    return Int8Linear(layer.weight, layer.bias, inputs)


def linear_rows(layer: nn.Module, x: Tensor, y: Any) -> Tensor:
    """The inputs [N, in] of a linear layer's product."""
    return x.flatten(0, -2)


def replace_layers(
    model: nn.Module, inputs: Mapping[str, Tensor], form: Callable[[Any, Tensor], nn.Module] = int8_linear
) -> None:
    """Give layers, named as in the model, their int8 form, with ranges for the inputs [N, in] of their products."""
    for name, seen in inputs.items():
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, form(model.get_submodule(name), seen))


def _large_layers(model: CodecModel) -> dict[str, nn.Linear]:
    """The linear layers of frame blocks that are worth the rounding of their input, by their names in the model."""
    layers = {
        f"{name}.{own}": layer
        for name, block in model.named_modules()
        if isinstance(block, FrameBlock)
        for own, layer in (("expand", block.expand), ("contract", block.contract))
        if layer.weight.numel() >= LEAST_WEIGHTS
    }
    if not layers:
        raise ExportError("no frame block is large enough to gain from int8: use --precision fp16")
    return layers


def inputs_of(
    layers: Mapping[str, nn.Module],
    codec: _Coding,
    clips: Iterable[Tensor],
    max_stages: int,
    *,
    rows: Rows = linear_rows,
    every: int = 1,
) -> dict[str, Tensor]:
    """What the layers' products see, [N, in], while clips [1, channels, samples] are encoded, and decoded.

    `rows` finds it, of a layer, its first input and its output; of each call one row in `every` is kept. Clips are
    decoded from several stage counts.

    Raises:
        ExportError: no clip.
    """
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}
    hooks = [layer.register_forward_hook(_recorder(seen[name], rows, every)) for name, layer in layers.items()]
    for clip in clips:
        latents = codec.encode_latents(clip)
        for fraction in STAGES_KEPT:
            codes = codec.quantizer.encode(latents, max(1, round(fraction * max_stages)))
            codec.decode_latents(codec.quantizer.decode(codes))
    for hook in hooks:
        hook.remove()
    if not all(seen.values()):
        raise ExportError("int8 finds its ranges on sound, and there is none: nothing but silence")
    return {name: torch.cat(inputs) for name, inputs in seen.items()}


def int8_tables(tables: LookupTables) -> LookupTables:
    """Tables with scales [S, K, 1], whose entries are whole multiples of them, from -127 to 127.

    Only for large codebooks that are looked up by distance in the latents' own dimension; others stay as they are.
    """
    by_distance = scored_by_table(tables) and torch.allclose(tables.bias, _distance_bias(tables.table), rtol=1e-3)
    if not by_distance or tables.table[0].numel() < LEAST_WEIGHTS:
        return tables
    # In 16 binary digits, so that float32 holds their products: they are the same wherever they are computed.
    digits, exponent = torch.frexp(tables.table.abs().amax(2, keepdim=True).clamp(min=1e-12) / (WEIGHT_ZERO - 1))
    scales = torch.ldexp(torch.ceil(digits * 2**16) / 2**16, exponent)
    table = torch.round(tables.table / scales) * scales
    return tables._replace(score=table.transpose(1, 2), bias=_distance_bias(table), table=table, scales=scales)


def _distance_bias(table: Tensor) -> Tensor:
    """[S, K]: with it, the entry of the highest score is the nearest one."""
    return -0.5 * table.square().sum(2)


def _recorder(kept: list[Tensor], rows: Rows, every: int) -> Callable[[nn.Module, tuple[Tensor, ...], Any], None]:
    def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        kept.append(rows(layer, inputs[0], output)[::every].clone())

    return record


def _least_error_range(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point of the range that leaves the least squared error."""
    low, high = min(float(inputs.min()), 0.0), max(float(inputs.max()), 1e-6)
    best = (float("inf"), 0.0, 0)
    for share in _SHRUNK:
        # What GELU leaves below zero is small and common: never cut it.
        lowest = low if low > -1 else low * share
        scale = (high * share - lowest) / _HIGHEST
        zero = round(-lowest / scale)
        rounded = (torch.clamp(torch.round(inputs / scale) + zero, 0, _HIGHEST) - zero) * scale
        best = min(best, (float((rounded - inputs).square().mean()), scale, zero))
    return torch.tensor(best[1]), torch.tensor(best[2], dtype=torch.uint8)
