"""Training audio: what is found, how it is drawn, and that a batch depends on (seed, step) alone."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edgecodec.errors import ConfigError, DataError
from edgecodec.evaluation.clips import find_clips
from edgecodec_training.data import Batches, BatchSpec, DataConfig, Prefetched

SPEC = BatchSpec(sample_rate=16_000, samples=4800, batch_size=3, seed=1)
DEFAULT = DataConfig()


def batches(sources: list[Path], config: DataConfig = DEFAULT, **changes: int) -> Batches:
    return Batches(find_clips(sources, 16_000), config, replace(SPEC, **changes))


def test_folders_and_shards_are_found(speech_folder: Path, shard: Path) -> None:
    assert [clip.name for clip in find_clips([speech_folder], 16_000)] == ["a.wav", "b.flac", "c.ogg"]
    clips = find_clips([speech_folder, shard], 16_000)
    assert {clip.name: (clip.kind, clip.bandwidth) for clip in clips[3:]} == {
        "full": ("speech", 8000),
        "narrow": ("speech", 4000),
        "hiss": ("noise", 8000),
    }
    assert len(find_clips([shard.parent], 16_000)) == 3


def test_clips_are_mixed_down_and_resampled(speech_folder: Path) -> None:
    for clip, seconds in zip(find_clips([speech_folder], 16_000), (3.0, 4.55, 1.0), strict=True):
        audio = clip.read(16_000)
        assert audio.dtype == np.float32 and audio.ndim == 1
        assert len(audio) / 16_000 == pytest.approx(seconds, abs=0.01)
        assert 0.01 < np.abs(audio).max() <= 1.1


def test_a_batch_depends_on_seed_and_step_alone(speech_folder: Path) -> None:
    first, second, other = batches([speech_folder]), batches([speech_folder]), batches([speech_folder], seed=2)
    for step in (5, 0):
        assert np.array_equal(first[step].heard, second[step].heard)
    assert first[5].heard.shape == (3, 1, 4800)
    assert not np.array_equal(first[5].heard, first[6].heard)
    assert not np.array_equal(first[5].heard, other[5].heard)


def test_threads_change_nothing(speech_folder: Path) -> None:
    plain, threaded = batches([speech_folder]), Prefetched(batches([speech_folder]), threads=3)
    for step in (0, 1, 2, 3, 9, 4):
        assert np.array_equal(plain[step].heard, threaded[step].heard)


def test_nothing_clips_and_silence_is_padding_only(speech_folder: Path) -> None:
    loud = batches([speech_folder], config=DataConfig(gain_db=(30.0, 40.0)))
    for step in range(10):
        audio = loud[step].heard
        assert np.abs(audio).max() <= 0.9901
        assert (np.abs(audio).max(axis=2) > 0).all()


def test_narrow_band_clips_are_drawn_less(shard: Path) -> None:
    def chances(config: DataConfig) -> dict[str, float]:
        found = batches([shard], config=config)
        return dict(zip((c.name for c in found.clips), np.diff(found.cumulative, prepend=0), strict=True))

    plain = chances(DataConfig(bandwidth_power=0.0))
    assert plain["full"] == pytest.approx(plain["narrow"])
    weighted = chances(DataConfig(bandwidth_power=1.0, kind_weights={"speech": 1.0, "noise": 0.25}))
    assert weighted["narrow"] == pytest.approx(0.5 * weighted["full"])
    assert weighted["hiss"] == pytest.approx(0.25 * weighted["full"])


def test_the_cache_is_bounded(speech_folder: Path) -> None:
    small = batches([speech_folder], config=DataConfig(cache_hours=0.0))
    small[0], small[1]
    assert len(small._cache) == 1


def test_unusable_audio_is_named(tmp_path: Path, shard: Path) -> None:
    with pytest.raises(DataError, match=r"no such file or folder: .*missing"):
        find_clips([tmp_path / "missing"], 16_000)
    with pytest.raises(DataError, match="no audio under"):
        find_clips([tmp_path], 16_000)
    (tmp_path / "x.wav").write_bytes(b"RIFF but no more")
    with pytest.raises(DataError, match=r"x\.wav"):
        find_clips([tmp_path], 16_000)
    (tmp_path / "x.wav").unlink()
    (tmp_path / "cut.tar").write_bytes(shard.read_bytes()[:700])
    with pytest.raises(DataError, match=r"cut\.tar"):
        find_clips([tmp_path], 16_000)
    (tmp_path / "cut.tar").unlink()
    (tmp_path / "folder.tar").mkdir()  # a folder like any other
    with pytest.raises(DataError, match="no audio under"):
        find_clips([tmp_path], 16_000)
    with pytest.raises(DataError, match="every clip has weight 0"):
        batches([shard], config=DataConfig(kind_weights={}))


def test_a_file_that_goes_during_training_is_named(speech_folder: Path, tmp_path: Path) -> None:
    shutil.copy(speech_folder / "a.wav", tmp_path)
    found = batches([tmp_path])
    (tmp_path / "a.wav").unlink()
    with pytest.raises(DataError, match=r"a\.wav: No such file"):
        found[0]
    (tmp_path / "a.wav").write_bytes(b"no longer audio")
    with pytest.raises(DataError, match=r"a\.wav: a\.wav: "):
        found[0]


def test_ranks_share_out_one_batch(shard: Path) -> None:
    whole = batches([shard], batch_size=6)
    for ranks in (2, 3):
        parts = [batches([shard], batch_size=6, rank=rank, ranks=ranks) for rank in range(ranks)]
        assert np.array_equal(np.concatenate([part[4].heard for part in parts]), whole[4].heard)
    with pytest.raises(ConfigError, match="batch_size = 6 cannot be split evenly over 4 processes"):
        batches([shard], batch_size=6, ranks=4)
