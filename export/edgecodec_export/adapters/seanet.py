"""SEANet's encoder and decoder, of the names and configuration that transformers has for EnCodec and Mimi.

SoundStream (Zeghidour et al. 2021, arXiv:2107.03312), section III; EnCodec (Défossez et al. 2022, arXiv:2210.13438),
section 3.1: there with an LSTM at the frame rate. What stands before the first sample is up to the kind of convolution.
"""

from __future__ import annotations

from typing import Any

import torch
from edgecodec_training.causal import Causal, Chain
from edgecodec_training.convolutions import CausalConv, CausalUpsample
from torch import Tensor, nn

from .lstm import ResidualLstm
from .weights import Weights

Kind = type[CausalConv]


class ResidualUnit(Causal):
    """ELU, dilated convolution, ELU, pointwise convolution, plus the input or a pointwise convolution of it."""

    def __init__(self, block: list[nn.Module], shortcut: CausalConv | None) -> None:
        super().__init__()
        self.block, self.shortcut = Chain(block), shortcut
        self.state_size = self.block.state_size

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, C, 1, T]` to the same shape."""
        y, state = self.block(x, state)
        return (x if self.shortcut is None else self.shortcut.conv(x)) + y, state


def seanet_encoder(c: dict[str, Any], weights: Weights, kind: Kind = CausalConv) -> Chain:
    """`[B, 1, 1, T]` to `[B, hidden_size, 1, T / product of the ratios]`, of the tensors `encoder.layers.*`."""
    channels, name, at = c["num_filters"], "encoder.layers.{}".format, 0  # layers without weights are counted too
    layers: list[nn.Module] = [_conv(kind, weights, name(at), 1, channels, c["kernel_size"])]
    for ratio in reversed(c["upsampling_ratios"]):
        for j in range(c["num_residual_layers"]):
            layers += [_residual_unit(kind, c, weights, name(at + 1 + j), channels, j)]
        at += c["num_residual_layers"] + 2
        layers += [nn.ELU(), _conv(kind, weights, name(at), channels, 2 * channels, 2 * ratio, stride=ratio)]
        channels *= 2
    if "num_lstm_layers" in c:
        at += 1
        layers += [ResidualLstm(channels, c["num_lstm_layers"], weights, f"{name(at)}.lstm")]
    last = _conv(kind, weights, name(at + 2), channels, c["hidden_size"], c["last_kernel_size"])
    return Chain([*layers, nn.ELU(), last])


def seanet_decoder(c: dict[str, Any], weights: Weights, kind: Kind = CausalConv) -> Chain:
    """The way back, of the tensors `decoder.layers.*`."""
    channels, name, at = c["num_filters"] * 2 ** len(c["upsampling_ratios"]), "decoder.layers.{}".format, 0
    layers: list[nn.Module] = [_conv(kind, weights, name(at), c["hidden_size"], channels, c["kernel_size"])]
    if "num_lstm_layers" in c:
        at += 1
        layers += [ResidualLstm(channels, c["num_lstm_layers"], weights, f"{name(at)}.lstm")]
    for ratio in c["upsampling_ratios"]:
        layers += [nn.ELU(), _upsample(weights, name(at + 2), channels, channels // 2, ratio)]
        channels //= 2
        for j in range(c["num_residual_layers"]):
            layers += [_residual_unit(kind, c, weights, name(at + 3 + j), channels, j)]
        at += c["num_residual_layers"] + 2
    return Chain([*layers, nn.ELU(), _conv(kind, weights, name(at + 2), channels, 1, c["last_kernel_size"])])


def _residual_unit(
    kind: Kind, c: dict[str, Any], weights: Weights, name: str, channels: int, number: int
) -> ResidualUnit:
    hidden, kernel, dilation = channels // c["compress"], c["residual_kernel_size"], c["dilation_growth_rate"] ** number
    block = [
        nn.ELU(),
        _conv(kind, weights, f"{name}.block.1", channels, hidden, kernel, dilation=dilation),
        nn.ELU(),
        _conv(kind, weights, f"{name}.block.3", hidden, channels, 1),
    ]
    shortcut = _conv(kind, weights, f"{name}.shortcut", channels, channels, 1) if c["use_conv_shortcut"] else None
    return ResidualUnit(block, shortcut)


def _conv(kind: Kind, weights: Weights, name: str, inside: int, out: int, kernel: int, **options: int) -> CausalConv:
    layer = kind(inside, out, kernel, **options)
    assert layer.conv.bias is not None
    layer.conv.weight.data = weights.kernel(f"{name}.conv", out, inside, kernel).unsqueeze(2)
    layer.conv.bias.data = weights.take(f"{name}.conv.bias", out)
    return layer


def _upsample(weights: Weights, name: str, inside: int, out: int, stride: int) -> CausalUpsample:
    """A transposed convolution of kernel 2 * stride: its two halves are the two taps of `CausalUpsample`."""
    layer = CausalUpsample(inside, out, stride)
    conv = layer.conv.conv
    assert conv.bias is not None
    now, later = weights.kernel(f"{name}.conv", inside, out, 2 * stride).permute(1, 2, 0).chunk(2, dim=1)
    conv.weight.data = torch.stack([later, now], dim=3).reshape(out * stride, inside, 1, 2)
    conv.bias.data = weights.take(f"{name}.conv.bias", out).repeat_interleave(stride)
    return layer
