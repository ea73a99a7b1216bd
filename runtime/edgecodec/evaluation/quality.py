"""Scores of a finished bundle, run through the runtime as an application would run it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from .. import Codec
from ..codebook_use import CodebookUse, codebook_use
from ..errors import DataError
from ..manifest import Effort
from ..progress import Progress, silent
from .clips import Clip, validation_clips
from .compared_codecs import Audio, BundleCodec, Coded, ComparedCodec, Uncoded, VariableBundleCodec
from .conditions import CONDITIONS
from .measures import MEASURES, Measure
from .noisy_input import Hear, as_it_is

USUAL_BITRATES = (1.5, 3.0, 6.0, 12.0)  # kbps
KINDS = ("speech", "music", "noise")
EXAMPLE_SECONDS = 5
RESAMPLES = 2000  # of the bootstrap

MeasuresByKind = Callable[[str], dict[str, Measure]]


@dataclass(frozen=True)
class Estimate:
    """The mean of a measure over the `n` clips that it can score, and its 95 % interval where there are several."""

    mean: float | None
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, scores: Sequence[float]) -> Estimate:
        """By the percentile bootstrap over clips (Efron & Tibshirani 1993, chapter 13), from a fixed seed."""
        values = np.array([score for score in scores if math.isfinite(score)])
        if not len(values):
            return cls(None, None, None, 0)
        mean = round(float(values.mean()), 4)
        if len(values) == 1:
            return cls(mean, None, None, 1)
        means = np.random.default_rng(0).choice(values, (RESAMPLES, len(values))).mean(axis=1)
        low, high = (round(float(value), 4) for value in np.quantile(means, (0.025, 0.975)))
        return cls(mean, low, high, len(values))


@dataclass(frozen=True)
class Row:
    """A codec at one bitrate, on the clips of one kind.

    `kbps` counts code bits only; of files all bytes. RTF is seconds of audio per second of compute, of one thread, on
    this machine as it was loaded; None where processes and files around the codec would be measured.
    """

    codec: str
    kind: str
    clips: int
    stages: int | None
    kbps: float
    encode_rtf: float | None
    decode_rtf: float | None
    measures: dict[str, Estimate]

    def means(self) -> dict[str, Any]:
        """As the manifest of a bundle keeps it."""
        facts = {"kind": self.kind, "clips": self.clips, "kbps": self.kbps, "stages": self.stages}
        return facts | {name: estimate.mean for name, estimate in self.measures.items()}


@dataclass(frozen=True)
class Example:
    """The beginning of a clip, and what every codec made of it, by label."""

    kind: str
    name: str
    original: Audio
    decoded: dict[str, Audio]


@dataclass(frozen=True)
class Evaluation:
    """What was measured; `seconds` of audio in all clips."""

    rows: list[Row]
    codebooks: list[CodebookUse]
    frames: int
    seconds: float
    examples: list[Example]


def usual_stages(codec: Codec) -> list[int]:
    """The stage counts of the usual bitrates, as far as the codec has them; else 1, half and all of its stages."""
    wanted = [n for n, kbps in enumerate(codec.bitrates, start=1) if any(abs(kbps - u) < 0.01 for u in USUAL_BITRATES)]
    return wanted or sorted({1, -(-codec.max_stages // 2), codec.max_stages})


def measure(
    codec: Codec,
    folder: Path,
    stages: Sequence[int],
    *,
    effort: Effort = "best",
    variable: Sequence[float] = (),
    beside: Sequence[ComparedCodec] = (),
    kinds: Sequence[str] = ("speech",),
    limit: int = 0,
    hear: Hear = as_it_is,
    more_measures: MeasuresByKind = lambda kind: {},
    examples: int = 0,
    progress: Progress = silent,
) -> Evaluation:
    """Score a bundle at several stage counts, and other codecs beside it.

    Args:
        codec: the bundle, loaded with one thread.
        folder: with clips; its `manifest.csv` may say the kind of each.
        stages: stage counts of the bundle, a row each.
        effort: of encoding; by default as files are encoded.
        variable: bitrates in kbps at which files of it are scored too, stage counts varying, a row each.
        beside: other codecs, a row each.
        kinds: of clips, or conditions of speech (`CONDITIONS`); each has its own rows.
        limit: at most so many clips of a kind (0: all).
        hear: what codecs hear of each clip, which is then a row too; scores are always those against the clip.
        more_measures: measures besides `MEASURES`, by the kind of clips; PESQ and ESTOI are of speech alone.
        examples: clips of each kind of which the audio is kept.
        progress: told the count of clips scored, and of all.

    Raises:
        DataError: no such clips, or a clip that is no audio. OSError: one that cannot be read.
    """
    codecs: list[ComparedCodec] = [
        *(BundleCodec(codec, n, effort) for n in stages),
        *(VariableBundleCodec(codec, kbps, effort) for kbps in variable),
        *beside,
        *([] if hear is as_it_is else [Uncoded()]),
    ]
    rate = codec.sample_rate
    clips = _read(folder, rate, kinds, limit, hear)
    everything = [clip for of_kind in clips.values() for clip in of_kind]
    codes = [codec.encode(clip.heard, stages=codec.max_stages, effort=effort) for clip in everything]
    codec.decode(codes[0])  # from here on, nothing that is timed is done for the first time
    scored, total = count(1), len(codecs) * len(everything)
    rows, heard = [], []
    for kind, of_kind in clips.items():
        recorded = _recorded(kind)
        plain = {name: measure for name, measure in MEASURES.items() if recorded == "speech" or not measure.of_speech}
        measures = plain | more_measures(recorded)
        for compared in codecs:
            rows.append(_row(compared, kind, of_kind, rate, measures, lambda: progress("scored", next(scored), total)))
        heard += [_example(codecs, kind, clip, rate) for clip in _spread(of_kind, examples)]
    return Evaluation(
        rows,
        codebook_use(codes, codec.manifest.quantizer.codebook_size, codec.manifest.layout),
        frames=sum(c.shape[2] for c in codes),
        seconds=sum(len(clip.audio) for clip in everything) / rate,
        examples=heard,
    )


@dataclass(frozen=True)
class _Clip:
    name: str
    audio: Audio
    heard: Audio


def _read(folder: Path, sample_rate: int, kinds: Sequence[str], limit: int, hear: Hear) -> dict[str, list[_Clip]]:
    """Clips by kind; of several kinds, some may be missing."""
    found: dict[str, list[_Clip]] = {}
    missing = DataError("no kind of clips was asked for")
    for kind in kinds:
        try:
            clips = validation_clips(folder, sample_rate, kind=_recorded(kind), limit=limit)
        except DataError as error:
            missing = error
        else:
            audios = [_samples(clip, sample_rate) for clip in clips]
            if kind in CONDITIONS:
                audios = CONDITIONS[kind](audios, sample_rate)
            names = [clip.name_in(folder) for clip in clips]
            found[kind] = [_Clip(name, *hear(name, audio)) for name, audio in zip(names, audios, strict=True)]
    if not found:
        raise missing
    return found


def _recorded(kind: str) -> str:
    """The kind of the clips that one is made of."""
    return "speech" if kind in CONDITIONS else kind


def _samples(clip: Clip, sample_rate: int) -> Audio:
    audio = clip.read(sample_rate)
    if not len(audio):
        raise DataError(f"{clip.path}: {clip.name}: holds no samples")
    return audio


def _row(
    codec: ComparedCodec,
    kind: str,
    clips: Sequence[_Clip],
    sample_rate: int,
    measures: dict[str, Measure],
    tick: Callable[[], None],
) -> Row:
    scores: dict[str, list[float]] = {name: [] for name in measures}
    coded: list[Coded] = []
    for clip in clips:
        coded.append(codec(clip.heard, sample_rate))
        for name, measure in measures.items():
            scores[name].append(measure.function(clip.audio, coded[-1].audio, sample_rate))
        tick()
    seconds = sum(len(clip.audio) for clip in clips) / sample_rate
    return Row(
        codec=codec.name,
        kind=kind,
        clips=len(clips),
        stages=codec.stages,
        kbps=round(sum(c.bits for c in coded) / seconds / 1000, 4),
        encode_rtf=_rtf(seconds, [c.encode_seconds for c in coded]),
        decode_rtf=_rtf(seconds, [c.decode_seconds for c in coded]),
        measures={name: Estimate.of(values) for name, values in scores.items()},
    )


def _rtf(seconds: float, compute: Sequence[float | None]) -> float | None:
    known = [c for c in compute if c is not None]
    return round(seconds / sum(known), 1) if known else None


def _example(codecs: Sequence[ComparedCodec], kind: str, clip: _Clip, sample_rate: int) -> Example:
    original, head = (audio[: EXAMPLE_SECONDS * sample_rate] for audio in (clip.audio, clip.heard))
    return Example(kind, clip.name, original, {codec.label: codec(head, sample_rate).audio for codec in codecs})


def _spread(clips: Sequence[_Clip], limit: int) -> Sequence[_Clip]:
    """At most so many, from the whole list."""
    return [clips[i * len(clips) // limit] for i in range(limit)] if limit < len(clips) else clips
