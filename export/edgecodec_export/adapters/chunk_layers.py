"""Layers of SEANet over whole chunks `[B, C, 1, T]`, without state: reflected at both ends, each followed by GroupNorm.

The statistics of GroupNorm are those of all channels and columns together (Wu and He 2018, arXiv:1803.08494, with one
group), so that no column of a chunk is known before its last sample is.
"""

from __future__ import annotations

from torch import Tensor, nn

from .lstm import ResidualLstm
from .seanet import two_taps
from .weights import Weights


class ChunkConv(nn.Module):
    """Convolution and GroupNorm; a stride of s turns s * T columns into T."""

    def __init__(self, inside: int, out: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        padding = (kernel - 1) * dilation + 1 - stride
        right = padding // 2
        self.pad = nn.ReflectionPad2d((padding - right, right, 0, 0)) if padding else nn.Identity()
        self.conv = nn.Conv2d(inside, out, (1, kernel), stride=(1, stride), dilation=(1, dilation))
        self.norm = nn.GroupNorm(1, out)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, 1, T]` to `[B, C', 1, T / stride]`."""
        y: Tensor = self.norm(self.conv(self.pad(x)))
        return y


class ChunkUpsample(nn.Module):
    """Transposed convolution of kernel 2 * stride and GroupNorm, which also sees the columns that are then cut off.

    As a convolution of kernel 2 that makes `stride` columns of each; see `edgecodec_training.convolutions`.
    """

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.out, self.stride = out, stride
        self.conv = nn.Conv2d(inside, out * stride, (1, 2), padding=(0, 1))
        self.norm = nn.GroupNorm(1, out)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, 1, T]` to `[B, C', 1, T * stride]`."""
        y = self.conv(x)
        y = y.reshape(y.shape[0], self.out, self.stride, -1).transpose(2, 3)  # [B, C', T + 1, stride]
        y = self.norm(y.reshape(y.shape[0], self.out, 1, -1))
        right = self.stride // 2
        inside: Tensor = y[..., self.stride - right : y.shape[3] - right]
        return inside


class ChunkUnit(nn.Module):
    """ELU, dilated convolution, ELU, pointwise convolution, plus the input or a pointwise convolution of it."""

    def __init__(self, block: list[nn.Module], shortcut: nn.Module) -> None:
        super().__init__()
        self.block, self.shortcut = nn.Sequential(*block), shortcut

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, 1, T]` to the same shape."""
        y: Tensor = self.shortcut(x) + self.block(x)
        return y


class ChunkLstm(nn.Module):
    """LSTM, plus its input, that knows nothing of earlier chunks."""

    def __init__(self, lstm: ResidualLstm) -> None:
        super().__init__()
        self.lstm = lstm

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, 1, T]` to the same shape."""
        return self.lstm.whole(x)


class ChunkLayers:
    """See `seanet.Layers`; the weights of convolutions are plain, with `norm` beside them."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def conv(self, name: str, inside: int, out: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> ChunkConv:
        """See `seanet.Layers.conv`."""
        layer = ChunkConv(inside, out, kernel, stride=stride, dilation=dilation)
        weight = self.weights.take(f"{name}.conv.weight", out, inside, kernel).unsqueeze(2)
        self._load(layer, name, weight, self.weights.take(f"{name}.conv.bias", out))
        return layer

    def upsample(self, name: str, inside: int, out: int, stride: int) -> ChunkUpsample:
        """See `seanet.Layers.upsample`."""
        layer = ChunkUpsample(inside, out, stride)
        weight = two_taps(self.weights.take(f"{name}.conv.weight", inside, out, 2 * stride))
        self._load(layer, name, weight, self.weights.take(f"{name}.conv.bias", out).repeat_interleave(stride))
        return layer

    def unit(self, name: str, channels: int, hidden: int, kernel: int, dilation: int, *, shortcut: bool) -> ChunkUnit:
        """See `seanet.Layers.unit`."""
        block = [
            nn.ELU(),
            self.conv(f"{name}.block.1", channels, hidden, kernel, dilation=dilation),
            nn.ELU(),
            self.conv(f"{name}.block.3", hidden, channels, 1),
        ]
        around = self.conv(f"{name}.shortcut", channels, channels, 1) if shortcut else nn.Identity()
        return ChunkUnit(block, around)

    def lstm(self, name: str, channels: int, layers: int) -> ChunkLstm:
        """See `seanet.Layers.lstm`."""
        return ChunkLstm(ResidualLstm(channels, layers, self.weights, name))

    def _load(self, layer: ChunkConv | ChunkUpsample, name: str, weight: Tensor, bias: Tensor) -> None:
        assert layer.conv.bias is not None
        layer.conv.weight.data, layer.conv.bias.data = weight, bias
        channels = layer.norm.num_channels
        layer.norm.weight.data = self.weights.take(f"{name}.norm.weight", channels)
        layer.norm.bias.data = self.weights.take(f"{name}.norm.bias", channels)
