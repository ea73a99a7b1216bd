"""Folders of VCTK, LibriSpeech, VoiceBank-DEMAND and MUSAN, as they are unpacked."""

import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from edgecodec.errors import DataError
from edgecodec.evaluation.clips import find_clips
from edgecodec.evaluation.corpora import clean_partner, kind_of, speakers_of
from edgecodec_training.config import Config
from edgecodec_training.data import Batches, BatchSpec, DataConfig
from edgecodec_training.denoising import DenoisingConfig
from edgecodec_training.training_loop import Leg, train_leg

SPEC = BatchSpec(sample_rate=16_000, samples=4800, batch_size=4)
VCTK = [f"wav48_silence_trimmed/p225/p225_{i:03d}_mic{mic}.flac" for i in (1, 2) for mic in (1, 2)]
LIBRISPEECH = ["train-clean-100/19/198/19-198-0000.flac", "train-clean-100/27/1/27-1-0000.flac"]


def speech(seed: int, rate: int = 16_000) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.05, rate)


def tree(folder: Path, *names: str, text: tuple[str, ...] = ()) -> Path:
    """A folder with a second of sound by each name, and texts beside."""
    for i, name in enumerate((*names, *text)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name in text:
            path.write_text("PLEASE CALL STELLA\n")
        else:
            soundfile.write(path, speech(i), 16_000)
    return folder


def names(*sources: Path) -> list[str]:
    return [clip.name for clip in find_clips(list(sources), 16_000)]


def test_vctk_gives_every_sentence_once(tmp_path: Path) -> None:
    only_second = "wav48_silence_trimmed/p226/p226_001_mic2.flac"
    folder = tree(tmp_path / "VCTK", *VCTK, only_second, text=("txt/p225/p225_001.txt", "speaker-info.txt"))
    (folder / "wav48_silence_trimmed/p225/._p225_001_mic1.flac").write_bytes(b"\0\5\x16\7Mac OS X")
    assert names(folder) == ["p225_001_mic1.flac", "p225_002_mic1.flac", "p226_001_mic2.flac"]


def test_librispeech_is_found_beside_its_texts(tmp_path: Path) -> None:
    folder = tree(
        tmp_path / "LibriSpeech", *LIBRISPEECH, text=("train-clean-100/19/198/19-198.trans.txt", "READERS.TXT")
    )
    assert names(folder) == ["19-198-0000.flac", "27-1-0000.flac"]


def test_speakers_are_those_of_the_names() -> None:
    found = ["p225_001_mic1.flac", "s5_001.wav", "p226_020.wav", "19-198-0000.flac", "84_121123_000007_000001.wav"]
    assert speakers_of([*found, "clip.wav", "p225.wav", "2024-01-02.wav"]) == {"p225", "p226", "19", "84"}


def test_kinds_are_those_of_folders_and_of_a_manifest(tmp_path: Path) -> None:
    musan = tree(tmp_path / "musan", "noise/free-sound/a.wav", "music/b.wav", "speech/us-gov/c.wav")
    assert {c.name: c.kind for c in find_clips([musan], 16_000)} == {
        "a.wav": "noise",
        "b.wav": "music",
        "c.wav": "speech",
    }
    assert [clip.kind for clip in find_clips([musan / "noise"], 16_000)] == ["noise"]
    assert kind_of(Path("/noise/x/a.wav"), Path("/noise/x")) == "speech"  # what lies above the source says nothing
    (musan / "manifest.csv").write_text("file,kind,bandwidth_hz\nspeech/us-gov/c.wav,noise,4000\nmusic/b.wav,music,\n")
    found = {c.name: (c.kind, c.bandwidth) for c in find_clips([musan], 16_000)}
    assert found == {"a.wav": ("noise", 8000), "b.wav": ("music", 8000), "c.wav": ("noise", 4000)}
    (musan / "manifest.csv").write_text("file,kind,bandwidth_hz\nspeech/us-gov/c.wav,noise,wide\n")
    with pytest.raises(DataError, match=r"manifest\.csv: .*bandwidth_hz = 'wide'"):
        find_clips([musan], 16_000)


@pytest.fixture
def voicebank(tmp_path: Path) -> Path:
    """Two sentences, and the same with a hum behind."""
    for name, seed in (("p226_001.wav", 1), ("p226_002.wav", 2)):
        for kind, hum in (("clean", 0.0), ("noisy", 0.01)):
            folder = tmp_path / "VoiceBank-DEMAND" / f"{kind}_trainset_28spk_wav"
            folder.mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / name, speech(seed) + hum, 16_000)
    return tmp_path / "VoiceBank-DEMAND"


def test_voicebank_demand_is_heard_noisy_and_wanted_clean(voicebank: Path) -> None:
    """Both at one place: what is between them is the hum, and nothing else; a share stays clean."""
    config = DataConfig(
        noise_chance=0.0, gain_db=(0.0, 0.0), denoising=DenoisingConfig(share=0.5), kind_weights={"speech": 1.0}
    )
    batches = Batches(find_clips([voicebank], 16_000), config, SPEC)
    hums = np.concatenate([(batches[step].heard - batches[step].wanted)[:, 0] for step in range(20)])
    within = hums[:, 2400]
    noisy = np.abs(within - 0.01) < 1e-4
    assert (noisy | (within == 0)).all() and 20 <= noisy.sum() <= 60
    plain = Batches(find_clips([voicebank], 16_000), replace(config, denoising=DenoisingConfig()), SPEC)
    assert not plain.noisy and np.count_nonzero(np.diff(plain.cumulative, prepend=0)) == 4


def test_noisy_recordings_without_a_clean_one_are_refused(voicebank: Path) -> None:
    (voicebank / "clean_trainset_28spk_wav" / "p226_002.wav").unlink()
    config = DataConfig(noise_chance=0.0, denoising=DenoisingConfig(share=0.5))
    with pytest.raises(DataError, match=r"noisy_trainset_28spk_wav/p226_002\.wav: noisy, and there is no .*clean_"):
        Batches(find_clips([voicebank], 16_000), config, SPEC)
    assert clean_partner(Path("a/clean_testset_wav/p232_001.wav")) is None


def test_speakers_that_are_scored_and_trained_on_are_named(
    tiny_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = replace(tiny_config.run, steps=1, validate_every=100, codebook_seconds=1.0)
    data, valid = (
        tree(tmp_path / "data", *VCTK, "p226_001.wav"),
        tree(tmp_path / "valid", "p226_002.wav", "19-1-0001.flac"),
    )
    with caplog.at_level(logging.WARNING):
        train_leg(replace(tiny_config, run=run), Leg([data], tmp_path / "out", valid))
    [message] = [record.getMessage() for record in caplog.records if "speakers" in record.getMessage()]
    assert re.search(r"in --data too, .*: p226$", message)
