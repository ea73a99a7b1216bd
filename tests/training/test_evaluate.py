"""Measures: perfect and worse copies, silence, and the table of an evaluation."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from edgecodec_training.data import DataError
from edgecodec_training.evaluate import evaluate, score, si_sdr, validation_clips

AUDIO = Path(__file__).parents[1] / "audio"


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    audio, _ = soundfile.read(AUDIO / "speech_es.flac", dtype="float32")
    return audio[24_000:72_000]


def test_more_noise_scores_worse(speech: np.ndarray) -> None:
    random = np.random.default_rng(0)
    noise = random.standard_normal(len(speech)).astype(np.float32)
    scores = [score(speech, speech + level * noise, 24_000) for level in (0.0, 0.003, 0.03)]
    assert scores[0]["pesq_wb"] > 4.6 and scores[0]["estoi"] > 0.999 and scores[0]["mel_distance"] == 0
    for name in ("pesq_wb", "estoi", "si_sdr"):
        assert scores[0][name] > scores[1][name] > scores[2][name]
    assert scores[1]["mel_distance"] < scores[2]["mel_distance"]


def test_si_sdr_by_hand() -> None:
    x = np.array([1.0, -1.0, 1.0, -1.0])
    y = np.array([1.0, 1.0, -1.0, -1.0])  # orthogonal to x
    assert si_sdr(x, 3 * x + 0.3 * y) == pytest.approx(20.0)


def test_silence_does_not_break_it() -> None:
    silence = np.zeros(24_000, np.float32)
    scores = score(silence, silence, 24_000)
    assert np.isnan(scores["pesq_wb"])
    assert all(np.isfinite(value) for name, value in scores.items() if name != "pesq_wb")


def test_a_table_has_a_row_for_every_stage_count(speech: np.ndarray) -> None:
    def noisy(clip: np.ndarray, stages: int) -> np.ndarray:
        return clip + np.random.default_rng(0).standard_normal(len(clip)).astype(np.float32) * 0.1 / 4**stages

    seen: list[tuple[int, int]] = []
    rows = evaluate(noisy, [speech, speech[:30_000]], [1, 2], 24_000, lambda done, of: seen.append((done, of)))
    assert [row["stages"] for row in rows] == [1, 2]
    assert rows[1]["si_sdr"] > rows[0]["si_sdr"]
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_manifest_says_what_is_speech(tmp_path: Path, speech: np.ndarray) -> None:
    for name in ("a.wav", "b.wav", "c.wav"):
        soundfile.write(tmp_path / name, speech, 24_000)
    assert len(validation_clips(tmp_path, 24_000)) == 3
    (tmp_path / "manifest.csv").write_text("file,kind\na.wav,speech\nb.wav,music\nc.wav,speech\n")
    assert [clip.name for clip in validation_clips(tmp_path, 24_000)] == ["a.wav", "c.wav"]
    assert [clip.name for clip in validation_clips(tmp_path, 24_000, kind="music")] == ["b.wav"]
    assert [clip.name for clip in validation_clips(tmp_path, 24_000, limit=1)] == ["a.wav"]
    with pytest.raises(DataError, match="no noise clips"):
        validation_clips(tmp_path, 24_000, kind="noise")
