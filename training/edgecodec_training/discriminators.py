"""Discriminators and what the codec learns from them: adversarial and feature-matching losses.

Each discriminator maps audio `[B, 1, samples]` to a map of scores and the feature maps on the way there.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from .ranges import MOST, Decay, Depths, NotNegative, Width, Window

BANDS = ((0.0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Which discriminators there are, how large they are, and from which step on they train.

    `stft_windows`: EnCodec's complex STFT discriminators; `periods`: HiFi-GAN's; `band_windows`: DAC's, five bands an
    STFT. An empty list leaves a kind out; all empty, or `start_step` never reached, is training without. `stride`
    widens the first layer's step over frequency: 2 halves the work. `loss`: hinge, or least squares.
    """

    start_step: Annotated[int, Meta(ge=-1, le=MOST)] = -1
    stft_windows: Annotated[tuple[Window, ...], Meta(max_length=32)] = (512, 1024, 2048)
    periods: Annotated[tuple[Width, ...], Meta(max_length=32)] = ()
    band_windows: Annotated[tuple[Window, ...], Meta(max_length=32)] = ()
    channels: Annotated[int, Meta(ge=1, le=4096)] = 16
    stride: Depths = 1
    learning_rate: NotNegative = 3e-4
    betas: tuple[Decay, Decay] = (0.5, 0.9)
    loss: Literal["hinge", "lsgan"] = "hinge"
    adversarial: NotNegative = 1.0
    features: NotNegative = 2.0

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each loss that the codec learns from them."""
        return {"adversarial": self.adversarial, "features": self.features}

    @property
    def used(self) -> bool:
        """Whether there is anything to train."""
        return self.start_step >= 0 and bool(self.stft_windows or self.periods or self.band_windows)


class Opinion(NamedTuple):
    """What one discriminator says of a batch: a map of scores, and the feature maps on the way there."""

    scores: Tensor
    features: list[Tensor]


def _conv(inside: int, out: int, kernel: tuple[int, int], **options: Any) -> nn.Module:
    conv: nn.Module = weight_norm(nn.Conv2d(inside, out, kernel, **options))
    return conv


def _spectrum(audio: Tensor, window: Tensor) -> Tensor:
    """Normalised complex STFT as two channels: `[B, 2, frames, bins]`, hop = window / 4."""
    size = len(window)
    frames = audio.squeeze(1).unfold(1, size, size // 4) * window
    spectrum = torch.view_as_real(torch.fft.rfft(frames, norm="ortho"))
    return spectrum.permute(0, 3, 1, 2)


def _run(layers: nn.ModuleList, last: nn.Module, x: Tensor) -> Opinion:
    features = []
    for layer in layers:
        x = F.leaky_relu(layer(x), 0.2)
        features.append(x)
    return Opinion(last(x), features)


class SpectrumDiscriminator(nn.Module):
    """Complex STFT at one resolution, dilated over time (EnCodec, arXiv:2210.13438, section 3.4)."""

    window: Tensor

    def __init__(self, window: int, channels: int, stride: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        self.layers = nn.ModuleList([_conv(2, channels, (3, 9), stride=(1, stride), padding=(1, 4))])
        for dilation in (1, 2, 4):
            self.layers.append(
                _conv(channels, channels, (3, 9), stride=(1, 2), dilation=(dilation, 1), padding=(dilation, 4))
            )
        self.layers.append(_conv(channels, channels, (3, 3), padding=(1, 1)))
        self.last = _conv(channels, 1, (3, 3), padding=(1, 1))

    def forward(self, audio: Tensor) -> list[Opinion]:
        """See the module."""
        return [_run(self.layers, self.last, _spectrum(audio, self.window))]


class PeriodDiscriminator(nn.Module):
    """Every `period`-th sample side by side (HiFi-GAN, Kong et al. 2020, arXiv:2010.05646, section 2.3)."""

    def __init__(self, period: int, channels: int) -> None:
        super().__init__()
        self.period = period
        widths = (1, channels, 4 * channels, 8 * channels, 16 * channels)
        self.layers = nn.ModuleList(_conv(a, b, (5, 1), stride=(3, 1), padding=(2, 0)) for a, b in pairwise(widths))
        self.layers.append(_conv(widths[-1], widths[-1], (5, 1), padding=(2, 0)))
        self.last = _conv(widths[-1], 1, (3, 1), padding=(1, 0))

    def forward(self, audio: Tensor) -> list[Opinion]:
        """See the module."""
        padded = F.pad(audio, (0, -audio.shape[2] % self.period), mode="reflect")
        return [_run(self.layers, self.last, padded.reshape(len(audio), 1, -1, self.period))]


class BandDiscriminator(nn.Module):
    """Complex STFT at one resolution, five bands with weights of their own (DAC, arXiv:2306.06546, section 3.3)."""

    window: Tensor

    def __init__(self, window: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        bins = window // 2 + 1
        self.edges = [(int(low * bins), int(high * bins)) for low, high in BANDS]
        self.bands = nn.ModuleList(self._band(channels) for _ in BANDS)
        self.last = _conv(channels, 1, (3, 3), padding=(1, 1))

    @staticmethod
    def _band(channels: int) -> nn.ModuleList:
        layers = nn.ModuleList([_conv(2, channels, (3, 9), padding=(1, 4))])
        for _ in range(3):
            layers.append(_conv(channels, channels, (3, 9), stride=(1, 2), padding=(1, 4)))
        layers.append(_conv(channels, channels, (3, 3), padding=(1, 1)))
        return layers

    def forward(self, audio: Tensor) -> list[Opinion]:
        """See the module; the five bands are scored together."""
        spectrum = _spectrum(audio, self.window)
        features: list[Tensor] = []
        for layers, (low, high) in zip(self.bands, self.edges, strict=True):
            x = spectrum[..., low:high]
            for layer in layers:  # type: ignore[attr-defined]
                x = F.leaky_relu(layer(x), 0.2)
                features.append(x)
        depth = len(features) // len(BANDS)
        return [Opinion(self.last(torch.cat(features[depth - 1 :: depth], dim=3)), features)]


class Discriminators(nn.ModuleList):
    """All discriminators of a configuration, and the losses for both sides."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__(
            [SpectrumDiscriminator(w, config.channels, config.stride) for w in config.stft_windows]
            + [PeriodDiscriminator(p, config.channels) for p in config.periods]
            + [BandDiscriminator(w, config.channels) for w in config.band_windows]
        )
        self.config = config

    def forward(self, audio: Tensor) -> list[Opinion]:
        """What every discriminator says of audio `[B, 1, samples]`."""
        return [opinion for discriminator in self for opinion in discriminator(audio)]

    def own_loss(self, real: Tensor, decoded: Tensor) -> Tensor:
        """What the discriminators minimise: real audio up, decoded audio down."""
        losses = []
        for truth, fake in zip(self(real), self(decoded.detach()), strict=True):
            if self.config.loss == "hinge":
                losses.append(F.relu(1 - truth.scores).mean() + F.relu(1 + fake.scores).mean())
            else:
                losses.append((1 - truth.scores).square().mean() + fake.scores.square().mean())
        return torch.stack(losses).mean()

    def codec_losses(self, real: Tensor, decoded: Tensor) -> dict[str, Tensor]:
        """What the codec minimises, weighted: `adversarial`, and `features`, the relative L1 between feature maps."""
        with torch.no_grad():
            truths = self(real)
        adversarial, features = [], []
        for truth, fake in zip(truths, self(decoded), strict=True):
            lsgan = self.config.loss == "lsgan"
            adversarial.append((1 - fake.scores).square().mean() if lsgan else -fake.scores.mean())
            for a, b in zip(truth.features, fake.features, strict=True):
                features.append((a - b).abs().mean() / a.abs().mean().clamp(min=1e-6))
        losses = {"adversarial": torch.stack(adversarial).mean(), "features": torch.stack(features).mean()}
        return {name: weight * losses[name] for name, weight in self.config.weights.items()}
