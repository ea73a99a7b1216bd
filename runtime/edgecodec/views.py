"""The snapshots of live streams in words."""

from __future__ import annotations

from .display import View
from .live import LiveSnapshot
from .meters import Budget, Percentiles

LIVE_KEYS = "↑ ↓ stages   b bypass   m mute   r record   q quit"


def live_view(s: LiveSnapshot) -> View:
    """A live stream."""
    states = [word for word, on in (("BYPASS", s.bypass), ("MUTED", s.muted), ("RECORDING", s.recording)) if on]
    counts = f"{s.overruns} overruns, {s.underruns} underruns, {s.late} late frames, {s.skipped} skipped"
    return View(
        title=f"edgecodec live: {s.source} → {s.bundle} → {s.sink}",
        levels=(("heard", s.heard_db), ("played", s.played_db)),
        rows=(
            ("bitrate", f"{s.kbps:.2f} kbps, {s.stages} of {s.max_stages} stages" + _listed(states)),
            ("latency", budget_text(s.budget)),
            ("frame", f"{percentiles_text(s.frame)} of {s.frame_ms:.1f} ms"),
            ("counters", counts),
            ("time", f"{s.seconds:.1f} s, {s.frames} frames" + (f", to {s.recording}" if s.recording else "")),
        ),
        line=(
            f"{s.seconds:6.1f} s  {s.kbps:.2f} kbps  heard {s.heard_db:.0f} dB  played {s.played_db:.0f} dB  "
            f"latency {s.budget.total:.0f} ms  frame p99 {s.frame.p99:.2f} ms  {counts}{_listed(states)}"
        ),
        keys=LIVE_KEYS,
        notice=s.notice,
    )


def budget_text(b: Budget) -> str:
    """A latency budget, each part by its name."""
    return (
        f"{b.total:.1f} ms = codec {b.codec:.1f} (buffering {b.buffering:.1f}, algorithmic {b.algorithmic:.1f}, "
        f"encode {b.encode:.1f}, decode {b.decode:.1f}) + capture {b.capture:.1f} + playback {b.playback:.1f}"
    )


def percentiles_text(p: Percentiles) -> str:
    """Percentiles in milliseconds."""
    return f"p50 {p.p50:.2f}, p95 {p.p95:.2f}, p99 {p.p99:.2f}, longest {p.longest:.2f} ms"


def _listed(words: list[str]) -> str:
    return "".join(f"  {word}" for word in words)
