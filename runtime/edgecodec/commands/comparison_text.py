"""What `bench` prints where it compares: a table of times, one of parts, and the verdict in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..benchmarks.compare import Comparison, Facts, PartRow, Row
    from ..benchmarks.pairs import Paired

_HEAD = f"{'':38}{'A':>9}{'B':>9}    B : A    95 % interval   pairs"
_PARTS_HEAD = f"{'1 thread, parts by themselves':38}{_HEAD[38:]}{'MMAC/s':>14}{'of the limit':>15}"


def comparison_lines(c: Comparison) -> Iterator[str]:
    """The report."""
    yield f"A            {_facts_text(c.a)}"
    yield f"B            {_facts_text(c.b)}"
    yield f"measured     in turns in one process, a clip of {c.seconds:g} s; B : A is how many times as fast B is"
    clocks = {f"{row.clock} time of {_threads(row.threads)}": None for row in c.rows}
    yield f"             by {', '.join(clocks)}"
    if c.stolen:
        yield f"             other guests took {c.stolen:.1%} of the processors meanwhile"
    yield from ["", _HEAD]
    for row in c.rows:
        yield _row_text(row, c.a.frame_ms, c.b.frame_ms)
    yield from ["", _PARTS_HEAD]
    for part in c.parts:
        yield _part_text(part, c)
    yield from ["", *_notes(c), ""]
    for i, line in enumerate(c.verdict):
        yield f"{'' if i else 'verdict':13}{line}"


def _facts_text(f: Facts) -> str:
    return f"{f.bundle} ({f.fingerprint}), {f.kbps:.3g} kbps of {f.stages} stages, {f.precision}, on {f.device}"


def _row_text(row: Row, *frame_ms: float) -> str:
    """Microseconds are of a frame."""
    threads = _threads(row.threads)
    if row.frames_per_call is None:
        return _line(f"{threads}, {row.work}, × real time", row.took, *(f"{1 / t:.1f}" for t in _times(row.took)))
    each = [f"{1000 * ms * t:.0f}" for ms, t in zip(frame_ms, _times(row.took), strict=True)]
    return _line(f"{threads}, live, {row.frames_per_call} a packet, µs a frame", row.took, *each)


def _part_text(row: PartRow, c: Comparison) -> str:
    each = [f"{1000 * f.frame_ms * t:.0f}" for f, t in zip((c.a, c.b), _times(row.took), strict=True)]
    macs = " / ".join(f"{f.mmacs_per_second[row.part]:.3g}" for f in (c.a, c.b))
    shares = " / ".join("–" if share is None else f"{share:.0%}" for share in (row.share_a, row.share_b))
    return _line(f"{row.part}, {row.frames_per_call} a call, µs a frame", row.took, *each) + f"{macs:>14}{shares:>15}"


def _threads(n: int) -> str:
    return f"{n} thread{'s' * (n > 1)}"


def _line(what: str, took: Paired, a: str, b: str) -> str:
    return f"{what:38}{a:>9}{b:>9}{took.ratio:9.2f}    {f'{took.low:.2f} to {took.high:.2f}':>13}{took.pairs:8d}"


def _times(took: Paired) -> tuple[float, float]:
    return took.a, took.b


def _notes(c: Comparison) -> Iterator[str]:
    limits = ", ".join(f"{limit / 1e9:.1f} GMAC/s in {numbers}" for numbers, limit in c.matrix_limits.items())
    yield "MMAC/s       of a second of audio; of the quantizer at all stages"
    yield f"limit        a product of matrices in onnxruntime, 1 thread, here: {limits}"
    if c.streams_per_core is not None:
        a, b = c.streams_per_core
        yield f"streams      live ones that a core bears, by the tight loop of single frames: A {a:.1f}, B {b:.1f}"
    if c.energy is not None:
        interval = f"A : B {c.energy.ratio:.2f} ({c.energy.low:.2f} to {c.energy.high:.2f})"
        yield f"energy       J per second of audio, whole processor: A {c.energy.a:.3f}, B {c.energy.b:.3f}, {interval}"
    else:
        yield f"energy       {c.energy_note}"
