"""Streams in long use: blocks of any length, packets of any size, changes at any moment, memory that does not grow."""

from __future__ import annotations

import gc
import hashlib
import json
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path

import edgecodec
import numpy as np
import onnx
import pytest
from edgecodec import BundleError, Codec, Packet
from edgecodec.binding import BoundGraph
from edgecodec.sessions import Sessions
from hypothesis import given, settings
from hypothesis import strategies as st

FRAME = 16


def codes_of(packets: list[Packet]) -> np.ndarray:
    return np.concatenate([packet.codes for packet in packets], axis=2)


def test_blocks_of_one_sample_and_of_minutes(codec: Codec, voice) -> None:
    audio = voice(8000 * 65 + 77)
    whole = codec.encode(audio, stages=4)
    decoded = codec.decode(whole, samples=len(audio))[0, 0]
    encoder, decoder = codec.encoder_stream(stages=4), codec.decoder_stream()
    packets = [packet for sample in audio[:500] for packet in encoder.push([sample])]
    assert len(packets) == 500 // FRAME
    packets += encoder.push(audio[500:-300])  # a minute at once
    packets += [packet for sample in audio[-300:] for packet in encoder.push([sample])] + encoder.flush()
    assert np.array_equal(codes_of(packets), whole)
    sound = np.concatenate([decoder.push(packet) for packet in packets])
    assert np.array_equal(sound[decoder.delay :][: len(audio)], decoded)


@pytest.mark.parametrize("frames", [1, 2, 4, 8])
def test_larger_packets_wait_longer_and_hold_the_same_codes(codec: Codec, voice, frames: int) -> None:
    audio = voice(FRAME * 64)
    encoder = codec.encoder_stream(stages=4, frames_per_packet=frames)
    waited, packets = [], []
    for i in range(64):
        packets += (new := encoder.push(audio[i * FRAME :][:FRAME]))
        waited.append(len(new))
    assert waited == ([0] * (frames - 1) + [1]) * (64 // frames)
    assert np.array_equal(codes_of(packets), codec.encode(audio, stages=4)[:, :, :64])


@pytest.mark.parametrize(("channels", "frames"), [(1, 64), (1, 150), (70, 3), (3, 7)])
def test_packets_of_any_size_as_bound_or_in_blocks(codec: Codec, voice, channels: int, frames: int) -> None:
    """Whether a packet is one call, is cut into several, or changes its size from one to the next."""
    samples = (2 * frames + 1) * FRAME + 5
    audio = np.stack([voice(samples + 31 * i)[-samples:] for i in range(channels)])
    whole = codec.encode(audio, stages=4)
    decoded = codec.decode(whole, samples=samples)[:, 0]
    encoder = codec.encoder_stream(stages=4, channels=channels, frames_per_packet=frames)
    decoder = codec.decoder_stream(channels=channels)
    packets = encoder.push(audio[:, :7]) + encoder.push(audio[:, 7:]) + encoder.flush()
    assert np.array_equal(codes_of(packets), whole)
    sound = np.concatenate([decoder.push(packet).reshape(channels, -1) for packet in packets], axis=1)
    assert np.array_equal(sound[:, decoder.delay :][:, :samples], decoded)


def test_what_a_stream_gave_out_stays(codec: Codec, voice) -> None:
    """Streams work in memory of their own that each packet overwrites; nothing of it gets out."""
    encoder, decoder = codec.encoder_stream(stages=4), codec.decoder_stream()
    packets, sounds = [], []
    for block in voice(FRAME * 8).reshape(8, FRAME):
        packets += encoder.push(block)
        sounds.append(decoder.push(packets[-1]))
    before = [packet.codes.copy() for packet in packets], [sound.copy() for sound in sounds]
    for block in voice(FRAME * 30)[-FRAME * 8 :].reshape(8, FRAME):
        decoder.push(encoder.push(block)[0])
    assert all(np.array_equal(old, packet.codes) for old, packet in zip(before[0], packets, strict=True))
    assert all(np.array_equal(old, sound) for old, sound in zip(before[1], sounds, strict=True))


def test_a_packet_is_one_call_of_each_graph(codec: Codec, voice, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    bound, whole = BoundGraph.run, Sessions._run
    monkeypatch.setattr(BoundGraph, "run", lambda self: calls.append(self._graph) or bound(self))
    monkeypatch.setattr(
        Sessions, "_run", lambda self, graph, **inputs: calls.append(graph) or whole(self, graph, **inputs)
    )
    encoder, decoder = codec.encoder_stream(stages=4, frames_per_packet=4), codec.decoder_stream()
    (packet,) = encoder.push(voice(FRAME * 4))
    decoder.push(packet)
    assert calls == ["encoder", "quantizer_encode", "quantizer_decode", "decoder"]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 90), st.integers(1, 4), st.integers(0, 4)), min_size=1, max_size=20),
    st.integers(1, 5),
)
def test_stages_and_redundancy_change_at_any_moment(
    codec: Codec, voice, turns: list[tuple[int, int, int]], frames: int
) -> None:
    audio = voice(sum(samples for samples, _, _ in turns) + 1)
    whole = codec.encode(audio, stages=4)
    encoder = codec.encoder_stream(stages=4, frames_per_packet=frames)
    form = codec.packet_format()
    packets, at = [], 0
    for samples, encoder.stages, encoder.redundancy in turns:
        new = encoder.push(audio[at : at + samples])
        assert all(packet.stages == encoder.stages for packet in new)
        packets, at = packets + new, at + samples
    packets += encoder.push(audio[at:]) + encoder.flush()
    first = 0
    decoder = codec.decoder_stream()
    for packet in packets:
        assert np.array_equal(packet.codes, whole[:, : packet.stages, first : first + packet.frames])
        first += packet.frames
        assert len(decoder.push(form.from_bytes(form.to_bytes(packet)))) == packet.frames * FRAME
    assert first == whole.shape[2]


def test_the_end_is_exact(codec: Codec, voice) -> None:
    for samples in (1, 15, 16, 17, 31, 32, 33, 160):
        for frames in (1, 3):
            encoder, decoder = codec.encoder_stream(stages=4, frames_per_packet=frames), codec.decoder_stream()
            packets = encoder.push(voice(samples)) + encoder.flush()
            sound = np.concatenate([decoder.push(packet) for packet in packets])
            assert samples + decoder.delay <= len(sound) < samples + decoder.delay + FRAME
            assert encoder.flush() == []


def test_streams_never_grow(codec: Codec, voice) -> None:
    """Blocks, gaps, late packets and changes for a long time: the streams keep as much as at the start."""
    form, audio = codec.packet_format(), voice(997)
    encoder = codec.encoder_stream(stages=4, redundancy=2, frames_per_packet=2)
    decoder = codec.decoder_stream()

    def use(times: int) -> None:
        for i in range(times):
            encoder.stages = 1 + i % 4
            for packet in encoder.push(audio[: 1 + 37 * i % 997]):
                if packet.sequence % 7:
                    decoder.push(form.from_bytes(form.to_bytes(packet)))
                if packet.sequence % 5 == 0:
                    decoder.push(packet)

    use(300)
    tracemalloc.start()
    try:
        use(50)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        use(600)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 50_000, grown  # bytes, caches of numpy; 16 bytes a packet would be 80,000
    assert decoder.statistics.recovered > 300 and decoder.statistics.late > 300


def test_a_long_block_leaves_nothing_behind(codec: Codec, voice) -> None:
    audio = voice(8000 * 60)
    encoder, decoder = codec.encoder_stream(stages=4, frames_per_packet=250, redundancy=1), codec.decoder_stream()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for packet in encoder.push(audio):
            decoder.push(packet)
        del packet
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 60_000  # of 1.9 MB of audio, 1 MB of codes
    finally:
        tracemalloc.stop()


def test_streams_of_many_threads_share_a_codec(codec: Codec, voice) -> None:
    """Each thread keeps several streams going at once and hears what it would hear alone."""
    form = codec.packet_format()

    def talk(seed: int) -> np.ndarray:
        encoder, decoder = codec.encoder_stream(stages=1 + seed % 4, redundancy=1), codec.decoder_stream()
        audio, sound = voice(4000, seed), []
        for start in range(0, 4000, 50 + seed):
            for packet in encoder.push(audio[start : start + 50 + seed]):
                if packet.sequence % (3 + seed):
                    sound.append(decoder.push(form.from_bytes(form.to_bytes(packet))))
        return np.concatenate(sound)

    alone = [talk(seed) for seed in range(8)]
    results: dict[int, np.ndarray] = {}
    threads = [threading.Thread(target=lambda s=seed: results.update({s: talk(s % 8)})) for seed in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 24
    for seed, sound in results.items():
        assert np.array_equal(sound, alone[seed % 8])


def with_a_fault(bundle: Path, name: str, number: str, value: int) -> Codec:
    """The tiny bundle with a graph that fails wherever one of its numbers has a value."""
    graph = onnx.load(bundle / f"{name}.onnx")
    first = graph.graph.input[0].name
    for node in graph.graph.node:
        node.input[:] = ["fault.passed" if given == first else given for given in node.input]
    steps = np.zeros(99, np.int64)
    steps[value] = 1  # beyond the one number that it is looked up in
    arrays = {"steps": steps, "zero": np.zeros(1, np.int64), "stages": np.array(1)}
    graph.graph.initializer.extend(onnx.numpy_helper.from_array(array, f"fault.{key}") for key, array in arrays.items())
    make = onnx.helper.make_node
    nodes = [
        make("Shape", [first], ["fault.shape"]),
        make("Gather", ["fault.shape", "fault.stages"], ["fault.n_stages"]),
        make("Gather", ["fault.steps", number], ["fault.step"]),
        make("Gather", ["fault.zero", "fault.step"], ["fault.looked_up"]),
        make("CastLike", ["fault.looked_up", first], ["fault.nothing"]),
        make("Add", [first, "fault.nothing"], ["fault.passed"]),
    ]
    for node in reversed(nodes):
        graph.graph.node.insert(0, node)
    data = graph.SerializeToString()
    (bundle / f"{name}.onnx").write_bytes(data)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["graphs"][name] |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return edgecodec.load(bundle)


@pytest.mark.parametrize("frames", [1, 3])
def test_a_graph_that_fails_leaves_an_encoder_as_it_was(bundle: Path, codec: Codec, voice, frames: int) -> None:
    faulty = with_a_fault(bundle, "quantizer_encode", "n_stages", 2)
    encoder, audio = faulty.encoder_stream(stages=4, frames_per_packet=frames), voice(FRAME * 9 + 5)
    packets = encoder.push(audio[:50])
    for size in (FRAME * 3, 5 * FRAME):  # of a packet's size, and of several packets
        encoder.stages = 2
        with pytest.raises(BundleError, match="quantizer_encode"):
            encoder.push(audio[50:][:size])
        encoder.stages = 4
    packets += encoder.push(audio[50:]) + encoder.flush()
    assert np.array_equal(codes_of(packets), codec.encode(audio, stages=4))


def test_a_graph_that_fails_leaves_a_decoder_as_it_was(bundle: Path, codec: Codec, voice) -> None:
    faulty = with_a_fault(bundle, "quantizer_decode", "fault.n_stages", 2)
    packets = codec.encoder_stream(stages=4, redundancy=2).push(voice(FRAME * 12))
    plain = [replace(packet, previous=None) for packet in packets]
    streams = faulty.decoder_stream(), faulty.decoder_stream()
    for stream in streams:
        for packet in plain[:4]:
            stream.push(packet)
    tried, untouched = streams
    for use in (
        lambda: tried.push(plain[4].truncate(2)),
        lambda: tried.push(plain[8].truncate(2)),  # sound of the gap is made before this packet's graph fails
        lambda: tried.push(packets[8]),
        lambda: tried.conceal(plain[5].truncate(2)),
        lambda: tried.conceal(packets[5]),
    ):
        with pytest.raises(BundleError, match="quantizer_decode"):
            use()
        assert tried.statistics == untouched.statistics
    for packet in (plain[4], plain[8]):
        assert np.array_equal(tried.push(packet), untouched.push(packet))
    assert tried.statistics == untouched.statistics
