"""The manifest of a bundle: all that the runtime knows about a codec.

Every field is checked on the way in: exact keys, exact types, and a range for every number, so that nothing later has
to doubt them. Lengths are in samples at `sample_rate` unless a name says otherwise.
"""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import BitrateError, BitstreamError, BundleError, one_line
from .layout import MAX_LINES, MISSING, SIDE_BITS, Layout
from .manifest_parts import (
    FileEntry,
    GraphFiles,
    Latency,
    Lookahead,
    PartSizes,
    QuantizerFacts,
    StartFrames,
    StateSizes,
    Text,
    held_back,
)

__all__ = [
    "DEFAULT_BITRATE",
    "EFFORTS",
    "FORMAT_VERSION",
    "GRAPHS",
    "Effort",
    "FileEntry",
    "GraphFiles",
    "Latency",
    "Lookahead",
    "Manifest",
    "PartSizes",
    "QuantizerFacts",
    "StartFrames",
    "StateSizes",
    "held_back",
]

FORMAT_VERSION = 2
MAX_NAME = 64  # bytes of a bundle's name in UTF-8: what files and announcements can hold
GRAPHS = ("encoder", "quantizer_encode", "quantizer_decode", "decoder")
DEFAULT_BITRATE = 6.0  # kbps

Effort = Literal["live", "fast", "best"]
EFFORTS: tuple[Effort, ...] = ("live", "fast", "best")
_PATHS = {"live": 0, "fast": 4, "best": 8}  # that the search for codes follows after every stage

_BITRATE_SLACK = 0.02  # of a bitrate: people round 3.01 and 1.98 kbps


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The contract between an export and every runtime; `manifest.json` holds these keys, in this order, and no others.

    `parity` (measured differences between training and graphs), `quality` (table rows), `training` (data, licences)
    and `tools` (versions) are for people: any JSON.

    The keys from `channels` to `fingerprint` came with format 2. A manifest that has them all at their defaults is one
    of format 1, and is written as such.

    Raises:
        BundleError: fields that contradict each other.
    """

    format_version: Annotated[int, msgspec.Meta(ge=1, le=FORMAT_VERSION)] = 1
    name: Text
    architecture: Text
    sample_rate: Annotated[int, msgspec.Meta(ge=1000, le=768_000)]
    frame_size: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    latent_dim: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    quantizer: QuantizerFacts
    state: StateSizes
    latency: Latency
    channels: Annotated[int, msgspec.Meta(ge=1, le=8)] = 1
    lookahead: Lookahead = Lookahead()
    start_frames: StartFrames = StartFrames()
    call_frames: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0  # of every call; 0 for any number
    side: Annotated[int, msgspec.Meta(ge=0, le=255)] = 0
    stage_widths: tuple[Annotated[int, msgspec.Meta(ge=1, le=4096)], ...] = ()
    max_paths: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0  # that a search for codes may follow; 0: its own only
    entropy: FileEntry | None = None
    # In hex: of the bundle that the graphs were made from, where they give its codes; empty for their own.
    fingerprint: Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{16})?$")] = ""
    parameters: PartSizes
    macs_per_second: PartSizes
    opset: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    precision: Text
    graphs: GraphFiles
    golden: FileEntry
    parity: dict[str, Any]
    quality: list[Any]
    training: dict[str, Any]
    tools: dict[str, Any]

    def __post_init__(self) -> None:
        """Refuse fields that contradict each other, and set the version that these fields make."""
        start, ahead, widths = self.start_frames, self.lookahead, self.stage_widths
        wrong = None
        if not "".join(_texts(self)).isprintable():
            wrong = "texts: hold what cannot be printed"
        elif len(self.name.encode()) > MAX_NAME:
            wrong = f"name: more than {MAX_NAME} bytes, which files cannot hold"
        elif widths and len(widths) != self.quantizer.max_stages:
            wrong = f"stage_widths: {len(widths)} widths for {self.quantizer.max_stages} stages"
        elif self.layout.lines(self.quantizer.max_stages) > MAX_LINES:
            wrong = f"stage_widths: more than {MAX_LINES} code lines a frame"
        elif start.encoder < ahead.encoder + bool(ahead.encoder) or start.decoder * self.frame_size < ahead.decoder:
            wrong = "start_frames: a first call would hold no more than lookahead keeps back"
        elif self.call_frames and max(start.encoder, start.decoder) > self.call_frames:
            wrong = "start_frames: more than the one frame of every call"
        elif self.call_frames > 1 and (ahead.encoder or ahead.decoder):
            wrong = "call_frames: more than one, of graphs that look ahead"
        elif self.latency.algorithmic < self.held:
            wrong = f"latency.algorithmic: {self.latency.algorithmic}, but {self.held} samples are held back"
        if wrong is not None:
            raise BundleError(f"the manifest's {wrong}")
        is_second = any(getattr(self, key) != default for key, default in _SECOND_FORMAT.items())
        msgspec.structs.force_setattr(self, "format_version", 1 + is_second)

    @property
    def held(self) -> int:
        """Samples by which what comes out of a stream is less than what went in; see `held_back`."""
        return held_back(self.lookahead, self.start_frames, self.frame_size)

    @property
    def delay(self) -> int:
        """Samples to drop at the start of decoded audio: what of the algorithmic latency is not held back."""
        return self.latency.algorithmic - self.held

    @property
    def ahead(self) -> int:
        """Samples by which the graphs of a stream that has begun hold back."""
        return self.lookahead.encoder * self.frame_size + self.lookahead.decoder

    @property
    def layout(self) -> Layout:
        """The code lines of a frame."""
        return Layout(self.side, self.stage_widths)

    def streams(self, channels: int) -> int:
        """Streams that code this many channels of audio: one for each, or for each pair of a stereo bundle."""
        return -(-channels // self.channels)

    @property
    def frame_rate(self) -> float:
        """Code frames per second."""
        return self.sample_rate / self.frame_size

    def bitrate(self, stages: int) -> float:
        """Payload of `stages` stages in kbps: frame_rate * codes a frame * log2(codebook_size) / 1000.

        The lines beside the stages are not counted.
        """
        return self.frame_rate * self.layout.codes(stages) * math.log2(self.quantizer.codebook_size) / 1000

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
        nearest = min(range(1, most + 1), key=lambda n: abs(self.bitrate(n) - wanted))
        if abs(self.bitrate(nearest) - wanted) <= _BITRATE_SLACK * self.bitrate(nearest):
            return nearest
        if bitrate is None:
            return most
        listed = ", ".join(f"{possible:.4g}" for possible in self.bitrates)
        raise BitrateError(f"{self.name} cannot do {bitrate:g} kbps; possible: {listed} kbps")

    def paths(self, effort: Effort) -> int:
        """How many paths the search for codes follows after every stage; 0: those that the bundle was made for.

        Raises:
            BitrateError: no such effort.
        """
        if effort not in _PATHS:
            raise BitrateError(f"effort must be {', '.join(_PATHS)}, not {effort!r}")
        return min(_PATHS[effort], self.max_paths)

    def frames(self, samples: int) -> int:
        """Code frames of a clip: enough that the decoder, which lags by `delay`, answers it all."""
        return -(-(samples + self.delay) // self.frame_size) if samples else 0

    def check_codes(self, codes: ArrayLike, streams: int | None = None) -> NDArray[np.int64]:
        """Codes as int64 [B, lines, T]; nothing unchecked reaches a graph.

        Frames may have fewer stages than others: -1 stands in the lines of those that they lack, at least one is there.

        Raises:
            BitstreamError: codes of a wrong shape, type or range, or not of `streams` streams.
        """
        array, quantizer, layout = np.asarray(codes), self.quantizer, self.layout
        if array.dtype.kind not in "iu":
            raise BitstreamError(f"codes must be integers, not {array.dtype}")
        stages = layout.stages(array.shape[1]) if array.ndim == 3 and array.size else 0
        if not 0 < stages <= quantizer.max_stages:
            raise BitstreamError(
                f"codes must be [B, {'n_stages' if layout.is_plain else 'lines'}, T] "
                f"with 1 to {quantizer.max_stages} stages, "
                f"not of shape {list(array.shape)}"
            )
        if streams is not None and len(array) != streams:
            raise BitstreamError(f"codes of {len(array)} streams, expected {streams}")
        checked = array.astype(np.int64, copy=False)
        present = checked[:, layout.side :]
        if _largest(present) >= quantizer.codebook_size:
            missing = present == MISSING
            if not missing.any() or _largest(np.where(missing, 0, present)) >= quantizer.codebook_size:
                raise BitstreamError(f"codes must lie in 0..{quantizer.codebook_size - 1}")
            counts = layout.counts(checked)
            if not counts.all() or not np.array_equal(layout.present(checked.shape[1], counts), checked != MISSING):
                raise BitstreamError("-1 may only stand in the last stages of a frame, and not in all")
        if layout.side and _largest(checked[:, : layout.side]) >> SIDE_BITS:
            raise BitstreamError(f"the first {layout.side} lines of codes must lie in 0..{(1 << SIDE_BITS) - 1}")
        return checked

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Read and check a manifest.

        Raises:
            BundleError: not JSON, a newer format, missing or unknown keys, a wrong type, or a number out of range.
        """
        try:
            version = msgspec.json.decode(text, type=_Version).format_version
            if version > FORMAT_VERSION:
                raise BundleError(
                    f"the bundle has format {version}, this edgecodec reads up to {FORMAT_VERSION}: upgrade edgecodec"
                )
            manifest = msgspec.json.decode(text, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _refused(error) from None
        if manifest.format_version > version:
            raise BundleError(f"the manifest's format_version: {version}, but it holds keys of format 2")
        return manifest

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        data = msgspec.structs.asdict(self)
        if self.format_version == 1:
            for key in _SECOND_FORMAT:
                del data[key]
        elif not self.fingerprint:  # which readers of the first 0.2 do not know
            del data["fingerprint"]
        return json.dumps(data, indent=1, allow_nan=False, default=msgspec.structs.asdict) + "\n"


_SECOND_FORMAT: dict[str, Any] = {
    "channels": 1,
    "lookahead": Lookahead(),
    "start_frames": StartFrames(),
    "call_frames": 0,
    "side": 0,
    "stage_widths": (),
    "max_paths": 0,
    "entropy": None,
    "fingerprint": "",
}


def _texts(part: msgspec.Struct) -> list[str]:
    values = () if isinstance(part, FileEntry) else msgspec.structs.astuple(part)  # `bundle` looks at their names
    parts = [text for value in values if isinstance(value, msgspec.Struct) for text in _texts(value)]
    return [*parts, *(value for value in values if isinstance(value, str))]


def _largest(numbers: NDArray[np.int64]) -> int:
    """The largest of numbers among which negative ones are huge."""
    unsigned = numbers.view(np.uint64)
    return int(unsigned.item(unsigned.argmax()))


class _Version(msgspec.Struct):
    """What a manifest of any format says; its other keys are not looked at."""

    format_version: int


def _refused(error: Exception) -> BundleError:
    """Msgspec says "Expected `int` >= 1 - at `$.quantizer.max_stages`"."""
    text = one_line(str(error).replace("`", ""))  # keys may hold anything
    what, _, where = text.rpartition(" - at $.") if " - at $." in text else (text, "", "")
    return BundleError(f"the manifest's {where}: {what}" if where else f"the manifest: {what}")
