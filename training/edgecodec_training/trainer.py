"""One step of training, in the order in which it happens (`Trainer.train_step`); `training_loop` repeats it.

Everything random in a step comes from (seed, step), so a resumed run repeats an uninterrupted one to the bit on a CPU.
Reconstruction comes first; from `discriminators.start_step` on the discriminators train too. Several processes make one
run (see `distributed`): each takes its rows of the batch, and gradients and codebooks are those of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from edgecodec.errors import CheckpointError
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW

from .balancer import Balancer
from .checkpoint import Checkpoint, contiguous_state, put_weights
from .config import Config, OptimizerConfig
from .data import BatchSpec
from .discriminators import Discriminators
from .distributed import Ranks, launch
from .ledger import LegEntry
from .losses import ReconstructionLoss
from .model import CodecModel
from .stage_runs import runs_of_counts
from .streamed_data import open_batches

TRAINING_STATE = ("model.", "discriminators.", "balancer.", "adam.codec.", "adam.discriminators.", "updates")


def learning_rate(config: OptimizerConfig, step: int, steps: int, updates: int) -> float:
    """Linear warm-up over the optimizer's own `updates`, constant, and linear decay to zero at the end of `steps`."""
    warm = min(1.0, (updates + 1) / max(config.warmup_steps, 1))
    cool = min(1.0, (steps - step) / config.decay_steps) if config.decay_steps else 1.0
    return config.learning_rate * warm * cool


def stage_counts(config: Config, step: int, frames: int) -> Tensor:
    """Quantizer dropout: stage counts `[B, frames]` of a step's batch, that of all ranks.

    A clip has one count, or runs of counts between half and twice of it.
    """
    quantizer, batch = config.model.quantizer, config.run.batch_size
    random = np.random.default_rng([config.run.seed, step, 1])
    counts = np.repeat(random.choice(quantizer.dropout_stages, size=(batch, 1)), frames, axis=1)
    mixed = runs_of_counts(counts[:, :1], frames, quantizer.max_stages, random)
    is_mixed = random.random((batch, 1)) < quantizer.dropout_mixed
    return torch.from_numpy(np.where(is_mixed, mixed, counts))


class Trainer:
    """Model, averaged model, discriminators, optimizers and data of one run, at one step, on one of its ranks."""

    def __init__(
        self, config: Config, data: Sequence[str | Path], *, device: str = "cpu", start: Checkpoint | None = None
    ) -> None:
        self.config = config
        self.fabric = launch(device, mixed_precision=config.run.mixed_precision)
        self.ranks, self.device = Ranks.of(self.fabric), self.fabric.device
        spec = self._batch_spec()
        torch.manual_seed(config.run.seed)
        self.model = CodecModel(config.model).to(self.device)
        self.average = CodecModel(config.model).to(self.device).requires_grad_(False)
        self.discriminators = Discriminators(config.discriminators).to(self.device)
        self.loss = ReconstructionLoss(config.loss, config.model.sample_rate, config.model.frame_size).to(self.device)
        self.balancer = Balancer(config.shares, self.ranks) if config.loss.balanced else None
        codec, other = config.optimizer, config.discriminators
        self.optimizer = AdamW(
            self.model.parameters(),
            lr=codec.learning_rate,
            betas=codec.betas,
            weight_decay=codec.weight_decay,
            fused=True,
        )
        self.discriminator_optimizer = (
            AdamW(self.discriminators.parameters(), lr=other.learning_rate, betas=other.betas, fused=True)
            if other.used
            else None
        )
        self.batches = open_batches(data, config.data, spec, first_step=0 if start is None else start.step)
        self.step = 0
        self.updates = 0  # of this optimizer: fewer than steps where a leg began from weights alone
        self.ledger: list[LegEntry] = []
        if start is not None:
            self._restore(start)
        if start is None or start.networks_only:
            self._fit_codebooks()
        if config.run.compiled:
            self.model.encoder.compile()
            self.model.decoder.compile()
            self.discriminators.compile()

    def _batch_spec(self) -> BatchSpec:
        """Crops of whole frames; a ConfigError where they cannot be split over the ranks."""
        model, run = self.config.model, self.config.run
        frames = max(1, round(run.clip_seconds * model.sample_rate / model.frame_size))
        return BatchSpec(
            model.sample_rate,
            frames * model.frame_size,
            run.batch_size,
            seed=run.seed,
            rank=self.ranks.rank,
            ranks=self.ranks.count,
        )

    @torch.no_grad()
    def _fit_codebooks(self) -> None:
        """K-means on the latents of the first batches, before anything has learned; unless it is off."""
        run = self.config.run
        if self.config.model.quantizer.kmeans:
            count = max(1, round(run.codebook_seconds / run.clip_seconds / run.batch_size))
            latents = [self.model.encode_latents(self._audio(2**32 - 1 - i)[0]) for i in range(count)]
            clips_first = torch.stack(latents, dim=1)  # [b, count, T, D]: the ranks in a row are the joined batches
            self.model.quantizer.initialise(clips_first.flatten(0, 2), self.ranks)
        self.average.load_state_dict(self.model.state_dict())

    def train_step(self) -> dict[str, Tensor]:
        """One optimisation step; returns its measures."""
        config = self.config
        torch.manual_seed(config.run.seed * 1_000_003 + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config.optimizer, self.step, config.run.steps, self.updates)

        audio, wanted = self._audio(self.step)
        frames = audio.shape[2] // config.model.frame_size
        stages = stage_counts(config, self.step, frames).chunk(self.ranks.count)[self.ranks.rank]
        with self.fabric.autocast():
            decoded, quantized = self.model(audio, stages.to(self.device))
        latency = self.model.algorithmic_latency
        real, fake = wanted[..., : audio.shape[2] - latency], decoded[..., latency:].float()
        terms = self.loss(real, fake)
        measures: dict[str, Tensor] = {}
        if self.discriminator_optimizer is not None and self.step >= config.discriminators.start_step:
            measures["loss/discriminators"] = self._train_discriminators(self.discriminator_optimizer, real, fake)
            with self.fabric.autocast():
                terms |= self.discriminators.codec_losses(real, fake)

        self.optimizer.zero_grad(set_to_none=True)
        self._backward(terms, quantized.losses, fake)
        self._join_gradients(self.model)
        measures["optimizer/gradient_norm"] = clip_grad_norm_(self.model.parameters(), config.optimizer.clip_norm)
        self.optimizer.step()
        self.model.quantizer.update(self.ranks)
        self._update_average()
        self.step += 1
        self.updates += 1

        measures |= {f"loss/{name}": term.detach() for name, term in (terms | quantized.losses).items()}
        return measures | {f"distortion/stage_{i + 1:02d}": d for i, d in enumerate(quantized.distortion)}

    def _train_discriminators(self, optimizer: AdamW, real: Tensor, fake: Tensor) -> Tensor:
        self.discriminators.requires_grad_(True)
        with self.fabric.autocast():
            loss = self.discriminators.own_loss(real, fake)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._join_gradients(self.discriminators)
        clip_grad_norm_(self.discriminators.parameters(), self.config.optimizer.clip_norm)
        optimizer.step()
        self.discriminators.requires_grad_(False)
        return loss.detach()

    def _backward(self, terms: dict[str, Tensor], quantizer_losses: dict[str, Tensor], fake: Tensor) -> None:
        """Gradients of all losses: as weighted, or balanced at the decoded audio."""
        own = torch.stack(list(quantizer_losses.values())).sum()
        if self.balancer is None:
            (torch.stack(list(terms.values())).sum() + own).backward()
        else:
            torch.autograd.backward([fake, own], [self.balancer.gradient(terms, fake), torch.ones_like(own)])

    @torch.no_grad()
    def _join_gradients(self, module: nn.Module) -> None:
        """Mean of a module's gradients over the ranks, in one exchange."""
        if self.ranks.count == 1:
            return
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        joined = self.ranks.mean(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, mean in zip(gradients, joined.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    @torch.no_grad()
    def _update_average(self) -> None:
        """Average of weights and codebooks over the last 1 / (1 - ema_decay) steps (shorter at the start)."""
        decay = min(self.config.optimizer.ema_decay, (1 + self.step) / (10 + self.step))
        for mean, now in zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(now, 1 - decay)
            else:
                mean.copy_(now)

    def _audio(self, step: int) -> tuple[Tensor, Tensor]:
        """Audio `[b, 1, samples]` of a step, as heard and as wanted."""
        heard, wanted = self.batches[step]
        audio = torch.from_numpy(heard).to(self.device)
        return audio, audio if wanted is heard else torch.from_numpy(wanted).to(self.device)

    def checkpoint(self) -> Checkpoint:
        """Everything that a resumed run needs."""
        training = {f"model.{name}": tensor for name, tensor in contiguous_state(self.model).items()}
        training["updates"] = torch.tensor(self.updates)
        training |= _moments("codec", self.optimizer, self.model)
        if self.discriminator_optimizer is not None:
            training |= {
                f"discriminators.{name}": tensor for name, tensor in contiguous_state(self.discriminators).items()
            }
            training |= _moments("discriminators", self.discriminator_optimizer, self.discriminators)
        if self.balancer is not None:
            training |= {f"balancer.{name}": norm.detach().cpu() for name, norm in self.balancer.norms.items()}
        return Checkpoint(self.step, self.config, self.ledger, contiguous_state(self.average), training)

    def _restore(self, start: Checkpoint) -> None:
        self.step, self.ledger = start.step, list(start.ledger)
        own = contiguous_state(self.model) if start.networks_only else {}
        weights = start.weights | {name: own[name] for name in own if name.startswith("quantizer.")}
        put_weights(self.average, weights)
        if start.training is None:
            put_weights(self.model, weights)
            return
        foreign = [name for name in start.training if not name.startswith(TRAINING_STATE)]
        if foreign or "updates" not in start.training:
            raise CheckpointError(f"training state of another version: {foreign[0] if foreign else 'no updates'}")
        self.updates = int(start.training["updates"])
        put_weights(self.model, _below("model.", start.training))
        _restore_moments("codec", self.optimizer, self.model, start.training)
        critics = _below("discriminators.", start.training)
        if self.discriminator_optimizer is not None and critics:
            put_weights(self.discriminators, critics)
            _restore_moments("discriminators", self.discriminator_optimizer, self.discriminators, start.training)
        if self.balancer is not None:
            norms = _below("balancer.", start.training)
            self.balancer.norms = {name: norm.to(self.device) for name, norm in norms.items()}


def _moments(prefix: str, optimizer: AdamW, module: nn.Module) -> dict[str, Tensor]:
    """Adam's memory of a module's parameters, as named tensors."""
    return {
        f"adam.{prefix}.{name}.{key}": value.detach().clone().cpu()
        for name, parameter in module.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _restore_moments(prefix: str, optimizer: AdamW, module: nn.Module, training: dict[str, Tensor]) -> None:
    for name, parameter in module.named_parameters():
        memory = _below(f"adam.{prefix}.{name}.", training)
        if memory:
            optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in memory.items()}


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
