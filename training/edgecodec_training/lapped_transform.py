"""The lapped transform (MDCT) with functional state, and what is done to its coefficients: companding, power, bands."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from edgecodec.errors import ConfigError
from torch import Tensor

from .causal import Causal

KNEE = 0.1  # companded level below which `compand` is nearly linear


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
        raise ConfigError(f"the lapped transform needs an even frame_size, not {frame_size}")
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
    """The inverse of `LappedAnalysis`: coefficients `[B, 1, T, n]` to `[B, 1, frame_size * T]`, one hop late.

    They are the lowest n of `frame_size`, the others zero. The state is the even part of the next hop.
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
        even, odd = (x @ self.transform[: x.shape[3]]).split(self.state_size, dim=3)
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
