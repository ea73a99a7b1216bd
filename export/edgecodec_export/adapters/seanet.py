"""SEANet's encoder and decoder, of the names and configuration that transformers has for EnCodec and Mimi.

SoundStream (Zeghidour et al. 2021, arXiv:2107.03312), section III; EnCodec (Défossez et al. 2022, arXiv:2210.13438),
section 3.1: there with an LSTM at the frame rate. What a convolution sees before the first sample and after the last is
up to the `Layers` that make it.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from edgecodec_training.causal import Causal, Chain
from edgecodec_training.convolutions import CausalConv, CausalUpsample
from torch import Tensor, nn

from .lstm import ResidualLstm
from .weights import Weights

Kind = type[CausalConv]


class Layers(Protocol):
    """Makes layers with their weights, in the order in which they run; names are those of their tensors."""

    def conv(self, name: str, inside: int, out: int, kernel: int, *, stride: int = 1) -> nn.Module:
        """Convolution."""

    def upsample(self, name: str, inside: int, out: int, stride: int) -> nn.Module:
        """Transposed convolution of kernel 2 * stride."""

    def unit(self, name: str, channels: int, hidden: int, kernel: int, dilation: int, *, shortcut: bool) -> nn.Module:
        """ELU, dilated convolution, ELU, pointwise convolution, plus the input or a pointwise convolution of it."""

    def lstm(self, name: str, channels: int, layers: int) -> nn.Module:
        """LSTM, plus its input."""


def encoder_layers(c: dict[str, Any], make: Layers) -> list[nn.Module]:
    """`[B, audio_channels, 1, T]` to `[B, hidden_size, 1, T / product of the ratios]`, of `encoder.layers.*`."""
    channels, name, at = c["num_filters"], "encoder.layers.{}".format, 0  # layers without weights are counted too
    layers = [make.conv(name(at), c["audio_channels"], channels, c["kernel_size"])]
    for ratio in reversed(c["upsampling_ratios"]):
        layers += [_unit(c, make, name(at + 1 + j), channels, j) for j in range(c["num_residual_layers"])]
        at += c["num_residual_layers"] + 2
        layers += [nn.ELU(), make.conv(name(at), channels, 2 * channels, 2 * ratio, stride=ratio)]
        channels *= 2
    if "num_lstm_layers" in c:
        at += 1
        layers.append(make.lstm(f"{name(at)}.lstm", channels, c["num_lstm_layers"]))
    return [*layers, nn.ELU(), make.conv(name(at + 2), channels, c["hidden_size"], c["last_kernel_size"])]


def decoder_layers(c: dict[str, Any], make: Layers) -> list[nn.Module]:
    """The way back, of `decoder.layers.*`."""
    channels, name, at = c["num_filters"] * 2 ** len(c["upsampling_ratios"]), "decoder.layers.{}".format, 0
    layers = [make.conv(name(at), c["hidden_size"], channels, c["kernel_size"])]
    if "num_lstm_layers" in c:
        at += 1
        layers.append(make.lstm(f"{name(at)}.lstm", channels, c["num_lstm_layers"]))
    for ratio in c["upsampling_ratios"]:
        layers += [nn.ELU(), make.upsample(name(at + 2), channels, channels // 2, ratio)]
        channels //= 2
        layers += [_unit(c, make, name(at + 3 + j), channels, j) for j in range(c["num_residual_layers"])]
        at += c["num_residual_layers"] + 2
    return [*layers, nn.ELU(), make.conv(name(at + 2), channels, c["audio_channels"], c["last_kernel_size"])]


def _unit(c: dict[str, Any], make: Layers, name: str, channels: int, number: int) -> nn.Module:
    dilation = c["dilation_growth_rate"] ** number
    hidden, kernel, shortcut = channels // c["compress"], c["residual_kernel_size"], c["use_conv_shortcut"]
    return make.unit(name, channels, hidden, kernel, dilation, shortcut=shortcut)


def seanet_encoder(c: dict[str, Any], weights: Weights, kind: Kind = CausalConv) -> Chain:
    """The causal encoder; what stands before the first sample is up to the kind of convolution."""
    return Chain(encoder_layers(c, CausalLayers(weights, kind)))


def seanet_decoder(c: dict[str, Any], weights: Weights, kind: Kind = CausalConv) -> Chain:
    """The causal decoder."""
    return Chain(decoder_layers(c, CausalLayers(weights, kind)))


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


class CausalLayers:
    """See `Layers`; these see only the past."""

    def __init__(self, weights: Weights, kind: Kind) -> None:
        self.weights, self.kind = weights, kind

    def conv(self, name: str, inside: int, out: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> CausalConv:
        """See `Layers.conv`."""
        layer = self.kind(inside, out, kernel, stride=stride, dilation=dilation)
        assert layer.conv.bias is not None
        layer.conv.weight.data = self.weights.kernel(f"{name}.conv", out, inside, kernel).unsqueeze(2)
        layer.conv.bias.data = self.weights.take(f"{name}.conv.bias", out)
        return layer

    def upsample(self, name: str, inside: int, out: int, stride: int) -> CausalUpsample:
        """See `Layers.upsample`: the two halves of the kernel are the two taps of `CausalUpsample`."""
        layer = CausalUpsample(inside, out, stride)
        conv = layer.conv.conv
        assert conv.bias is not None
        kernel = self.weights.kernel(f"{name}.conv", inside, out, 2 * stride)
        conv.weight.data = two_taps(kernel)
        conv.bias.data = self.weights.take(f"{name}.conv.bias", out).repeat_interleave(stride)
        return layer

    def unit(
        self, name: str, channels: int, hidden: int, kernel: int, dilation: int, *, shortcut: bool
    ) -> ResidualUnit:
        """See `Layers.unit`."""
        block = [
            nn.ELU(),
            self.conv(f"{name}.block.1", channels, hidden, kernel, dilation=dilation),
            nn.ELU(),
            self.conv(f"{name}.block.3", hidden, channels, 1),
        ]
        return ResidualUnit(block, self.conv(f"{name}.shortcut", channels, channels, 1) if shortcut else None)

    def lstm(self, name: str, channels: int, layers: int) -> ResidualLstm:
        """See `Layers.lstm`."""
        return ResidualLstm(channels, layers, self.weights, name)


def two_taps(kernel: Tensor) -> Tensor:
    """A transposed convolution `[C, C', 2 * stride]` as a plain one of kernel 2 that makes `stride` samples a column.

    `[C' * stride, C, 1, 2]`; its columns are sums over the column before and the one at hand.
    """
    inside, out, width = kernel.shape
    now, later = kernel.permute(1, 2, 0).chunk(2, dim=1)  # [C', stride, C] each
    return torch.stack([later, now], dim=3).reshape(out * width // 2, inside, 1, 2)
