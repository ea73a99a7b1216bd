"""Audio blocks of any length to packets.

However the audio is cut into blocks, the codes are those of the whole clip, bit for bit. A stream belongs to one thread
at a time; any number of streams share one codec.

    input    |----- packet 0 -----|----- packet 1 -----|-- rest + zeros --|
    decoded        (delay) |----- packet 0 -----|----- packet 1 -----|...

Codecs that look ahead, or start with several frames, hold sound back: their first packets come late, and `flush` gives
what is left. For live sound, a stream can begin as if silence had come before it: then every frame that goes in gives a
frame at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .binding import BoundEncoder
from .errors import AudioError, BitrateError
from .packets import MAX_FRAMES, SEQUENCE_MODULUS, Packet
from .samples import as_audio, check_channels, grouped
from .sessions import Sessions
from .stream_base import Stream
from .variable_encoder import VariableEncoder
from .variable_rate import VariableRate


class EncoderStream(Stream):
    """Turns audio into packets, as soon as each is full. Make one with `Codec.encoder_stream`.

    A packet is what the encoder waits for and encodes in one go: more `frames_per_packet` cost less compute and fewer
    packet heads, and buffer longer. The codes are the same.

    With `after_silence`, the first packets are of the silence that an encoder that looks ahead saw before.

    `paths` are those of the search for codes, see `Sessions.quantize`.

    With a `variable` rate, frames get as many stages as their sound needs; the mean of what packets take, once coded,
    is held at the bitrate of `stages`.

    `stages` and `redundancy` may be set at any time and hold from the next packet on.
    """

    def __init__(
        self,
        sessions: Sessions,
        stages: int,
        *,
        paths: int = 0,
        channels: int = 1,
        frames_per_packet: int = 1,
        redundancy: int = 0,
        after_silence: bool = False,
        variable: VariableRate | None = None,
    ) -> None:
        check_channels(channels)
        if not 1 <= frames_per_packet <= MAX_FRAMES:
            raise BitrateError(f"frames_per_packet must be 1 to {MAX_FRAMES}, not {frames_per_packet}")
        self._sessions, self._manifest = sessions, sessions.manifest
        self._channels, self._frames_per_packet = channels, frames_per_packet
        self._after_silence, self._variable = after_silence, variable
        self._nothing = np.zeros((channels, 0), np.float32)
        self._stages, self._paths = stages, paths
        self.redundancy = redundancy
        self._sequence = 0  # never begins anew: a decoder would take the packets for late ones
        self.reset()

    def reset(self) -> None:
        """Forget all audio: the next block begins a new stream. Packets are counted on, so that decoders follow."""
        m = self._manifest
        self._encoder: BoundEncoder | VariableEncoder
        if self._variable is None:
            frames = self._frames_per_packet
            self._encoder = BoundEncoder(self._sessions, m.streams(self._channels), frames, self._paths)
        else:
            self._encoder = VariableEncoder(self._variable, m.streams(self._channels), self._frames_per_packet)
        self._rest = self._nothing  # samples short of a packet
        self._samples = self._frames = 0  # frames: those that went in
        self._silent_frames = 0
        self._previous: NDArray[np.int64] | None = None  # codes of the last packet
        if self._after_silence and m.held:
            self._silent_frames = m.start_frames.encoder
            silence = np.zeros((m.streams(self._channels), m.channels, self._silent_frames * m.frame_size), np.float32)
            self._encoder.encode(silence, self._stages)

    @property
    def channels(self) -> int:
        """Channels, each a stream of its own; of a stereo bundle, each pair."""
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
        self._stages = self._manifest.stages(stages=stages)

    @property
    def redundancy(self) -> int:
        """Stages of its predecessor that each packet to come repeats, so that a decoder can recover it; 0 for none."""
        return self._redundancy

    @redundancy.setter
    def redundancy(self, stages: int) -> None:
        self._redundancy = self._manifest.stages(stages=stages) if stages else 0

    def push(self, block: ArrayLike) -> list[Packet]:
        """Encode a block of any length, [samples] (one channel) or [channels, samples], in [-1, 1].

        Returns the packets that are full now.

        Raises:
            AudioError: a block of a wrong shape or type, or samples that are not finite.
            BundleError: a graph that fails. After either error the stream is as it was.
        """
        x = as_audio(block)
        if x.ndim == 1:
            x = x[None]
        if x.ndim != 2 or len(x) != self._channels:
            raise AudioError(f"a block must be [samples] or [{self._channels}, samples], not {list(x.shape)}")
        samples = x.shape[1]
        x = np.concatenate([self._rest, x], axis=1) if self._rest.shape[1] else x
        whole = self._ready(x.shape[1] // self._manifest.frame_size) * self._manifest.frame_size
        if whole == x.shape[1]:
            packets, self._rest = self._packets(x), self._nothing
        else:
            packets = self._packets(x[:, :whole])
            self._rest = x[:, whole:].copy()  # no view that would keep the block alive
        self._samples += samples  # once nothing can fail any more
        return packets

    def flush(self) -> list[Packet]:
        """End the stream: the packets that remain, zeros after the last sample, and a stream ready for new audio.

        They cover the delay, so that the decoder answers every sample that was pushed. Packets are counted on: a
        decoder that goes on gives the new audio behind the old, late by the delay again; one that was reset begins
        with it.
        """
        samples = (self._manifest.frames(self._samples) - self._frames) * self._manifest.frame_size
        packets = self._packets(np.pad(self._rest, ((0, 0), (0, samples - self._rest.shape[1]))), last=True)
        self.reset()
        return packets

    def _ready(self, frames: int) -> int:
        """Of so many whole frames, those to encode now: enough for a first call, and such that packets are full."""
        size, started = self._frames_per_packet, bool(self._frames or self._silent_frames)
        back = 0 if started else self._manifest.lookahead.encoder  # frames of which the first call gives no codes
        ready = (frames - back) // size * size + back
        return ready if started or ready >= self._manifest.start_frames.encoder else 0

    def _packets(self, audio: NDArray[np.float32], last: bool = False) -> list[Packet]:
        """Encode whole frames [channels, frame_size * T]."""
        held_back = last and self._frames and self._sessions.looks_ahead("encoder")
        if not audio.shape[1] and not held_back:
            return []
        x = grouped(audio, self._manifest.channels)
        codes, size = self._encoder.encode(x, self._stages, last=last), self._frames_per_packet
        frames = codes.shape[2]
        cut = [codes] if frames <= size else [codes[:, :, i : i + size].copy() for i in range(0, frames, size)]
        packets, layout = [], self._manifest.layout
        for own in cut:
            repeated = None
            if self._redundancy and self._previous is not None:
                repeated = layout.trimmed(self._previous[:, : layout.lines(self._redundancy)])
            own = own if self._variable is None else layout.trimmed(own)
            packets.append(Packet(self._sequence, own, repeated, layout))
            self._previous = own
            self._sequence = (self._sequence + 1) % SEQUENCE_MODULUS
        self._frames += audio.shape[1] // self._manifest.frame_size
        return packets
