"""Audio blocks of any length to latents: the first half of an encoder, for those who choose the codes later."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .samples import check_channels, grouped
from .sessions import Sessions
from .stream_base import Stream


class LatentStream(Stream):
    """Turns audio [channels, samples] into latents [streams, T, D]. Make one with `Codec.latent_stream`."""

    def __init__(self, sessions: Sessions, *, channels: int = 1, long_calls: bool = False) -> None:
        check_channels(channels)
        m = sessions.manifest
        self._sessions, self._manifest = sessions, m
        self._state = sessions.zero_state("encoder", m.streams(channels))
        self._step = sessions.longest_call(m.streams(channels)) if long_calls else 1  # frames
        self._rest = np.zeros((channels, 0), np.float32)  # samples short of a step, or of a first call
        self._samples = self._frames = 0

    def push(self, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        """The latents of all frames that are whole now; a codec that looks ahead gives those of its last ones later.

        With `long_calls` so do all others: as many frames as make the graph fast are waited for.
        """
        self._samples += audio.shape[1]
        x = np.concatenate([self._rest, audio], axis=1)
        frames = x.shape[1] // self._manifest.frame_size // self._step * self._step
        if not self._frames and frames < self._manifest.start_frames.encoder:
            frames = 0
        whole = frames * self._manifest.frame_size
        self._rest = x[:, whole:].copy()
        return self._analyzed(x[:, :whole])

    def flush(self) -> NDArray[np.float32]:
        """The latents that remain, zeros after the last sample: enough that the decoder answers every one."""
        samples = (self._manifest.frames(self._samples) - self._frames) * self._manifest.frame_size
        zeros = np.zeros((len(self._rest), samples - self._rest.shape[1]), np.float32)
        return self._analyzed(np.concatenate([self._rest, zeros], axis=1), last=True)

    def _analyzed(self, audio: NDArray[np.float32], *, last: bool = False) -> NDArray[np.float32]:
        if not audio.shape[1] and not (last and self._frames):
            return np.zeros((len(self._state), 0, self._manifest.latent_dim), np.float32)
        self._frames += audio.shape[1] // self._manifest.frame_size
        x = grouped(audio, self._manifest.channels)
        latents, self._state = self._sessions.analyze(x, self._state, last=last)
        return latents
