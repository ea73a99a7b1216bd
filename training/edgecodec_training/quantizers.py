"""The kinds of quantizers, and how each learns: residual (RVQ), plain (VQ), product (PQ) and Gumbel-softmax.

A kind is its `forward`. At inference all of them are one thing, stages of a scored lookup (see `codebook_search`). The
steps by which one codebook learns are in `codebook_learning`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from edgecodec.errors import ConfigError
from torch import Tensor, nn

from .codebook_learning import Codebook
from .codebook_search import LookupTables, search
from .distributed import ALONE, Ranks
from .quantizer import Quantized, Quantizer, QuantizerConfig


def build_quantizer(config: QuantizerConfig, latent_dim: int) -> Quantizer:
    """The quantizer that `config.kind` names."""
    if config.kind == "pq":
        return ProductVQ(config, latent_dim)
    if config.kind == "gumbel":
        return GumbelRVQ(config, latent_dim)
    return ResidualVQ(config, latent_dim)


def _codebook(config: QuantizerConfig, dim: int) -> Codebook:
    return Codebook(
        config.codebook_size,
        dim,
        learning=config.learning,
        normalized=config.normalized,
        decay=config.decay,
        restart_below=config.restart_below,
    )


class CodebookQuantizer(Quantizer):
    """What RVQ and PQ share: one codebook a stage, updated with the vectors that `forward` last showed it."""

    def __init__(self, config: QuantizerConfig, latent_dim: int, code_dim: int) -> None:
        super().__init__(config, latent_dim)
        books = nn.ModuleList(_codebook(config, code_dim) for _ in range(config.max_stages))
        self.codebooks = cast("Sequence[Codebook]", books)
        self._seen: list[tuple[Tensor, Tensor]] = []  # per stage: vectors [N, d] and the codes they chose

    def update(self, ranks: Ranks = ALONE) -> None:
        """See `Quantizer.update`."""
        for book, (x, codes) in zip(self.codebooks, self._seen, strict=True):
            book.ema_update(x, codes, ranks)
        self._seen = []


def _projections(config: QuantizerConfig, width: int, out: int) -> Sequence[nn.Linear]:
    linears = nn.ModuleList(nn.Linear(width, out, bias=False) for _ in range(config.max_stages))
    return cast("Sequence[nn.Linear]", linears)


class ResidualVQ(CodebookQuantizer):
    """Each stage quantizes what the stages before left over; one stage is a plain VQ.

    SoundStream (arXiv:2107.03312), section III-C; projected, normalized codes as in DAC (Kumar et al. 2023,
    arXiv:2306.06546), section 3.2.
    """

    def __init__(self, config: QuantizerConfig, latent_dim: int) -> None:
        dim = config.code_dim or latent_dim
        super().__init__(config, latent_dim, dim)
        self.projected = config.code_dim > 0
        if self.projected:
            self.project_in = _projections(config, latent_dim, dim)
            self.project_out = _projections(config, dim, latent_dim)

    def tables(self) -> LookupTables:
        """See `Quantizer.tables`."""
        scoring = [book.scoring() for book in self.codebooks]
        table = [book.entries() for book in self.codebooks]
        project = None
        if self.projected:
            project = torch.stack([layer.weight.T for layer in self.project_in])
            table = [layer(entries) for layer, entries in zip(self.project_out, table, strict=True)]
        return LookupTables(
            project,
            torch.stack([s for s, _ in scoring]),
            torch.stack([b for _, b in scoring]),
            torch.stack(table),
            () if self.projected or self.config.normalized else self.config.paths,
        )

    @torch.no_grad()
    def initialise(self, latents: Tensor, ranks: Ranks = ALONE) -> None:
        """See `Quantizer.initialise`; projections start as the leading principal directions of the residual."""
        residual = latents
        for stage, book in enumerate(self.codebooks):
            if self.projected:
                directions = torch.linalg.eigh(ranks.sum(residual.T @ residual))[1][:, -book.vectors.shape[1] :]
                self.project_in[stage].weight.copy_(directions.T)
                self.project_out[stage].weight.copy_(directions)
                query = residual @ directions
                book.fit(query, ranks)
                residual = residual - book.entries()[book.search(query)] @ directions.T
            else:
                book.fit(residual, ranks)
                residual = residual - book.entries()[book.search(residual)]

    def forward(self, latents: Tensor, n_stages: Tensor) -> Quantized:
        """See `Quantizer.forward`. Codebooks see every frame at every stage; dropout only hides stages from the sum."""
        codes = self._choose(latents.detach(), n_stages)
        residual = latents
        quantized = torch.zeros_like(latents)
        commitment, codebook = latents.new_zeros(()), latents.new_zeros(())
        left = []
        self._seen = []
        for stage, book in enumerate(self.codebooks):
            active = (n_stages > stage)[..., None].to(latents)
            query = self.project_in[stage](residual) if self.projected else residual
            if self.config.normalized:
                query = F.normalize(query, dim=2)
            code = codes[:, stage].flatten()
            self._seen.append((query.detach().flatten(0, 1), code))
            entry = book.entries()[code].reshape(query.shape)
            commitment = commitment + (active * (query - entry.detach()).square()).mean()
            codebook = codebook + (active * (query.detach() - entry).square()).mean()
            if self.projected:
                entry = self.project_out[stage](query + (entry - query).detach())
            quantized = quantized + active * entry
            residual = residual - (entry if self.projected else entry.detach())
            left.append(residual.detach().square().mean())
        if not self.projected:
            quantized = latents + (quantized - latents).detach()  # straight-through around all stages
        losses = {"commitment": self.config.commitment * commitment}
        if self.config.learning == "gradient":
            losses["codebook"] = codebook
        energy = latents.detach().square().mean().clamp(min=1e-12)
        return Quantized(quantized, codes, losses, torch.stack(left) / energy)

    @torch.no_grad()
    def _choose(self, latents: Tensor, n_stages: Tensor) -> Tensor:
        """Codes `[B, max_stages, T]`: of each frame the best path at its stage count, and one path from there on."""
        tables = self.tables()
        codes = latents.new_empty(*latents.shape[:2], self.max_stages, dtype=torch.long)
        for n in n_stages.unique().tolist():
            kept = tables.kept()[: n - 1] + [1] * (self.max_stages - n + 1)
            frames = n_stages == n
            codes[frames] = search(tables, latents[frames][None], kept)[0].T
        return codes.transpose(1, 2)


class ProductVQ(CodebookQuantizer):
    """Product quantizer (Jégou et al. 2011): stage i quantizes the i-th of `max_stages` slices of the latents."""

    def __init__(self, config: QuantizerConfig, latent_dim: int) -> None:
        if latent_dim % config.max_stages or config.code_dim:
            raise ConfigError(f"pq splits latent_dim {latent_dim} into max_stages {config.max_stages} equal slices")
        super().__init__(config, latent_dim, latent_dim // config.max_stages)
        self.width = latent_dim // config.max_stages

    def _slice(self, stage: int) -> slice:
        return slice(stage * self.width, (stage + 1) * self.width)

    def tables(self) -> LookupTables:
        """See `Quantizer.tables`: slices as full-width tables that are zero elsewhere."""
        scores, biases, tables = [], [], []
        for stage, book in enumerate(self.codebooks):
            score, bias = book.scoring()
            left = stage * self.width
            right = self.latent_dim - left - self.width
            scores.append(F.pad(score, (0, 0, left, right)))
            biases.append(bias)
            tables.append(F.pad(book.entries(), (left, right)))
        return LookupTables(None, torch.stack(scores), torch.stack(biases), torch.stack(tables))

    @torch.no_grad()
    def initialise(self, latents: Tensor, ranks: Ranks = ALONE) -> None:
        """See `Quantizer.initialise`."""
        for stage, book in enumerate(self.codebooks):
            book.fit(latents[:, self._slice(stage)], ranks)

    def forward(self, latents: Tensor, n_stages: Tensor) -> Quantized:
        """See `Quantizer.forward`."""
        quantized = []
        commitment, codebook = latents.new_zeros(()), latents.new_zeros(())
        codes, left = [], [latents.detach().square().sum()]
        self._seen = []
        for stage, book in enumerate(self.codebooks):
            active = (n_stages > stage)[..., None].to(latents)
            query = latents[..., self._slice(stage)]
            flat = query.detach().flatten(0, 1)
            code = book.search(flat)
            self._seen.append((flat, code))
            entry = book.entries()[code].reshape(query.shape)
            commitment = commitment + (active * (query - entry.detach()).square()).mean()
            codebook = codebook + (active * (query.detach() - entry).square()).mean()
            quantized.append(active * entry)
            codes.append(code.reshape(latents.shape[:2]))
            left.append(left[-1] - flat.square().sum() + (flat - entry.detach().flatten(0, 1)).square().sum())
        hidden = torch.cat(quantized, dim=2)
        losses = {"commitment": self.config.commitment * commitment}
        if self.config.learning == "gradient":
            losses["codebook"] = codebook
        distortion = torch.stack(left[1:]) / left[0].clamp(min=1e-12)
        return Quantized(latents + (hidden - latents).detach(), torch.stack(codes, dim=1), losses, distortion)


class GumbelRVQ(Quantizer):
    """Stages whose choice is sampled: soft mixtures of entries that harden as the temperature falls.

    Gumbel-softmax (Jang et al. 2017, arXiv:1611.01144), as in vq-wav2vec (Baevski et al. 2020, arXiv:1910.05453),
    section 3.1. At inference the entry of the largest logit is taken.
    """

    steps: Tensor

    def __init__(self, config: QuantizerConfig, latent_dim: int) -> None:
        super().__init__(config, latent_dim)
        stages, entries = config.max_stages, config.codebook_size
        self.score = nn.Parameter(torch.randn(stages, latent_dim, entries) / latent_dim**0.5)
        self.bias = nn.Parameter(torch.zeros(stages, entries))
        self.table = nn.Parameter(torch.randn(stages, entries, latent_dim) / latent_dim**0.5)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def tables(self) -> LookupTables:
        """See `Quantizer.tables`."""
        return LookupTables(None, self.score, self.bias, self.table)

    def temperature(self) -> float:
        """Geometric schedule from the first to the last temperature over the configured steps."""
        first, last, steps = self.config.temperature
        return float(first * (last / first) ** min(int(self.steps) / steps, 1.0))

    @torch.no_grad()
    def initialise(self, latents: Tensor, ranks: Ranks = ALONE) -> None:
        """See `Quantizer.initialise`: k-means tables, and logits that choose the nearest entry."""
        residual = latents
        book = _codebook(self.config, self.latent_dim).to(latents.device)
        for stage in range(self.max_stages):
            book.fit(residual, ranks)
            sharpness = self.config.sharpness / ranks.mean(residual.square().sum(dim=1).mean()).clamp(min=1e-12)
            score, bias = book.scoring()
            self.table[stage] = book.entries()
            self.score[stage], self.bias[stage] = score * sharpness, bias * sharpness
            residual = residual - self.table[stage][book.search(residual)]

    def forward(self, latents: Tensor, n_stages: Tensor) -> Quantized:
        """See `Quantizer.forward`."""
        residual, quantized = latents, torch.zeros_like(latents)
        codes, left = [], []
        diversity = latents.new_zeros(())
        for stage in range(self.max_stages):
            active = (n_stages > stage)[..., None].to(latents)
            logits = residual @ self.score[stage] + self.bias[stage]
            choice = (
                F.gumbel_softmax(logits, tau=self.temperature(), hard=True)
                if self.training
                else (F.one_hot(logits.argmax(dim=2), logits.shape[2]).to(logits))
            )
            entry = choice @ self.table[stage]
            quantized = quantized + active * entry
            residual = residual - entry
            mean = logits.softmax(dim=2).mean(dim=(0, 1))
            diversity = diversity + (mean * (mean + 1e-9).log()).sum()  # negative entropy of the mean choice
            codes.append(choice.argmax(dim=2).detach())
            left.append(residual.detach().square().mean())
        energy = latents.detach().square().mean().clamp(min=1e-12)
        losses = {"diversity": 0.01 * diversity / self.max_stages}
        return Quantized(quantized, torch.stack(codes, dim=1), losses, torch.stack(left) / energy)

    @torch.no_grad()
    def update(self, ranks: Ranks = ALONE) -> None:
        """Advance the temperature schedule."""
        self.steps += 1
