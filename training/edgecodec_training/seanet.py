"""The `seanet` architecture: the convolutional encoder and decoder of SoundStream and EnCodec, strictly causal.

With `patch` > 1 the waveform first becomes patches, and `blocks` > 0 puts ConvNeXt blocks at the frame rate; both
move work from the sample rate to lower rates.

SoundStream (Zeghidour et al. 2021, arXiv:2107.03312), section III; EnCodec (Défossez et al. 2022, arXiv:2210.13438),
section 3.1, without the LSTM, which would tie an exported graph to one batch size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from edgecodec.errors import ConfigError
from msgspec import Meta
from torch import Tensor, nn

from .causal import Causal, Chain
from .convolutions import ACTIVATIONS, Activation, CausalConv, CausalUpsample, FrameBlocks, ResidualUnit
from .ranges import Depth, Depths, Width


@dataclass(frozen=True)
class SeanetConfig:
    """Sizes of the `seanet` architecture.

    `patch * product(strides)` is the frame size; `channels` at the highest rate, doubled by every stride;
    `residual_units` of growing dilation (3**i) before each stride; `blocks` ConvNeXt blocks at the frame rate.
    """

    channels: Width = 16
    strides: Annotated[tuple[Depths, ...], Meta(min_length=1, max_length=12)] = (2, 4, 5, 8)
    patch: Width = 1
    kernel: Depths = 7
    residual_units: Annotated[int, Meta(ge=0, le=8)] = 1
    blocks: Depth = 0
    activation: Activation = "silu"


class _FrameBlocks(Causal):
    """ConvNeXt blocks between `[B, C, 1, T]` neighbours."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.chain = FrameBlocks(channels, blocks)
        self.state_size = self.chain.state_size

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self.chain(x.permute(0, 2, 3, 1), state)
        return y.permute(0, 3, 1, 2), state


def _check(config: SeanetConfig, frame_size: int) -> None:
    product = config.patch * math.prod(config.strides)
    if product != frame_size:
        raise ConfigError(f"model.seanet: patch x strides = {product}, but frame_size is {frame_size}")


def _residual_units(config: SeanetConfig, channels: int) -> list[nn.Module]:
    return [ResidualUnit(channels, dilation=3**i, activation=config.activation) for i in range(config.residual_units)]


class SeanetEncoder(Causal):
    """audio `[B, 1, frame_size * T]` to latents `[B, T, D]`."""

    def __init__(self, config: SeanetConfig, frame_size: int, latent_dim: int) -> None:
        super().__init__()
        _check(config, frame_size)
        self.patch = config.patch
        make = ACTIVATIONS[config.activation]
        channels = config.channels
        layers: list[nn.Module] = [CausalConv(config.patch, channels, config.kernel)]
        for stride in config.strides:
            layers += _residual_units(config, channels)
            layers += [make(), CausalConv(channels, 2 * channels, 2 * stride, stride=stride)]
            channels *= 2
        if config.blocks:
            layers.append(_FrameBlocks(channels, config.blocks))
        layers += [make(), CausalConv(channels, latent_dim, 3)]
        self.chain = Chain(layers)
        self.state_size = self.chain.state_size

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See the class and `Causal.forward`."""
        patches = x.reshape(x.shape[0], 1, -1, self.patch).permute(0, 3, 1, 2)  # [B, patch, 1, samples / patch]
        latents, state = self.chain(patches, state)
        return latents.squeeze(2).transpose(1, 2), state


class SeanetDecoder(Causal):
    """latents `[B, T, D]` to audio `[B, 1, frame_size * T]`: the encoder mirrored."""

    def __init__(self, config: SeanetConfig, frame_size: int, latent_dim: int) -> None:
        super().__init__()
        _check(config, frame_size)
        self.patch = config.patch
        make = ACTIVATIONS[config.activation]
        channels = config.channels * 2 ** len(config.strides)
        layers: list[nn.Module] = [CausalConv(latent_dim, channels, config.kernel)]
        if config.blocks:
            layers.append(_FrameBlocks(channels, config.blocks))
        for stride in reversed(config.strides):
            layers += [make(), CausalUpsample(channels, channels // 2, stride)]
            channels //= 2
            layers += _residual_units(config, channels)
        layers += [make(), CausalConv(channels, config.patch, config.kernel)]
        self.chain = Chain(layers)
        self.state_size = self.chain.state_size

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See the class and `Causal.forward`."""
        patches, state = self.chain(x.transpose(1, 2).unsqueeze(2), state)
        return patches.permute(0, 2, 3, 1).reshape(x.shape[0], 1, -1), state
