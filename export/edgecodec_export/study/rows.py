"""The figures of a study as CSV: a line a variant, seed and stage count, with all numbers that its table is made of."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from edgecodec.errors import DataError, one_line

from .code_lines import code_lines
from .costs import Cost
from .figures import AtStages, Figures

Number = float | None


@dataclass(frozen=True)
class Row:
    """One variant, one seed, one stage count; units as in `Figures`, `AtStages`, `Stability` and `Cost`.

    What belongs to a variant or a run stands in each of its rows. None: not measured at this count, or of this run. Of
    studies in noise, the names with `noisy_` are the scores of what codecs heard.
    """

    variant: str
    seed: int
    stages: int
    max_stages: int
    kind: str
    codebook_size: int
    bits: float
    kbps: float
    steps: int
    train_seconds: float
    clips: int
    frames: int
    entries_used: int
    perplexity: float
    effective_bits: float
    distortion: float
    residual_norm: float
    latent_norm: float
    silent_mel: float
    mel_distance: Number
    pesq_wb: Number
    estoi: Number
    si_sdr: Number
    stft_distance: Number
    dead_entries: float
    gradient_norm: Number
    gradient_spread: Number
    loss: Number
    loss_variation: Number
    bundle_bytes: int
    parameters: int
    quantizer_macs: int
    encode_ms: Number
    search_ms: Number
    decode_ms: Number
    cost_ratio: Number
    cost_ratio_low: Number
    cost_ratio_high: Number
    lines_own: int
    lines_all: int
    dnsmos: Number = None
    snr_db: Number = None
    noisy_pesq_wb: Number = None
    noisy_estoi: Number = None
    noisy_si_sdr: Number = None
    noisy_dnsmos: Number = None


def rows_of(figures: Mapping[tuple[str, int], Figures], costs: Mapping[str, Cost]) -> list[Row]:
    """All rows, of figures by variant and seed."""
    return [_row(variant, seed, f, at, costs.get(variant)) for (variant, seed), f in figures.items() for at in f.stages]


def _row(variant: str, seed: int, f: Figures, at: AtStages, cost: Cost | None) -> Row:
    def score(name: str) -> Number:
        return at.scores[name].mean if name in at.scores else None

    def noisy(name: str) -> Number:
        return f.noisy[name].mean if name in f.noisy else None

    return Row(
        variant=variant,
        seed=seed,
        stages=at.stages,
        max_stages=f.max_stages,
        kind=f.kind,
        codebook_size=f.codebook_size,
        bits=at.bits,
        kbps=at.kbps,
        steps=f.steps,
        train_seconds=f.seconds,
        clips=f.clips,
        frames=f.frames,
        entries_used=at.entries_used,
        perplexity=at.perplexity,
        effective_bits=at.effective_bits,
        distortion=at.distortion,
        residual_norm=at.residual_norm,
        latent_norm=f.latent_norm,
        silent_mel=f.silent_mel,
        mel_distance=score("mel_distance"),
        pesq_wb=score("pesq_wb"),
        estoi=score("estoi"),
        si_sdr=score("si_sdr"),
        stft_distance=score("stft_distance"),
        dead_entries=f.dead_entries,
        gradient_norm=f.training.gradient_norm,
        gradient_spread=f.training.gradient_spread,
        loss=f.training.loss,
        loss_variation=f.training.loss_variation,
        bundle_bytes=f.bundle_bytes,
        parameters=f.parameters,
        quantizer_macs=f.quantizer_macs,
        encode_ms=cost.encode_ms if cost else None,
        search_ms=cost.search_ms if cost else None,
        decode_ms=cost.decode_ms if cost else None,
        cost_ratio=cost.ratio if cost else None,
        cost_ratio_low=cost.ratio_low if cost else None,
        cost_ratio_high=cost.ratio_high if cost else None,
        lines_own=code_lines(f.kind).own,
        lines_all=code_lines(f.kind).all,
        dnsmos=score("dnsmos"),
        snr_db=f.snr_db,
        noisy_pesq_wb=noisy("pesq_wb"),
        noisy_estoi=noisy("estoi"),
        noisy_si_sdr=noisy("si_sdr"),
        noisy_dnsmos=noisy("dnsmos"),
    )


def to_csv(rows: Sequence[Row]) -> str:
    """The text of the CSV: numbers to six digits; what the table says is made of these, not of longer ones."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(Row)])
    for row in rows:
        writer.writerow([_text(value) for value in dataclasses.astuple(row)])
    return file.getvalue()


def from_csv(text: str, name: str) -> list[Row]:
    """The rows of a CSV; `name` says where it came from.

    Raises:
        DataError: it is none of a study.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""))
    expected = {field.name for field in dataclasses.fields(Row) if field.default is dataclasses.MISSING}
    if missing := sorted(expected - set(reader.fieldnames or ())):
        raise DataError(f"{name}: no figures of a study: no column {missing[0]}")
    try:
        rows = [msgspec.convert({k: v or None for k, v in row.items()}, Row, strict=False) for row in reader]
    except (msgspec.ValidationError, csv.Error) as error:
        raise DataError(f"{name}: no figures of a study: {one_line(error)}") from None
    if not rows:
        raise DataError(f"{name}: no figures of a study: no rows")
    return rows


def read_csv(path: Path) -> list[Row]:
    """The rows of a file.

    Raises:
        DataError: not a file that can be read, or none of a study.
    """
    try:
        return from_csv(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {one_line(error)}") from None


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
