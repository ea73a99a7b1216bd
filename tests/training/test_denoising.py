"""Denoising: what is heard has noise and a room, what is wanted has neither, and where it is off nothing changes."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from edgecodec.evaluation.clips import Clip, find_clips
from edgecodec_training.augmentation import Augmentation
from edgecodec_training.config import Config
from edgecodec_training.data import Batches, BatchSpec, DataConfig
from edgecodec_training.denoising import DenoisingConfig, room
from edgecodec_training.streamed_data import StreamedBatches
from edgecodec_training.trainer import Trainer

SPEC = BatchSpec(sample_rate=16_000, samples=4800, batch_size=4, seed=1)
ALWAYS = DenoisingConfig(share=1.0, room_share=0.0)


@pytest.fixture
def clips(speech_folder: Path, tmp_path: Path) -> list[Clip]:
    """Three clips of speech and one of noise."""
    soundfile.write(tmp_path / "hiss.wav", np.random.default_rng(0).normal(0, 0.05, 48_000), 16_000)
    hiss = replace(find_clips([tmp_path], 16_000)[0], kind="noise")
    return [*find_clips([speech_folder], 16_000), hiss]


def batches(clips: list[Clip], denoising: DenoisingConfig, **changes: object) -> Batches:
    values = {"kind_weights": {"speech": 1.0}, "noise_chance": 0.0, "gain_db": (-20.0, 6.0)} | changes
    return Batches(clips, DataConfig(denoising=denoising, **values), SPEC)  # type: ignore[arg-type]


def test_noise_is_heard_at_its_snr_and_is_not_wanted(clips: list[Clip]) -> None:
    noisy = batches(clips, replace(ALWAYS, snr_db=(3.0, 6.0)))
    found = [noisy[step] for step in range(40)]
    heard, wanted = (np.concatenate([getattr(batch, name)[:, 0] for batch in found]) for name in ("heard", "wanted"))
    energy = (wanted**2).mean(axis=1)
    ratios = 10 * np.log10(energy / ((heard - wanted) ** 2).mean(axis=1))[energy > 1e-8]
    assert len(ratios) > 110 and 2.99 < ratios.min() < 3.3 and 5.7 < ratios.max() < 6.01
    assert np.abs(heard).max() <= 0.9901
    levels = 10 * np.log10(energy[energy > 1e-8])
    assert np.ptp(levels) > 15  # levels change, of both alike


def test_a_share_stays_clean_and_is_one_array(clips: list[Clip]) -> None:
    some = batches(clips, replace(ALWAYS, share=0.5))
    same = [np.array_equal(h, w) for step in range(50) for h, w in zip(*some[step], strict=True)]
    assert 70 <= sum(same) <= 130  # of 200
    plain = batches(clips, DenoisingConfig(), noise_chance=0.5)[0]
    assert plain.heard is plain.wanted


def test_where_it_is_off_all_is_drawn_as_it_was() -> None:
    clip = (np.arange(9000) % 701 * 40).astype(np.int16)
    crop = Augmentation(800, (-10.0, 6.0), 1.0, (5.0, 5.0))(clip, lambda: clip[::-1], np.random.default_rng(5))
    random = np.random.default_rng(5)
    first = int(random.integers(-200, 9000 - 400))
    random.random()
    starts = [first, int(random.integers(-200, 9000 - 400))]
    speech, noise = (x[start : start + 800] / 32768 for x, start in zip((clip, clip[::-1]), starts, strict=True))
    random.uniform(5.0, 5.0)
    gain = random.uniform(-10.0, 6.0)
    expected = speech + noise * np.sqrt((speech**2).mean() / (noise**2).mean()) * 10 ** (-5 / 20)
    assert crop.heard == pytest.approx(expected * min(10 ** (gain / 20), 0.99 / np.abs(expected).max()), abs=1e-5)


def test_a_stream_denoises_too(shard: Path) -> None:
    config = DataConfig(kind_weights={"speech": 1.0}, noise_chance=0.0, denoising=ALWAYS)
    with closing(StreamedBatches([str(shard)], config, SPEC)) as stream:
        heard, wanted = (np.concatenate(part) for part in zip(*(stream[step] for step in range(5)), strict=True))
    different = (heard != wanted).any(axis=(1, 2))
    assert different.sum() > 5 and np.abs(wanted).max() > 0.01  # of 20; nothing is mixed into silence, nor silence


def test_a_room_decays_as_long_as_asked_and_keeps_its_early_part() -> None:
    response = room(0.4, 6.0, 6400, np.random.default_rng(0)).astype(np.float64)
    assert response[0] == 1.0 and 10 * np.log10(1 / (response[1:] ** 2).sum()) == pytest.approx(6.0, abs=0.01)
    left = np.cumsum(response[:0:-1] ** 2)[::-1]  # Schroeder's integral
    decay = 10 * np.log10(left / left[0])
    assert decay[1600] == pytest.approx(-15.0, abs=1.0) and decay[3200] == pytest.approx(-30.0, abs=1.0)
    click = np.zeros(4800, np.float32)
    click[100] = 0.5
    config = DenoisingConfig(decay_seconds=(0.2, 0.2), early_seconds=0.05)
    heard, wanted = config.in_room(click, 16_000, np.random.default_rng(1))
    assert heard[100] == pytest.approx(0.5, abs=1e-6) and not heard[:100].round(6).any()
    assert heard[100:901] == pytest.approx(wanted[100:901], abs=1e-6)
    assert np.abs(heard[901:]).max() > 1e-4 and np.abs(wanted[901:]).max() < 1e-6


def test_a_step_is_scored_against_what_is_wanted(tiny_config: Config, clips: list[Clip], tmp_path: Path) -> None:
    """The same audio heard with other targets: losses change."""
    folder = clips[0].path.parent
    short = replace(tiny_config.run, codebook_seconds=1.0)
    config = replace(tiny_config, run=short, data=DataConfig(noise_chance=0.0))
    trainer = Trainer(config, [folder])
    batch = trainer.batches[0]
    kept = trainer.train_step()["loss/waveform"]
    again = Trainer(config, [folder])
    again.batches = {0: batch._replace(wanted=-batch.heard)}  # type: ignore[assignment]
    inverted = again.train_step()["loss/waveform"]
    assert torch.isfinite(inverted) and inverted > 1.3 * kept
