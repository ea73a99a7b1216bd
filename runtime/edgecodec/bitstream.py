"""Packets as bytes, and the .edgc container that holds them. All numbers are little-endian.

    file    header, packets, end record

    header  "EDGC"  version u8  header bytes u16  fingerprint 8  codec rate u32  frame size u16  input rate u32
            channels u8  max stages u8  bits per code u8  frames per packet u8  name length u8  name  CRC-32
    packet  "P" u8  stages u8  frames u8  sequence u16  payload  CRC-16
            "R" u8  stages u8  frames u8  sequence u16  previous stages u8  previous frames u8  previous payload
            payload  CRC-16
    end     "E" u8  samples per channel at the input rate u64  packets u32  CRC-32 of all packets  CRC-32 of this record

The payload is stage-major: all frames of all channels of stage 0, then stage 1, … at ⌈log2 K⌉ bits a code. Cutting its
tail therefore lowers the bitrate without decoding. A packet "R" repeats the first stages of the packet before it, for
networks that lose packets; files hold none. The length comes last, so that pipes need not know it beforehand.
A packet's CRC finds damage where it is, the CRC of all packets finds what a CRC-16 misses once in 65,536 times.
Everything read is bounded before it is read: no number in a file makes more memory than `MAX_PACKET` bytes.
"""

from __future__ import annotations

import binascii
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .bits import clear_after, pack_bits, packed_size, unpack_bits
from .errors import BitstreamError

MAGIC = b"EDGC"
VERSION = 1
SEQUENCE_MODULUS = 1 << 16
MAX_PACKET = 1 << 20  # bytes of payload
MAX_NAME = 64  # bytes of UTF-8

_PACKET, _REDUNDANT, _END = b"P", b"R", b"E"
_START = struct.Struct("<4sBH")
_FIXED = struct.Struct("<8sIHIBBBBB")
_PACKET_HEAD = struct.Struct("<cBBH")
_PREVIOUS_HEAD = struct.Struct("<BB")
_END_RECORD = struct.Struct("<cQII")
_CRC16, _CRC32 = struct.Struct("<H"), struct.Struct("<I")


@dataclass(frozen=True, eq=False)  # arrays do not compare to one truth
class Packet:
    """Codes of a few frames: `codes` int [channels, n_stages, frames]; `sequence` counts packets modulo 65,536.

    `previous` repeats the first stages of the packet before, [channels, k, its frames], or is None (no redundancy).
    """

    sequence: int
    codes: NDArray[np.int64]
    previous: NDArray[np.int64] | None = None

    @property
    def stages(self) -> int:
        """Stages in this packet."""
        return int(self.codes.shape[1])

    @property
    def frames(self) -> int:
        """Code frames in this packet."""
        return int(self.codes.shape[2])

    def truncate(self, stages: int) -> Packet:
        """The same packet with its first `stages` stages; a packet that has no more is left as it is."""
        if stages < 1:
            raise BitstreamError(f"a packet needs at least 1 stage, not {stages}")
        return Packet(self.sequence, self.codes[:, :stages], self.previous)


class _Head(NamedTuple):
    stages: int
    frames: int
    sequence: int
    previous_stages: int  # 0 where nothing is repeated
    previous_frames: int
    begin: int  # of the packet's own payload


@dataclass(frozen=True)
class PacketFormat:
    """How packets look as bytes: what both ends must know beforehand. `Codec.packet_format` makes one."""

    channels: int
    code_bits: int

    def __post_init__(self) -> None:
        if not (1 <= self.channels <= 255 and 1 <= self.code_bits <= 16):
            raise BitstreamError(f"no packet has {self.channels} channels and codes of {self.code_bits} bits")

    def payload_size(self, stages: int, frames: int) -> int:
        """Bytes of payload."""
        return packed_size(stages * self.channels * frames, self.code_bits)

    def to_bytes(self, packet: Packet) -> bytes:
        """A packet as bytes.

        Raises:
            BitstreamError: codes that do not fit this format.
        """
        payload = self._packed(packet.codes)
        sequence = packet.sequence % SEQUENCE_MODULUS
        if packet.previous is None:
            return _sealed(_PACKET, packet.stages, packet.frames, sequence, payload)
        _, stages, frames = packet.previous.shape
        payload = self._packed(packet.previous) + payload
        payload = _PREVIOUS_HEAD.pack(stages, frames) + payload
        return _sealed(_REDUNDANT, packet.stages, packet.frames, sequence, payload)

    def from_bytes(self, data: bytes) -> Packet:
        """A packet of its bytes.

        Raises:
            BitstreamError: bytes that are damaged or no packet of this format.
        """
        head = self._head(data)
        previous = None
        if head.previous_frames:
            begin = _PACKET_HEAD.size + _PREVIOUS_HEAD.size
            previous = self._unpacked(data[begin : head.begin], head.previous_stages, head.previous_frames)
        codes = self._unpacked(data[head.begin : -_CRC16.size], head.stages, head.frames)
        return Packet(head.sequence, codes, previous)

    def truncate(self, data: bytes, stages: int) -> bytes:
        """A packet's bytes with the first `stages` stages only: bytes are cut off, no code is unpacked."""
        if stages < 1:
            raise BitstreamError(f"a packet needs at least 1 stage, not {stages}")
        head = self._head(data)
        if stages >= head.stages:
            return data
        payload = clear_after(data[head.begin :], stages * self.channels * head.frames, self.code_bits)
        payload = data[_PACKET_HEAD.size : head.begin] + payload
        return _sealed(data[:1], stages, head.frames, head.sequence, payload)

    def _packed(self, codes: NDArray[np.int64]) -> bytes:
        channels, stages, frames = codes.shape
        if channels != self.channels or not (1 <= stages <= 255 and 1 <= frames <= 255):
            raise BitstreamError(f"codes {list(codes.shape)} do not fit packets of {self.channels} channels")
        values = codes.transpose(1, 0, 2).ravel().tolist()
        if min(values) < 0 or max(values) >> self.code_bits:
            raise BitstreamError(f"a code does not fit into {self.code_bits} bits")
        return pack_bits(values, self.code_bits)

    def _unpacked(self, payload: bytes, stages: int, frames: int) -> NDArray[np.int64]:
        codes = unpack_bits(payload, stages * self.channels * frames, self.code_bits)
        shaped: NDArray[np.int64] = codes.reshape(stages, self.channels, frames).transpose(1, 0, 2)
        return shaped

    def _head(self, data: bytes) -> _Head:
        """The head of bytes that are exactly one sound packet."""
        if len(data) < _PACKET_HEAD.size or data[:1] not in (_PACKET, _REDUNDANT):
            raise BitstreamError("not a packet")
        kind, stages, frames, sequence = _PACKET_HEAD.unpack_from(data)
        begin, previous_stages, previous_frames = _PACKET_HEAD.size, 0, 0
        if kind == _REDUNDANT:
            if len(data) < begin + _PREVIOUS_HEAD.size:
                raise BitstreamError("damaged packet")
            previous_stages, previous_frames = _PREVIOUS_HEAD.unpack_from(data, begin)
            if not previous_stages or not previous_frames:
                raise BitstreamError("damaged packet")
            begin += _PREVIOUS_HEAD.size + self.payload_size(previous_stages, previous_frames)
        size = begin + self.payload_size(stages, frames) + _CRC16.size
        if not stages or not frames or len(data) != size or _crc16(data[:-2]) != data[-2:]:
            raise BitstreamError("damaged packet")
        return _Head(stages, frames, sequence, previous_stages, previous_frames, begin)


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

    def __post_init__(self) -> None:
        sound = (
            1000 <= self.codec_rate <= 768_000
            and 1000 <= self.sample_rate <= 768_000
            and 1 <= self.frame_size <= 0xFFFF
            and 1 <= self.channels <= 255
            and 1 <= self.stages <= 255
            and 1 <= self.code_bits <= 16
            and 1 <= self.frames_per_packet <= 255
            and len(self.bundle.encode()) <= MAX_NAME
            and self.bundle.isprintable()
        )
        if not sound or self.format.payload_size(self.stages, self.frames_per_packet) > MAX_PACKET:
            raise BitstreamError("the header holds a number out of range")

    @property
    def format(self) -> PacketFormat:
        """The form of the packets."""
        return PacketFormat(self.channels, self.code_bits)

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
        start = _START.pack(MAGIC, VERSION, _START.size + len(fixed) + len(name) + _CRC32.size)
        body = start + fixed + name
        return body + _CRC32.pack(zlib.crc32(body))


class Writer:
    """Writes an .edgc file or pipe: the header at once, then packets, then `finish`."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self._file, self.header = file, header
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
        data = header.format.to_bytes(Packet(packet.sequence, packet.codes))
        self._checksum = zlib.crc32(data, self._checksum)
        self._packets += 1
        self.payload_bytes += header.format.payload_size(packet.stages, packet.frames)
        self._write(data)

    def finish(self, samples: int) -> None:
        """Write the end record: `samples` per channel, at the input's rate."""
        record = _END_RECORD.pack(_END, samples, self._packets, self._checksum)
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
        BitstreamError: no .edgc file, a newer version, or a damaged header.
    """

    def __init__(self, file: BinaryIO) -> None:
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
        if head != _PACKET:
            raise _DamageError(f"{where}: damaged" if head else f"truncated after packet {self.packets}: no end record")
        head += self._read(_PACKET_HEAD.size - 1)
        if len(head) < _PACKET_HEAD.size:
            raise _DamageError(f"truncated in {where}")
        _, stages, frames, sequence = _PACKET_HEAD.unpack(head)
        header = self.header
        if not (1 <= stages <= header.stages and 1 <= frames <= header.frames_per_packet):
            raise _DamageError(f"{where}: damaged")
        size = header.format.payload_size(stages, frames) + _CRC16.size
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
        self.payload_bytes += size - _CRC16.size
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
        while len(data) < size and (piece := self._file.read(size - len(data))):
            data += piece
        self.bytes += len(data)
        return data

    def _read_header(self) -> Header:
        start = self._read(_START.size)
        if len(start) < 4 or start[:4] != MAGIC:
            raise BitstreamError("not an .edgc file" if start else "empty, not an .edgc file")
        if len(start) < _START.size:
            raise BitstreamError("truncated in the header")
        _, version, size = _START.unpack(start)
        if version > VERSION:
            raise BitstreamError(f"format version {version}, this edgecodec reads up to {VERSION}: upgrade edgecodec")
        least = _START.size + _FIXED.size + _CRC32.size
        if not least <= size <= least + MAX_NAME or version < 1:
            raise BitstreamError("damaged header")
        rest = self._read(size - _START.size)
        if len(rest) < size - _START.size:
            raise BitstreamError("truncated in the header")
        body = start + rest[: -_CRC32.size]
        *numbers, name_size = _FIXED.unpack_from(rest)
        name = rest[_FIXED.size : -_CRC32.size]
        if rest[-_CRC32.size :] != _CRC32.pack(zlib.crc32(body)) or len(name) != name_size:
            raise BitstreamError("damaged header")
        try:
            text = name.decode()
        except UnicodeDecodeError:
            raise BitstreamError("damaged header") from None
        fingerprint, codec_rate, frame_size, sample_rate, channels, stages, code_bits, frames_per_packet = numbers
        return Header(
            fingerprint, text, codec_rate, frame_size, sample_rate, channels, stages, code_bits, frames_per_packet
        )


def _sealed(kind: bytes, stages: int, frames: int, sequence: int, payload: bytes) -> bytes:
    body = _PACKET_HEAD.pack(kind, stages, frames, sequence) + payload
    return body + _crc16(body)


def _crc16(data: bytes) -> bytes:
    return _CRC16.pack(binascii.crc_hqx(data, 0xFFFF))
