"""What two machines send each other: RTP and RTCP datagrams (RFC 3550) on one port (RFC 5761). Numbers are big-endian.

    audio         V=2 PT  sequence u16  timestamp u32  stream u32   codes   repeated codes of the packet before
                  or, with the marker bit, both coded by the entropy model (packet_coder.py)
    announcement  RTCP APP "EDGC"  fingerprint 8  rate u32  frame size u16  frames per packet u8  code bits u8
                  max stages u8  name length u8  name  entropy model 8   (padded to a multiple of 4)
    report        RTCP RR with one block: share and number of packets lost, highest sequence, jitter
    goodbye       RTCP BYE, with a reason where the receiver refuses a stream

RTP's 12 bytes are what a header of our own would need for magic, version, stream, sequence, stage counts and check (UDP
has a checksum of its own), so RTP costs nothing. An audio packet says no more than it must: payload type 96 + k means
that k stages of the packet before are repeated, its length gives the stages, and the rest was announced. A coded one
tells its stages itself.

Every number read is checked before it is used; anything else is a BitstreamError.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ..bitstream import MAX_NAME
from ..codec import Codec
from ..entropy_model import NO_MODEL
from ..errors import BitrateError, BitstreamError, printable
from ..layout import PLAIN, Layout
from ..packet_coder import PacketCoder
from ..packets import Packet, PacketFormat

MAX_DATAGRAM = 1200  # bytes, which no path on the internet fragments
HEADER_BYTES = 12
MAX_REDUNDANCY = 31
_VERSION = 0x80
_MARKER = 0x80  # of the second byte: the payload is coded
_FIRST_TYPE = 96  # of RTP's dynamic payload types
_REPORT, _GOODBYE, _APP = 201, 203, 204
_AUDIO = struct.Struct(">BBHII")
_CONTROL = struct.Struct(">BBHI")
_FACTS = struct.Struct(">4s8sIHBBBB")
_BLOCK = struct.Struct(">IIIIII")


@dataclass(frozen=True)
class Announcement:
    """What a sender says of its stream before and between its packets.

    `layout` and `coder` are not among the bytes: both ends have them from the bundle, which must be the same.
    """

    stream: int
    fingerprint: bytes  # of the bundle
    bundle: str
    sample_rate: int  # Hz
    frame_size: int
    frames_per_packet: int
    code_bits: int
    max_stages: int
    model: bytes = NO_MODEL  # fingerprint of the entropy model
    layout: Layout = PLAIN
    coder: PacketCoder | None = None

    @classmethod
    def of(cls, codec: Codec, stream: int, frames_per_packet: int) -> Announcement:
        """Of a stream that a codec makes.

        Raises:
            BitrateError: packets so short that their length would not tell their stages.
        """
        m = codec.manifest
        return cls(
            stream,
            codec.fingerprint,
            m.name,
            m.sample_rate,
            m.frame_size,
            frames_per_packet,
            m.quantizer.code_bits,
            codec.max_stages,
            codec.bundle.model_fingerprint,
            m.layout,
            codec.packet_format().coder,
        )

    def __post_init__(self) -> None:
        if not (
            1000 <= self.sample_rate <= 768_000
            and 1 <= self.frame_size <= 0xFFFF
            and 1 <= self.frames_per_packet <= 255
            and 1 <= self.code_bits <= 16
            and 1 <= self.max_stages <= 255
            and len(self.bundle.encode()) <= MAX_NAME
            and self.bundle.isprintable()
        ):
            raise BitstreamError("an announcement with a number out of range")
        if self.frames_per_packet * self.code_bits < 8:  # or the length would not give the stages
            raise BitrateError(f"packets need {-(-8 // self.code_bits)} frames or more, not {self.frames_per_packet}")

    @property
    def packet_samples(self) -> int:
        """Samples in a packet."""
        return self.frames_per_packet * self.frame_size

    @property
    def packet_seconds(self) -> float:
        """Duration of a packet."""
        return self.packet_samples / self.sample_rate

    @property
    def format(self) -> PacketFormat:
        """The form of the codes, of one stream."""
        return PacketFormat(1, self.code_bits, self.layout, self.coder)

    def size(self, stages: int, redundancy: int) -> int:
        """Bytes of an audio datagram, the most: coded ones take fewer, where all frames have as many stages."""
        sizes = (self.format.payload_size(n, self.frames_per_packet) for n in (stages, redundancy) if n)
        return HEADER_BYTES + sum(sizes)

    def to_bytes(self) -> bytes:
        """The datagram."""
        name = self.bundle.encode()
        body = _FACTS.pack(
            b"EDGC",
            self.fingerprint,
            self.sample_rate,
            self.frame_size,
            self.frames_per_packet,
            self.code_bits,
            self.max_stages,
            len(name),
        )
        return _control(_APP, 1, self.stream, body + name + self.model)

    def datagram(self, packet: Packet, number: int) -> bytes:
        """The datagram of a packet of one channel; `number` counts packets from 0, and on where sequences go round.

        Raises:
            BitrateError: more than `MAX_DATAGRAM` bytes.
        """
        repeated, form = packet.repeated_stages, self.format
        payload = coded = form.coded(packet)
        if payload is None:
            payload = form.pack(packet.codes) + (b"" if packet.previous is None else form.pack(packet.previous))
        if HEADER_BYTES + len(payload) > MAX_DATAGRAM or repeated > MAX_REDUNDANCY:
            raise BitrateError(
                f"packets of {HEADER_BYTES + len(payload)} bytes with {repeated} repeated stages; "
                f"at most {MAX_DATAGRAM} and {MAX_REDUNDANCY}"
            )
        kind = _FIRST_TYPE + repeated | (_MARKER if coded is not None else 0)
        timestamp = number * self.packet_samples & 0xFFFFFFFF  # of its first sample, from 0
        return _AUDIO.pack(_VERSION, kind, packet.sequence, timestamp, self.stream) + payload

    def packet(self, datagram: AudioDatagram) -> Packet:
        """The packet in an audio datagram of this stream.

        Raises:
            BitstreamError: a length or a code that this stream cannot have.
        """
        form, frames, repeated = self.format, self.frames_per_packet, datagram.redundancy
        if repeated > self.max_stages:
            raise BitstreamError("an audio packet repeats more stages than there are")
        if datagram.coded:
            if self.coder is None:
                raise BitstreamError("an audio packet is coded")
            own, before = self.coder.decode(datagram.payload, frames, repeated, frames)
            return Packet(datagram.sequence, own, before, self.layout)
        left = len(datagram.payload) - (form.payload_size(repeated, frames) if repeated else 0)
        stages = next((n for n in range(1, self.max_stages + 1) if form.payload_size(n, frames) == left), 0)
        if not stages:
            raise BitstreamError("an audio packet of a length that no stage count has")
        codes = form.unpack(datagram.payload[:left], stages, frames)
        previous = form.unpack(datagram.payload[left:], repeated, frames) if repeated else None
        return Packet(datagram.sequence, codes, previous, self.layout)


@dataclass(frozen=True)
class AudioDatagram:
    """An audio datagram whose codes are not unpacked yet."""

    stream: int
    sequence: int
    timestamp: int
    redundancy: int  # stages of the packet before
    coded: bool  # by the entropy model
    payload: bytes


@dataclass(frozen=True)
class Report:
    """What a receiver says of a stream."""

    stream: int
    lost_share: float  # of the packets since the last report
    lost: int  # since the start
    highest: int  # sequence, with its cycles
    jitter: int  # samples (RFC 3550, 6.4.1)

    def to_bytes(self) -> bytes:
        """The datagram."""
        share = min(255, round(256 * self.lost_share))
        loss = share << 24 | min(self.lost, 0x7FFFFF)
        block = _BLOCK.pack(self.stream, loss, self.highest & 0xFFFFFFFF, min(self.jitter, 0xFFFFFFFF), 0, 0)
        return _control(_REPORT, 1, self.stream ^ 1, block)


@dataclass(frozen=True)
class Goodbye:
    """The end of a stream; from a receiver, with a reason, a refusal."""

    stream: int
    reason: str = ""

    def to_bytes(self) -> bytes:
        """The datagram."""
        reason = self.reason.encode()[:255]
        return _control(_GOODBYE, 1, self.stream, bytes([len(reason)]) + reason if reason else b"")


def parse(data: bytes) -> AudioDatagram | Announcement | Report | Goodbye:
    """A datagram as what it is.

    Raises:
        BitstreamError: anything else.
    """
    if not 8 <= len(data) <= MAX_DATAGRAM or data[0] & 0xC0 != _VERSION:
        raise BitstreamError("not RTP")
    if 192 <= data[1] <= 223:
        return _parse_control(data)
    repeated = (data[1] & 0x7F) - _FIRST_TYPE
    if len(data) <= HEADER_BYTES or data[0] != _VERSION or repeated < 0:
        raise BitstreamError("not an audio packet")
    _, _, sequence, timestamp, stream = _AUDIO.unpack_from(data)
    return AudioDatagram(stream, sequence, timestamp, repeated, bool(data[1] & _MARKER), data[HEADER_BYTES:])


def _parse_control(data: bytes) -> Announcement | Report | Goodbye:
    first, kind, words, stream = _CONTROL.unpack_from(data)
    body = data[_CONTROL.size :]
    if len(data) != 4 * (words + 1) or first != _VERSION | 1:
        raise BitstreamError("a control packet of a wrong length")
    if kind == _GOODBYE:
        reason = body[1 : 1 + body[0]] if body else b""
        text = reason.decode(errors="replace")
        return Goodbye(stream, printable(text))
    if kind == _REPORT and len(body) == _BLOCK.size:
        about, loss, highest, jitter, _, _ = _BLOCK.unpack(body)
        return Report(about, (loss >> 24) / 256, loss & 0xFFFFFF, highest, jitter)
    if kind == _APP and len(body) >= _FACTS.size:
        magic, fingerprint, rate, frame_size, frames, bits, stages, length = _FACTS.unpack_from(body)
        name, model = body[_FACTS.size : _FACTS.size + length], body[_FACTS.size + length :][: len(NO_MODEL)]
        if len(model) < len(NO_MODEL):  # of a version that knew of none
            model = NO_MODEL
        if magic != b"EDGC" or len(name) != length:
            raise BitstreamError("not an announcement")
        try:
            return Announcement(stream, fingerprint, name.decode(), rate, frame_size, frames, bits, stages, model)
        except (UnicodeDecodeError, BitrateError):
            raise BitstreamError("a damaged announcement") from None
    raise BitstreamError("an unknown control packet")


def _control(kind: int, count: int, stream: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    return _CONTROL.pack(_VERSION | count, kind, 1 + len(body) // 4, stream) + body
