"""Packet loss: how it comes in bursts, and how latents bridge it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import EdgecodecError

FADE_SECONDS = 0.1  # from the last sound to silence


@dataclass(frozen=True)
class GilbertModel:
    """Loss in bursts: a channel with a good state that passes and a bad state that loses every packet (Gilbert, 1960).

    `loss` is the mean share of packets lost, 0..1, `burst` the mean length of a burst in packets.

        good --p--> bad, bad --q--> good:    burst = 1 / q,    loss = p / (p + q)

    With burst = 1 / (1 - loss) losses are independent; less than that is not possible for a given loss.

    Raises:
        EdgecodecError: a loss outside 0..1, or a burst that no two-state model has at this loss.
    """

    loss: float
    burst: float

    def __post_init__(self) -> None:
        if not 0 <= self.loss < 1:
            raise EdgecodecError(f"loss must be from 0 to below 100 %, not {100 * self.loss:g} %")
        least = max(1.0, self.loss / (1 - self.loss))  # p <= 1
        if not least <= self.burst < np.inf:
            raise EdgecodecError(
                f"bursts at {100 * self.loss:g} % loss last {least:g} packets or more, not {self.burst:g}"
            )

    def draw(self, packets: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Which packets are lost, [packets]; the first is drawn from the long-term share."""
        leave = 1 / self.burst
        enter = leave * self.loss / (1 - self.loss)
        chances = rng.random(packets)
        lost = np.zeros(packets, np.bool_)
        bad = bool(rng.random() < self.loss)
        for i, chance in enumerate(chances):
            lost[i] = bad
            bad = bool(chance >= leave if bad else chance < enter)
        return lost


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
