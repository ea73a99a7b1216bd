"""Measures: what they say of perfect, worse, scaled, silent and too short copies, and what others compute."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from edgecodec.evaluation.frame_locking import frame_locking
from edgecodec.evaluation.measures import MEASURES, mel_filters, score, si_sdr, stft, stft_distance

AUDIO = Path(__file__).parents[1] / "audio"
RATE = 24_000


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    audio, _ = soundfile.read(AUDIO / "speech_es.flac", dtype="float32")
    return audio[24_000:72_000]


def test_more_noise_scores_worse(speech: np.ndarray) -> None:
    noise = np.random.default_rng(0).standard_normal(len(speech)).astype(np.float32)
    scores = [score(speech, speech + level * noise, RATE) for level in (0.0, 0.003, 0.03)]
    assert scores[0]["pesq_wb"] > 4.6 and scores[0]["estoi"] > 0.999 and scores[0]["si_sdr"] > 80
    assert scores[0]["mel_distance"] == scores[0]["stft_distance"] == 0
    for name, measure in MEASURES.items():
        sign = 1 if measure.higher_is_better else -1
        assert sign * scores[0][name] > sign * scores[1][name] > sign * scores[2][name], name


def test_si_sdr_by_hand() -> None:
    x = np.array([1.0, -1.0, 1.0, -1.0])
    y = np.array([1.0, 1.0, -1.0, -1.0])  # orthogonal to x
    assert si_sdr(x, 3 * x + 0.3 * y) == pytest.approx(20.0)


def test_si_sdr_is_blind_to_gain(speech: np.ndarray) -> None:
    decoded = speech + 0.01 * np.random.default_rng(0).standard_normal(len(speech))
    assert si_sdr(speech, 0.1 * decoded) == pytest.approx(si_sdr(speech, decoded), abs=1e-6)


def test_stft_distance_is_that_of_the_paper(speech: np.ndarray) -> None:
    decoded = 0.7 * speech + 0.01 * np.random.default_rng(0).standard_normal(len(speech)).astype(np.float32)
    distances = []
    for size in (512, 1024, 2048):
        window = np.hanning(size + 1)[:-1]
        starts = range(0, len(speech) - size + 1, size // 4)
        x, y = (
            np.array([abs(np.fft.fft(window * audio[start : start + size])[: size // 2 + 1]) for start in starts])
            / window.sum()
            for audio in (speech.astype(float), decoded.astype(float))
        )
        convergence = np.sqrt(((x - y) ** 2).sum() / (x**2).sum())
        magnitude = abs(np.log(x.clip(1e-5)) - np.log(y.clip(1e-5))).mean()
        distances.append(convergence + magnitude)
    assert stft_distance(speech, decoded) == pytest.approx(np.mean(distances), rel=1e-9)


def test_stft_distance_of_half_the_amplitude(speech: np.ndarray) -> None:
    loud = speech + 0.1 * np.random.default_rng(0).standard_normal(len(speech))  # nothing near the floor
    assert stft_distance(loud, loud / 2) == pytest.approx(0.5 + np.log(2), rel=1e-3)


def test_silence_does_not_break_it() -> None:
    silence = np.zeros(RATE, np.float32)
    scores = score(silence, silence, RATE)
    assert np.isnan(scores.pop("pesq_wb")) and np.isnan(scores.pop("estoi"))
    assert all(np.isfinite(value) for value in scores.values())


def test_speech_that_became_silence_has_no_pesq(speech: np.ndarray) -> None:
    scores = score(speech, np.zeros_like(speech), RATE)
    assert np.isnan(scores.pop("pesq_wb"))
    assert all(np.isfinite(value) for value in scores.values())


def test_a_click_is_too_short_for_speech_measures() -> None:
    click = np.random.default_rng(0).standard_normal(200).astype(np.float32)
    scores = score(click, click, RATE)
    assert np.isnan(scores.pop("pesq_wb")) and np.isnan(scores.pop("estoi"))
    assert all(np.isfinite(value) for value in scores.values())


def test_stft_scale_and_filters() -> None:
    sine = np.sin(np.arange(4096) * 2 * np.pi * 64 / 1024)
    assert np.abs(stft(sine, 1024)).max() == pytest.approx(0.5, rel=1e-3)
    assert stft(sine, 1024).shape == (13, 513)
    filters = mel_filters(80, 1024, RATE)
    assert filters.shape == (513, 80) and (filters >= 0).all()
    assert filters.sum(axis=0) == pytest.approx(1)


def test_locking_finds_what_is_repeated_every_frame(speech: np.ndarray) -> None:
    assert abs(frame_locking(speech, 320)) < 0.01
    assert np.mean([frame_locking(speech[i : i + 16_000], 320) for i in range(0, 32_000, 500)]) < 0.003
    buzz = np.tile(np.random.default_rng(0).standard_normal(320).astype(np.float32), len(speech) // 320)
    loudness = np.repeat(np.abs(speech[: len(buzz)].reshape(-1, 320)).mean(axis=1), 320)
    assert frame_locking(buzz * loudness, 320) > 0.7  # in pauses it is too quiet to count
    assert abs(frame_locking(buzz * loudness, 317)) < 0.02
    assert 0.05 < frame_locking(speech[: len(buzz)] + buzz * loudness, 320) < frame_locking(buzz * loudness, 320)
    assert np.isnan(frame_locking(speech[:600], 320)) and frame_locking(np.zeros(3200), 320) == 0
