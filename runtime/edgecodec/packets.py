"""Packets: codes of a few frames, and their bytes. All numbers are little-endian.

    "P" u8  stages u8  frames u8  sequence u16  payload  CRC-16
    "R" u8  stages u8  frames u8  sequence u16  previous stages u8  previous frames u8  previous payload
        payload  CRC-16

The payload is stage-major: all frames of all streams of stage 0, then stage 1, … at ⌈log2 K⌉ bits a code; where a frame
has more lines than stages (`layout.py`), line after line, those beside the stages first, in bytes. Cutting its tail
therefore lowers the bitrate without decoding. A packet "R" repeats the first stages of the packet before it, for
networks that lose packets; files hold none.
"""

from __future__ import annotations

import binascii
import struct
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .bits import clear_after, pack_bits, packed_size, unpack_bits
from .errors import BitstreamError
from .layout import PLAIN, SIDE_BITS, Layout

SEQUENCE_MODULUS = 1 << 16
MAX_FRAMES = 255  # in a packet
PACKET = b"P"  # what every packet in a file begins with
PACKET_HEAD = struct.Struct("<cBBH")  # kind, stages, frames, sequence
CRC16 = struct.Struct("<H")

_REDUNDANT = b"R"
_PREVIOUS_HEAD = struct.Struct("<BB")


@dataclass(frozen=True, eq=False)  # arrays do not compare to one truth
class Packet:
    """Codes of a few frames: `codes` int [streams, lines, frames]; `sequence` counts packets modulo 65,536.

    A stream is a channel, or a pair of a stereo bundle. `layout` says how many lines the stages have: one each, where
    nothing is said. `previous` repeats the first stages of the packet before, [streams, lines, its frames], or is None
    (no redundancy).
    """

    sequence: int
    codes: NDArray[np.int64]
    previous: NDArray[np.int64] | None = None
    layout: Layout = PLAIN

    @property
    def stages(self) -> int:
        """Stages in this packet."""
        return self.layout.stages(self.codes.shape[1])

    @property
    def repeated_stages(self) -> int:
        """Stages of the packet before that this one repeats."""
        return 0 if self.previous is None else self.layout.stages(self.previous.shape[1])

    @property
    def frames(self) -> int:
        """Code frames in this packet."""
        return int(self.codes.shape[2])

    def truncate(self, stages: int) -> Packet:
        """The same packet with its first `stages` stages; a packet that has no more is left as it is."""
        if stages < 1:
            raise BitstreamError(f"a packet needs at least 1 stage, not {stages}")
        if stages >= self.stages:
            return self
        return replace(self, codes=self.codes[:, : self.layout.lines(stages)])


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

    streams: int
    code_bits: int
    layout: Layout = PLAIN

    def __post_init__(self) -> None:
        if not (1 <= self.streams <= 255 and 1 <= self.code_bits <= 16):
            raise BitstreamError(f"no packet has {self.streams} streams and codes of {self.code_bits} bits")

    def payload_size(self, stages: int, frames: int) -> int:
        """Bytes of payload."""
        return self._side_bytes(frames) + packed_size(self._count(stages, frames), self.code_bits)

    def size(self, stages: int, frames: int) -> int:
        """Bytes of a packet that repeats nothing."""
        return PACKET_HEAD.size + self.payload_size(stages, frames) + CRC16.size

    def to_bytes(self, packet: Packet) -> bytes:
        """A packet as bytes.

        Raises:
            BitstreamError: codes that do not fit this format.
        """
        payload = self.pack(packet.codes)
        sequence = packet.sequence % SEQUENCE_MODULUS
        if packet.previous is None:
            return _sealed(PACKET, packet.stages, packet.frames, sequence, payload)
        head = _PREVIOUS_HEAD.pack(packet.repeated_stages, packet.previous.shape[2])
        payload = head + self.pack(packet.previous) + payload
        return _sealed(_REDUNDANT, packet.stages, packet.frames, sequence, payload)

    def from_bytes(self, data: bytes) -> Packet:
        """A packet of its bytes.

        Raises:
            BitstreamError: bytes that are damaged or no packet of this format.
        """
        head = self._head(data)
        previous = None
        if head.previous_frames:
            begin = PACKET_HEAD.size + _PREVIOUS_HEAD.size
            previous = self.unpack(data[begin : head.begin], head.previous_stages, head.previous_frames)
        codes = self.unpack(data[head.begin : -CRC16.size], head.stages, head.frames)
        return Packet(head.sequence, codes, previous, self.layout)

    def truncate(self, data: bytes, stages: int) -> bytes:
        """A packet's bytes with the first `stages` stages only: bytes are cut off, no code is unpacked."""
        if stages < 1:
            raise BitstreamError(f"a packet needs at least 1 stage, not {stages}")
        head = self._head(data)
        if stages >= head.stages:
            return data
        begin = head.begin + self._side_bytes(head.frames)
        payload = clear_after(data[begin:], self._count(stages, head.frames), self.code_bits)
        payload = data[PACKET_HEAD.size : begin] + payload
        return _sealed(data[:1], stages, head.frames, head.sequence, payload)

    def pack(self, codes: NDArray[np.int64]) -> bytes:
        """The payload of codes [streams, lines, frames].

        Raises:
            BitstreamError: codes that do not fit this format.
        """
        streams, lines, frames = codes.shape
        if streams != self.streams or not (1 <= self.layout.stages(lines) <= 255 and 1 <= frames <= MAX_FRAMES):
            raise BitstreamError(f"codes {list(codes.shape)} do not fit packets of {self.streams} streams")
        values = codes.transpose(1, 0, 2).ravel().tolist()
        side = self._side_bytes(frames)
        if min(values) < 0 or max(values[side:]) >> self.code_bits or (side and max(values[:side]) >> SIDE_BITS):
            raise BitstreamError(f"a code does not fit into {self.code_bits} bits")
        return bytes(values[:side]) + pack_bits(values[side:], self.code_bits)

    def unpack(self, payload: bytes, stages: int, frames: int) -> NDArray[np.int64]:
        """The codes of a payload, [streams, lines, frames]."""
        side = self._side_bytes(frames)
        codes = unpack_bits(payload[side:], self._count(stages, frames), self.code_bits)
        if side:
            codes = np.concatenate([np.frombuffer(payload[:side], np.uint8), codes])
        shaped: NDArray[np.int64] = codes.reshape(-1, self.streams, frames).transpose(1, 0, 2)
        return shaped

    def _side_bytes(self, frames: int) -> int:
        return self.layout.side * self.streams * frames

    def _count(self, stages: int, frames: int) -> int:
        """Codes of so many stages and frames."""
        return self.layout.codes(stages) * self.streams * frames

    def _head(self, data: bytes) -> _Head:
        """The head of bytes that are exactly one whole packet."""
        if len(data) < PACKET_HEAD.size or data[:1] not in (PACKET, _REDUNDANT):
            raise BitstreamError("not a packet")
        kind, stages, frames, sequence = PACKET_HEAD.unpack_from(data)
        begin, previous_stages, previous_frames = PACKET_HEAD.size, 0, 0
        if kind == _REDUNDANT:
            if len(data) < begin + _PREVIOUS_HEAD.size:
                raise BitstreamError("damaged packet")
            previous_stages, previous_frames = _PREVIOUS_HEAD.unpack_from(data, begin)
            if not previous_stages or not previous_frames:
                raise BitstreamError("damaged packet")
            begin += _PREVIOUS_HEAD.size + self.payload_size(previous_stages, previous_frames)
        size = begin + self.payload_size(stages, frames) + CRC16.size
        if not stages or not frames or len(data) != size or crc16(data[:-2]) != data[-2:]:
            raise BitstreamError("damaged packet")
        return _Head(stages, frames, sequence, previous_stages, previous_frames, begin)


def _sealed(kind: bytes, stages: int, frames: int, sequence: int, payload: bytes) -> bytes:
    body = PACKET_HEAD.pack(kind, stages, frames, sequence) + payload
    return body + crc16(body)


def crc16(data: bytes | memoryview) -> bytes:
    """The CRC-16 of packets and chunks, as it is written."""
    return CRC16.pack(binascii.crc_hqx(data, 0xFFFF))
