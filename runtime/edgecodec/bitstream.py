"""The .edgc container: a header, packets (`packets.py`), and an end record. All numbers are little-endian.

    header  "EDGC"  version u8  header bytes u16  fingerprint 8  codec rate u32  frame size u16  input rate u32
            channels u8  max stages u8  bits per code u8  frames per packet u8  name length u8  name
            (version 2: channels a stream u8  side u8  widths u8  width of each stage u16)  CRC-32
    end     "E" u8  samples per channel at the input rate u64  packets u32  CRC-32 of all packets  CRC-32 of this record

Version 2 is written where a frame is more than one code of every stage of a mono stream (`layout.py`).

The length comes last, so that pipes need not know it beforehand. A packet's CRC finds damage where it is, the CRC of
all packets finds what a CRC-16 misses once in 65,536 times. Everything read is bounded before it is read: no number in
a file makes more memory than `MAX_PACKET` bytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol

from .errors import BitstreamError
from .layout import PLAIN, Layout
from .packets import CRC16, PACKET, PACKET_HEAD, SEQUENCE_MODULUS, Packet, PacketFormat

MAGIC = b"EDGC"
VERSION = 2
MAX_PACKET = 1 << 20  # bytes of payload
MAX_NAME = 64  # bytes of UTF-8

_END = b"E"
_FOREIGN = {  # first bytes of other codecs' files
    b"ECDC": "an .ecdc file of encodec, whose entropy coder needs that package: decode it there, then encode the audio",
    b"\x93NUM": "a .dac file, which is a pickle and could run code: decode it with descript-audio-codec, or save its "
    "codes as .npz and give them to edgecodec codes",
}
_START = struct.Struct("<4sBH")
_FIXED = struct.Struct("<8sIHIBBBBB")
_SHAPE = struct.Struct("<BBB")
_END_RECORD = struct.Struct("<cQII")
_CRC32 = struct.Struct("<I")


class Readable(Protocol):
    """What a `Reader` needs of a file or pipe."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes, none at the end."""


class Writable(Protocol):
    """What a `Writer` needs of a file or pipe."""

    def write(self, data: bytes, /) -> object:
        """Write all of `data`."""


@dataclass(frozen=True)
class Header:
    """What an .edgc file says before its packets."""

    fingerprint: bytes  # of the bundle, 8 bytes
    bundle: str  # its name
    codec_rate: int  # Hz
    frame_size: int  # samples at the codec rate
    sample_rate: int  # Hz, of the audio that was encoded and that decoding restores
    channels: int
    stages: int  # the most that any packet holds
    code_bits: int
    frames_per_packet: int  # of every packet but the last
    stream_channels: int = 1  # channels that a stream of codes holds
    layout: Layout = PLAIN

    def __post_init__(self) -> None:
        in_range = (
            1000 <= self.codec_rate <= 768_000
            and 1000 <= self.sample_rate <= 768_000
            and 1 <= self.frame_size <= 0xFFFF
            and 1 <= self.channels <= 255
            and 1 <= self.stages <= 255
            and 1 <= self.code_bits <= 16
            and 1 <= self.frames_per_packet <= 255
            and len(self.bundle.encode()) <= MAX_NAME
            and self.bundle.isprintable()
            and 1 <= self.stream_channels <= 8
            and 0 <= self.layout.side <= 255
            and (not self.layout.widths or self.stages <= len(self.layout.widths) <= 255)
            and all(1 <= width <= 0xFFFF for width in self.layout.widths)
        )
        if not in_range or self.format.payload_size(self.stages, self.frames_per_packet) > MAX_PACKET:
            raise BitstreamError("the header holds a number out of range")

    @property
    def format(self) -> PacketFormat:
        """The form of the packets."""
        return PacketFormat(-(-self.channels // self.stream_channels), self.code_bits, self.layout)

    @property
    def version(self) -> int:
        """1 where that says it all."""
        return 1 if self.layout.is_plain and self.stream_channels == 1 else 2

    def to_bytes(self) -> bytes:
        """The header's bytes."""
        name = self.bundle.encode()
        fixed = _FIXED.pack(
            self.fingerprint,
            self.codec_rate,
            self.frame_size,
            self.sample_rate,
            self.channels,
            self.stages,
            self.code_bits,
            self.frames_per_packet,
            len(name),
        )
        shape, widths = b"", self.layout.widths
        if self.version > 1:
            shape = _SHAPE.pack(self.stream_channels, self.layout.side, len(widths))
            shape += struct.pack(f"<{len(widths)}H", *widths)
        start = _START.pack(MAGIC, self.version, _START.size + len(fixed) + len(name) + len(shape) + _CRC32.size)
        body = start + fixed + name + shape
        return body + _CRC32.pack(zlib.crc32(body))


class Writer:
    """Writes an .edgc file or pipe: the header at once, then packets, then the end record, if no error comes before.

        with Writer(file, header) as writer:
            writer.write(packet)
            writer.samples = 24_000

    `samples` is the length per channel at the rate of the audio that was encoded; set it before the end.
    """

    def __init__(self, file: Writable, header: Header) -> None:
        self._file, self.header = file, header
        self.samples: int | None = None
        self._packets = self._checksum = 0
        self.payload_bytes = 0
        self.bytes = 0
        self._write(header.to_bytes())

    def write(self, packet: Packet) -> None:
        """Append a packet, whose sequence must follow the one before; what it repeats is left out."""
        header = self.header
        if packet.sequence != self._packets % SEQUENCE_MODULUS:
            raise BitstreamError(f"packet {packet.sequence} out of order")
        if packet.stages > header.stages or packet.frames > header.frames_per_packet:
            raise BitstreamError(f"codes {list(packet.codes.shape)} are more than the header announces")
        data = header.format.to_bytes(replace(packet, previous=None))
        self._checksum = zlib.crc32(data, self._checksum)
        self._packets += 1
        self.payload_bytes += header.format.payload_size(packet.stages, packet.frames)
        self._write(data)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            return
        if self.samples is None:
            raise BitstreamError("the length of the audio was not said before the end")
        record = _END_RECORD.pack(_END, self.samples, self._packets, self._checksum)
        self._write(record + _CRC32.pack(zlib.crc32(record)))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self.bytes += len(data)


class _DamageError(Exception):
    """What ended the reading, for `Reader.damage`."""


class Reader:
    """Reads an .edgc file or pipe: the header at once, then packets by iteration, up to the end or to damage.

    After the iteration, `samples` is the exact length, or None where `damage` says what is wrong and where.

    Raises:
        BitstreamError: no .edgc file, a newer version, a damaged header, or, also later, a file that cannot be read.
    """

    def __init__(self, file: Readable) -> None:
        self._file = file
        self.samples: int | None = None
        self.damage: str | None = None
        self.payload_bytes = 0
        self.bytes = 0
        self.packets = 0
        self.frames = 0
        self._checksum = 0
        self.header = self._read_header()

    def __iter__(self) -> Iterator[Packet]:
        try:
            while (packet := self._next()) is not None:
                yield packet
        except _DamageError as damage:
            self.damage = str(damage)

    def _next(self) -> Packet | None:
        where = f"packet {self.packets} (byte {self.bytes})"
        head = self._read(1)
        if head == _END:
            self._read_end(head)
            return None
        if head != PACKET:
            raise _DamageError(f"{where}: damaged" if head else f"truncated after packet {self.packets}: no end record")
        head += self._read(PACKET_HEAD.size - 1)
        if len(head) < PACKET_HEAD.size:
            raise _DamageError(f"truncated in {where}")
        _, stages, frames, sequence = PACKET_HEAD.unpack(head)
        header = self.header
        if not (1 <= stages <= header.stages and 1 <= frames <= header.frames_per_packet):
            raise _DamageError(f"{where}: damaged")
        size = header.format.payload_size(stages, frames) + CRC16.size
        body = self._read(size)
        if len(body) < size:
            raise _DamageError(f"truncated in {where}")
        try:
            packet = header.format.from_bytes(head + body)
        except BitstreamError:
            raise _DamageError(f"{where}: damaged") from None
        if sequence != self.packets % SEQUENCE_MODULUS:
            raise _DamageError(f"{where}: packets are missing or out of order")
        self._checksum = zlib.crc32(head + body, self._checksum)
        self.packets += 1
        self.frames += frames
        self.payload_bytes += size - CRC16.size
        return packet

    def _read_end(self, head: bytes) -> None:
        record = head + self._read(_END_RECORD.size - 1)
        seal = self._read(_CRC32.size)
        if seal != _CRC32.pack(zlib.crc32(record)):
            raise _DamageError("the end record is truncated or damaged")
        _, samples, packets, checksum = _END_RECORD.unpack(record)
        # A length beyond all frames is refused (one sample more is the resampler's rounding); how much the delay of the
        # codec takes off is the bundle's business.
        most = self.frames * self.header.frame_size * self.header.sample_rate / self.header.codec_rate + 1
        if packets != self.packets or checksum != self._checksum or samples > most:
            raise _DamageError("the end record contradicts the packets")
        if self._read(1):
            raise _DamageError("bytes follow the end record")
        self.samples = samples

    def _read(self, size: int) -> bytes:
        """Up to `size` bytes, fewer only at the end; a pipe may give them piece by piece."""
        data = b""
        try:
            while len(data) < size and (piece := self._file.read(size - len(data))):
                data += piece
        except OSError as error:
            raise BitstreamError(f"cannot read: {error.strerror or error}") from None
        self.bytes += len(data)
        return data

    def _read_header(self) -> Header:
        start = self._read(_START.size)
        if len(start) < 4 or start[:4] != MAGIC:
            raise BitstreamError(_FOREIGN.get(start[:4], "not an .edgc file" if start else "empty, not an .edgc file"))
        if len(start) < _START.size:
            raise BitstreamError("truncated in the header")
        _, version, size = _START.unpack(start)
        if version > VERSION:
            raise BitstreamError(f"format version {version}, this edgecodec reads up to {VERSION}: upgrade edgecodec")
        least = _START.size + _FIXED.size + _CRC32.size
        most = least + MAX_NAME + (_SHAPE.size + 255 * 2 if version > 1 else 0)
        if not least <= size <= most or version < 1:
            raise BitstreamError("damaged header")
        rest = self._read(size - _START.size)
        if len(rest) < size - _START.size:
            raise BitstreamError("truncated in the header")
        body = start + rest[: -_CRC32.size]
        *numbers, name_size = _FIXED.unpack_from(rest)
        name, shape = rest[_FIXED.size :][:name_size], rest[_FIXED.size + name_size : -_CRC32.size]
        if rest[-_CRC32.size :] != _CRC32.pack(zlib.crc32(body)) or len(name) + len(shape) != size - least:
            raise BitstreamError("damaged header")
        try:
            text = name.decode()
        except UnicodeDecodeError:
            raise BitstreamError("damaged header") from None
        fingerprint, codec_rate, frame_size, sample_rate, channels, stages, code_bits, frames_per_packet = numbers
        stream_channels, layout = _read_shape(shape, version)
        return Header(
            fingerprint,
            text,
            codec_rate,
            frame_size,
            sample_rate,
            channels,
            stages,
            code_bits,
            frames_per_packet,
            stream_channels,
            layout,
        )


def _read_shape(data: bytes, version: int) -> tuple[int, Layout]:
    """Channels a stream, and the lines of a frame."""
    if version == 1 and not data:
        return 1, PLAIN
    if version == 1 or len(data) < _SHAPE.size:
        raise BitstreamError("damaged header")
    stream_channels, side, count = _SHAPE.unpack_from(data)
    if len(data) != _SHAPE.size + 2 * count:
        raise BitstreamError("damaged header")
    return stream_channels, Layout(side, struct.unpack_from(f"<{count}H", data, _SHAPE.size))
