"""The tiny bundle, a codec of it, and sounds; no torch and no device."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import edgecodec
import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

HERE = Path(__file__).parent
TINY = HERE / "tiny_bundle"


@pytest.fixture(scope="session")
def tiny() -> Path:
    return TINY


@pytest.fixture(scope="session")
def codec() -> edgecodec.Codec:
    return edgecodec.load(TINY)


@pytest.fixture(scope="session")
def maker():
    """The module that made the tiny bundle."""
    import make_tiny_bundle  # needs onnx, which the base install has not

    return make_tiny_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the tiny bundle to spoil."""
    return Path(shutil.copytree(TINY, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with an entropy model, which was never trained: sharp, and wrong."""
    from test_code_coder import npz, random_arrays

    folder = Path(shutil.copytree(TINY, tmp_path_factory.mktemp("told") / "bundle"))
    data = npz(random_arrays(4, 16, 0))
    (folder / "entropy.npz").write_bytes(data)
    path = folder / "manifest.json"
    entry = {"file": "entropy.npz", "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 2, "entropy": entry}))
    return folder


@pytest.fixture(scope="session")
def voice():
    """voice(samples, seed) -> float32 [samples]."""

    def make(samples: int, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        t = np.arange(samples) / 8000
        tones = sum(np.sin(2 * np.pi * 110 * k * t + seed) / k for k in range(1, 9))
        return (0.2 * tones * (0.6 + 0.4 * np.sin(5 * t)) + 0.01 * rng.standard_normal(samples)).astype(np.float32)

    return make


@pytest.fixture
def clip(tmp_path: Path, voice) -> Path:
    """A second of 16-bit WAV at 8 kHz."""
    path = tmp_path / "clip.wav"
    soundfile.write(path, voice(8000), 8000)
    return path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """run("encode", …) -> Result, in the temporary folder; checks that no traceback and no temporary file is left."""
    monkeypatch.chdir(tmp_path)

    def call(*args: object, stdin: bytes | None = None) -> Result:
        from edgecodec.commands.main import app

        result = CliRunner().invoke(app, [str(arg) for arg in args], input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert not list(tmp_path.glob(".edgecodec-*"))
        return result

    return call
