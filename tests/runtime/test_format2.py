"""Bundles of format 2: lookahead, stereo, lines beside the stages, calls of a least or a fixed length.

The wide bundle has all of it at once (`make_wide_bundle.py`); the tiny one, with other keys, one thing at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import edgecodec
import numpy as np
import pytest
import soundfile
from edgecodec import EncoderStream, Manifest
from edgecodec.bitstream import Reader
from edgecodec.layout import Layout
from edgecodec.live.fitness import Fitness, measure_fitness

HERE = Path(__file__).parent
WIDE = HERE / "wide_bundle"

FRAME, START = 16, 5
HELD = (START - 1) * FRAME
STARTING = {
    "format_version": 2,
    "start_frames": {"encoder": 3, "decoder": START},
    "latency": {"buffering": FRAME, "algorithmic": FRAME + HELD},
}
ONE_FRAME = {"format_version": 2, "call_frames": 1}


@pytest.fixture(scope="module")
def wide() -> edgecodec.Codec:
    return edgecodec.load(WIDE)


@pytest.fixture
def altered(bundle: Path) -> Callable[[dict[str, Any]], Path]:
    """The tiny bundle with other keys in its manifest; its graphs take calls of any length."""

    def alter(changes: dict[str, Any]) -> Path:
        path = bundle / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return bundle

    return alter


def calls(codec: edgecodec.Codec, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """The frames of every call of the encoder and decoder graphs that is not bound to memory."""
    seen: dict[str, list[int]] = {"encoder": [], "decoder": []}
    run = codec._sessions._run

    def watched(graph: str, **inputs: Any) -> list[Any]:
        if graph == "encoder":
            seen[graph].append(inputs["audio"].shape[2] // FRAME)
        elif graph == "decoder":
            seen[graph].append(inputs["latents"].shape[1])
        return run(graph, **inputs)

    monkeypatch.setattr(codec._sessions, "_run", watched)
    return seen


def test_a_manifest_of_format_2_says_what_is_held_back(altered: Callable[..., Path]) -> None:
    manifest = Manifest.from_json((altered(STARTING) / "manifest.json").read_text())
    assert (manifest.held, manifest.delay, manifest.format_version) == (HELD, FRAME, 2)
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_lines_of_stages() -> None:
    layout = Layout(1, (1, 2, 4, 4))
    assert [layout.lines(n) for n in (1, 2, 3, 4)] == [2, 4, 8, 12]
    assert [layout.stages(lines) for lines in (2, 4, 8, 12)] == [1, 2, 3, 4]
    assert [layout.stages(lines) for lines in (0, 1, 3, 5, 13)] == [0] * 5
    assert (layout.is_plain, Layout(0, (1, 1)).is_plain, Layout().is_plain) == (False, True, True)
    assert [Layout().stages(n) for n in (0, 1, 7)] == [0, 1, 7]


def test_bitrates_count_all_codes(wide: edgecodec.Codec) -> None:
    assert wide.bitrates == (2.0, 6.0, 10.0, 18.0)
    assert wide.stages(bitrate=10.1) == 3
    with pytest.raises(edgecodec.BitrateError):
        wide.stages(bitrate=14.5)


@pytest.mark.parametrize("samples", [1, 2 * FRAME, HELD, HELD + 1, 30 * FRAME + 7])
@pytest.mark.parametrize("cut", [1, 7, FRAME, 10 * FRAME])
def test_streams_are_the_whole_clip(altered: Callable[..., Path], codec, voice, samples: int, cut: int) -> None:
    held = edgecodec.load(altered(STARTING))
    audio = voice(samples)
    codes = held.encode(audio, stages=3)
    assert np.array_equal(codes, codec.encode(audio, stages=3))
    encoder, decoder = held.encoder_stream(stages=3, frames_per_packet=2), held.decoder_stream()
    packets = [packet for i in range(0, samples, cut) for packet in encoder.push(audio[i : i + cut])]
    packets += encoder.flush()
    assert np.array_equal(np.concatenate([packet.codes for packet in packets], axis=2), codes)
    decoded = np.concatenate([*(decoder.push(packet) for packet in packets), decoder.flush()])
    assert np.array_equal(decoded[FRAME : FRAME + samples], held.decode(codes, samples=samples)[0, 0])
    assert not len(decoder.flush())


def test_first_calls_are_long_enough(altered: Callable[..., Path], voice, monkeypatch: pytest.MonkeyPatch) -> None:
    held = edgecodec.load(altered(STARTING))
    seen = calls(held, monkeypatch)
    encoder, decoder = held.encoder_stream(), held.decoder_stream()
    packets = [p for block in voice(10 * FRAME).reshape(-1, FRAME) for p in encoder.push(block)]
    lengths = [len(decoder.push(packet)) for packet in packets]
    assert seen == {"encoder": [3], "decoder": [START]}
    assert lengths == [0] * (START - 1) + [START * FRAME] + [FRAME] * (10 - START)


def test_a_packet_lost_while_frames_are_held(altered: Callable[..., Path], voice) -> None:
    held = edgecodec.load(altered(STARTING))
    encoder, decoder = held.encoder_stream(), held.decoder_stream()
    packets = encoder.push(voice(12 * FRAME))
    del packets[2]
    decoded = [decoder.push(packet) for packet in packets]
    assert sum(map(len, decoded)) + len(decoder.flush()) == 12 * FRAME


def test_calls_of_one_frame(altered: Callable[..., Path], codec, voice, monkeypatch: pytest.MonkeyPatch) -> None:
    single = edgecodec.load(altered(ONE_FRAME))
    seen = calls(single, monkeypatch)
    audio = voice(20 * FRAME)
    codes = single.encode(np.stack([audio, -audio]))
    assert np.array_equal(codes, codec.encode(np.stack([audio, -audio])))
    assert np.array_equal(single.decode(codes), codec.decode(codes))
    assert set(seen["encoder"] + seen["decoder"]) == {1}


@pytest.mark.parametrize("seconds", [0.004, 1.0])
def test_files(altered: Callable[..., Path], run, voice, tmp_path: Path, seconds: float) -> None:
    folder, samples = altered(STARTING), round(8000 * seconds)
    soundfile.write(tmp_path / "a.wav", voice(samples), 8000, subtype="FLOAT")
    assert run("encode", "a.wav", "a.edgc", "-q", 3, "--effort", "live", "--bundle", folder).exit_code == 0
    result = run("decode", "a.edgc", "b.wav", "--bundle", folder)
    assert result.exit_code == 0, result.output
    held = edgecodec.load(folder)
    audio, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    decoded, _ = soundfile.read(tmp_path / "b.wav", dtype="float32")
    assert np.abs(decoded - held.decode(held.encode(audio, stages=3), samples=samples)[0, 0]).max() < 1e-4


# The wide bundle: 2 channels a stream, lookahead of 1 frame and 5 samples, first calls of 2 and 3 frames, 1 + 9 lines.

LINES = [2, 4, 6, 10]


def streamed(codec: edgecodec.Codec, audio: np.ndarray, cut: int, **options: Any) -> tuple[list[Any], np.ndarray]:
    """Packets and decoded audio of channels [C, T], cut into blocks."""
    channels = len(audio)
    encoder, decoder = codec.encoder_stream(channels=channels, **options), codec.decoder_stream(channels=channels)
    packets = [p for i in range(0, audio.shape[1], cut) for p in encoder.push(audio[:, i : i + cut])] + encoder.flush()
    pieces = [*(decoder.push(packet) for packet in packets), decoder.flush()]
    return packets, np.concatenate([piece.reshape(channels, -1) for piece in pieces], axis=1)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("samples", [1, FRAME, 2 * FRAME + 1, 3 * FRAME, 700])
@pytest.mark.parametrize(("cut", "size"), [(1, 1), (FRAME, 2), (50, 3), (5000, 1)])
def test_wide_streams_are_the_whole_clip(wide, voice, channels: int, samples: int, cut: int, size: int) -> None:
    audio = np.stack([voice(samples, seed) for seed in range(channels)])
    codes = wide.encode(audio, stages=3)
    streams, frames = -(-channels // 2), -(-samples // FRAME)
    assert codes.shape == (streams, LINES[2], frames)
    decoded = wide.decode(codes, samples=samples)
    assert decoded.shape == (streams, 2, samples)
    packets, heard = streamed(wide, audio, cut, stages=3, frames_per_packet=size)
    assert np.array_equal(np.concatenate([p.codes for p in packets], axis=2), codes)
    assert all(p.frames == size for p in packets[:-1])
    assert np.array_equal(heard[:, :samples], decoded.reshape(-1, samples)[:channels])
    assert heard.shape[1] == frames * FRAME


def test_a_wide_codec_hears_both_channels_and_what_comes(wide, voice) -> None:
    audio = np.stack([voice(300), voice(300, 1)])
    codes = wide.encode(audio, stages=4)
    other = audio.copy()
    other[1] = 0
    assert not np.array_equal(wide.encode(other, stages=4), codes)
    assert np.array_equal(wide.encode(voice(300)), wide.encode(np.stack([voice(300)] * 2)))
    first = []  # frame that differs, from where the sound does
    for cut in range(3, 15):
        later = audio.copy()
        later[:, cut * FRAME :] = 0
        first.append(int((wide.encode(later, stages=4) != codes).any(axis=(0, 1)).argmax()) - cut)
    assert min(first) == -1  # it looks one frame ahead


def test_what_a_wide_codec_loses(wide, voice) -> None:
    """More stages are nearer, and the loudness beside them matters."""
    audio = np.stack([voice(2000), voice(2000, 1)])
    errors = [np.square(wide.decode(wide.encode(audio, stages=n), 2000)[0] - audio).mean() for n in (1, 2, 3, 4)]
    assert errors == sorted(errors, reverse=True)
    codes = wide.encode(audio)
    codes[:, 0] = np.minimum(codes[:, 0] * 2, 255)
    assert np.square(wide.decode(codes, 2000)[0] - audio).mean() > 1.5 * errors[-1]


def test_wide_latency_is_what_streams_hold_back(wide, voice) -> None:
    """Samples out after samples in, and where an impulse comes out."""
    m = wide.manifest
    assert (m.held, m.ahead, m.delay) == (3 * FRAME, FRAME + 5, 0)
    encoder, decoder = wide.encoder_stream(), wide.decoder_stream()
    came, most = 0, 0
    for i, block in enumerate(voice(30 * FRAME).reshape(-1, FRAME)):
        came += sum(len(decoder.push(packet)) for packet in encoder.push(block))
        most = max(most, (i + 1) * FRAME - came)
    assert most == m.held
    assert 30 * FRAME - came == m.ahead


@pytest.mark.parametrize("channels", [1, 2])
def test_after_silence_every_frame_gives_one(wide, voice, channels: int) -> None:
    audio = np.stack([voice(40 * FRAME, seed) for seed in range(channels)])
    encoder = wide.encoder_stream(channels=channels, after_silence=True)
    decoder = wide.decoder_stream(channels=channels, after_silence=True)
    heard = []
    for i in range(40):
        (packet,) = encoder.push(audio[:, i * FRAME : (i + 1) * FRAME])
        heard.append(decoder.push(packet).reshape(channels, -1))
        assert heard[-1].shape[1] == FRAME
    heard += [decoder.push(packet).reshape(channels, -1) for packet in encoder.flush()]
    joined = np.concatenate([*heard, decoder.flush().reshape(channels, -1)], axis=1)
    assert decoder.delay == FRAME + 5
    before = np.zeros((channels, 2 * FRAME), np.float32)
    whole = wide.decode(wide.encode(np.concatenate([before, audio], axis=1)))[0, :channels]
    skip = 4 * FRAME  # the decoder heard silence at all stages, not the encoder's
    ours = joined[:, decoder.delay :][:, : 40 * FRAME]
    assert np.abs(ours - whole[:, 2 * FRAME :])[:, skip:].max() < 1e-6


def test_wide_packets_are_bytes(wide, voice) -> None:
    audio = np.stack([voice(400, seed) for seed in range(3)])
    form = wide.packet_format(channels=3)
    packets, _ = streamed(wide, audio, 64, stages=3, frames_per_packet=2, redundancy=1)
    for packet in packets:
        data = form.to_bytes(packet)
        again = form.from_bytes(data)
        assert np.array_equal(again.codes, packet.codes)
        assert (again.stages, again.repeated_stages) == (3, 0 if packet.sequence == 0 else 1)
        shorter = form.truncate(data, 1)
        assert shorter == form.to_bytes(packet.truncate(1))
        assert form.from_bytes(shorter).codes.shape[1] == LINES[0]
    # 2 streams, 2 frames: a byte beside the stages each, then 5 codes of 4 bits each.
    assert form.payload_size(3, 2) == 4 + 10


def test_wide_codes_are_checked(wide, voice) -> None:
    codes = wide.encode(voice(100), stages=4)
    for lines, value in ((slice(0, 1), 256), (slice(1, None), 16), (slice(0, 1), -1)):
        wrong = codes.copy()
        wrong[:, lines, 1] = value
        with pytest.raises(edgecodec.BitstreamError, match=r"lie in 0\.\.(255|15)"):
            wide.decode(wrong)
    with pytest.raises(edgecodec.BitstreamError, match=r"must be \[B, lines, T\] with 1 to 4 stages"):
        wide.decode(codes[:, :5])


def test_a_wide_packet_is_lost(wide, voice) -> None:
    audio = np.stack([voice(1600), voice(1600, 1)])
    for redundancy in (0, 2):
        packets, whole = streamed(wide, audio, FRAME, stages=4, redundancy=redundancy)
        decoder = wide.decoder_stream(channels=2)
        heard = [decoder.push(packet) for packet in packets if packet.sequence not in (1, 40, 41)]
        assert (decoder.statistics.recovered > 0) == bool(redundancy)
        joined = np.concatenate([*heard, decoder.flush()], axis=1)
        assert joined.shape == whole.shape
        assert np.isfinite(joined).all()
        assert np.abs(joined).max() <= 1
        assert np.abs(joined - whole)[:, 45 * FRAME :].max() < 1e-6  # soon over
    late = wide.decoder_stream(channels=2)
    before = late.push(packets[3])
    assert before.shape == (2, 0)
    with pytest.raises(edgecodec.BitstreamError):
        late.push(packets[4].__class__(4, packets[4].codes[:, :5]))
    assert late.push(packets[3]).shape == (2, 0)  # late


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("rate", [8000, 16_000])
def test_wide_files(wide, run, voice, tmp_path: Path, channels: int, rate: int) -> None:
    audio = np.stack([voice(rate, seed) for seed in range(channels)])
    soundfile.write(tmp_path / "a.wav", audio.T, rate, subtype="FLOAT")
    assert run("encode", "a.wav", "a.edgc", "--bundle", WIDE, "-q", 4).exit_code == 0
    result = run("decode", "a.edgc", "b.wav", "--bundle", WIDE)
    assert result.exit_code == 0, result.output
    decoded, same = soundfile.read(tmp_path / "b.wav", dtype="float32", always_2d=True)
    assert (decoded.shape, same) == ((rate, channels), rate)
    facts = json.loads(run("info", "a.edgc", "--json").output)
    assert (facts["channels"], facts["stages"]) == (channels, 4)
    # Every stream takes a byte and 9 codes of 4 bits a frame.
    assert facts["payload_kbps"] == pytest.approx(-(-channels // 2) * 500 * (8 + 9 * 4) / 1000, rel=0.02)
    if rate == 8000:
        expected = wide.decode(wide.encode(audio, stages=4), samples=rate).reshape(-1, rate)[:channels]
        assert np.abs(decoded.T - expected).max() < 1e-4
    # Codes as arrays, and back.
    assert run("codes", "a.edgc", "a.npz").exit_code == 0
    result = run("codes", "a.npz", "again.edgc", "--bundle", WIDE)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "again.edgc").read_bytes() == (tmp_path / "a.edgc").read_bytes()


def test_a_header_of_version_2(wide, run, voice, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", voice(800), 8000)
    run("encode", "a.wav", "a.edgc", "--bundle", WIDE)
    data = (tmp_path / "a.edgc").read_bytes()
    assert data[4] == 2
    with (tmp_path / "a.edgc").open("rb") as file:
        header = Reader(file).header
    assert (header.stream_channels, header.layout) == (2, Layout(1, (1, 2, 2, 4)))
    assert header.to_bytes() == data[: len(header.to_bytes())]
    for at in range(len(header.to_bytes())):
        (tmp_path / "bad.edgc").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        result = run("decode", "bad.edgc", "b.wav", "--bundle", WIDE, "-f")
        assert result.exit_code == 1
        assert len(result.output.strip().splitlines()) <= 3
    assert run("decode", "a.edgc", "b.wav", "--bundle", HERE / "tiny_bundle").exit_code == 1


def test_verify_info_bench_simulate_and_soak(run, voice, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.stack([voice(8000), voice(8000, 1)]).T, 8000)
    assert run("verify", WIDE).exit_code == 0
    facts = json.loads(run("info", WIDE, "--json").output)
    assert facts["channels"] == 2
    assert facts["latency_ms"] == {"buffering": 2.0, "algorithmic": 6.0, "lookahead": 2.625}
    bench = json.loads(run("bench", WIDE, "--seconds", 1, "--json").output)
    assert bench["hot"]["p50"] > 0
    soak = run("bench", WIDE, "--soak", "3s", "--json")
    found = json.loads(soak.output)
    assert (soak.exit_code, found["different_codes"], found["different_audio"], found["drift"]) == (0, 0, 0, 0)
    simulated = run(
        "simulate-loss", "a.wav", "b.wav", "--bundle", WIDE, "--loss", 10, "--json", "-q", 3, "--redundancy", 1
    )
    assert simulated.exit_code == 0, simulated.output
    assert json.loads(simulated.stdout)["recovered"] > 0


def test_live_from_file_to_file(wide, run, voice, tmp_path: Path) -> None:
    audio = voice(4000)
    soundfile.write(tmp_path / "a.wav", audio, 8000, subtype="FLOAT")
    result = run("live", "--input", "a.wav", "--output", "b.wav", "--bundle", WIDE, "-q", 4)
    assert result.exit_code == 0, result.output
    played, _ = soundfile.read(tmp_path / "b.wav", dtype="float32")
    expected = wide.decode(wide.encode(audio, stages=4), samples=4000)[0, 0]
    assert played.shape == expected.shape
    assert np.abs(played - expected)[4 * FRAME :].max() < 1e-3


def test_live_sound_says_what_is_not_fit(altered: Callable[..., Path], run, clip: Path) -> None:
    late = altered({"format_version": 2, "latency": {"buffering": FRAME, "algorithmic": FRAME + 8000}})
    result = run("live", "--input", clip, "--bundle", late, "--duration", 0.1)
    said = " ".join(result.output.split())
    assert result.exit_code == 1
    assert "tiny is not fit for live sound: it comes 1004 ms late (2 buffering, 1002 algorithmic)" in said
    assert "--anyway goes on with it" in said


def test_a_slow_codec_is_not_fit() -> None:
    slow = Fitness("dac", 11.6, encode_ms=13.0, decode_ms=25.0, buffering_ms=11.6, algorithmic_ms=200.0)
    assert slow.complaint() == "dac is not fit for live sound: a frame of 11.6 ms takes 38.0 ms here"
    one_side = replace(slow, decode_ms=0.0)
    assert one_side.complaint() == "dac is not fit for live sound: a frame of 11.6 ms takes 13.0 ms here"
    quick = Fitness("mimi", 80.0, encode_ms=17.0, decode_ms=18.0, buffering_ms=80.0, algorithmic_ms=0.0)
    assert quick.complaint() is None


def test_fitness_is_measured_of_what_a_command_does(wide: edgecodec.Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sending runs no decoder; receiving encodes one frame, to have something to decode."""
    both = measure_fitness(wide, 4)
    assert both.encode_ms > 0 < both.decode_ms
    assert both.algorithmic_ms == 1000 * wide.decoder_stream(after_silence=True).delay / wide.sample_rate
    pushed, push = [], EncoderStream.push
    monkeypatch.setattr(EncoderStream, "push", lambda stream, block: pushed.append(1) or push(stream, block))
    receiving = measure_fitness(wide, 4, encoding=False)
    assert len(pushed) == 1
    assert receiving.encode_ms == 0 < receiving.decode_ms
    monkeypatch.setattr(edgecodec.Codec, "decoder_stream", None)
    sending = measure_fitness(wide, 4, decoding=False)
    assert len(pushed) == 1 + 11
    assert sending.decode_ms == 0 < sending.encode_ms
    assert sending.algorithmic_ms == both.algorithmic_ms
    with pytest.raises(TypeError):
        measure_fitness(wide, 4)
