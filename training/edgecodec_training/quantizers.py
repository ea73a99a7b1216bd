"""Vector quantizers: residual (RVQ), plain (VQ), product (PQ) and Gumbel-softmax, behind one interface.

At inference all of them are one thing, stages of a scored lookup (`LookupTables`): stage i picks the entry with
the highest score of what earlier stages left over, and subtracts that entry's vector. `encode`, `decode` and the
exported ONNX graphs run this form; the kinds differ in how they learn, which is `forward`.

The nearest entry of one stage is not always the one that later stages complete best. A plain RVQ therefore follows
several paths at once, and keeps the one whose sum ends nearest: the M-best search of multi-stage VQ (LeBlanc et al.
1993, Efficient search and design procedures for robust multi-stage VQ of LPC parameters at 4 kb/s). It costs the
encoder a few more lookups, and the decoder nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .distributed import ALONE, Ranks

Kind = Literal["rvq", "vq", "pq", "gumbel"]
Learning = Literal["ema", "gradient"]


@dataclass(frozen=True)
class QuantizerConfig:
    """How latents become codes.

    `code_dim`: dimension of the code vectors, with learned projections per stage as in DAC; 0 = the latents' own, as
    in EnCodec. `normalized`: look up by cosine. `learning`: codebooks follow the data by EMA with `decay`, or learn by
    gradient (codebook loss). `commitment`: weight of the pull of latents towards their codes. `dropout_stages`: stage
    counts drawn per clip in training, so that each count is usable. `restart_below`: an entry used less than this
    fraction of the mean use restarts at a random vector of the batch. `temperature`: Gumbel-softmax, (first, last,
    steps) of a geometric schedule. `paths`: how many paths the search for codes keeps after the first, second, …
    stage, and one after those not named (plain RVQ in the latents' own dimension; other kinds keep one).
    """

    kind: Kind = "rvq"
    codebook_size: int = 1024
    max_stages: int = 16
    code_dim: int = 0
    normalized: bool = False
    learning: Learning = "ema"
    decay: float = 0.99
    commitment: float = 0.25
    dropout_stages: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16)
    restart_below: float = 0.05
    temperature: tuple[float, float, int] = (2.0, 0.5, 20_000)
    paths: tuple[int, ...] = (3, 3, 3, 2, 2)

    def __post_init__(self) -> None:
        if self.kind == "vq" and self.max_stages != 1:
            raise ValueError(f"a vq quantizer has one stage, not max_stages = {self.max_stages}")
        if any(not 1 <= n <= self.max_stages for n in self.dropout_stages):
            raise ValueError(f"dropout_stages {self.dropout_stages} must lie in 1..max_stages = {self.max_stages}")
        if any(n < 1 for n in self.paths):
            raise ValueError(f"paths must be at least 1, got {self.paths}")


class LookupTables(NamedTuple):
    """The inference form of a quantizer: S stages, K entries, latents of D, code vectors of d dimensions.

    Where `paths` are kept (see `QuantizerConfig`), the score of an entry is half of what it takes off the squared
    error, so that scores add up along a path.

    Where there are `scales`, each entry is its scale times whole numbers from -127 to 127: bundles store it so.
    """

    project: Tensor | None  # [S, D, d], None when d == D and there is nothing to project
    score: Tensor  # [S, d, K]
    bias: Tensor  # [S, K]
    table: Tensor  # [S, K, D]
    paths: tuple[int, ...] = ()
    scales: Tensor | None = None  # [S, K, 1]

    def kept(self) -> list[int]:
        """How many paths there are after each stage: no more than there can be."""
        stages, entries, _ = self.table.shape
        counts = [1]
        for wanted in (*self.paths, *[1] * stages)[:stages]:
            counts.append(min(wanted, counts[-1] * entries))
        return counts[1:]

    def macs(self) -> int:
        """Multiply-accumulates of one frame's search, all stages: a lookup for each path that reaches a stage."""
        lookup = self.score[0].numel() + (0 if self.project is None else self.project[0].numel())
        return lookup * sum([1, *self.kept()[:-1]])


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
        """Quantize latents `[B, T, D]` for training, clip b with its own stage count `n_stages[b]`."""
        raise NotImplementedError

    def update(self, ranks: Ranks = ALONE) -> None:
        """Let EMA codebooks follow the batch that `forward` last saw on all ranks; nothing for gradient codebooks."""

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
        table = self.tables().table
        return sum(
            (table[stage][codes[:, stage]] for stage in range(codes.shape[1])),
            start=torch.zeros((), device=codes.device),
        )


@torch.no_grad()
def search(tables: LookupTables, latents: Tensor, kept: Sequence[int]) -> Tensor:
    """Codes `[B, stages, T]` of latents `[B, T, D]`: those of the best path, of `kept[i]` kept after stage i."""
    residual = latents.reshape(-1, 1, latents.shape[2])  # [N, paths, D], N = B * T
    merit = residual[..., :1] * 0  # [N, paths, 1], sum of the scores along each path
    codes = residual[..., :0].long()  # [N, paths, stages so far]
    for stage, paths in enumerate(kept):
        query = residual if tables.project is None else residual @ tables.project[stage]
        scores = merit + query @ tables.score[stage] + tables.bias[stage]  # [N, paths, K]
        best = scores.flatten(1).topk(paths)
        path, entry = best.indices // scores.shape[2], best.indices % scores.shape[2]
        along = path[:, :, None]
        codes = torch.cat([codes.take_along_dim(along, dim=1), entry[:, :, None]], dim=2)
        residual = residual.take_along_dim(along, dim=1) - tables.table[stage][entry]
        merit = best.values[:, :, None]
    return codes[:, 0].T.reshape(len(kept), *latents.shape[:2]).transpose(0, 1)


def build_quantizer(config: QuantizerConfig, latent_dim: int) -> Quantizer:
    """The quantizer that `config.kind` names."""
    if config.kind == "pq":
        return ProductVQ(config, latent_dim)
    if config.kind == "gumbel":
        return GumbelRVQ(config, latent_dim)
    return ResidualVQ(config, latent_dim)


class Codebook(nn.Module):
    """K vectors of d dimensions: nearest-entry search, and the two ways to learn."""

    vectors: Tensor  # [K, d]
    use: Tensor  # [K], running mean of hits a batch

    def __init__(self, config: QuantizerConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        vectors = torch.randn(config.codebook_size, dim) / dim**0.5
        if config.learning == "ema":
            self.register_buffer("vectors", vectors)
        else:
            self.vectors = nn.Parameter(vectors)
        self.register_buffer("use", torch.ones(config.codebook_size))

    def entries(self) -> Tensor:
        """The vectors that codes stand for: `[K, d]`, of unit length when normalized."""
        return F.normalize(self.vectors, dim=1) if self.config.normalized else self.vectors

    def scoring(self) -> tuple[Tensor, Tensor]:
        """`score [d, K], bias [K]` whose argmax is the nearest entry (argmax of x.c - |c|^2 / 2, or of the cosine)."""
        entries = self.entries()
        bias = torch.zeros_like(entries[:, 0]) if self.config.normalized else -0.5 * entries.square().sum(dim=1)
        return entries.T, bias

    @torch.no_grad()
    def search(self, x: Tensor) -> Tensor:
        """Index of the nearest entry for vectors `[N, d]`."""
        score, bias = self.scoring()
        return torch.addmm(bias, x, score).argmax(dim=1)

    @torch.no_grad()
    def fit(self, x: Tensor, ranks: Ranks = ALONE, iterations: int = 10) -> None:
        """K-means on `[N, d]` of every rank, started from random members; clusters that empty restart at others."""
        if self.config.normalized:
            x = F.normalize(x, dim=1)
        k, n = self.config.codebook_size, len(x) * ranks.count
        self.vectors.copy_(ranks.rows(x, _random(n, k, x.device) if n < k else torch.randperm(n, device=x.device)[:k]))
        for _ in range(iterations):
            mean, hits = self._means(x, self.search(x), ranks)
            self.vectors.copy_(torch.where(hits[:, None] > 0, mean, ranks.rows(x, _random(n, k, x.device))))
        self.use.fill_(1.0)

    @torch.no_grad()
    def follow(self, x: Tensor, codes: Tensor, ranks: Ranks = ALONE) -> None:
        """Move entries towards the vectors `[N, d]` (of every rank) that chose them, and restart dead ones.

        c <- decay * c + (1 - decay) * mean of its vectors, for every entry that was hit (VQ-VAE, van den Oord et al.
        2017, appendix A.1, in the form without a running count: there is no second buffer to forget at a restart).
        """
        mean, hits = self._means(x, codes, ranks)
        decay, n = self.config.decay, len(x) * ranks.count
        if self.config.learning == "ema":
            self.vectors.copy_(torch.where(hits[:, None] > 0, decay * self.vectors + (1 - decay) * mean, self.vectors))
        self.use.mul_(decay).add_(hits * (self.config.codebook_size / max(n, 1)), alpha=1 - decay)
        dead = (self.use < self.config.restart_below).nonzero().squeeze(1)
        if len(dead):
            self.vectors[dead] = ranks.rows(x, _random(n, len(dead), x.device))
            self.use[dead] = 1.0

    def _means(self, x: Tensor, codes: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
        """Per entry, the mean `[K, d]` of the vectors that chose it, and how many `[K]` did."""
        ones = F.pad(x, (0, 1), value=1.0)
        sums = ranks.sum(x.new_zeros(self.config.codebook_size, ones.shape[1]).index_add_(0, codes, ones))
        total, hits = sums[:, :-1], sums[:, -1]
        return total / hits.clamp(min=1)[:, None], hits


def _random(below: int, count: int, device: torch.device) -> Tensor:
    return torch.randint(below, (count,), device=device)


class CodebookQuantizer(Quantizer):
    """What RVQ and PQ share: one codebook a stage, which follows or learns from what `forward` showed it."""

    def __init__(self, config: QuantizerConfig, latent_dim: int, code_dim: int) -> None:
        super().__init__(config, latent_dim)
        books = nn.ModuleList(Codebook(config, code_dim) for _ in range(config.max_stages))
        self.codebooks = cast("Sequence[Codebook]", books)
        self._seen: list[tuple[Tensor, Tensor]] = []  # per stage: vectors [N, d] and the codes they chose

    def update(self, ranks: Ranks = ALONE) -> None:
        """See `Quantizer.update`."""
        for book, (x, codes) in zip(self.codebooks, self._seen, strict=True):
            book.follow(x, codes, ranks)
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
            self.enter = _projections(config, latent_dim, dim)
            self.leave = _projections(config, dim, latent_dim)

    def tables(self) -> LookupTables:
        """See `Quantizer.tables`."""
        scoring = [book.scoring() for book in self.codebooks]
        table = [book.entries() for book in self.codebooks]
        project = None
        if self.projected:
            project = torch.stack([layer.weight.T for layer in self.enter])
            table = [leave(entries) for leave, entries in zip(self.leave, table, strict=True)]
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
                self.enter[stage].weight.copy_(directions.T)
                self.leave[stage].weight.copy_(directions)
                query = residual @ directions
                book.fit(query, ranks)
                residual = residual - book.entries()[book.search(query)] @ directions.T
            else:
                book.fit(residual, ranks)
                residual = residual - book.entries()[book.search(residual)]

    def forward(self, latents: Tensor, n_stages: Tensor) -> Quantized:
        """See `Quantizer.forward`. Codebooks see every clip at every stage; dropout only hides stages from the sum."""
        codes = self._choose(latents.detach(), n_stages)
        residual = latents
        quantized = torch.zeros_like(latents)
        commitment, codebook = latents.new_zeros(()), latents.new_zeros(())
        left = []
        self._seen = []
        for stage, book in enumerate(self.codebooks):
            active = (n_stages > stage)[:, None, None].to(latents)
            query = self.enter[stage](residual) if self.projected else residual
            if self.config.normalized:
                query = F.normalize(query, dim=2)
            code = codes[:, stage].flatten()
            self._seen.append((query.detach().flatten(0, 1), code))
            entry = book.entries()[code].reshape(query.shape)
            commitment = commitment + (active * (query - entry.detach()).square()).mean()
            codebook = codebook + (active * (query.detach() - entry).square()).mean()
            if self.projected:
                entry = self.leave[stage](query + (entry - query).detach())
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
        """Codes `[B, max_stages, T]`: of each clip the best path at its stage count, and one path from there on."""
        tables = self.tables()
        codes = latents.new_empty(len(latents), self.max_stages, latents.shape[1], dtype=torch.long)
        for n in n_stages.unique().tolist():
            kept = tables.kept()[: n - 1] + [1] * (self.max_stages - n + 1)
            codes[n_stages == n] = search(tables, latents[n_stages == n], kept)
        return codes


class ProductVQ(CodebookQuantizer):
    """Product quantizer (Jégou et al. 2011): stage i quantizes the i-th of `max_stages` slices of the latents."""

    def __init__(self, config: QuantizerConfig, latent_dim: int) -> None:
        if latent_dim % config.max_stages or config.code_dim:
            raise ValueError(f"pq splits latent_dim {latent_dim} into max_stages {config.max_stages} equal slices")
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
            active = (n_stages > stage)[:, None, None].to(latents)
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
        book = Codebook(self.config, self.latent_dim).to(latents.device)
        for stage in range(self.max_stages):
            book.fit(residual, ranks)
            sharpness = 1.0 / ranks.mean(residual.square().sum(dim=1).mean()).clamp(min=1e-12)
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
            active = (n_stages > stage)[:, None, None].to(latents)
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
