"""The shuffle buffer of streamed data: clips to draw crops from, and noise to mix in, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NOISE_SHARE = 8  # one part in so many of the buffer is for noise to mix in


@dataclass
class BufferedClip:
    """Decoded audio `[samples]`, the crops that are still to be drawn of it, and its `DataConfig.draw_weight`."""

    audio: NDArray[np.int16]
    kind: str
    draw_weight: float
    crops: int


class ShuffleBuffer:
    """Clips to draw crops from, and noise to mix in: together not more than `limit` samples, if `longest` allows."""

    def __init__(self, limit: int, longest: int) -> None:
        self.limit, self.longest = limit, longest
        self.held = 0  # samples in memory
        self.crops: list[BufferedClip] = []  # each clip as often as it has crops left
        self.noises: list[BufferedClip] = []

    @property
    def full(self) -> bool:
        """Whether a clip more, put into both lists, might be too many."""
        return bool(self.crops) and self.held + 2 * self.longest > self.limit

    def put(self, clip: BufferedClip) -> None:
        """Keep a clip until its crops are drawn."""
        if clip.crops:
            self.crops += [clip] * clip.crops
            self.held += len(clip.audio)

    def draw(self, random: np.random.Generator) -> BufferedClip:
        """A clip with crops left, which has one less then."""
        i = int(random.integers(len(self.crops)))
        self.crops[i], self.crops[-1] = self.crops[-1], self.crops[i]
        clip = self.crops.pop()
        clip.crops -= 1
        if not clip.crops:
            self.held -= len(clip.audio)
        return clip

    def put_noise(self, clip: BufferedClip, random: np.random.Generator) -> None:
        """Keep noise to mix in; others go where there is too much of it."""
        self.noises.append(clip)
        self.held += len(clip.audio)
        while len(self.noises) > 1 and sum(len(n.audio) for n in self.noises) > self.limit / NOISE_SHARE:
            self.held -= len(self.noises.pop(int(random.integers(len(self.noises)))).audio)

    def draw_noise(self, random: np.random.Generator) -> NDArray[np.int16]:
        """Audio of one of the noises, by their weights."""
        weights = np.array([clip.draw_weight for clip in self.noises])
        return self.noises[int(random.choice(len(weights), p=weights / weights.sum()))].audio
