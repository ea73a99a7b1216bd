"""A checkpoint to a bundle.

    checkpoint -> model as stored -> graphs -> parity with torch -> golden vectors -> scores -> files

Nothing is written before the graphs have agreed with the model, the manifest last of what it lists, and once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import edgecodec
from edgecodec.bundle import Bundle
from edgecodec.codec import Codec
from edgecodec.entropy_model import Predictor, read_entropy_model
from edgecodec.errors import ExportError
from edgecodec.golden import verify as verify_golden
from edgecodec.manifest import FileEntry, GraphFiles, Manifest
from edgecodec.progress import Progress, silent
from edgecodec.sessions import Sessions
from edgecodec.trial import remember
from edgecodec_training.checkpoint import build_model, load_checkpoint

from .adapters.adapted import AdaptedCodec
from .adapters.catalogue import adapt
from .adapters.encodec import Start
from .adapters.hub import PREFIX
from .adapters.sources import Published, is_own, read_published
from .audio import Audio, calibration_clips, loudest_part, verification_audio
from .convert import Converted, Precision, convert, convert_adapted
from .describe import describe, describe_adapted
from .entropy_bundle import FILE as ENTROPY
from .entropy_bundle import kept_with
from .golden_vectors import GOLDEN, GOLDEN_SECONDS, golden_vectors
from .model_card import Notes, model_card
from .target_folder import bundle_folder
from .verify import verify

Row = dict[str, Any]
Score = Callable[[Codec], list[Row]]


@dataclasses.dataclass(frozen=True)
class Request:
    """What to export, and what is to be said about it.

    `checkpoint`: a folder of this project, or somebody else's codec (see `adapters.sources`). `clip`: audio that
    verification runs on, and whose loudest part the golden vectors hold; without one, a synthetic voice.
    `calibration`: audio that int8 finds its ranges on, as for training. `start`: of EnCodec. `score` makes the rows of
    the quality table.
    """

    checkpoint: Path | str
    target: Path
    name: str
    precision: Precision = "fp32"
    notes: Notes = dataclasses.field(default_factory=Notes)
    clip: Path | None = None
    calibration: Path | None = None
    start: Start | None = None
    license: Path | None = None
    score: Score | None = None
    force: bool = False
    progress: Progress = silent


def export_bundle(request: Request) -> Manifest:
    """Write the bundle; on any failure nothing is left behind, and a bundle that was there stays.

    Raises:
        CheckpointError: an unusable checkpoint. DataError: audio that cannot be used.
        ExportError: a target that exists or cannot be written, weights that cannot be stored, failed verification.
    """
    subject = _Published(request) if _is_published(str(request.checkpoint)) else _Trained(request)
    audio = verification_audio(request.clip, subject.sample_rate, GOLDEN_SECONDS)
    license = request.license.read_bytes() if request.license else subject.license()
    with bundle_folder(request.target, force=request.force) as folder:
        converted = subject.converted()
        graphs = {name: graph.SerializeToString(deterministic=True) for name, graph in converted.graphs.items()}
        entries = GraphFiles(**{name: _entry(f"{name}.onnx", data) for name, data in graphs.items()})
        facts = subject.facts(converted, entries)
        entropy = subject.entropy()
        if entropy is not None:
            model, learned = entropy
            facts |= {"entropy": _entry(ENTROPY, model), "training": facts["training"] | {"entropy": learned}}
        codec = _codec(folder, facts, graphs, None if entropy is None else entropy[0])
        parity = verify(converted.model, codec, audio, request.progress)
        golden = golden_vectors(codec, loudest_part(audio, round(GOLDEN_SECONDS * codec.sample_rate)))
        rows = request.score(codec) if request.score else []
        manifest = Manifest(**facts, golden=_entry(GOLDEN, golden), parity=parity.facts(), quality=rows)
        files = {f"{name}.onnx": data for name, data in graphs.items()}
        files |= {GOLDEN: golden, "LICENSE": license} | ({} if entropy is None else {ENTROPY: entropy[0]})
        files |= {"MODEL_CARD.md": model_card(manifest, request.notes).encode()}
        files |= {"manifest.json": manifest.to_json().encode()}
        for name, data in files.items():
            (folder / name).write_bytes(data)
        codec = edgecodec.load(folder, trust=True)
        if not all(result.passed for result in verify_golden(codec)):
            raise ExportError("verification failed, no bundle was written: the golden vectors do not repeat")
        remember(codec.bundle)
    return manifest


class _Trained:
    """A checkpoint of this project."""

    def __init__(self, request: Request) -> None:
        self._request = request
        if request.start is not None:
            raise ExportError("--start is for EnCodec: what was trained here starts in one way")
        self._checkpoint = load_checkpoint(Path(request.checkpoint))
        self._model = build_model(self._checkpoint.config.model, self._checkpoint.weights)
        self.sample_rate = self._model.config.sample_rate

    def converted(self) -> Converted:
        config = self._model.config
        clips = _ranges_on(self._request, config.sample_rate, config.frame_size)
        return convert(self._model, self._request.precision, clips)

    def facts(self, converted: Converted, graphs: GraphFiles) -> dict[str, Any]:
        r = self._request
        return describe(r.name, self._checkpoint, self._model, converted, r.precision, graphs, r.notes)

    def license(self) -> bytes:
        return _own_license()

    def entropy(self) -> tuple[bytes, dict[str, Any]] | None:
        return kept_with(Path(self._request.checkpoint))


class _Published:
    """Somebody else's codec."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._published: Published = read_published(str(request.checkpoint))
        self._codec: AdaptedCodec = adapt(self._published, request.start)
        self.sample_rate = self._codec.contract.sample_rate

    def converted(self) -> Converted:
        contract = self._codec.contract
        clips = _ranges_on(self._request, contract.sample_rate, contract.frame_size)
        return convert_adapted(self._codec, self._request.precision, clips)

    def facts(self, converted: Converted, graphs: GraphFiles) -> dict[str, Any]:
        r, origin = self._request, self._published.origin
        return describe_adapted(r.name, self._codec, converted, r.precision, graphs, r.notes, origin)

    def license(self) -> bytes:
        return self._published.license_text()

    def entropy(self) -> None:
        return None


def _is_published(source: str) -> bool:
    """Whether a source is to be read as somebody else's; what is nothing at all is said to be no checkpoint."""
    path = Path(source)
    return source.startswith(PREFIX) or path.is_file() or (not is_own(path) and (path / "config.json").exists())


def _codec(folder: Path, facts: dict[str, Any], graphs: dict[str, bytes], entropy: bytes | None) -> Codec:
    """The codec of graphs that no file holds yet; its manifest, which is not written, names no golden vectors."""
    manifest = Manifest(**facts, golden=_entry(GOLDEN, b""), parity={}, quality=[])
    stages, entries = manifest.quantizer.max_stages, manifest.quantizer.codebook_size
    predictor = Predictor(entries) if entropy is None else read_entropy_model(entropy, stages, entries)
    bundle = Bundle(folder, manifest, graphs, predictor)
    return Codec(bundle, Sessions(bundle, "cpu", 1))


def _ranges_on(request: Request, sample_rate: int, frame_size: int) -> Iterable[Audio]:
    """The clips that int8 finds its ranges on."""
    if request.precision != "int8":
        return ()
    if request.calibration is None:
        raise ExportError("int8 needs audio that it finds its ranges on, as for training: give --calibration")
    return calibration_clips(request.calibration, sample_rate, frame_size, request.progress)


def _entry(file: str, data: bytes) -> FileEntry:
    return FileEntry(file, hashlib.sha256(data).hexdigest(), len(data))


def _own_license() -> bytes:
    """The licence of edgecodec itself, as installed."""
    for file in importlib.metadata.files("edgecodec") or ():
        if file.name == "LICENSE":
            return Path(str(file.locate())).read_bytes()
    raise ExportError("this installation lacks its LICENSE: give one with --license")
