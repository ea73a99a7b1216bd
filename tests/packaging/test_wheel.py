"""The built wheel in a clean environment: light, complete, and able to encode without torch, onnx or scipy."""

import json
import subprocess
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLIP = ROOT / "tests" / "audio" / "speech_ro.flac"


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of a fresh environment that holds the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=True)
    install = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return folder / "bin"


def run(command: list[str | Path], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False)


def test_the_wheel_is_light_and_holds_the_bundle(wheel: Path) -> None:
    import zipfile

    names = zipfile.ZipFile(wheel).namelist()
    bundle = "edgecodec_models/speech/"
    for name in ("manifest.json", "encoder.onnx", "quantizer_encode.onnx", "quantizer_decode.onnx", "decoder.onnx"):
        assert bundle + name in names
    for name in ("golden.npz", "entropy.npz", "MODEL_CARD.md", "LICENSE"):
        assert bundle + name in names
    assert "edgecodec/py.typed" in names
    for name in ("page/index.html", "edgecodec/web.js", "package-lock.json"):
        assert f"edgecodec_web/{name}" in names
    assert not [name for name in names if "checkpoint" in name and name.endswith(".safetensors")]
    assert wheel.stat().st_size < 13e6


def test_the_base_install_has_no_heavy_packages(clean: Path, tmp_path: Path) -> None:
    listed = run([clean / "pip", "list", "--format", "json", "--disable-pip-version-check"], tmp_path)
    installed = {package["name"].lower() for package in json.loads(listed.stdout)}
    assert "edgecodec" in installed
    assert not installed & {"torch", "onnx", "onnxscript", "scipy", "safetensors", "tensorboard"}


def test_the_base_install_encodes_and_decodes(clean: Path, tmp_path: Path) -> None:
    encoded = run([clean / "edgecodec", "encode", CLIP, "speech.edgc", "-b", "3"], tmp_path)
    assert encoded.returncode == 0, encoded.stderr
    assert 0.9 * 3000 / 8 * 4.55 < (tmp_path / "speech.edgc").stat().st_size < 1.2 * 3000 / 8 * 4.55
    decoded = run([clean / "edgecodec", "decode", "speech.edgc", "speech.wav"], tmp_path)
    assert decoded.returncode == 0, decoded.stderr
    code = "import soundfile; print(soundfile.info('speech.wav').frames)"
    assert int(run([clean / "python", "-c", code], tmp_path).stdout) == 109_200


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["export", "checkpoint", "bundle"], "export"),
        (["train", "--data", "audio", "--out", "run"], "train"),
        (["evaluate", "speech", "--data", "audio"], "eval"),
    ],
)
def test_missing_extras_are_named(clean: Path, tmp_path: Path, command: list[str | Path], extra: str) -> None:
    result = run([clean / "edgecodec", *command], tmp_path)
    assert result.returncode == 1
    assert f"pip install 'edgecodec[{extra}]'" in result.stderr
    assert "Traceback" not in result.stderr
