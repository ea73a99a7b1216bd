"""A filter behind the decoder that takes noise out from between the harmonics of a voice.

    low band -+-> windows -> correlation at every lag -> the best -+-> period before -> (-)
              |                                                    `-> gain              |
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
from torch import Tensor

from .causal import Causal

STEP = 8  # samples between two lags, and between those that are correlated: the low band is narrow
HOPS = 3  # that a window spans
APERIODIC, PERIODIC = 0.4, 0.9  # correlation up to which nothing is filtered, and from which on fully
SILENCE = 1e-10  # product of the energies of two windows that have no period


class PitchFilter(Causal):
    """Low band `[B, 1, frame_size * T]` to what is added to the audio, of the same shape; the state is `HOPS` frames.

    `strength`: of the period before, beside 1 of the present one. `lags`: shortest and longest period, in samples.

    Raises:
        ConfigError: frames or lags that do not fit.
    """

    samples: Tensor  # [frame_size]: of a window at full rate, its last frame
    ramp: Tensor  # [frame_size]: from the period of the frame before to that of this one

    def __init__(self, frame_size: int, strength: float, lags: tuple[int, int]) -> None:
        super().__init__()
        if frame_size % STEP or not STEP < lags[0] < lags[1] - 2 * STEP <= (HOPS - 1) * frame_size - 4 * STEP:
            raise ConfigError(
                f"a pitch filter needs frames of a multiple of {STEP} samples, and pitch_lags far apart within {STEP} "
                f"samples and {HOPS - 1} frames, not {frame_size} and {lags}"
            )
        size = HOPS * frame_size
        self.register_buffer("samples", torch.arange(size - frame_size, size), persistent=False)
        self.register_buffer("ramp", (torch.arange(frame_size) + 1) / frame_size, persistent=False)
        self.frame_size, self.strength = frame_size, strength
        self.shortest, self.longest = (lag // STEP for lag in lags)
        self.state_size = size

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See the class and `Causal.forward`."""
        hops = torch.cat([state.reshape(-1, HOPS, self.frame_size), x.reshape(x.shape[0], -1, self.frame_size)], dim=1)
        windows = torch.cat([hops[:, :-2], hops[:, 1:-1], hops[:, 2:]], dim=2)  # [B, T + 1, size]
        lag, share = self._period(windows[:, :, ::STEP])  # [B, T + 1, 1]
        windows = windows[:, 1:]
        old = share[:, :-1] * self._difference(windows, lag[:, :-1])
        new = share[:, 1:] * self._difference(windows, lag[:, 1:])
        added = old + self.ramp * (new - old)
        return added.reshape(x.shape[0], 1, -1), hops[:, -HOPS:].flatten(1)

    def _period(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Of windows `[B, N, size / STEP]` the lag in samples, and how much of them it replaces, `[B, N, 1]`."""
        lagged = _shifted(windows, self.longest - self.shortest + 1, windows.shape[2] - self.longest)
        present = windows[:, :, self.longest :]
        product = (lagged @ present.unsqueeze(3)).squeeze(3)
        energies = (lagged * lagged).sum(dim=3) * (present * present).sum(dim=2, keepdim=True)
        correlation = product / energies.clamp(min=SILENCE).sqrt()  # [B, N, lags], from the longest on
        best = correlation[:, :, 1:-1].argmax(dim=2, keepdim=True)
        before, peak, after = (correlation.gather(2, best + i) for i in range(3))
        bend = (2 * peak - before - after).clamp(min=1e-3)
        vertex = ((after - before) / (2 * bend)).clamp(-0.5, 0.5)  # of the parabola through the three, in steps
        lag = ((self.longest - 1) - best - vertex) * STEP
        gain = self.strength * ((peak - APERIODIC) / (PERIODIC - APERIODIC)).clamp(0, 1)
        return lag, gain / (1 + gain)

    def _difference(self, windows: Tensor, lag: Tensor) -> Tensor:
        """The period before the last frame of windows `[B, T, size]`, less that frame: `[B, T, frame_size]`."""
        whole = lag.floor()
        at = self.samples - whole.long()
        past = windows.gather(2, at)
        difference: Tensor = past + (lag - whole) * (windows.gather(2, at - 1) - past)
        return difference - windows[:, :, -self.frame_size :]


def _shifted(windows: Tensor, rows: int, columns: int) -> Tensor:
    """Of windows `[B, N, size]` what begins at sample 0, 1, 2 …: `[B, N, rows, columns]`.

    Rows of one sample more than they have begin one sample later each; copied so, and not by a table of places, it
    takes a tenth of the time.
    """
    size = windows.shape[2]
    copies = windows.unsqueeze(2).expand(-1, -1, rows + 1, -1).flatten(2)[:, :, : rows * (size + 1)]
    shifted: Tensor = copies.unflatten(2, (rows, size + 1))[:, :, :, :columns]
    return shifted
