"""`edgecodec evaluate --kind conditions`: what is made of speech, and that it is what codecs hear and are scored on."""

import json
from pathlib import Path

import edgecodec
import numpy as np
import pytest
import soundfile
from edgecodec.commands.main import app
from edgecodec.evaluation.conditions import CONDITIONS, loud, quiet, telephone, two_speakers
from edgecodec.evaluation.quality import measure
from typer.testing import CliRunner

AUDIO = Path(__file__).parents[1] / "audio"
RATE = 24_000


@pytest.fixture(scope="module")
def speech() -> list[np.ndarray]:
    """Two clips of unequal length."""
    clips = [soundfile.read(AUDIO / f"speech_{name}.flac", dtype="float32")[0] for name in ("es", "ro")]
    return [clips[0][: 2 * RATE], clips[1][: 3 * RATE // 2]]


def rms(audio: np.ndarray) -> float:
    return float(np.sqrt((audio.astype(np.float64) ** 2).mean()))


def test_levels(speech: list[np.ndarray]) -> None:
    for before, soft, full in zip(speech, quiet(speech, RATE), loud(speech, RATE), strict=True):
        assert 20 * np.log10(rms(soft)) == pytest.approx(-45, abs=1e-3)
        assert np.abs(full).max() == pytest.approx(1.0)
        for changed in (soft, full):
            assert np.allclose(changed / rms(changed), before / rms(before), atol=1e-4)


@pytest.mark.parametrize(("hertz", "passes"), [(100, False), (300, True), (1000, True), (3400, True), (3600, False)])
def test_a_telephone_carries_speech_frequencies(hertz: int, passes: bool) -> None:
    tone = np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE).astype(np.float32)
    [heard] = telephone([tone], RATE)
    assert rms(heard) == pytest.approx(rms(tone) if passes else 0.0, abs=1e-4)
    assert heard.dtype == np.float32


def test_the_second_speaker_is_as_loud(speech: list[np.ndarray]) -> None:
    first, second = two_speakers([np.ones_like(speech[0]) * 0.01, speech[1]], RATE)
    assert len(first) == len(speech[0]) and len(second) == len(speech[1])
    assert rms(first - 0.01) == pytest.approx(0.01, rel=0.02)  # the other clip, repeated, behind a constant
    assert max(np.abs(second).max(), np.abs(first).max()) <= 0.9901
    assert np.isfinite(two_speakers([np.zeros(100, np.float32)], RATE)[0]).all()


@pytest.mark.parametrize("name", CONDITIONS)
def test_silence_stays_silent(name: str) -> None:
    [silent] = CONDITIONS[name]([np.zeros(1000, np.float32)], RATE)
    assert not silent.any() and silent.dtype == np.float32 and len(silent) == 1000


def test_every_condition_has_its_rows(
    tiny: Path, tmp_path: Path, speech: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("edgecodec.evaluation.mos.mos_measures", lambda kind: asked.append(kind) or {})  # slow
    for name, clip in zip("ab", speech, strict=True):
        soundfile.write(tmp_path / f"{name}.wav", clip[::3], 8000, subtype="FLOAT")
    call = ["evaluate", str(tiny), "--data", str(tmp_path), "--kind", "conditions", "--fixed", "-q", "2", "--json"]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert [row["kind"] for row in rows] == ["speech", *CONDITIONS]
    assert len({row["measures"]["mel_distance"]["mean"] for row in rows}) == len(rows)  # each heard something else
    assert asked == ["speech"] * len(rows)  # all of them are speech


def test_scores_are_those_against_what_was_heard(
    codec: edgecodec.Codec, tmp_path: Path, speech: list[np.ndarray]
) -> None:
    """Against the clip at its own level, the mel distance of a quiet one would be more than one."""
    soundfile.write(tmp_path / "a.wav", speech[0][::3], 8000, subtype="FLOAT")
    [row] = measure(codec, tmp_path, [4], kinds=["quiet"]).rows
    assert row.measures["mel_distance"].mean is not None and row.measures["mel_distance"].mean < 0.8
