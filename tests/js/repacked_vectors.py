"""Bundles made of a bundle: of fixed shapes, in onnxruntime's own format, and such as no runtime may take."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import edgecodec
import numpy as np
from edgecodec_export.repack import Repack, repack
from file_vectors import encoded
from store import BUNDLES, Store, clip, codes_json, said

KINDS = {"one": (1, False), "four": (4, False), "ort": (0, True), "both": (1, True)}
SOURCE = "paths"


def repacked_vectors(folder: Path, store: Store) -> dict[str, Any]:
    """Bundles of the codes of one bundle, what that one makes of a clip of two channels, and what is refused."""
    source, samples = edgecodec.load(BUNDLES[SOURCE]), 70 * 16 + 5
    audio = np.stack([clip(samples), clip(2 * samples)[samples:]])
    bundles = {}
    for name, (frames, ort) in KINDS.items():
        repack(Repack(str(BUNDLES[SOURCE]), folder / name, name, frames, ort))
        bundles[name] = {"folder": str(folder / name), "whole": frames > 1}
    codes = source.encode(audio, stages=3)
    return {
        "source": str(BUNDLES[SOURCE]),
        "fingerprint": source.fingerprint.hex(),
        "bundles": bundles,
        "audio": [store.put(row) for row in audio],
        "codes": codes_json(codes),
        "decoded": store.put(source.decode(codes, samples=samples).reshape(-1, samples)),
        "files": {
            name: store.put(encoded(edgecodec.load(folder / name), audio, stages=2)) for name in KINDS if name != "four"
        },
        "streams": said(edgecodec.load(folder / "four").encoder_stream),
        "refused": refused_bundles(folder),
    }


def refused_bundles(folder: Path) -> list[list[str]]:
    """Graphs under names that are not those of their format, and what Python says of their bundles."""
    ort, graph = (folder / "ort" / "encoder.ort").read_bytes(), (BUNDLES[SOURCE] / "encoder.onnx").read_bytes()
    both = b"\x12\x08xxORTMyy" + graph  # a sound ONNX file, that onnxruntime takes for its own format
    refused = []
    for i, (name, data) in enumerate(
        [("e.onnx", ort), ("e.ort", graph), ("e.onnx", both), ("e.ORT", ort), (".ort", ort), ("e.ort", ort[:8])]
    ):
        bad = Path(shutil.copytree(BUNDLES[SOURCE], folder / f"refused{i}"))
        manifest = json.loads((bad / "manifest.json").read_text())
        entry = {"file": name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        manifest["graphs"]["encoder"] = entry
        (bad / "manifest.json").write_text(json.dumps(manifest))
        (bad / name).write_bytes(data)
        words = said(edgecodec.load, bad)
        assert words is not None
        refused.append([str(bad), words.removeprefix(f"{bad}/").partition("graph: ")[0]])  # then onnxruntime's words
    return refused
