"""What is measured of one bundle, by onnxruntime, as an application runs it; and how it is kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import soundfile
from edgecodec import Codec
from edgecodec.codebook_use import CodebookUse, codebook_use
from edgecodec.durable import new_folder
from edgecodec.evaluation.measures import MEASURES, Measure
from edgecodec.evaluation.mos import mos_measures
from edgecodec.evaluation.noisy_input import Pair
from edgecodec.evaluation.quality import Estimate
from edgecodec.sessions import Sessions
from edgecodec_training.quantizer import Kind
from numpy.typing import NDArray

from .stability import Stability

LISTENING_SECONDS = 4
LISTENING_STAGES = (4, 8, 16, 32)
ORIGINAL = "original.flac"
_MEL = {"mel_distance": MEASURES["mel_distance"]}

Audio = NDArray[np.float32]


@dataclass(frozen=True)
class Subject:
    """A bundle, what it is measured on, and what is known of it already.

    `everything`: all the audio there is, of which `clips` are scored; the use of codebooks, which needs many frames, is
    counted over all. Clips are heard in noise at `snr_db`, or as they are (None). `scored`: stage counts at which all
    measures are taken; the others have the mel distance alone. `listening`: the folder for sound, which is replaced.
    """

    codec: Codec
    config: dict[str, Any]
    clips: Sequence[Pair]
    everything: Sequence[Audio]
    snr_db: float | None
    scored: Sequence[int]
    training: Stability
    steps: int
    seconds: float
    machine: str
    bundle_bytes: int
    listening: Path


class AtStages(msgspec.Struct, frozen=True):
    """A bundle at one stage count.

    `bits` a frame. `entries_used` and `perplexity` are those of the last of these stages, `effective_bits` the sum of
    log2(perplexity) over all of them. `distortion` is the energy of the latents that is left, as a share of theirs;
    `residual_norm` the mean over frames of the length of what is left.
    """

    stages: int
    bits: float
    kbps: float
    entries_used: int
    perplexity: float
    effective_bits: float
    distortion: float
    residual_norm: float
    scores: dict[str, Estimate]


class Figures(msgspec.Struct, frozen=True):
    """All figures of one run; `silent_mel` is the mel distance of silence, which no stage at all would decode to.

    `clips` were scored; the use of codebooks and `dead_entries` are of `frames`. Where codecs heard noise at `snr_db`,
    `noisy` are the scores of what they heard.
    """

    config: dict[str, Any]
    kind: Kind
    codebook_size: int
    max_stages: int
    frame_rate: float
    clips: int
    frames: int
    steps: int
    seconds: float
    machine: str
    training: Stability
    bundle_bytes: int
    parameters: int
    quantizer_macs: int
    latent_norm: float
    silent_mel: float
    dead_entries: float
    stages: list[AtStages]
    sample_rate: int
    listening: list[int]
    snr_db: float | None = None
    noisy: dict[str, Estimate] = {}


def measure(subject: Subject) -> Figures:
    """All figures of a bundle, and the files of `listening`."""
    codec = subject.codec
    m, sessions = codec.manifest, Sessions(codec.bundle, "cpu", 1)
    clean, heard = zip(*subject.clips, strict=True)
    latents = [_latents(codec, sessions, clip.heard) for clip in subject.clips]
    whole = np.concatenate(latents, axis=1)
    codes = [codec.encode(clip, stages=codec.max_stages) for clip in subject.everything]
    uses = codebook_use(codes, m.quantizer.codebook_size, m.layout)
    scored = {min(n, codec.max_stages) for n in (*subject.scored, codec.max_stages)}
    return Figures(
        config=subject.config,
        kind=cast(Kind, m.quantizer.kind),
        codebook_size=m.quantizer.codebook_size,
        max_stages=codec.max_stages,
        frame_rate=m.frame_rate,
        clips=len(subject.clips),
        frames=sum(c.shape[2] for c in codes),
        steps=subject.steps,
        seconds=subject.seconds,
        machine=subject.machine,
        training=subject.training,
        bundle_bytes=subject.bundle_bytes,
        parameters=sum(msgspec.structs.astuple(m.parameters)),
        quantizer_macs=m.macs_per_second.quantizer,
        latent_norm=_mean_norm(whole),
        silent_mel=_scores(_MEL, clean, map(np.zeros_like, clean), m.sample_rate)["mel_distance"].mean or 0.0,
        dead_entries=1 - sum(use.used for use in uses) / sum(use.size for use in uses),
        stages=[_at(n, subject, sessions, latents, uses, every=n in scored) for n in range(1, codec.max_stages + 1)],
        sample_rate=m.sample_rate,
        listening=_listen(codec, subject.clips[0], subject.listening),
        snr_db=subject.snr_db,
        noisy={} if subject.snr_db is None else _scores(_measures(subject), clean, heard, m.sample_rate),
    )


def _measures(subject: Subject) -> dict[str, Measure]:
    """All that is scored; of noisy clips also what listeners would say of the noise."""
    return MEASURES if subject.snr_db is None else MEASURES | mos_measures("speech")


def _scores(
    measures: Mapping[str, Measure], clean: Iterable[Audio], decoded: Iterable[Audio], sample_rate: int
) -> dict[str, Estimate]:
    """Means over clips."""
    pairs = list(zip(clean, decoded, strict=True))
    return {
        name: Estimate.of([measure.function(*pair, sample_rate) for pair in pairs])
        for name, measure in measures.items()
    }


def _at(
    n: int,
    subject: Subject,
    sessions: Sessions,
    latents: Sequence[Audio],
    uses: Sequence[CodebookUse],
    *,
    every: bool,
) -> AtStages:
    """Figures at a stage count: all measures, or the mel distance alone."""
    codec = subject.codec
    left, decoded = [], []
    for clip, z in zip(subject.clips, latents, strict=True):
        codes = sessions.quantize(z, n)
        left.append(z - sessions.latents(codes))
        decoded.append(codec.decode(codes, samples=len(clip.clean))[0, 0])
    clean = [clip.clean for clip in subject.clips]
    residual, whole = np.concatenate(left, axis=1), np.concatenate(latents, axis=1)
    bits = n * math.log2(codec.manifest.quantizer.codebook_size)
    return AtStages(
        stages=n,
        bits=bits,
        kbps=bits * codec.manifest.frame_rate / 1000,
        entries_used=uses[n - 1].used,
        perplexity=uses[n - 1].perplexity,
        effective_bits=sum(math.log2(use.perplexity) for use in uses[:n]),
        distortion=float(np.square(residual).mean() / max(float(np.square(whole).mean()), 1e-12)),
        residual_norm=_mean_norm(residual),
        scores=_scores(_measures(subject) if every else _MEL, clean, decoded, codec.sample_rate),
    )


def _latents(codec: Codec, sessions: Sessions, clip: Audio) -> Audio:
    """Latents [1, T, D] of a clip, of as many frames as `Codec.encode` codes."""
    padded = np.pad(clip, (0, codec.frames(len(clip)) * codec.frame_size - len(clip)))
    return sessions.analyze(padded[None, None], sessions.zero_state("encoder", 1), last=True)[0]


def _mean_norm(vectors: Audio) -> float:
    """Of [1, T, D]."""
    return float(np.linalg.norm(vectors, axis=2).mean())


def _listen(codec: Codec, clip: Pair, folder: Path) -> list[int]:
    """Write the beginning of a clip as it is heard, and what is decoded of it; which stage counts there are."""
    head = clip.heard[: LISTENING_SECONDS * codec.sample_rate]
    counts = sorted({n for n in LISTENING_STAGES if n < codec.max_stages} | {codec.max_stages})
    with new_folder(folder) as partial:
        sounds = {ORIGINAL: head}
        for n in counts:
            sounds[f"{n}.flac"] = codec.decode(codec.encode(head, stages=n), samples=len(head))[0, 0]
        for name, sound in sounds.items():
            soundfile.write(partial / name, sound.clip(-1, 1), codec.sample_rate, format="FLAC", subtype="PCM_16")
    return counts
