"""Makes `tiny_bundle/`: a real little transform codec without training, so that runtime tests need no torch.

8 kHz, 16 samples a frame. The MDCT (sine window of two frames) gives the latents, four residual stages of 16 entries
quantize them, the inverse MDCT overlaps and adds: both graphs carry 16 samples of state, and decoded audio lags by one
frame. `paths_bundle/` is the same, and its search for codes can be asked to follow several paths. Run
`python tests/runtime/make_tiny_bundle.py` to write both again.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import onnx
import torch
from edgecodec.codec import load
from edgecodec.manifest import (
    FileEntry,
    GraphFiles,
    Latency,
    Manifest,
    PartSizes,
    QuantizerFacts,
    StateSizes,
)
from edgecodec_export.onnx_model import OPSET, onnx_model
from edgecodec_export.quantizer_graphs import max_paths, quantizer_decode_graph, quantizer_encode_graph
from edgecodec_training.codebook_search import LookupTables
from onnx import TensorProto, helper, numpy_helper

FRAME, RATE, STAGES, ENTRIES = 16, 8000, 4, 16
HERE = Path(__file__).parent


def mdct_basis() -> np.ndarray:
    """Windowed basis [2 * FRAME, FRAME] whose transform and overlapped inverse reconstruct perfectly."""
    n, k = np.arange(2 * FRAME)[:, None], np.arange(FRAME)[None]
    window = np.sin(np.pi * (n + 0.5) / (2 * FRAME))
    basis = window * np.cos(np.pi / FRAME * (n + 0.5 + FRAME / 2) * (k + 0.5)) * np.sqrt(2 / FRAME)
    return basis.astype(np.float32)


def tables(paths: tuple[int, ...] = ()) -> LookupTables:
    rng = np.random.default_rng(7)
    scale = 0.5 * 0.6 ** np.arange(STAGES)[:, None, None] / (1 + np.arange(FRAME)) ** 0.5
    table = (rng.standard_normal((STAGES, ENTRIES, FRAME)) * scale).astype(np.float32)
    table[:, 0] = 0  # silence stays silent
    bias = (-0.5 * (table**2).sum(axis=2)).astype(np.float32)
    return LookupTables(None, *map(torch.from_numpy, (table.transpose(0, 2, 1), bias, table)), paths)


def encoder_graph() -> onnx.ModelProto:
    """state | audio in frames: each frame with the one before it, times the basis."""
    nodes = [
        helper.make_node("Squeeze", ["audio", "one"], ["flat"]),
        helper.make_node("Concat", ["state", "flat"], ["joined"], axis=1),
        helper.make_node("Reshape", ["joined", "frames"], ["rows"]),  # [B, T + 1, F]
        helper.make_node("Slice", ["rows", "zero", "minus_one", "one"], ["before"]),
        helper.make_node("Slice", ["rows", "one", "end", "one"], ["now"]),
        helper.make_node("Concat", ["before", "now"], ["pairs"], axis=2),
        helper.make_node("MatMul", ["pairs", "basis"], ["latents"]),
        helper.make_node("Slice", ["joined", "minus_frame", "end", "one"], ["next_state"]),
    ]
    values = {"frames": [0, -1, FRAME], "minus_frame": [-FRAME]}
    return model("encoder", nodes, values, ["audio", "state"], ["latents", "next_state"])


def decoder_graph() -> onnx.ModelProto:
    """Each frame's first half plus the second half of the frame before it."""
    nodes = [
        helper.make_node("MatMul", ["latents", "inverse"], ["pairs"]),  # [B, T, 2F]
        helper.make_node("Split", ["pairs", "halves"], ["first", "second"], axis=2),
        helper.make_node("Unsqueeze", ["state", "one"], ["carried"]),  # [B, 1, F]
        helper.make_node("Concat", ["carried", "second"], ["tails"], axis=1),
        helper.make_node("Slice", ["tails", "zero", "minus_one", "one"], ["overlap"]),
        helper.make_node("Add", ["first", "overlap"], ["sum"]),
        helper.make_node("Reshape", ["sum", "as_audio"], ["audio"]),
        helper.make_node("Slice", ["tails", "minus_one", "end", "one"], ["last"]),
        helper.make_node("Squeeze", ["last", "one"], ["next_state"]),
    ]
    values = {"halves": [FRAME, FRAME], "as_audio": [0, 1, -1]}
    return model("decoder", nodes, values, ["latents", "state"], ["audio", "next_state"])


def model(name: str, nodes: list, values: dict, inputs: list[str], outputs: list[str]) -> onnx.ModelProto:
    shapes = {
        "audio": ["B", 1, "samples"],
        "latents": ["B", "T", FRAME],
        "state": ["B", FRAME],
        "next_state": ["B", FRAME],
    }
    # "one" is an axis, a start and a step: slices are along axis 1 throughout.
    values = {"zero": [0], "one": [1], "minus_one": [-1], "end": [2**62], **values}
    weights = [numpy_helper.from_array(np.array(value, np.int64), key) for key, value in values.items()]
    basis = mdct_basis()
    matrix, key = (basis, "basis") if name == "encoder" else (np.ascontiguousarray(basis.T), "inverse")
    weights.append(numpy_helper.from_array(matrix, key))
    info = [helper.make_tensor_value_info(v, TensorProto.FLOAT, shapes[v]) for v in (*inputs, *outputs)]
    graph = helper.make_graph(nodes, name, info[:2], info[2:], weights)
    return onnx_model(graph)


def entry(folder: Path, file: str, data: bytes) -> FileEntry:
    (folder / file).write_bytes(data)
    return FileEntry(file, hashlib.sha256(data).hexdigest(), len(data))


def golden_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def voice(samples: int, seed: int = 0) -> np.ndarray:
    """Something like a voice: a few drifting partials and a little noise, in [-1, 1]."""
    rng = np.random.default_rng(seed)
    t = np.arange(samples) / RATE
    partials = sum(np.sin(2 * np.pi * (120 * k + 20 * np.sin(3 * t)) * t + k) / k for k in range(1, 9))
    signal = 0.2 * partials * (0.6 + 0.4 * np.sin(5 * t)) + 0.01 * rng.standard_normal(samples)
    return np.clip(signal, -1, 1).astype(np.float32)


def write_manifest(folder: Path, manifest: dict, audio: np.ndarray, stages: int) -> None:
    """Manifest and golden vectors; the codec itself makes these, so it is loaded once with a placeholder for them."""
    for arrays in ({"audio": audio}, None):
        if arrays is None:
            codec = load(folder)
            arrays = {"audio": audio}
            for n in (1, 2, stages):
                arrays[f"codes_{n}"] = codec.encode(audio, stages=n)
                arrays[f"decoded_{n}"] = codec.decode(arrays[f"codes_{n}"], samples=audio.shape[2])
        golden = entry(folder, "golden.npz", golden_bytes(arrays))
        (folder / "manifest.json").write_text(Manifest(**manifest, golden=golden).to_json())


def make(folder: Path, paths: tuple[int, ...] = ()) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    graphs = {
        "encoder": encoder_graph(),
        "quantizer_encode": quantizer_encode_graph(tables(paths)),
        "quantizer_decode": quantizer_decode_graph(tables(paths)),
        "decoder": decoder_graph(),
    }
    entries = {k: entry(folder, f"{k}.onnx", graph.SerializeToString()) for k, graph in graphs.items()}
    macs = 2 * FRAME * RATE
    manifest = {
        "name": "paths" if paths else "tiny",
        "architecture": "mdct",
        "sample_rate": RATE,
        "frame_size": FRAME,
        "latent_dim": FRAME,
        "quantizer": QuantizerFacts("rvq", ENTRIES, STAGES),
        "state": StateSizes(FRAME, FRAME),
        "latency": Latency(FRAME, FRAME),
        "max_paths": max_paths(tables(paths)),
        "parameters": PartSizes(2 * FRAME * FRAME, 2 * FRAME * FRAME, STAGES * ENTRIES * FRAME),
        "macs_per_second": PartSizes(macs, macs, STAGES * ENTRIES * RATE),
        "opset": OPSET,
        "precision": "fp32",
        "graphs": GraphFiles(**entries),
        "parity": {},
        "quality": [],
        "training": {"data": "none: a transform and random tables"},
        "tools": {},
    }
    write_manifest(folder, manifest, voice(3001)[None, None], STAGES)


if __name__ == "__main__":
    make(HERE / "tiny_bundle")
    make(HERE / "paths_bundle", (2,))
