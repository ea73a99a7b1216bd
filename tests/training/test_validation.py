"""The table of a validation in training, and which clips it is made on."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from edgecodec.errors import DataError
from edgecodec.evaluation.clips import validation_clips
from edgecodec.evaluation.measures import MEASURES
from edgecodec_training.validation import validate

AUDIO = Path(__file__).parents[1] / "audio"


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    audio, _ = soundfile.read(AUDIO / "speech_es.flac", dtype="float32")
    return audio[24_000:72_000]


def test_a_table_has_a_row_for_every_stage_count(speech: np.ndarray) -> None:
    def noisy(clip: np.ndarray, stages: int) -> np.ndarray:
        return clip + np.random.default_rng(0).standard_normal(len(clip)).astype(np.float32) * 0.1 / 4**stages

    rows = validate(noisy, [speech, speech[:30_000]], [1, 2], 24_000)
    assert [row["stages"] for row in rows] == [1, 2]
    assert all(set(row) == {"stages", *MEASURES} for row in rows)
    assert rows[1]["si_sdr"] > rows[0]["si_sdr"]


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


@pytest.mark.parametrize("text", ["", "name,kind\na.wav,speech\n", "\xff,file,kind\n"])
def test_a_manifest_that_is_none_is_named(tmp_path: Path, speech: np.ndarray, text: str) -> None:
    soundfile.write(tmp_path / "a.wav", speech, 24_000)
    (tmp_path / "manifest.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"manifest\.csv: "):
        validation_clips(tmp_path, 24_000)
