"""The README's own examples, run as they stand there."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CLIP = ROOT / "tests" / "audio" / "speech_ro.flac"


def block(section: str, language: str) -> str:
    """The first code block of a language under a heading."""
    text = re.split(rf"^## {re.escape(section)}$", README, flags=re.MULTILINE)[1]
    found = re.search(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    assert found is not None
    return found[1]


def run_shell_block(section: str, folder: Path) -> list[str]:
    """Run the commands under a heading, but those that install, in a folder; what each wrote to stdout."""
    lines = [line.split("  #")[0] for line in block(section, "sh").splitlines() if "pip install" not in line]
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(folder)}
    said = []
    for line in lines:
        command = ["bash", "-o", "pipefail", "-c", line]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)
        assert result.returncode == 0, f"{line}\n{result.stderr}"
        said.append(result.stdout)
    return said


def test_the_shell_examples_run(tmp_path: Path) -> None:
    audio, rate = soundfile.read(CLIP)
    soundfile.write(tmp_path / "speech.wav", audio, rate)
    assert len(run_shell_block("Encode and decode", tmp_path)) >= 5
    decoded, decoded_rate = soundfile.read(tmp_path / "decoded.wav")
    assert decoded_rate == rate and len(decoded) == len(audio)


def test_the_evaluation_examples_run(tmp_path: Path) -> None:
    audio, rate = soundfile.read(CLIP)
    (tmp_path / "held-out").mkdir()
    soundfile.write(tmp_path / "held-out" / "speech.wav", audio[rate : 3 * rate], rate)
    table, again, data = run_shell_block("Evaluate", tmp_path)
    assert [line.split()[1] for line in table.splitlines()[2:]] == ["1.5", "3", "6", "12"]
    assert {"speech", "Opus"} <= {line.split()[1] for line in again.splitlines()[2:]}
    assert {row["codec"] for row in json.loads(data)["rows"]} >= {"speech", "Opus"}
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_the_python_example_runs() -> None:
    audio, _ = soundfile.read(CLIP, dtype="float32")
    played: list[np.ndarray] = []
    names = {"audio": audio, "blocks": np.array_split(audio, 37), "play": played.append}
    exec(compile(block("Embed", "python"), "README.md", "exec"), names)
    codes, decoded = names["codes"], names["audio"]
    assert codes.shape[:2] == (1, 8)
    assert decoded.shape[:2] == (1, 1) and len(audio) <= decoded.shape[2] < len(audio) + 320
    assert sum(map(len, played)) == len(audio) // 320 * 320


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)]+)\)", README))
def test_links_lead_somewhere(target: str) -> None:
    assert target.startswith("http") or (ROOT / target).exists()


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`?make (\w+)", README)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
