"""What bundles cost in onnxruntime, one beside the other: all take turns, so that a disturbance meets them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np
from edgecodec import Codec
from edgecodec.benchmarks.pairs import LEAST_PAIRS, paired
from edgecodec.durable import new_file
from edgecodec.progress import Progress, silent
from edgecodec.sessions import Sessions

from ..audio import synthetic_voice

SECONDS = 2.0  # of audio in each turn
TURNS = 40


class Cost(msgspec.Struct, frozen=True):
    """Milliseconds of compute a second of audio, medians; and how many times that of the reference, with 95 %.

    `search_ms` is the part of encoding that looks for codes. `ratio` is of encoding and decoding together.
    """

    encode_ms: float
    search_ms: float
    decode_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float


class Costs(msgspec.Struct, frozen=True):
    """By variant; `fingerprints` tell the bundles that were measured."""

    reference: str
    fingerprints: dict[str, str]
    by_variant: dict[str, Cost]


def costs(codecs: Mapping[str, Codec], reference: str, progress: Progress = silent, turns: int = TURNS) -> Costs:
    """Time all codecs in turns, at all their stages, on one thread; the order turns round.

    Needs `LEAST_PAIRS` turns or more, for the intervals.
    """
    parts = {name: _parts(codec) for name, codec in codecs.items()}
    names = list(parts)
    took: dict[str, list[list[float]]] = {name: [] for name in names}
    for turn in range(-1, max(turns, LEAST_PAIRS)):  # the first is done to be warm
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times = [_seconds(part) for part in parts[name]]
            if turn >= 0:
                took[name].append(times)
        progress("cost measured, turns", turn + 1, turns)
    beside = _totals(took[reference])
    found = {}
    for name in names:
        encode, search, decode = (1000 * np.median(np.array(took[name]), axis=0) / SECONDS).tolist()
        ratio = paired(_totals(took[name]), beside)
        found[name] = Cost(encode, search, decode, ratio.ratio, ratio.low, ratio.high)
    return Costs(reference, {name: codec.fingerprint.hex() for name, codec in codecs.items()}, found)


def kept_costs(path: Path, codecs: Mapping[str, Codec], reference: str, progress: Progress = silent) -> Costs:
    """Those kept in a file, if they are of these bundles; else they are measured, and kept."""
    if path.exists():
        try:
            kept = msgspec.json.decode(path.read_bytes(), type=Costs)
        except msgspec.DecodeError:
            kept = None
        now = {name: codec.fingerprint.hex() for name, codec in codecs.items()}
        if kept is not None and (kept.reference, kept.fingerprints) == (reference, now):
            return kept
    measured = costs(codecs, reference, progress)
    with new_file(path) as partial:
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(measured), indent=1) + b"\n")
    return measured


def _parts(codec: Codec) -> tuple[Callable[[], object], ...]:
    """Encoding, the search within it, and decoding, of a synthetic voice."""
    audio = synthetic_voice(SECONDS, codec.sample_rate)
    sessions = Sessions(codec.bundle, "cpu", 1)
    whole = np.pad(audio, (0, -len(audio) % codec.frame_size))[None, None]
    latents, _ = sessions.analyze(whole, sessions.zero_state("encoder", 1), last=True)
    codes = codec.encode(audio, stages=codec.max_stages)
    return (
        lambda: codec.encode(audio, stages=codec.max_stages),
        lambda: sessions.quantize(latents, codec.max_stages),
        lambda: codec.decode(codes),
    )


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _totals(turns: list[list[float]]) -> list[float]:
    """Encoding and decoding."""
    return [encode + decode for encode, _, decode in turns]
