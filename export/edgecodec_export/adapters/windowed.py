"""Attention within windows that know nothing of each other, as SNAC has it in its models of 32 and 44 kHz.

    columns   0 … 31 | 32 … 63 | …      each sees all of its own window, and none of another

Windows begin with the clip: they are whole because the layer before holds back what is short of one (`Delay`), and a
frame has whole windows. Positions are rotary (Su et al. 2021, arXiv:2104.09864) and count within a window, so that
nothing has to be remembered.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .transformer import linear, norm, rotated
from .weights import Weights

HEAD_DIM = 64
_EPSILON = 1e-5  # of the layer norm


class WindowedAttention(nn.Module):
    """Layer norm, attention within windows, plus the input."""

    def __init__(self, channels: int, window: int, weights: Weights, name: str) -> None:
        super().__init__()
        self.window, self.heads = window, channels // HEAD_DIM
        self.norm = norm(channels, _EPSILON, weights, f"{name}.norm")
        rows = weights.take(f"{name}.to_qkv.weight", 3 * channels, channels)
        rows[:channels] *= HEAD_DIM**-0.5
        self.inside = linear(rows)
        self.outside = linear(weights.take(f"{name}.to_out.weight", channels, channels))
        frequencies = weights.take(f"{name}.rel_pos.inv_freq", HEAD_DIM // 2)
        angles = torch.arange(window)[:, None] * frequencies  # [window, HEAD_DIM / 2]
        # Vectors, which storing matrices in fewer bits leaves exact.
        self.register_buffer("cos", angles.cos().flatten(), persistent=False)
        self.register_buffer("sin", angles.sin().flatten(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, 1, T]` to the same shape, T whole windows."""
        batch, channels = x.shape[:2]
        rows = self.norm(x.squeeze(2).transpose(1, 2))  # [B, T, C]
        every = self.inside(rows).reshape(batch, -1, self.window, 3 * self.heads, HEAD_DIM).transpose(2, 3)
        turned, value = every.split([2 * self.heads, self.heads], dim=2)  # [B, windows, heads, window, HEAD_DIM]
        query, key = self._rotated(turned).chunk(2, dim=2)
        seen = (query @ key.transpose(3, 4)).softmax(dim=4) @ value
        y: Tensor = self.outside(seen.transpose(2, 3).reshape(batch, -1, channels))
        return x + y.transpose(1, 2).unsqueeze(2)

    def _rotated(self, x: Tensor) -> Tensor:
        cos, sin = (self.get_buffer(name).reshape(self.window, HEAD_DIM // 2) for name in ("cos", "sin"))
        return rotated(x, cos, sin)
