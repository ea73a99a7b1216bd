"""Streams: audio blocks of any length to packets, and packets to audio.

However the audio is cut into blocks, the codes are those of the whole clip, bit for bit. A stream belongs to one thread
at a time; any number of streams share one codec.

    input    |----- packet 0 -----|----- packet 1 -----|-- rest + zeros --|
    decoded        (delay) |----- packet 0 -----|----- packet 1 -----|...

Networks lose packets. The decoder stream follows their sequence: it answers for those that are missing, drops those
that come late or twice, and recovers a lost one from the next where packets carry redundancy:

    packet   | 6, repeats 5 | 7, repeats 6 |   (lost)   | 9, repeats 8 |
    decoded  |      6       |      7       | 8, coarser |      9       |
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .binding import BoundDecoder, BoundEncoder
from .concealment import FADE_SECONDS, fade
from .errors import AudioError, BitrateError, BitstreamError
from .packets import SEQUENCE_MODULUS, Packet
from .samples import as_audio
from .sessions import Sessions

_MAX_CHANNELS = 255
_MAX_FRAMES_PER_PACKET = 255
_LONGEST_GAP = 10.0  # seconds; a jump in the sequence beyond it is no loss but another stream


class EncoderStream:
    """Turns audio into packets, as soon as each is full. Make one with `Codec.encoder_stream`.

    A packet is what the encoder waits for and encodes in one go: more `frames_per_packet` cost less compute and fewer
    packet heads, and buffer longer. The codes are the same.

    `stages` and `redundancy` may be set at any time and hold from the next packet on.
    """

    def __init__(
        self, sessions: Sessions, stages: int, *, channels: int = 1, frames_per_packet: int = 1, redundancy: int = 0
    ) -> None:
        _check_channels(channels)
        if not 1 <= frames_per_packet <= _MAX_FRAMES_PER_PACKET:
            raise BitrateError(f"frames_per_packet must be 1 to {_MAX_FRAMES_PER_PACKET}, not {frames_per_packet}")
        self._sessions, self._manifest = sessions, sessions.manifest
        self._channels, self._frames_per_packet = channels, frames_per_packet
        self._packet_samples = frames_per_packet * self._manifest.frame_size
        self._nothing = np.zeros((channels, 0), np.float32)
        self._stages = stages
        self.redundancy = redundancy
        self.reset()

    def reset(self) -> None:
        """Forget all audio: the next block begins a new stream."""
        self._encoder = BoundEncoder(self._sessions, self._channels, self._frames_per_packet)
        self._rest = self._nothing  # samples short of a packet
        self._samples = self._frames = self._sequence = 0
        self._previous: NDArray[np.int64] | None = None  # codes of the last packet

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
        whole = x.shape[1] // self._packet_samples * self._packet_samples
        if not self._frames and whole < self._manifest.start_frames.encoder * self._manifest.frame_size:
            whole = 0  # the first call would be too short
        if whole == x.shape[1]:
            packets, self._rest = self._packets(x), self._nothing
        else:
            packets = self._packets(x[:, :whole])
            self._rest = x[:, whole:].copy()  # no view that would keep the block alive
        self._samples += samples  # once nothing can fail any more
        return packets

    def flush(self) -> list[Packet]:
        """End the stream: the packets that remain, zeros after the last sample, and a stream ready for new audio.

        They cover the delay, so that the decoder answers every sample that was pushed.
        """
        samples = (self._manifest.frames(self._samples) - self._frames) * self._manifest.frame_size
        packets = self._packets(np.pad(self._rest, ((0, 0), (0, samples - self._rest.shape[1]))))
        self.reset()
        return packets

    def _packets(self, audio: NDArray[np.float32]) -> list[Packet]:
        """Encode whole frames [channels, frame_size * T]."""
        if not audio.shape[1]:
            return []
        codes, size = self._encoder.encode(audio, self._stages), self._frames_per_packet
        frames = codes.shape[2]
        cut = [codes] if frames <= size else [codes[:, :, i : i + size].copy() for i in range(0, frames, size)]
        packets = []
        for own in cut:
            repeated = None
            if self._redundancy and self._previous is not None:
                repeated = self._previous[:, : self._redundancy]
            packets.append(Packet(self._sequence, own, repeated))
            self._previous = own
            self._sequence = (self._sequence + 1) % SEQUENCE_MODULUS
        self._frames += frames
        return packets


@dataclass(frozen=True)
class DecoderStatistics:
    """Packets of a decoder stream since it began: each was received or lost; each lost one concealed or recovered."""

    received: int  # decoded in their turn
    concealed: int  # lost: the sound before them was repeated and faded out, or turned into the sound after them
    recovered: int  # lost: decoded from what the next packet repeats
    late: int  # dropped, for they came after their turn or twice


class DecoderStream:
    """Turns packets into audio, each into all its samples at once. Make one with `Codec.decoder_stream`.

    The first `delay` samples of a stream come before its audio.

    Whoever reads packets in the order they come only calls `push`, which fills the gaps. A player that must have sound
    now asks for the packets in their turn, and holds one more back to recover a lost one from its successor:

        audio = decoder.push(packet) if packet is not None else decoder.conceal(following)
    """

    def __init__(self, sessions: Sessions, *, channels: int = 1) -> None:
        _check_channels(channels)
        self._sessions, self._manifest, self._channels = sessions, sessions.manifest, channels
        self.reset()

    def reset(self) -> None:
        """Forget all packets: the next one begins a new stream, whatever its sequence."""
        self._decoder = BoundDecoder(self._sessions, self._channels)
        self._due: int | None = None  # sequence of the next packet, once there was one
        self._last: NDArray[np.int64] | None = None  # codes of the last packet that was not concealed
        self._packet_frames = 1  # in it
        self._gap_frames = 0  # concealed since
        self._clip = False
        self._received = self._concealed = self._recovered = self._late = 0

    @property
    def channels(self) -> int:
        """Channels, each a stream of its own."""
        return self._channels

    @property
    def delay(self) -> int:
        """Samples by which the output lags behind the encoder's input."""
        return self._manifest.delay

    @property
    def statistics(self) -> DecoderStatistics:
        """What became of the packets since the stream began."""
        return DecoderStatistics(self._received, self._concealed, self._recovered, self._late)

    def push(self, packet: Packet) -> NDArray[np.float32]:
        """Decode a packet: audio [samples] of one channel, or [channels, samples].

        After a gap in the sequence the audio of the missing packets comes first, the last of them recovered where
        `packet` repeats it. A packet that is late or comes twice gives no samples. A jump of more than 10 s is
        another stream, which begins with this packet.

        Raises:
            BitstreamError: codes that this codec cannot have made.
            BundleError: a graph that fails. After either error the stream is as it was.
        """
        codes = self._manifest.check_codes(packet.codes, self._channels)
        missing = self._missing(packet.sequence)
        if missing < 0:
            self._late += 1
            return self._shaped(np.zeros((self._channels, 0), np.float32))
        if missing:
            with self._unchanged_by_errors():
                audio = self._bridged(packet, codes, missing)
        else:
            audio = self._decoded(codes)
        self._due = (packet.sequence + 1) % SEQUENCE_MODULUS
        self._received += 1
        return self._shaped(audio)

    def conceal(self, following: Packet | None = None, *, frames: int | None = None) -> NDArray[np.float32]:
        """Answer for the packet that is due and did not come; if it still comes, it is dropped as late.

        Args:
            following: the packet after it, where that is already there; push it next. If it repeats the missing one,
                that is recovered; else the last sound turns into its sound. Without it, the last sound is repeated,
                and fades out within 0.1 s of loss.
            frames: how many the missing packet held; by default as many as the one before it, or 1.

        Returns:
            Audio as `push`, of the missing packet alone.

        Raises:
            BitstreamError: codes in `following` that this codec cannot have made.
            BundleError: a graph that fails. After either error the stream is as it was.
        """
        frames = self._packet_frames if frames is None else frames
        if not 1 <= frames <= _MAX_FRAMES_PER_PACKET:
            raise BitstreamError(f"a packet has 1 to {_MAX_FRAMES_PER_PACKET} frames, not {frames}")
        previous = after = None
        with self._unchanged_by_errors():
            if following is not None and self._due in (None, (following.sequence - 1) % SEQUENCE_MODULUS):
                after = self._manifest.check_codes(following.codes, self._channels)
                previous = self._previous(following)
                self._due = (following.sequence - 1) % SEQUENCE_MODULUS
            if previous is not None:
                audio = self._recover(previous)
            else:
                audio = self._conceal(frames, after)
                self._concealed += 1
        if self._due is not None:
            self._due = (self._due + 1) % SEQUENCE_MODULUS
        return self._shaped(audio)

    def flush(self) -> NDArray[np.float32]:
        """End the stream: what is still held, as `push`, nothing for most bundles; then it is ready for a new one.

        A bundle with `start_frames` gives no samples before so many frames are there, and shorter streams end so.
        """
        audio = self._decoder.flush()
        audio = np.clip(audio, -1, 1) if self._clip else audio
        self.reset()
        return self._shaped(audio)

    @contextmanager
    def _unchanged_by_errors(self) -> Iterator[None]:
        """Several graphs run for a gap; where one of them fails, the stream is as it was before the first."""
        fields, state, held = self.__dict__.copy(), self._decoder.state.copy(), self._decoder.held
        try:
            yield
        except BaseException:
            self.__dict__.update(fields)
            self._decoder.state[:], self._decoder.held = state, held
            raise

    def _missing(self, sequence: int) -> int:
        """Packets lost before this one, -1 when it is late."""
        ahead = 0 if self._due is None else (sequence - self._due) % SEQUENCE_MODULUS
        if not ahead:
            return 0
        longest = _LONGEST_GAP * self._manifest.frame_rate / self._packet_frames
        if ahead > SEQUENCE_MODULUS // 2:
            return -1 if SEQUENCE_MODULUS - ahead <= longest else 0
        return ahead if ahead <= longest else 0

    def _bridged(self, packet: Packet, codes: NDArray[np.int64], missing: int) -> NDArray[np.float32]:
        """Audio of the missing packets and of this one."""
        previous = self._previous(packet)
        frames, earlier = self._packet_frames, missing - 1
        audio = [self._conceal(earlier * frames)] if earlier else []
        audio.append(self._conceal(frames, codes) if previous is None else self._recover(previous))
        audio.append(self._decoded(codes))
        self._concealed += earlier + (previous is None)
        return np.concatenate(audio, axis=1)

    def _previous(self, packet: Packet) -> NDArray[np.int64] | None:
        return None if packet.previous is None else self._manifest.check_codes(packet.previous, self._channels)

    def _decoded(self, codes: NDArray[np.int64]) -> NDArray[np.float32]:
        audio = self._decoder.decode(codes)
        self._last, self._packet_frames, self._gap_frames = codes.copy(), codes.shape[2], 0
        # After a gap the decoder may overshoot; one that never lost anything gives the samples of the whole clip.
        return np.clip(audio, -1, 1) if self._clip else audio

    def _recover(self, codes: NDArray[np.int64]) -> NDArray[np.float32]:
        self._recovered += 1
        self._clip = True
        return self._decoded(codes)

    def _conceal(self, frames: int, following: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Fade the last latents, into those of the following frame if it is there.

        The decoder network itself joins them to what was and what will come.
        """
        if self._last is None:
            return np.zeros((self._channels, frames * self._manifest.frame_size), np.float32)
        self._clip = True
        length = FADE_SECONDS * self._manifest.frame_rate
        last = self._sessions.latents(self._last[:, :, -1:])
        after = None if following is None else self._sessions.latents(following[:, :, :1])
        latents = fade(last, self._sessions.silence, self._gap_frames, frames, length, after)
        self._gap_frames += frames
        return np.clip(self._decoder.synthesize(latents), -1, 1)

    def _shaped(self, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        return audio[0] if self._channels == 1 else audio


def _check_channels(channels: int) -> None:
    if not 1 <= channels <= _MAX_CHANNELS:
        raise AudioError(f"channels must be 1 to {_MAX_CHANNELS}, not {channels}")
