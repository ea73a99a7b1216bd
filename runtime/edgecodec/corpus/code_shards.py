"""Codes of many recordings in one file: WebDataset shards, or Parquet.

    shard-000000.tar    a/b.npy    codes [n_stages, T], or [channels, n_stages, T] of more than one
                        a/b.json   what is known of them; of a shard that went in, the sample's own JSON with it
                        a/b.txt …  what else a sample of a shard had, as it was

    part-000000.parquet     a row for each: `key`, `codes` (lists of channels, stages, frames), and what is known

The same inputs give the same bytes. (WebDataset: https://github.com/webdataset/webdataset; the index is that of WIDS.)
"""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

import numpy as np

from ..codebook_use import CodebookCounts
from ..codec import Codec
from ..durable import new_file
from ..errors import DataError, EdgecodecError, reason_of
from ..files.audio import INPUT_SUFFIXES, AudioReader, audio_in, open_audio
from ..files.code_arrays import CodeArrays, codes_of_audio
from ..files.tar_members import TarReader, parse_note, split_name
from ..manifest import Effort
from .files import counts_of, heard, row_of_arrays
from .inputs import Input, is_shard
from .shards import MEMBER_BYTES, open_shard
from .tasks import Result, Row, Task

Form = Literal["webdataset", "parquet"]
NAMES: Mapping[Form, str] = {"webdataset": "shard-{:06}.tar", "parquet": "part-{:06}.parquet"}
INDEX = "index.json"


class _Sink(Protocol):
    """What takes codes and writes a file of them."""

    def add(self, key: str, arrays: CodeArrays, facts: Mapping[str, Any], others: Mapping[str, bytes]) -> None:
        """Codes of one recording; `others` are the members of a sample beside them, by suffix."""

    def close(self) -> None:
        """Write what is left."""


@dataclass(frozen=True)
class EncodeShards:
    """Recordings to codes, many in a file; inputs are files of audio, or one shard that holds them."""

    codec: Codec
    stages: int
    effort: Effort
    mono: bool
    form: Form

    def begin(self) -> None:
        """See `Work`."""

    def do(self, task: Task) -> Result:
        """Encode what one file will hold."""
        made = _Made(self, counts_of(self.codec))
        with new_file(Path(task.target)) as temporary:
            sink: _Sink = _Tar(temporary) if self.form == "webdataset" else _Parquet(temporary)
            if len(task.inputs) == 1 and is_shard(task.inputs[0].path):
                made.of_shard(task.inputs[0], sink)
            else:
                made.of_files(task.inputs, sink)
            sink.close()
        return Result(made.rows, made.failures, made.notes, made.use)


@dataclass
class _Made:
    """What has come of the inputs of a task so far."""

    how: EncodeShards
    use: CodebookCounts
    rows: list[Row] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def of_files(self, inputs: Sequence[Input], sink: _Sink) -> None:
        for one, key in zip(inputs, keys_of(inputs), strict=True):
            try:
                with heard() as notes, open_audio(one.path) as audio:
                    self._add(one.name, key, audio, sink, {"source": one.name}, {})
            except (EdgecodecError, OSError) as error:
                self.failures[one.name] = one.without_path(reason_of(error))
            else:
                self.notes |= {one.name: notes} if notes else {}

    def of_shard(self, shard: Input, sink: _Sink) -> None:
        with open_shard(shard.path) as stream:
            for key, members in _samples(TarReader(stream)):
                name = f"{shard.name}/{key}"
                suffix = next((suffix for suffix in members if suffix in INPUT_SUFFIXES), None)
                if suffix is None:
                    continue
                others = {own: data for own, data in members.items() if own != suffix and data is not None}
                try:
                    data = members[suffix]
                    if data is None:
                        raise DataError(f"larger than {MEMBER_BYTES >> 20} MiB")
                    facts = _own_facts(others.pop(".json", b"{}"))
                    with heard() as notes, ExitStack() as stack:
                        audio = audio_in(io.BytesIO(data), "", stack)
                        self._add(name, key, audio, sink, facts | {"source": name + suffix}, others)
                except EdgecodecError as error:
                    self.failures[name] = reason_of(error)
                else:
                    self.notes |= {name: notes} if notes else {}

    def _add(
        self, name: str, key: str, audio: AudioReader, sink: _Sink, facts: dict[str, Any], others: Mapping[str, bytes]
    ) -> None:
        how = self.how
        arrays = codes_of_audio(how.codec, audio, stages=how.stages, effort=how.effort, mono=how.mono)
        sink.add(key, arrays, facts | dict(arrays.facts), others)
        self.use.add(arrays.codes)
        self.rows.append({"name": name, "key": key, **row_of_arrays(arrays)})


class _Tar:
    """A WebDataset shard; whoever reads it finds neither times nor owners in it."""

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115  (closed by `close`)

    def add(self, key: str, arrays: CodeArrays, facts: Mapping[str, Any], others: Mapping[str, bytes]) -> None:
        codes = io.BytesIO()
        np.save(codes, arrays.codes[0] if len(arrays.codes) == 1 else arrays.codes, allow_pickle=False)
        self._member(f"{key}.npy", codes.getvalue())
        self._member(f"{key}.json", json.dumps(facts, sort_keys=True).encode())
        for suffix, data in others.items():
            self._member(key + suffix, data)

    def close(self) -> None:
        self._tar.close()

    def _member(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))


class _Parquet:
    """A Parquet file, a row group at its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns: dict[str, list[Any]] = {name: [] for name in ("key", "codes", *_PARQUET)}

    def add(self, key: str, arrays: CodeArrays, facts: Mapping[str, Any], others: Mapping[str, bytes]) -> None:
        del others  # a table has no place for files
        self._columns["key"].append(key)
        self._columns["codes"].append([list(stages) for stages in arrays.codes])
        for name in _PARQUET:
            self._columns[name].append(facts[name])

    def close(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        largest = max((int(row.max()) for one in self._columns["codes"] for stages in one for row in stages), default=0)
        kind = pa.list_(pa.list_(pa.list_(pa.uint8() if largest < 256 else pa.uint16())))
        columns = {name: pa.array(values, kind if name == "codes" else None) for name, values in self._columns.items()}
        pq.write_table(pa.table(columns), self._path)


_PARQUET = ("codec", "fingerprint", "sample_rate", "frame_rate", "input_rate", "samples", "channels", "source")


def keys_of(inputs: Sequence[Input]) -> list[str]:
    """The keys of files in a shard: their names without suffix; no dot stays in the last part, where one ends a key."""
    often = Counter(str(PurePosixPath(one.name).with_suffix("")) for one in inputs)
    keys = []
    for one in inputs:
        pure = PurePosixPath(one.name)
        short = pure.with_suffix("")
        name = (pure if often[str(short)] > 1 else short).name.replace(".", "_")
        keys.append((pure.parent / name).as_posix())
    return keys


def write_index(folder: Path, results: Mapping[str, Result]) -> None:
    """Write the index of the shards of a folder, as WIDS reads it."""
    shards = [{"url": name, "nsamples": len(results[name].rows)} for name in sorted(results)]
    with new_file(folder / INDEX) as temporary:
        temporary.write_text(json.dumps({"wids_version": 1, "shardlist": shards}, indent=1) + "\n")


def _samples(tar: TarReader) -> Iterator[tuple[str, dict[str, bytes | None]]]:
    """Members by suffix, of each key in turn; None where one is too large."""
    key, members = "", dict[str, "bytes | None"]()
    for member in tar:
        own, suffix = split_name(member.name)
        if own != key and members:
            yield key, members
            members = {}
        key = own
        members[suffix] = tar.content(member, MEMBER_BYTES) if member.size <= MEMBER_BYTES else None
    if members:
        yield key, members


def _own_facts(note: bytes) -> dict[str, Any]:
    """What a sample's JSON says, by name where it is no object."""
    found = parse_note(note)
    return found if isinstance(found, dict) else {"note": found}
