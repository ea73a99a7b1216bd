"""What every quantizer is: its configuration, its interface, and the inference form that all kinds share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from msgspec import Meta
from torch import Tensor, nn

from .codebook_learning import Learning
from .codebook_search import LookupTables, look_up, search
from .distributed import ALONE, Ranks
from .ranges import WIDEST, Count, Decay, Depths, Fraction, NotNegative, Positive

Kind = Literal["rvq", "vq", "pq", "gumbel"]


@dataclass(frozen=True)
class QuantizerConfig:
    """How latents become codes.

    `code_dim`: dimension of the code vectors, with learned projections per stage as in DAC; 0 = the latents' own, as in
    EnCodec. `normalized`: look up by cosine. `kmeans`: codebooks begin as k-means of the first latents, else at random.
    `learning`: codebooks learn by EMA with `decay`, or by gradient (codebook loss). `commitment`: weight of the pull of
    latents towards their codes. `dropout_stages`: stage counts drawn per clip in training, so that each count is
    usable; in a `dropout_mixed` share of the clips the count then changes from one run of frames to the next, as with
    variable rate. `restart_below`: an entry used less than this fraction of the mean use restarts at a random vector of
    the batch. `temperature`: Gumbel-softmax, (first, last, steps) of a geometric schedule; `sharpness`: of its first
    logits, which at 1 differ by less than the noise that it samples with. `paths`: how many paths the search for codes
    keeps after the first, second, … stage, and one after those not named (plain RVQ in the latents' own dimension;
    other kinds keep one).
    """

    kind: Kind = "rvq"
    codebook_size: Annotated[int, Meta(ge=2, le=WIDEST)] = 1024
    max_stages: Annotated[int, Meta(ge=1, le=128)] = 16
    code_dim: Annotated[int, Meta(ge=0, le=WIDEST)] = 0
    normalized: bool = False
    kmeans: bool = True
    learning: Learning = "ema"
    decay: Decay = 0.99
    commitment: NotNegative = 0.25
    dropout_stages: Annotated[tuple[Depths, ...], Meta(min_length=1, max_length=1024)] = (1, 2, 3, 4, 6, 8, 12, 16)
    dropout_mixed: Fraction = 0.5
    restart_below: NotNegative = 0.05
    temperature: tuple[Positive, Positive, Count] = (2.0, 0.5, 20_000)
    sharpness: Positive = 1.0
    paths: Annotated[tuple[Annotated[int, Meta(ge=1, le=64)], ...], Meta(max_length=128)] = (3, 3, 3, 2, 2)

    def __post_init__(self) -> None:
        if self.kind == "vq" and self.max_stages != 1:
            raise ValueError(f"a vq quantizer has one stage, not max_stages = {self.max_stages}")
        if any(n > self.max_stages for n in self.dropout_stages):
            raise ValueError(f"dropout_stages {self.dropout_stages} must lie in 1..max_stages = {self.max_stages}")


class Quantized(NamedTuple):
    """What `forward` returns: the quantized latents, all codes, losses, and the distortion after each stage."""

    quantized: Tensor  # [B, T, D], differentiable (straight-through or soft)
    codes: Tensor  # [B, max_stages, T]
    losses: dict[str, Tensor]  # already weighted
    distortion: Tensor  # [max_stages], energy left after each stage / energy of the latents


class Quantizer(nn.Module):
    """Interface and the inference form shared by all kinds."""

    def __init__(self, config: QuantizerConfig, latent_dim: int) -> None:
        super().__init__()
        self.config = config
        self.latent_dim = latent_dim
        self.max_stages = config.max_stages

    def tables(self) -> LookupTables:
        """The inference form of the present weights."""
        raise NotImplementedError

    def initialise(self, latents: Tensor, ranks: Ranks = ALONE) -> None:
        """Fit the codebooks to latents `[N, D]` of every rank before the first step (k-means, stage by stage)."""
        raise NotImplementedError

    def forward(self, latents: Tensor, n_stages: Tensor) -> Quantized:
        """Quantize latents `[B, T, D]` for training, each frame with its own stage count in `n_stages` `[B, T]`."""
        raise NotImplementedError

    def update(self, ranks: Ranks = ALONE) -> None:
        """After a step: what no gradient teaches (EMA, restarts, schedules), from the batch that `forward` last saw."""

    @torch.no_grad()
    def encode(self, latents: Tensor, n_stages: int) -> Tensor:
        """Codes `[B, n_stages, T]` of latents `[B, T, D]`, by the inference form."""
        if not 1 <= n_stages <= self.max_stages:
            raise ValueError(f"n_stages must be in 1..{self.max_stages}, got {n_stages}")
        tables = self.tables()
        return search(tables, latents, tables.kept()[:n_stages])

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Latents `[B, T, D]` of codes `[B, n_stages, T]`."""
        return look_up(self.tables(), codes)
