"""Packets: codes of a few frames, and their bytes. All numbers are little-endian.

    "P" u8  stages u8  frames u8  sequence u16  payload  CRC-16
    "R" u8  stages u8  frames u8  sequence u16  previous stages u8  previous frames u8  previous payload
        payload  CRC-16

The payload is stage-major: all frames of all channels of stage 0, then stage 1, … at ⌈log2 K⌉ bits a code. Cutting its
tail therefore lowers the bitrate without decoding. A packet "R" repeats the first stages of the packet before it, for
networks that lose packets; files hold none.
"""

from __future__ import annotations

import binascii
import struct
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .bits import clear_after, pack_bits, packed_size, unpack_bits
from .errors import BitstreamError

SEQUENCE_MODULUS = 1 << 16
PACKET = b"P"  # what every packet in a file begins with
PACKET_HEAD = struct.Struct("<cBBH")  # kind, stages, frames, sequence
CRC16 = struct.Struct("<H")

_REDUNDANT = b"R"
_PREVIOUS_HEAD = struct.Struct("<BB")


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
            return _sealed(PACKET, packet.stages, packet.frames, sequence, payload)
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
            begin = PACKET_HEAD.size + _PREVIOUS_HEAD.size
            previous = self._unpacked(data[begin : head.begin], head.previous_stages, head.previous_frames)
        codes = self._unpacked(data[head.begin : -CRC16.size], head.stages, head.frames)
        return Packet(head.sequence, codes, previous)

    def truncate(self, data: bytes, stages: int) -> bytes:
        """A packet's bytes with the first `stages` stages only: bytes are cut off, no code is unpacked."""
        if stages < 1:
            raise BitstreamError(f"a packet needs at least 1 stage, not {stages}")
        head = self._head(data)
        if stages >= head.stages:
            return data
        payload = clear_after(data[head.begin :], stages * self.channels * head.frames, self.code_bits)
        payload = data[PACKET_HEAD.size : head.begin] + payload
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
        if not stages or not frames or len(data) != size or _crc16(data[:-2]) != data[-2:]:
            raise BitstreamError("damaged packet")
        return _Head(stages, frames, sequence, previous_stages, previous_frames, begin)


def _sealed(kind: bytes, stages: int, frames: int, sequence: int, payload: bytes) -> bytes:
    body = PACKET_HEAD.pack(kind, stages, frames, sequence) + payload
    return body + _crc16(body)


def _crc16(data: bytes) -> bytes:
    return CRC16.pack(binascii.crc_hqx(data, 0xFFFF))
