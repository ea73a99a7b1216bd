"""The manifest of a bundle: all that the runtime knows about a codec.

Every field is checked on the way in: exact keys, exact types, and a range for every number, so that nothing later has
to doubt them. Lengths are in samples at `sample_rate` unless a name says otherwise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, cast, get_type_hints

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import BitrateError, BitstreamError, BundleError

FORMAT_VERSION = 1
DEFAULT_BITRATE = 6.0  # kbps
GRAPHS = ("encoder", "quantizer_encode", "quantizer_decode", "decoder")


def _bounds(low: int, high: int) -> Any:
    return field(metadata={"bounds": (low, high)})


@dataclass(frozen=True)
class QuantizerFacts:
    """Kind (`rvq`, `vq`, `pq`, `gumbel`), entries per codebook, and stages trained."""

    kind: str
    codebook_size: int = _bounds(2, 65536)
    max_stages: int = _bounds(1, 128)

    @property
    def code_bits(self) -> int:
        """Bits that one code takes in a packet: ⌈log2(codebook_size)⌉."""
        return (self.codebook_size - 1).bit_length()


@dataclass(frozen=True)
class StateSizes:
    """Floats that each graph carries from call to call, per stream."""

    encoder: int = _bounds(0, 1 << 24)
    decoder: int = _bounds(0, 1 << 24)


@dataclass(frozen=True)
class Latency:
    """Samples: `buffering` until a frame is full, `algorithmic` by which decoded audio lags behind the input."""

    buffering: int = _bounds(1, 1 << 16)
    algorithmic: int = _bounds(0, 1 << 20)


@dataclass(frozen=True)
class PartSizes:
    """One number for each part of the codec: parameters, or multiply-accumulates per second of audio."""

    encoder: int = _bounds(0, 1 << 50)
    decoder: int = _bounds(0, 1 << 50)
    quantizer: int = _bounds(0, 1 << 50)


@dataclass(frozen=True)
class FileEntry:
    """A file of the bundle: plain name, SHA-256 in hex, and bytes."""

    file: str
    sha256: str
    bytes: int = _bounds(1, 256 << 20)


@dataclass(frozen=True)
class GraphFiles:
    """The four graphs."""

    encoder: FileEntry
    quantizer_encode: FileEntry
    quantizer_decode: FileEntry
    decoder: FileEntry


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The contract between an export and every runtime; `manifest.json` holds these keys and no others.

    `parity` (measured differences between training and graphs), `quality` (table rows), `training` (data, licences)
    and `tools` (versions) are for people: any JSON.
    """

    name: str
    architecture: str
    sample_rate: int = _bounds(1000, 768_000)
    frame_size: int = _bounds(1, 1 << 16)
    latent_dim: int = _bounds(1, 1 << 14)
    quantizer: QuantizerFacts
    state: StateSizes
    latency: Latency
    parameters: PartSizes
    macs_per_second: PartSizes
    opset: int = _bounds(1, 1000)
    precision: str
    graphs: GraphFiles
    golden: FileEntry
    parity: dict[str, Any]
    quality: list[Any]
    training: dict[str, Any]
    tools: dict[str, Any]
    format_version: int = field(default=FORMAT_VERSION, metadata={"bounds": (1, FORMAT_VERSION)})

    @property
    def frame_rate(self) -> float:
        """Code frames per second."""
        return self.sample_rate / self.frame_size

    def bitrate(self, stages: int) -> float:
        """Payload of `stages` stages in kbps: frame_rate * stages * log2(codebook_size) / 1000."""
        return self.frame_rate * stages * math.log2(self.quantizer.codebook_size) / 1000

    @property
    def bitrates(self) -> tuple[float, ...]:
        """The possible bitrates in kbps, for 1, 2, … max_stages stages."""
        return tuple(self.bitrate(n) for n in range(1, self.quantizer.max_stages + 1))

    def stages(self, *, bitrate: float | None = None, stages: int | None = None) -> int:
        """The stage count that a bitrate in kbps or a stage count asks for.

        Neither: 6 kbps where that is possible, else all stages.

        Raises:
            BitrateError: both, or one that this bundle does not offer; the message lists the possible ones.
        """
        most = self.quantizer.max_stages
        if bitrate is not None and stages is not None:
            raise BitrateError("give a bitrate or a stage count, not both")
        if stages is not None:
            if isinstance(stages, bool) or not isinstance(stages, int | np.integer):
                raise BitrateError(f"stages must be a whole number, not {stages!r}")
            if not 1 <= stages <= most:
                raise BitrateError(f"{self.name} has 1 to {most} stages, not {stages}")
            return int(stages)
        wanted = DEFAULT_BITRATE if bitrate is None else bitrate
        for n, possible in enumerate(self.bitrates, start=1):
            if abs(possible - wanted) <= 0.001 * possible + 1e-9:
                return n
        if bitrate is None:
            return most
        listed = ", ".join(f"{possible:.4g}" for possible in self.bitrates)
        raise BitrateError(f"{self.name} cannot do {bitrate:g} kbps; possible: {listed} kbps")

    def frames(self, samples: int) -> int:
        """Code frames of a clip: enough that the decoder, which lags by the algorithmic latency, answers it all."""
        return -(-(samples + self.latency.algorithmic) // self.frame_size) if samples else 0

    def check_codes(self, codes: ArrayLike, channels: int | None = None) -> NDArray[np.int64]:
        """Codes as int64 [B, n_stages, T]; nothing unchecked reaches a graph.

        Raises:
            BitstreamError: codes of a wrong shape, type or range, or not of `channels` channels.
        """
        array, quantizer = np.asarray(codes), self.quantizer
        if array.dtype.kind not in "iu":
            raise BitstreamError(f"codes must be integers, not {array.dtype}")
        if array.ndim != 3 or not array.size or array.shape[1] > quantizer.max_stages:
            raise BitstreamError(
                f"codes must be [B, n_stages, T] with 1 to {quantizer.max_stages} stages, "
                f"not of shape {list(array.shape)}"
            )
        if channels is not None and len(array) != channels:
            raise BitstreamError(f"codes of {len(array)} channels, expected {channels}")
        checked = array.astype(np.int64, copy=False)
        unsigned = checked.view(np.uint64)  # in which negative numbers are huge
        if unsigned.item(unsigned.argmax()) >= quantizer.codebook_size:
            raise BitstreamError(f"codes must lie in 0..{quantizer.codebook_size - 1}")
        return checked

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Read and check a manifest.

        Raises:
            BundleError: not JSON, a newer format, missing or unknown keys, a wrong type, or a number out of range.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"the manifest is not JSON: {error}") from None
        if not isinstance(data, dict):
            raise BundleError("the manifest is not a JSON object")
        version = data.get("format_version")
        if type(version) is int and version > FORMAT_VERSION:
            raise BundleError(
                f"the bundle has format {version}, this edgecodec reads up to {FORMAT_VERSION}: upgrade edgecodec"
            )
        if "format_version" not in data:
            raise BundleError("the manifest lacks format_version")
        return cast(Manifest, _read(cls, data, ""))

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        data = asdict(self)
        return json.dumps({"format_version": data.pop("format_version"), **data}, indent=1, allow_nan=False) + "\n"


def _read(kind: type[Any], data: Mapping[str, Any], where: str) -> object:
    """Build the dataclass `kind` of a JSON object found at `where`."""
    names = {f.name for f in fields(kind)}
    for problem, keys in (("lacks", names - data.keys()), ("has unknown key", data.keys() - names)):
        if keys:
            listed = ", ".join(where + key[:60] for key in sorted(keys)[:5])
            raise BundleError(f"the manifest {problem} {listed}")
    hints = get_type_hints(kind)
    values = {f.name: _value(hints[f.name], data[f.name], where + f.name, f.metadata) for f in fields(kind)}
    return kind(**values)


def _value(hint: Any, value: Any, where: str, metadata: Mapping[str, Any]) -> object:
    if is_dataclass(hint):
        hint, build = dict, cast(type[Any], hint)
    else:
        hint, build = getattr(hint, "__origin__", hint), None
    if type(value) is not hint:  # not isinstance: true is no number
        raise BundleError(f"the manifest's {where} must be {hint.__name__}, not {type(value).__name__}")
    if build is not None:
        return _read(build, value, f"{where}.")
    if hint is str and not 0 < len(value) <= 200:
        raise BundleError(f"the manifest's {where} must have 1 to 200 characters")
    if "bounds" in metadata:
        low, high = metadata["bounds"]
        if not low <= value <= high:
            raise BundleError(f"the manifest's {where} is {value}, outside {low}..{high}")
    return value
