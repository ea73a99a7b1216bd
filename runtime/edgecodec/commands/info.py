"""What an .edgc file or a bundle is, in words and in numbers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..bitstream import Header, Reader
from ..bundle import Bundle, read_bundle
from ..chunk_coder import ChunkCoder
from ..chunks import Chunk
from ..entropy_model import NO_MODEL
from ..errors import BitstreamError
from ..files.edgc import input_name, open_edgc
from ..packets import Packet


@dataclass(frozen=True)
class Facts:
    """Facts by name, as JSON has them."""

    data: dict[str, Any]

    def lines(self) -> Iterator[tuple[str, str]]:
        """Name and text of each fact."""
        for name, value in self.data.items():
            text = (
                f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
            )
            yield name.replace("_", " "), text


def describe(what: str) -> Facts:
    """Facts about an .edgc file, `-` for standard input, or about a bundle by name or folder.

    Raises:
        BitstreamError: a file that is no .edgc. BundleError: a bundle that does not load, or no such thing.
    """
    if what == "-" or Path(what).is_file():
        with open_edgc(what) as file:
            try:
                return Facts(_file_facts(file))
            except BitstreamError as error:
                raise BitstreamError(f"{input_name(what)}: {error}") from None
    return Facts(_bundle_facts(read_bundle(what)))


def _file_facts(file: BinaryIO) -> dict[str, Any]:
    reader = Reader(file)
    sizes = _Sizes(reader.header)
    for item in reader:
        sizes.add(item)
    header = reader.header
    coded = header.seconds(reader.frames)
    seconds = coded if reader.samples is None else reader.samples / header.sample_rate
    return {
        "version": header.version,
        "bundle": header.bundle,
        "fingerprint": header.fingerprint.hex(),
        "entropy_model": None if header.model == NO_MODEL else header.model.hex(),
        "sample_rate": header.sample_rate,
        "channels": header.channels,
        "gain_db": header.gain,
        "samples": reader.samples,
        "seconds": seconds,
        "stages": header.stages,
        "code_bits": header.code_bits,
        "frames": reader.frames,
        "frames_of_stages": dict(sorted(sizes.frames_of_stages.items())),
        "chunks": reader.chunks,
        "frames_per_chunk": header.frames_per_packet,
        "payload_kbps": reader.payload_bytes * 8 / seconds / 1000 if seconds else 0.0,
        "file_kbps": reader.bytes * 8 / seconds / 1000 if seconds else 0.0,
        "peak_kbps": sizes.peak_kbps(),
        "entropy_saving": sizes.saved(reader.payload_bytes),
        "damage": reader.damage,
    }


class _Sizes:
    """What the chunks or packets of a file take."""

    def __init__(self, header: Header) -> None:
        self._header, self._coder = header, ChunkCoder(header)
        self._ends, self._bytes = [0.0], [0]  # seconds and bytes up to each chunk
        self._fixed_width = 0.0  # bytes
        self.frames_of_stages: Counter[int] = Counter()  # of all streams

    def add(self, item: Chunk | Packet) -> None:
        """Count one more."""
        header = self._header
        if isinstance(item, Chunk):
            size = header.chunk_format.size(item, item.stages)
            self.frames_of_stages.update(self._coder.counts(item).ravel().tolist())
            self._fixed_width += self._coder.fixed_width_bytes(item)
        else:
            size = header.format.size(item.stages, item.frames)
            self.frames_of_stages[item.stages] += item.frames * header.streams
            self._fixed_width += header.payload_size(item)
        self._ends.append(self._ends[-1] + header.seconds(item.frames))
        self._bytes.append(self._bytes[-1] + size)

    def peak_kbps(self) -> float:
        """Of the second that takes most, or of all that is shorter; bytes count evenly over their chunk."""
        ends, sizes = np.array(self._ends), np.array(self._bytes)
        window = min(1.0, ends[-1])
        starts = np.minimum(ends, ends[-1] - window)
        taken = np.interp(starts + window, ends, sizes) - np.interp(starts, ends, sizes)
        return float(taken.max() * 8 / window / 1000) if window else 0.0

    def saved(self, payload: int) -> float:
        """The share of what the codes would take at a fixed width."""
        return 1 - payload / self._fixed_width if self._fixed_width else 0.0


def _bundle_facts(bundle: Bundle) -> dict[str, Any]:
    m = bundle.manifest
    entropy = m.training.get("entropy")  # any JSON
    return {
        "name": m.name,
        "path": str(bundle.path),
        "fingerprint": bundle.fingerprint.hex(),
        "architecture": m.architecture,
        "sample_rate": m.sample_rate,
        "channels": m.channels,
        "frame_size": m.frame_size,
        "frame_rate": m.frame_rate,
        "quantizer": f"{m.quantizer.kind}, {m.quantizer.max_stages} stages of {m.quantizer.codebook_size}",
        "bitrates_kbps": [round(m.bitrate(n), 4) for n in range(1, m.quantizer.max_stages + 1)],
        "latency_ms": {
            "buffering": m.latency.buffering * 1000 / m.sample_rate,
            "algorithmic": m.latency.algorithmic * 1000 / m.sample_rate,
            "lookahead": m.ahead * 1000 / m.sample_rate,  # of it
        },
        "parameters": m.parameters.encoder + m.parameters.decoder + m.parameters.quantizer,
        "mmacs_per_second": (m.macs_per_second.encoder + m.macs_per_second.decoder + m.macs_per_second.quantizer) / 1e6,
        "precision": m.precision,
        "opset": m.opset,
        "graph_bytes": sum(len(graph) for graph in bundle.graphs.values()),
        "entropy_bytes": 0 if m.entropy is None else m.entropy.bytes,
        "entropy_saving": entropy.get("saved") if isinstance(entropy, dict) else None,  # share of the bits, by stages
        "quality": m.quality,
    }
