"""A filter behind the decoder that takes noise out from between the harmonics of a voice.

    low band -+-> windows -> correlation at every lag -> the best -+-> period before -> (-)
              |                                                    `-> gain x strength   |
              `--------------------------------------------------------------------------'
                                                            gain x difference -> (+) audio

Below 1 kHz the codes carry the waveform, and what they leave open is noise between the harmonics: the mean of a period
and the one before it has less of that. Long-term postfilters of speech codecs do so (Chen & Gersho 1995, "Adaptive
postfiltering for quality enhancement of coded speech"); as in the bass postfilter of AMR-WB+ (3GPP TS 26.290, section
5.3) only the low band is filtered, and here with past periods alone, so that nothing is late.
"""

from __future__ import annotations

import torch
from edgecodec.errors import ConfigError
from torch import Tensor, nn

STEP = 8  # samples between two lags, and between those that are correlated: the low band is narrow
HOPS = 3  # that a window spans
APERIODIC, PERIODIC = 0.4, 0.9  # correlation up to which nothing is filtered, and from which on fully
SILENCE = 1e-10  # product of the energies of two windows that have no period


class PitchFilter(nn.Module):
    """Low band `[B, 1, frame_size * T]` to what is added to the audio, of the same shape.

    `lags`: shortest and longest period, in samples, as far as a window reaches, which is nearly two frames. The state
    is `HOPS` frames and the strength of the last one.

    Raises:
        ConfigError: frames or lags that do not fit.
    """

    spectra: Tensor  # [size / STEP, 4 * bins]: real and imaginary parts of a window, then of its end alone
    lagged: Tensor  # [2 * bins, lags]: the correlation of the two, from the longest lag on
    energies: Tensor  # [size / STEP, lags + 1]: of what is correlated at each lag; of the end
    samples: Tensor  # [2 * frame_size]: of a window at full rate, its last frame, twice
    ramp: Tensor  # [2, frame_size]: shares of the period of the frame before, and of that of this one

    def __init__(self, frame_size: int, lags: tuple[int, int]) -> None:
        super().__init__()
        self.shortest, self.longest = lags[0] // STEP, min(lags[1], (HOPS - 1) * frame_size - 2 * STEP) // STEP
        if frame_size % STEP or not 1 <= self.shortest <= self.longest - 2:
            raise ConfigError(
                f"a pitch filter needs frames of a multiple of {STEP} samples, and pitch_lags far apart, of {STEP} "
                f"or more, not {frame_size} and {lags}; without one, model.edge.pitch_filter is 0"
            )
        size = HOPS * frame_size
        self.frame_size = frame_size
        for name, table in zip(("spectra", "lagged", "energies"), self._tables(size // STEP), strict=True):
            self.register_buffer(name, table.float(), persistent=False)
        self.register_buffer("samples", torch.arange(size - frame_size, size).repeat(2), persistent=False)
        rising = (torch.arange(frame_size) + 1) / frame_size
        self.register_buffer("ramp", torch.stack([1 - rising, rising]), persistent=False)
        self.sizes = [size, 1]
        self.state_size = size + 1

    def _tables(self, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """What `_period` multiplies with, in double precision.

        The end is all of a window but `longest` samples, so that the circular correlation goes round nowhere.
        """
        steps, bins = torch.arange(size, dtype=torch.float64), torch.arange(size // 2 + 1, dtype=torch.float64)
        lags = torch.arange(self.longest, self.shortest - 1, -1, dtype=torch.float64)
        end = (steps >= self.longest).double()[:, None]
        angles = 2 * torch.pi / size * steps[:, None] * bins
        waves = torch.cat([angles.cos(), -angles.sin()], dim=1)
        twice = torch.where((bins == 0) | (2 * bins == size), 1.0, 2.0)[:, None] / size
        turns = 2 * torch.pi / size * bins[:, None] * lags
        at = steps[:, None] + torch.cat([lags, lags.new_zeros(1)])
        within = ((at >= self.longest) & (at < size)).double()
        return torch.cat([waves, end * waves], 1), torch.cat([twice * turns.cos(), -twice * turns.sin()]), within

    def forward(self, x: Tensor, strength: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See the class and `Causal.forward`. `strength` `[B, T]`: that of the period before, beside 1 of this one."""
        before, strength_before = state.split(self.sizes, dim=1)
        strengths = torch.cat([strength_before, strength], dim=1)  # [B, T + 1]
        hops = torch.cat([before.reshape(-1, HOPS, self.frame_size), x.reshape(x.shape[0], -1, self.frame_size)], dim=1)
        windows = torch.cat([hops[:, :-2], hops[:, 1:-1], hops[:, 2:]], dim=2)  # [B, T + 1, size]
        with torch.no_grad():
            lag, gain = self._period(windows[:, :, ::STEP])  # [B, T + 1, 1]
        gain = gain * strengths.unsqueeze(2)
        share = gain / (1 + gain)
        lags, shares = (torch.cat([every[:, :-1], every[:, 1:]], dim=2) for every in (lag, share))  # [B, T, 2]
        added = (self._differences(windows[:, 1:], lags) * (shares.unsqueeze(3) * self.ramp)).sum(dim=2)
        after = torch.cat([hops[:, -HOPS:].flatten(1), strengths[:, -1:]], dim=1)
        return added.reshape(x.shape[0], 1, -1), after

    def _period(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Of windows `[B, N, size / STEP]` the lag in samples, and how periodic they are, 0 to 1: `[B, N, 1]`."""
        real, imaginary, end_real, end_imaginary = (windows @ self.spectra).chunk(4, dim=2)
        cross = [end_real * real + end_imaginary * imaginary, end_imaginary * real - end_real * imaginary]
        energies, end = ((windows * windows) @ self.energies).split([self.lagged.shape[1], 1], dim=2)
        correlation = torch.cat(cross, dim=2) @ self.lagged / (energies * end).clamp(min=SILENCE).sqrt()  # [B, N, lags]
        best = correlation[:, :, 1:-1].argmax(dim=2, keepdim=True)
        before, peak, after = correlation.gather(2, best + torch.arange(3, device=best.device)).split(1, dim=2)
        bend = (2 * peak - before - after).clamp(min=1e-3)
        vertex = ((after - before) / (2 * bend)).clamp(-0.5, 0.5)  # of the parabola through the three, in steps
        lag = ((self.longest - 1) - best - vertex) * STEP
        return lag, ((peak - APERIODIC) / (PERIODIC - APERIODIC)).clamp(0, 1)

    def _differences(self, windows: Tensor, lags: Tensor) -> Tensor:
        """The periods before the last frame of windows `[B, T, size]`, less that frame: `[B, T, 2, frame_size]`."""
        whole = lags.floor()
        at = self.samples - whole.long().repeat_interleave(self.frame_size, dim=2)
        past, earlier = (windows.gather(2, places).unflatten(2, (2, self.frame_size)) for places in (at, at - 1))
        difference: Tensor = past + (lags - whole).unsqueeze(3) * (earlier - past)
        return difference - windows[:, :, -self.frame_size :].unsqueeze(2)
