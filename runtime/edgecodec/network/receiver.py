"""The receiving machine: datagrams through jitter buffer and decoder to a loudspeaker or a file.

    socket -> thread: parse, check -> jitter buffer -> thread: decoder -> sink

One stream at a time: the first that names this bundle and sends sound in sequence (`admission.py`), from the address
that sent it, until it says goodbye or falls silent. All else is counted and dropped. Who stays then waits for another.
"""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ..codec import Codec
from ..errors import BitstreamError
from ..live.endpoints import Sink
from ..live.meters import Level, Timings
from ..live.worker import LiveWorker, crossfade
from ..packets import SEQUENCE_MODULUS, Packet
from .admission import STALE, Allowance, Candidates
from .jitter import JitterBuffer, Turn
from .received import Counters, ReceiveSnapshot
from .rtp import MAX_DATAGRAM, Announcement, AudioDatagram, Goodbye, Report, parse
from .secure import NoSeal
from .sockets import Address, text_of

_SILENT = 5.0  # seconds without a packet, after which a stream is over
_REPORT = 1.0  # seconds between reports to the sender
_REFUSE = 0.25  # seconds between refusals: forged announcements must not make this a source of datagrams
_TICK = 0.005
_QUEUED = 2 / 75  # seconds of sound in the device's buffer below which the next packet is played


@dataclass
class _Heard:
    """The stream that is played."""

    announcement: Announcement
    sender: Address
    buffer: JitterBuffer
    last: float  # when a packet came
    reported: float  # when that was last said
    expected: int = 0  # at the last report
    received: int = 0
    ended: bool = False  # by a goodbye
    allowance: Allowance = field(default_factory=Allowance)

    def is_from(self, stream: int, sender: Address) -> bool:
        return (stream, sender) == (self.announcement.stream, self.sender)


class Receiver(LiveWorker):
    """Plays what a sender sends; `run` works in one thread and starts another for the socket.

    Args:
        codec: the bundle that the sender must have, too.
        sock: bound, with a timeout.
        sink: mono at the codec's rate.
        seal: of the key that senders must have; None for open streams.
        seconds: of sound, after which it ends.
        stay: wait for another stream where one ends.
    """

    def __init__(
        self,
        codec: Codec,
        sock: socket.socket,
        sink: Sink,
        *,
        seal: NoSeal | None = None,
        seconds: float | None = None,
        stay: bool = False,
    ) -> None:
        super().__init__(codec, seconds)
        self._stay, self._pausing, self._streams = stay, False, 0
        self._sock, self._sink, self._seal = sock, sink, seal or NoSeal()
        self._lock = threading.Lock()  # of the stream and its buffer
        self._heard: _Heard | None = None
        self._candidates, self._knocking = Candidates(), Allowance()
        self._counters = Counters()
        self._refused = -np.inf  # when a sender was last told so
        self._decoder = codec.decoder_stream(after_silence=True)
        self._sequence = 0  # of the decoder: one per turn
        self._blend: NDArray[np.float32] | None = None
        self._level, self._decode = Level(), Timings()
        self._stages = self._redundancy = 0
        self._datagrams = self._payload = 0  # of sound, and the bytes of their codes

    def run(self, stop: threading.Event) -> None:
        """Until the sender says goodbye or has been silent for 5 s, unless it stays; the time is over; `stop` is set.

        Raises:
            DeviceError: a loudspeaker that failed. EdgecodecError: a file that cannot be written.
        """
        done = threading.Event()
        failures: list[BaseException] = []
        thread = threading.Thread(target=self._listen, args=(done, failures), name="edgecodec receive", daemon=True)
        thread.start()
        try:
            while not stop.wait(_TICK) and self._heard is None:
                if failures:
                    raise failures[0]
            if self._heard is not None and not stop.is_set():
                self._play(stop, failures)
        finally:
            done.set()
            thread.join()

    def snapshot(self) -> ReceiveSnapshot:
        """How it stands; from any thread."""
        with self._lock:
            heard = self._heard
            statistics = JitterBuffer(1.0).statistics if heard is None else heard.buffer.statistics
        return ReceiveSnapshot(
            sink=self._sink.name,
            sender=None if heard is None or self._pausing else text_of(heard.sender),
            streams=self._streams,
            bundle=self._codec.manifest.name,
            seconds=self._samples / self._codec.sample_rate,
            stages=self._stages,
            redundancy=self._redundancy,
            kbps=self._kbps,
            played_db=self._level.db,
            packets=statistics,
            recovered=self._decoder.statistics.recovered,
            datagrams=self._counters,
            decode=self._decode.percentiles(),
            packet_ms=0.0 if heard is None else 1000 * heard.announcement.packet_seconds,
            underruns=self._sink.underruns,
            notice=self.notice,
        )

    @property
    def _kbps(self) -> float:
        if self._heard is None or not self._datagrams:
            return 0.0
        return self._payload * 8 / (self._datagrams * self._heard.announcement.packet_seconds) / 1000

    def _play(self, stop: threading.Event, failures: list[BaseException]) -> None:
        self._call(self._sink, self._sink.start)
        due = time.monotonic()
        while not (stop.is_set() or failures or self._time_is_over):
            heard = self._heard  # another one, where this one fell silent and that one has sound
            assert heard is not None
            if self._sink.is_device:  # its clock is the pace
                self._call(self._sink, self._wait_for_room, stop)
            else:
                due += heard.announcement.packet_seconds
                stop.wait(max(0.0, due - time.monotonic()))
            with self._lock:
                turn = heard.buffer.take(time.monotonic())
                over = heard.ended or time.monotonic() - heard.last > _SILENT
                left = len(heard.buffer)
            if over and not left and turn.kind in ("wait", "hold", "lost") and heard is self._heard:
                if not self._stay:
                    break
                self._pause(heard, stop, failures)
                due = time.monotonic()
                continue
            audio = self._count(self._audio(turn, heard.announcement.packet_samples))
            self._level.add(audio)
            self._call(self._sink, self._sink.write, audio)
        if failures:
            raise failures[0]
        self._call(self._sink, self._sink.drain)

    def _pause(self, heard: _Heard, stop: threading.Event, failures: list[BaseException]) -> None:
        """Wait for another stream, or for this one again; a device plays silence, a file is not written to."""
        silence = np.zeros(heard.announcement.packet_samples, np.float32)
        self._level.add(silence)
        self._pausing = True
        while not (stop.is_set() or failures) and heard is self._heard and not len(heard.buffer):
            if self._sink.is_device:
                self._call(self._sink, self._wait_for_room, stop)
                self._call(self._sink, self._sink.write, silence)
            else:
                stop.wait(_TICK)
        self._pausing = False

    def _wait_for_room(self, stop: threading.Event) -> None:
        while self._sink.waiting() > _QUEUED and not stop.wait(_TICK):
            pass

    def _audio(self, turn: Turn, size: int) -> NDArray[np.float32]:
        """One packet's duration of sound."""
        if turn.kind == "wait":
            return np.zeros(size, np.float32)
        begin = time.perf_counter()
        if turn.packet is not None:
            self._stages = turn.packet.stages
            self._redundancy = turn.packet.repeated_stages
            audio = self._decoder.push(self._numbered(turn.packet))
            if turn.kind == "skip" and turn.following is not None:
                later = self._decoder.push(self._numbered(turn.following))
                audio = crossfade(audio, later)
        elif turn.kind == "lost" and turn.following is not None:
            following = replace(turn.following, sequence=(self._sequence + 1) % SEQUENCE_MODULUS)
            audio = self._decoder.conceal(following, frames=size // self._codec.frame_size)
            self._sequence += 1
        else:
            audio = self._decoder.conceal(frames=size // self._codec.frame_size)
            self._sequence += 1
        self._decode.add(time.perf_counter() - begin)
        return audio

    def _numbered(self, packet: Packet) -> Packet:
        """The packet with the decoder's own count, in which a turn put in counts too."""
        numbered = replace(packet, sequence=self._sequence % SEQUENCE_MODULUS)
        self._sequence += 1
        return numbered

    def _listen(self, done: threading.Event, failures: list[BaseException]) -> None:
        try:
            while not done.is_set():
                try:
                    data, sender = self._sock.recvfrom(2 * MAX_DATAGRAM)
                except TimeoutError:
                    continue
                except ConnectionError:  # an echo of a report that could not be delivered
                    continue
                self._take_in(data, sender, time.monotonic())
        except BaseException as error:
            failures.append(error)

    def _take_in(self, data: bytes, sender: Address, now: float) -> None:
        """One datagram, whatever it is."""
        try:
            what = parse(self._seal.open(data))
            if isinstance(what, Announcement):
                self._announced(what, sender, now)
            elif isinstance(what, AudioDatagram):
                self._sound(what, sender, now)
            elif isinstance(what, Goodbye) and self._heard is not None and self._heard.is_from(what.stream, sender):
                self._heard.ended = True
            else:
                self._counters = replace(self._counters, foreign=self._counters.foreign + 1)
        except BitstreamError:
            self._counters = replace(self._counters, garbage=self._counters.garbage + 1)

    def _sound(self, datagram: AudioDatagram, sender: Address, now: float) -> None:
        """A packet of the stream that is heard, or of one on probation."""
        heard = self._heard
        if heard is not None and heard.is_from(datagram.stream, sender):
            if self._is_allowed(heard.allowance, heard.announcement, now):
                self._put(heard, self._packet(heard.announcement, datagram), now)
            return
        candidate = self._candidates.of(datagram, sender)
        if candidate is None or (heard is not None and now - heard.last < STALE and not heard.ended):
            self._counters = replace(self._counters, foreign=self._counters.foreign + 1)
            return
        if not self._is_allowed(self._knocking, candidate.announcement, now):
            return
        if candidate.take(self._packet(candidate.announcement, datagram), now):
            self._candidates.drop(sender, datagram.stream)
            buffer = JitterBuffer(candidate.announcement.packet_seconds)
            for packet, arrived in candidate.packets:
                buffer.put(packet, arrived)
            with self._lock:
                self._heard = _Heard(candidate.announcement, sender, buffer, now, now)
            self._streams += 1
            self.notice = None

    def _is_allowed(self, allowance: Allowance, announcement: Announcement, now: float) -> bool:
        if allowance.takes(announcement.packet_seconds, now):
            return True
        self._counters = replace(self._counters, flooding=self._counters.flooding + 1)
        return False

    def _packet(self, announcement: Announcement, datagram: AudioDatagram) -> Packet:
        """The packet in a datagram; a BitstreamError where the codec cannot have made it."""
        packet = announcement.packet(datagram)
        self._codec.check_codes(packet.codes, 1)
        if packet.previous is not None:
            self._codec.check_codes(packet.previous, 1)
        self._datagrams += 1
        self._payload += len(datagram.payload)
        return packet

    def _put(self, heard: _Heard, packet: Packet, now: float) -> None:
        with self._lock:
            heard.buffer.put(packet, now)
            heard.last = now
        if now - heard.reported >= _REPORT:
            self._report(heard, now)

    def _announced(self, stream: Announcement, sender: Address, now: float) -> None:
        m = self._codec.manifest
        if stream.fingerprint != self._codec.fingerprint:
            theirs = f"bundle {stream.bundle!r} ({stream.fingerprint.hex()})"
            ours = f"{m.name!r} ({self._codec.fingerprint.hex()})"
            self._refuse(stream, sender, now, theirs, ours)
            return
        if stream.model != self._codec.bundle.model_fingerprint:
            theirs = f"the entropy model {stream.model.hex()}"
            self._refuse(stream, sender, now, theirs, self._codec.bundle.model_fingerprint.hex())
            return
        facts = (stream.sample_rate, stream.frame_size, stream.code_bits, stream.max_stages)
        if facts != (m.sample_rate, m.frame_size, m.quantizer.code_bits, self._codec.max_stages):
            raise BitstreamError("an announcement that contradicts its bundle")
        stream = replace(stream, layout=m.layout, coder=self._codec.packet_format().coder)
        if self._heard is None or not self._heard.is_from(stream.stream, sender):
            self._candidates.announce(stream, sender)
        elif stream != self._heard.announcement:
            self._counters = replace(self._counters, foreign=self._counters.foreign + 1)

    def _refuse(self, stream: Announcement, sender: Address, now: float, theirs: str, ours: str) -> None:
        self._counters = replace(self._counters, refused=self._counters.refused + 1)
        self.notice = f"refused {text_of(sender)}: it sends with {theirs}, this is {ours}"
        if now - self._refused >= _REFUSE:
            self._refused = now
            self._reply(Goodbye(stream.stream, f"you send with {theirs}, here is {ours}").to_bytes(), sender)

    def _report(self, heard: _Heard, now: float) -> None:
        with self._lock:
            expected, statistics, highest = heard.buffer.expected, heard.buffer.statistics, heard.buffer.highest
        new, got = expected - heard.expected, statistics.received - heard.received
        lost = max(0, expected - statistics.received)
        heard.expected, heard.received, heard.reported = expected, statistics.received, now
        share = max(0.0, 1 - got / new) if new > 0 else 0.0
        jitter = round(statistics.jitter_ms * self._codec.sample_rate / 1000)
        self._reply(Report(heard.announcement.stream, share, lost, highest, jitter).to_bytes(), heard.sender)

    def _reply(self, data: bytes, sender: Address) -> None:
        try:
            self._sock.sendto(self._seal.close(data), sender)
        except OSError as error:
            self.notice = f"{text_of(sender)}: {error.strerror}"
