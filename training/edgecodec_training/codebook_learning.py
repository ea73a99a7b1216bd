"""Where a codebook learns: k-means before the first step, then EMA or gradient, and dead entries that restart."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .distributed import ALONE, Ranks

Learning = Literal["ema", "gradient"]


class Codebook(nn.Module):
    """`size` vectors of `dim` dimensions, [K, d] below: nearest-entry search, and the two ways to learn.

    With `learning` "ema" the vectors are a buffer that `ema_update` moves; with "gradient" they are a parameter.
    `normalized` looks up by cosine. An entry used less than the fraction `restart_below` of the mean use restarts.
    """

    vectors: Tensor  # [K, d]
    use: Tensor  # [K], running mean of hits a batch, as a fraction of the mean over entries

    def __init__(
        self,
        size: int,
        dim: int,
        *,
        learning: Learning = "ema",
        normalized: bool = False,
        decay: float = 0.99,
        restart_below: float = 0.05,
    ) -> None:
        super().__init__()
        self.size, self.learning, self.normalized = size, learning, normalized
        self.decay, self.restart_below = decay, restart_below
        vectors = torch.randn(size, dim) / dim**0.5
        if learning == "ema":
            self.register_buffer("vectors", vectors)
        else:
            self.vectors = nn.Parameter(vectors)
        self.register_buffer("use", torch.ones(size))

    def entries(self) -> Tensor:
        """The vectors that codes stand for: `[K, d]`, of unit length when normalized."""
        return F.normalize(self.vectors, dim=1) if self.normalized else self.vectors

    def scoring(self) -> tuple[Tensor, Tensor]:
        """`score [d, K], bias [K]` whose argmax is the nearest entry (argmax of x.c - |c|^2 / 2, or of the cosine)."""
        entries = self.entries()
        bias = torch.zeros_like(entries[:, 0]) if self.normalized else -0.5 * entries.square().sum(dim=1)
        return entries.T, bias

    @torch.no_grad()
    def search(self, x: Tensor) -> Tensor:
        """Index of the nearest entry for vectors `[N, d]`."""
        score, bias = self.scoring()
        return torch.addmm(bias, x, score).argmax(dim=1)

    @torch.no_grad()
    def fit(self, x: Tensor, ranks: Ranks = ALONE, iterations: int = 10) -> None:
        """K-means on `[N, d]` of every rank, started from random members; clusters that empty restart at others."""
        if self.normalized:
            x = F.normalize(x, dim=1)
        k, n = self.size, len(x) * ranks.count
        self.vectors.copy_(ranks.rows(x, _random(n, k, x.device) if n < k else torch.randperm(n, device=x.device)[:k]))
        for _ in range(iterations):
            mean, hits = self._means(x, self.search(x), ranks)
            self.vectors.copy_(torch.where(hits[:, None] > 0, mean, ranks.rows(x, _random(n, k, x.device))))
        self.use.fill_(1.0)

    @torch.no_grad()
    def ema_update(self, x: Tensor, codes: Tensor, ranks: Ranks = ALONE) -> None:
        """Move entries towards the vectors `[N, d]` (of every rank) that chose them, and restart dead ones.

        c <- decay * c + (1 - decay) * mean of its vectors, for every entry that was hit (VQ-VAE, van den Oord et al.
        2017, appendix A.1, in the form without a running count: there is no second buffer to forget at a restart).
        Entries that learn by gradient do not move here; their use is counted and the dead restart all the same.
        """
        mean, hits = self._means(x, codes, ranks)
        decay, n = self.decay, len(x) * ranks.count
        if self.learning == "ema":
            self.vectors.copy_(torch.where(hits[:, None] > 0, decay * self.vectors + (1 - decay) * mean, self.vectors))
        self.use.mul_(decay).add_(hits * (self.size / max(n, 1)), alpha=1 - decay)
        dead = (self.use < self.restart_below).nonzero().squeeze(1)
        if len(dead):
            self.vectors[dead] = ranks.rows(x, _random(n, len(dead), x.device))
            self.use[dead] = 1.0

    def _means(self, x: Tensor, codes: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
        """Per entry, the mean `[K, d]` of the vectors that chose it, and how many `[K]` did."""
        ones = F.pad(x, (0, 1), value=1.0)
        sums = ranks.sum(x.new_zeros(self.size, ones.shape[1]).index_add_(0, codes, ones))
        total, hits = sums[:, :-1], sums[:, -1]
        return total / hits.clamp(min=1)[:, None], hits


def _random(below: int, count: int, device: torch.device) -> Tensor:
    return torch.randint(below, (count,), device=device)
