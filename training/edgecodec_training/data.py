"""Training audio: WebDataset tar shards and plain folders, any libsndfile format, any sample rate.

A batch is a pure function of (seed, step): clips and crops are drawn by a generator seeded with both, so a run
resumes at any step without remembering anything, and one seed reproduces it.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff", ".aif", ".w64", ".caf", ".au"}


class DataError(ValueError):
    """Audio that cannot be trained on; the message names the file."""


@dataclass(frozen=True)
class DataConfig:
    """How clips are drawn.

    A clip's chance is its duration (at most `longest_seconds`), times the weight of its `kind`, times
    (bandwidth / Nyquist) ** `bandwidth_power`: audio that stops at 8 kHz would teach a 24 kHz model silence above.
    `gain_db`: range of a random gain, limited so that nothing clips. `cache_hours` of decoded audio stay in memory;
    `threads` make batches ahead (0: none, made when asked for).
    """

    kind_weights: Mapping[str, float] = field(default_factory=lambda: {"speech": 1.0, "music": 1.0, "noise": 1.0})
    bandwidth_power: float = 1.0
    longest_seconds: float = 10.0
    gain_db: tuple[float, float] = (-10.0, 6.0)
    cache_hours: float = 12.0
    threads: int = 0

    def __post_init__(self) -> None:
        if self.gain_db[0] > self.gain_db[1]:
            raise ValueError(f"gain_db must be (low, high), got {self.gain_db}")


@dataclass(frozen=True)
class Clip:
    """Where one recording lies (a file, or a member of a tar shard) and what is known of it."""

    path: Path
    offset: int
    size: int
    name: str
    seconds: float
    kind: str
    bandwidth: float  # Hz

    def read(self, sample_rate: int) -> NDArray[np.float32]:
        """Decode, mix to mono and resample: float32 `[samples]`."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        try:
            audio, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise DataError(f"{self.path}: {self.name}: {error}") from None
        mono = audio.mean(axis=1)
        if rate != sample_rate:
            mono = soxr.resample(mono, rate, sample_rate)
        if not np.isfinite(mono).all():
            raise DataError(f"{self.path}: {self.name}: NaN or infinite samples")
        return np.asarray(mono, dtype=np.float32)


def find_clips(sources: Sequence[Path], sample_rate: int) -> list[Clip]:
    """All clips under folders, shards (`*.tar`) and single files, in a fixed order."""
    clips: list[Clip] = []
    for source in sources:
        if source.is_dir():
            found = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES | {".tar"})
        elif source.exists():
            found = [source]
        else:
            raise DataError(f"no such file or folder: {source}")
        for path in found:
            clips += _shard_clips(path, sample_rate) if path.suffix == ".tar" else [_file_clip(path, sample_rate)]
    if not clips:
        raise DataError(
            f"no audio under {', '.join(map(str, sources))} (looked for {', '.join(sorted(SUFFIXES))}, .tar)"
        )
    return clips


def _file_clip(path: Path, sample_rate: int) -> Clip:
    try:
        info = soundfile.info(str(path))
    except soundfile.LibsndfileError as error:
        raise DataError(f"{path}: {error}") from None
    bandwidth = min(info.samplerate, sample_rate) / 2
    return Clip(path, 0, path.stat().st_size, path.name, info.duration, "speech", bandwidth)


def _shard_clips(path: Path, sample_rate: int) -> Iterator[Clip]:
    """Pairs of `<key>.<audio suffix>` and `<key>.json`; the JSON is optional."""
    audio: dict[str, tarfile.TarInfo] = {}
    notes: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                name = Path(member.name)
                key = str(name.with_suffix(""))
                if name.suffix.lower() in SUFFIXES:
                    audio[key] = member
                elif name.suffix == ".json" and member.size < 1_000_000:
                    file = tar.extractfile(member)
                    assert file is not None  # a regular file
                    notes[key] = json.load(file)
    except (tarfile.TarError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: {error}") from None
    for key, member in audio.items():
        note = notes.get(key, {})
        nyquist = min(float(note.get("sample_rate", sample_rate)), sample_rate) / 2
        yield Clip(
            path,
            member.offset_data,
            member.size,
            key,
            float(note.get("seconds", 5.0)),
            str(note.get("kind", "speech")),
            min(float(note.get("bandwidth_hz", nyquist)), nyquist),
        )


class Batches:
    """Random crops of clips; `batches[step]` is the batch of that step, whatever was asked before."""

    def __init__(
        self,
        clips: Sequence[Clip],
        config: DataConfig,
        *,
        sample_rate: int,
        samples: int,
        batch_size: int,
        seed: int,
    ) -> None:
        self.clips, self.config = clips, config
        self.sample_rate, self.samples, self.batch_size, self.seed = sample_rate, samples, batch_size, seed
        chances = np.array([self._chance(clip) for clip in clips])
        if not chances.sum() > 0:
            raise DataError("every clip has weight 0: check data.kind_weights")
        self.cumulative = np.cumsum(chances / chances.sum())
        self._cache: OrderedDict[int, NDArray[np.int16]] = OrderedDict()
        self._cached = 0
        self._lock = Lock()

    def _chance(self, clip: Clip) -> float:
        weight = self.config.kind_weights.get(clip.kind, 0.0)
        fullness = min(clip.bandwidth / (self.sample_rate / 2), 1.0) ** self.config.bandwidth_power
        return float(weight * fullness * min(clip.seconds, self.config.longest_seconds))

    def __getitem__(self, step: int) -> NDArray[np.float32]:
        """Audio `[batch_size, 1, samples]` of one step."""
        random = np.random.default_rng([self.seed, step])
        return np.stack([self._crop(random) for _ in range(self.batch_size)])[:, None]

    def _crop(self, random: np.random.Generator) -> NDArray[np.float32]:
        index = int(np.searchsorted(self.cumulative, random.random(), side="right"))
        audio = self._load(min(index, len(self.clips) - 1))
        start = int(random.integers(-min(self.samples // 4, 2400), max(len(audio) - self.samples // 2, 1)))
        crop = np.zeros(self.samples, np.float32)  # silence before and after the recording
        part = audio[max(start, 0) : start + self.samples]
        crop[max(-start, 0) : max(-start, 0) + len(part)] = part / np.float32(32768)
        gain = 10 ** (random.uniform(*self.config.gain_db) / 20)
        peak = float(np.abs(crop).max())
        crop *= np.float32(min(gain, 0.99 / max(peak, 1e-9)))
        return crop

    def _load(self, index: int) -> NDArray[np.int16]:
        with self._lock:
            if index in self._cache:
                self._cache.move_to_end(index)
                return self._cache[index]
        decoded = self.clips[index].read(self.sample_rate)
        audio = np.round(np.clip(decoded, -1, 1) * 32767).astype(np.int16)
        with self._lock:
            if index not in self._cache:  # another thread may have been here
                self._cache[index] = audio
                self._cached += len(audio)
            while self._cached > self.config.cache_hours * 3600 * self.sample_rate and len(self._cache) > 1:
                self._cached -= len(self._cache.popitem(last=False)[1])
        return audio


class Prefetched:
    """Batches that threads make ahead of time; asking for them in order is fast, any order is right."""

    def __init__(self, batches: Batches, threads: int) -> None:
        self.batches, self.depth = batches, 2 * threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="batches")
        self._coming: dict[int, Future[NDArray[np.float32]]] = {}

    def __getitem__(self, step: int) -> NDArray[np.float32]:
        """As `Batches.__getitem__`."""
        ahead = range(step, step + self.depth + 1)
        self._coming = {s: self._coming.get(s) or self._pool.submit(self.batches.__getitem__, s) for s in ahead}
        return self._coming[step].result()
