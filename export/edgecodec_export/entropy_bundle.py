"""An entropy model into a bundle, or beside the weights of a checkpoint.

In a bundle it lies beside the graphs, stands in the manifest, and has golden vectors of its own.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgecodec
import msgspec
import numpy as np
import torch
from edgecodec.bundle import Bundle, find_bundle, read_bundle
from edgecodec.codec import Codec
from edgecodec.durable import new_folder
from edgecodec.entropy_model import read_entropy_model
from edgecodec.errors import ExportError
from edgecodec.evaluation.clips import find_clips
from edgecodec.golden import read_golden
from edgecodec.golden import verify as verify_golden
from edgecodec.layout import PLAIN, Layout
from edgecodec.manifest import FileEntry, Manifest
from edgecodec.progress import Progress, silent
from edgecodec.sessions import Sessions
from edgecodec.trial import try_out
from edgecodec_training.checkpoint import build_model, latest, load_checkpoint
from numpy.typing import NDArray

from .audio import Audio
from .entropy_network import EntropyConfig
from .entropy_training import Lesson, code_vectors, codes_of, learn
from .golden_vectors import GOLDEN, golden_vectors
from .model_card import entropy_lines
from .target_folder import bundle_folder

FILE, FACTS = "entropy.npz", "entropy.json"


def teach(
    source: str, data: list[Path], config: EntropyConfig, *, seed: int = 0, progress: Progress = silent
) -> Lesson:
    """Teach the entropy model of a bundle or checkpoint, and put it there; on any failure that stays as it was.

    Raises:
        BundleError, CheckpointError: neither. DataError: no audio.
        ExportError: nothing to learn from, or a check that failed.
    """
    checkpoint = latest(Path(source)) if Path(source).is_dir() else None
    subject = _bundle(source) if checkpoint is None else _checkpoint(checkpoint)
    codes = codes_of(subject.encode, find_clips(data, subject.sample_rate), subject.sample_rate, progress)
    lesson = learn(codes, subject.layout, subject.vectors, config, seed=seed, progress=progress)
    if checkpoint is None:
        put_in(find_bundle(source), lesson)
    else:
        keep_with(checkpoint, lesson)
    return lesson


@dataclass(frozen=True)
class _Subject:
    """A codec whose codes are learned."""

    sample_rate: int
    layout: Layout
    vectors: NDArray[np.float32]  # [S, K, D] of its codes
    encode: Callable[[Audio], NDArray[np.int64]]  # [samples] to all stages of its codes, [lines, T]


def _bundle(source: str) -> _Subject:
    codec = edgecodec.load(source)

    def encode(audio: Audio) -> NDArray[np.int64]:
        codes: NDArray[np.int64] = codec.encode(np.tile(audio, (codec.channels, 1)), stages=codec.max_stages)[0]
        return codes

    vectors = code_vectors(Sessions(codec.bundle, "cpu", 1))
    return _Subject(codec.sample_rate, codec.manifest.layout, vectors, encode)


def _checkpoint(folder: Path) -> _Subject:
    checkpoint = load_checkpoint(folder)
    model = build_model(checkpoint.config.model, checkpoint.weights)
    config, quantizer = model.config, model.quantizer

    def encode(audio: Audio) -> NDArray[np.int64]:
        whole = np.pad(audio, (0, -len(audio) % config.frame_size))
        latents = model.encode_latents(torch.from_numpy(whole)[None, None])
        codes: NDArray[np.int64] = quantizer.encode(latents, quantizer.max_stages)[0].numpy()
        return codes

    return _Subject(config.sample_rate, PLAIN, quantizer.tables().table.numpy(), encode)


def keep_with(checkpoint: Path, lesson: Lesson) -> None:
    """Write an entropy model beside the weights that it belongs to; every export of them takes it along.

    Raises:
        ExportError: it cannot be written; the checkpoint stays as it was.
    """
    facts = lesson.facts() | {"weights": _digest_of_weights(checkpoint)}
    try:
        with new_folder(checkpoint.absolute()) as partial:  # both files at once: each is nothing without the other
            shutil.copytree(checkpoint, partial, dirs_exist_ok=True)
            (partial / FILE).write_bytes(lesson.npz())
            (partial / FACTS).write_text(json.dumps(facts, indent=1) + "\n")
    except OSError as error:
        raise ExportError(f"{checkpoint}: {error.strerror or error}") from None


def kept_with(checkpoint: Path) -> tuple[bytes, dict[str, Any]] | None:
    """The entropy model that lies beside a checkpoint's weights, and its facts; None where there is none.

    Raises:
        ExportError: it belongs to other weights, or cannot be read.
    """
    folder = latest(checkpoint)
    if folder is None or not (folder / FILE).exists():
        return None
    try:
        facts = json.loads((folder / FACTS).read_text())
        if facts.pop("weights") == _digest_of_weights(folder):
            return (folder / FILE).read_bytes(), facts
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ExportError(f"{folder / FACTS}: {error}") from None
    raise ExportError(f"{folder / FILE}: of other weights: teach it anew (edgecodec train-entropy) or delete it")


def _digest_of_weights(checkpoint: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(checkpoint.glob("weights*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def put_in(folder: Path, lesson: Lesson) -> Manifest:
    """Write a bundle anew with an entropy model: checked with its golden vectors, or not at all."""
    before, model = read_bundle(folder), lesson.npz()
    try_out(before)
    m = before.manifest
    entry = FileEntry(FILE, hashlib.sha256(model).hexdigest(), len(model))
    with_model = msgspec.structs.replace(m, entropy=entry, training=m.training | {"entropy": lesson.facts()})
    predictor = read_entropy_model(model, m.quantizer.max_stages, m.quantizer.codebook_size)
    bundle = Bundle(folder, with_model, before.graphs, predictor)
    golden = golden_vectors(Codec(bundle, Sessions(bundle, "cpu", 1)), read_golden(before)["audio"][0, 0])
    manifest = msgspec.structs.replace(
        with_model, golden=FileEntry(GOLDEN, hashlib.sha256(golden).hexdigest(), len(golden))
    )
    with bundle_folder(folder, force=True) as partial:
        shutil.copytree(folder, partial, dirs_exist_ok=True)
        for name, content in ((FILE, model), (GOLDEN, golden), ("manifest.json", manifest.to_json().encode())):
            (partial / name).write_bytes(content)
        if m.entropy is None:
            with (partial / "MODEL_CARD.md").open("a", encoding="utf-8") as card:
                card.write("\n".join(entropy_lines(manifest)) + "\n")
        if not all(result.passed for result in verify_golden(edgecodec.load(partial))):
            raise ExportError("verification failed, the bundle stays as it was: the golden vectors do not repeat")
    return manifest
