"""Quiet recordings are made louder before they are encoded, and come back as quiet as they were."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import edgecodec
import numpy as np
import pytest
import soundfile
from edgecodec.bitstream import Reader, Writer
from edgecodec.commands.main import app
from edgecodec.errors import BitstreamError
from edgecodec.evaluation.measures import mel_distance
from edgecodec.files.edgc import make_header
from edgecodec.files.encoding import Rate
from edgecodec.files.in_memory import decode_clip, encode_clip
from edgecodec.files.level import gain_of
from typer.testing import CliRunner

RATE = 24_000
CLIP = Path(__file__).parents[1] / "audio" / "speech_ro.flac"


@pytest.fixture(scope="module")
def speech() -> edgecodec.Codec:
    return edgecodec.load("speech")


@pytest.fixture(scope="module")
def usual() -> np.ndarray:
    """Speech as loud as it usually is, [samples]."""
    audio, rate = soundfile.read(CLIP, dtype="float32")
    assert rate == RATE
    return audio


def run(*words: object, **how) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], **how)
    assert result.exit_code == 0, result.output
    return result.stdout


def rms(audio: np.ndarray) -> float:
    return float(np.sqrt(np.square(audio, dtype=np.float64).mean()))


@pytest.mark.parametrize("quieter", [0, 1, 10, 20, 33])
def test_only_what_is_quiet_is_made_louder(usual: np.ndarray, quieter: int) -> None:
    gain = gain_of([usual[None] * np.float32(10 ** (-quieter / 20))], RATE)
    most = -1 - 20 * np.log10(np.abs(usual).max()) + quieter  # where its peaks come to full scale
    assert gain == 0 if quieter < 6 else quieter - 4 <= gain <= min(quieter + 4, most)


def test_how_audio_is_cut_into_blocks_changes_nothing(usual: np.ndarray) -> None:
    quiet = 0.02 * np.stack([usual, usual[::-1]])
    whole = gain_of([quiet], RATE)
    assert whole >= 20
    for size in (1, 999, 2400, 10_000):
        blocks = [quiet[:, start : start + size] for start in range(0, quiet.shape[1] if size > 1 else 5000, size)]
        assert gain_of(blocks, RATE) == gain_of([np.concatenate(blocks, axis=1)], RATE)


def test_peaks_stay_below_full_scale_and_silence_stays_silence(usual: np.ndarray) -> None:
    quiet = 0.01 * usual[None]
    quiet[0, 5000] = 0.2
    assert 6 <= gain_of([quiet], RATE) <= 12
    quiet[0, 5000] = 1.0
    assert gain_of([quiet], RATE) == 0
    assert gain_of([np.zeros((2, RATE), np.float32)], RATE) == gain_of([], RATE) == 0
    assert gain_of([1e-5 * usual[None] / rms(usual)], RATE) == 0  # at -100 dBFS there is nothing
    assert gain_of([np.full((1, 100), 0.01, np.float32)], RATE) == 18  # shorter than what is measured at a time


def test_a_quiet_file_comes_back_as_quiet_and_sounds_better(tmp_path: Path, usual: np.ndarray) -> None:
    scale = np.float32(0.02)
    soundfile.write(tmp_path / "quiet.wav", scale * usual, RATE, subtype="FLOAT")
    told = json.loads(run("encode", tmp_path / "quiet.wav", tmp_path / "quiet.edgc", "-b", 6, "--json"))
    assert told["gain"] == json.loads(run("info", tmp_path / "quiet.edgc", "--json"))["gain_db"] >= 25
    run("encode", tmp_path / "quiet.wav", tmp_path / "as_it_is.edgc", "-b", 6, "--gain", 0)
    assert json.loads(run("info", tmp_path / "as_it_is.edgc", "--json"))["gain_db"] == 0
    distances = []
    for name in ("quiet", "as_it_is"):
        run("decode", tmp_path / f"{name}.edgc", tmp_path / f"{name}_again.wav")
        again, rate = soundfile.read(tmp_path / f"{name}_again.wav", dtype="float32")
        assert (rate, len(again)) == (RATE, len(usual))
        distances.append(mel_distance(usual, again / scale, RATE))
    again = soundfile.read(tmp_path / "quiet_again.wav", dtype="float32")[0]
    assert rms(again) == pytest.approx(scale * rms(usual), rel=0.15)
    assert distances[0] < 0.8 * distances[1]


def test_the_codes_are_those_of_the_louder_audio(speech: edgecodec.Codec, usual: np.ndarray) -> None:
    audio = np.float32(0.03) * usual[None]
    data = encode_clip(speech, audio, Rate(stages=4), gain=20)
    louder = encode_clip(speech, audio * np.float32(10), Rate(stages=4), gain=0)
    header = Reader(io.BytesIO(data)).header
    assert (header.gain, header.amplitude) == (20, 10.0)
    assert len(data) == len(louder) + 1
    assert data[len(header.to_bytes()) :] == louder[len(header.to_bytes()) - 1 :]
    assert np.abs(decode_clip(speech, data) - decode_clip(speech, louder) / 10).max() < 1e-6


def test_a_pipe_is_left_as_it_is_unless_a_gain_is_given(tmp_path: Path, usual: np.ndarray) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.02 * usual, RATE, format="WAV")
    for gain, words in ((0, ()), (30, ("--gain", 30))):
        run("encode", "-", tmp_path / "out.edgc", "-b", 3, "-f", *words, input=buffer.getvalue())
        assert json.loads(run("info", tmp_path / "out.edgc", "--json"))["gain_db"] == gain


def test_trimmed_files_parts_and_arrays_keep_the_level(tmp_path: Path, usual: np.ndarray) -> None:
    soundfile.write(tmp_path / "quiet.wav", 0.02 * usual, RATE, subtype="FLOAT")
    run("encode", tmp_path / "quiet.wav", tmp_path / "quiet.edgc", "--cbr", "-b", 6, "--gain", 24)
    run("trim", tmp_path / "quiet.edgc", tmp_path / "less.edgc", "-q", 4)
    assert json.loads(run("info", tmp_path / "less.edgc", "--json"))["gain_db"] == 24
    run("codes", tmp_path / "quiet.edgc", tmp_path / "codes.npz")
    assert np.load(tmp_path / "codes.npz")["gain"] == 24
    run("codes", tmp_path / "codes.npz", tmp_path / "back.edgc")
    run("decode", tmp_path / "quiet.edgc", tmp_path / "whole.wav")
    run("decode", tmp_path / "back.edgc", tmp_path / "back.wav")
    run("decode", tmp_path / "quiet.edgc", tmp_path / "part.wav", "--start", 1.5, "--duration", 1)
    whole, back, part = (soundfile.read(tmp_path / f"{name}.wav")[0] for name in ("whole", "back", "part"))
    assert np.array_equal(whole, back)
    assert np.array_equal(whole[36_000:60_000], part)


def test_arrays_of_audio_take_no_gain(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", np.zeros(RATE), RATE)
    call = ["encode", str(tmp_path / "in"), str(tmp_path / "out"), "--recursive", "--format", "npz", "--gain", "6"]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 2
    assert "arrays hold the codes of the audio as it is" in " ".join(result.output.replace("│", " ").split())


def test_many_files_are_made_louder_each_by_itself(tmp_path: Path, usual: np.ndarray) -> None:
    (tmp_path / "in").mkdir()
    for name, scale in (("usual", 1.0), ("quiet", 0.03)):
        soundfile.write(tmp_path / "in" / f"{name}.wav", scale * usual, RATE, subtype="FLOAT")
        run("encode", tmp_path / "in" / f"{name}.wav", tmp_path / f"{name}.edgc", "-b", 3)
    run("encode", tmp_path / "in", tmp_path / "out", "--recursive", "-b", 3, "--workers", 1)
    for name in ("usual", "quiet"):
        data = (tmp_path / "out" / f"{name}.edgc").read_bytes()
        assert data == (tmp_path / f"{name}.edgc").read_bytes()
        assert bool(Reader(io.BytesIO(data)).header.gain) == (name == "quiet")


def test_headers(speech: edgecodec.Codec) -> None:
    plain = make_header(speech, RATE, 1, 4)
    louder = replace(plain, gain=20)
    assert len(louder.to_bytes()) == len(plain.to_bytes()) + 1
    for header in (plain, louder):
        file = io.BytesIO()
        with Writer(file, header) as writer:
            writer.samples = 0
        assert Reader(io.BytesIO(file.getvalue())).header == header
    for wrong in ({"gain": -1}, {"gain": 61}, {"gain": 3, "version": 1, "model": bytes(8)}):
        with pytest.raises(BitstreamError, match="out of range"):
            replace(plain, **wrong)
