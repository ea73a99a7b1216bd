"""Lost packets: how latents bridge the gap."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FADE_SECONDS = 0.1  # from the last sound to silence


def fade(
    last: NDArray[np.float32],
    silence: NDArray[np.float32],
    done: int,
    frames: int,
    length: float,
    following: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Latents [B, frames, D] from `last` [B, 1, D] towards `silence` [1, 1, D], `done` frames after the last sound.

    They reach silence `length` frames after the last sound, and stay there. With the latents `following` [B, 1, D] of
    the frame after them, they rise to those, from `length` frames before it or from the first of these frames on.
    """
    t = 1 + np.arange(frames, dtype=np.float32)[None, :, None]
    gain = np.clip(1 - (done + t) / np.float32(length + 1), 0, 1)
    if following is None:
        return np.asarray(silence + (last - silence) * gain, np.float32)
    rise = np.clip(1 - (frames + 1 - t) / np.float32(min(length, frames) + 1), 0, 1)
    return np.asarray(
        silence + (last - silence) * np.minimum(gain, 1 - rise) + (following - silence) * rise, np.float32
    )
