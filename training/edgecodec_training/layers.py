"""Causal layers with functional state: `(x, state) -> (y, next_state)`.

Every layer declares `state_size`, the floats it must remember per stream, and takes and returns that state packed
as `[B, state_size]`. Zero state is silence before the first sample, so a whole clip is one call with
`layer.zero_state(batch)`, a stream is many calls that hand the state on, and both run the same code. The exported
ONNX graphs carry the same packed state.

Convolutions are Conv2d with height 1 (`[B, C, 1, T]`): onnxruntime has blocked kernels for that form only, and it
makes results independent of how the audio is cut into chunks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "silu": nn.SiLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "elu": nn.ELU,
    "gelu": nn.GELU,
}


KNEE = 0.1  # companded level below which `compand` is nearly linear


class Causal(nn.Module):
    """A layer whose output up to now depends on its input up to now, and on a packed state `[B, state_size]`."""

    state_size: int = 0

    def zero_state(self, batch: int) -> Tensor:
        """The state before the first sample, `[batch, state_size]`, on the device of the parameters."""
        reference = next(itertools.chain(self.parameters(), self.buffers()))
        return torch.zeros(batch, self.state_size, device=reference.device)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Process `x` after what `state` remembers; returns the output and the next state."""
        raise NotImplementedError


class Chain(Causal):
    """Causal and stateless layers one after the other; the packed states stand in the order of the layers."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.sizes = [layer.state_size for layer in layers if isinstance(layer, Causal)]
        self.state_size = sum(self.sizes)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run every layer; see `Causal.forward`."""
        states = iter(state.split(self.sizes, dim=1))
        next_states = []
        for layer in self.layers:
            if isinstance(layer, Causal):
                x, next_state = layer(x, next(states))
                next_states.append(next_state)
            else:
                x = layer(x)
        return x, torch.cat(next_states, dim=1)


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

    def __init__(self, channels: int, *, kernel: int = 3, dilation: int = 1, activation: str = "silu") -> None:
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


def dct4(size: int) -> Tensor:
    """The orthonormal DCT-IV `[size, size]`, its own transpose and inverse, in double precision."""
    n = torch.arange(size, dtype=torch.float64) + 0.5
    return math.sqrt(2 / size) * torch.cos(math.pi / size * n[:, None] * n[None, :])


def folded_mdct(frame_size: int) -> tuple[Tensor, Tensor]:
    """The MDCT with the sine window as a folding of each hop by itself and a matrix.

    The symmetries of the MDCT pair sample i of a hop with its mirror image; window and folding turn each pair by an
    angle (Princen & Bradley 1986; Malvar 1990, the modulated lapped transform). With the cosine of the angle moved
    into the matrix, the turn costs two multiplications:

        even = first half + slope * mirrored second half;  odd = mirrored second half - slope * first half
        frame t = [even of hop t, odd of hop t - 1] @ matrix

    Returns:
        The matrix `[frame_size, frame_size]` and the slope `[frame_size / 2]`. The transposed matrix and the turn back
        are the inverse.
    """
    if frame_size % 2:
        raise ValueError(f"the lapped transform needs an even frame_size, not {frame_size}")
    half = frame_size // 2
    angle = math.pi * (torch.arange(half, dtype=torch.float64) + 0.5) / (2 * frame_size)
    basis = dct4(frame_size)
    rows = torch.cat([basis[:half].flip(0), basis[half:]])
    return (-angle.cos().repeat(2)[:, None] * rows).float(), angle.tan().float()


def pseudo_power(mdct: Tensor) -> Tensor:
    """Estimate of the power spectrum from MDCT coefficients `[B, 1, T, n]`: X[k]^2 + (X[k+1] - X[k-1])^2.

    A single coefficient swings with the phase; the difference of its neighbours stands in for the missing sine part
    (Daudet & Sandler 2004, MDCT analysis of sinusoids: the pseudo-spectrum). As a convolution it is one node of a
    graph, not four.
    """
    difference = F.conv2d(mdct, mdct.new_tensor([[[[-1.0, 0.0, 1.0]]]]), padding=(0, 1))
    return mdct * mdct + difference * difference


class LappedAnalysis(Causal):
    """The MDCT with the sine window: `[B, 1, frame_size * T]` to coefficients `[B, 1, T, frame_size]`.

    frame t covers   | hop t-1 | hop t |      state: the odd part of hop t-1

    Analysis, then synthesis, gives the input back exactly, one frame later.
    """

    transform: Tensor
    slope: Tensor

    def __init__(self, frame_size: int) -> None:
        super().__init__()
        transform, slope = folded_mdct(frame_size)
        self.register_buffer("transform", transform, persistent=False)
        self.register_buffer("slope", slope, persistent=False)
        self.frame_size, self.state_size = frame_size, frame_size // 2

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        hops = x.reshape(x.shape[0], 1, -1, self.frame_size)
        first, second = hops.split(self.state_size, dim=3)
        mirrored = second.flip(3)
        even, odd = first + self.slope * mirrored, mirrored - self.slope * first
        odds = torch.cat([state.reshape(-1, 1, 1, self.state_size), odd], dim=2)
        return torch.cat([even, odds[:, :, :-1]], dim=3) @ self.transform, odds[:, :, -1:].flatten(1)


class LappedSynthesis(Causal):
    """The inverse of `LappedAnalysis`: coefficients `[B, 1, T, frame_size]` to `[B, 1, frame_size * T]`, one hop late.

    The state is the even part of the next hop.
    """

    transform: Tensor
    slope: Tensor

    def __init__(self, frame_size: int) -> None:
        super().__init__()
        transform, slope = folded_mdct(frame_size)
        self.register_buffer("transform", transform.T.contiguous(), persistent=False)
        self.register_buffer("slope", slope, persistent=False)
        self.state_size = frame_size // 2

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        even, odd = (x @ self.transform).split(self.state_size, dim=3)
        evens = torch.cat([state.reshape(-1, 1, 1, self.state_size), even], dim=2)
        even = evens[:, :, :-1]
        first, mirrored = even - self.slope * odd, odd + self.slope * even
        return torch.cat([first, mirrored.flip(3)], dim=3).flatten(2), evens[:, :, -1:].flatten(1)


def compand(coefficients: Tensor) -> Tensor:
    """The inverse of `expand`: evens out loud and quiet coefficients, as a perceptual coder's power law does."""
    return coefficients / ((coefficients.abs() + (KNEE / 2) ** 2).sqrt() + KNEE / 2)


def expand(companded: Tensor) -> Tensor:
    """A square law that ends in a straight line: u * (|u| + KNEE).

    A pure square law has no slope at zero, and coefficients that begin at zero would stay there for ever: a decoder
    trained so kept everything above its lowest coefficients silent.
    """
    return companded * (companded.abs() + KNEE)


def pad_to(x: Tensor, size: int) -> Tensor:
    """Zeros after the last axis up to `size`."""
    return F.pad(x, (0, size - x.shape[-1]))


def band_hats(bands: int, bins: int) -> Tensor:
    """Triangles `[bands, bins]` that sum to one at every bin: values of bands become a smooth line over bins."""
    position = (torch.arange(bins) + 0.5) / bins * bands - 0.5  # of each bin, in bands
    return (1 - (position.clamp(0, bands - 1) - torch.arange(bands)[:, None]).abs()).clamp(min=0)
