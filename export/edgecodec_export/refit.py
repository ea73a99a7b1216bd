"""A bundle to another one whose codebooks are fitted to somebody's own audio; its networks stay as they are.

    audio -> encoder -> latents -> k-means, stage by stage -> quantizer graphs -> parity, golden vectors -> files
                                                 (`codebook_fitting`)

A bundle is what every codec becomes, other people's models too, and all that is needed of it is what its graphs do:
the vectors of its codes are what they change in the latents. Codes of the new bundle mean something else, so it goes by
a fingerprint of its own, and the entropy model, which knew the old codes, is left out.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import edgecodec
import msgspec
import numpy as np
import torch
from edgecodec.bundle import Bundle, read_bundle
from edgecodec.codebook_use import codebook_use
from edgecodec.codec import Codec
from edgecodec.entropy_model import Predictor
from edgecodec.errors import DataError, ExportError
from edgecodec.evaluation.clips import find_clips
from edgecodec.evaluation.measures import mel_distance
from edgecodec.golden import read_golden
from edgecodec.golden import verify as verify_golden
from edgecodec.manifest import FileEntry, Manifest, QuantizerFacts
from edgecodec.progress import Progress, silent
from edgecodec.sessions import Sessions
from edgecodec.trial import remember, try_out
from edgecodec_training.codebook_search import LookupTables, search
from edgecodec_training.quantizer import QuantizerConfig

from .audio import Audio
from .codebook_fitting import PRIOR, Floats, FreshKind, fresh, refitted
from .describe import PRECISIONS
from .golden_vectors import GOLDEN, golden_vectors
from .int8 import int8_tables
from .quantizer_graphs import max_paths, quantizer_decode_graph, quantizer_encode_graph
from .target_folder import bundle_folder

HELD_OUT = 5  # every fifth clip is not learned from, but scored
HEARD_CLIPS, HEARD_SECONDS = 8, 5  # of those, that mel distances are measured on
LEAST_EQUAL_CODES = 0.99  # of torch and onnxruntime; the rest are near ties
SEARCHED_FRAMES = 500  # that they are compared on


@dataclass(frozen=True)
class Refit:
    """What to make of the bundle `source`: its own stages refitted or, with a `kind`, fresh ones.

    `prior`: as how many frames each old entry counts. `minutes`: of audio that is learned from at most.
    """

    source: str
    target: Path
    name: str
    data: Sequence[Path]
    kind: FreshKind | None = None
    size: int = 1024
    stages: int = 8
    prior: float = PRIOR
    minutes: float = 60.0
    seed: int = 0
    force: bool = False


@dataclass(frozen=True)
class StageScore:
    """A stage on audio that was not learned from: `left` after it of the latents' energy, entries used, perplexity."""

    stage: int
    kbps: float
    left: float
    used: int
    perplexity: float


@dataclass(frozen=True)
class Heard:
    """Mel distance of the decoded clips at a stage count."""

    stages: int
    kbps: float
    mel_distance: float


@dataclass(frozen=True)
class Fitted:
    """What a bundle does with audio that the new codebooks were not fitted to."""

    stages: list[StageScore]
    heard: list[Heard]


class Latents(NamedTuple):
    """What the encoder made of the audio, [N, D]: to learn from, and to score."""

    learned: Floats
    scored: Floats


@dataclass(frozen=True)
class Refitted:
    """What was made: its fingerprint, both bundles' scores, of which latents; whether an entropy model went."""

    manifest: Manifest
    fingerprint: str
    before: Fitted
    after: Fitted
    latents: Latents
    lost_entropy_model: bool

    def facts(self) -> dict[str, Any]:
        """As JSON has them."""
        return {
            "fingerprint": self.fingerprint,
            "before": asdict(self.before),
            "after": asdict(self.after),
            "learned_frames": len(self.latents.learned),
            "scored_frames": len(self.latents.scored),
            "lost_entropy_model": self.lost_entropy_model,
        }


def refit(request: Refit, progress: Progress = silent) -> Refitted:
    """Write the bundle; on any failure nothing is left behind, and a bundle that was there stays.

    Raises:
        BundleError: no sound bundle. DataError: no audio. ExportError: one that has no such stages, too little audio,
            a target that exists or cannot be written, graphs that do not give torch's codes.
    """
    source = read_bundle(request.source)
    _require_stages(source.manifest, request)
    try_out(source)
    codec = Codec(source, Sessions(source, "cpu", 1))
    learned, scored = split_audio(request.data, codec.sample_rate, request.minutes)
    latents = Latents(*(latents_of(codec, clips, progress) for clips in (learned, scored)))
    kind = request.kind or _kind(source.manifest.quantizer.kind)
    with bundle_folder(request.target, force=request.force) as folder:
        made = with_tables(codec, tables_for(codec, request, latents.learned, progress), kind, request.name, folder)
        equal = _equal_codes(made, latents.learned[:SEARCHED_FRAMES])
        lost = source.manifest.entropy is not None
        before, after = (fitted(one, scored, latents.scored, progress) for one in (codec, made.codec))
        facts = {"frames": len(latents.learned), "prior": request.prior, "left": [stage.left for stage in after.stages]}
        manifest = write(folder, source, made, {"codes_equal": equal}, {"codebooks": facts})
        if not all(result.passed for result in verify_golden(edgecodec.load(folder, trust=True))):
            raise ExportError("verification failed, no bundle was written: the golden vectors do not repeat")
        written = read_bundle(folder)
        remember(written)
    return Refitted(manifest, written.fingerprint.hex(), before, after, latents, lost)


def split_audio(data: Sequence[Path], sample_rate: int, minutes: float) -> tuple[list[Audio], list[Audio]]:
    """Audio [samples] to learn from and, of every fifth clip, to score; of fewer clips, the last fifth of each.

    Raises:
        DataError: no audio, or none that is long enough to be split.
    """
    clips = find_clips(data, sample_rate)
    whole = len(clips) >= HELD_OUT
    limits = minutes * 60 * sample_rate, minutes * 60 * sample_rate / (HELD_OUT - 1)
    parts: tuple[list[Audio], list[Audio]] = ([], [])
    sums = [0, 0]
    order = np.random.default_rng(0).permutation(len(clips)).tolist()  # a limit takes from all there is
    for count, index in enumerate(order):
        if sums[0] >= limits[0] and sums[1] >= limits[1]:
            break
        audio = clips[index].read(sample_rate)
        cut = len(audio) * (HELD_OUT - 1) // HELD_OUT
        if whole:
            cut = 0 if count % HELD_OUT == 0 else len(audio)
        for side, part in enumerate((audio[:cut], audio[cut:])):
            if part.any() and sums[side] < limits[side]:
                parts[side].append(part)
                sums[side] += len(part)
    if not all(parts):
        raise DataError(f"no sound under {', '.join(map(str, data))} to learn from, or none left to score")
    return parts


def latents_of(codec: Codec, clips: Sequence[Audio], progress: Progress = silent) -> Floats:
    """Latents [N, D] of clips [samples], each from a fresh state; of a stereo codec, of one sound in both channels."""
    found = []
    for done, audio in enumerate(clips, start=1):
        stream = codec.latent_stream(channels=codec.channels)
        both = np.tile(audio, (codec.channels, 1))
        found.append(np.concatenate([stream.push(both), stream.flush()], axis=1)[0])
        progress("clips encoded", done, len(clips))
    return np.concatenate(found)


def stage_vectors(codec: Codec) -> Floats:
    """The vectors [S, K, D] of a codec's codes: what each adds to the latents of the stages before."""
    sessions, quantizer = Sessions(codec.bundle, "cpu", 1), codec.manifest.quantizer
    found, before = [], np.zeros(codec.manifest.latent_dim, np.float32)
    for stage in range(quantizer.max_stages):
        codes = np.zeros((1, stage + 1, quantizer.codebook_size), np.int64)
        codes[0, stage] = np.arange(quantizer.codebook_size)
        sums = sessions.latents(codes)[0]
        found.append(sums - before)
        before = sums[0]
    return np.stack(found)


def tables_for(codec: Codec, request: Refit, latents: Floats, progress: Progress = silent) -> LookupTables:
    """The new stages; searched as the bundle's are, and stored in bytes where its are."""
    if request.kind is None:
        tables = refitted(latents, stage_vectors(codec), prior=request.prior, progress=progress)
    else:
        tables = fresh(latents, request.kind, request.size, request.stages, seed=request.seed, progress=progress)
    if codec.manifest.max_paths and tables.project is None:
        tables = tables._replace(paths=QuantizerConfig().paths)
    return int8_tables(tables) if codec.manifest.precision == PRECISIONS["int8"] else tables


def fitted(codec: Codec, clips: Sequence[Audio], encoded: Floats, progress: Progress = silent) -> Fitted:
    """Scores of a codec on clips [samples], whose latents are `encoded` [N, D], at every stage count."""
    sessions, latents = Sessions(codec.bundle, "cpu", 1), encoded[None]
    energy = float(np.square(latents, dtype=np.float64).sum())
    all_stages = sessions.quantize(latents, codec.max_stages)
    uses = codebook_use([all_stages], codec.manifest.quantizer.codebook_size)
    scores = []
    for use in uses:
        error = latents - sessions.latents(sessions.quantize(latents, use.stage))
        left = float(np.square(error, dtype=np.float64).sum()) / max(energy, 1e-12)
        scores.append(StageScore(use.stage, codec.bitrates[use.stage - 1], left, use.used, use.perplexity))
        progress("scored stages", use.stage, len(uses))
    heard = []
    some = [audio[: HEARD_SECONDS * codec.sample_rate] for audio in clips[:HEARD_CLIPS]]
    for n in sorted({min(n, codec.max_stages) for n in (2, 4, 8, codec.max_stages)}):
        distances = [mel_distance(audio, _decoded(codec, audio, n), codec.sample_rate) for audio in some]
        heard.append(Heard(n, codec.bitrates[n - 1], float(np.mean(distances))))
    return Fitted(scores, heard)


def _decoded(codec: Codec, audio: Audio, stages: int) -> Audio:
    codes = codec.encode(np.tile(audio, (codec.channels, 1)), stages=stages)
    return np.asarray(codec.decode(codes, samples=len(audio))[0].mean(axis=0))


@dataclass(frozen=True)
class Made:
    """A bundle before it is written, and the tables that its quantizer searches."""

    codec: Codec
    tables: LookupTables


def with_tables(codec: Codec, tables: LookupTables, kind: str, name: str, folder: Path) -> Made:
    """A codec with another quantizer, which will lie in a folder; without an entropy model, and not scored."""
    m = codec.manifest
    graphs = {"quantizer_encode": quantizer_encode_graph(tables), "quantizer_decode": quantizer_decode_graph(tables)}
    data = {name: graph.SerializeToString(deterministic=True) for name, graph in graphs.items()}
    entries = {name: _entry(getattr(m.graphs, name).file, content) for name, content in data.items()}
    stages, size, _ = tables.table.shape
    kept = () if tables.project is None else (tables.project,)
    numbers = sum(part.numel() for part in (*kept, tables.table))
    manifest = msgspec.structs.replace(
        m,
        name=name,
        quantizer=QuantizerFacts(kind, size, stages),
        max_paths=max_paths(tables),
        entropy=None,
        fingerprint="",
        parameters=msgspec.structs.replace(m.parameters, quantizer=numbers),
        macs_per_second=msgspec.structs.replace(m.macs_per_second, quantizer=round(tables.macs() * m.frame_rate)),
        graphs=msgspec.structs.replace(m.graphs, **entries),
        quality=[],
    )
    bundle = Bundle(folder, manifest, codec.bundle.graphs | data, Predictor(size))
    return Made(Codec(bundle, Sessions(bundle, "cpu", 1)), tables)


def write(folder: Path, source: Bundle, made: Made, parity: dict[str, Any], learned: dict[str, Any]) -> Manifest:
    """Write a bundle whose quantizer is not that of the source any more, with golden vectors of its own."""
    m = made.codec.manifest
    golden = golden_vectors(made.codec, read_golden(source)["audio"][0, 0])
    manifest = msgspec.structs.replace(
        m,
        golden=_entry(GOLDEN, golden),
        parity=parity,
        training={name: facts for name, facts in m.training.items() if name != "entropy"} | learned,
        tools=m.tools | {"made_from": source.manifest.name},
    )
    for name in ("LICENSE", "MODEL_CARD.md"):
        if (source.path / name).is_file():
            shutil.copy(source.path / name, folder / name)
    for name, content in made.codec.bundle.graphs.items():
        (folder / getattr(manifest.graphs, name).file).write_bytes(content)
    (folder / GOLDEN).write_bytes(golden)
    with (folder / "MODEL_CARD.md").open("a", encoding="utf-8") as card:
        card.write(
            f"\nMade from the bundle `{source.manifest.name}`: its codebooks were fitted to other audio. What is said "
            "above of codes, scores and an entropy model is said of that bundle.\n"
        )
    (folder / "manifest.json").write_text(manifest.to_json())
    return manifest


def _kind(before: str) -> str:
    """What k-means makes of a kind: entries that are nearest, no longer those of the largest logit."""
    return "rvq" if before == "gumbel" else before


def _equal_codes(made: Made, latents: Floats) -> float:
    """The share of codes that torch's search gives too; an ExportError for too few."""
    codes = Sessions(made.codec.bundle, "cpu", 1).quantize(latents[None], made.codec.max_stages)
    expected = search(made.tables, torch.from_numpy(latents)[None], made.tables.kept()).numpy()
    equal = float((codes == expected).mean())
    if equal < LEAST_EQUAL_CODES:
        raise ExportError(f"verification failed, no bundle was written: only {equal:.2%} of the codes are torch's")
    return equal


def _require_stages(m: Manifest, request: Refit) -> None:
    if m.side or m.stage_widths:
        raise ExportError(f"{m.name}: its stages have other frame rates or numbers beside, which k-means knows not of")
    if m.graphs.quantizer_encode.file.endswith(".ort"):
        raise ExportError(f"{m.name}: is in onnxruntime's own format: refit the bundle that it was made from")
    if request.kind is None and request.prior < 0:
        raise ExportError("a prior is 0 or more frames")


def _entry(file: str, data: bytes) -> FileEntry:
    return FileEntry(file, hashlib.sha256(data).hexdigest(), len(data))
