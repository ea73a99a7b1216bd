"""Models that predict opinions: what the packages themselves say, and that worse sounds worse."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from edgecodec.evaluation.mos import dnsmos, mos_measures, visqol_audio, visqol_speech

AUDIO = Path(__file__).parents[1] / "audio"
RATE = 24_000


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    audio, _ = soundfile.read(AUDIO / "speech_es.flac", dtype="float32")
    return audio


@pytest.fixture(scope="module")
def noisy(speech: np.ndarray) -> np.ndarray:
    return speech + 0.02 * np.random.default_rng(0).standard_normal(len(speech)).astype(np.float32)


def test_dnsmos_is_that_of_its_package(speech: np.ndarray, noisy: np.ndarray) -> None:
    """`speechmos.dnsmos.run` gives 3.108, of windows that overlap."""
    assert dnsmos(speech, speech, RATE) == pytest.approx(3.108, abs=0.05)
    assert dnsmos(speech, noisy, RATE) < 2.5
    assert np.isfinite(dnsmos(speech, np.tile(speech, 3), RATE))  # several windows
    assert np.isfinite(dnsmos(speech, speech[:100], RATE))


def test_visqol(speech: np.ndarray, noisy: np.ndarray) -> None:
    pytest.importorskip("visqol")
    short, worse = speech[: 3 * RATE], noisy[: 3 * RATE]
    assert visqol_speech(short, short, RATE) > 4.2 > 3.5 > visqol_speech(short, worse, RATE)
    assert visqol_audio(short, short, RATE) == pytest.approx(4.73, abs=0.02)
    silence = np.zeros(RATE, np.float32)
    for reference in (silence, speech[:RATE]):
        assert np.isnan(visqol_speech(reference, silence, RATE))


def test_speech_has_measures_that_others_have_not() -> None:
    assert "dnsmos" in mos_measures("speech")
    assert "dnsmos" not in mos_measures("music")
