"""What is done to each file of a corpus: audio to .edgc or to arrays of codes, and .edgc back to either."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..bitstream import Header, Reader
from ..codec import Codec
from ..errors import ScaleWarning
from ..files.audio import open_audio
from ..files.code_arrays import CodeArrays, codes_of_audio, codes_of_edgc, write_arrays
from ..files.edgc import load_named, open_edgc
from ..files.encoding import Rate
from ..files.transcode import Report, decode_file, encode_file
from ..manifest import Effort
from ..sessions import Device


@dataclass(frozen=True)
class FileTask:
    """One file to make of another; `target` is a path, `name` what the input is called."""

    source: str
    name: str
    target: str


@dataclass(frozen=True)
class FileResult:
    """What was made: facts for a row of the manifest, and what the user should hear."""

    row: dict[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class EncodeFiles:
    """Audio to .edgc, or to arrays by the suffix of the target; arrays have `rate.stages` in every frame."""

    codec: Codec
    rate: Rate
    effort: Effort
    mono: bool

    def begin(self) -> None:
        """See `Work`: the codec was loaded when it arrived."""

    def do(self, task: FileTask) -> FileResult:
        """Encode one file."""
        return _heard(lambda: self._made(task))

    def _made(self, task: FileTask) -> dict[str, Any]:
        if task.target.endswith(".edgc"):
            return _row_of(
                encode_file(
                    self.codec, task.source, task.target, rate=self.rate, effort=self.effort, mono=self.mono, force=True
                )
            )
        assert self.rate.stages is not None
        with open_audio(task.source) as audio:
            arrays = codes_of_audio(self.codec, audio, stages=self.rate.stages, effort=self.effort, mono=self.mono)
        write_arrays(arrays, task.target, force=True)
        return row_of_arrays(arrays)


@dataclass
class DecodeFiles:
    """.edgc to audio, by the suffix of the target; without a codec by those that the files name."""

    codec: Codec | None
    device: Device = "cpu"
    threads: int = 1
    _named: dict[tuple[str, bytes], Codec] = field(default_factory=dict)

    def begin(self) -> None:
        """See `Work`."""

    def do(self, task: FileTask) -> FileResult:
        """Decode one file; of a damaged one all that is left, and a note."""
        with open_edgc(task.source) as file:
            header = Reader(file).header
        report = decode_file(task.source, task.target, codec=self._codec(header), force=True)
        if not report.damage:
            return FileResult(_row_of(report))
        more = f", and {len(report.damage) - 1} more" if len(report.damage) > 1 else ""
        damage = f"damaged, and decoded as far as it goes: {report.damage[0]}{more}"
        return FileResult(_row_of(report) | {"damage": damage}, (damage,))

    def _codec(self, header: Header) -> Codec:
        if self.codec is not None:
            return self.codec
        key = header.bundle, header.fingerprint
        if key not in self._named:
            self._named[key] = load_named(header, self.device, self.threads)
        return self._named[key]


@dataclass(frozen=True)
class TakeCodes:
    """.edgc to arrays of codes."""

    codec: Codec | None
    stages: int | None

    def begin(self) -> None:
        """See `Work`."""

    def do(self, task: FileTask) -> FileResult:
        """Take the codes of one file."""
        arrays = codes_of_edgc(task.source, self.stages, self.codec)
        write_arrays(arrays, task.target, force=True)
        return FileResult(row_of_arrays(arrays))


def row_of_arrays(arrays: CodeArrays) -> dict[str, Any]:
    """Facts about codes, for a row of the manifest."""
    facts, (_, stages, frames) = arrays.facts, arrays.codes.shape
    rate, samples, channels = (int(facts[name]) for name in ("input_rate", "samples", "channels"))
    seconds = round(samples / rate, 6)
    row = {"seconds": seconds, "sample_rate": rate, "channels": channels, "samples": samples}
    return row | {"stages": stages, "frames": frames}


def _row_of(report: Report) -> dict[str, Any]:
    return {
        "seconds": round(report.seconds, 6),
        "sample_rate": report.sample_rate,
        "channels": report.channels,
        "samples": round(report.seconds * report.sample_rate),
        "stages": report.stages,
        "kbps": round(report.file_kbps, 4),
    }


def _heard(make: Callable[[], dict[str, Any]]) -> FileResult:
    """What is made, and the warnings on the way."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ScaleWarning)
        row = make()
    return FileResult(row, tuple(str(one.message) for one in caught if issubclass(one.category, ScaleWarning)))
