"""Evaluation: PESQ-WB, ESTOI, SI-SDR and mel distance of a codec at several stage counts."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from numpy.typing import NDArray

from .data import Clip, DataError, find_clips
from .losses import Spectrum, mel_filters

SCORING_RATE = 16_000  # PESQ-WB and ESTOI are defined up to 8 kHz


def si_sdr(reference: NDArray[Any], decoded: NDArray[Any]) -> float:
    """Scale-invariant signal-to-distortion ratio in dB of `[samples]` (Le Roux et al. 2019, arXiv:1811.02508)."""
    x = reference - reference.mean()
    y = decoded - decoded.mean()
    target = (np.dot(y, x) / max(float(np.dot(x, x)), 1e-12)) * x
    noise = y - target
    return float(10 * np.log10((np.dot(target, target) + 1e-12) / (np.dot(noise, noise) + 1e-12)))


def mel_distance(reference: NDArray[Any], decoded: NDArray[Any], sample_rate: int) -> float:
    """Mean absolute difference of 80-band log10-mel magnitudes (window 1024, floor 1e-5) of `[samples]`."""
    spectrum, filters = Spectrum(1024), mel_filters(80, 1024, sample_rate)
    with torch.no_grad():
        a, b = (
            torch.log10(spectrum(torch.from_numpy(np.ascontiguousarray(x, np.float32))[None]).abs() @ filters + 1e-5)
            for x in (reference, decoded)
        )
        return float((a - b).abs().mean())


def estoi(reference: NDArray[Any], decoded: NDArray[Any], sample_rate: int) -> float:
    """Extended short-time objective intelligibility (Jensen & Taal 2016), by `pystoi`, scored at 16 kHz."""
    from pystoi import stoi

    x, y = (soxr.resample(a, sample_rate, SCORING_RATE) for a in (reference, decoded))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # too few speech frames: it returns 1e-5
        return float(stoi(x, y, SCORING_RATE, extended=True))


def pesq_wb(reference: NDArray[Any], decoded: NDArray[Any], sample_rate: int) -> float:
    """PESQ wideband (ITU-T P.862.2) by `pesq`, scored at 16 kHz; NaN where it finds no speech."""
    from pesq import NoUtterancesError, pesq

    x, y = (soxr.resample(a, sample_rate, SCORING_RATE) for a in (reference, decoded))
    if not x.any():
        return float("nan")
    try:
        return float(pesq(SCORING_RATE, x, y, "wb"))
    except NoUtterancesError:
        return float("nan")


def score(reference: NDArray[Any], decoded: NDArray[Any], sample_rate: int) -> dict[str, float]:
    """All measures of one clip `[samples]` at `sample_rate`."""
    return {
        "pesq_wb": pesq_wb(reference, decoded, sample_rate),
        "estoi": estoi(reference, decoded, sample_rate),
        "si_sdr": si_sdr(reference, decoded),
        "mel_distance": mel_distance(reference, decoded, sample_rate),
    }


MEASURES = ("pesq_wb", "estoi", "si_sdr", "mel_distance")
Reconstruct = Callable[[NDArray[np.float32], int], NDArray[np.float32]]  # [samples], n_stages -> [samples]


def validation_clips(folder: Path, sample_rate: int, *, kind: str = "speech", limit: int = 0) -> list[Clip]:
    """Clips of one kind under a folder, evenly thinned to `limit` (0 = all).

    A `manifest.csv` in the folder with the columns `file` and `kind` says what kind each file is; without one, every
    file counts as speech.
    """
    clips = find_clips([folder], sample_rate)
    manifest = folder / "manifest.csv"
    if manifest.exists():
        with manifest.open(newline="") as file:
            kinds = {str(folder / row["file"]): row["kind"] for row in csv.DictReader(file)}
        clips = [clip for clip in clips if kinds.get(str(clip.path), "speech") == kind]
    if not clips:
        raise DataError(f"no {kind} clips in {folder}")
    return clips[:: max(1, len(clips) // limit)][:limit] if limit else clips


def evaluate(
    reconstruct: Reconstruct,
    clips: Sequence[NDArray[np.float32]],
    stage_counts: Sequence[int],
    sample_rate: int,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[dict[str, float]]:
    """Mean measures over clips `[samples]`, a row a stage count: `{"stages", *MEASURES}`; NaN scores are left out."""
    rows = []
    for i, stages in enumerate(stage_counts):
        scores = []
        for j, clip in enumerate(clips):
            scores.append(score(clip, reconstruct(clip, stages), sample_rate))
            progress(i * len(clips) + j + 1, len(stage_counts) * len(clips))
        rows.append(
            {"stages": float(stages)} | {name: float(np.nanmean([s[name] for s in scores])) for name in MEASURES}
        )
    return rows
