"""The whole path by its commands: train by the full recipe, in two legs, export, verify, encode, decode, evaluate."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from edgecodec.commands.main import app
from typer.testing import CliRunner

AUDIO = Path(__file__).parent / "audio"
SMALL = {  # what makes the recipe for data-centre GPUs a matter of seconds on a CPU
    "model": {"sample_rate": 16_000, "frame_size": 160, "latent_dim": 16},
    "model.edge": {"channels": 16, "encoder_blocks": 1, "decoder_blocks": 1},
    "model.quantizer": {"codebook_size": 64, "max_stages": 4, "dropout_stages": [1, 2, 4]},
    "loss": {"mel_windows": [256], "mel_bands": [20], "loudness_windows": [256], "stft_windows": [512]},
    "data": {"threads": 2},
    "discriminators": {"start_step": 4, "stft_windows": [256], "periods": [2, 3], "channels": 4},
    "optimizer": {"warmup_steps": 2, "decay_steps": 4},
    "run": {"batch_size": 2, "clip_seconds": 0.5, "codebook_seconds": 6.0, "log_every": 1, "compiled": False},
}
SETTINGS = [f"--set={table}.{key}={json.dumps(value)}" for table, keys in SMALL.items() for key, value in keys.items()]


def run(*args: object) -> str:
    """Output of a command that must succeed."""
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.timeout(120)
def test_train_export_encode_decode_evaluate(tmp_path: Path) -> None:
    bundle, coded = tmp_path / "bundle", tmp_path / "speech.edgc"
    call = ["train", "--data", AUDIO, "--valid", AUDIO, "--out", tmp_path / "run"]
    run(*call, "--config", "edge-gpu", *SETTINGS, "--steps", 6)
    run(*call, "--resume", "--steps", 8)
    [checkpoint] = (tmp_path / "run").glob("step-*/checkpoint.json")
    first, second = json.loads(checkpoint.read_text())["ledger"]
    assert ["adversarial" in losses for losses in first["losses"]] == [False] * 4 + [True] * 2
    assert all(np.isfinite(value) for losses in first["losses"] + second["losses"] for value in losses.values())
    assert second["validations"][-1]["step"] == 8
    run("export", tmp_path / "run", bundle, "--name", "tiny", "--clip", AUDIO / "speech_ro.flac")
    assert "100.00%" in run("verify", bundle)

    speech, rate = soundfile.read(AUDIO / "speech_es.flac", dtype="float32")
    run("encode", AUDIO / "speech_es.flac", coded, "--bundle", bundle, "-q", 2)
    run("decode", coded, tmp_path / "decoded.wav", "--bundle", bundle)
    decoded, decoded_rate = soundfile.read(tmp_path / "decoded.wav", dtype="float32")
    assert (decoded_rate, decoded.shape) == (rate, speech.shape)
    assert np.isfinite(decoded).all()

    text = run("evaluate", "--fixed", bundle, "--data", AUDIO, "--limit", 1, "-q", 1, "-q", 4, "--json")
    rows: list[dict[str, Any]] = json.loads(text)["rows"]
    assert [row["stages"] for row in rows] == [1, 4]
    worst, best = ({name: measure["mean"] for name, measure in row["measures"].items()} for row in rows)
    assert best["si_sdr"] > worst["si_sdr"]  # a transform codec from its first step: more stages, more of the wave
    assert best["estoi"] > worst["estoi"]
    assert best["mel_distance"] < worst["mel_distance"]
