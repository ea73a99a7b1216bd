"""Real speech in the shapes that training meets: shards, folders, several rates and formats."""

import dataclasses
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from edgecodec_training.config import Config, from_dict

torch.set_num_threads(1)  # more wait for each other on a busy machine, and take longer than one

AUDIO = Path(__file__).parents[1] / "audio"

TINY = {
    "model": {
        "frame_size": 160,
        "latent_dim": 8,
        "sample_rate": 16_000,
        "edge": {"channels": 16, "encoder_blocks": 1, "decoder_blocks": 1},
        "quantizer": {"codebook_size": 16, "max_stages": 4, "dropout_stages": [1, 2, 4]},
    },
    "loss": {"mel_windows": [256, 512], "mel_bands": [20, 40], "loudness_windows": [512], "stft_windows": [512]},
    "optimizer": {"warmup_steps": 5, "decay_steps": 10},
    "run": {
        "steps": 12,
        "batch_size": 2,
        "clip_seconds": 0.3,
        "codebook_seconds": 6.0,
        "log_every": 3,
        "save_minutes": 0.01,
        "validate_every": 12,
    },
}


@pytest.fixture(scope="session")
def tiny_config() -> Config:
    return from_dict(Config, TINY)


@pytest.fixture(scope="session")
def speech_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings as WAV at 24 kHz, stereo FLAC at 48 kHz and Ogg Vorbis, in nested folders."""
    folder = tmp_path_factory.mktemp("speech")
    spanish, rate = soundfile.read(AUDIO / "speech_es.flac", dtype="float32")
    romanian, _ = soundfile.read(AUDIO / "speech_ro.flac", dtype="float32")
    (folder / "deep" / "er").mkdir(parents=True)
    soundfile.write(folder / "a.wav", spanish[: 3 * rate], rate)
    soundfile.write(folder / "deep" / "b.flac", np.repeat(romanian, 2)[:, None].repeat(2, axis=1), 2 * rate)
    soundfile.write(folder / "deep" / "er" / "c.ogg", romanian[:rate], rate)
    (folder / "notes.txt").write_text("not audio")
    return folder


@pytest.fixture(scope="session")
def valid_folder(speech_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one recording of three seconds, which is soon scored."""
    folder = tmp_path_factory.mktemp("valid")
    shutil.copy(speech_folder / "a.wav", folder)
    return folder


@pytest.fixture(scope="session")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WebDataset shard: a full-band clip, one that stops at 4 kHz, and one of noise."""
    path = tmp_path_factory.mktemp("shard") / "shard-000.tar"
    speech, rate = soundfile.read(AUDIO / "speech_ro.flac", dtype="float32")
    with tarfile.open(path, "w") as tar:
        for key, kind, bandwidth in (
            ("full", "speech", 12_000),
            ("narrow", "speech", 4_000),
            ("hiss", "noise", 12_000),
        ):
            data = io.BytesIO()
            soundfile.write(data, speech[: 2 * rate], rate, format="FLAC")
            note = {"seconds": 2.0, "sample_rate": rate, "kind": kind, "bandwidth_hz": bandwidth}
            for suffix, payload in (("flac", data.getvalue()), ("json", json.dumps(note).encode())):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(payload)
                tar.addfile(member, io.BytesIO(payload))
    return path


def _as_toml(values: dict[str, Any], where: str = "") -> str:
    """Plain values first, then the tables below; TOML writes our scalars and lists as JSON does."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items() if not isinstance(value, dict)]
    tables = [_as_toml(value, f"{where}{key}.") for key, value in values.items() if isinstance(value, dict)]
    return "\n".join([f"[{where[:-1]}]" if where else "", *lines, *tables])


@pytest.fixture(scope="session")
def write_config() -> Callable[[Config, Path], None]:
    """`write_config(config, path)`: a TOML file that says the same."""

    def write(config: Config, path: Path) -> None:
        path.write_text(_as_toml(dataclasses.asdict(config)))

    return write
