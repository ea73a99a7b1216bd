"""Training audio: random crops of clips, made into batches.

A batch is a pure function of (seed, step): clips and crops are drawn by a generator seeded with both, so a run
resumes at any step without remembering anything, and one seed reproduces it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import Annotated, Protocol

import numpy as np
from edgecodec.errors import ConfigError, DataError
from edgecodec.evaluation.clips import Clip
from edgecodec.evaluation.corpora import clean_partner
from msgspec import Meta
from numpy.typing import NDArray

from .augmentation import Augmentation
from .denoising import Crop, DenoisingConfig
from .ranges import Decibels, Depth, Fraction, NotNegative, Seconds

NOISE_KINDS = {"noise", "music"}  # what is mixed into speech


@dataclass(frozen=True)
class DataConfig:
    """How clips are drawn.

    A clip's chance is its duration (at most `longest_seconds`), times the weight of its `kind`, times
    (bandwidth / Nyquist) ** `bandwidth_power`: audio that stops at 8 kHz would teach a 24 kHz model silence above.
    With `noise_chance`, a crop of speech has a crop of noise or music behind it, at an SNR within `noise_snr_db`; what
    is mixed in is drawn by duration and bandwidth, even where `kind_weights` would not train on it alone.
    `gain_db`: range of a random gain, limited so that nothing clips. `threads` make batches ahead (0: none, made when
    asked for; a stream has at least one). With `denoising`, noise of its own is what training must leave out, and
    `noise_chance` is 0. In memory stay `cache_hours` of decoded audio, of a stream `shuffle_minutes`.
    """

    kind_weights: Mapping[str, NotNegative] = field(default_factory=lambda: {"speech": 1.0, "music": 1.0, "noise": 1.0})
    bandwidth_power: Annotated[float, Meta(ge=0, le=100)] = 1.0
    longest_seconds: Seconds = 10.0
    noise_chance: Fraction = 0.15
    noise_snr_db: tuple[Decibels, Decibels] = (5.0, 30.0)
    denoising: DenoisingConfig = field(default_factory=DenoisingConfig)
    gain_db: tuple[Decibels, Decibels] = (-10.0, 6.0)
    cache_hours: Annotated[float, Meta(ge=0, le=1e6)] = 12.0
    shuffle_minutes: Annotated[float, Meta(gt=0, le=1e5)] = 30.0
    threads: Depth = 0

    def __post_init__(self) -> None:
        for name in ("gain_db", "noise_snr_db"):
            low, high = getattr(self, name)
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ValueError(f"{name} must be (low, high), got {(low, high)}")
        if self.denoising.share and self.noise_chance:
            raise ValueError(
                f"noise_chance = {self.noise_chance:g} would keep the noise that denoising leaves out: set it to 0"
            )

    @property
    def mixes_noise(self) -> bool:
        """Whether noise is mixed into speech."""
        return bool(self.noise_chance or self.denoising.share)

    def augmentation(self, samples: int, sample_rate: int) -> Augmentation:
        """What makes crops of `samples` samples."""
        return Augmentation(samples, self.gain_db, self.noise_chance, self.noise_snr_db, self.denoising, sample_rate)

    def draw_weight(self, seconds: float, bandwidth: float, sample_rate: int) -> float:
        """Seconds that a clip counts for when clips are drawn, before the weight of its kind."""
        fullness = min(2 * bandwidth / sample_rate, 1.0) ** self.bandwidth_power
        return float(fullness * min(seconds, self.longest_seconds))


def as_int16(audio: NDArray[np.float32]) -> NDArray[np.int16]:
    """Audio as it is kept: half the memory, and no louder than full scale."""
    return np.round(np.clip(audio, -1, 1) * 32767).astype(np.int16)


@dataclass(frozen=True)
class BatchSpec:
    """What a batch is: `batch_size` crops of `samples` samples at `sample_rate` Hz, split evenly over the `ranks`.

    Several processes train on one batch: each of `ranks` takes `batch_size / ranks` rows of it, the first rank the
    first rows, so that a step is the same on any number of them. All that is random comes from `seed`.

    Raises:
        ConfigError: the batch cannot be split evenly.
    """

    sample_rate: int
    samples: int
    batch_size: int
    seed: int = 0
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        if self.batch_size % self.ranks:
            raise ConfigError(f"run.batch_size = {self.batch_size} cannot be split evenly over {self.ranks} processes")

    @property
    def seconds(self) -> float:
        """Of one crop."""
        return self.samples / self.sample_rate

    @property
    def rows(self) -> range:
        """The rows of the batch that this rank takes."""
        share = self.batch_size // self.ranks
        return range(self.rank * share, (self.rank + 1) * share)


class BatchSource(Protocol):
    """Where a training loop takes its batches from."""

    def __getitem__(self, step: int) -> Crop:
        """Audio `[batch_size / ranks, 1, samples]` of one step, as heard and as wanted."""


def stacked(crops: Sequence[Crop]) -> Crop:
    """Crops as a batch `[B, 1, samples]`, which is one array where what is heard is wanted."""
    heard = np.stack([crop.heard for crop in crops])[:, None]
    if all(crop.wanted is crop.heard for crop in crops):
        return Crop(heard, heard)
    return Crop(heard, np.stack([crop.wanted for crop in crops])[:, None])


class Batches:
    """Random crops of clips; `batches[step]` is the batch of that step, whatever was asked before.

    With denoising, a clip in a folder `noisy…` is not drawn, but heard in place of that in the folder `clean…` beside.
    """

    def __init__(self, clips: Sequence[Clip], config: DataConfig, spec: BatchSpec) -> None:
        self.clips, self.config, self.spec = clips, config, spec
        self.augment = config.augmentation(spec.samples, spec.sample_rate)
        weights = np.array([config.draw_weight(clip.seconds, clip.bandwidth, spec.sample_rate) for clip in clips])
        chances = weights * [config.kind_weights.get(clip.kind, 0.0) for clip in clips]
        self.noisy = _noisy_partners(clips) if config.denoising.share else {}
        chances[list(self.noisy.values())] = 0.0
        if not chances.sum() > 0:
            raise DataError("every clip has weight 0: check data.kind_weights")
        self.cumulative = np.cumsum(chances / chances.sum())
        noises = weights * [clip.kind in NOISE_KINDS for clip in clips]
        self.noise_cumulative = np.cumsum(noises / noises.sum()) if noises.sum() > 0 else None
        self._cache: OrderedDict[int, NDArray[np.int16]] = OrderedDict()
        self._cached = 0
        self._lock = Lock()

    def __getitem__(self, step: int) -> Crop:
        """See `BatchSource`."""
        return stacked([self._crop(step, row) for row in self.spec.rows])

    def _crop(self, step: int, row: int) -> Crop:
        random = np.random.default_rng([self.spec.seed, step, 0, row])  # stage counts take [seed, step, 1]
        index = _draw(self.cumulative, random)
        if index in self.noisy:
            return self.augment.pair(self._load(index), self._load(self.noisy[index]), random)

        def noise() -> NDArray[np.int16]:
            assert self.noise_cumulative is not None
            return self._load(_draw(self.noise_cumulative, random))

        noisy = self.noise_cumulative is not None and self.clips[index].kind == "speech"
        return self.augment(self._load(index), noise if noisy else None, random)

    def _load(self, index: int) -> NDArray[np.int16]:
        with self._lock:
            if index in self._cache:
                self._cache.move_to_end(index)
                return self._cache[index]
        audio = as_int16(self.clips[index].read(self.spec.sample_rate))
        with self._lock:
            if index not in self._cache:  # another thread may have been here
                self._cache[index] = audio
                self._cached += len(audio)
            while self._cached > self.config.cache_hours * 3600 * self.spec.sample_rate and len(self._cache) > 1:
                self._cached -= len(self._cache.popitem(last=False)[1])
        return audio


def _noisy_partners(clips: Sequence[Clip]) -> dict[int, int]:
    """Of clips that were recorded clean and noisy, as in VoiceBank-DEMAND, the noisy one by the clean one."""
    indices = {clip.path: i for i, clip in enumerate(clips) if not clip.offset}
    partners: dict[int, int] = {}
    for path, noisy in indices.items():
        clean = clean_partner(path)
        if clean is not None:
            if clean not in indices:
                raise DataError(f"{path}: noisy, and there is no {clean} that says what is wanted")
            partners[indices[clean]] = noisy
    return partners


def _draw(cumulative: NDArray[np.float64], random: np.random.Generator) -> int:
    """An index, by the cumulative chances of all."""
    return min(int(np.searchsorted(cumulative, random.random(), side="right")), len(cumulative) - 1)


class Prefetched:
    """Batches that threads make ahead of time; asking for them in order is fast, any order is right."""

    def __init__(self, batches: BatchSource, threads: int) -> None:
        self.batches, self.depth = batches, 2 * threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="batches")
        self._coming: dict[int, Future[Crop]] = {}

    def __getitem__(self, step: int) -> Crop:
        """As `Batches.__getitem__`."""
        ahead = range(step, step + self.depth + 1)
        self._coming = {s: self._coming.get(s) or self._pool.submit(self.batches.__getitem__, s) for s in ahead}
        return self._coming[step].result()
