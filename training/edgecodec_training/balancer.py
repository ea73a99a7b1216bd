"""Loss balancing by gradient: each loss gets its share of the decoder's gradient, whatever its scale.

EnCodec (Défossez et al. 2022, arXiv:2210.13438), section 3.4, "Balancer".
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .distributed import ALONE, Ranks


class Balancer:
    """Scales the gradients of several losses at the decoded audio to fixed shares of one norm.

    `shares`: loss name -> share. The norm of a clip's gradient is averaged over the clips of all `ranks`, and over
    steps with `decay`, so that a loss may still fade as it is solved; `norms` is that memory and travels with a
    checkpoint. The result is a mean over clips, as the losses are: it does not depend on the batch size.
    """

    def __init__(self, shares: Mapping[str, float], ranks: Ranks = ALONE, decay: float = 0.999) -> None:
        self.shares, self.ranks, self.decay = dict(shares), ranks, decay
        self.norms: dict[str, Tensor] = {}

    def gradient(self, losses: Mapping[str, Tensor], decoded: Tensor) -> Tensor:
        """The balanced gradient at `decoded`; losses without a share, or with share 0, are left out."""
        total = torch.zeros_like(decoded)
        used = {name: loss for name, loss in losses.items() if self.shares.get(name, 0.0) > 0}
        whole = sum(self.shares[name] for name in used)
        for name, loss in used.items():
            [gradient] = torch.autograd.grad(loss, decoded, retain_graph=True)
            norm = self.ranks.mean(gradient.flatten(1).norm(dim=1).mean())
            before = self.norms.get(name, norm)
            self.norms[name] = before * self.decay + norm * (1 - self.decay)
            total += gradient * (self.shares[name] / whole / self.norms[name].clamp(min=1e-12))
        return total / len(decoded)
