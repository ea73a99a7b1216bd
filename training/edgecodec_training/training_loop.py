"""The training loop: steps until a leg of the run is over, and what is logged, validated and saved between them.

A step is `Trainer.train_step`. A run is one folder, of all its legs:

    OUT/step-…/          the newest checkpoint, with the ledger of all legs (see `checkpoint`, `ledger`)
    OUT/ledger.png       losses and validation scores of all legs
    OUT/tensorboard/     scalars, and decoded validation clips from the end of each leg

Of several processes, the first writes, validates and shows what happens; the others only train.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from edgecodec.errors import ConfigError
from edgecodec.evaluation.clips import Clip, validation_clips
from edgecodec.evaluation.corpora import speakers_of
from edgecodec.evaluation.measures import MEASURES
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from .checkpoint import Checkpoint, step_name
from .config import Config
from .data import Batches, BatchSource
from .ledger import LegEntry, draw
from .trainer import Trainer
from .validation import validate

VALIDATION_CLIPS = 8
VALIDATION_SECONDS = 4
LISTENING_CLIPS = 2
AGREE_EVERY = 10  # steps between the times at which several processes ask each other whether to stop

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Leg:
    """Where a leg trains and for how long (`minutes` = 0: until the configured steps are done).

    The minutes are those of the whole leg, from reading the data to the last checkpoint.
    """

    data: Sequence[str | Path]
    out: Path
    valid: Path | None = None
    device: str = "cpu"
    minutes: float = 0.0


@dataclass
class Status:
    """What a display shows: the last measures, a validation when there is a new one, or a note on what goes on."""

    step: int = 0
    steps: int = 0
    seconds_per_step: float = 0.0
    measures: dict[str, float] = field(default_factory=dict)
    validation: list[dict[str, float]] = field(default_factory=list)
    note: str = ""


Show = Callable[[Status], None]


def train_leg(config: Config, leg: Leg, start: Checkpoint | None = None, show: Show = lambda status: None) -> Path:
    """Train until the steps or the minutes are over; returns the last checkpoint's folder.

    Ctrl-C and SIGTERM let the present step finish and save it.

    Args:
        config: of the model and the run.
        leg: where and for how long.
        start: go on from this checkpoint; without its training state, begin a new run with its weights; of networks
            alone (`Checkpoint.networks`), fit codebooks to what they give.
        show: told what happens.

    Raises:
        ConfigError: values that do not fit each other, or no step left to train.
        DataError: nothing to train on, or a file that cannot be read.
        DeviceError: no such device.
        CheckpointError: `start` does not fit the configuration, or a checkpoint cannot be written.
        KeyboardInterrupt: after saving, when a signal came.
    """
    begun = time.monotonic()
    if start is not None and start.step >= config.run.steps:
        raise ConfigError(f"nothing to train: at step {start.step} of {config.run.steps}; give --steps beyond it")
    fits = start is None or start.networks_only
    show(Status(note="reading the data, fitting the codebooks" if fits else "reading the data"))
    trainer = Trainer(config, leg.data, device=leg.device, start=start)
    with _interruptions() as interrupted, _LegInProgress(trainer, leg, begun, show) as progress:
        while trainer.step < config.run.steps and not progress.stops(interrupted):
            progress.step()
        progress.finish(score=not interrupted)
    if interrupted:
        raise KeyboardInterrupt
    return leg.out / step_name(trainer.step)


class _LegInProgress:
    """One leg in progress: steps, and what is logged, validated and saved on the way."""

    def __init__(self, trainer: Trainer, leg: Leg, begun: float, show: Show) -> None:
        self.trainer, self.leg, self.begun, self.show = trainer, leg, begun, show
        rate = trainer.config.model.sample_rate
        self.config, self.ranks = trainer.config, trainer.ranks
        found = _validation_clips(self.config, leg.valid) if self.ranks.first else []
        _warn_of_speakers(found, trainer.batches)
        self.clips = [clip.read(rate)[: VALIDATION_SECONDS * rate] for clip in found]
        self.board = SummaryWriter(str(leg.out / "tensorboard")) if self.ranks.first else None
        self.trained = self.saved = time.monotonic()
        self.validated = -1
        self.entry = LegEntry(trainer.step, _machine(trainer.device), processes=self.ranks.count)
        trainer.ledger.append(self.entry)
        self.history: list[dict[str, Tensor]] = []

    def __enter__(self) -> _LegInProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.board is not None:
            self.board.close()

    def stops(self, interrupted: list[int]) -> bool:
        """Whether a signal or the minutes end the leg; several ranks agree now and then, to stop at the same step."""
        over = bool(interrupted or (self.leg.minutes and time.monotonic() - self.begun > 60 * self.leg.minutes))
        if self.ranks.count == 1:
            return over
        if self.trainer.step % AGREE_EVERY:
            return False
        return float(self.ranks.sum(torch.tensor(float(over), device=self.trainer.device))) > 0

    def step(self) -> None:
        """One step, and what is due after it."""
        self.history.append(self.trainer.train_step())
        step, run = self.trainer.step, self.config.run
        if step % run.log_every == 0:
            self._log()
        if step % run.validate_every == 0:
            self._validate()
        if time.monotonic() - self.saved > 60 * run.save_minutes:
            self.save()

    def finish(self, *, score: bool) -> None:
        """The last checkpoint; then its scores and decoded clips, noted there too."""
        self.save()
        if score and self.clips:
            self._validate()
            self._listen()
            self.save()

    def _log(self) -> None:
        """Means since the last time, over all ranks: to the ledger, TensorBoard and the display."""
        names = list(self.history[-1])
        means = [torch.stack([m[name].float() for m in self.history if name in m]).mean() for name in names]
        measures = dict(zip(names, self.ranks.mean(torch.stack(means)).tolist(), strict=True))
        self.history.clear()
        step = self.trainer.step
        self.entry.add_losses(step, measures)
        if self.board is not None:
            for name, value in measures.items():
                self.board.add_scalar(name, value, step)
            per_step = (time.monotonic() - self.trained) / (step - self.entry.first_step)
            self.show(Status(step, self.config.run.steps, per_step, measures))

    def _validate(self) -> None:
        """Scores of the averaged model at 2, 4, 8 … stages."""
        step, model = self.trainer.step, self.config.model
        if self.board is None or not self.clips or step == self.validated:
            return
        self.validated = step
        rows = validate(self._reconstruct, self.clips, self._stage_counts(), model.sample_rate)
        for row in rows:
            for name in MEASURES:
                self.board.add_scalar(f"{name}/{model.bitrate(int(row['stages'])):g}_kbps", row[name], step)
        self.entry.validations.append({"step": step, "scores": rows})
        self.show(Status(step, self.config.run.steps, validation=rows))

    def _listen(self) -> None:
        """The first clips, decoded, to TensorBoard."""
        model = self.config.model
        assert self.board is not None  # who has clips has a board
        for i, clip in enumerate(self.clips[:LISTENING_CLIPS]):
            for stages in self._stage_counts():
                name = f"clip_{i}/{model.bitrate(stages):g}_kbps"
                audio = self._reconstruct(clip, stages)[None]
                self.board.add_audio(name, audio, self.trainer.step, model.sample_rate)

    def _stage_counts(self) -> list[int]:
        return sorted({min(2**i, self.config.model.quantizer.max_stages) for i in range(1, 7)})

    def _reconstruct(self, clip: NDArray[np.float32], stages: int) -> NDArray[np.float32]:
        audio = torch.from_numpy(clip)[None, None].to(self.trainer.device)
        decoded = self.trainer.average.eval().reconstruct(audio, stages)
        return decoded[0, 0].float().cpu().numpy()

    def save(self) -> None:
        """Write a checkpoint, this leg's line in its ledger brought up to date, and the ledger's picture."""
        run = self.config.run
        self.entry.last_step = self.trainer.step
        seconds = (self.trainer.step - self.entry.first_step) * run.batch_size * run.clip_seconds
        self.entry.audio_seconds = round(seconds, 1)
        self.entry.wall_seconds = round(time.monotonic() - self.begun, 1)
        if self.ranks.first:
            self.trainer.checkpoint().save(self.leg.out)
            draw(self.trainer.ledger, self.leg.out / "ledger.png")
        self.saved = time.monotonic()


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


def _validation_clips(config: Config, valid: Path | None) -> list[Clip]:
    return [] if valid is None else validation_clips(valid, config.model.sample_rate, limit=VALIDATION_CLIPS)


def _warn_of_speakers(valid: Sequence[Clip], batches: BatchSource) -> None:
    """Say which speakers, as far as names of files tell, are trained on and scored too: such scores flatter."""
    clips = batches.clips if isinstance(batches, Batches) else ()
    both = speakers_of(clip.name for clip in valid) & speakers_of(clip.name for clip in clips)
    if both:
        log.warning("speakers of --valid are in --data too, so that scores flatter: %s", ", ".join(sorted(both)[:8]))


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"
