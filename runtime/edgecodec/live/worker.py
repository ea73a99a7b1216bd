"""What all live streams share: an end, calls that a watchdog sees, stages within range, and gains that do not click."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..codec import Codec
from .endpoints import Sink, Source

_P = ParamSpec("_P")
_T = TypeVar("_T")


class LiveWorker(ABC):
    """Moves sound. `run` works in one thread; other threads look at it.

    `calling` is the device that a call waits for, and since when (`time.monotonic`): a thread that waits for a device
    cannot look after itself. `notice` is something to tell whoever looks; None for nothing.

    Args:
        codec: of any bundle.
        seconds: of sound, after which it ends; None for no end.
    """

    def __init__(self, codec: Codec, seconds: float | None) -> None:
        self.calling: tuple[str, float] | None = None
        self.notice: str | None = None
        self._codec = codec
        self._limit = None if seconds is None else round(seconds * codec.sample_rate)
        self._samples = 0

    @abstractmethod
    def run(self, stop: threading.Event) -> None:
        """Work until done or until `stop` is set."""

    @property
    def _time_is_over(self) -> bool:
        return self._limit is not None and self._samples >= self._limit

    def _count(self, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        """Count the samples of `audio` [samples]; returns as many as the time allows."""
        if self._limit is not None:
            audio = audio[: self._limit - self._samples]
        self._samples += len(audio)
        return audio

    def _call(self, end: Source | Sink, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call something that waits for `end`: visibly where it is a device. A pipe may take as long as it likes."""
        if not end.is_device:
            return function(*args, **kwargs)
        self.calling = end.name, time.monotonic()
        try:
            return function(*args, **kwargs)
        finally:
            self.calling = None


class EncodingWorker(LiveWorker):
    """A worker that encodes what a microphone hears. `stages` and `muted` may be set at any time.

    Args:
        codec: of any bundle.
        seconds: as for `LiveWorker`.
        stages: at the start.
        max_stages: the most that `stages` may be set to.
    """

    def __init__(self, codec: Codec, seconds: float | None, stages: int, max_stages: int) -> None:
        super().__init__(codec, seconds)
        self.muted = False
        self.max_stages = max_stages
        self._stages = stages
        self._microphone = Fader()

    @property
    def stages(self) -> int:
        """Stages of the frames to come; a number out of range becomes the nearest within."""
        return self._stages

    @stages.setter
    def stages(self, stages: int) -> None:
        self._stages = min(max(1, stages), self.max_stages)

    def _heard(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """A block [samples] of the microphone, or silence where it is muted."""
        return self._microphone.mix(0.0, block, 0.0 if self.muted else 1.0)


class Fader:
    """Mixes two sounds; a new share is reached within a block, so that nothing clicks."""

    def __init__(self) -> None:
        self._share = 1.0  # of the second sound at the end of the block before

    def mix(self, one: NDArray[np.float32] | float, other: NDArray[np.float32], share: float) -> NDArray[np.float32]:
        """A block of `one` and of `other`, of equal lengths; `share` of `other` from its end on."""
        before, self._share = self._share, share
        return other if before == share == 1.0 else crossfade(one, other, before, share)


def crossfade(
    one: NDArray[np.float32] | float, other: NDArray[np.float32], begin: float = 0.0, end: float = 1.0
) -> NDArray[np.float32]:
    """From `one` [samples] to `other`: the share of `other` goes from `begin` to `end`."""
    mixed: NDArray[np.float32] = one + (other - one) * np.linspace(begin, end, len(other), dtype=np.float32)
    return mixed
