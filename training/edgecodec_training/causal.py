"""The interface of causal layers with functional state: `(x, state) -> (y, next_state)`.

Every layer declares `state_size`, the floats that it must remember per stream, and takes and returns that state packed
as `[B, state_size]`. Zero state is silence before the first sample. A whole clip is one call with
`layer.zero_state(batch)`, a stream is many calls that hand the state on, and both run the same code. The exported ONNX
graphs carry the same packed state.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Causal(nn.Module):
    """A layer whose output up to now depends on its input up to now, and on a packed state `[B, state_size]`."""

    state_size: int = 0
    latency: int = 0  # samples of audio by which an encoder's or decoder's output is late

    def zero_state(self, batch: int) -> Tensor:
        """The state before the first sample, `[batch, state_size]`, on the device of the parameters."""
        reference = next(itertools.chain(self.parameters(), self.buffers()))
        return torch.zeros(batch, self.state_size, device=reference.device)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Process `x` after what `state` remembers; returns the output and the next state."""
        raise NotImplementedError


class Chain(Causal):
    """Causal and stateless layers one after the other; the packed states stand in the order of the layers."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.sizes = [layer.state_size for layer in layers if isinstance(layer, Causal)]
        self.state_size = sum(self.sizes)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run every layer; see `Causal.forward`."""
        states = iter(state.split(self.sizes, dim=1))
        next_states = []
        for layer in self.layers:
            if isinstance(layer, Causal):
                x, next_state = layer(x, next(states))
                next_states.append(next_state)
            else:
                x = layer(x)
        return x, torch.cat(next_states, dim=1)
