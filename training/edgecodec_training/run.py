"""A run: legs of training in one folder, with its log, its checkpoints and its ledger.

    OUT/step-…/          the newest checkpoint (see `checkpoint`)
    OUT/tensorboard/     scalars, and decoded validation audio

The ledger, kept in the checkpoint, has a line for every leg: steps, seconds of audio seen, wall time, machine, and
the last validation.
"""

from __future__ import annotations

import contextlib
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from .checkpoint import Checkpoint
from .config import Config
from .evaluate import MEASURES, evaluate, validation_clips
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
    """What a display shows: the last measures, a validation when there is a new one, or a note on what is going on."""

    step: int = 0
    steps: int = 0
    seconds_per_step: float = 0.0
    measures: dict[str, float] = field(default_factory=dict)
    validation: list[dict[str, float]] = field(default_factory=list)
    note: str = ""


Show = Callable[[Progress], None]


def train(config: Config, leg: Leg, start: Checkpoint | None = None, show: Show = lambda progress: None) -> Path:
    """Train until the steps or the minutes are over; returns the last checkpoint's folder.

    Ctrl-C and SIGTERM let the present step finish and save it.

    Raises:
        KeyboardInterrupt: after saving, when one of them came.
    """
    show(Progress(note="reading the data, fitting the codebooks" if start is None else "reading the data"))
    trainer = Trainer(config, leg.data, device=leg.device, start=start)
    with SummaryWriter(str(leg.out / "tensorboard")) as board, _interruptions() as interrupted:
        run = _Run(trainer, leg, board, show)
        while trainer.step < config.run.steps and not interrupted and not run.out_of_time():
            run.step()
        if run.clips and not interrupted:
            run.validate()
        last = run.save()
    if interrupted:
        raise KeyboardInterrupt
    return last


class _Run:
    """One leg in progress: steps, and what is logged, validated and saved on the way."""

    def __init__(self, trainer: Trainer, leg: Leg, board: SummaryWriter, show: Show) -> None:
        self.trainer, self.leg, self.board, self.show = trainer, leg, board, show
        self.config = trainer.config
        self.clips = _validation_audio(self.config, leg.valid)
        self.begun = time.monotonic()
        self.first_step = trainer.step
        self.validated = -1
        self.entry: dict[str, Any] = {"first_step": trainer.step, "machine": _machine(leg.device)}
        trainer.ledger.append(self.entry)
        self.history: list[dict[str, Tensor]] = []

    def out_of_time(self) -> bool:
        return bool(self.leg.minutes) and time.monotonic() - self.begun > 60 * self.leg.minutes

    def step(self) -> None:
        self.history.append(self.trainer.train_step())
        step, run = self.trainer.step, self.config.run
        if step % run.log_every == 0:
            self._log()
        if self.clips and step % run.validate_every == 0:
            self.validate()
        if step % run.save_every == 0:
            self.save()

    def _log(self) -> None:
        """Means since the last time, to TensorBoard and the display."""
        measures = {n: float(np.mean([float(m[n]) for m in self.history if n in m])) for n in self.history[-1]}
        self.history.clear()
        for name, value in measures.items():
            self.board.add_scalar(name, value, self.trainer.step)
        per_step = (time.monotonic() - self.begun) / (self.trainer.step - self.first_step)
        self.show(Progress(self.trainer.step, self.config.run.steps, per_step, measures))

    def validate(self) -> None:
        """Scores of the averaged model at 2, 4, 8 … stages; the first clips also become audible in TensorBoard."""
        step = self.trainer.step
        if step == self.validated:
            return
        self.validated = step
        model, config = self.trainer.average.eval(), self.config.model

        def reconstruct(clip: NDArray[np.float32], stages: int) -> NDArray[np.float32]:
            audio = torch.from_numpy(clip)[None, None].to(self.trainer.device)
            decoded: NDArray[np.float32] = model.reconstruct(audio, stages)[0, 0].cpu().numpy()
            return decoded

        counts = sorted({min(2**i, config.quantizer.max_stages) for i in range(1, 7)})
        rows = evaluate(reconstruct, self.clips, counts, config.sample_rate)
        for row in rows:
            for name in MEASURES:
                self.board.add_scalar(f"{name}/{config.bitrate(int(row['stages'])):g}_kbps", row[name], step)
        for i, clip in enumerate(self.clips[:LISTENING_CLIPS]):
            for stages in counts:
                name = f"clip_{i}/{config.bitrate(stages):g}_kbps"
                self.board.add_audio(name, reconstruct(clip, stages)[None], step, config.sample_rate)
        self.entry["validation"] = rows
        self.show(Progress(step, self.config.run.steps, validation=rows))

    def save(self) -> Path:
        """Write a checkpoint, this leg's line in its ledger brought up to date."""
        run = self.config.run
        self.entry["last_step"] = self.trainer.step
        seconds = (self.trainer.step - self.first_step) * run.batch_size * run.clip_seconds
        self.entry["audio_seconds"] = round(seconds, 1)
        self.entry["wall_seconds"] = round(time.monotonic() - self.begun, 1)
        return self.trainer.checkpoint().save(self.leg.out)


@contextlib.contextmanager
def _interruptions() -> Iterator[list[int]]:
    """A list that fills with the signals that ask to stop; a second Ctrl-C stops at once."""
    came: list[int] = []

    def ask(number: int, frame: object) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    if threading.current_thread() is not threading.main_thread():  # no signals there
        yield came
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _validation_audio(config: Config, valid: Path | None) -> list[NDArray[np.float32]]:
    if valid is None:
        return []
    rate = config.model.sample_rate
    found = validation_clips(valid, rate, limit=VALIDATION_CLIPS)
    return [clip.read(rate)[: VALIDATION_SECONDS * rate] for clip in found]


def _machine(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"
