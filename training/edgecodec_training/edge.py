"""The `edge` architecture: a transform codec that a causal ConvNeXt network improves, all at the frame rate.

    audio -> MDCT -> compand -+-> skip ----------------------(+)-> latents -> RVQ
                              +-> ConvNeXt blocks -> head ----^

    latents -+-> skip ---------------> (x) -> (+) -> expand -> (+) -> inverse MDCT -> audio
             +-> ConvNeXt blocks -> gain^      ^                ^
             |          +--------> bias -------+                |
             |          +--------> bands -> exp -> (x) ---------+
             |          +--------> strength of the pitch filter behind it
             +-> noise -----------------------------^

At the first step the networks add nothing, and the codec is a plain transform codec whose latents are the lowest
MDCT coefficients, companded: it transmits audio before it has learned anything, which saves hours of training. The
window spans two frames, so the decoder answers one frame late (algorithmic latency `frame_size`).

No bits are left for the waveform of the upper spectrum. A network that must make it of latents alone repeats a few
tones every frame, and whistles; the square law of `expand` favours whatever is already loud, so that few coefficients
end up with all the energy. There the decoder shapes noise in smooth bands, as in perceptual noise substitution (Herre &
Schultz 1998). The noise is the sine of a large random projection of the latents: no state, no random numbers, and the
same wherever the same codes are decoded.

After MDCTCodec (Jiang et al. 2024, arXiv:2411.00464) and StreamCodec (Jiang et al. 2025, arXiv:2504.06561).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from .causal import Causal
from .convolutions import FrameBlocks
from .lapped_transform import LappedAnalysis, LappedSynthesis, band_hats, compand, expand, pad_to, pseudo_power
from .pitch_filter import PitchFilter
from .ranges import DEEPEST, Depths, Fraction, Width

NOISE_SPREAD = 2.0  # radians of noise phase per unit of latents: frames that differ at all get other noise
QUIET, LOUDEST = -7.0, 1.0  # logarithm of the coefficients that noise begins with (-61 dB), and may reach
STRONGEST = 4.0  # that the pitch filter may be


@dataclass(frozen=True)
class EdgeConfig:
    """Sizes of the `edge` architecture: width of the blocks, how many a side, MLP expansion and kernel (frames).

    The decoder makes a waveform of the lowest `waveform_bins` MDCT bins (of sample_rate / 2 / frame_size Hz each), and
    shapes noise in `noise_bands` bands over all of them. Behind it comes a filter that takes noise out from between the
    harmonics of the lowest `pitch_bins` bins, for periods within `pitch_lags` samples: as strongly as the decoder says
    of each frame, which begins with `pitch_filter` (0: no filter).
    """

    channels: Width = 224
    encoder_blocks: Depths = 3
    decoder_blocks: Depths = 4
    expansion: Depths = 3
    kernel: Annotated[int, Meta(ge=2, le=DEEPEST)] = 7
    waveform_bins: Width = 96
    noise_bands: Width = 32
    pitch_filter: Fraction = 0.0
    pitch_bins: Width = 27
    pitch_lags: tuple[Width, Width] = (60, 368)


def _frame_blocks(config: EdgeConfig, blocks: int) -> FrameBlocks:
    return FrameBlocks(config.channels, blocks, expansion=config.expansion, kernel=config.kernel)


def _zero_linear(in_features: int, out_features: int) -> nn.Linear:
    layer = nn.Linear(in_features, out_features)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _identity_linear(in_features: int, out_features: int) -> nn.Linear:
    layer = nn.Linear(in_features, out_features, bias=False)
    nn.init.eye_(layer.weight)
    return layer


class EdgeEncoder(Causal):
    """audio `[B, 1, frame_size * T]` to latents `[B, T, D]`."""

    def __init__(self, config: EdgeConfig, frame_size: int, latent_dim: int) -> None:
        super().__init__()
        self.analysis = LappedAnalysis(frame_size)
        self.skip = _identity_linear(frame_size, latent_dim)
        self.embed = nn.Linear(2 * frame_size, config.channels)
        self.blocks = _frame_blocks(config, config.encoder_blocks)
        self.norm = nn.LayerNorm(config.channels)
        self.head = _zero_linear(config.channels, latent_dim)
        self.sizes = [self.analysis.state_size, self.blocks.state_size]
        self.state_size = sum(self.sizes)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See the class and `Causal.forward`."""
        past, memory = state.split(self.sizes, dim=1)
        mdct, past = self.analysis(x, past)
        u = compand(mdct)
        features = torch.cat([u, torch.log10(pseudo_power(mdct) + 1e-7)], dim=3)
        h, memory = self.blocks(self.embed(features), memory)
        latents = self.skip(u) + self.head(self.norm(h))
        return latents.squeeze(1), torch.cat([past, memory], dim=1)


class EdgeDecoder(Causal):
    """latents `[B, T, D]` to audio `[B, 1, frame_size * T]`, one frame late."""

    scatter: Tensor  # [D, frame_size]
    bands: Tensor  # [noise_bands, frame_size]
    start: Tensor  # what `head` adds to: gain 1, bias 0, quiet noise (bands sum to one: a level is that of its bins),
    # and the strength of the pitch filter

    def __init__(self, config: EdgeConfig, frame_size: int, latent_dim: int) -> None:
        super().__init__()
        self.frame_size = self.latency = frame_size  # of the transform's overlap
        waveform = min(config.waveform_bins, frame_size)
        self.skip = _identity_linear(latent_dim, waveform)
        self.embed = nn.Linear(latent_dim, config.channels)
        self.blocks = _frame_blocks(config, config.decoder_blocks)
        self.norm = nn.LayerNorm(config.channels)
        self.head_sizes, begin = [waveform, waveform, config.noise_bands], [1.0, 0.0, QUIET]
        if config.pitch_filter:
            self.head_sizes, begin = [*self.head_sizes, 1], [*begin, math.log(config.pitch_filter)]
        self.head = _zero_linear(config.channels, sum(self.head_sizes))
        self.register_buffer("scatter", NOISE_SPREAD * torch.randn(latent_dim, frame_size))
        self.register_buffer("bands", band_hats(config.noise_bands, frame_size), persistent=False)
        start = [torch.full((size,), value) for size, value in zip(self.head_sizes, begin, strict=True)]
        self.register_buffer("start", torch.cat(start), persistent=False)
        self.synthesis = LappedSynthesis(frame_size)
        self.sizes = [self.blocks.state_size, self.synthesis.state_size]
        self.pitch_filter = _pitch_filter(config, frame_size)
        if self.pitch_filter is not None:
            self.low_bins = min(config.pitch_bins, waveform)
            self.sizes += [self.synthesis.state_size, self.pitch_filter.state_size]
        self.state_size = sum(self.sizes)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See the class and `Causal.forward`."""
        memory, overlap, *filtering = state.split(self.sizes, dim=1)
        x = x.unsqueeze(1)
        h, memory = self.blocks(self.embed(x), memory)
        head = F.linear(self.norm(h), self.head.weight, self.head.bias + self.start)
        gain, bias, level, *strength = head.split(self.head_sizes, dim=3)
        waveform = self.skip(x) * gain + bias
        loudness = (level @ self.bands).clamp(max=LOUDEST).exp()
        noise = torch.sin(x.detach() @ self.scatter) * loudness
        coefficients = pad_to(expand(waveform), self.frame_size) + noise
        audio, overlap = self.synthesis(coefficients, overlap)
        if self.pitch_filter is not None:
            low, filtering[0] = self.synthesis(coefficients[..., : self.low_bins], filtering[0])
            strengths = strength[0].clamp(max=math.log(STRONGEST)).exp().flatten(1)
            added, filtering[1] = self.pitch_filter(low, strengths, filtering[1])
            audio = audio + added
        return audio, torch.cat([memory, overlap, *filtering], dim=1)


def _pitch_filter(config: EdgeConfig, frame_size: int) -> PitchFilter | None:
    return PitchFilter(frame_size, config.pitch_lags) if config.pitch_filter else None
