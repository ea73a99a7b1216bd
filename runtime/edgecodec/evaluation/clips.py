"""Recordings to score or to train on: folders, WebDataset tar shards, any libsndfile format, any sample rate."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from ..errors import AudioError, DataError
from ..files.audio import INPUT_SUFFIXES, audio_in
from ..files.tar_members import NOTE_BYTES, Member, TarReader, parse_note, split_name
from .corpora import is_second_microphone, kind_of

MOST_CHANNELS = 16  # more is a damaged header, or one that asks for all memory


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Whatever is wrong in reading a file becomes a DataError that names it."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except (AudioError, csv.Error, UnicodeError) as error:
        raise DataError(f"{path}: {error}") from None


@dataclass(frozen=True)
class Clip:
    """Where one recording lies (a file, or a member of a tar shard) and what is known of it."""

    path: Path
    offset: int
    size: int
    name: str
    seconds: float
    kind: str
    bandwidth: float  # Hz

    def name_in(self, folder: Path) -> str:
        """Path in the folder; of a single file, or in a shard, its name."""
        alone = self.path == folder or self.path.suffix == ".tar"
        return self.name if alone else self.path.relative_to(folder).as_posix()

    def read(self, sample_rate: int) -> NDArray[np.float32]:
        """Decode, mix to mono and resample: float32 `[samples]`.

        Raises:
            DataError: it cannot be read, or is not audio.
        """
        with _named(self.path):
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
            try:
                return decode(data, sample_rate).audio
            except DataError as error:
                raise DataError(f"{self.name}: {error}") from None


@dataclass(frozen=True)
class Note:
    """What the JSON beside a clip in a shard says of it; None where it says nothing."""

    kind: str = "speech"
    seconds: float | None = None
    sample_rate: float | None = None
    bandwidth_hz: float | None = None

    @classmethod
    def parse(cls, data: bytes) -> Note:
        """Read a JSON object; keys other than `kind`, `seconds`, `sample_rate` and `bandwidth_hz` do not matter.

        Raises:
            DataError: not such an object.
        """
        values = parse_note(data)
        if not isinstance(values, dict):
            raise DataError("a JSON that is not an object")
        return cls.of(values)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Note:
        """What values by these names say; those that are None or empty say nothing.

        Raises:
            DataError: a number that is none.
        """
        numbers: dict[str, float] = {}
        for name in ("seconds", "sample_rate", "bandwidth_hz"):
            if values.get(name) not in (None, ""):
                numbers[name] = _number(name, values[name])
        return cls(str(values.get("kind", "speech")), **numbers)

    def bandwidth(self, rate: float, sample_rate: int) -> float:
        """Hz up to which a recording at `rate` has content once it is at `sample_rate`."""
        nyquist = min(rate, sample_rate) / 2
        return nyquist if self.bandwidth_hz is None else min(self.bandwidth_hz, nyquist)


def _number(name: str, value: object) -> float:
    """A number of a note; some tools write numbers as strings."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = -1.0
    if not 0 <= number < 1e9:
        raise DataError(f"its note says {name} = {value!r:.100}")
    return number


@dataclass(frozen=True)
class Decoded:
    """Audio `[samples]` as trained on, and the rate and duration of the whole recording it comes from."""

    audio: NDArray[np.float32]
    rate: int
    seconds: float


def decode(
    data: bytes, sample_rate: int, *, longest: float = math.inf, random: np.random.Generator | None = None
) -> Decoded:
    """Decode a file in memory, mix to mono and resample.

    Args:
        data: the file, in any format that libsndfile reads.
        sample_rate: Hz of the audio wanted.
        longest: of a recording with more seconds than this only so many are decoded, from a `random` place.
        random: needed where `longest` is given.

    Raises:
        DataError: not audio, or not audio that can be trained on.
    """
    try:
        with contextlib.ExitStack() as stack:
            reader = audio_in(io.BytesIO(data), "", stack)
            rate, frames = reader.sample_rate, reader.samples
            if reader.channels > MOST_CHANNELS:
                raise DataError(f"{reader.channels} channels at {rate} Hz")
            wanted = None if frames is None else round(min(frames, longest * rate))
            if random is not None and frames is not None and wanted is not None and wanted < frames:
                reader.skip(int(random.integers(frames - wanted + 1)))
            audio = reader.read(wanted)
    except AudioError as error:
        raise DataError(str(error)) from None
    if frames is None:  # only known now
        frames = audio.shape[1]
        wanted = round(min(frames, longest * rate))
        start = int(random.integers(frames - wanted + 1)) if random is not None and wanted < frames else 0
        audio = audio[:, start : start + wanted]
    mono = audio.mean(axis=0)
    if rate != sample_rate:
        mono = soxr.resample(mono, rate, sample_rate)
    return Decoded(np.asarray(mono, dtype=np.float32), rate, frames / rate)


def find_clips(sources: Sequence[Path], sample_rate: int) -> list[Clip]:
    """All clips under folders, shards (`*.tar`) and single files, in a fixed order.

    What kind a file of a folder is, its `manifest.csv` says, or a folder named `noise` or `music`; of a sentence that
    two microphones heard, the first is taken (see `corpora`).

    Raises:
        DataError: nothing there, or a file that cannot be read.
    """
    clips: list[Clip] = []
    for source in sources:
        if source.is_dir():
            found = {path for path in _files_under(source) if path.suffix.lower() in INPUT_SUFFIXES | {".tar"}}
            paths = sorted(path for path in found if not is_second_microphone(path, found))
            notes = _manifest(source)
        elif source.exists():
            paths, notes = [source], {}
        else:
            raise DataError(f"no such file or folder: {source}")
        for path in paths:
            if path.suffix == ".tar":
                clips += _shard_clips(path, sample_rate)
            else:
                clips.append(_file_clip(path, sample_rate, notes.get(path) or Note(kind_of(path, source))))
    if not clips:
        raise DataError(
            f"no audio under {', '.join(map(str, sources))} (looked for {', '.join(sorted(INPUT_SUFFIXES))}, .tar)"
        )
    return clips


def _files_under(folder: Path) -> Iterator[Path]:
    """All files of a folder and of those in it; one that cannot be entered is an error, not an empty one."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: {error.strerror}")

    for where, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(where, name) for name in names if not name.startswith("._"))  # what macOS puts beside files


def _manifest(folder: Path) -> dict[Path, Note]:
    """What a folder's `manifest.csv` says of its files; nothing where there is none, or none with the columns."""
    path = folder / "manifest.csv"
    if not path.exists():
        return {}
    with _named(path), path.open(newline="") as file:
        rows = csv.DictReader(file)
        if not {"file", "kind"} <= set(rows.fieldnames or ()):
            return {}
        return {folder / row["file"]: Note.of(row) for row in rows}


def _file_clip(path: Path, sample_rate: int, note: Note) -> Clip:
    with _named(path), path.open("rb") as file, contextlib.ExitStack() as stack:
        reader, size = audio_in(file, "", stack), path.stat().st_size
        rate, samples = reader.sample_rate, reader.samples
        if samples is None:  # it is where the file ends
            samples = sum(block.shape[1] for block in reader.blocks())
    return Clip(path, 0, size, path.name, samples / rate, note.kind, note.bandwidth(rate, sample_rate))


def _shard_clips(path: Path, sample_rate: int) -> Iterator[Clip]:
    """Pairs of `<key>.<audio suffix>` and `<key>.json`; the JSON is optional."""
    audio: dict[str, Member] = {}
    notes: dict[str, Note] = {}
    with _named(path), path.open("rb") as file:
        tar = TarReader(file, seekable=True)
        for member in tar:
            key, suffix = split_name(member.name)
            if suffix in INPUT_SUFFIXES:
                audio[key] = member
            elif suffix == ".json":
                notes[key] = Note.parse(tar.content(member, NOTE_BYTES + 1))
    for key, member in audio.items():
        note = notes.get(key, Note())
        seconds = 5.0 if note.seconds is None else note.seconds
        bandwidth = note.bandwidth(note.sample_rate or sample_rate, sample_rate)
        yield Clip(path, member.offset, member.size, key, seconds, note.kind, bandwidth)


def validation_clips(folder: Path, sample_rate: int, *, kind: str = "speech", limit: int = 0) -> list[Clip]:
    """Clips of one kind under a folder, evenly thinned to `limit` (0 = all).

    A `manifest.csv` in the folder with the columns `file` and `kind` says what kind each file is, or a folder named
    `noise` or `music`; all else counts as speech.

    Raises:
        DataError: no such clips, or a file that cannot be read.
    """
    clips = find_clips([folder], sample_rate)
    manifest = folder / "manifest.csv"
    if manifest.exists():
        with _named(manifest), manifest.open(newline="") as file:
            rows = csv.DictReader(file)
            if not {"file", "kind"} <= set(rows.fieldnames or ()):
                raise DataError("no columns `file` and `kind` in its first line")
    clips = [clip for clip in clips if clip.kind == kind]
    if not clips:
        raise DataError(f"no {kind} clips in {folder}")
    return clips[:: max(1, len(clips) // limit)][:limit] if limit else clips
