"""Corpora as they are unpacked: what the names of their folders and files say of a recording.

VCTK-Corpus-0.92/wav48_silence_trimmed/p225/p225_001_mic1.flac      two microphones heard every sentence
LibriSpeech/train-clean-100/19/198/19-198-0000.flac                 reader, chapter, sentence
VoiceBank-DEMAND/clean_trainset_28spk_wav/p226_001.wav              and in noisy_trainset_28spk_wav the same in noise
musan/noise/free-sound/noise-free-sound-0000.wav                    kinds
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

KINDS = ("noise", "music")  # as names of folders; all else is speech

_SPEAKERS = (
    re.compile(r"([ps]\d{3})_\d{3}(?:_mic[12])?"),  # VCTK, VoiceBank-DEMAND
    re.compile(r"(\d+)-\d+-\d{4}"),  # LibriSpeech
    re.compile(r"(\d+)_\d+_\d{6}_\d{6}"),  # LibriTTS
)


def is_second_microphone(path: Path, beside: Collection[Path]) -> bool:
    """Whether a recording of VCTK is that of a sentence that the first microphone has too."""
    return path.stem.endswith("_mic2") and path.with_name(path.name.replace("_mic2.", "_mic1.")) in beside


def kind_of(path: Path, source: Path) -> str:
    """The kind that a folder on the way from a source to its file is named after; else speech."""
    folders = [source.name, *path.relative_to(source).parts[:-1]]
    return next((folder.lower() for folder in reversed(folders) if folder.lower() in KINDS), "speech")


def speakers_of(names: Iterable[str]) -> set[str]:
    """The speakers that names of files begin with, of those of the corpora above."""
    stems = [name.rpartition(".")[0] for name in names]
    return {match[1] for stem in stems for pattern in _SPEAKERS if (match := pattern.fullmatch(stem))}


def clean_partner(path: Path) -> Path | None:
    """Where the recording lies that one in a folder `noisy…` has the noise behind; None in any other folder."""
    for i, part in reversed(list(enumerate(path.parts[:-1]))):
        if part.startswith("noisy"):
            return Path(*path.parts[:i], "clean" + part.removeprefix("noisy"), *path.parts[i + 1 :])
    return None
