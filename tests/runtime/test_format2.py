"""Bundles of format 2: first calls of a least length and calls of a fixed one, streamed and whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import edgecodec
import numpy as np
import pytest
import soundfile
from edgecodec import BundleError, Manifest

FRAME, START = 16, 5
HELD = (START - 1) * FRAME
STARTING = {
    "format_version": 2,
    "start_frames": {"encoder": 3, "decoder": START},
    "latency": {"buffering": FRAME, "algorithmic": FRAME + HELD},
}
ONE_FRAME = {"format_version": 2, "call_frames": 1}


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


def test_lines_of_stages(altered: Callable[..., Path]) -> None:
    changes = {"format_version": 2, "side": 1, "stage_widths": [1, 2, 4, 4]}
    manifest = Manifest.from_json((altered(changes) / "manifest.json").read_text())
    assert [manifest.lines(n) for n in (1, 2, 3, 4)] == [2, 4, 8, 12]
    assert [manifest.stages_of(lines) for lines in (2, 4, 8, 12)] == [1, 2, 3, 4]
    with pytest.raises(edgecodec.BitstreamError, match="3 code lines"):
        manifest.stages_of(3)
    assert manifest.bitrates == (2.0, 6.0, 14.0, 22.0)
    assert manifest.stages(bitrate=14.2) == 3
    with pytest.raises(edgecodec.BitrateError):
        manifest.stages(bitrate=14.5)


@pytest.mark.parametrize(
    "changes",
    [{"channels": 2}, {"side": 1}, {"stage_widths": [1, 1, 1, 2]}, {"call_frames": 2}],
    ids=lambda changes: next(iter(changes)),
)
def test_what_cannot_run_yet_is_refused(altered: Callable[..., Path], changes: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match="this version of edgecodec cannot run bundles with"):
        edgecodec.load(altered({"format_version": 2} | changes))


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
    assert run("encode", "a.wav", "a.edgc", "--bundle", folder).exit_code == 0
    result = run("decode", "a.edgc", "b.wav", "--bundle", folder)
    assert result.exit_code == 0, result.output
    held = edgecodec.load(folder)
    audio, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    decoded, _ = soundfile.read(tmp_path / "b.wav", dtype="float32")
    assert np.abs(decoded - held.decode(held.encode(audio), samples=samples)[0, 0]).max() < 1e-4


def test_live_sound_refuses_what_is_held_back(altered: Callable[..., Path], run, clip: Path) -> None:
    result = run("live", "--input", clip, "--output", "b.wav", "--bundle", altered(STARTING))
    assert result.exit_code == 1
    assert "holds back 8 ms at the start of a stream" in " ".join(result.output.split())
