"""Causal convolutions: plain, strided and upsampling, SEANet's residual units, and ConvNeXt blocks at the frame rate.

Convolutions are Conv2d with height 1 (`[B, C, 1, T]`): onnxruntime has blocked kernels for that form only, and it
makes results independent of how the audio is cut into chunks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from .causal import Causal, Chain

Activation = Literal["silu", "leaky_relu", "elu", "gelu"]
ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "silu": nn.SiLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "elu": nn.ELU,
    "gelu": nn.GELU,
}


class CausalConv(Causal):
    """Convolution that sees only the past; a stride of s turns T input columns (a multiple of s) into T/s.

    The state is what the next output column still needs of the past: for kernel 7, stride 1

        state: . . . . . .   x: a b c          y(a) = w * (. . . . . . a)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, (1, kernel), stride=(1, stride), dilation=(1, dilation))
        self.channels = in_channels
        self.past = (kernel - 1) * dilation + 1 - stride
        self.state_size = in_channels * self.past

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, C, 1, T]` to `[B, C', 1, T / stride]`."""
        if self.past == 0:
            return self.conv(x), state
        x = torch.cat([state.reshape(-1, self.channels, 1, self.past), x], dim=3)
        return self.conv(x), x[..., -self.past :].flatten(1)


class CausalUpsample(Causal):
    """Sub-pixel upsampling by `stride`: a convolution of kernel 2 makes `stride` samples a column; they interleave.

    Computes the same functions as a transposed convolution of kernel 2 * stride, with one input column as state.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv = CausalConv(in_channels, out_channels * stride, kernel=2)
        self.out_channels, self.stride = out_channels, stride
        self.state_size = self.conv.state_size

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, C, 1, T]` to `[B, C', 1, T * stride]`."""
        x, state = self.conv(x, state)
        x = x.reshape(x.shape[0], self.out_channels, self.stride, -1)  # [B, C', stride, T]
        return x.transpose(2, 3).reshape(x.shape[0], self.out_channels, 1, -1), state


class ResidualUnit(Causal):
    """SEANet residual unit: activation, dilated convolution, activation, pointwise convolution, plus the input.

    SoundStream (Zeghidour et al. 2021, arXiv:2107.03312), section III-A.
    """

    def __init__(self, channels: int, *, kernel: int = 3, dilation: int = 1, activation: Activation = "silu") -> None:
        super().__init__()
        make = ACTIVATIONS[activation]
        self.chain = Chain(
            [
                make(),
                CausalConv(channels, channels // 2, kernel, dilation=dilation),
                make(),
                CausalConv(channels // 2, channels, 1),
            ]
        )
        self.state_size = self.chain.state_size

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, C, 1, T]` to the same shape."""
        y, state = self.chain(x, state)
        return x + y, state


class Depthwise(nn.Module):
    """Depthwise convolution over frames, channels-last: `[B, 1, T + kernel - 1, C]` to `[B, 1, T, C]`."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, (1, kernel), groups=channels)

    def forward(self, seen: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.conv(seen.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return y


class FrameBlock(nn.Module):
    """ConvNeXt block at the frame rate: depthwise convolution, LayerNorm, MLP, plus the input.

    ConvNeXt (Liu et al. 2022, arXiv:2201.03545), section 2; for audio, Vocos (Siuzdak 2023, arXiv:2306.00814). The
    MLP runs channels-last, the form that onnxruntime fuses. The last layer starts at zero: a new block is identity.
    """

    def __init__(self, channels: int, expansion: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = Depthwise(channels, kernel)
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, channels * expansion)
        self.activation = nn.GELU()
        self.contract = nn.Linear(channels * expansion, channels)
        nn.init.zeros_(self.contract.weight)
        nn.init.zeros_(self.contract.bias)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """`x` `[B, 1, T, C]`, also as the end of `seen` `[B, 1, kernel - 1 + T, C]`, to the shape of `x`."""
        y: Tensor = x + self.contract(self.activation(self.expand(self.norm(self.depthwise(seen)))))
        return y


class FrameBlocks(Causal):
    """Causal ConvNeXt blocks at the frame rate, one after the other: `[B, 1, T, C]` to the same shape.

    The state is what each block saw last, `[B, blocks, kernel - 1, C]` packed: one split and one slice serve all
    blocks, where a runtime would otherwise pay for several nodes in each.
    """

    def __init__(self, channels: int, blocks: int, *, expansion: int = 3, kernel: int = 7) -> None:
        super().__init__()
        if kernel < 2:
            raise ValueError(f"frame blocks need a kernel of 2 frames or more, not {kernel}")
        self.layers = nn.ModuleList([FrameBlock(channels, expansion, kernel) for _ in range(blocks)])
        self.remembered = (blocks, kernel - 1, channels)
        self.state_size = math.prod(self.remembered)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See the class and `Causal.forward`."""
        pasts = state.reshape(-1, *self.remembered).split(1, dim=1)
        memory = []
        for layer, past in zip(self.layers, pasts, strict=True):
            seen = torch.cat([past, x], dim=2)
            x = layer(x, seen)
            memory.append(seen)
        return x, torch.cat(memory, dim=1)[:, :, -self.remembered[1] :].flatten(1)
