"""The command `bench`: what a bundle costs on this machine, beside another, and what a day of audio does to it."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from .options import AsJson, Bitrate, BundleName, DeviceName, device_name, load_codec, say
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
    bitrate: Bitrate = None,
    other: Annotated[
        str | None,
        typer.Option("--compare", metavar="NAME|PATH", help="Instead: beside this bundle. Default: the same one."),
    ] = None,
    other_bitrate: Annotated[
        float | None, typer.Option("--compare-bitrate", metavar="KBPS", help="Beside this bitrate. Default: as -b.")
    ] = None,
    other_device: Annotated[
        str | None,
        typer.Option("--compare-device", metavar="cpu|cuda|auto", help="Beside this device. Default: as --device."),
    ] = None,
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
    threads: Annotated[
        list[int] | None, typer.Option("--threads", min=1, help="CPU threads; to compare, may be repeated.")
    ] = None,
) -> None:
    """Measure a bundle on this machine: speed, latency of a frame, cost of stages, load time, memory.

    With one of --compare, --compare-bitrate, --compare-device: beside the same with that other bundle, bitrate or
    device, in turns, with 95 % intervals and a verdict.

    With --soak, pass hours of audio through one stream: exit code 1 when anything differs from the offline codec.

    Example: edgecodec bench speech -b 3 --compare-bitrate 6 --seconds 5
    """
    soaked, paced = _duration(soak_text, "--soak"), _duration(paced_text, "--paced")
    compares = (other, other_bitrate, other_device) != (None, None, None)
    counts = threads or [1]
    if soaked is None and paced is not None:
        raise typer.BadParameter("goes with --soak", param_hint="--paced")
    if soaked is not None and (compares or bitrate is not None):
        raise typer.BadParameter("goes neither with a comparison nor with a bitrate", param_hint="--soak")
    if len(counts) > 1 and not compares:
        raise typer.BadParameter("several go with a comparison only", param_hint="--threads")
    if compares:
        from ..benchmarks.compare import Subject, compare
        from .comparison_text import comparison_lines

        a = Subject(bundle, bitrate, device_name(device))
        b = Subject(
            bundle if other is None else other,
            bitrate if other_bitrate is None else other_bitrate,
            device_name(device if other_device is None else other_device),
        )
        with progress_display() as progress:
            compared = compare(a, b, threads=counts, seconds=seconds, progress=progress)
        say("\n".join(comparison_lines(compared)), asdict(compared), as_json)
        return
    if soaked is None:
        from ..benchmarks.bench import measure

        costs = measure(bundle, bitrate=bitrate, device=device_name(device), threads=counts[0], seconds=seconds)
        say("\n".join(_cost_lines(costs)), asdict(costs), as_json)
        return
    from ..benchmarks.soak import soak

    codec = load_codec(bundle, device, counts[0])
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
