"""Packets: codes of a few frames, and their bytes. All numbers are little-endian.

    "P" u8  stages u8  frames u8  sequence u16  payload  CRC-16
    "R" u8  stages u8  frames u8  sequence u16  previous stages u8  previous frames u8  previous payload
        payload  CRC-16
    "C" u8  frames u8  sequence u16  coded payload  CRC-16
    "D" u8  frames u8  sequence u16  previous stages u8  previous frames u8  coded payload  CRC-16

The payload is stage-major: all frames of all streams of stage 0, then stage 1, … at ⌈log2 K⌉ bits a code; where a frame
has more lines than stages (`layout.py`), line after line, those beside the stages first, in bytes. Cutting its tail
therefore lowers the bitrate without decoding. A packet "R" repeats the first stages of the packet before it, for
networks that lose packets; files hold none. Where a bundle has an entropy model, and it pays, packets are coded by it
(`packet_coder.py`): "C" is what "P" is, and "D" repeats.
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
from .packet_coder import PacketCoder

SEQUENCE_MODULUS = 1 << 16
MAX_FRAMES = 255  # in a packet
PACKET = b"P"  # what every packet in a file begins with
PACKET_HEAD = struct.Struct("<cBBH")  # kind, stages, frames, sequence
CRC16 = struct.Struct("<H")

_REDUNDANT = b"R"
_CODED, _CODED_REDUNDANT = b"C", b"D"
_CODED_HEAD = struct.Struct("<cBH")  # kind, frames, sequence
_PREVIOUS_HEAD = struct.Struct("<BB")
_HEAD_BYTES = {
    PACKET: PACKET_HEAD.size,
    _REDUNDANT: PACKET_HEAD.size + _PREVIOUS_HEAD.size,
    _CODED: _CODED_HEAD.size,
    _CODED_REDUNDANT: _CODED_HEAD.size + _PREVIOUS_HEAD.size,
}
_LEAST_CODED = 4  # frames, repeated ones included: of 2, Python's coding costs more than the 8 to 15 % it saves


@dataclass(frozen=True, eq=False)  # arrays do not compare to one truth
class Packet:
    """Codes of a few frames: `codes` int [streams, lines, frames]; `sequence` counts packets modulo 65,536.

    A stream is a channel, or a pair of a stereo bundle. `layout` says how many lines the stages have: one each, where
    nothing is said. `previous` repeats the first stages of the packet before, [streams, lines, its frames], or is None
    (no redundancy). Frames of either may lack the last stages: -1 stands there.
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
    """How packets look as bytes: what both ends must know beforehand. `Codec.packet_format` makes one.

    With a `coder`, packets of several frames take fewer bytes. Sizes are those without: the most that is written, but
    for frames of unequal stage counts, which only a coder writes.
    """

    streams: int
    code_bits: int
    layout: Layout = PLAIN
    coder: PacketCoder | None = None

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
        sequence, previous = packet.sequence % SEQUENCE_MODULUS, packet.previous
        coded = self.coded(packet)
        if coded is not None:
            kind = _CODED if previous is None else _CODED_REDUNDANT
            return _sealed(_CODED_HEAD.pack(kind, packet.frames, sequence) + _repetition(packet) + coded)
        payload = self.pack(packet.codes)
        if previous is not None:
            payload = _repetition(packet) + self.pack(previous) + payload
        kind = PACKET if previous is None else _REDUNDANT
        return _sealed(PACKET_HEAD.pack(kind, packet.stages, packet.frames, sequence) + payload)

    def coded(self, packet: Packet) -> bytes | None:
        """The coded payload of a packet, that of what it repeats included; None where it does not pay.

        Raises:
            BitstreamError: codes that do not fit this format.
        """
        parts = [packet.codes] if packet.previous is None else [packet.previous, packet.codes]
        frames = sum(part.shape[2] for part in parts)
        whole = all((part[:, -1] >= 0).all() for part in parts)
        if self.coder is None or (whole and (frames < _LEAST_CODED or not self.coder.has_model)):
            return None
        body = self.coder.encode(packet.codes, packet.previous)
        sizes = (self.payload_size(self.layout.stages(part.shape[1]), part.shape[2]) for part in parts)
        return body if not whole or len(body) < sum(sizes) else None

    def from_bytes(self, data: bytes) -> Packet:
        """A packet of its bytes.

        Raises:
            BitstreamError: bytes that are damaged or no packet of this format.
        """
        if data[:1] in (_CODED, _CODED_REDUNDANT):
            return self._from_coded(data)
        head = self._head(data)
        previous = None
        if head.previous_frames:
            begin = PACKET_HEAD.size + _PREVIOUS_HEAD.size
            previous = self.unpack(data[begin : head.begin], head.previous_stages, head.previous_frames)
        codes = self.unpack(data[head.begin : -CRC16.size], head.stages, head.frames)
        return Packet(head.sequence, codes, previous, self.layout)

    def truncate(self, data: bytes, stages: int) -> bytes:
        """A packet's bytes with the first `stages` stages only: bytes are cut off, no code is unpacked.

        Those of a coded packet are coded anew.
        """
        if stages < 1:
            raise BitstreamError(f"a packet needs at least 1 stage, not {stages}")
        if data[:1] in (_CODED, _CODED_REDUNDANT):
            return self.to_bytes(self._from_coded(data).truncate(stages))
        head = self._head(data)
        if stages >= head.stages:
            return data
        begin = head.begin + self._side_bytes(head.frames)
        payload = clear_after(data[begin:], self._count(stages, head.frames), self.code_bits)
        payload = data[PACKET_HEAD.size : begin] + payload
        return _sealed(PACKET_HEAD.pack(data[:1], stages, head.frames, head.sequence) + payload)

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

    def _from_coded(self, data: bytes) -> Packet:
        """The packet of bytes of kind "C" or "D"."""
        if self.coder is None:
            raise BitstreamError("a packet that is coded; what reads it must know the codec")
        begin, repeated = _HEAD_BYTES[data[:1]], (0, 0)
        if len(data) < begin + CRC16.size or crc16(data[:-2]) != data[-2:]:
            raise BitstreamError("damaged packet")
        _, frames, sequence = _CODED_HEAD.unpack_from(data)
        if data[:1] == _CODED_REDUNDANT:
            repeated = _PREVIOUS_HEAD.unpack_from(data, _CODED_HEAD.size)
            if not all(repeated):
                raise BitstreamError("damaged packet")
        if not frames:
            raise BitstreamError("damaged packet")
        codes, previous = self.coder.decode(data[begin : -CRC16.size], frames, *repeated)
        return Packet(sequence, codes, previous, self.layout)

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


def payload_bytes(data: bytes) -> int:
    """Bytes of codes in a packet's bytes: all but its head and the CRC."""
    return len(data) - _HEAD_BYTES[data[:1]] - CRC16.size


def _repetition(packet: Packet) -> bytes:
    """The head of what a packet repeats."""
    return b"" if packet.previous is None else _PREVIOUS_HEAD.pack(packet.repeated_stages, packet.previous.shape[2])


def _sealed(body: bytes) -> bytes:
    return body + crc16(body)


def crc16(data: bytes | memoryview) -> bytes:
    """The CRC-16 of packets and chunks, as it is written."""
    return CRC16.pack(binascii.crc_hqx(data, 0xFFFF))
