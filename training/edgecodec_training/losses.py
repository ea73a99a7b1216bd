"""Reconstruction losses: waveform, compressed complex STFT, and multi-scale log-mel distance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from edgecodec.evaluation.measures import mel_filters
from torch import Tensor, nn

from .disturbance import Disturbance
from .frame_locking import frame_locking
from .ranges import NotNegative, Positive, Width, Window

TERMS = (
    "waveform",
    "stft",
    "mel",
    "loudness",
    "disturbance",
    "locking",
)  # each has its weight in `LossConfig`, by this name
LOUDNESS_POWER = 0.46  # of magnitudes: 0.23 of intensities
LOUDNESS_FLOOR = 1e-5  # magnitude, -94 dB of full scale: keeps the slope finite


@dataclass(frozen=True)
class LossConfig:
    """Weights of the `TERMS`, windows in samples (hop = window / 4), and where the log-mel floors.

    `loudness_windows` are some of the `mel_windows`. A weight of 0 leaves `disturbance` and `locking` out.

    `mel_floor` is the magnitude added before the logarithm, 1 being a sine of twice full scale: low enough to keep
    quiet speech, high enough not to spend the loss on the noise floor of silence. With `balanced` the weights, those of
    the discriminators' losses too, are shares of the gradient at the decoded audio (see `balancer`).
    """

    waveform: NotNegative = 5.0
    stft: NotNegative = 20.0
    mel: NotNegative = 1.0
    loudness: NotNegative = 20.0
    disturbance: NotNegative = 0.0
    locking: NotNegative = 0.0
    stft_windows: tuple[Window, ...] = (512, 1024)
    mel_windows: tuple[Window, ...] = (256, 512, 1024, 2048)
    mel_bands: tuple[Width, ...] = (24, 48, 80, 120)
    mel_floor: Positive = 1e-4
    loudness_windows: tuple[Window, ...] = (512, 1024)
    compression: Positive = 0.3
    balanced: bool = False

    def __post_init__(self) -> None:
        if len(self.mel_windows) != len(self.mel_bands):
            raise ValueError("mel_windows and mel_bands must be of one length")
        if not set(self.loudness_windows) <= set(self.mel_windows):
            raise ValueError(f"loudness_windows {self.loudness_windows} must be among mel_windows {self.mel_windows}")

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each term."""
        return {name: getattr(self, name) for name in TERMS}


class Spectrum(nn.Module):
    """Complex STFT with a Hann window and hop = window / 4, scaled so that a full-scale sine has magnitude 1/2."""

    window: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("window", torch.hann_window(size), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """`[B, samples]` to `[B, frames, size / 2 + 1]`, complex."""
        frames = audio.unfold(1, self.size, self.size // 4) * self.window
        spectrum: Tensor = torch.fft.rfft(frames) * (1 / self.window.sum())
        return spectrum


class MelBands(nn.Module):
    """Triangular filters over the bins of a spectrum: `[B, frames, window / 2 + 1]` to `[B, frames, bands]`."""

    filters: Tensor  # [window / 2 + 1, bands]

    def __init__(self, bands: int, window: int, sample_rate: int) -> None:
        super().__init__()
        filters = torch.from_numpy(mel_filters(bands, window, sample_rate)).float()
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, magnitudes: Tensor) -> Tensor:
        """See the class."""
        return magnitudes @ self.filters


class ReconstructionLoss(nn.Module):
    """The weighted `TERMS` between a target and a decoded signal `[B, 1, samples]`.

    `mel`: L1 of log-mel spectra at several windows, as in DAC (arXiv:2306.06546), section 3.4, floored.
    `loudness`: L1 of the loudness in mel bands, (intensity)^0.23 after Zwicker & Fastl, Psychoacoustics, section 8.1:
    where log-mel spectra weigh every level alike, it weighs as PESQ (ITU-T P.862) does, and leaves silence alone.
    `stft`: squared error of magnitude-compressed complex spectra plus that of their magnitudes (Braun & Tashev 2021,
    arXiv:2009.12286), which agrees with ears better than plain spectra and still sees the phase.
    `disturbance`: that of PESQ, see `disturbance`.
    `locking`: of the decoded signal alone, whose frames of `frame_size` samples must not be alike, see `frame_locking`.
    """

    def __init__(self, config: LossConfig, sample_rate: int, frame_size: int) -> None:
        super().__init__()
        self.config = config
        self.frame_size = frame_size
        self.disturbance = Disturbance(sample_rate) if config.disturbance else None
        sizes = sorted({*config.stft_windows, *config.mel_windows})
        self.spectra = nn.ModuleDict({str(size): Spectrum(size) for size in sizes})
        self.mel_bands = nn.ModuleDict(
            {
                str(window): MelBands(bands, window, sample_rate)
                for window, bands in zip(config.mel_windows, config.mel_bands, strict=True)
            }
        )

    def forward(self, target: Tensor, decoded: Tensor) -> dict[str, Tensor]:
        """Weighted terms by name; `disturbance` and `locking` only where they have a weight."""
        config, weights = self.config, self.config.weights
        x, y = target.squeeze(1), decoded.squeeze(1)
        terms = {"waveform": (x - y).abs().mean()}
        zero = x.new_zeros(())
        terms |= {"stft": zero, "mel": zero, "loudness": zero}
        for name, spectrum in self.spectra.items():
            size = int(name)
            fx, fy = spectrum(x), spectrum(y)
            px, py = (f.real.square() + f.imag.square() + 1e-10 for f in (fx, fy))
            if size in config.stft_windows:
                terms["stft"] = terms["stft"] + self._compressed(fx, fy, px, py)
            if size in config.mel_windows:
                mx, my = (self.mel_bands[name](p.sqrt()) for p in (px, py))
                lx, ly = (torch.log10(m + config.mel_floor) for m in (mx, my))
                terms["mel"] = terms["mel"] + (lx - ly).abs().mean()
                if size in config.loudness_windows:
                    difference = (mx + LOUDNESS_FLOOR) ** LOUDNESS_POWER - (my + LOUDNESS_FLOOR) ** LOUDNESS_POWER
                    terms["loudness"] = terms["loudness"] + difference.abs().mean()
        if self.disturbance is not None:
            terms["disturbance"] = self.disturbance(x, y)
        if config.locking:
            terms["locking"] = frame_locking(y, self.frame_size)
        return {name: weights[name] * term for name, term in terms.items()}

    def _compressed(self, fx: Tensor, fy: Tensor, px: Tensor, py: Tensor) -> Tensor:
        """Distance of |f|^c and of |f|^c e^{i phase}."""
        hx, hy = px ** (self.config.compression / 2), py ** (self.config.compression / 2)
        difference = fx * (hx / px.sqrt()) - fy * (hy / py.sqrt())
        return torch.view_as_real(difference).square().sum(dim=-1).mean() + (hx - hy).square().mean()
