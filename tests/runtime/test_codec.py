"""Whole clips and streams: the same codes however the audio is cut."""

from __future__ import annotations

import copy
import hashlib
import json
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import edgecodec
import numpy as np
import pytest
from edgecodec import AudioError, BitstreamError, Codec, Packet
from hypothesis import given, settings
from hypothesis import strategies as st


def stream_codes(packets: list[Packet]) -> np.ndarray:
    return np.concatenate([packet.codes for packet in packets], axis=2)


def test_a_clip_comes_back_at_its_length_and_better_with_every_stage(codec: Codec, voice) -> None:
    audio = voice(4001)
    errors = []
    for stages in range(1, 5):
        codes = codec.encode(audio, stages=stages)
        assert codes.dtype == np.int64
        assert codes.shape == (1, stages, codec.frames(4001)) == (1, stages, 252)  # (4001 + 16) / 16
        decoded = codec.decode(codes, samples=4001)
        assert decoded.dtype == np.float32
        assert decoded.shape == (1, 1, 4001)
        errors.append(float(np.square(decoded - audio).sum()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.7 * np.square(audio).sum()


def test_channels_and_batches_are_streams_of_their_own(codec: Codec, voice) -> None:
    audio = np.stack([voice(500, seed) for seed in range(6)])
    codes = codec.encode(audio.reshape(2, 3, 500), stages=2)
    assert codes.shape == (6, 2, 33)
    assert np.array_equal(codes, codec.encode(audio, stages=2))
    for channel in range(6):
        assert np.array_equal(codes[channel : channel + 1], codec.encode(audio[channel], stages=2))


def test_codes_of_fewer_stages_are_the_first_of_more(codec: Codec, voice) -> None:
    codes = codec.encode(voice(1000), stages=4)
    for stages in (1, 2, 3):
        assert np.array_equal(codes[:, :stages], codec.encode(voice(1000), stages=stages))


def test_long_clips_go_in_blocks(codec: Codec, voice, monkeypatch: pytest.MonkeyPatch) -> None:
    audio = voice(16 * 700)
    whole = codec.encode(audio, stages=4)
    decoded = codec.decode(whole)
    for frames in (1, 7, 10_000):
        monkeypatch.setattr("edgecodec.sessions._BLOCK_FRAMES", frames)
        assert np.array_equal(codec.encode(audio, stages=4), whole)
        assert np.array_equal(codec.decode(whole), decoded)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_split_gives_the_codes_of_the_whole(codec: Codec, voice, data: st.DataObject) -> None:
    samples = data.draw(st.integers(1, 1500), label="samples")
    channels = data.draw(st.integers(1, 3), label="channels")
    frames = data.draw(st.integers(1, 9), label="frames per packet")
    cuts = data.draw(st.lists(st.integers(0, samples), max_size=8).map(sorted), label="cuts")
    audio = np.stack([voice(samples, seed) for seed in range(channels)])
    encoder = codec.encoder_stream(stages=3, channels=channels, frames_per_packet=frames)
    decoder = codec.decoder_stream(channels=channels)
    packets = []
    for start, end in pairwise([0, *cuts, samples]):
        packets += encoder.push(audio[:, start:end])
    packets += encoder.flush()
    whole = codec.encode(audio, stages=3)
    assert np.array_equal(stream_codes(packets), whole)
    assert [packet.sequence for packet in packets] == list(range(len(packets)))
    assert all(packet.frames == frames for packet in packets[:-1])
    decoded = np.concatenate([decoder.push(packet).reshape(channels, -1) for packet in packets], axis=1)
    assert np.array_equal(decoded[:, decoder.delay :], codec.decode(whole)[:, 0])
    assert decoded.shape[1] - decoder.delay >= samples


def test_a_full_packet_comes_at_once(codec: Codec, voice) -> None:
    encoder = codec.encoder_stream(stages=1)
    assert encoder.push(voice(15)) == []
    assert len(encoder.push(voice(1))) == 1
    assert encoder.push(np.zeros(0, np.float32)) == []
    assert len(encoder.push(voice(33))) == 2


def test_stages_change_in_mid_stream(codec: Codec, voice) -> None:
    audio = voice(16 * 30)
    encoder, decoder = codec.encoder_stream(stages=4), codec.decoder_stream()
    packets = encoder.push(audio[:160])
    encoder.stages = 1
    packets += encoder.push(audio[160:320])
    encoder.stages = 3
    packets += encoder.push(audio[320:])
    assert [packet.stages for packet in packets] == [4] * 10 + [1] * 10 + [3] * 10
    whole = codec.encode(audio, stages=4)
    for i, packet in enumerate(packets):
        assert np.array_equal(packet.codes, whole[:, : packet.stages, i : i + 1])
        assert decoder.push(packet).shape == (16,)
    with pytest.raises(edgecodec.BitrateError):
        encoder.stages = 5
    assert encoder.stages == 3


@pytest.mark.parametrize("end", ["flush", "reset"])
@pytest.mark.parametrize("redundancy", [0, 1])
def test_a_decoder_follows_an_encoder_that_begins_anew(codec: Codec, voice, end: str, redundancy: int) -> None:
    encoder, decoder = codec.encoder_stream(stages=2, redundancy=redundancy), codec.decoder_stream()
    form = codec.packet_format()
    for length in (4000, 700, 4000):
        packets = encoder.push(voice(length))
        packets += getattr(encoder, end)() or []
        heard = [decoder.push(form.from_bytes(form.to_bytes(packet))) for packet in packets]
        assert sum(map(len, heard)) >= length - codec.frame_size
        assert np.abs(np.concatenate(heard)).max() > 0.01
    assert decoder.statistics.late == decoder.statistics.concealed == 0


def test_a_codec_is_pickled_as_its_bundle(bundle: Path, voice) -> None:
    codec = edgecodec.load(bundle, threads=2)
    again = pickle.loads(pickle.dumps(codec))
    assert np.array_equal(again.encode(voice(800)), codec.encode(voice(800)))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert np.array_equal(pool.submit(codec.encode, voice(800)).result(), codec.encode(voice(800)))
    data = pickle.dumps(codec)
    path = bundle / "manifest.json"
    graph = (bundle / "decoder.onnx").read_bytes() + b"\x12\x01x"  # a field of its own: the name of the producer
    (bundle / "decoder.onnx").write_bytes(graph)
    manifest = json.loads(path.read_text())
    manifest["graphs"]["decoder"] |= {"sha256": hashlib.sha256(graph).hexdigest(), "bytes": len(graph)}
    path.write_text(json.dumps(manifest))
    with pytest.raises(edgecodec.BundleError, match="another bundle"):
        pickle.loads(data)


def test_streams_say_that_they_cannot_be_pickled(codec: Codec) -> None:
    for stream in (codec.encoder_stream(), codec.decoder_stream(), codec.latent_stream()):
        for call in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="Stream cannot be pickled or copied: pickle the codec"):
                call(stream)


def test_flush_and_reset_begin_anew(codec: Codec, voice) -> None:
    encoder, decoder = codec.encoder_stream(stages=2), codec.decoder_stream()
    assert encoder.flush() == []
    runs = []
    for _ in range(2):
        packets = encoder.push(voice(100)) + encoder.flush()
        runs.append((packets, [decoder.push(packet) for packet in packets]))
        decoder.reset()
    (packets, audios), (packets_again, audios_again) = runs
    for first, second, audio, again in zip(packets, packets_again, audios, audios_again, strict=True):
        assert first.sequence + len(packets) == second.sequence
        assert np.array_equal(first.codes, second.codes)
        assert np.array_equal(audio, again)
    encoder.push(voice(50))
    encoder.reset()
    assert np.array_equal(stream_codes(encoder.push(voice(100)) + encoder.flush()), codec.encode(voice(100), stages=2))


def test_a_stream_survives_what_it_refuses(codec: Codec, voice) -> None:
    encoder, decoder = codec.encoder_stream(stages=2), codec.decoder_stream()
    audio = voice(64)
    packets = encoder.push(audio[:20])
    for wrong in (np.full(8, np.nan, np.float32), np.zeros((2, 8), np.float32), np.zeros(8, np.int16)):
        with pytest.raises(AudioError):
            encoder.push(wrong)
    packets += encoder.push(audio[20:]) + encoder.flush()
    assert np.array_equal(stream_codes(packets), codec.encode(audio, stages=2))
    first = decoder.push(packets[0])
    with pytest.raises(BitstreamError):
        decoder.push(Packet(1, packets[1].codes + 16))
    with pytest.raises(BitstreamError, match="codes of 2 streams"):
        decoder.push(Packet(1, np.zeros((2, 1, 1), np.int64)))
    rest = [decoder.push(packet) for packet in packets[1:]]
    assert np.array_equal(np.concatenate([first, *rest])[16:], codec.decode(codec.encode(audio, stages=2))[0, 0])


def test_many_threads_share_a_codec(codec: Codec, voice) -> None:
    clips = [voice(3000 + seed, seed) for seed in range(16)]
    expected = [codec.encode(clip, stages=4) for clip in clips]

    def stream(clip: np.ndarray) -> np.ndarray:
        encoder = codec.encoder_stream(stages=4)
        packets = [packet for start in range(0, len(clip), 37) for packet in encoder.push(clip[start : start + 37])]
        return stream_codes(packets + encoder.flush())

    with ThreadPoolExecutor(8) as pool:
        for codes, wanted in zip(pool.map(stream, clips), expected, strict=True):
            assert np.array_equal(codes, wanted)


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros(0, np.float32), "not empty"),
        (np.zeros((1, 1, 1, 9), np.float32), "not of shape"),
        (np.float32(0.5), "not of shape"),
        (np.zeros(9, np.int16), "floating point"),
        (np.array([0, 1, np.nan, 0], np.float32), "NaN or infinity, first at sample 2"),
        (np.array([0, np.inf], np.float32), "sample 1"),
        (np.array([0, 1e300]), "sample 1"),
    ],
)
def test_audio_that_cannot_be_encoded(codec: Codec, audio: np.ndarray, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        codec.encode(audio)


def test_subnormal_input_is_silence(codec: Codec) -> None:
    tiny = np.full(160, 1e-40, np.float32)
    assert np.array_equal(codec.encode(tiny), codec.encode(np.zeros(160, np.float32)))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((1, 2, 3)), "integers"),
        (np.zeros((2, 3), np.int64), "shape"),
        (np.zeros((1, 5, 3), np.int64), "1 to 4 stages"),
        (np.zeros((1, 0, 3), np.int64), "shape"),
        (np.zeros((1, 2, 0), np.int64), "shape"),
        (np.full((1, 2, 3), 16), r"0\.\.15"),
        (np.full((1, 2, 3), -1), "not in all"),
        (np.full((1, 2, 3), -2), r"0\.\.15"),
        (np.array([[[0, -1], [0, 5]]]), "the last stages"),
        (np.full((1, 2, 3), 2**63, np.uint64), r"0\.\.15"),
    ],
)
def test_codes_that_cannot_be_decoded(codec: Codec, codes: np.ndarray, message: str) -> None:
    with pytest.raises(BitstreamError, match=message):
        codec.decode(codes)


def test_no_more_samples_than_the_codes_hold(codec: Codec) -> None:
    codes = np.zeros((1, 1, 3), np.uint8)
    assert codec.decode(codes).shape == (1, 1, 32)
    for samples in (33, -1):
        with pytest.raises(AudioError, match="the codes hold 32"):
            codec.decode(codes, samples=samples)


def test_streams_refuse_impossible_sizes(codec: Codec) -> None:
    with pytest.raises(AudioError, match="channels"):
        codec.encoder_stream(channels=0)
    with pytest.raises(AudioError, match="channels"):
        codec.decoder_stream(channels=256)
    with pytest.raises(edgecodec.BitrateError, match="frames_per_packet"):
        codec.encoder_stream(frames_per_packet=0)
