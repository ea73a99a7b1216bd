"""The command `bench`: what a bundle costs on this machine, and what a day of audio does to it."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from .options import AsJson, BundleName, DeviceName, Threads, device_name, load_codec, say
from .progress import progress_display

if TYPE_CHECKING:
    from ..benchmarks.bench import Costs
    from ..benchmarks.soak import Soak

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def bench(
    bundle: BundleName = "speech",
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Length of the clip, and at most of the paced frames.")
    ] = 10.0,
    soak_text: Annotated[
        str | None,
        typer.Option(
            "--soak", metavar="TIME", help="Instead: so much audio in one stream, for instance 90s, 10m, 24h."
        ),
    ] = None,
    paced_text: Annotated[
        str | None, typer.Option("--paced", metavar="TIME", help="With --soak: then so long at the pace of live audio.")
    ] = None,
    as_json: AsJson = False,
    device: DeviceName = "cpu",
    threads: Threads = 1,
) -> None:
    """Measure a bundle on this machine: speed, latency of a frame, cost of stages, load time, memory.

    With --soak, pass hours of audio through one stream: exit code 1 when anything differs from the offline codec.

    Example: edgecodec bench speech --seconds 5
    """
    soaked, paced = _duration(soak_text, "--soak"), _duration(paced_text, "--paced")
    if soaked is None:
        from ..benchmarks.bench import measure

        if paced is not None:
            raise typer.BadParameter("goes with --soak", param_hint="--paced")
        costs = measure(bundle, device=device_name(device), threads=threads, seconds=seconds)
        say("\n".join(_cost_lines(costs)), asdict(costs), as_json)
        return
    from ..benchmarks.soak import soak

    codec = load_codec(bundle, device, threads)
    with progress_display() as progress:
        found = soak(codec, soaked, paced, progress=progress)
    say("\n".join(_soak_lines(found)), asdict(found), as_json)
    if not found.as_offline:
        raise typer.Exit(1)


def _duration(text: str | None, option: str) -> float | None:
    try:
        return None if text is None else duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def duration(text: str) -> float:
    """Seconds of a text such as 90, 90s, 10m, 24h, 2d; a ValueError for any other."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if match is None or not float(match[1]):
        raise ValueError(f"{text!r} is no duration; write it as 90s, 10m or 24h")
    return float(match[1]) * _UNITS[match[2]]


def _cost_lines(c: Costs) -> list[str]:
    return [
        f"{c.bundle} on {c.device}, {c.threads} thread{'s' * (c.threads > 1)}, {c.kbps:g} kbps",
        f"offline      encode {c.encode_speed:.0f} × real time, decode {c.decode_speed:.0f} × real time",
        "files        encode "
        + ", ".join(f"{speed:.0f} × ({effort})" for effort, speed in c.file_encode_speeds.items())
        + f", decode {c.file_decode_speed:.0f} × real time",
        f"one frame    encode + decode, of {c.frame_ms:.1f} ms: "
        f"hot p50 {c.hot.p50:.2f} ms, p99 {c.hot.p99:.2f} ms; paced p50 {c.paced.p50:.2f} ms, p99 {c.paced.p99:.2f} ms",
        *(
            []
            if not c.paced.stolen
            else [f"             other guests took {c.paced.stolen:.1%} of the processors meanwhile"]
        ),
        "packets      frames     µs a frame, encode + decode     buffering ms",
        *(
            f"             {p.frames_per_packet:6d}     {1000 * p.p50 / p.frames_per_packet:27.0f}     "
            f"{p.frames_per_packet * c.frame_ms:12.1f}"
            for p in (c.hot, *c.packets)
        ),
        "quantizer    stages     µs for one frame     µs a frame in a block",
        *(f"             {s.stages:6d}     {s.frame:16.0f}     {s.block:28.1f}" for s in c.stages),
        f"start        import and load {c.load_seconds:.2f} s",
        f"memory       peak {f'{c.peak_mb:.0f} MB' if c.peak_mb else 'not known on this system'}",
    ]


def _soak_lines(s: Soak) -> list[str]:
    text = [
        f"{s.bundle}, {s.kbps:g} kbps: {_clock(s.seconds)} of audio at {s.speed:.0f} × real time, "
        f"{s.packets} packets of {s.frames_per_packet} frames",
        f"as offline   {'yes' if s.as_offline else 'NO'}: {s.different_codes} frames of other codes, "
        f"{s.different_audio} of other samples, drift {s.drift} samples",
        f"worst packet {s.worst_packet_ms:.1f} ms, of compute at most {s.worst_compute_ms:.1f} ms, "
        f"for {s.packet_ms:.1f} ms of audio",
    ]
    if s.memory is not None:
        m = s.memory
        text.append(
            f"memory       {m.begin:.1f} MB after the start, {m.end:.1f} MB at the end, at most {m.most:+.1f} MB"
            + ("" if m.slope is None else f", slope {m.slope:+.4f} MB per hour of audio")
        )
    if s.paced is not None:
        p = s.paced
        text.append(
            f"paced        {p.packets} frames: p50 {p.p50:.2f} ms, p99 {p.p99:.2f} ms, worst {p.worst:.2f} ms, "
            f"{p.late} late, drift {p.drift:.1f} ms"
        )
    return text


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
