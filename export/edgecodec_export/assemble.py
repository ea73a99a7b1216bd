"""A checkpoint to a bundle: built beside its place, verified there, and moved into place only when all is well."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import io
import math
import platform
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import edgecodec
import msgspec
import numpy as np
import torch
from edgecodec.errors import CheckpointError, DataError, ExportError
from edgecodec.evaluation.clips import find_clips
from edgecodec.golden import verify as verify_golden
from edgecodec.manifest import FileEntry, GraphFiles, Latency, Manifest, PartSizes, QuantizerFacts, StateSizes
from edgecodec.progress import Progress, silent
from edgecodec_training.checkpoint import Checkpoint, build_model, load_checkpoint
from edgecodec_training.model import CodecModel, macs_per_second, parameter_count
from numpy.typing import NDArray

from . import verify
from .convert import Converted, Precision, convert
from .graphs import OPSET
from .model_card import Notes, model_card

GOLDEN_SECONDS = 0.4
CLIP_SECONDS = 10
CALIBRATION_CLIPS, CALIBRATION_SECONDS = 32, 4  # whose loudest samples lie from -24 dB to 0 dB of full scale
GOLDEN_STAGES = (1, 2, 4, 8)  # and all
_LEG = (
    "first_step",
    "last_step",
    "audio_seconds",
    "wall_seconds",
    "machine",
    "processes",
)  # of the ledger; nothing that names paths
PRECISIONS: dict[Precision, str] = {"fp32": "fp32", "fp16": "fp16-storage", "int8": "int8"}  # in the manifest
_TOOLS = ("edgecodec", "torch", "onnx", "onnxscript", "onnxruntime")

Row = dict[str, Any]
Score = Callable[[edgecodec.Codec], list[Row]]


@dataclasses.dataclass(frozen=True)
class Request:
    """What to export, and what is to be said about it.

    `clip`: audio that verification runs on, and whose loudest part the golden vectors hold; without one, a synthetic
    voice. `calibration`: audio that int8 finds its ranges on, as for training. `score` makes the rows of the quality
    table.
    """

    checkpoint: Path
    target: Path
    name: str
    precision: Precision = "fp32"
    notes: Notes = dataclasses.field(default_factory=Notes)
    clip: Path | None = None
    calibration: Path | None = None
    license: Path | None = None
    score: Score | None = None
    force: bool = False
    progress: Progress = silent


def export_bundle(request: Request) -> Manifest:
    """Write the bundle; on any failure nothing is left behind, and a bundle that was there stays.

    Raises:
        ExportError: an unusable checkpoint, a target that exists or cannot be written, or failed verification.
    """
    try:
        checkpoint = load_checkpoint(request.checkpoint)
        trained = build_model(checkpoint.config.model, checkpoint.weights)
    except CheckpointError as error:
        raise ExportError(" ".join(str(error).split())) from None  # torch lists mismatches in lines
    with _folder(request.target, force=request.force) as folder:
        converted = convert(trained, request.precision, _calibration_clips(request, trained))
        manifest = _describe(request, checkpoint, trained, converted, _write_graphs(converted, folder))
        return _finish(request, manifest, converted.model, folder)


def _finish(request: Request, manifest: Manifest, model: CodecModel, folder: Path) -> Manifest:
    """Everything that takes a bundle that runs: parity, golden vectors, scores, card."""
    _write_manifest(manifest, folder)  # provisional: the golden vectors come out of it
    audio = _audio(request.clip, manifest.sample_rate)
    parity = verify.verify(model, str(folder), audio, partial(request.progress, "verified"))
    codec = edgecodec.load(folder)
    golden = _write_golden(codec, _loudest(audio, round(GOLDEN_SECONDS * manifest.sample_rate)), folder)
    rows = request.score(codec) if request.score else []
    manifest = msgspec.structs.replace(manifest, golden=golden, parity=parity.facts(), quality=rows)
    _write_manifest(manifest, folder)
    (folder / "MODEL_CARD.md").write_text(model_card(manifest, request.notes), encoding="utf-8")
    (folder / "LICENSE").write_bytes(request.license.read_bytes() if request.license else _own_license())
    if not all(result.passed for result in verify_golden(edgecodec.load(folder))):
        raise ExportError("verification failed, no bundle was written: the golden vectors do not repeat")
    return manifest


@contextmanager
def _folder(target: Path, *, force: bool) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place if nothing fails."""
    if target.exists() and not force:
        raise ExportError(f"{target}: exists; -f replaces it")
    if target.exists() and not (target.is_dir() and ((target / "manifest.json").exists() or not any(target.iterdir()))):
        raise ExportError(f"{target}: is no bundle; -f replaces only bundles and empty folders")
    beside = next(folder for folder in target.absolute().parents if folder.exists())
    temporary = beside / f".{target.name}-{secrets.token_hex(6)}.tmp"
    old = temporary.with_suffix(".old")
    try:
        temporary.mkdir()
        yield temporary
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            target.rename(old)
        temporary.rename(target)
    except OSError as error:
        if old.exists() and not target.exists():
            old.rename(target)
        raise ExportError(f"{error.filename or target}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _write_graphs(converted: Converted, folder: Path) -> GraphFiles:
    entries = {}
    for name, graph in converted.graphs.items():
        entries[name] = _write(folder / f"{name}.onnx", graph.SerializeToString(deterministic=True))
    return GraphFiles(**entries)


def _write(path: Path, data: bytes) -> FileEntry:
    path.write_bytes(data)
    return FileEntry(path.name, hashlib.sha256(data).hexdigest(), len(data))


def _write_manifest(manifest: Manifest, folder: Path) -> None:
    (folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")


def _write_golden(codec: edgecodec.Codec, audio: NDArray[np.float32], folder: Path) -> FileEntry:
    """What the runtime makes of a short clip: `audio` [1, 1, samples], `codes_<n>` and `decoded_<n>` for several n."""
    arrays: dict[str, NDArray[Any]] = {"audio": audio[None, None]}
    for n in sorted({min(n, codec.max_stages) for n in (*GOLDEN_STAGES, codec.max_stages)}):
        arrays[f"codes_{n}"] = codec.encode(audio, stages=n)
        arrays[f"decoded_{n}"] = codec.decode(arrays[f"codes_{n}"], samples=len(audio))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return _write(folder / "golden.npz", buffer.getvalue())


def _audio(clip: Path | None, sample_rate: int) -> NDArray[np.float32]:
    """What verification runs on, [samples]."""
    if clip is None:
        return synthetic_voice(2.0, sample_rate)
    try:
        audio = find_clips([clip], sample_rate)[0].read(sample_rate)[: round(CLIP_SECONDS * sample_rate)]
    except (DataError, OSError) as error:
        raise ExportError(str(error)) from None
    if len(audio) < GOLDEN_SECONDS * sample_rate:
        raise ExportError(f"{clip}: shorter than {GOLDEN_SECONDS} s")
    return audio


def _calibration_clips(request: Request, model: CodecModel) -> Iterator[NDArray[np.float32]]:
    """Clips from all over the calibration audio, [samples], at many levels."""
    if request.precision != "int8":
        return
    if request.calibration is None:
        raise ExportError("int8 needs audio that it finds its ranges on, as for training: give --calibration")
    rate, size = model.config.sample_rate, model.config.frame_size
    try:
        found = find_clips([request.calibration], rate)
        count = min(CALIBRATION_CLIPS, len(found))
        for i in range(count):
            audio = found[i * len(found) // count].read(rate)[: CALIBRATION_SECONDS * rate]
            audio = audio[: len(audio) // size * size]
            peak = float(np.abs(audio).max(initial=0))
            if peak > 0:
                yield audio * np.float32(10 ** (-1.2 * (1 - (i + 1) / count)) / peak)
            request.progress("found int8 ranges on clips:", i + 1, count)
    except (DataError, OSError) as error:
        raise ExportError(str(error)) from None


def _loudest(audio: NDArray[np.float32], samples: int) -> NDArray[np.float32]:
    energy = np.convolve(audio**2, np.ones(samples), "valid")
    start = int(energy.argmax())
    return audio[start : start + samples]


def synthetic_voice(seconds: float, sample_rate: int) -> NDArray[np.float32]:
    """[samples]: gliding harmonics with syllables, over a little noise: deterministic, and not unlike speech."""
    rng = np.random.default_rng(0)
    t = np.arange(round(seconds * sample_rate)) / sample_rate
    phase = 2 * np.pi * np.cumsum(140 + 40 * np.sin(2 * np.pi * 1.3 * t)) / sample_rate
    voice = sum(np.sin(k * phase) / k for k in range(1, 21))
    syllables = np.clip(np.sin(2 * np.pi * 3.1 * t), 0, 1)
    return (0.2 * syllables * voice + 0.01 * rng.standard_normal(len(t))).astype(np.float32)


def _describe(
    request: Request, checkpoint: Checkpoint, trained: CodecModel, converted: Converted, graphs: GraphFiles
) -> Manifest:
    config = checkpoint.config.model
    q, size, dim = config.quantizer, config.frame_size, config.latent_dim
    frames = 10
    seconds = frames * size / config.sample_rate
    return Manifest(
        name=request.name,
        architecture=config.architecture,
        sample_rate=config.sample_rate,
        frame_size=size,
        latent_dim=dim,
        quantizer=QuantizerFacts(q.kind, q.codebook_size, q.max_stages),
        state=StateSizes(trained.encoder.state_size, trained.decoder.state_size),
        latency=Latency(size, trained.algorithmic_latency),
        parameters=PartSizes(
            *(parameter_count(part) for part in (trained.encoder, trained.decoder, trained.quantizer))
        ),
        macs_per_second=PartSizes(
            macs_per_second(trained.encoder, torch.zeros(1, 1, frames * size), seconds),
            macs_per_second(trained.decoder, torch.zeros(1, frames, dim), seconds),
            round(converted.model.quantizer.tables().macs() * config.frame_rate),
        ),
        opset=OPSET,
        precision=PRECISIONS[request.precision],
        graphs=graphs,
        golden=FileEntry("golden.npz", "0" * 64, 1),
        parity={},
        quality=[],
        training={
            "step": checkpoint.step,
            "legs": [{key: _plain(getattr(leg, key)) for key in _LEG} for leg in checkpoint.ledger],
            "data": list(request.notes.data),
            "model": dataclasses.asdict(config),
        },
        tools={"python": platform.python_version()} | _versions(_TOOLS),
    )


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _versions(packages: Sequence[str]) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in packages}


def _own_license() -> bytes:
    """The licence of edgecodec itself, as installed."""
    for file in importlib.metadata.files("edgecodec") or ():
        if file.name == "LICENSE":
            return Path(str(file.locate())).read_bytes()
    raise ExportError("this installation lacks its LICENSE: give one with --license")
