"""The disturbance of ITU-T P.862 (PESQ) as a loss: what is added to speech costs more than what is missing.

    target, decoded -> power in 49 Bark bands -> loudness -> difference, less what is masked -+-> symmetric, L2 -> (+)
                                                                                              +-> asymmetric, L1 -^

The terms and figures are those of ITU-T P.862 (02/2001), section 10.2, with bands of 31.25 Hz bins up to 8 kHz. Left
out: alignment in time, equalisation over bands and frames, and the aggregation over intervals; a codec's output is
aligned, and a loss wants its mean.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

BIN_HZ = 31.25


def _row(text: str) -> Tensor:
    return torch.tensor([float(number) for number in text.split()])


# Of each of the 49 bands: spectral bins, width in Bark, density per power of its bins, threshold of hearing in dB.
BINS = _row("""
    1 1 1 1 1 1 1 1 2 1 1 1 1 1 2 1 1 2 2 2 2 2 2 2 2 3 3 3 3 4 3 4 5 4 5 6 6 7 8 9 9 12 12 15 16 18 21 25 20
""")
WIDTHS = _row("""
    0.157 0.318 0.322 0.327 0.331 0.336 0.341 0.345 0.35 0.355 0.36 0.365 0.37 0.375 0.38 0.385 0.39 0.395 0.4 0.406
    0.411 0.416 0.422 0.427 0.433 0.439 0.444 0.45 0.456 0.462 0.468 0.474 0.48 0.486 0.492 0.498 0.504 0.511 0.517
    0.524 0.53 0.537 0.544 0.55 0.557 0.564 0.571 0.578 0.585
""")
DENSITIES = _row("""
    100 100 100 100 100 100 100 100 50 100 100 100 100 100 53 110 118 65 68.8 70 71.4 75 76.8 81 88.6 63.9 68.2 72.5
    75.6 58.4 81 64.1 54.4 73.8 64.4 59.2 65.5 61.4 58.1 57 64.1 54.3 61.1 55.1 56.8 55.6 53.1 55 79.5
""")
THRESHOLDS_DB = _row("""
    77.1 63.9 48.5 36.9 30.7 25.9 20.2 16.6 12.5 9.9 6.9 4.9 2.8 1 -0.1 -1.4 -2.5 -3.4 -4.1 -4.8 -5.3 -5.7 -5.9 -6 -6
    -6 -6 -5.8 -5.4 -5.1 -4.7 -4.3 -4 -3.6 -3.3 -3.1 -3 -3 -2.9 -2.8 -2.8 -2.8 -2.9 -3.2 -3.7 -4.3 -4.4 -3.8 -2.7
""")

POWER = 6.910853e-6  # of spectra to the power of P.862's bands
LOUDNESS = 0.1866055  # to sones
ZWICKER = 0.23
LEVEL_POWER, LEVEL_HZ = 1e7, (325.0, 3250.0)  # that the target's speech band is set to
QUIETEST = 1e-5  # power of full scale in that band, -50 dB: what is quieter is not made as loud as speech
MASKED = 0.25  # of the smaller loudness: a difference that is not heard
ASYMMETRY_POWER, ASYMMETRY_FLOOR, ASYMMETRY_LEAST, ASYMMETRY_MOST = 1.2, 50.0, 3.0, 12.0
LOUDEST_FRAME = 45.0  # of disturbance
SYMMETRIC, ASYMMETRIC = 0.1, 0.0309  # weights of the two in the score


class Disturbance(nn.Module):
    """The mean disturbance of frames between clips `[B, samples]`, 0 for equal ones; a point of PESQ a unit."""

    window: Tensor
    bands: Tensor  # [bins, 49]
    widths: Tensor  # [49]
    thresholds: Tensor
    exponents: Tensor

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.size = round(sample_rate / BIN_HZ)
        self.level_bins = [round(hz / BIN_HZ) for hz in LEVEL_HZ]
        centres = WIDTHS.cumsum(0) - WIDTHS / 2  # Bark
        low = (6 / (centres + 2)).clamp(1, 2) ** 0.15  # loudness grows faster at low frequencies
        band_of_bin = torch.repeat_interleave(torch.arange(len(BINS)), BINS.int())
        bands = torch.zeros(self.size // 2 + 1, len(BINS))
        bands[torch.arange(len(band_of_bin)), band_of_bin] = POWER * DENSITIES[band_of_bin]
        for name, value in {
            "window": torch.hann_window(self.size),
            "bands": bands,
            "widths": WIDTHS,
            "thresholds": 10 ** (THRESHOLDS_DB / 10),
            "exponents": ZWICKER * low,
        }.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, target: Tensor, decoded: Tensor) -> Tensor:
        """A scalar."""
        spectrum, theirs = self._power(target), self._power(decoded)
        level = spectrum[:, :, slice(*self.level_bins)].sum(2).mean(1) * 2 / (self.size * self.window.square().sum())
        gain = LEVEL_POWER / level.clamp(min=QUIETEST)
        gain = gain * (256 / self.window.sum()) ** 2  # P.862 sums over a window of 512 samples
        x, y = (power @ self.bands * gain[:, None, None] for power in (spectrum, theirs))  # [B, frames, 49]
        a, b = self._loudness(x), self._loudness(y)
        difference = ((a - b).abs() - MASKED * torch.minimum(a, b)).clamp(min=0)
        ratio = ((y + ASYMMETRY_FLOOR) / (x + ASYMMETRY_FLOOR)) ** ASYMMETRY_POWER
        added = torch.where(ratio < ASYMMETRY_LEAST, 0.0, ratio.clamp(max=ASYMMETRY_MOST))
        weighted = (difference * self.widths)[..., 1:]  # the lowest band is below hearing
        whole = self.widths[1:].sum()
        symmetric = ((weighted.square().sum(2) + 1e-8) / whole).sqrt() * whole
        asymmetric = (weighted * added[..., 1:]).sum(2)
        audible = torch.where(x > self.thresholds, x, 0.0)[..., 1:].sum(2)
        importance = ((audible + 1e5) / 1e7) ** 0.04
        symmetric, asymmetric = ((d / importance).clamp(max=LOUDEST_FRAME) for d in (symmetric, asymmetric))
        return (SYMMETRIC * symmetric + ASYMMETRIC * asymmetric).mean()

    def _power(self, audio: Tensor) -> Tensor:
        """`[B, frames, bins]`."""
        spectrum = torch.fft.rfft(audio.unfold(1, self.size, self.size // 2) * self.window)
        power: Tensor = spectrum.real.square() + spectrum.imag.square()
        return power

    def _loudness(self, power: Tensor) -> Tensor:
        """Sones per Bark, of power in bands (Zwicker's law; nothing below the threshold of hearing)."""
        above = (power / self.thresholds).clamp(min=1)
        scale = LOUDNESS * (2 * self.thresholds) ** self.exponents
        return scale * ((0.5 + 0.5 * above) ** self.exponents - 1)
