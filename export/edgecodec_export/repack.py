"""A bundle to another one of the same codes, as phones want it: calls of fixed shapes, onnxruntime's own format.

    bundle -> encoder and decoder of fixed shapes -> onnxruntime's format -> golden vectors -> files

The two quantizer graphs keep their free shapes: they have branches, which no provider of a phone takes, and run on the
CPU. Their codes are those of the bundle, so the new one goes by its fingerprint, and each reads the other's files.
"""

from __future__ import annotations

import hashlib
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import edgecodec
import msgspec
import numpy as np
import onnx
import onnxruntime
from edgecodec.bundle import Bundle, read_bundle
from edgecodec.errors import ExportError, one_line
from edgecodec.golden import GoldenResult, read_golden
from edgecodec.golden import verify as verify_golden
from edgecodec.manifest import GRAPHS, FileEntry, GraphFiles, Manifest
from edgecodec.sessions import Sessions

from .target_folder import bundle_folder

MOST_FRAMES = 64
_FIXED = ("encoder", "decoder")
_COPIED = ("LICENSE", "MODEL_CARD.md")
# What the CPU that exports lays its convolutions out for; another one need not have it.
_OF_THIS_CPU = ["NchwcTransformer"]
_CALLS, _WARM = 60, 10  # of the speed that is told


@dataclass(frozen=True)
class Repack:
    """What to make: `frames` of every call, 0 for any; `ort`: in onnxruntime's own format."""

    source: str
    target: Path
    name: str
    frames: int = 0
    ort: bool = False
    force: bool = False


@dataclass(frozen=True)
class Cost:
    """What a bundle takes: bytes of its graphs, and ms of a frame, encoded and decoded on one thread of this CPU."""

    graph_bytes: int
    frame_ms: float


@dataclass(frozen=True)
class Repacked:
    """What was made, and what it costs."""

    manifest: Manifest
    before: Cost
    after: Cost
    golden: list[GoldenResult]


def repack(request: Repack) -> Repacked:
    """Write the bundle; on any failure nothing is left behind, and a bundle that was there stays.

    Raises:
        BundleError: no sound bundle. ExportError: one that cannot be made so, a target that exists or cannot be
            written, golden vectors that do not repeat.
    """
    source = read_bundle(request.source)
    graphs = dict(source.graphs)
    if request.frames:
        _require_fixable(source.manifest, request.frames)
        graphs |= {name: fixed(graphs[name], source.manifest, request.frames) for name in _FIXED}
    if request.ort:
        graphs = {name: in_ort_format(graph) for name, graph in graphs.items()}
    manifest = _manifest(source, request, graphs)
    with bundle_folder(request.target, force=request.force) as folder:
        _write(folder, source, manifest, graphs)
        codec = edgecodec.load(folder)
        golden = verify_golden(codec)
        if not all(result.passed for result in golden):
            raise ExportError("verification failed, no bundle was written: the golden vectors do not repeat")
        before, after = _costs([source, codec.bundle], request.frames or 1)
        return Repacked(manifest, before, after, golden)


def fixed(graph: bytes, m: Manifest, frames: int) -> bytes:
    """An encoder or decoder that takes one stream, and so many frames, in every call.

    Raises:
        ExportError: a graph that has no such shapes.
    """
    model = onnx.load_from_string(graph)
    kind: Literal["encoder", "decoder"] = "encoder" if model.graph.input[0].name == "audio" else "decoder"
    state = (1, getattr(m.state, kind))
    shapes: dict[str, tuple[int, ...]] = {"state": state, "next_state": state}
    shapes |= {"audio": (1, m.channels, frames * m.frame_size), "latents": (1, frames, m.latent_dim)}
    for value in (*model.graph.input, *model.graph.output):
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True):
            dim.dim_value = size
    del model.graph.value_info[:]  # of free shapes
    _keep_matrices_apart(model.graph)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # onnx's errors share no base of their own
        raise ExportError(f"{kind}: cannot take {frames} frames a call: {one_line(error)}") from None
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _keep_matrices_apart(graph: onnx.GraphProto) -> None:
    """See that onnxruntime makes no Gemm of MatMul and Add, as it does once it knows that one stream comes.

    A Gemm has no kernel for weights of 8 bits: it makes floats of them in every call, which is five to eleven times
    slower. It joins biases [N] only, and these become [1, 1, N].
    """
    biases = {tensor.name: tensor for tensor in graph.initializer if len(tensor.dims) == 1}
    products = {node.output[0] for node in graph.node if node.op_type == "MatMul"}
    uses = Counter(name for node in graph.node for name in node.input)
    for node in graph.node:
        if node.op_type == "Add" and products & set(node.input):
            for name in node.input:
                if name in biases and uses[name] == 1:
                    biases[name].dims[:] = [1, 1, *biases[name].dims]


def in_ort_format(graph: bytes) -> bytes:
    """A graph in onnxruntime's own format, optimised for no CPU in particular; constants are folded, so it grows.

    Raises:
        ExportError: onnxruntime cannot.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "graph.ort"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(file)
        options.add_session_config_entry("session.save_model_format", "ORT")
        try:
            onnxruntime.InferenceSession(
                graph, options, providers=["CPUExecutionProvider"], disabled_optimizers=_OF_THIS_CPU
            )
            return file.read_bytes()
        except Exception as error:  # onnxruntime's errors share no base of their own
            raise ExportError(f"onnxruntime cannot write its own format: {one_line(error)}") from None


def _costs(bundles: list[Bundle], frames: int) -> list[Cost]:
    """What bundles take, at their usual stage count and so many frames a call; in turns, as machines have moods."""
    m = bundles[0].manifest
    frames = max(frames, m.call_frames, m.start_frames.encoder, m.start_frames.decoder)
    audio = np.resize(read_golden(bundles[0])["audio"], (1, m.channels, frames * m.frame_size))
    running = [Sessions(bundle, "cpu", 1) for bundle in bundles]
    times: list[list[float]] = [[] for _ in bundles]
    for _ in range(_WARM + _CALLS):
        for sessions, took in zip(running, times, strict=True):
            begin = time.perf_counter()
            codes, _ = sessions.encode(audio, sessions.zero_state("encoder", 1), m.stages(), last=True)
            sessions.decode(codes, sessions.zero_state("decoder", 1), last=True)
            took.append(time.perf_counter() - begin)
    return [
        Cost(sum(map(len, bundle.graphs.values())), 1000 * statistics.median(took[_WARM:]) / frames)
        for bundle, took in zip(bundles, times, strict=True)
    ]


def _require_fixable(m: Manifest, frames: int) -> None:
    if m.graphs.encoder.file.endswith(".ort"):
        raise ExportError(f"{m.name}: is in onnxruntime's own format: fix the bundle that it was made from")
    if m.lookahead.encoder or m.lookahead.decoder:
        raise ExportError(f"{m.name}: looks ahead, so that its first and last call give other numbers of frames")
    least = max(m.start_frames.encoder, m.start_frames.decoder)
    if frames < least or m.call_frames not in (0, frames):
        wanted = m.call_frames or f"{least} or more"
        raise ExportError(f"{m.name}: its first call takes {wanted} frames, not {frames}")


def _manifest(source: Bundle, request: Repack, graphs: Mapping[str, bytes]) -> Manifest:
    suffix = ".ort" if request.ort else None
    entries = {}
    for name in GRAPHS:
        file = getattr(source.manifest.graphs, name).file
        entries[name] = _entry(f"{name}{suffix}" if suffix else file, graphs[name])
    m = source.manifest
    return msgspec.structs.replace(
        m,
        name=request.name,
        call_frames=request.frames or m.call_frames,
        graphs=GraphFiles(**entries),
        fingerprint=source.fingerprint.hex(),
        tools=m.tools | {"made_from": m.name, "repacked_with_onnxruntime": onnxruntime.__version__},
    )


def _write(folder: Path, source: Bundle, manifest: Manifest, graphs: Mapping[str, bytes]) -> None:
    for name, graph in graphs.items():
        (folder / getattr(manifest.graphs, name).file).write_bytes(graph)
    (folder / manifest.golden.file).write_bytes(source.golden())
    for name in (*_COPIED, *([manifest.entropy.file] if manifest.entropy else [])):
        if (source.path / name).is_file():
            (folder / name).write_bytes((source.path / name).read_bytes())
    with (folder / "MODEL_CARD.md").open("a", encoding="utf-8") as card:
        calls = (
            f" Its graphs take {manifest.call_frames} frame(s) of one stream a call." if manifest.call_frames else ""
        )
        card.write(f"\nMade from the bundle `{source.manifest.name}`, whose codes it gives.{calls}\n")
    (folder / "manifest.json").write_text(manifest.to_json())


def _entry(file: str, data: bytes) -> FileEntry:
    return FileEntry(file, hashlib.sha256(data).hexdigest(), len(data))
