"""Packets to audio, also where some are missing.

Networks lose packets. The stream follows their sequence: it answers for those that are missing, drops those that come
late or twice, and recovers a lost one from the next where packets carry redundancy:

    packet   | 6, repeats 5 | 7, repeats 6 |   (lost)   | 9, repeats 8 |
    decoded  |      6       |      7       | 8, coarser |      9       |

As with `encoder_stream`, a stream belongs to one thread at a time, and codecs that look ahead give their first samples
late, unless the stream begins as if silence had come before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .binding import BoundDecoder
from .concealment import FADE_SECONDS, fade
from .errors import BitstreamError
from .packets import MAX_FRAMES, SEQUENCE_MODULUS, Packet
from .samples import check_channels
from .sessions import Sessions
from .stream_base import Stream

_LONGEST_GAP = 10.0  # seconds; a jump in the sequence beyond it is no loss but another stream


@dataclass(frozen=True)
class DecoderStatistics:
    """Packets of a decoder stream since it began: each was received or lost; each lost one concealed or recovered."""

    received: int  # decoded in their turn
    concealed: int  # lost: the sound before them was repeated and faded out, or turned into the sound after them
    recovered: int  # lost: decoded from what the next packet repeats
    late: int  # dropped, for they came after their turn or twice


class DecoderStream(Stream):
    """Turns packets into audio, each into all its samples at once. Make one with `Codec.decoder_stream`.

    The first `delay` samples of a stream come before its audio. With `after_silence`, each packet gives all its samples
    also where the decoder looks ahead; the first ones are of the silence before it.

    Whoever reads packets in the order they come only calls `push`, which fills the gaps. A player that must have sound
    now asks for the packets in their turn, and holds one more back to recover a lost one from its successor:

        audio = decoder.push(packet) if packet is not None else decoder.conceal(following)
    """

    def __init__(self, sessions: Sessions, *, channels: int = 1, after_silence: bool = False) -> None:
        check_channels(channels)
        self._sessions, self._manifest, self._channels = sessions, sessions.manifest, channels
        self._streams, self._after_silence = sessions.manifest.streams(channels), after_silence
        self.reset()

    def reset(self) -> None:
        """Forget all packets: the next one begins a new stream, whatever its sequence."""
        self._decoder = BoundDecoder(self._sessions, self._streams)
        if self._after_silence and self._decoder.held is not None:
            frames = self._manifest.start_frames.decoder
            self._decoder.synthesize(np.tile(self._sessions.silence, (self._streams, frames, 1)))
        self._due: int | None = None  # sequence of the next packet, once there was one
        self._last: NDArray[np.int64] | None = None  # codes of the last packet that was not concealed
        self._packet_frames = 1  # in it
        self._gap_frames = 0  # concealed since
        self._clip = False
        self._received = self._concealed = self._recovered = self._late = 0

    @property
    def channels(self) -> int:
        """Channels, each a stream of its own; of a stereo bundle, each pair."""
        return self._channels

    @property
    def delay(self) -> int:
        """Samples by which the output lags behind the encoder's input, both streams being after silence or neither."""
        return self._manifest.delay + (self._manifest.ahead if self._after_silence else 0)

    @property
    def statistics(self) -> DecoderStatistics:
        """What became of the packets since the stream began."""
        return DecoderStatistics(self._received, self._concealed, self._recovered, self._late)

    def push(self, packet: Packet) -> NDArray[np.float32]:
        """Decode a packet: audio [samples] of one channel, or [channels, samples].

        After a gap in the sequence the audio of the missing packets comes first, the last of them recovered where
        `packet` repeats it. A packet that is late or comes twice gives no samples. A jump of more than 10 s is
        another stream, which begins with this packet. Packets of another encoder stream need `reset` before: their
        numbers say nothing, and they may seem late.

        Raises:
            BitstreamError: codes that this codec cannot have made.
            BundleError: a graph that fails. After either error the stream is as it was.
        """
        codes = self._manifest.check_codes(packet.codes, self._streams)
        missing = self._missing(packet.sequence)
        if missing < 0:
            self._late += 1
            return self._shaped(self._silent(0))
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
        if not 1 <= frames <= MAX_FRAMES:
            raise BitstreamError(f"a packet has 1 to {MAX_FRAMES} frames, not {frames}")
        previous = after = None
        with self._unchanged_by_errors():
            if following is not None and self._due in (None, (following.sequence - 1) % SEQUENCE_MODULUS):
                after = self._manifest.check_codes(following.codes, self._streams)
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
        """End the stream: what is still held back, as `push`, nothing for most bundles; then it is ready for a new one.

        It comes from bundles that look ahead, and from those with `start_frames` where the stream was shorter.
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
        return np.concatenate(audio, axis=2)

    def _previous(self, packet: Packet) -> NDArray[np.int64] | None:
        return None if packet.previous is None else self._manifest.check_codes(packet.previous, self._streams)

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
            return self._silent(frames)
        self._clip = True
        length = FADE_SECONDS * self._manifest.frame_rate
        last = self._sessions.latents(self._last[:, :, -1:])
        after = None if following is None else self._sessions.latents(following[:, :, :1])
        latents = fade(last, self._sessions.silence, self._gap_frames, frames, length, after)
        self._gap_frames += frames
        return np.clip(self._decoder.synthesize(latents), -1, 1)

    def _silent(self, frames: int) -> NDArray[np.float32]:
        m = self._manifest
        return np.zeros((self._streams, m.channels, frames * m.frame_size), np.float32)

    def _shaped(self, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        """Streams [streams, C, T] as the channels that went in: [T] of one, else [channels, T]."""
        streams, each, samples = audio.shape
        channels = audio.reshape(streams * each, samples)[: self._channels]
        return channels[0] if self._channels == 1 else channels
