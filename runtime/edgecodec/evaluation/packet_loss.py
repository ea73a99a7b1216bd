"""How networks lose packets: in bursts, rather than one by one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import EdgecodecError


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
