"""The command `doctor`, on this machine: what it says, and what it finds wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EDGECODEC = Path(sys.executable).parent / "edgecodec"
TINY = Path(__file__).parent / "tiny_bundle"


def doctor(*args: object, **variables: str) -> subprocess.CompletedProcess:
    command = [EDGECODEC, "doctor", "--bundle", TINY, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | variables, check=False)


def test_what_it_says_of_this_machine() -> None:
    done = doctor()
    assert done.returncode == 0, done.stderr
    words = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert words["python"] == sys.version.split()[0]
    assert words["CPUExecutionProvider"] == "passes: 100.00% of the golden codes at least"
    assert "real time" in words["speed"]
    assert words["sound"]


def test_as_json() -> None:
    found = json.loads(doctor("--json").stdout)
    assert {"versions", "machine", "providers", "devices", "speed", "faults"} == set(found)
    assert [p["passed"] for p in found["providers"] if p["provider"] == "CPUExecutionProvider"] == [True]
    assert found["speed"]["encode_ms"] > 0


def test_telemetry_that_somebody_turned_on() -> None:
    assert "telemetry is on" in doctor(ORT_DISABLE_TELEMETRY="0").stdout
    assert "telemetry" not in doctor(ORT_DISABLE_TELEMETRY="1").stdout


@pytest.mark.parametrize("broken", ["none", "spoiled"])
def test_a_bundle_that_does_not_run(tmp_path: Path, broken: str) -> None:
    if broken == "spoiled":
        (tmp_path / broken).mkdir()
        for path in TINY.iterdir():
            (tmp_path / broken / path.name).write_bytes(path.read_bytes()[:-1])
    done = doctor("--bundle", tmp_path / broken)
    assert done.returncode == 1
    assert "FAULT" in done.stdout
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("edgecodec: this machine does not run the codec")
