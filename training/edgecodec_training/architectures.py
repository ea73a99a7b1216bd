"""The architectures that a codec can have, by the name that `model.architecture` gives.

To add one, write its layers and their configuration in a module of its own, name it here, and give `ModelConfig` a
field of that name that holds its configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from .causal import Causal
from .edge import EdgeDecoder, EdgeEncoder
from .seanet import SeanetDecoder, SeanetEncoder

Name = Literal["edge", "seanet"]


class Architecture(NamedTuple):
    """What builds the two sides, each of (the architecture's configuration, frame_size, latent_dim)."""

    encoder: Callable[[Any, int, int], Causal]  # audio [B, 1, frame_size * T] to latents [B, T, D]
    decoder: Callable[[Any, int, int], Causal]  # latents [B, T, D] to audio [B, 1, frame_size * T]


ARCHITECTURES: dict[Name, Architecture] = {
    "edge": Architecture(EdgeEncoder, EdgeDecoder),
    "seanet": Architecture(SeanetEncoder, SeanetDecoder),
}
