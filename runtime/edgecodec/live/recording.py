"""Recording both sides of a live stream to a stereo WAV, without making the sound wait for the disk."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import EdgecodecError
from .endpoints import FileSink

_QUEUE = 1024  # blocks that may wait for the disk: 13 s of one frame each


def new_path() -> Path:
    """A file of this second's name in the working directory, counted on where one of that name exists."""
    stem = time.strftime("edgecodec-%Y%m%d-%H%M%S")
    names = itertools.chain([f"{stem}.wav"], (f"{stem}-{count}.wav" for count in itertools.count(2)))
    return next(path for path in map(Path, names) if not path.exists())


class Recorder:
    """Left what was heard, right what was played, aligned to the sample. The file appears, complete, at `close`.

    In 24 bits: a codec makes other codes of what was rounded to 16, and the recording is what shows faults.

    Raises:
        EdgecodecError: a file that exists without `force`, or cannot be written.
    """

    def __init__(self, path: str | Path, sample_rate: int, *, force: bool = False) -> None:
        self.path = str(path)
        self.dropped = 0  # blocks that the disk was too slow for
        self.error: EdgecodecError | None = None
        self._sink = FileSink(self.path, sample_rate, channels=2, bits=24, force=force)
        self._queue: queue.Queue[NDArray[np.float32] | None] = queue.Queue(_QUEUE)
        self._thread = threading.Thread(target=self._write, name="edgecodec recorder", daemon=True)
        self._thread.start()

    def put(self, heard: NDArray[np.float32], played: NDArray[np.float32]) -> None:
        """Append a block, [samples] of each side; never waits."""
        try:
            self._queue.put_nowait(np.stack([heard, played]))
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what waits and complete the file.

        Raises:
            EdgecodecError: a file that could not be written.
        """
        while self._thread.is_alive():
            with contextlib.suppress(queue.Full):  # the disk is slow, or stuck and the thread about to fail
                self._queue.put(None, timeout=0.1)
                break
        self._thread.join()
        if self.error is not None:
            raise self.error

    def _write(self) -> None:
        try:
            while (block := self._queue.get()) is not None:
                self._sink.write(block)
            self._sink.close()
        except EdgecodecError as error:
            self.error = error
        except OSError as error:
            self.error = EdgecodecError(f"{self.path}: cannot write: {error.strerror or error}")
