"""Packets that an entropy model codes: round trips, what they repeat, any bytes, and live variable rate."""

import itertools
from dataclasses import replace
from pathlib import Path

import edgecodec
import numpy as np
import pytest
import soundfile
from edgecodec import BitstreamError, Codec, Packet, PacketFormat
from edgecodec.code_coder import CodeCoder
from edgecodec.entropy_model import EntropyModel, Predictor
from edgecodec.layout import PLAIN, Layout
from edgecodec.packet_coder import PacketCoder
from edgecodec.packets import payload_bytes
from edgecodec.variable_encoder import PriceControl
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_code_coder import random_arrays, random_codes

SPEECH = Path(__file__).parents[1] / "audio" / "speech_es.flac"


@pytest.fixture(scope="module")
def speech() -> Codec:
    return edgecodec.load("speech")


@pytest.fixture(scope="module")
def audio() -> NDArray[np.float32]:
    return soundfile.read(SPEECH, dtype="float32")[0]


def format_of(layout: Layout, streams: int, stages: int, entries: int, *, taught: bool) -> PacketFormat:
    model = EntropyModel(random_arrays(stages, entries, 1)) if taught else Predictor(entries)
    coder = PacketCoder(CodeCoder(layout, model, streams), stages)
    return PacketFormat(streams, (entries - 1).bit_length(), layout, coder)


def assert_same(packet: Packet, other: Packet) -> None:
    assert (packet.sequence, packet.stages, packet.frames) == (other.sequence, other.stages, other.frames)
    assert np.array_equal(packet.codes, other.codes)
    assert (packet.previous is None) == (other.previous is None)
    assert packet.previous is None or np.array_equal(packet.previous, other.previous)


@settings(max_examples=80, deadline=None)
@given(
    layout=st.sampled_from([PLAIN, Layout(0, (1, 2, 4)), Layout(2, (3, 3, 3))]),
    entries=st.sampled_from([9, 16, 100]),
    streams=st.integers(1, 3),
    stages=st.integers(1, 3),
    frames=st.integers(1, 9),
    repeated=st.integers(0, 3),
    mixed=st.tuples(st.booleans(), st.booleans()),
    taught=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_packets_come_back(
    layout: Layout,
    entries: int,
    streams: int,
    stages: int,
    frames: int,
    repeated: int,
    mixed: tuple[bool, bool],
    taught: bool,
    seed: int,
) -> None:
    form = format_of(layout, streams, 3, entries, taught=taught)
    codes = random_codes(layout, streams, stages, frames, entries, mixed[0], seed)
    before = random_codes(layout, streams, repeated, 1 + seed % 4, entries, mixed[1], seed + 1) if repeated else None
    packet = Packet(seed * 60, codes, before, layout)
    data = form.to_bytes(packet)
    assert_same(form.from_bytes(data), replace(packet, sequence=packet.sequence % 65536))
    body = form.coder.encode(codes, before)  # also where the format would rather not
    own, again = form.coder.decode(body, frames, repeated, 0 if before is None else before.shape[2])
    assert np.array_equal(own, codes)
    assert before is None if again is None else np.array_equal(again, before)
    for count in range(1, stages + 1):
        assert_same(form.from_bytes(form.truncate(data, count)), form.from_bytes(data).truncate(count))


@settings(max_examples=300, deadline=None)
@given(body=st.binary(max_size=60), frames=st.integers(1, 9), repeated=st.integers(0, 5))
def test_any_bytes_are_codes_or_refused(body: bytes, frames: int, repeated: int) -> None:
    form = format_of(PLAIN, 2, 4, 16, taught=True)
    try:
        codes, before = form.coder.decode(body, frames, repeated, frames)
    except BitstreamError:
        return
    for part in (codes,) if before is None else (codes, before):
        assert part.min() >= -1
        assert part.max() < 16
        assert PLAIN.counts(part).all()


def test_a_spoiled_byte_is_found(speech: Codec, audio: NDArray[np.float32]) -> None:
    form = speech.packet_format()
    data = next(
        data
        for data in map(form.to_bytes, speech.encoder_stream(frames_per_packet=8, redundancy=2).push(audio))
        if data[:1] == b"D"
    )
    for at, bit in itertools.product(range(len(data)), (1, 0x80)):
        with pytest.raises(BitstreamError):
            form.from_bytes(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
    for end in range(len(data)):
        with pytest.raises(BitstreamError):
            form.from_bytes(data[:end])


@pytest.mark.parametrize(("frames", "stages", "least"), [(4, 4, 0.08), (8, 4, 0.12), (8, 8, 0.08), (4, 2, 0.06)])
def test_what_coding_saves(speech: Codec, audio: NDArray[np.float32], frames: int, stages: int, least: float) -> None:
    form, plain = speech.packet_format(), PacketFormat(1, 10)
    packets = speech.encoder_stream(stages=stages, frames_per_packet=frames).push(audio)
    coded, fixed = (sum(len(f.to_bytes(packet)) - 7 for packet in packets) for f in (form, plain))
    assert coded <= (1 - least) * fixed
    assert all(len(form.to_bytes(packet)) <= len(plain.to_bytes(packet)) for packet in packets)


@pytest.mark.parametrize(("frames", "redundancy"), [(1, 0), (1, 2), (8, 0), (8, 2)])
def test_the_payload_is_all_but_heads(speech: Codec, audio: NDArray[np.float32], frames: int, redundancy: int) -> None:
    form, kinds = speech.packet_format(), set()
    for packet in speech.encoder_stream(stages=4, frames_per_packet=frames, redundancy=redundancy).push(audio):
        data, coded = form.to_bytes(packet), form.coded(packet)
        sizes = [
            form.payload_size(part.shape[1], part.shape[2])
            for part in (packet.codes, packet.previous)
            if part is not None
        ]
        assert payload_bytes(data) == (sum(sizes) if coded is None else len(coded))
        kinds.add(data[:1])
    assert {1: {b"P", b"R"}, 8: {b"C", b"D"}}[frames] & kinds


def test_repeated_stages_pay_for_themselves_in_part(speech: Codec, audio: NDArray[np.float32]) -> None:
    """What stands before the own frames makes them likelier: both together take less than apart."""
    coder = speech.packet_format().coder
    packets = speech.encoder_stream(stages=8, frames_per_packet=2, redundancy=2).push(audio)[1:]
    together = sum(len(coder.encode(packet.codes, packet.previous)) for packet in packets)
    apart = sum(len(coder.encode(packet.codes)) + len(coder.encode(packet.previous)) for packet in packets)
    assert together <= 0.93 * apart


@pytest.mark.parametrize("frames", [2, 4])
def test_live_variable_rate_holds_its_mean_and_loses_nothing(
    speech: Codec, audio: NDArray[np.float32], frames: int
) -> None:
    stream = speech.encoder_stream(stages=4, frames_per_packet=frames, redundancy=2, variable=True)
    form = speech.packet_format()
    long = np.tile(audio, 2)
    packets = [packet for block in np.array_split(long, 50) for packet in stream.push(block)]
    taken = sum(len(form.coder.encode(packet.codes)) for packet in packets) * 8
    seconds = len(packets) * frames / speech.manifest.frame_rate
    assert taken / seconds / 1000 == pytest.approx(3.0, rel=0.08)
    decoder = speech.decoder_stream()
    lengths = set()
    for packet in packets:
        back = form.from_bytes(form.to_bytes(packet))
        assert_same(back, packet)
        lengths.add(len(decoder.push(back)))
    assert lengths == {frames * speech.frame_size}
    counts = np.concatenate([PLAIN.counts(packet.codes)[0] for packet in packets])
    assert len(set(counts.tolist())) > 5
    assert all(PLAIN.counts(packet.codes).max() == packet.stages for packet in packets)


def test_a_stage_count_set_in_mid_stream_moves_the_mean(speech: Codec, audio: NDArray[np.float32]) -> None:
    stream, form = speech.encoder_stream(stages=2, frames_per_packet=4, variable=True), speech.packet_format()
    taken = []
    for stages in (2, 8):
        stream.stages = stages
        packets = stream.push(audio)
        taken.append(sum(len(form.coder.encode(packet.codes)) for packet in packets) / len(packets))
    assert 2.5 <= taken[1] / taken[0] <= 5


def test_blocks_do_not_change_what_a_variable_stream_makes(speech: Codec, audio: NDArray[np.float32]) -> None:
    whole, cut = (speech.encoder_stream(stages=3, frames_per_packet=4, variable=True) for _ in range(2))
    one = whole.push(audio[:48000]) + whole.flush()
    many = [packet for block in np.array_split(audio[:48000], 37) for packet in cut.push(block)] + cut.flush()
    assert len(one) == len(many)
    for packet, other in zip(one, many, strict=True):
        assert_same(packet, other)


def test_a_codec_without_a_model_varies_its_rate_too() -> None:
    codec = edgecodec.load(Path(__file__).parent / "tiny_bundle")
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 4000).astype(np.float32)
    stream, form = codec.encoder_stream(frames_per_packet=3, variable=True), codec.packet_format()
    packets = stream.push(noise) + stream.flush()
    for packet in packets:
        assert_same(form.from_bytes(form.to_bytes(packet)), packet)


def test_long_silence_saves_up_no_more_than_a_moment() -> None:
    control = PriceControl()
    for _ in range(10_000):
        control.take(10.0, 100.0, 0.05)
    after = control.price(40.0)
    for _ in range(60):
        control.take(200.0, 100.0, 0.05)
    assert after < PriceControl().price(40.0) < control.price(40.0)


def test_what_no_packet_of_the_bundle_has_is_refused(speech: Codec) -> None:
    coder = speech.packet_format().coder
    for codes in (
        np.zeros((2, 4, 4), np.int64),  # streams
        np.zeros((1, 17, 4), np.int64),  # stages
        np.full((1, 4, 4), 1024),
        np.full((1, 4, 4), -1),
    ):
        with pytest.raises(BitstreamError):
            coder.encode(codes)
    with pytest.raises(BitstreamError, match="coded"):
        PacketFormat(1, 10).from_bytes(speech.packet_format().to_bytes(Packet(0, np.zeros((1, 4, 8), np.int64))))
