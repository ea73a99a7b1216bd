"""The threads that read a stream: shards in random order -> clips, decoded -> buffer -> crops -> batches."""

from __future__ import annotations

import contextlib
import itertools
import logging
import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from edgecodec.corpus.shards import MEMBER_BYTES, Sample, open_shard, read_samples
from edgecodec.errors import DataError
from edgecodec.evaluation.clips import Note, decode

from .data import NOISE_KINDS, BatchSpec, DataConfig, as_int16, stacked
from .denoising import Crop
from .stream_buffer import BufferedClip, ShuffleBuffer

MOST_EMPTY_SHARDS = 20  # so many shards in a row without one clip end a run
LONGEST_PAUSE = 60.0  # seconds between attempts while nothing arrives
BATCHES_AHEAD = 2  # of each thread

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReadingPlan:
    """What all threads that read a stream have in common: `readers` of them, those of other ranks included."""

    shards: Sequence[str]
    config: DataConfig
    spec: BatchSpec
    first_step: int
    readers: int

    @property
    def heaviest_kind(self) -> float:
        """The largest weight of a kind."""
        return max(self.config.kind_weights.values(), default=0.0)

    @property
    def longest(self) -> float:
        """Seconds that are decoded of a recording."""
        return max(self.config.longest_seconds, self.spec.seconds)

    def order(self, number: int) -> list[str]:
        """The shards in the order of one pass, the same for all readers."""
        random = np.random.default_rng([self.spec.seed, self.first_step, 0, number])
        return [self.shards[i] for i in random.permutation(len(self.shards))]


class _Stopped(Exception):  # noqa: N818 - not an error
    """Nobody wants more batches."""


class ShardReader(threading.Thread):
    """A thread that makes batches of its part of the shards, or of its part of their samples where they are few.

    Args:
        plan: what the threads have in common.
        index: which of `plan.readers` this is.
        buffer_seconds: of decoded audio to keep and draw from.
        stop: set when no more batches are wanted.
    """

    def __init__(self, plan: ReadingPlan, index: int, buffer_seconds: float, stop: threading.Event) -> None:
        super().__init__(name=f"stream-{index}", daemon=True)
        self.plan, self.index, self.stop = plan, index, stop
        rate = plan.spec.sample_rate
        self.augment = plan.config.augmentation(plan.spec.samples, rate)
        self.random = np.random.default_rng([plan.spec.seed, plan.first_step, 1, index])
        self.buffer = ShuffleBuffer(round(buffer_seconds * rate), round(plan.longest * rate) + 2)
        self.readable = 0  # clips that could be read
        self.skipped, self.last = 0, ""  # clips and shards that could not, and why not
        self.empty_shards = 0  # shards in a row that gave nothing
        self.batches: queue.Queue[Crop | Exception] = queue.Queue(BATCHES_AHEAD)

    def next(self) -> Crop:
        """The next batch, or what ended the stream."""
        batch = self.batches.get()
        if isinstance(batch, Exception):
            self.batches.put(batch)  # for who asks again
            raise batch
        return batch

    def run(self) -> None:
        """Make batches until stopped; an error is handed over in place of a batch."""
        try:
            with contextlib.closing(self._clips()) as clips:
                while True:
                    self._hand_over(stacked([self._crop(clips) for _ in self.plan.spec.rows]))
        except _Stopped:
            pass
        except Exception as error:  # to be raised where batches are asked for
            with contextlib.suppress(_Stopped):
                self._hand_over(error)

    def _hand_over(self, batch: Crop | Exception) -> None:
        while not self.stop.is_set():
            with contextlib.suppress(queue.Full):
                return self.batches.put(batch, timeout=0.2)
        raise _Stopped

    def _crop(self, clips: Iterator[BufferedClip | None]) -> Crop:
        while not self.buffer.full:
            clip = next(clips)
            if clip is not None:
                self.buffer.put(clip)
                if clip.kind in NOISE_KINDS and clip.draw_weight and self.plan.config.mixes_noise:
                    self.buffer.put_noise(clip, self.random)
            elif self.buffer.crops:
                break  # all there is was read: enough to begin with
        clip = self.buffer.draw(self.random)
        noisy = clip.kind == "speech" and self.buffer.noises
        return self.augment(clip.audio, (lambda: self.buffer.draw_noise(self.random)) if noisy else None, self.random)

    def _clips(self) -> Generator[BufferedClip | None, None, None]:
        """Clips of this reader's part, pass after pass; None after each."""
        shards, readers = len(self.plan.shards), self.plan.readers
        for number in itertools.count():
            order = self.plan.order(number)
            readable, skipped, weight = self.readable, self.skipped, 0.0
            for shard in order if shards < readers else order[self.index :: readers]:
                for clip in self._shard(shard):
                    weight += clip.draw_weight * self.plan.config.kind_weights.get(clip.kind, 0.0)
                    yield clip
            readable, skipped = self.readable - readable, self.skipped - skipped
            if skipped >= readable:
                last = f", the last: {self.last}" if skipped else ""
                raise DataError(f"{len(order)} shards gave {readable} clips, and {skipped} could not be read{last}")
            if not weight > 0:
                raise DataError("every clip has weight 0: check data.kind_weights")
            yield None

    def _shard(self, shard: str) -> Iterator[BufferedClip]:
        part, parts = (self.index, self.plan.readers) if len(self.plan.shards) < self.plan.readers else (0, 1)
        readable = self.readable
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
                        self.readable += 1
                        yield clip
        except _Stopped:
            raise
        except Exception as error:  # storage libraries have errors of their own
            if not self.readable:
                raise DataError(f"{shard}: {error}") from error
            self._skip(f"{shard}: {error}")
        self.empty_shards = self.empty_shards + 1 if self.readable == readable else 0
        if self.empty_shards >= MOST_EMPTY_SHARDS:
            raise DataError(f"{self.empty_shards} shards in a row gave nothing, the last: {self.last}")
        if self.empty_shards:
            self.stop.wait(min(0.1 * 2**self.empty_shards, LONGEST_PAUSE))

    def _decode(self, sample: Sample) -> BufferedClip:
        config, rate = self.plan.config, self.plan.spec.sample_rate
        if not sample.audio:
            raise DataError(f"empty, or more than {MEMBER_BYTES} bytes")
        note = Note() if sample.note is None else Note.parse(sample.note)
        decoded = decode(sample.audio, rate, longest=self.plan.longest, random=self.random)
        if not len(decoded.audio):
            raise DataError("no audio in it")
        draw_weight = config.draw_weight(decoded.seconds, note.bandwidth(decoded.rate, rate), rate)
        weight = config.kind_weights.get(note.kind, 0.0) / self.plan.heaviest_kind
        crops = draw_weight * weight * rate / self.plan.spec.samples
        return BufferedClip(as_int16(decoded.audio), note.kind, draw_weight, int(crops + self.random.random()))

    def _skip(self, reason: str) -> None:
        self.skipped += 1
        self.last = reason
        if self.skipped & (self.skipped - 1) == 0:
            log.warning("skipped %d unreadable clips or shards by now, the last: %s", self.skipped, reason)
