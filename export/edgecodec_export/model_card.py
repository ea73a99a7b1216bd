"""The model card: what a bundle is, in words, made of its manifest and of an author's notes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from edgecodec import Manifest
from edgecodec.errors import ExportError
from edgecodec.evaluation.score_tables import markdown, mean_cells
from edgecodec.manifest import GRAPHS

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib


@dataclass(frozen=True)
class Notes:
    """What only people know about a model. A TOML or JSON file may give any of them, as a text or a list of texts.

    `summary`: what it is. `data`: what it was trained on, with licences. `limits`: what it is bad at. `evaluation`:
    what it was scored on. `attributions`: whom to credit.
    """

    summary: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    evaluation: tuple[str, ...] = ()
    attributions: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Notes:
        """Raises ExportError for a file that cannot be read, or holds something else."""
        try:
            text = path.read_text(encoding="utf-8")
            values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        except (OSError, ValueError) as error:
            raise ExportError(f"{path}: {error}") from None
        known = [field.name for field in fields(cls)]
        if not isinstance(values, dict) or not set(values) <= set(known):
            raise ExportError(f"{path}: notes are a table with the keys {', '.join(known)}")
        texts = {key: (value,) if isinstance(value, str) else value for key, value in values.items()}
        for key, value in texts.items():
            if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
                raise ExportError(f"{path}: {key} must be a text or a list of texts")
        return cls(**{key: tuple(value) for key, value in texts.items()})


_ARITHMETIC = {
    "fp32": "Weights are stored as float32, and arithmetic is float32.",
    "fp16-storage": "Matrices are stored as float16; arithmetic is float32.",
    "int8": "Large matrices are stored and multiplied as int8, by ranges found on training audio, and large codebooks "
    "of own models stored so; other matrices are stored as float16, and all other arithmetic is float32.",
}  # by precision


def model_card(manifest: Manifest, notes: Notes) -> str:
    """The text of MODEL_CARD.md."""
    return "\n".join(_lines(manifest, notes)) + "\n"


def _lines(m: Manifest, notes: Notes) -> Iterator[str]:
    q = m.quantizer
    most = m.bitrate(q.max_stages)
    yield f"# {m.name}"
    yield ""
    yield (
        f"A neural audio codec for {m.sample_rate / 1000:g} kHz mono audio, architecture `{m.architecture}`: "
        f"{m.bitrate(1):g} to {most:g} kbps in {q.max_stages} steps (stages of {q.codebook_size} entries, {q.kind}), "
        f"{m.frame_rate:g} frames a second. The stage count is chosen at run time, and may change in mid-stream."
    )
    yield from _paragraphs(notes.summary)
    yield from _section("Use")
    yield "```"
    yield f"edgecodec roundtrip speech.wav decoded.wav --bundle {m.name} -q {min(8, q.max_stages)}"
    yield "```"
    yield from _section("Latency")
    yield from _latency(m)
    yield from _section("Size")
    yield from _sizes(m)
    if m.entropy is not None:
        yield from entropy_lines(m)
    if m.quality:
        yield from _section("Quality")
        clips = ", ".join(sorted({f"{row['clips']} {row['kind']} clips" for row in m.quality}))
        yield f"Means over {clips}, by `edgecodec evaluate` on this very bundle, in onnxruntime."
        yield "PESQ-WB (1 to 4.6) and ESTOI (0 to 1) are scored at 16 kHz; mel distance: lower is better."
        if any(row["stages"] is None for row in m.quality):
            yield "Where stages vary, clips went through files, and all bytes are counted."
        yield from _paragraphs(notes.evaluation)
        yield ""
        yield from markdown(mean_cells(m.quality))
    yield from _section("What it is bad at")
    yield from _items(notes.limits or ("Not stated by its author: listen before relying on it.",))
    yield from _section("Training")
    yield from _training(m.training, m.sample_rate)
    yield from _items(notes.data)
    yield from _section("Agreement with the trained model")
    yield from _parity(m)
    if notes.attributions:
        yield from _section("Attributions")
        yield from _items(notes.attributions)


def _latency(m: Manifest) -> Iterator[str]:
    def ms(samples: int) -> str:
        return f"{1000 * samples / m.sample_rate:.1f} ms ({samples} samples)"

    yield f"- buffering, until a frame is full: {ms(m.latency.buffering)}"
    yield f"- algorithmic, by which decoded audio lags behind: {ms(m.latency.algorithmic)}"
    yield f"- processing: depends on the device; `edgecodec bench {m.name}` measures it"


def _sizes(m: Manifest) -> Iterator[str]:
    yield "| part | parameters | MMAC per second of audio |"
    yield "|---|--:|--:|"
    for part in ("encoder", "quantizer", "decoder"):
        macs = getattr(m.macs_per_second, part) / 1e6
        note = f" at {m.quantizer.max_stages} stages" if part == "quantizer" else ""
        yield f"| {part} | {getattr(m.parameters, part):,} | {macs:,.0f}{note} |"
    total = sum(getattr(m.graphs, name).bytes for name in GRAPHS)
    yield ""
    yield f"The four graphs take {total / 1e6:.1f} MB. {_ARITHMETIC.get(m.precision, m.precision)}"


def entropy_lines(m: Manifest) -> Iterator[str]:
    """What the entropy model is, and saves."""
    assert m.entropy is not None
    facts = m.training.get("entropy", {})
    saved = ", ".join(f"{share:.0%} at {stages}" for stages, share in facts.get("saved", {}).items())
    yield from _section("Entropy model")
    yield (
        f"`{m.entropy.file}`, {m.entropy.bytes / 1e6:.1f} MB, tells which codes follow which, in whole numbers: alike "
        f"on every machine. Learned from {facts.get('frames', 0):,} frames. Of clips that it had not seen it saves, by "
        f"stages: {saved or 'not measured'}."
    )


def _training(training: dict[str, Any], sample_rate: int) -> Iterator[str]:
    if "legs" not in training:
        yield from _origin(training.get("origin", {}))
        return
    legs = training["legs"]
    audio, wall = (sum(leg.get(key, 0) for leg in legs) / 3600 for key in ("audio_seconds", "wall_seconds"))
    yield f"{training['step']:,} steps, crops of {audio:,.1f} h in all at {sample_rate / 1000:g} kHz, in {wall:.1f} h:"
    yield ""
    for leg in legs:
        steps = f"steps {leg.get('first_step', '?')} to {leg.get('last_step', '?')}"
        yield f"- {steps}: {leg.get('wall_seconds', 0) / 3600:.1f} h on {leg.get('machine', '?')}"


def _origin(origin: dict[str, str]) -> Iterator[str]:
    """Of somebody else's weights."""
    hub, revision = origin.get("hub"), origin.get("revision")
    source = f"`{hub}` of the Hugging Face hub, revision `{revision}`" if hub else "a file that was given to the export"
    yield f"Trained by others; the weights come from {source}."
    yield f"Their licence: {origin.get('licence') or 'not stated where they were found; ask their authors before use'}."


def _parity(m: Manifest) -> Iterator[str]:
    p = m.parity
    ties = "" if p["codes_equal"] == 1 else " (the others are near ties)"
    yield (
        f"Compared with PyTorch for every stage count, lengths of {_list(p['frames'])} frames, batches of "
        f"{_list(p['batches'])}: latents within {p['latents_error']:.1e} of the largest, audio within "
        f"{p['audio_error']:.1e} of full scale, {p['codes_equal']:.2%} of codes equal{ties}. "
        f"Streamed in {p['chunkings']} random chunkings: the same codes as the whole clip, bit for bit; audio within "
        f"{p['streamed_audio_error']:.1e}. `golden.npz` holds audio, codes and decoded audio, for ports to check."
    )


def _list(values: list[int]) -> str:
    return ", ".join(str(value) for value in values)


def _section(title: str) -> Iterator[str]:
    yield from ("", f"## {title}", "")


def _paragraphs(texts: tuple[str, ...]) -> Iterator[str]:
    for text in texts:
        yield from ("", text.strip())


def _items(texts: tuple[str, ...]) -> Iterator[str]:
    for text in texts:
        yield f"- {text.strip()}"
