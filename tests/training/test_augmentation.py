"""What happens to a clip before training hears it: noise at the SNR asked for, no clipping, nothing undefined."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from edgecodec.errors import ConfigError
from edgecodec.evaluation.clips import Clip, find_clips
from edgecodec_training.augmentation import Augmentation, mix
from edgecodec_training.config import Config, from_dict
from edgecodec_training.data import Batches, BatchSpec, DataConfig

SPEECH_ONLY = {"speech": 1.0}


@pytest.fixture
def clips(speech_folder: Path, tmp_path: Path) -> list[Clip]:
    """Three clips of speech and one of noise."""
    soundfile.write(tmp_path / "hiss.wav", np.random.default_rng(0).normal(0, 0.05, 48_000), 16_000)
    hiss = replace(find_clips([tmp_path], 16_000)[0], kind="noise")
    return [*find_clips([speech_folder], 16_000), hiss]


def batches(clips: list[Clip], **changes: object) -> Batches:
    config = DataConfig(**({"kind_weights": SPEECH_ONLY, "gain_db": (0.0, 0.0)} | changes))  # type: ignore[arg-type]
    return Batches(clips, config, BatchSpec(sample_rate=16_000, samples=4800, batch_size=4, seed=1))


def snr_db(speech: np.ndarray, noise: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.mean(speech**2, axis=-1) / np.mean(noise**2, axis=-1))


@pytest.mark.parametrize("wanted", [-5.0, 5.0, 30.0])
def test_a_mixture_has_the_snr_asked_for(speech_folder: Path, wanted: float) -> None:
    speech, _ = soundfile.read(speech_folder / "a.wav", dtype="float32")
    noise = np.random.default_rng(0).normal(0, 0.01, len(speech)).astype(np.float32)
    mixture = mix(speech, noise, wanted)
    assert mixture.dtype == np.float32
    assert snr_db(speech, mixture - speech) == pytest.approx(wanted, abs=0.01)


def test_noise_is_mixed_into_speech_as_often_and_as_loud_as_configured(clips: list[Clip]) -> None:
    clean = batches(clips, noise_chance=0.0)
    always = batches(clips, noise_chance=1.0, noise_snr_db=(12.0, 15.0))
    sometimes = batches(clips, noise_chance=0.25)
    added = np.concatenate([(always[step].heard - clean[step].heard)[:, 0] for step in range(50)])
    speech = np.concatenate([clean[step].heard[:, 0] for step in range(50)])
    noisy = added.any(axis=1)  # not where all of the speech crop is silence
    assert noisy.sum() > 195
    ratios = snr_db(speech[noisy], added[noisy])
    assert 11.99 < ratios.min() < 12.5 and 14.5 < ratios.max() < 15.01
    changed = sum(int((sometimes[step].heard != clean[step].heard).any(axis=2).sum()) for step in range(50))
    assert 30 <= changed <= 70  # of 200 crops, 50 expected


def test_noise_depends_on_seed_and_step_alone(clips: list[Clip]) -> None:
    first, second = batches(clips, noise_chance=0.5), batches(clips, noise_chance=0.5)
    second[3]
    assert np.array_equal(first[7].heard, second[7].heard)


@pytest.mark.parametrize("kept", ["noise", "speech"])
def test_nothing_is_mixed_into_noise_or_without_noise(clips: list[Clip], kept: str) -> None:
    found = [clip for clip in clips if clip.kind == kept]
    plain, mixing = (batches(found, kind_weights={kept: 1.0}, noise_chance=chance) for chance in (0.0, 1.0))
    assert np.array_equal(plain[0].heard, mixing[0].heard)


@pytest.mark.parametrize("level", [0, 1, 32767])
def test_silence_and_full_scale_stay_finite_and_do_not_clip(level: int) -> None:
    augment = Augmentation(800, gain_db=(30.0, 30.0), noise_chance=1.0, noise_snr_db=(-20.0, -20.0))
    signs = np.where(np.arange(4000) % 3, -level, level).astype(np.int16)
    for speech, noise in ((signs, signs[::-1].copy()), (signs, signs * 0), (signs * 0, signs)):
        for seed in range(5):
            crop = augment(speech, lambda noise=noise: noise, np.random.default_rng(seed)).heard
            assert crop.shape == (800,) and crop.dtype == np.float32
            assert np.isfinite(crop).all() and np.abs(crop).max() <= 0.9901


def test_noise_too_faint_to_be_more_than_rounding_is_left_out() -> None:
    speech = np.full(100, 0.1, np.float32)
    assert np.array_equal(mix(speech, np.full(100, 2**-15, np.float32), 5.0), speech)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"noise_chance": 1.5}, "data.noise_chance: expected float <= 1"),
        ({"noise_chance": float("nan")}, "data.noise_chance: expected float >= 0"),
        ({"noise_snr_db": [30, 5]}, "noise_snr_db must be"),
        ({"gain_db": [0, float("inf")]}, r"data.gain_db\[1\]: expected float <= 200"),
    ],
)
def test_values_that_make_no_sense_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(Config, {"data": values})
