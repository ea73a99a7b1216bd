"""Streamed training audio: batches from a corpus larger than the disk, read in order from shards (see `shards`).

    shards in random order -> clips, decoded -> buffer of some minutes -> crops, drawn at random -> batches
                                     `-> a few of noise and music, to mix in

A clip yields crops for as many seconds as it counts for (see `DataConfig`), so a stream is drawn from as indexed data
are, and passes over all there is again and again. Threads do all of it ahead of training (see `stream_reader`).
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from pathlib import Path

from edgecodec.corpus.shards import expand_braces, is_url
from edgecodec.errors import DataError
from edgecodec.evaluation.clips import find_clips

from .data import Batches, BatchSource, BatchSpec, DataConfig, Prefetched
from .denoising import Crop
from .stream_reader import ReadingPlan, ShardReader


def open_batches(
    sources: Sequence[str | Path], config: DataConfig, spec: BatchSpec, *, first_step: int = 0
) -> BatchSource:
    """Batches from folders, files, shards, patterns and URLs of shards.

    As soon as one source is a URL, shards are streamed (`StreamedBatches`); otherwise they are indexed (`Batches`), and
    made ahead by `config.threads`.

    Args:
        sources: paths and URLs, with braces as in a shell: `shards/train-{000..127}.tar`, `s3://bucket/{00..99}.tar`.
        config: how clips are drawn.
        spec: what a batch is.
        first_step: where the run begins or goes on: a stream begins with other shards there.

    Raises:
        DataError: nothing there, or nothing that can be trained on.
    """
    names = [name for source in sources for name in expand_braces(source)]
    if any(is_url(name) for name in names):
        for name in names:
            if not is_url(name) and Path(name).suffix != ".tar":
                raise DataError(f"{name}: beside URLs, which are streamed, only tar shards can be streamed too")
        return StreamedBatches(names, config, spec, first_step=first_step)
    batches = Batches(find_clips([Path(name) for name in names], spec.sample_rate), config, spec)
    return Prefetched(batches, config.threads) if config.threads else batches


class StreamedBatches:
    """Random crops of clips that stream by: each time that it is asked, the next batch.

    The order is that of (seed, first_step, ranks, threads), but a stream does not repeat to the bit as indexed data do:
    a run that is resumed goes on with a fresh order, and a shard that is out of reach is skipped. Each rank reads its
    own part of the shards, another in every pass; where shards are fewer than ranks, each reads its own part of every
    shard's samples. Of a recording longer than `longest_seconds`, every pass decodes that much from a random place.

    A clip or a shard that cannot be read is skipped; a count of them is logged as a warning whenever it has doubled.
    `DataError` is raised where the first shard cannot be opened, a pass finds more that is unreadable than audio, or
    `stream_reader.MOST_EMPTY_SHARDS` in a row give nothing, with growing pauses between them (some twelve minutes in
    all).
    """

    def __init__(self, shards: Sequence[str], config: DataConfig, spec: BatchSpec, *, first_step: int = 0) -> None:
        threads = max(1, min(config.threads, len(shards) // spec.ranks))
        plan = ReadingPlan(shards, config, spec, first_step, spec.ranks * threads)
        if not plan.heaviest_kind > 0:
            raise DataError("every clip has weight 0: check data.kind_weights")
        self._stop = threading.Event()
        share = config.shuffle_minutes * 60 / threads
        self.readers = [ShardReader(plan, spec.rank * threads + i, share, self._stop) for i in range(threads)]
        self._given = 0
        weakref.finalize(self, self._stop.set)
        for reader in self.readers:
            reader.start()

    def __getitem__(self, step: int) -> Crop:
        """Audio `[batch_size / ranks, 1, samples]`: the next batch, whatever the step.

        Raises:
            DataError: the stream has come to an end, as the class says.
        """
        reader = self.readers[self._given % len(self.readers)]  # in turn, so that their pace does not matter
        batch = reader.next()
        self._given += 1
        return batch

    @property
    def buffered_seconds(self) -> float:
        """Decoded audio in memory; never more than `shuffle_minutes`, or three clips a thread where that is more."""
        return sum(reader.buffer.held / reader.plan.spec.sample_rate for reader in self.readers)

    def close(self) -> None:
        """Stop reading. A stream that is dropped does so too."""
        self._stop.set()
        for reader in self.readers:
            reader.join()
