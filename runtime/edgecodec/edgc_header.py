"""What an .edgc file says before its packets or chunks. All numbers are little-endian.

    "EDGC"  version u8  header bytes u16  fingerprint 8  codec rate u32  frame size u16  input rate u32
    channels u8  max stages u8  bits per code u8  frames per packet or chunk u8  name length u8  name
    (version 2: channels a stream u8  side u8  widths u8  width of each stage u16  entropy model 8  gain u8 or none)
    CRC-32

Version 1 is what 0.1.0 wrote: packets (`packets.py`) of mono streams. Version 2 holds chunks (`chunks.py`).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from .chunks import Chunk, ChunkFormat
from .entropy_model import NO_MODEL
from .errors import BitstreamError
from .layout import PLAIN, Layout
from .manifest import MAX_NAME
from .packets import Packet, PacketFormat

MAGIC = b"EDGC"
VERSION = 2
MAX_GAIN = 60  # dB
MAX_PACKET = 1 << 20  # bytes of payload

_FOREIGN = {  # first bytes of other codecs' files
    b"ECDC": "an .ecdc file of encodec, whose entropy coder needs that package: decode it there, then encode the audio",
    b"\x93NUM": "a .dac file, which is a pickle and could run code: decode it with descript-audio-codec, or save its "
    "codes as .npz and give them to edgecodec codes",
}
_START = struct.Struct("<4sBH")
_FIXED = struct.Struct("<8sIHIBBBBB")
_SHAPE = struct.Struct("<BBB")
_CRC32 = struct.Struct("<I")


@dataclass(frozen=True)
class Header:
    """The header's fields."""

    fingerprint: bytes  # of the bundle, 8 bytes
    bundle: str  # its name
    codec_rate: int  # Hz
    frame_size: int  # samples at the codec rate
    sample_rate: int  # Hz, of the audio that was encoded and that decoding restores
    channels: int
    stages: int  # the most that any packet or chunk holds; stage counts within chunks are told against it
    code_bits: int
    frames_per_packet: int  # of every packet or chunk but the last
    stream_channels: int = 1  # channels that a stream of codes holds
    layout: Layout = PLAIN
    model: bytes = NO_MODEL  # fingerprint of the entropy model, 8 bytes
    gain: int = 0  # dB, by which quiet audio was made louder before it was encoded: decoding takes it back
    version: int = VERSION

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
            and len(self.fingerprint) == len(self.model) == 8
            and 0 <= self.gain <= MAX_GAIN
            and (self.version == 2 or (self.layout, self.stream_channels, self.model) == (PLAIN, 1, NO_MODEL))
            and (self.version == 2 or not self.gain)
        )
        if not in_range or self.format.payload_size(self.stages, self.frames_per_packet) > MAX_PACKET:
            raise BitstreamError("the header holds a number out of range")

    @property
    def streams(self) -> int:
        """Streams of codes."""
        return -(-self.channels // self.stream_channels)

    @property
    def format(self) -> PacketFormat:
        """The form of the packets of version 1, and the size of codes at fixed width."""
        return PacketFormat(self.streams, self.code_bits, self.layout)

    @property
    def chunk_format(self) -> ChunkFormat:
        """The form of the chunks of version 2."""
        return ChunkFormat(self.format, self.stages, self.frames_per_packet, self.model != NO_MODEL)

    @property
    def amplitude(self) -> float:
        """What samples are multiplied with before they are encoded, and divided by afterwards."""
        return float(10 ** (self.gain / 20))

    def seconds(self, frames: int) -> float:
        """How long so many frames last."""
        return frames * self.frame_size / self.codec_rate

    def payload_size(self, item: Chunk | Packet) -> int:
        """Bytes of the codes of a chunk or packet alone."""
        return len(item.body) if isinstance(item, Chunk) else self.format.payload_size(item.stages, item.frames)

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
        more, widths = b"", self.layout.widths
        if self.version > 1:
            more = _SHAPE.pack(self.stream_channels, self.layout.side, len(widths))
            more += struct.pack(f"<{len(widths)}H", *widths) + self.model
            more += bytes([self.gain] if self.gain else [])
        start = _START.pack(MAGIC, self.version, _START.size + len(fixed) + len(name) + len(more) + _CRC32.size)
        body = start + fixed + name + more
        return body + _CRC32.pack(zlib.crc32(body))


def read_header(read: Callable[[int], bytes]) -> Header:
    """The header of a file whose next bytes `read` gives, fewer only at the end.

    Raises:
        BitstreamError: no .edgc file, a newer version, or a damaged header.
    """
    start = read(_START.size)
    if len(start) < 4 or start[:4] != MAGIC:
        raise BitstreamError(_FOREIGN.get(start[:4], "not an .edgc file" if start else "empty, not an .edgc file"))
    if len(start) < _START.size:
        raise BitstreamError("truncated in the header")
    _, version, size = _START.unpack(start)
    if version > VERSION:
        raise BitstreamError(f"format version {version}, this edgecodec reads up to {VERSION}: upgrade edgecodec")
    least = _START.size + _FIXED.size + _CRC32.size
    most = least + MAX_NAME + (_SHAPE.size + 255 * 2 + len(NO_MODEL) + 1 if version > 1 else 0)
    if not least <= size <= most or version < 1:
        raise BitstreamError("damaged header")
    rest = read(size - _START.size)
    if len(rest) < size - _START.size:
        raise BitstreamError("truncated in the header")
    *numbers, name_size = _FIXED.unpack_from(rest)
    name, more = rest[_FIXED.size :][:name_size], rest[_FIXED.size + name_size : -_CRC32.size]
    seal = _CRC32.pack(zlib.crc32(start + rest[: -_CRC32.size]))
    if rest[-_CRC32.size :] != seal or len(name) + len(more) != size - least:
        raise BitstreamError("damaged header")
    try:
        text = name.decode()
    except UnicodeDecodeError:
        raise BitstreamError("damaged header") from None
    fingerprint, codec_rate, frame_size, sample_rate, channels, stages, code_bits, frames_per_packet = numbers
    stream_channels, layout, model, gain = _read_more(more, version)
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
        model,
        gain,
        version,
    )


def _read_more(data: bytes, version: int) -> tuple[int, Layout, bytes, int]:
    """Channels a stream, the lines of a frame, the fingerprint of the entropy model, and the gain in dB."""
    if version == 1 and not data:
        return 1, PLAIN, NO_MODEL, 0
    if version == 1 or len(data) < _SHAPE.size:
        raise BitstreamError("damaged header")
    stream_channels, side, count = _SHAPE.unpack_from(data)
    end = _SHAPE.size + 2 * count
    model, gain = data[end : end + len(NO_MODEL)], data[end + len(NO_MODEL) :]
    if len(model) < len(NO_MODEL) or len(gain) > 1 or gain == b"\0":
        raise BitstreamError("damaged header")
    widths = struct.unpack_from(f"<{count}H", data, _SHAPE.size)
    return stream_channels, Layout(side, widths), model, gain[0] if gain else 0
