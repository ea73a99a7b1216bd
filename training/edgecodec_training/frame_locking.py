"""How alike all frames of a signal are: what a decoder repeats, which ears hear as a buzz at the frame rate.

    audio -> frames of the codec -> spectra -> phases, as unit vectors -> mean over frames -> squared length

Where codes say how loud a bin is, but not its phase, losses of magnitudes are content with one phase for all frames: a
tone of the frame rate's harmonics, at times more than half of a band's energy. In natural sound, phases at the begin of
a frame are as good as random. The squared length of their mean is the square of the phase-locking value (Lachaux et al.
1999, "Measuring phase synchrony in brain signals", Human Brain Mapping 8): 1 where all frames are alike, 1 / N in the
mean of N random ones.
"""

from __future__ import annotations

import torch
from edgecodec.evaluation.frame_locking import QUIET
from torch import Tensor


def frame_locking(audio: Tensor, frame_size: int) -> Tensor:
    """Of clips `[B, samples]`, the mean over frequencies (all but 0 and Nyquist); frames are those of all clips."""
    frames = audio.unfold(1, frame_size, frame_size)
    spectra = torch.fft.rfft(frames, norm="ortho")[..., 1:-1]
    phases = spectra / (spectra.abs() + QUIET)
    locked: Tensor = phases.mean(dim=(0, 1)).abs().square().mean()
    return locked
