"""One variant with one seed: trained, exported, measured; each step is kept, so that a study goes on where it stopped.

OUT/runs/VARIANT/seed-0/
  training/        the run (see `edgecodec_training.training_loop`)
  bundle/          what is measured
  listening/       FLAC: a clip, and what is decoded from more and more stages
  figures.json     what was measured: once it is there, nothing is done again
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import edgecodec
import msgspec
from edgecodec import Codec
from edgecodec.durable import new_file
from edgecodec.errors import ConfigError
from edgecodec.evaluation.clips import validation_clips
from edgecodec.evaluation.noisy_input import NoiseBehind, as_it_is
from edgecodec_training.checkpoint import Checkpoint, latest, load_checkpoint
from edgecodec_training.config import Config, from_dict
from edgecodec_training.training_loop import Leg, Status, train_leg

from ..assemble import Request, export_bundle
from .figures import Figures, Subject, measure
from .stability import Stability, stability

if TYPE_CHECKING:
    from .plan import Study

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Place:
    """Where audio is, and where the results go."""

    data: tuple[str, ...]
    valid: Path
    out: Path
    device: str = "cpu"


@dataclass(frozen=True)
class Run:
    """One variant with one seed, of which `folder` keeps everything."""

    study: Study
    variant: str
    seed: int
    place: Place

    @property
    def folder(self) -> Path:
        """Of this run alone."""
        return self.place.out / "runs" / self.variant / f"seed-{self.seed}"

    @property
    def name(self) -> str:
        """For what is told on the way."""
        return f"{self.variant}, seed {self.seed}"

    @property
    def finished(self) -> str:
        """A checkpoint that the study was given; none where it is trained."""
        return self.study.variants[self.variant].checkpoint

    def figures(self) -> Figures | None:
        """What was measured, None where that is still to be done.

        Raises:
            ConfigError: of other settings, or not readable.
        """
        path = self.folder / "figures.json"
        if not path.exists():
            return None
        try:
            figures = msgspec.json.decode(path.read_bytes(), type=Figures)
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigError(f"{path}: not readable ({error}): delete it, to measure again") from None
        if not self.finished:
            self._require_same(figures.config)
        if figures.snr_db != self._snr_db:
            raise self._of_other_settings()
        return figures

    def codec(self) -> Codec:
        """The exported codec, on one thread."""
        return edgecodec.load(self.folder / "bundle", trust=True)

    def complete(self, tell: Tell) -> Figures:
        """Train, export and measure, as far as that is not done.

        Raises:
            KeyboardInterrupt: after the step that was going on was saved.
        """
        done = self.figures()
        if done is not None:
            return done
        checkpoint = load_checkpoint(Path(self.finished)) if self.finished else self._trained(tell)
        tell(f"{self.name}: export")
        source = Path(self.finished) if self.finished else self.folder / "training"
        export_bundle(Request(source, self.folder / "bundle", self.variant, force=True))
        tell(f"{self.name}: measure")
        scores = measure(self._subject(checkpoint))
        with new_file(self.folder / "figures.json") as partial:
            partial.write_bytes(msgspec.json.format(msgspec.json.encode(scores), indent=1) + b"\n")
        return scores

    def _trained(self, tell: Tell) -> Checkpoint:
        """The checkpoint at the last step."""
        config, folder = self.study.config_of(self.variant, self.seed), self.folder / "training"
        start = None
        if folder.exists() and latest(folder) is not None:
            start = load_checkpoint(folder)
            self._require_same(_plain(start.config))
        if start is None and folder.exists():
            shutil.rmtree(folder)  # stopped before the first checkpoint; its log would be read as this one's
        if start is None and self.study.networks:
            start = load_checkpoint(Path(self.study.networks)).networks()
        if start is None or start.step < config.run.steps:

            def show(status: Status) -> None:
                if status.note or status.step % 20 == 0:
                    where = status.note or f"step {status.step} of {status.steps}, {status.seconds_per_step:.2f} s each"
                    tell(f"{self.name}: {where}")

            train_leg(config, Leg(self.place.data, folder, device=self.place.device), start, show)
            start = load_checkpoint(folder)
        return start

    def _subject(self, checkpoint: Checkpoint) -> Subject:
        """What is measured, and what training tells of it."""
        codec, valid = self.codec(), self.place.valid
        rate, noise = codec.sample_rate, Path(self.study.noise)
        hear = as_it_is if self._snr_db is None else NoiseBehind.of(noise, self._snr_db, rate)
        scored, everything = (
            [hear(clip.name_in(valid), clip.read(rate)) for clip in validation_clips(valid, rate, limit=n)]
            for n in (self.study.clips, 0)
        )
        learned = None if self.finished else stability(self.folder / "training")
        return Subject(
            codec=codec,
            config=_plain(checkpoint.config),
            clips=scored,
            everything=[clip.heard for clip in everything],
            snr_db=self._snr_db,
            scored=self.study.scored,
            training=learned or Stability(),
            steps=checkpoint.step,
            seconds=sum(leg.wall_seconds for leg in checkpoint.ledger),
            machine=checkpoint.ledger[-1].machine if checkpoint.ledger else "",
            bundle_bytes=sum(file.stat().st_size for file in (self.folder / "bundle").iterdir()),
            listening=self.folder / "listening",
        )

    def _require_same(self, config: dict[str, Any]) -> None:
        """Refuse what was made with other settings."""
        if from_dict(Config, config) != self.study.config_of(self.variant, self.seed):
            raise self._of_other_settings()

    def _of_other_settings(self) -> ConfigError:
        return ConfigError(f"{self.folder}: of other settings than the study has now: choose another OUT, or delete it")

    @property
    def _snr_db(self) -> float | None:
        """Of the noise in which clips are heard, if there is any."""
        return self.study.snr_db if self.study.noise else None


def _plain(config: Config) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return values
