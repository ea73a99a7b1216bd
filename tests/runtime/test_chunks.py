"""Chunks and .edgc files of version 2: they come back exactly, and damage costs no more than the chunk it lies in."""

from __future__ import annotations

import io
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from edgecodec import BitstreamError, Packet
from edgecodec.bitstream import Header, Reader, Writer
from edgecodec.chunk_coder import ChunkCoder
from edgecodec.chunk_search import MOST_MISSING, EndRecord
from edgecodec.chunks import Chunk, cuts, is_sound
from edgecodec.entropy_model import EntropyModel
from edgecodec.layout import Layout
from edgecodec.packets import SEQUENCE_MODULUS
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bitstream import HEADER as FIRST
from test_bitstream import written as written_file
from test_code_coder import random_arrays, random_codes

HEADER = replace(FIRST, stages=3, code_bits=4, frames_per_packet=6, model=b"abcdefgh", version=2)
MODEL = EntropyModel(random_arrays(3, 16, 0))
CODER = ChunkCoder(HEADER, MODEL)
COUNT = 6


def some_packets(count: int = COUNT, last_frames: int = 4) -> list[Packet]:
    """Stage counts that are even or mixed, chunk by chunk; the last one is short."""
    sizes = [6] * (count - 1) + [last_frames]
    return [Packet(i, random_codes(Layout(), 2, 1 + i % 3, size, 16, i % 2 == 0, i)) for i, size in enumerate(sizes)]


def written(chunks: list[Chunk], samples: int = 500, header: Header = HEADER) -> bytes:
    return written_file(chunks, samples, header)


class Pipe:
    """What can be read but not sought, some bytes at a time."""

    def __init__(self, data: bytes, most: int = 1 << 20) -> None:
        self._data, self._most, self.given = data, most, 0

    def read(self, size: int) -> bytes:
        piece = self._data[self.given : self.given + min(size, self._most)]
        self.given += len(piece)
        return piece

    def read1(self, size: int) -> bytes:
        return self.read(size)


def read(data: bytes, source: Callable = io.BytesIO) -> tuple[Reader, list[Chunk]]:
    reader = Reader(source(data))
    return reader, list(reader)


CHUNKS = CODER.encode(some_packets())
FILE = written(CHUNKS)
START = len(HEADER.to_bytes())
SIZES = [len(HEADER.chunk_format.to_bytes(chunk)) for chunk in CHUNKS]
BORDERS = START + np.cumsum([0, *SIZES])  # where chunks and the end record begin


# --- chunks


@settings(max_examples=60, deadline=None)
@given(
    widths=st.sampled_from([(), (1, 2, 4), (3, 3)]),
    side=st.integers(0, 2),
    bits=st.sampled_from([1, 4, 10]),
    streams=st.integers(1, 3),
    frames=st.integers(1, 9),
    mixed=st.booleans(),
    more=st.integers(0, 2),
    told=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_chunks_come_back_and_are_trimmed(
    widths: tuple[int, ...],
    side: int,
    bits: int,
    streams: int,
    frames: int,
    mixed: bool,
    more: int,
    told: bool,
    seed: int,
) -> None:
    """A trimmed chunk holds the first stages of every frame, also where the counts were told of more."""
    layout, entries = Layout(side, widths), 1 << bits
    most = len(widths) or 5
    stages = max(1, most - more)
    model = EntropyModel(random_arrays(most, entries, seed)) if told else None
    header = replace(
        HEADER, channels=streams, stages=most, code_bits=bits, frames_per_packet=9, layout=layout,
        model=b"abcdefgh" if told else bytes(8),
    )  # fmt: skip
    coder, form = ChunkCoder(header, model), header.chunk_format
    codes = random_codes(layout, streams, stages, frames, entries, mixed, seed)
    (chunk,) = coder.encode([Packet(seed, codes)])
    data = form.to_bytes(chunk)
    assert form.from_bytes(data) == chunk
    assert len(data) <= form.largest
    assert chunk.trim(5).stages == min(stages, 5) if stages < 6 else 4
    for n in cuts(stages):
        cut = form.from_bytes(form.to_bytes(chunk.trim(n)))
        assert len(form.to_bytes(cut)) == form.size(chunk, n)
        (packet,) = coder.decode([cut])
        assert packet.sequence == seed
        counts = np.minimum(layout.counts(codes), n)
        assert np.array_equal(packet.codes, layout.cut(codes, counts)[:, : layout.lines(n)])
        assert np.array_equal(coder.counts(cut), counts)


def test_the_model_is_used_where_it_is_shorter() -> None:
    """Codes that it expects, and codes of which it is sure that they do not come: those take their bits."""
    arrays = random_arrays(1, 1024, 0, following=0)
    for name in ("group", "member"):
        arrays[f"{name}_weight"][:] = 0
        arrays[f"{name}_bias"][:] = 0
    arrays["group_bias"][:, 0] = arrays["member_bias"][:, 0] = 1 << 14
    model, header = EntropyModel(arrays), replace(HEADER, channels=1, stages=1, code_bits=10, frames_per_packet=75)
    coder, sure = ChunkCoder(header, model), int(arrays["order"][0, 0])
    (expected,) = coder.encode([Packet(0, np.full((1, 1, 75), sure))])
    (unlikely,) = coder.encode([Packet(1, (np.arange(75)[None, None] + sure + 1) % 1024)])
    assert (expected.told, unlikely.told) == (True, False)
    assert len(expected.body) <= 2 and len(unlikely.body) <= 95
    for chunk in coder.decode([unlikely, expected, unlikely]):
        assert chunk.frames == 75
    assert [p.sequence for p in coder.decode([unlikely, expected, unlikely])] == [1, 0, 1]
    with pytest.raises(BitstreamError, match="entropy model"):
        ChunkCoder(header).decode([expected])


def test_without_a_model_a_second_is_smaller_than_in_packets() -> None:
    header = replace(HEADER, channels=1, stages=8, code_bits=10, frames_per_packet=75, model=bytes(8))
    (chunk,) = ChunkCoder(header).encode([Packet(0, np.random.default_rng(0).integers(0, 1024, (1, 8, 75)))])
    assert len(chunk.body) <= 751
    assert len(header.chunk_format.to_bytes(chunk)) <= 751 + 14  # two packets of half a second have 7 bytes each


def test_codes_that_do_not_fit() -> None:
    good = np.zeros((2, 3, 6), np.int64)
    coder = ChunkCoder(replace(HEADER, model=bytes(8)))
    for wrong in (good[:1], good[:, :, :0], np.zeros((2, 4, 6)), np.zeros((2, 3, 7)), good + 16, good - 1, good - 2):
        with pytest.raises(BitstreamError):
            coder.encode([Packet(0, np.asarray(wrong, np.int64))])
    side = ChunkCoder(replace(HEADER, model=bytes(8), layout=Layout(1)))
    with pytest.raises(BitstreamError):
        side.encode([Packet(0, np.full((2, 2, 6), 256) * (np.arange(2) == 0)[:, None])])
    with pytest.raises(BitstreamError, match="at least 1 stage"):
        CHUNKS[0].trim(0)


@pytest.mark.parametrize(
    "change",
    [{"sizes": (1, 2)}, {"frames": 7}, {"frames": 0}, {"sizes": ()}, {"sizes": (1,) * 4}, {"stages": 4}, {"stages": 0}],
)
def test_chunks_that_contradict_the_header(change: dict) -> None:
    with pytest.raises(BitstreamError):
        HEADER.chunk_format.to_bytes(replace(CHUNKS[0], **change))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60), st.integers(0xA0, 0xA7))
def test_bytes_that_are_no_chunk(data: bytes, kind: int) -> None:
    form = HEADER.chunk_format
    try:
        chunk = form.from_bytes(bytes([kind]) + data)
    except BitstreamError:
        return
    assert form.to_bytes(chunk) == bytes([kind]) + data  # hypothesis found a sound chunk


# --- files


def test_a_file_comes_back() -> None:
    for source in (io.BytesIO, Pipe, lambda data: Pipe(data, 3)):
        reader, chunks = read(FILE, source)
        assert (reader.header, reader.damage, reader.samples) == (HEADER, [], 500)
        assert (reader.chunks, reader.frames, reader.bytes) == (COUNT, 34, len(FILE))
        assert chunks == CHUNKS
    for sent, got in zip(some_packets(), CODER.decode(chunks), strict=True):
        assert got.sequence == sent.sequence
        assert np.array_equal(got.codes, sent.codes)


def test_a_pipe_is_read_as_far_as_it_goes() -> None:
    """A chunk is given as soon as it is there; one that is not there yet is said to be waited for."""
    pipe = Pipe(FILE[: BORDERS[1]] + FILE[BORDERS[1] :][:3], int(BORDERS[1]))
    reader = Reader(pipe)
    assert next(iter(reader)) == CHUNKS[0]
    assert pipe.given == BORDERS[1] and reader.waits()
    reader = Reader(Pipe(FILE[: BORDERS[2]]))
    next(iter(reader))
    assert not reader.waits()
    next(iter(reader))
    assert reader.waits()
    assert not Reader(io.BytesIO(FILE)).waits()


def test_the_sequence_wraps() -> None:
    header = replace(HEADER, frames_per_packet=1, channels=1)
    chunks = [Chunk(i % SEQUENCE_MODULUS, 1, 1, (1,), b"1", False, False) for i in range(SEQUENCE_MODULUS + 3)]
    data = written(chunks, header=header)
    reader, back = read(data)
    assert reader.damage == []
    assert len(back) == SEQUENCE_MODULUS + 3
    reader = Reader(io.BytesIO(data))
    reader.skip_to(SEQUENCE_MODULUS + 1)
    assert [chunk.sequence for chunk in reader] == [1, 2]


def test_the_writer_keeps_to_its_header() -> None:
    writer = Writer(io.BytesIO(), HEADER)
    with pytest.raises(BitstreamError, match="out of order"):
        writer.write(CHUNKS[1])
    with pytest.raises(BitstreamError, match="hold chunks"):
        writer.write(some_packets()[0])
    with pytest.raises(BitstreamError, match="more than"):
        Writer(io.BytesIO(), replace(HEADER, stages=1)).write(replace(CHUNKS[2], sequence=0))
    short = replace(CHUNKS[-1], sequence=0)
    writer.write(short)
    with pytest.raises(BitstreamError, match="out of order"):  # what follows would not stand at its time
        writer.write(CHUNKS[1])
    with pytest.raises(BitstreamError, match="length"), Writer(io.BytesIO(), HEADER):
        pass


# --- damage


def check(data: bytes, given_chunks: list[Chunk], reader: Reader) -> set[int]:
    """The chunks that are lost; those that came are in order, and what they were."""
    found = [chunk.sequence for chunk in given_chunks]
    assert found == sorted(set(found))
    if reader.damage != ["the end record contradicts the chunks"]:  # a CRC-16 misses one in 65,536
        assert all(chunk == CHUNKS[chunk.sequence] for chunk in given_chunks)
    if data != FILE:
        assert reader.damage
    return set(range(COUNT)) - set(found)


def test_one_flipped_bit_anywhere_costs_one_chunk() -> None:
    for bit in range(8 * START, 8 * len(FILE)):
        data = bytearray(FILE)
        data[bit // 8] ^= 1 << bit % 8
        reader, chunks = read(bytes(data))
        hit = int(np.searchsorted(BORDERS, bit // 8, "right")) - 1
        assert check(bytes(data), chunks, reader) == ({hit} if hit < COUNT else set()), bit
        assert len(reader.damage) == 1
        if hit < COUNT:
            assert reader.damage[0] == f"chunk {hit} (byte {BORDERS[hit]}): damaged"
            assert (reader.samples, reader.lost_at_end) == (500, hit == COUNT - 1)
        else:
            assert reader.samples is None
            assert "end record" in reader.damage[0] or "nothing sound" in reader.damage[0]


def test_one_flipped_bit_in_the_header_is_refused() -> None:
    for bit in range(8 * START):
        data = bytearray(FILE)
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BitstreamError):
            read(bytes(data))


def test_a_cut_anywhere_costs_the_chunk_it_lies_in() -> None:
    for size in range(START, len(FILE)):
        reader, chunks = read(FILE[:size])
        whole = int(np.searchsorted(BORDERS, size, "right")) - 1
        assert chunks == CHUNKS[:whole]
        assert reader.samples is None
        assert len(reader.damage) == 1 and "trunc" in reader.damage[0]
    for size in range(START):
        with pytest.raises(BitstreamError, match=r"truncated|empty|not an"):
            read(FILE[:size])


def mutated(rng: np.random.Generator) -> bytes:
    """The file with some bytes flipped, overwritten, put in, taken out or moved."""
    data = bytearray(FILE)
    for _ in range(rng.integers(1, 4)):
        at, size = int(rng.integers(START, len(data))), int(rng.integers(1, 1 + 2 ** rng.integers(0, 7)))
        kind = rng.integers(6)
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[at : at + size] = rng.bytes(len(data[at : at + size]))
        elif kind == 2:
            data[at:at] = rng.bytes(size)
        elif kind == 3:
            del data[at : at + size]
        elif kind == 4:
            data[at:at] = data[max(START, at - size) : at]
        else:
            del data[at:]
        if len(data) <= START:
            break
    return bytes(data)


def test_tens_of_thousands_of_mutations() -> None:
    """No surprise, and where the chunks still come in their order, none is lost whose bytes are all there."""
    rng = np.random.default_rng(0)
    parts = [HEADER.chunk_format.to_bytes(chunk) for chunk in CHUNKS]
    for _ in range(20_000):
        data = mutated(rng)
        reader, chunks = read(data)
        lost = check(data, chunks, reader)
        whole = {i for i, part in enumerate(parts) if part in data}
        assert not (lost & whole) or not in_order(data, parts)


def in_order(data: bytes, parts: list[bytes]) -> bool:
    """Whether the parts that are there come once each, and in their order."""
    places = [data.find(part) for part in parts if part in data]
    return places == sorted(places) and all(data.count(part) <= 1 for part in parts)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_read_without_surprise(data: bytes, after_header: bool) -> None:
    try:
        reader, _ = read(HEADER.to_bytes() + data if after_header else data)
    except BitstreamError:
        return
    assert reader.damage


def in_order_of(order: list[int]) -> bytes:
    """A file of these chunks, with the end record as it was."""
    parts = [HEADER.chunk_format.to_bytes(chunk) for chunk in CHUNKS]
    return HEADER.to_bytes() + b"".join(parts[i] for i in order) + FILE[BORDERS[-1] :]


@pytest.mark.parametrize(
    ("order", "found", "said"),
    [
        ([0, 1, 4, 5], [0, 1, 4, 5], ["chunks 2 to 3: missing"]),
        ([0, 0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5], ["chunk 0 comes in place of chunk 1"]),
        ([1, 0, 2, 3, 4, 5], [1, 2, 3, 4, 5], ["chunk 0: missing", "chunk 0 comes in place of chunk 2"]),
        ([0, 1, 2, 3], [0, 1, 2, 3], ["chunks 4 to 5: missing"]),
        ([], [], ["chunks 0 to 5: missing"]),
    ],
)
def test_chunks_that_are_missing_or_out_of_order(order: list[int], found: list[int], said: list[str]) -> None:
    reader, chunks = read(in_order_of(order))
    assert [chunk.sequence for chunk in chunks] == found
    assert reader.samples == 500 and reader.lost_at_end == COUNT - 1 - max(found, default=-1)
    assert len(reader.damage) == len(said) and all(map(str.startswith, reader.damage, said))


def test_bytes_around_the_end() -> None:
    reader, chunks = read(FILE + b"\0")
    assert (chunks, reader.damage, reader.samples) == (CHUNKS, ["bytes follow the end record"], 500)
    end = FILE[: BORDERS[-1]]
    for samples, count in ((34 * 16 + 2, COUNT), (500, COUNT - 1), (500, COUNT + SEQUENCE_MODULUS), (2**63, COUNT)):
        record = EndRecord(samples, count, 0)
        reader, chunks = read(end + record.to_bytes())
        assert chunks == CHUNKS
        assert (reader.damage, reader.samples) == (["the end record contradicts the chunks"], None)
    reader, _ = read(FILE[: BORDERS[3]] + b"junk" * 9 + FILE[BORDERS[3] :])
    assert reader.damage == [f"byte {BORDERS[3]}: damaged, but no chunk"]


def test_a_jump_that_no_damage_explains_is_refused() -> None:
    """A few bytes must not stand for hours of concealed sound."""
    form = HEADER.chunk_format
    for jump, accepted in ((MOST_MISSING, True), (MOST_MISSING + 1, False), (30_000, False)):
        late = form.to_bytes(replace(CHUNKS[1], sequence=1 + jump))
        reader, chunks = read(HEADER.to_bytes() + form.to_bytes(CHUNKS[0]) + late)
        assert (len(chunks) == 2) == accepted
    hole = bytes(7 * 3000)  # zeros in place of what may have been 3,000 chunks
    reader, chunks = read(HEADER.to_bytes() + form.to_bytes(CHUNKS[0]) + hole + form.to_bytes(
        replace(CHUNKS[1], sequence=3000)))  # fmt: skip
    assert [chunk.sequence for chunk in chunks] == [0, 3000]
    assert reader.damage[0].startswith("chunks 1 to 2999 (byte ")


def test_a_search_costs_no_more_than_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte promises a chunk of hundreds of kilobytes: no quadratic time, and little memory."""
    header = replace(HEADER, channels=32, stages=64, code_bits=16, frames_per_packet=200)
    computed = 0

    def counted(data: bytes, begin: int, end: int) -> bool:
        nonlocal computed
        computed += end - begin
        return is_sound(data, begin, end)

    monkeypatch.setattr("edgecodec.chunk_search.is_sound", counted)
    evil = (b"\xa0\x01\x00\x01" + b"\xa0\x80\x01") * 30_000
    start = time.process_time()
    reader, chunks = read(header.to_bytes() + evil)
    assert time.process_time() - start < 15
    tracemalloc.start()
    read(header.to_bytes() + evil[: 1 << 16])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not chunks and reader.damage
    assert computed <= 2 * 16 * (len(evil) + 3 * header.chunk_format.largest)
    assert peak < 8 << 20


def test_large_numbers_take_no_memory() -> None:
    header = replace(HEADER, channels=32, stages=64, frames_per_packet=255, code_bits=16)
    tracemalloc.start()
    reader, _ = read(header.to_bytes() + b"\xa0\0\0\x01\x80\x80\x02" + b"\0" * 50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "trunc" in reader.damage[0]
    assert peak < 1 << 20


# --- parts


@pytest.mark.parametrize("source", [io.BytesIO, Pipe])
def test_chunks_are_passed_over(source: Callable) -> None:
    for number in range(COUNT + 3):
        reader = Reader(source(FILE))
        reader.skip_to(number)
        assert list(reader) == CHUNKS[number:]
        assert (reader.damage, reader.samples) == ([], 500)


@pytest.mark.parametrize("source", [io.BytesIO, Pipe])
def test_damage_does_not_move_what_comes_behind_it(source: Callable) -> None:
    for at in range(START, int(BORDERS[-1])):
        data = bytearray(FILE)
        data[at] ^= 0x15
        hit = int(np.searchsorted(BORDERS, at, "right")) - 1
        for number in (hit, hit + 1, COUNT - 1):
            reader = Reader(source(bytes(data)))
            reader.skip_to(number)
            found = [chunk.sequence for chunk in reader]
            assert found == [i for i in range(number, COUNT) if i != hit], (at, number)
