"""The bundle that is shipped: its budgets, and that it does what it is for and survives what it is not for."""

from itertools import pairwise
from pathlib import Path

import edgecodec
import numpy as np
import pytest
import soundfile

AUDIO = Path(__file__).parent / "audio"
SECONDS = np.arange(48_000) / 24_000
RANDOM = np.random.default_rng(0)
SOUNDS = {
    "silence": np.zeros(48_000),
    "white noise at full scale": RANDOM.uniform(-1, 1, 48_000),
    "bursts of noise": RANDOM.uniform(-1, 1, 48_000) * (np.sin(4 * np.pi * SECONDS) > 0.95),
    "square wave": np.sign(np.sin(2 * np.pi * 100 * SECONDS)),
    "impulses": np.float64(np.arange(48_000) % 2400 == 0),
    "a high tone": np.sin(2 * np.pi * 10_000 * SECONDS),
    "a sweep": np.sin(2 * np.pi * (50 * SECONDS + 3000 * SECONDS**2)),
    "an offset": np.full(48_000, 0.5),
    "the last bit": np.round(0.6 * RANDOM.standard_normal(48_000)) / 32768,
}


@pytest.fixture(scope="module")
def codec() -> edgecodec.Codec:
    return edgecodec.load("speech")


def test_it_keeps_its_budgets(codec: edgecodec.Codec) -> None:
    facts = codec.manifest
    macs, parameters, latency = facts.macs_per_second, facts.parameters, facts.latency
    assert macs.decoder <= 150e6
    assert macs.encoder + macs.quantizer + macs.decoder <= 350e6
    assert parameters.encoder + parameters.decoder <= 3e6
    assert (latency.buffering + latency.algorithmic) / facts.sample_rate <= 0.030
    assert {row["kbps"] for row in facts.quality} >= {1.5, 3.0, 6.0, 12.0}


def test_every_stage_lowers_the_distortion(codec: edgecodec.Codec) -> None:
    clips = [soundfile.read(path, dtype="float32")[0] for path in sorted(AUDIO.glob("*.flac"))]
    left = []
    for stages in range(1, codec.max_stages + 1):
        decoded = (codec.decode(codec.encode(clip, stages=stages), samples=len(clip))[0, 0] for clip in clips)
        errors = [float(np.square(clip - again).mean()) for clip, again in zip(clips, decoded, strict=True)]
        left.append(sum(errors))
    assert all(after < before for before, after in pairwise(left)), left


@pytest.mark.parametrize("name", SOUNDS)
def test_it_survives_other_sounds(name: str, codec: edgecodec.Codec) -> None:
    sound = SOUNDS[name].astype(np.float32)
    for stages in (1, 4, 16):
        decoded = codec.decode(codec.encode(sound, stages=stages), samples=len(sound))[0, 0]
        assert np.isfinite(decoded).all()
        assert np.abs(decoded).max() <= max(2.5 * np.abs(sound).max(), 1e-3)  # a square wave of full scale comes to 2.0
