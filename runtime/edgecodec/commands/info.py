"""What an .edgc file or a bundle is, in words and in numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bitstream import Reader
from ..bundle import Bundle, read_bundle
from ..errors import BitstreamError


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
    """Facts about an .edgc file, or about a bundle by name or folder.

    Raises:
        BitstreamError: a file that is no .edgc. BundleError: a bundle that does not load, or no such thing.
    """
    if Path(what).is_file():
        try:
            return Facts(_file_facts(what))
        except BitstreamError as error:
            raise BitstreamError(f"{what}: {error}") from None
    return Facts(_bundle_facts(read_bundle(what)))


def _file_facts(path: str) -> dict[str, Any]:
    with Path(path).open("rb") as file:
        reader = Reader(file)
        for _ in reader:
            pass
    header = reader.header
    coded = reader.frames * header.frame_size / header.codec_rate
    seconds = coded if reader.samples is None else reader.samples / header.sample_rate
    return {
        "bundle": header.bundle,
        "fingerprint": header.fingerprint.hex(),
        "sample_rate": header.sample_rate,
        "channels": header.channels,
        "samples": reader.samples,
        "seconds": seconds,
        "stages": header.stages,
        "code_bits": header.code_bits,
        "frames": reader.frames,
        "packets": reader.packets,
        "frames_per_packet": header.frames_per_packet,
        "payload_kbps": reader.payload_bytes * 8 / seconds / 1000 if seconds else 0.0,
        "file_kbps": reader.bytes * 8 / seconds / 1000 if seconds else 0.0,
        "damage": reader.damage,
    }


def _bundle_facts(bundle: Bundle) -> dict[str, Any]:
    m = bundle.manifest
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
        "quality": m.quality,
    }
