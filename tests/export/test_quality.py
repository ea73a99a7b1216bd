"""`edgecodec evaluate`: rows, kinds, what it refuses, and how it prints."""

import json
from pathlib import Path
from typing import Any

import edgecodec
import pytest
import soundfile
from edgecodec.cli import app
from edgecodec_export.quality import table, usual_stages
from typer.testing import CliRunner

AUDIO = Path(__file__).parents[1] / "audio"


def invoke(*args: object) -> Any:
    return CliRunner().invoke(app, ["evaluate", *(str(arg) for arg in args)])


def squeezed(line: str) -> str:
    return " ".join(line.split())


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of speech and one that counts as music."""
    folder = tmp_path_factory.mktemp("clips")
    for name in ("es", "ro"):
        speech, rate = soundfile.read(AUDIO / f"speech_{name}.flac")
        soundfile.write(folder / f"{name}.wav", speech[: 2 * rate], rate)
    soundfile.write(folder / "song.wav", speech[-rate:], rate)
    (folder / "manifest.csv").write_text("file,kind\nes.wav,speech\nro.wav,speech\nsong.wav,music\n")
    return folder


def test_rows_by_stages_and_bitrate(bundle: Path, clips: Path) -> None:
    result = invoke(bundle, "--data", clips, "-q", 4, "-b", 2, "--limit", 1, "--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [(row["stages"], row["kbps"], row["clips"]) for row in rows] == [(2, 2.0, 1), (4, 4.0, 1)]
    assert rows[1]["si_sdr"] > rows[0]["si_sdr"]


def test_all_kinds_that_there_are(bundle: Path, clips: Path) -> None:
    result = invoke(bundle, "--data", clips, "-q", 1, "--kind", "all")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert squeezed(lines[0]) == "| kind | kbps | stages | PESQ-WB | ESTOI | SI-SDR dB | mel distance |"
    assert [line.split()[1] for line in lines[2:]] == ["speech", "music"]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["--kind", "noise"], 1, "no noise clips"),
        (["-q", "9"], 2, "1 to 4 stages, not 9"),
        (["-b", "7"], 2, "possible: 1, 2, 3, 4 kbps"),
    ],
)
def test_refusals(bundle: Path, clips: Path, arguments: list[str], exit_code: int, message: str) -> None:
    result = invoke(bundle, "--data", clips, *arguments)
    assert result.exit_code == exit_code
    assert message in result.output
    assert len(result.output.splitlines()) == 1


def test_missing_folder(bundle: Path, tmp_path: Path) -> None:
    result = invoke(bundle, "--data", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert "nowhere" in result.output


def test_usual_bitrates_where_there_are_any(bundle: Path) -> None:
    assert usual_stages(edgecodec.load(bundle)) == [3]  # 3 kbps; 1.5, 6 and 12 are not among 1, 2, 3, 4


def test_a_measure_that_no_clip_has() -> None:
    row = {"kind": "noise", "clips": 1, "kbps": 1.5, "stages": 2, "pesq_wb": None, "estoi": 0.5, "si_sdr": -1.0}
    assert squeezed(table([row | {"mel_distance": 0.2}])[2]) == "| 1.5 | 2 | - | 0.500 | -1.0 | 0.200 |"
