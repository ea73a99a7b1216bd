"""The training loop: reads from top to bottom.

Everything random in a step comes from (seed, step), so a resumed run repeats an uninterrupted one to the bit on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checkpoint import Checkpoint, contiguous_state
from .config import Config, OptimizerConfig
from .data import Batches, find_clips
from .losses import ReconstructionLoss
from .model import CodecModel


def learning_rate(config: OptimizerConfig, step: int, steps: int, updates: int) -> float:
    """Linear warm-up over the optimizer's own `updates`, constant, and linear decay to zero at the end of `steps`."""
    warm = min(1.0, (updates + 1) / max(config.warmup_steps, 1))
    cool = min(1.0, (steps - step) / config.decay_steps) if config.decay_steps else 1.0
    return config.learning_rate * warm * cool


def stage_counts(config: Config, step: int) -> Tensor:
    """Quantizer dropout: a stage count `[B]` for every clip of a step's batch."""
    random = np.random.default_rng([config.run.seed, step, 1])
    return torch.from_numpy(random.choice(config.model.quantizer.dropout_stages, size=config.run.batch_size))


class Trainer:
    """Model, averaged model, optimizer and data of one run, at one step."""

    def __init__(
        self, config: Config, data: Sequence[Path], *, device: str = "cpu", start: Checkpoint | None = None
    ) -> None:
        self.config, self.device = config, torch.device(device)
        torch.manual_seed(config.run.seed)
        self.model = CodecModel(config.model).to(self.device)
        self.average = CodecModel(config.model).to(self.device).requires_grad_(False)
        self.loss = ReconstructionLoss(config.loss, config.model.sample_rate).to(self.device)
        self.parameters = dict(self.model.named_parameters())
        optimizer = config.optimizer
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=optimizer.learning_rate, betas=optimizer.betas,
            weight_decay=optimizer.weight_decay,
        )  # fmt: skip
        hop = config.model.frame_size
        frames = max(1, round(config.run.clip_seconds * config.model.sample_rate / hop))
        self.batches = Batches(
            find_clips(data, config.model.sample_rate), config.data, sample_rate=config.model.sample_rate,
            samples=frames * hop, batch_size=config.run.batch_size, seed=config.run.seed,
        )  # fmt: skip
        self.step = 0
        self.updates = 0  # of this optimizer: fewer than steps where a leg began from weights alone
        self.ledger: list[dict[str, Any]] = []
        if start is None:
            self._fit_codebooks()
        else:
            self._restore(start)

    @torch.no_grad()
    def _fit_codebooks(self) -> None:
        """K-means on the latents of the first batches, before anything has learned."""
        run = self.config.run
        count = max(1, round(run.codebook_seconds / run.clip_seconds / run.batch_size))
        latents = [self.model.encode_latents(self._audio(-1 - i)).flatten(0, 1) for i in range(count)]
        self.model.quantizer.initialise(torch.cat(latents))
        self.average.load_state_dict(self.model.state_dict())

    def _restore(self, start: Checkpoint) -> None:
        self.average.load_state_dict(start.weights)
        self.ledger = list(start.ledger)
        self.step = start.step
        if start.training is None:
            self.model.load_state_dict(start.weights)
            return
        raw = {key[6:]: value for key, value in start.training.items() if key.startswith("model.")}
        self.model.load_state_dict(raw)
        self.updates = int(start.training["updates"])
        for name, parameter in self.parameters.items():
            if f"exp_avg.{name}" in start.training:
                self.optimizer.state[parameter] = {
                    "step": torch.tensor(float(self.updates)),
                    "exp_avg": start.training[f"exp_avg.{name}"].to(self.device),
                    "exp_avg_sq": start.training[f"exp_avg_sq.{name}"].to(self.device),
                }

    def checkpoint(self) -> Checkpoint:
        """Everything that a resumed run needs."""
        training = {f"model.{name}": tensor for name, tensor in contiguous_state(self.model).items()}
        training["updates"] = torch.tensor(self.updates)
        for name, parameter in self.parameters.items():
            moments = self.optimizer.state.get(parameter)
            if moments:
                training[f"exp_avg.{name}"] = moments["exp_avg"].clone().cpu()
                training[f"exp_avg_sq.{name}"] = moments["exp_avg_sq"].clone().cpu()
        return Checkpoint(self.step, self.config, self.ledger, contiguous_state(self.average), training)

    def _audio(self, step: int) -> Tensor:
        return torch.from_numpy(self.batches[step % 2**32]).to(self.device)

    def train_step(self) -> dict[str, Tensor]:
        """One optimisation step; returns its measures."""
        config = self.config
        torch.manual_seed(config.run.seed * 1_000_003 + self.step)
        rate = learning_rate(config.optimizer, self.step, config.run.steps, self.updates)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

        audio = self._audio(self.step)
        decoded, quantized = self.model(audio, stage_counts(config, self.step).to(self.device))
        latency = self.model.algorithmic_latency
        terms = self.loss(audio[..., : audio.shape[2] - latency], decoded[..., latency:])
        terms |= quantized.losses
        total = torch.stack(list(terms.values())).sum()

        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), config.optimizer.clip_norm)
        self.optimizer.step()
        self.model.quantizer.update()
        self._follow_average()
        self.step += 1
        self.updates += 1
        distortion = {f"distortion/stage_{i + 1:02d}": d for i, d in enumerate(quantized.distortion)}
        measures = {"loss/total": total.detach(), "optimizer/gradient_norm": norm}
        return measures | {f"loss/{name}": term.detach() for name, term in terms.items()} | distortion

    @torch.no_grad()
    def _follow_average(self) -> None:
        """Average of weights and codebooks over the last 1 / (1 - ema_decay) steps (shorter at the start)."""
        decay = min(self.config.optimizer.ema_decay, (1 + self.step) / (10 + self.step))
        for mean, now in zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(now, 1 - decay)
            else:
                mean.copy_(now)
