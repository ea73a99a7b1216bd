"""Streamed training audio: batches from a corpus larger than the disk, read in order from shards (see `shards`).

    shards in random order -> clips, decoded -> buffer of some minutes -> crops, drawn at random -> batches
                                     `-> a few of noise and music, to mix in

A clip yields crops for as many seconds as it counts for (see `DataConfig`), so a stream is drawn from as indexed data
are, and passes over all there is again and again. Threads do all of it ahead of training.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import queue
import threading
import weakref
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from edgecodec.errors import DataError
from edgecodec.evaluation.clips import Note, decode, find_clips
from numpy.typing import NDArray

from .data import NOISE_KINDS, Batches, BatchSource, DataConfig, Prefetched, as_int16, rows_of
from .shards import MEMBER_BYTES, Sample, expand, is_url, open_shard, read_samples

BARREN_SHARDS = 20  # so many shards in a row without one clip end a run
LONGEST_PAUSE = 60.0  # seconds between attempts while nothing arrives
NOISE_SHARE = 8  # one part in so many of the buffer is for noise to mix in
BATCHES_AHEAD = 2  # of each thread

log = logging.getLogger(__name__)


def open_batches(
    sources: Sequence[str | Path],
    config: DataConfig,
    *,
    sample_rate: int,
    samples: int,
    batch_size: int,
    seed: int,
    rank: int = 0,
    ranks: int = 1,
    first_step: int = 0,
) -> BatchSource:
    """Batches from folders, files, shards, patterns and URLs of shards.

    As soon as one source is a URL, shards are streamed (`StreamedBatches`); otherwise they are indexed (`Batches`), and
    made ahead by `config.threads`.

    Args:
        sources: paths and URLs, with braces as in a shell: `shards/train-{000..127}.tar`, `s3://bucket/{00..99}.tar`.
        config: how clips are drawn.
        sample_rate: Hz.
        samples: samples of a crop.
        batch_size: crops of a step, over all ranks.
        seed: of all that is random.
        rank: which of the run's processes this is.
        ranks: how many there are.
        first_step: where the run begins or goes on: a stream begins with other shards there.

    Raises:
        DataError: nothing there, or nothing that can be trained on.
        ValueError: the batch cannot be split evenly over the ranks.
    """
    names = [name for source in sources for name in expand(source)]
    if any(is_url(name) for name in names):
        for name in names:
            if not is_url(name) and Path(name).suffix != ".tar":
                raise DataError(f"{name}: beside URLs, which are streamed, only tar shards can be streamed too")
        return StreamedBatches(
            names,
            config,
            sample_rate=sample_rate,
            samples=samples,
            batch_size=batch_size,
            seed=seed,
            rank=rank,
            ranks=ranks,
            first_step=first_step,
        )
    batches = Batches(
        find_clips([Path(name) for name in names], sample_rate),
        config,
        sample_rate=sample_rate,
        samples=samples,
        batch_size=batch_size,
        seed=seed,
        rank=rank,
        ranks=ranks,
    )
    return Prefetched(batches, config.threads) if config.threads else batches


class StreamedBatches:
    """Random crops of clips that stream by: each time that it is asked, the next batch.

    The order is that of (seed, first_step, ranks, threads), but a stream does not repeat to the bit as indexed data do:
    a run that is resumed goes on with a fresh order, and a shard that is out of reach is skipped. Each rank reads its
    own part of the shards, another in every pass; where shards are fewer than ranks, each reads its own part of every
    shard's samples. Of a recording longer than `longest_seconds`, every pass decodes that much from a random place.

    A clip or a shard that cannot be read is skipped; a count of them is logged as a warning whenever it has doubled.
    `DataError` is raised where the first shard cannot be opened, a pass finds more that is unreadable than audio, or
    `BARREN_SHARDS` shards in a row give nothing, with growing pauses between them (some twelve minutes in all).
    """

    def __init__(
        self,
        shards: Sequence[str],
        config: DataConfig,
        *,
        sample_rate: int,
        samples: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        first_step: int = 0,
    ) -> None:
        threads = max(1, min(config.threads, len(shards) // ranks))
        plan = _Plan(
            shards,
            config,
            sample_rate,
            samples,
            len(rows_of(rank, ranks, batch_size)),
            seed,
            first_step,
            ranks * threads,
        )
        if not plan.heaviest_kind > 0:
            raise DataError("every clip has weight 0: check data.kind_weights")
        self._stop = threading.Event()
        share = config.shuffle_minutes * 60 / threads
        self._readers = [_Reader(plan, rank * threads + i, share, self._stop) for i in range(threads)]
        self._given = 0
        weakref.finalize(self, self._stop.set)
        for reader in self._readers:
            reader.start()

    def __getitem__(self, step: int) -> NDArray[np.float32]:
        """Audio `[batch_size / ranks, 1, samples]`: the next batch, whatever the step.

        Raises:
            DataError: the stream has come to an end, as the class says.
        """
        reader = self._readers[self._given % len(self._readers)]  # in turn, so that their pace does not matter
        batch = reader.next()
        self._given += 1
        return batch

    @property
    def buffered_seconds(self) -> float:
        """Decoded audio in memory; never more than `shuffle_minutes`, or three clips a thread where that is more."""
        return sum(reader.buffer.held / reader.plan.sample_rate for reader in self._readers)

    def close(self) -> None:
        """Stop reading. A stream that is dropped does so too."""
        self._stop.set()
        for reader in self._readers:
            reader.join()


@dataclass(frozen=True)
class _Plan:
    """What all threads that read a stream have in common: `readers` of them, those of other ranks included."""

    shards: Sequence[str]
    config: DataConfig
    sample_rate: int
    samples: int
    rows: int
    seed: int
    first_step: int
    readers: int

    @property
    def heaviest_kind(self) -> float:
        return max(self.config.kind_weights.values(), default=0.0)

    @property
    def longest(self) -> float:
        """Seconds that are decoded of a recording."""
        return max(self.config.longest_seconds, self.samples / self.sample_rate)

    def order(self, number: int) -> list[str]:
        """The shards in the order of one pass, the same for all readers."""
        random = np.random.default_rng([self.seed, self.first_step, 0, number])
        return [self.shards[i] for i in random.permutation(len(self.shards))]


@dataclass
class _Clip:
    """Decoded audio `[samples]` in the buffer, the crops that are still to be drawn of it, and what it counts for."""

    audio: NDArray[np.int16]
    kind: str
    worth: float
    crops: int


class _Buffer:
    """Clips to draw crops from, and noise to mix in: together not more than `limit` samples, if `longest` allows."""

    def __init__(self, limit: int, longest: int) -> None:
        self.limit, self.longest = limit, longest
        self.held = 0  # samples in memory
        self.crops: list[_Clip] = []  # each clip as often as it has crops left
        self.noises: list[_Clip] = []

    @property
    def full(self) -> bool:
        """Whether a clip more, put into both lists, might be too many."""
        return bool(self.crops) and self.held + 2 * self.longest > self.limit

    def put(self, clip: _Clip) -> None:
        if clip.crops:
            self.crops += [clip] * clip.crops
            self.held += len(clip.audio)

    def draw(self, random: np.random.Generator) -> _Clip:
        """A clip with crops left, which has one less then."""
        i = int(random.integers(len(self.crops)))
        self.crops[i], self.crops[-1] = self.crops[-1], self.crops[i]
        clip = self.crops.pop()
        clip.crops -= 1
        if not clip.crops:
            self.held -= len(clip.audio)
        return clip

    def put_noise(self, clip: _Clip, random: np.random.Generator) -> None:
        """Keep noise to mix in; others go where there is too much of it."""
        self.noises.append(clip)
        self.held += len(clip.audio)
        while len(self.noises) > 1 and sum(len(n.audio) for n in self.noises) > self.limit / NOISE_SHARE:
            self.held -= len(self.noises.pop(int(random.integers(len(self.noises)))).audio)

    def draw_noise(self, random: np.random.Generator) -> NDArray[np.int16]:
        worth = np.array([clip.worth for clip in self.noises])
        return self.noises[int(random.choice(len(worth), p=worth / worth.sum()))].audio


class _Stopped(Exception):  # noqa: N818 - not an error
    """Nobody wants more batches."""


class _Reader(threading.Thread):
    """A thread that makes batches of its part of the shards, or of its part of their samples where they are few."""

    def __init__(self, plan: _Plan, index: int, buffer_seconds: float, stop: threading.Event) -> None:
        super().__init__(name=f"stream-{index}", daemon=True)
        self.plan, self.index, self.stop = plan, index, stop
        self.augment = plan.config.augmentation(plan.samples)
        self.random = np.random.default_rng([plan.seed, plan.first_step, 1, index])
        self.buffer = _Buffer(round(buffer_seconds * plan.sample_rate), round(plan.longest * plan.sample_rate) + 2)
        self.heard = 0  # clips that could be read
        self.skipped, self.last = 0, ""  # clips and shards that could not, and why not
        self.barren = 0  # shards in a row that gave nothing
        self.batches: queue.Queue[NDArray[np.float32] | Exception] = queue.Queue(BATCHES_AHEAD)

    def next(self) -> NDArray[np.float32]:
        """The next batch, or what ended the stream."""
        batch = self.batches.get()
        if isinstance(batch, Exception):
            self.batches.put(batch)  # for who asks again
            raise batch
        return batch

    def run(self) -> None:
        try:
            with contextlib.closing(self._clips()) as clips:
                while True:
                    self._hand_over(np.stack([self._crop(clips) for _ in range(self.plan.rows)])[:, None])
        except _Stopped:
            pass
        except Exception as error:  # to be raised where batches are asked for
            with contextlib.suppress(_Stopped):
                self._hand_over(error)

    def _hand_over(self, batch: NDArray[np.float32] | Exception) -> None:
        while not self.stop.is_set():
            with contextlib.suppress(queue.Full):
                return self.batches.put(batch, timeout=0.2)
        raise _Stopped

    def _crop(self, clips: Iterator[_Clip | None]) -> NDArray[np.float32]:
        while not self.buffer.full:
            clip = next(clips)
            if clip is not None:
                self.buffer.put(clip)
                if clip.kind in NOISE_KINDS and clip.worth and self.plan.config.noise_chance:
                    self.buffer.put_noise(clip, self.random)
            elif self.buffer.crops:
                break  # all there is was read: enough to begin with
        clip = self.buffer.draw(self.random)
        noisy = clip.kind == "speech" and self.buffer.noises
        return self.augment(clip.audio, (lambda: self.buffer.draw_noise(self.random)) if noisy else None, self.random)

    def _clips(self) -> Generator[_Clip | None, None, None]:
        """Clips of this reader's part, pass after pass; None after each."""
        shards, readers = len(self.plan.shards), self.plan.readers
        for number in itertools.count():
            order = self.plan.order(number)
            heard, skipped, weight = self.heard, self.skipped, 0.0
            for shard in order if shards < readers else order[self.index :: readers]:
                for clip in self._shard(shard):
                    weight += clip.worth * self.plan.config.kind_weights.get(clip.kind, 0.0)
                    yield clip
            heard, skipped = self.heard - heard, self.skipped - skipped
            if skipped >= heard:
                last = f", the last: {self.last}" if skipped else ""
                raise DataError(f"{len(order)} shards gave {heard} clips, and {skipped} could not be read{last}")
            if not weight > 0:
                raise DataError("every clip has weight 0: check data.kind_weights")
            yield None

    def _shard(self, shard: str) -> Iterator[_Clip]:
        part, parts = (self.index, self.plan.readers) if len(self.plan.shards) < self.plan.readers else (0, 1)
        heard = self.heard
        try:
            with open_shard(shard) as stream:
                for sample in itertools.islice(read_samples(stream), part, None, parts):
                    if self.stop.is_set():
                        raise _Stopped
                    try:
                        clip = self._decode(sample)
                    except DataError as error:
                        self._skip(f"{shard}: {sample.key}: {error}")
                    else:
                        self.heard += 1
                        yield clip
        except _Stopped:
            raise
        except Exception as error:  # storage libraries have errors of their own
            if not self.heard:
                raise DataError(f"{shard}: {error}") from error
            self._skip(f"{shard}: {error}")
        self.barren = self.barren + 1 if self.heard == heard else 0
        if self.barren >= BARREN_SHARDS:
            raise DataError(f"{self.barren} shards in a row gave nothing, the last: {self.last}")
        if self.barren:
            self.stop.wait(min(0.1 * 2**self.barren, LONGEST_PAUSE))

    def _decode(self, sample: Sample) -> _Clip:
        config, rate = self.plan.config, self.plan.sample_rate
        if not sample.audio:
            raise DataError(f"empty, or more than {MEMBER_BYTES} bytes")
        note = Note() if sample.note is None else Note.parse(sample.note)
        decoded = decode(sample.audio, rate, longest=self.plan.longest, random=self.random)
        if not len(decoded.audio):
            raise DataError("no sound in it")
        worth = config.worth(decoded.seconds, note.bandwidth(decoded.rate, rate), rate)
        weight = config.kind_weights.get(note.kind, 0.0) / self.plan.heaviest_kind
        crops = worth * weight * rate / self.plan.samples
        return _Clip(as_int16(decoded.audio), note.kind, worth, int(crops + self.random.random()))

    def _skip(self, reason: str) -> None:
        self.skipped += 1
        self.last = reason
        if self.skipped & (self.skipped - 1) == 0:
            log.warning("skipped %d unreadable clips or shards by now, the last: %s", self.skipped, reason)
