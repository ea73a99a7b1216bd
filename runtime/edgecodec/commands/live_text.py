"""The snapshots of live streams in words, on the way and at the end."""

from __future__ import annotations

import sys
from typing import Any

from ..live.meters import Budget, Percentiles
from ..live.pump import LiveSnapshot
from ..network.received import ReceiveSnapshot
from ..network.sender import SendSnapshot
from .display import View
from .options import say

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


def send_view(s: SendSnapshot) -> View:
    """A stream that is sent."""
    said = (
        f"{s.lost} lost ({100 * s.lost_share:.1f} % of late), jitter {s.jitter_ms:.1f} ms" if s.reports else "nothing"
    )
    repeated = f", repeats {s.redundancy}" if s.redundancy else ""
    sent = f"{s.packets} packets of {s.packet_ms:.1f} ms, largest {s.largest} bytes, {s.unsent} not sent"
    return View(
        title=f"edgecodec send: {s.source} → {s.bundle} → {s.target}",
        levels=(("heard", s.heard_db),),
        rows=(
            ("bitrate", f"{s.stages} of {s.max_stages} stages{repeated}" + ("  MUTED" if s.muted else "")),
            ("average", f"{s.kbps:.2f} kbps, {s.wire_kbps:.1f} kbps with all headers"),
            ("sent", sent),
            ("receiver", f"says: {said}"),
            ("encode", f"{percentiles_text(s.encode)} of {s.packet_ms:.1f} ms"),
            ("time", f"{s.seconds:.1f} s, {s.overruns} overruns"),
        ),
        line=(
            f"{s.seconds:6.1f} s  {s.stages} stages  {s.kbps:.2f} kbps  heard {s.heard_db:.0f} dB  {sent}  "
            f"receiver says: {said}"
        ),
        keys="↑ ↓ stages   m mute   q quit",
        notice=s.notice,
    )


def receive_view(s: ReceiveSnapshot) -> View:
    """A stream that is received."""
    p, d = s.packets, s.datagrams
    fate = f"{p.received} received, {p.lost} lost ({s.recovered} recovered), {p.late} late, {p.duplicates} duplicates"
    times = f"jitter {p.jitter_ms:.1f} ms, target {p.target_ms:.0f} ms, delay {p.delay_ms:.0f} ms"
    pace = f"{p.held} put in, {p.skipped} left out, {p.resyncs} restarts"
    repeated = f", repeats {s.redundancy}" if s.redundancy else ""
    return View(
        title=f"edgecodec receive: {s.sender or 'waiting for a sender'} → {s.bundle} → {s.sink}",
        levels=(("played", s.played_db),),
        rows=(
            ("bitrate", f"{s.kbps:.2f} kbps, {s.stages} stages{repeated}"),
            ("packets", fate),
            ("buffer", f"{times}; {pace}"),
            (
                "others",
                f"{d.garbage} garbage, {d.foreign} of other streams, {d.refused} of other bundles, "
                f"{d.flooding} too many",
            ),
            ("decode", f"{percentiles_text(s.decode)} of {s.packet_ms:.1f} ms"),
            ("time", f"{s.seconds:.1f} s, {s.underruns} underruns"),
        ),
        line=f"{s.seconds:6.1f} s  {s.kbps:.2f} kbps  played {s.played_db:.0f} dB  {fate}  {times}; {pace}",
        keys="q quit",
        notice=s.notice,
    )


def say_end(view: View, data: dict[str, Any], as_json: bool, *, beside: str | None = None) -> None:
    """How a live stream ended; as text only where the last display is not still to be seen."""
    if as_json or not (sys.stdout.isatty() and sys.stderr.isatty()):
        say("\n".join(f"{name:<10}{value}" for name, value in view.rows), data, as_json, beside=beside)
