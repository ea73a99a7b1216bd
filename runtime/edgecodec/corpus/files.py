"""What is done to each file of a corpus: audio to .edgc or to arrays of codes, and .edgc back to either."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..bitstream import Header, Reader
from ..codebook_use import CodebookCounts
from ..codec import Codec
from ..entropy_model import NO_MODEL
from ..errors import ScaleWarning
from ..files.audio import open_audio
from ..files.code_arrays import CodeArrays, codes_of_audio, codes_of_edgc, write_arrays
from ..files.edgc import load_named, open_edgc
from ..files.encoding import Rate
from ..files.transcode import Report, decode_file, encode_file
from ..manifest import Effort
from ..sessions import Device
from .tasks import Result, Row, Task


@dataclass(frozen=True)
class EncodeFiles:
    """Audio to .edgc, or to arrays by the suffix of the target; arrays have `rate.stages` in every frame."""

    codec: Codec
    rate: Rate
    effort: Effort
    mono: bool
    gain: int | None = None  # of .edgc, see `encode_file`

    def begin(self) -> None:
        """See `Work`: the codec was loaded when it arrived."""

    def do(self, task: Task) -> Result:
        """Encode one file."""
        (one,) = task.inputs
        with heard() as notes:
            row, use = self._made(one.path, task.target)
        return Result(({"name": one.name, **row},), notes={one.name: notes} if notes else {}, use=use)

    def _made(self, source: str, target: str) -> tuple[Row, CodebookCounts | None]:
        if target.endswith(".edgc"):
            report = encode_file(
                self.codec,
                source,
                target,
                rate=self.rate,
                effort=self.effort,
                mono=self.mono,
                gain=self.gain,
                force=True,
            )
            return _row_of(report), report.use
        assert self.rate.stages is not None
        with open_audio(source) as audio:
            arrays = codes_of_audio(self.codec, audio, stages=self.rate.stages, effort=self.effort, mono=self.mono)
        write_arrays(arrays, target, force=True)
        use = counts_of(self.codec)
        use.add(arrays.codes)
        return row_of_arrays(arrays), use


@dataclass
class NamedCodecs:
    """The codec that was asked for, or else those that .edgc files name, each loaded once."""

    codec: Codec | None
    device: Device = "cpu"
    threads: int = 1
    _named: dict[tuple[str, bytes], Codec] = field(default_factory=dict)

    def of(self, header: Header) -> Codec:
        """The codec of a file."""
        if self.codec is not None:
            return self.codec
        key = header.bundle, header.fingerprint
        if key not in self._named:
            self._named[key] = load_named(header, self.device, self.threads)
        return self._named[key]


@dataclass(frozen=True)
class DecodeFiles:
    """.edgc to audio, by the suffix of the target."""

    codecs: NamedCodecs

    def begin(self) -> None:
        """See `Work`."""

    def do(self, task: Task) -> Result:
        """Decode one file; of a damaged one all that is left, which also counts as a failure."""
        (one,) = task.inputs
        report = decode_file(one.path, task.target, codec=self.codecs.of(_header_of(one.path)), force=True)
        rows = ({"name": one.name, **_row_of(report)},)
        if not report.damage:
            return Result(rows)
        more = f", and {len(report.damage) - 1} more" if len(report.damage) > 1 else ""
        return Result(rows, {one.name: f"damaged, and decoded as far as it goes: {report.damage[0]}{more}"})


@dataclass(frozen=True)
class TakeCodes:
    """.edgc to arrays of codes."""

    codecs: NamedCodecs
    stages: int | None

    def begin(self) -> None:
        """See `Work`."""

    def do(self, task: Task) -> Result:
        """Take the codes of one file; where no entropy model tells them, its bundle need not be there."""
        (one,) = task.inputs
        header = _header_of(one.path)
        codec = self.codecs.codec if header.model == NO_MODEL else self.codecs.of(header)
        arrays = codes_of_edgc(one.path, self.stages, codec)
        write_arrays(arrays, task.target, force=True)
        return Result(({"name": one.name, **row_of_arrays(arrays)},))


def _header_of(path: str) -> Header:
    with open_edgc(path) as file:
        return Reader(file).header


def counts_of(codec: Codec) -> CodebookCounts:
    """To count the codes of a codec with."""
    return CodebookCounts(codec.manifest.quantizer.codebook_size, codec.manifest.layout)


def row_of_arrays(arrays: CodeArrays) -> Row:
    """Facts about codes, for a row of the manifest."""
    facts, (_, stages, frames) = arrays.facts, arrays.codes.shape
    rate, samples, channels = (int(facts[name]) for name in ("input_rate", "samples", "channels"))
    seconds = round(samples / rate, 6)
    row = {"seconds": seconds, "sample_rate": rate, "channels": channels, "samples": samples}
    return row | {"stages": stages, "frames": frames}


def _row_of(report: Report) -> Row:
    return {
        "seconds": round(report.seconds, 6),
        "sample_rate": report.sample_rate,
        "channels": report.channels,
        "samples": round(report.seconds * report.sample_rate),
        "stages": report.stages,
        "kbps": round(report.file_kbps, 4),
    }


@contextmanager
def heard() -> Iterator[list[str]]:
    """A list of the warnings for the user that are given in the meantime."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ScaleWarning)
        yield texts
    texts += [str(one.message) for one in caught if issubclass(one.category, ScaleWarning)]
