"""Packets, and .edgc files of version 1: they come back exactly, and no damage passes for sound."""

from __future__ import annotations

import hashlib
import io
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edgecodec import BitstreamError, Codec, Packet, PacketFormat
from edgecodec.bits import clear_after, pack_bits, packed_size, unpack_bits
from edgecodec.bitstream import Header, Reader, Writer
from edgecodec.chunks import Chunk
from edgecodec.layout import Layout
from edgecodec.packets import SEQUENCE_MODULUS
from hypothesis import given, settings
from hypothesis import strategies as st

HEADER = Header(
    fingerprint=b"12345678",
    bundle="tiny",
    codec_rate=8000,
    frame_size=16,
    sample_rate=8000,
    channels=2,
    stages=4,
    code_bits=10,
    frames_per_packet=9,
    version=1,
)


def some_packets(count: int = 5) -> list[Packet]:
    rng = np.random.default_rng(0)
    return [Packet(i, rng.integers(0, 1024, (2, 1 + i % 4, 9))) for i in range(count)]


def written(packets: list[Packet], samples: int = 700, header: Header = HEADER) -> bytes:
    file = io.BytesIO()
    with Writer(file, header) as writer:
        for packet in packets:
            writer.write(packet)
        writer.samples = samples
    assert writer.bytes == len(file.getvalue())
    return file.getvalue()


def read(data: bytes) -> tuple[Reader, list[Packet]]:
    reader = Reader(io.BytesIO(data))
    return reader, list(reader)


@given(bits=st.integers(1, 16), data=st.data())
def test_bits_come_back(bits: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=50))
    packed = pack_bits(values, bits)
    assert len(packed) == packed_size(len(values), bits)
    assert unpack_bits(packed, len(values), bits).tolist() == values
    text = "".join(f"{value:0{bits}b}" for value in values)
    assert "".join(f"{byte:08b}" for byte in packed).ljust(len(text), "0")[: len(text)] == text
    kept = data.draw(st.integers(0, len(values)))
    assert clear_after(packed, kept, bits) == pack_bits(values[:kept], bits)


@given(
    channels=st.integers(1, 4),
    bits=st.integers(1, 16),
    stages=st.integers(1, 8),
    frames=st.integers(1, 12),
    sequence=st.integers(0, SEQUENCE_MODULUS - 1),
    keep=st.integers(1, 9),
)
def test_packets_come_back_and_truncate(
    channels: int, bits: int, stages: int, frames: int, sequence: int, keep: int
) -> None:
    codes = np.random.default_rng(frames).integers(0, 2**bits, (channels, stages, frames))
    form, packet = PacketFormat(channels, bits), Packet(sequence, codes)
    data = form.to_bytes(packet)
    back = form.from_bytes(data)
    assert back.sequence == sequence
    assert np.array_equal(back.codes, codes)
    shorter = form.truncate(data, keep)
    assert shorter == form.to_bytes(packet.truncate(keep))
    assert len(shorter) == 7 + (min(keep, stages) * channels * frames * bits + 7) // 8


def test_the_arithmetic_of_a_packet() -> None:
    # 24 kHz / 320 = 75 frames a second; 8 stages of 1024 make 80 bits a frame and 6 kbps.
    form = PacketFormat(streams=1, code_bits=10)
    assert form.payload_size(stages=8, frames=1) == 10
    assert 8 * form.payload_size(stages=8, frames=75) == 6000
    assert 8 * form.payload_size(stages=4, frames=75) == 3000


def test_packets_that_do_not_fit() -> None:
    form = PacketFormat(1, 4)
    for codes in (np.full((1, 1, 1), 16), np.full((1, 1, 1), -1), np.zeros((2, 1, 1), int), np.zeros((1, 1, 256), int)):
        with pytest.raises(BitstreamError):
            form.to_bytes(Packet(0, codes))
    with pytest.raises(BitstreamError):
        form.truncate(form.to_bytes(Packet(0, np.zeros((1, 1, 1), int))), 0)
    for wrong in ((0, 4), (256, 4), (1, 0), (1, 17)):
        with pytest.raises(BitstreamError):
            PacketFormat(*wrong)


@given(st.binary(max_size=40), st.booleans())
def test_bytes_that_are_no_packet(data: bytes, marked: bool) -> None:
    form = PacketFormat(1, 10)
    data = b"P" + data if marked else data
    try:
        packet = form.from_bytes(data)
    except BitstreamError:
        return
    assert form.to_bytes(packet)[:5] == data[:5]  # hypothesis found a sound packet


def test_a_file_comes_back() -> None:
    packets = some_packets()
    reader, back = read(written(packets))
    assert reader.header == HEADER
    assert reader.damage == []
    assert reader.samples == 700
    assert reader.chunks == 5
    assert reader.frames == 45
    for sent, got in zip(packets, back, strict=True):
        assert got.sequence == sent.sequence
        assert np.array_equal(got.codes, sent.codes)


def test_the_sequence_wraps() -> None:
    header = replace(HEADER, frames_per_packet=1, channels=1)
    codes = np.zeros((1, 1, 1), np.int64)
    packets = [Packet(i % SEQUENCE_MODULUS, codes) for i in range(SEQUENCE_MODULUS + 3)]
    reader, back = read(written(packets, header=header))
    assert reader.damage == []
    assert len(back) == SEQUENCE_MODULUS + 3


def test_a_pipe_may_give_a_few_bytes_at_a_time() -> None:
    class Trickle(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(size, 3) if size and size > 0 else size)

    reader = Reader(Trickle(written(some_packets())))
    assert len(list(reader)) == 5
    assert reader.damage == []


FILE = written(some_packets())
HEADER_SIZE = len(HEADER.to_bytes())


@settings(deadline=None)
@given(st.integers(0, len(FILE) - 1))
def test_truncation_anywhere_is_seen(size: int) -> None:
    if size < HEADER_SIZE:
        with pytest.raises(BitstreamError, match=r"truncated|empty|not an"):
            read(FILE[:size])
        return
    reader, packets = read(FILE[:size])
    assert reader.samples is None
    assert "trunc" in reader.damage[0]
    for got, sent in zip(packets, some_packets(), strict=False):
        assert np.array_equal(got.codes, sent.codes)


@settings(deadline=None, max_examples=300)
@given(st.sets(st.integers(0, 8 * len(FILE) - 1), min_size=1, max_size=4))
def test_flipped_bits_anywhere_are_seen(flips: set[int]) -> None:
    data = bytearray(FILE)
    for bit in flips:
        data[bit // 8] ^= 1 << bit % 8
    try:
        reader, packets = read(bytes(data))
    except BitstreamError:
        assert min(flips) < 8 * HEADER_SIZE
        return
    assert len(reader.damage) == 1
    assert reader.samples is None
    # A CRC-16 misses one damaged packet in 65,536; the CRC over all packets then tells.
    whole = [np.array_equal(got.codes, sent.codes) for got, sent in zip(packets, some_packets(), strict=False)]
    assert all(whole) or reader.damage == ["the end record contradicts the packets"]


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_read_without_surprise(data: bytes, after_header: bool) -> None:
    try:
        reader, _ = read(HEADER.to_bytes() + data if after_header else data)
    except BitstreamError:
        return
    assert len(reader.damage) == 1


def test_packets_that_were_taken_out_or_repeated_are_seen() -> None:
    packets = [PacketFormat(2, 10).to_bytes(packet) for packet in some_packets()]
    start, end = HEADER.to_bytes(), FILE[HEADER_SIZE + sum(map(len, packets)) :]
    for order in ([0, 1, 3, 4], [0, 0, 1, 2, 3, 4], [1, 0, 2, 3, 4]):
        reader, _ = read(start + b"".join(packets[i] for i in order) + end)
        assert "missing or out of order" in reader.damage[0]
    reader, got = read(start + b"".join(packets[:4]) + end)  # the last one: only the end record knows
    assert "contradicts" in reader.damage[0]
    assert len(got) == 4
    reader, _ = read(FILE + b"\0")
    assert "bytes follow" in reader.damage[0]


def test_a_length_beyond_all_packets_is_seen() -> None:
    assert read(written(some_packets(), samples=45 * 16))[0].damage == []
    assert "contradicts" in read(written(some_packets(), samples=45 * 16 + 2))[0].damage[0]
    assert "contradicts" in read(written(some_packets(), samples=2**63))[0].damage[0]


def test_newer_versions_and_other_files() -> None:
    newer = bytearray(FILE)
    newer[4] = 3
    with pytest.raises(BitstreamError, match="version 3, this edgecodec reads up to 2"):
        read(bytes(newer))
    for data in (b"RIFF\0\0\0\0WAVE", b"\0" * 100):
        with pytest.raises(BitstreamError, match=r"not an \.edgc"):
            read(data)


@pytest.mark.parametrize(
    "change",
    [
        {"codec_rate": 1},
        {"sample_rate": 2**32 - 1},
        {"frame_size": 0},
        {"channels": 0},
        {"stages": 0},
        {"code_bits": 17},
        {"frames_per_packet": 0},
        {"bundle": "x" * 65},
        {"bundle": "a\nb"},
        {"stream_channels": 2},
        {"model": b"12345678"},
        {"layout": Layout(1)},
        {"channels": 255, "stages": 255, "code_bits": 16, "frames_per_packet": 255},
    ],
)
def test_headers_out_of_range(change: dict[str, object]) -> None:
    with pytest.raises(BitstreamError, match="out of range"):
        replace(HEADER, **change)


def test_large_numbers_take_no_memory() -> None:
    header = replace(HEADER, channels=32, stages=64, frames_per_packet=255, code_bits=16)
    tracemalloc.start()
    reader, _ = read(header.to_bytes() + b"P\x40\xff\x00\x00" + b"\0" * 50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "truncated" in reader.damage[0]
    assert peak < 3 << 20


def test_the_writer_keeps_to_its_header() -> None:
    writer = Writer(io.BytesIO(), HEADER)
    with pytest.raises(BitstreamError, match="out of order"):
        writer.write(some_packets()[1])
    for shape in ((2, 5, 9), (2, 4, 10), (1, 1, 1)):
        with pytest.raises(BitstreamError):
            writer.write(Packet(0, np.zeros(shape, np.int64)))


def test_the_writer_ends_a_file_only_when_all_went_well() -> None:
    file = io.BytesIO()
    with pytest.raises(KeyError), Writer(file, HEADER) as writer:
        writer.write(some_packets()[0])
        writer.samples = 16
        raise KeyError
    reader, packets = read(file.getvalue())
    assert len(packets) == 1
    assert "no end record" in reader.damage[0]
    with pytest.raises(BitstreamError, match="length"), Writer(io.BytesIO(), HEADER) as writer:
        writer.write(some_packets()[0])


VECTOR = Path(__file__).parent / "version1.edgc"  # written by 0.1.0: 2 channels, packets of 4, 3 and 2 stages


def test_a_file_of_the_first_release(codec: Codec) -> None:
    reader, packets = read(VECTOR.read_bytes())
    assert (reader.header.version, reader.samples, reader.damage) == (1, 5512, [])
    assert (reader.header.sample_rate, reader.header.fingerprint) == (11025, codec.fingerprint)
    assert [packet.codes.shape for packet in packets] == [(2, 4, 60), (2, 3, 60), (2, 2, 60), (2, 4, 60), (2, 3, 11)]
    digest = hashlib.sha256(b"".join(packet.codes.astype(np.uint8).tobytes() for packet in packets)).hexdigest()
    assert digest == "82623b4079b3711e30673247fc04d6df7482fafd517f42a9e6a43d56759bdd45"
    assert written(packets, 5512, reader.header) == VECTOR.read_bytes()


def test_only_packets_go_into_the_first_version() -> None:
    with pytest.raises(BitstreamError, match="version 1 hold packets"):
        Writer(io.BytesIO(), HEADER).write(Chunk(0, 9, 1, (1,), b"1", told=False, mixed=False))
