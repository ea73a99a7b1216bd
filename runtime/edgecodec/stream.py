"""Streams: audio blocks of any length to packets, and packets to audio.

However the audio is cut into blocks, the codes are those of the whole clip, bit for bit. A stream belongs to one thread
at a time; any number of streams share one codec.

    input    |----- packet 0 -----|----- packet 1 -----|-- rest + zeros --|
    decoded        (delay) |----- packet 0 -----|----- packet 1 -----|...
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .bitstream import SEQUENCE_MODULUS, Packet
from .errors import AudioError, BitrateError

if TYPE_CHECKING:
    from .codec import Codec
    from .sessions import Sessions

_MAX_CHANNELS = 255
_MAX_FRAMES_PER_PACKET = 255
_SUBNORMAL = 1e-20  # smaller input is silence; subnormal numbers would run 100 times slower


def as_audio(audio: ArrayLike) -> NDArray[np.float32]:
    """Samples as float32 in which every number is finite and none is subnormal, or an AudioError."""
    x = np.asarray(audio)
    if x.dtype.kind != "f":
        raise AudioError(f"audio must be floating point in [-1, 1], not {x.dtype}")
    with np.errstate(over="ignore"):
        x = x.astype(np.float32, copy=False)
    finite = np.isfinite(x)
    if not finite.all():
        first = int(np.argwhere(~finite)[0][-1])
        raise AudioError(f"audio holds NaN or infinity, first at sample {first}")
    return np.where(np.abs(x) < _SUBNORMAL, np.float32(0), x)


class EncoderStream:
    """Turns audio into packets, as soon as each is full. Make one with `Codec.encoder_stream`.

    `stages` may be set at any time and holds from the next packet on.
    """

    def __init__(
        self, codec: Codec, sessions: Sessions, stages: int, *, channels: int = 1, frames_per_packet: int = 1
    ) -> None:
        _check_channels(channels)
        if not 1 <= frames_per_packet <= _MAX_FRAMES_PER_PACKET:
            raise BitrateError(f"frames_per_packet must be 1 to {_MAX_FRAMES_PER_PACKET}, not {frames_per_packet}")
        self._codec, self._sessions = codec, sessions
        self._channels, self._frames_per_packet = channels, frames_per_packet
        self._stages = stages
        self.reset()

    def reset(self) -> None:
        """Forget all audio: the next block begins a new stream."""
        self._state = self._sessions.zero_state("encoder", self._channels)
        self._rest = np.zeros((self._channels, 0), np.float32)  # samples short of a packet
        self._samples = self._frames = self._sequence = 0

    @property
    def channels(self) -> int:
        """Channels, each a stream of its own."""
        return self._channels

    @property
    def frames_per_packet(self) -> int:
        """Code frames in every packet but the last, which may hold fewer."""
        return self._frames_per_packet

    @property
    def stages(self) -> int:
        """Stages of the packets to come."""
        return self._stages

    @stages.setter
    def stages(self, stages: int) -> None:
        self._stages = self._codec.stages(stages=stages)

    def push(self, block: ArrayLike) -> list[Packet]:
        """Encode a block of any length, [samples] (one channel) or [channels, samples], in [-1, 1].

        Returns the packets that are full now. An AudioError leaves the stream as it was.
        """
        x = as_audio(block)
        if x.ndim == 1:
            x = x[None]
        if x.ndim != 2 or len(x) != self._channels:
            raise AudioError(f"a block must be [samples] or [{self._channels}, samples], not {list(x.shape)}")
        self._samples += x.shape[1]
        x = np.concatenate([self._rest, x], axis=1) if self._rest.shape[1] else x
        size = self._frames_per_packet * self._codec.frame_size
        whole = x.shape[1] // size * size
        self._rest = x[:, whole:].copy()  # no view that would keep the block alive
        return self._packets(x[:, :whole])

    def flush(self) -> list[Packet]:
        """End the stream: the packets that remain, zeros after the last sample, and a stream ready for new audio.

        They cover the delay, so that the decoder answers every sample that was pushed.
        """
        samples = (self._codec.frames(self._samples) - self._frames) * self._codec.frame_size
        packets = self._packets(np.pad(self._rest, ((0, 0), (0, samples - self._rest.shape[1]))))
        self.reset()
        return packets

    def _packets(self, audio: NDArray[np.float32]) -> list[Packet]:
        """Encode whole frames [channels, frame_size * T]."""
        if not audio.shape[1]:
            return []
        codes, self._state = self._sessions.encode(audio, self._state, self._stages)
        packets = []
        for start in range(0, codes.shape[2], self._frames_per_packet):
            packets.append(Packet(self._sequence, codes[:, :, start : start + self._frames_per_packet]))
            self._sequence = (self._sequence + 1) % SEQUENCE_MODULUS
        self._frames += codes.shape[2]
        return packets


class DecoderStream:
    """Turns packets into audio, each into all its samples at once. Make one with `Codec.decoder_stream`.

    The first `delay` samples of a stream come before its audio.
    """

    def __init__(self, codec: Codec, sessions: Sessions, *, channels: int = 1) -> None:
        _check_channels(channels)
        self._codec, self._sessions, self._channels = codec, sessions, channels
        self.reset()

    def reset(self) -> None:
        """Forget all packets: the next one begins a new stream."""
        self._state = self._sessions.zero_state("decoder", self._channels)

    @property
    def channels(self) -> int:
        """Channels, each a stream of its own."""
        return self._channels

    @property
    def delay(self) -> int:
        """Samples by which the output lags behind the encoder's input."""
        return self._codec.delay

    def push(self, packet: Packet) -> NDArray[np.float32]:
        """Decode a packet: audio [samples] of one channel, or [channels, samples].

        Raises:
            BitstreamError: codes that this codec cannot have made; the stream is left as it was.
        """
        codes = self._codec.check_codes(packet.codes, self._channels)
        audio, self._state = self._sessions.decode(codes, self._state)
        return audio[0] if self._channels == 1 else audio


def _check_channels(channels: int) -> None:
    if not 1 <= channels <= _MAX_CHANNELS:
        raise AudioError(f"channels must be 1 to {_MAX_CHANNELS}, not {channels}")
