"""A run: legs of training in one folder, with its log, its checkpoints and its ledger.

    OUT/step-…/          the newest checkpoint (see `checkpoint`)
    OUT/tensorboard/     scalars, and decoded validation audio

The ledger, kept in the checkpoint, has a line for every leg: steps, seconds of audio seen, wall time, machine, and
the last validation.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from .checkpoint import Checkpoint
from .config import Config
from .evaluate import evaluate, validation_clips
from .train import Trainer

VALIDATION_CLIPS = 8
VALIDATION_SECONDS = 4
LISTENING_CLIPS = 2


@dataclass(frozen=True)
class Leg:
    """Where a leg trains and for how long (`minutes` = 0: until the configured steps are done)."""

    data: Sequence[Path]
    out: Path
    valid: Path | None = None
    device: str = "cpu"
    minutes: float = 0.0


@dataclass
class Progress:
    """What a display shows."""

    step: int
    steps: int
    seconds_per_step: float
    measures: dict[str, float] = field(default_factory=dict)
    validation: list[dict[str, float]] = field(default_factory=list)


def train(
    config: Config,
    leg: Leg,
    start: Checkpoint | None = None,
    show: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Train until the steps or the minutes are over, or until Ctrl-C; returns the last checkpoint's folder."""
    trainer = Trainer(config, leg.data, device=leg.device, start=start)
    clips = _listening_material(config, leg.valid)
    begun = time.monotonic()
    entry: dict[str, Any] = {
        "first_step": trainer.step,
        "machine": f"{platform.machine()}, {_device_name(leg.device)}",
    }
    trainer.ledger.append(entry)
    history: list[dict[str, torch.Tensor]] = []
    progress = Progress(trainer.step, config.run.steps, 0.0)

    def save() -> Path:
        steps = trainer.step - entry["first_step"]
        entry["last_step"] = trainer.step
        entry["audio_seconds"] = round(steps * config.run.batch_size * config.run.clip_seconds, 1)
        entry["wall_seconds"] = round(time.monotonic() - begun, 1)
        return trainer.checkpoint().save(leg.out)

    with SummaryWriter(str(leg.out / "tensorboard")) as board:
        try:
            while trainer.step < config.run.steps:
                if leg.minutes and time.monotonic() - begun > 60 * leg.minutes:
                    break
                history.append(trainer.train_step())
                if trainer.step % config.run.log_every == 0:
                    progress.measures = {name: float(np.mean([float(m[name]) for m in history])) for name in history[0]}
                    history.clear()
                    progress.step = trainer.step
                    progress.seconds_per_step = (time.monotonic() - begun) / (trainer.step - entry["first_step"])
                    for name, value in progress.measures.items():
                        board.add_scalar(name, value, trainer.step)
                    show(progress)
                if clips and trainer.step % config.run.validate_every == 0:
                    progress.validation = entry["validation"] = _validate(trainer, clips, board)
                    show(progress)
                    progress.validation = []
                if trainer.step % config.run.save_every == 0:
                    save()
        except KeyboardInterrupt:
            save()
            raise
        if clips and "validation" not in entry:
            entry["validation"] = _validate(trainer, clips, board)
    return save()


def _listening_material(config: Config, valid: Path | None) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    if valid is None:
        return []
    rate = config.model.sample_rate
    found = validation_clips(valid, rate, limit=VALIDATION_CLIPS)
    return [clip.read(rate)[: VALIDATION_SECONDS * rate] for clip in found]


def _validate(
    trainer: Trainer, clips: list[np.ndarray[Any, np.dtype[np.float32]]], board: SummaryWriter
) -> list[dict[str, float]]:
    """Scores of the averaged model at 2, 4, 8 … stages; the first clips also become audible in TensorBoard."""
    model = trainer.average.eval()
    config = trainer.config.model

    def reconstruct(clip: np.ndarray[Any, np.dtype[np.float32]], stages: int) -> Any:
        audio = torch.from_numpy(clip)[None, None].to(trainer.device)
        return model.reconstruct(audio, stages)[0, 0].cpu().numpy()

    most = config.quantizer.max_stages
    counts = sorted({min(2**i, most) for i in range(1, 7)})
    rows = evaluate(reconstruct, clips, counts, config.sample_rate)
    for row in rows:
        for name, value in row.items():
            if name != "stages":
                board.add_scalar(f"{name}/{config.bitrate(int(row['stages'])):g}_kbps", value, trainer.step)
    for i, clip in enumerate(clips[:LISTENING_CLIPS]):
        for stages in counts:
            name = f"clip_{i}/{config.bitrate(stages):g}_kbps"
            board.add_audio(name, reconstruct(clip, stages)[None], trainer.step, config.sample_rate)
    return rows


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} thread(s)"
