"""`edgecodec evaluate`: rows, intervals, kinds, formats, codebook use, and what it refuses."""

import csv
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import edgecodec
import numpy as np
import pytest
import soundfile
from edgecodec.codebook_use import codebook_use
from edgecodec.commands.main import app
from edgecodec.errors import DataError
from edgecodec.evaluation.quality import Estimate, measure, usual_stages
from edgecodec.evaluation.score_tables import markdown, mean_cells
from typer.testing import CliRunner

AUDIO = Path(__file__).parents[1] / "audio"
SPEECH = (AUDIO / "speech_ro.flac").read_bytes()
EMPTY = b"RIFF$\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\xc0\x5d\0\0\x80\xbb\0\0\x02\0\x10\0data\0\0\0\0"


def invoke(*args: object) -> Any:
    return CliRunner().invoke(app, ["evaluate", "--fixed", *(str(arg) for arg in args)])


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


def test_files_are_scored_beside_fixed_stage_counts(tiny: Path, clips: Path) -> None:
    """All bytes counted: the mean is what was asked for, but for what a short clip's heads weigh."""
    result = invoke(tiny, "--data", clips, "-b", "4", "--limit", "1", "--json", "--variable")
    fixed, variable = json.loads(result.stdout)["rows"]
    assert (fixed["codec"], fixed["stages"], fixed["kbps"]) == ("tiny", 2, 4.0)
    assert (variable["codec"], variable["stages"]) == ("tiny, files", None)
    assert variable["kbps"] == pytest.approx(4.0, rel=0.1)


def test_rows_by_stages_and_bitrate(tiny: Path, clips: Path) -> None:
    result = invoke(tiny, "--data", clips, "-q", 4, "-b", 4, "--limit", 1, "--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert [(row["codec"], row["stages"], row["kbps"], row["clips"]) for row in rows] == [
        ("tiny", 2, 4.0, 1),
        ("tiny", 4, 8.0, 1),
    ]
    assert rows[1]["measures"]["si_sdr"]["mean"] > rows[0]["measures"]["si_sdr"]["mean"]
    assert all(row["encode_rtf"] > 1 and row["decode_rtf"] > 1 for row in rows)
    assert rows[0]["measures"]["estoi"]["low"] is None  # one clip has no interval


def test_everything_is_in_the_json(tiny: Path, clips: Path) -> None:
    result = invoke(tiny, "--data", clips, "-q", 4, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["bundle"] == "tiny" and report["seconds"] == pytest.approx(4)
    [row] = report["rows"]
    assert {"pesq_wb", "estoi", "si_sdr", "mel_distance", "stft_distance", "locking"} <= set(row["measures"])
    for scores in row["measures"].values():
        assert scores["low"] <= scores["mean"] <= scores["high"] and scores["n"] == 2
    uses = report["codebooks"]
    assert [use["stage"] for use in uses] == [1, 2, 3, 4]
    assert all(1 <= use["perplexity"] <= use["used"] <= use["size"] == 16 for use in uses)


def test_csv_has_the_same(tiny: Path, clips: Path) -> None:
    result = invoke(tiny, "--data", clips, "-q", 1, "-q", 4, "--csv")
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [(row["codec"], row["stages"], row["kbps"], row["estoi_n"]) for row in rows] == [
        ("tiny", "1", "2.0", "2"),
        ("tiny", "4", "8.0", "2"),
    ]
    assert all(float(row["mel_distance_low"]) <= float(row["mel_distance"]) for row in rows)


def test_all_kinds_that_there_are(tiny: Path, clips: Path) -> None:
    result = invoke(tiny, "--data", clips, "-q", 1, "--kind", "all", "--codebooks")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    heading = squeezed(lines[0])
    assert heading.startswith("| kind | kbps | stages | PESQ-WB | ESTOI | SI-SDR dB | mel distance | STFT distance |")
    assert heading.endswith("| encode × | decode × |")
    assert [line.split()[1] for line in lines[2:4]] == ["speech", "music"]
    pesq, estoi, si_sdr = lines[3].split("|")[4:7]
    assert (pesq.strip(), estoi.strip()) == ("-", "-") and si_sdr.strip() != "-"  # the first two are of speech alone
    assert squeezed(lines[5]) == "| stage | entries used | share | perplexity |"
    assert [line.split()[1] for line in lines[7:]] == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["--kind", "noise"], 1, "no noise clips"),
        (["-q", "9"], 2, "1 to 4 stages, not 9"),
        (["-b", "7"], 2, "possible: 2, 4, 6, 8 kbps"),
        (["--report", "nowhere/report.html"], 1, "nowhere/report.html: cannot write"),
    ],
)
def test_refusals(tiny: Path, clips: Path, arguments: list[str], exit_code: int, message: str) -> None:
    result = invoke(tiny, "--data", clips, *arguments)
    assert result.exit_code == exit_code
    assert message in result.output
    assert len(result.output.splitlines()) == 1


def test_formats_that_exclude_each_other(tiny: Path, clips: Path) -> None:
    result = invoke(tiny, "--data", clips, "--csv", "--json")
    assert result.exit_code == 2
    assert "goes neither with --json" in result.output


def test_a_report_that_exists_stays(tiny: Path, clips: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text("mine")
    result = invoke(tiny, "--data", clips, "--report", report)
    assert result.exit_code == 1 and "-f replaces it" in result.output
    assert report.read_text() == "mine"


def test_a_failed_evaluation_leaves_no_report(tiny: Path, clips: Path, tmp_path: Path) -> None:
    result = invoke(tiny, "--data", clips, "--kind", "noise", "--report", tmp_path / "report.html")
    assert result.exit_code == 1
    assert not list(tmp_path.iterdir())


BAD_DATA = {
    "a file that is no audio among others": ({"a.flac": SPEECH, "b.wav": b"hello"}, "b.wav: .*not recognised"),
    "nothing": ({}, "no audio under"),
    "no samples": ({"a.wav": EMPTY}, r"a\.wav: holds no samples"),
    "a manifest of other columns": (
        {"a.flac": SPEECH, "manifest.csv": b"name\na.flac\n"},
        r"manifest\.csv: no columns `file` and `kind`",
    ),
    "a manifest that is no text": (
        {"a.flac": SPEECH, "manifest.csv": b"\xff\xfe"},
        r"manifest\.csv: .*codec can't decode",
    ),
}


@pytest.mark.parametrize("what", BAD_DATA)
def test_data_that_cannot_be_scored(tiny: Path, tmp_path: Path, what: str) -> None:
    files, message = BAD_DATA[what]
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    result = invoke(tiny, "--data", tmp_path, "-q", 1)
    assert (result.exit_code, len(result.output.splitlines())) == (1, 1), result.output
    assert re.search(message, result.output)


def test_data_that_is_not_there_or_no_audio(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    for name, message in (("nowhere", "no such file or folder"), ("notes.txt", "not recognised")):
        result = invoke(tiny, "--data", tmp_path / name)
        assert (result.exit_code, len(result.output.splitlines())) == (1, 1)
        assert name in result.output and message in result.output


@pytest.fixture
def locked_out() -> Iterator[Path]:
    """A folder that everyone may enter; and whoever runs the test is no superuser."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        (Path(name) / "clips").mkdir()
        (Path(name) / "clips" / "a.flac").write_bytes(SPEECH)
        if user == 0:
            os.chown(Path(name) / "clips", 65534, -1)
            os.chown(Path(name) / "clips" / "a.flac", 65534, -1)
            os.seteuid(65534)
        yield Path(name) / "clips"
        os.seteuid(user)


@pytest.mark.parametrize("closed", ["clips", "clips/a.flac"])
def test_data_without_permission(codec: edgecodec.Codec, locked_out: Path, closed: str) -> None:
    (locked_out.parent / closed).chmod(0)
    try:
        with pytest.raises(DataError, match=f"{closed}: Permission denied"):
            measure(codec, locked_out, [1])
    finally:
        (locked_out.parent / closed).chmod(0o700)


def test_the_extra_eval_is_enough(clips: Path) -> None:
    code = "import sys; from edgecodec.commands.main import main\ntry: main()\nexcept SystemExit: print(*sys.modules)"
    command = [
        sys.executable,
        "-c",
        code,
        "evaluate",
        "speech",
        "--data",
        str(clips),
        "-b",
        "6",
        "--classical",
        "--fixed",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Opus" in done.stdout, done.stderr
    assert not {"torch", "onnx", "onnxscript", "safetensors", "rich"} & set(done.stdout.splitlines()[-1].split())


def test_usual_bitrates_where_there_are_any(codec: edgecodec.Codec) -> None:
    assert usual_stages(codec) == [3]  # 6 kbps; 1.5, 3 and 12 are not among 2, 4, 6, 8


def test_a_manifest_of_before_has_a_table_still() -> None:
    row = {"kind": "noise", "clips": 1, "kbps": 1.5, "stages": 2, "pesq_wb": None, "estoi": 0.5, "si_sdr": -1.0}
    lines = markdown(mean_cells([row | {"mel_distance": 0.2}]))
    assert squeezed(lines[0]) == "| kbps | stages | PESQ-WB | ESTOI | SI-SDR dB | mel distance |"
    assert squeezed(lines[2]) == "| 1.5 | 2 | - | 0.500 | -1.0 | 0.200 |"


def test_intervals_cover_the_mean_as_often_as_they_say() -> None:
    random = np.random.default_rng(1)
    estimates = [Estimate.of(list(random.normal(2.0, 0.5, 28))) for _ in range(300)]
    covered = sum(e.low <= 2.0 <= e.high for e in estimates if e.low is not None and e.high is not None)
    assert 0.89 < covered / 300 < 0.98  # percentile intervals of 28 values are a little narrow
    one = estimates[0]
    assert one.low is not None and one.high is not None
    assert one.high - one.low == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(28), rel=0.3)


def test_clips_without_a_score_are_left_out() -> None:
    assert Estimate.of([float("nan"), 1.0, 3.0]).n == 2
    assert Estimate.of([float("nan"), 1.0]) == Estimate(1.0, None, None, 1)
    assert Estimate.of([float("nan")]) == Estimate(None, None, None, 0)


def test_codebook_use_of_known_codes() -> None:
    even = np.tile(np.arange(8), 4)  # all of 8 entries, evenly
    halves = np.repeat([3, 5], 16)
    lone = np.full(32, 7)
    codes = np.stack([even, halves, lone])[None]
    first, second, third = codebook_use([codes[..., :20], codes[..., 20:]], 16)
    assert (first.stage, first.used, first.fraction) == (1, 8, 0.5)
    assert [use.used for use in (second, third)] == [2, 1]
    assert [use.perplexity for use in (first, second, third)] == pytest.approx([8, 2, 1])
