"""The sending machine: sound through the encoder and out as datagrams, and what the receiver says of them."""

from __future__ import annotations

import math
import secrets
import socket
import threading
import time
from dataclasses import dataclass

import numpy as np

from ..codec import Codec
from ..errors import BitrateError, BitstreamError
from ..live.endpoints import Source
from ..live.meters import Level, Percentiles, Timings
from ..live.worker import EncodingWorker
from .rtp import MAX_DATAGRAM, MAX_REDUNDANCY, Announcement, Goodbye, Report, parse
from .secure import NoSeal

_PACKET = 0.02  # seconds in a packet, at least
_ANNOUNCE = 0.5  # seconds between announcements
_FIRST_PACKETS = 4  # before each of these there is one too
_GOODBYES = 3
_IP_UDP = 28  # bytes of IPv4 and UDP headers, for the bitrate on the wire
_REPLIES = 32  # datagrams read per packet sent: garbage must not hold up the sound


@dataclass(frozen=True)
class SendSnapshot:
    """A stream that is sent, at one moment."""

    source: str
    target: str
    bundle: str
    seconds: float  # of sound
    stages: int
    max_stages: int
    redundancy: int
    kbps: float  # codes alone, as sent so far
    wire_kbps: float  # with all headers, IP and UDP included
    packets: int
    unsent: int  # that the network refused
    largest: int  # bytes of a datagram
    muted: bool
    heard_db: float
    encode: Percentiles
    packet_ms: float
    overruns: int
    reports: int  # from the receiver
    lost: int  # as it says
    lost_share: float  # of late
    jitter_ms: float  # as it says
    notice: str | None


class Sender(EncodingWorker):
    """Encodes a source and sends it; `run` works in one thread, `stages` and `muted` may be set from others.

    Args:
        codec: any bundle's.
        source: mono at the codec's rate.
        sock: connected, not blocking.
        stages: at the start.
        frames_per_packet: more cost fewer header bytes, and buffer longer; None for 20 ms or a little more.
        redundancy: stages of the packet before that each packet repeats.
        variable: frames get as many stages as their sound needs; their mean bitrate is that of `stages`.
        seal: what makes a secret of it; None for an open stream.
        seconds: of sound, after which it ends.

    Raises:
        BitrateError: packets that would be larger than `MAX_DATAGRAM`.
    """

    def __init__(
        self,
        codec: Codec,
        source: Source,
        sock: socket.socket,
        target: str,
        *,
        stages: int,
        frames_per_packet: int | None = None,
        redundancy: int = 0,
        variable: bool = False,
        seal: NoSeal | None = None,
        seconds: float | None = None,
    ) -> None:
        m = codec.manifest
        frames = frames_per_packet or max(math.ceil(_PACKET * m.frame_rate), math.ceil(8 / m.quantizer.code_bits))
        self._source, self._sock, self._target, self._seal = source, sock, target, seal or NoSeal()
        self._announcement = Announcement.of(codec, secrets.randbits(32), frames)
        most = codec.max_stages if variable else stages
        if self._announcement.size(most, redundancy) > MAX_DATAGRAM or redundancy > MAX_REDUNDANCY:
            raise BitrateError(
                f"{frames} frames of {most} + {redundancy} stages make no packet of {MAX_DATAGRAM} bytes"
            )
        self._encoder = codec.encoder_stream(
            stages=stages, frames_per_packet=frames, redundancy=redundancy, after_silence=True, variable=variable
        )
        fitting = [n for n in range(1, codec.max_stages + 1) if self._announcement.size(n, redundancy) <= MAX_DATAGRAM]
        super().__init__(codec, seconds, stages, fitting[-1])
        self._level, self._encode = Level(), Timings()
        self._packets = self._unsent = self._largest = self._bytes = self._payload = 0
        self._report = Report(0, 0.0, 0, 0, 0)
        self._reports = 0
        self._announced = -np.inf

    def run(self, stop: threading.Event) -> None:
        """Until the source ends, the time is over, `stop` is set, or the receiver refuses.

        Raises:
            DeviceError: a microphone that failed. BitstreamError: a receiver with another bundle.
        """
        self._call(self._source, self._source.start)
        start = time.monotonic()
        while not (stop.is_set() or self._time_is_over):
            block = self._call(self._source, self._source.read)
            if block is None:
                break
            self._push(self._heard(self._count(block)))
            if not self._source.is_device:
                stop.wait(max(0.0, start + self._samples / self._codec.sample_rate - time.monotonic()))
        # Silence for what the codec still holds, up to a whole packet: all packets are equally long.
        whole, late = self._announcement.packet_samples, self._codec.delay + self._codec.manifest.ahead
        self._push(np.zeros(-(-(self._samples + late) // whole) * whole - self._samples, np.float32))
        for _ in range(_GOODBYES):
            self._send(Goodbye(self._announcement.stream).to_bytes())

    def snapshot(self) -> SendSnapshot:
        """How it stands; from any thread."""
        m, report = self._codec.manifest, self._report
        sent = max(1, self._packets) * self._announcement.packet_seconds
        return SendSnapshot(
            source=self._source.name,
            target=self._target,
            bundle=m.name,
            seconds=self._samples / m.sample_rate,
            stages=self._encoder.stages,
            max_stages=self._codec.max_stages,
            redundancy=self._encoder.redundancy,
            kbps=self._payload * 8 / sent / 1000,
            wire_kbps=self._bytes * 8 / sent / 1000,
            packets=self._packets,
            unsent=self._unsent,
            largest=self._largest,
            muted=self.muted,
            heard_db=self._level.db,
            encode=self._encode.percentiles(),
            packet_ms=1000 * self._announcement.packet_seconds,
            overruns=self._source.overruns,
            reports=self._reports,
            lost=report.lost,
            lost_share=report.lost_share,
            jitter_ms=1000 * report.jitter / m.sample_rate,
            notice=self.notice,
        )

    def _push(self, block: np.ndarray) -> None:
        self._level.add(block)
        self._encoder.stages = self._stages
        begin = time.perf_counter()
        packets = self._encoder.push(block)
        took = time.perf_counter() - begin
        for packet in packets:
            now = time.monotonic()
            if self._packets < _FIRST_PACKETS or now - self._announced >= _ANNOUNCE:
                self._announced = now
                self._send(self._announcement.to_bytes())
            data = self._announcement.datagram(packet, self._packets)
            self._send(data)
            self._packets += 1
            self._payload += len(data) - 12
            self._largest = max(self._largest, len(data))
            self._encode.add(took / len(packets))
        if packets:
            self._listen()

    def _send(self, data: bytes) -> None:
        data = self._seal.close(data)
        self._bytes += len(data) + _IP_UDP
        try:
            self._sock.send(data)
        except OSError as error:  # nobody listens yet, or the way is blocked: the sound goes on
            self._unsent += 1
            self.notice = f"{self._target}: {error.strerror}"

    def _listen(self) -> None:
        for _ in range(_REPLIES):
            try:
                reply = parse(self._seal.open(self._sock.recv(2 * MAX_DATAGRAM)))
            except BlockingIOError:
                return
            except (OSError, BitstreamError):  # the former: an echo of a packet that could not be delivered
                continue
            if isinstance(reply, Report) and reply.stream == self._announcement.stream:
                self._report, self._reports, self.notice = reply, self._reports + 1, None
            if isinstance(reply, Goodbye) and reply.stream == self._announcement.stream and reply.reason:
                raise BitstreamError(f"{self._target} refuses: {reply.reason}")
