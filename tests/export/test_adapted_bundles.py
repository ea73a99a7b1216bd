"""Somebody else's codec from its files to a bundle, and everything that is done with a bundle, one code path for all.

Small models of random weights; the modules that test each adapter make them, and compare them layer by layer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import edgecodec
import numpy as np
import pytest
import soundfile
import test_dac as of_dac
import test_encodec as of_encodec
import test_encodec_32khz as of_32
import test_encodec_48khz as of_48
import test_mimi as of_mimi
import test_snac as of_snac
import test_snac_windowed as of_windows
import torch
from edgecodec.commands.main import app
from edgecodec_export.audio import synthetic_voice
from safetensors.torch import save_file
from typer.testing import CliRunner

# The others go through the modules of their own; `make everything` takes all kinds.
KINDS = ["encodec 48"]
if os.environ.get("EVERYTHING"):
    KINDS += ["mimi", "dac", "snac", "snac windows", "encodec exact", "encodec 32", "encodec 32 exact"]
ROUNDING = 1e-5  # of decoded audio, where calls of other lengths add up in another order; codes are equal
HEAVY = {"encodec 32", "encodec 32 exact", "encodec 48", "dac", "snac", "snac windows"}  # that look ahead


def in_transformers_layout(model: Any, folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")


def saved(kind: str, folder: Path) -> Any:
    """Write a small model of a kind as its makers do; returns it."""
    if kind == "dac":
        model = of_dac.small_model(of_dac.RATIOS["even"])
    elif kind.startswith("encodec 32"):
        model = of_32.small_model(pad_mode="reflect" if "exact" in kind else "constant")
    elif kind == "encodec 48":
        model = of_48.small_model()
    elif kind.startswith("encodec"):
        model = of_encodec.small_model()
    elif kind == "mimi":
        model = of_mimi.random_model()
    else:
        windows = kind == "snac windows"
        model = of_windows.windowed_model() if windows else of_snac.small_model()
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(of_snac.CONFIG | (of_windows.CHANGES if windows else {})))
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        return model
    in_transformers_layout(model, folder)
    return model


class Case:
    """A bundle of one kind, exported through the command line."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.theirs = saved(kind, folder / "model")
        self.bundle = folder / "bundle"
        options = ["--start", "exact"] if "exact" in kind else []
        self.clip = folder / "clip.wav"
        soundfile.write(self.clip, synthetic_voice(0.5, 24_000), 24_000)
        self.report = run("export", folder / "model", self.bundle, "--clip", self.clip, "--json", *options)
        self.codec = edgecodec.load(self.bundle)

    def voice(self, seconds: float) -> np.ndarray[Any, Any]:
        rate = self.codec.sample_rate
        return synthetic_voice(seconds, rate)[: round(seconds * rate)]


def run(*args: object) -> dict[str, Any]:
    """The JSON of a command that succeeds."""
    done = CliRunner().invoke(app, [str(arg) for arg in args])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout) if "--json" in args else {}
    return found


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp("case"))


def test_the_manifest_says_what_the_graphs_need(case: Case) -> None:
    m = case.codec.manifest
    assert m.architecture == case.kind.split()[0]
    assert m.format_version == 2
    assert bool(m.ahead) == (case.kind in HEAVY)
    assert m.call_frames == (case.kind == "mimi")
    widths = {"snac": (1, 2, 4), "snac windows": (2, 4, 8, 16), "encodec 48": (of_48.COLUMNS,) * of_48.STAGES}
    assert m.stage_widths == widths.get(case.kind, ())
    assert (m.channels, m.side) == ((2, 4) if case.kind == "encodec 48" else (1, 0))
    assert m.start_frames.encoder > 1 or case.kind not in (*HEAVY, "encodec exact")
    assert m.parity["codes_equal"] > 0.99
    assert m.parity["streamed_audio_error"] <= 1e-4
    assert m.macs_per_second.encoder > 0 < m.macs_per_second.decoder
    card = (case.bundle / "MODEL_CARD.md").read_text()
    for what in (f"{1000 * m.latency.buffering / m.sample_rate:.1f} ms", str(m.quantizer.max_stages)):
        assert what in card


def test_latency_is_true(case: Case) -> None:
    """No more than the manifest says is ever held back, and once so much is; an impulse comes out where it went in."""
    m, codec = case.codec.manifest, case.codec
    frames = 3 * (m.start_frames.encoder + m.start_frames.decoder)
    encoder, decoder = codec.encoder_stream(), codec.decoder_stream()
    came, held = 0, []
    for i, block in enumerate(case.voice(frames * m.frame_size / m.sample_rate).reshape(frames, -1)):
        came += sum(len(decoder.push(packet)) for packet in encoder.push(block))
        held.append((i + 1) * m.frame_size - came)
    assert max(held) == m.held == m.latency.algorithmic - m.delay
    assert held[-1] == m.ahead


def test_streams_are_the_whole_clip(case: Case) -> None:
    codec, rng = case.codec, np.random.default_rng(1)
    for frames in (0.1, 1, 2, 9.5, 40):
        audio = case.voice(frames * codec.frame_size / codec.sample_rate)
        for size in (1, 3):
            encoder, decoder = codec.encoder_stream(frames_per_packet=size), codec.decoder_stream()
            cuts = np.sort(rng.integers(0, len(audio) + 1, 12))
            packets = [p for block in np.split(audio, cuts) for p in encoder.push(block)] + encoder.flush()
            codes = codec.encode(audio)
            assert np.array_equal(np.concatenate([p.codes for p in packets], axis=2), codes)
            heard = np.concatenate([*(decoder.push(packet) for packet in packets), decoder.flush()])
            whole = codec.decode(codes, samples=len(audio))[0, 0]
            assert np.abs(heard[: len(audio)] - whole).max() < ROUNDING


def test_batches_are_clips_alone(case: Case) -> None:
    clips = np.stack([case.voice(0.2), -case.voice(0.2), 0.1 * case.voice(0.2)])
    codes = case.codec.encode(clips[:, None])
    decoded = case.codec.decode(codes)
    for i, clip in enumerate(clips):
        assert np.array_equal(case.codec.encode(clip)[0], codes[i])
        assert np.abs(case.codec.decode(codes[i : i + 1])[0] - decoded[i]).max() < ROUNDING


def test_files_codes_and_pipes(case: Case, tmp_path: Path) -> None:
    rate = case.codec.sample_rate
    both = np.stack([case.voice(1.0), 0.5 * case.voice(1.0)[::-1]])
    soundfile.write(tmp_path / "a.wav", both.T, rate, subtype="FLOAT")
    stages = case.codec.max_stages
    run("encode", tmp_path / "a.wav", tmp_path / "a.edgc", "--bundle", case.bundle, "-q", stages)
    run("decode", tmp_path / "a.edgc", tmp_path / "b.wav", "--bundle", case.bundle)
    decoded, _ = soundfile.read(tmp_path / "b.wav", dtype="float32")
    expected = case.codec.decode(case.codec.encode(both, stages=stages), samples=rate).reshape(2, rate)
    assert np.abs(decoded.T - np.clip(expected, -1, 1)).max() < 1e-4
    run("codes", tmp_path / "a.edgc", tmp_path / "a.safetensors")
    run("codes", tmp_path / "a.safetensors", tmp_path / "c.edgc", "--bundle", case.bundle)
    assert (tmp_path / "a.edgc").read_bytes() == (tmp_path / "c.edgc").read_bytes()
    assert run("verify", case.bundle) == {}
    found = run("info", case.bundle, "--json")
    assert found["latency_ms"]["algorithmic"] >= found["latency_ms"]["lookahead"]


def test_live_and_loss(case: Case, tmp_path: Path) -> None:
    rate, audio = case.codec.sample_rate, case.voice(1.0)
    soundfile.write(tmp_path / "a.wav", audio, rate, subtype="FLOAT")
    run("live", "--input", tmp_path / "a.wav", "--output", tmp_path / "b.wav", "--bundle", case.bundle)
    assert soundfile.info(tmp_path / "b.wav").frames == rate
    loss = ["simulate-loss", tmp_path / "a.wav", tmp_path / "c.wav", "--bundle", case.bundle, "--loss", 10, "--json"]
    found = run(*loss, "--redundancy", 1)
    assert found["lost"] == found["recovered"] + found["concealed"]
    heard, _ = soundfile.read(tmp_path / "c.wav", dtype="float32")
    assert heard.shape == audio.shape


def test_fp16(case: Case, tmp_path: Path) -> None:
    if case.kind != "mimi":
        pytest.skip("one will do: exporting is slow, and DAC's module looks at its numbers in fp16")
    call = ["export", case.bundle.parent / "model", tmp_path / "half", "--precision", "fp16", "--clip", case.clip]
    report = run(*call, "--json")
    assert report["manifest"]["precision"] == "fp16-storage"
    assert report["bytes"] < 0.9 * case.report["bytes"]


def test_int8_where_there_is_a_transformer(case: Case, tmp_path: Path) -> None:
    (tmp_path / "sounds").mkdir()
    soundfile.write(tmp_path / "sounds" / "a.wav", case.voice(4.0), case.codec.sample_rate)
    call = ["export", case.bundle.parent / "model", tmp_path / "int8", "--precision", "int8"]
    done = CliRunner().invoke(app, [str(arg) for arg in (*call, "--calibration", tmp_path / "sounds")])
    assert done.exit_code == 1
    assert "has no layer that is large enough to gain from int8" in " ".join(done.output.split())
    assert not (tmp_path / "int8").exists()


def test_start_is_encodecs_alone(case: Case, tmp_path: Path) -> None:
    if case.kind.startswith("encodec"):
        pytest.skip("has both")
    call = ["export", str(case.bundle.parent / "model"), str(tmp_path / "b"), "--start", "exact"]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 1
    assert f"--start is EnCodec's, {case.codec.manifest.architecture} starts in one way" in done.output


def test_codes_are_theirs(case: Case) -> None:
    """What the original makes of the same clip, at every stage count, up to near ties."""
    audio = case.voice(0.4)
    audio = audio[: len(audio) // case.codec.frame_size * case.codec.frame_size]
    x, most = torch.from_numpy(audio)[None, None], case.codec.max_stages
    if case.kind.startswith("snac"):
        theirs, widths = case.theirs.encode(x), case.codec.manifest.stage_widths
        lines = [code.reshape(1, -1, w).transpose(1, 2) for code, w in zip(theirs, widths, strict=True)]
        expected = torch.cat(lines, dim=1).numpy()
    elif case.kind == "dac":
        expected = case.theirs.encode(x).audio_codes.numpy()
    elif case.kind == "mimi":
        expected = case.theirs.encode(x, num_quantizers=most).audio_codes.numpy()
    elif case.kind == "encodec 48":
        expected = of_48.as_lines(of_48.their_codes(case.theirs, x.repeat(1, 2, 1), most)[0][:-1]).numpy()
    else:
        expected = case.theirs.encode(x, bandwidth=case.theirs.config.target_bandwidths[-1]).audio_codes[0].numpy()
    for n in range(1, most + 1):
        codes = case.codec.encode(audio, stages=n)[:, case.codec.manifest.side :]
        same = codes[..., :-1] == expected[:, : codes.shape[1], : codes.shape[2] - 1]
        assert same.mean() > 0.995
    wrong = case.codec.encode(-audio)[:, case.codec.manifest.side :]
    assert (wrong[..., :-1] == expected[:, : wrong.shape[1], : wrong.shape[2] - 1]).mean() < 0.9


@pytest.mark.parametrize("kind", ["encodec", "dac", "mimi"])
def test_codes_at_32_stages(kind: str, runner: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As deep as the published quantizers go, on the same latents, with a residual that falls to the last stage."""
    module: Any = {"encodec": of_encodec, "dac": of_dac, "mimi": of_mimi}[kind]
    if kind == "mimi":
        model = module.random_model(num_quantizers=32)
        latents = model.encoder(module.noise(200)).latents  # that its codebooks were drawn from
        expected = model.quantizer.encode(latents, 32).transpose(0, 1)
    else:
        monkeypatch.setattr(module, "STAGES", 32)
        model = module.small_model(module.RATIOS["even"]) if kind == "dac" else module.small_model()
        clip = module.voice(330, 64) if kind == "dac" else module.voice(330)
        latents = model.encoder(clip[None, None])[..., 30:]
        if kind == "dac":
            expected = model.quantizer(latents)[1]
        else:
            expected = model.quantizer.encode(latents, model.config.target_bandwidths[-1]).transpose(0, 1)
    quantizer, x = module.adapted(model).quantizer, latents.transpose(1, 2)
    if kind == "mimi":  # two groups search the same latents: what is left of them together does not fall
        group = model.quantizer.acoustic_residual_vector_quantizer
        rest, left = group.input_proj(latents), []
        for layer in group.layers:
            rest = rest - layer.decode(layer.encode(rest))
            left.append(float(rest.square().mean()))
        left = left[::10]
    else:
        left = [float((quantizer.decode(quantizer.encode(x, n)) - x).square().mean()) for n in (1, 8, 16, 24, 32)]
    assert all(later < 0.9 * earlier for earlier, later in pairwise(left))
    assert left[-1] > 1e-9 * left[0]  # and is no rounding noise
    codes = runner(quantizer.graphs()["quantizer_encode"])(x.numpy(), np.array(32))[0]
    assert codes.shape == expected.shape
    assert (codes == expected.numpy()).mean() > 0.995
