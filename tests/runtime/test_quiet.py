"""A codec touches nothing but what it was given: no network, and no file that nobody asked for."""

import os
import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest

PROGRAM = """
import sys
import edgecodec, soundfile
audio, _ = soundfile.read(sys.argv[1], dtype="float32")
codec = edgecodec.load(*sys.argv[2:])
codec.decode(codec.encode(audio[:24000]))
"""
SPEECH = Path(__file__).parents[1] / "audio" / "speech_es.flac"
_WRITING = ("O_WRONLY", "O_RDWR", "O_CREAT", "mkdir(", "unlink(", "rename(", "creat(")


def traced(folder: Path, *command: str | Path, **variables: str) -> list[str]:
    """The system calls of a program, and of all that it starts, which reach for the network or change files."""
    log = folder / "calls"
    home = {name: str(folder) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}
    environment = {
        name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "EDGECODEC_TRUST")
    }
    subprocess.run(
        ["strace", "-f", "-e", "trace=network,file", "-o", log, *command],
        env=environment | home | {"PYTHONDONTWRITEBYTECODE": "1"} | variables,
        check=True,
        capture_output=True,
    )
    calls = log.read_text().splitlines()
    return [c for c in calls if any(word in c for word in (*_WRITING, "socket(", "connect(")) and "ENOENT" not in c]


@pytest.fixture(autouse=True)
def _strace(need) -> None:
    need(lambda: which("strace") is not None, "strace")


def test_encoding_reaches_for_nothing(tmp_path: Path) -> None:
    assert traced(tmp_path, sys.executable, "-c", PROGRAM, SPEECH) == []


def test_the_trial_of_a_bundle_writes_what_it_found_alone(tmp_path: Path) -> None:
    bundle = SPEECH.parents[1] / "runtime" / "tiny_bundle"
    calls = traced(tmp_path, sys.executable, "-c", PROGRAM, SPEECH, bundle)
    assert any("tried-bundles" in call for call in calls)
    assert all(f'"{tmp_path}/edgecodec' in call or '"/dev/null"' in call for call in calls), calls
    assert traced(tmp_path, sys.executable, "-c", PROGRAM, SPEECH, bundle) == []  # once


def test_the_command_writes_its_output_alone(tmp_path: Path) -> None:
    command = Path(sys.executable).parent / "edgecodec"
    calls = traced(tmp_path, command, "encode", SPEECH, tmp_path / "out.edgc")
    assert calls
    assert all("out.edgc" in call or f'"{tmp_path}/.edgecodec-' in call for call in calls), calls


def test_a_users_own_choice_stays(tmp_path: Path) -> None:
    show = "import os, edgecodec; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    for choice in ("0", "1"):
        environment = os.environ | {"ORT_DISABLE_TELEMETRY": choice}
        said = subprocess.run([sys.executable, "-c", show], env=environment, capture_output=True, text=True, check=True)
        assert said.stdout.strip() == choice
