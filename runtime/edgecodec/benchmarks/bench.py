"""`edgecodec bench`: what a bundle costs on this machine. Measured through the API that applications use.

Paced frames come at the rate of live audio, with sleep in between, and at the priority of live threads: caches cool and
clocks drop, so that each frame takes longer than in a tight loop. That is what a live stream sees. `--soak` looks for
what only shows after a day.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from .paced import Pace, measure_pace
from .soak import duration, lines, soak

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..sessions import Sessions

_STARTS = 5  # fresh processes
_PACED_SECONDS = 5.0
_HOT_FRAMES = 1000
_PACKET_FRAMES = (2, 4, 8)
_SOAK_CLIP_SECONDS = 30
_REPEATS = 5  # of whole clips
_BLOCK_FRAMES = 750
_START = """
import sys, time
begin = time.perf_counter()
import edgecodec
codec = edgecodec.load(sys.argv[1], threads=int(sys.argv[2]))
seconds = time.perf_counter() - begin
import numpy as np
audio = np.random.default_rng(0).uniform(-0.1, 0.1, int(float(sys.argv[3]) * codec.sample_rate))
codec.decode(codec.encode(audio))
peak = 0
if sys.platform == "linux":  # not ru_maxrss, which begins with the peak of the process that started this one
    with open("/proc/self/status") as status:
        peak = 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
elif sys.platform != "win32":
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(seconds, peak)
"""


@dataclass(frozen=True)
class StageCost:
    """Microseconds of `quantizer_encode`: for one frame, and per frame of a block."""

    stages: int
    frame: float
    block: float


@dataclass(frozen=True)
class Costs:
    """What `bench` reports. Speeds are seconds of audio per second of compute."""

    bundle: str
    threads: int
    kbps: float
    encode_speed: float
    decode_speed: float
    frame_ms: float  # duration of a frame
    hot: Pace  # frame by frame
    paced: Pace
    packets: list[Pace]  # hot, of more frames each
    stages: list[StageCost]
    load_seconds: float  # import and load, in a fresh process
    peak_mb: float | None  # of a process that loads, encodes and decodes the clip; None where it cannot be known


def bench(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="Shipped bundle or bundle folder.")] = "speech",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
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
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Measure a bundle on this machine: speed, latency of a frame, cost of stages, load time, memory.

    With --soak, pass hours of audio through one stream: exit code 1 when anything differs from the offline codec.

    Example: edgecodec bench speech --seconds 5
    """
    soaked, paced = _duration(soak_text, "--soak"), _duration(paced_text, "--paced")
    if soaked is None:
        if paced is not None:
            raise typer.BadParameter("goes with --soak", param_hint="--paced")
        costs = measure(bundle, threads, seconds)
        typer.echo(json.dumps(asdict(costs), indent=1) if as_json else "\n".join(_lines(costs)))
        return
    from ..codec import load

    codec = load(bundle, threads=threads)
    found = soak(codec, _babble(_SOAK_CLIP_SECONDS * codec.sample_rate, codec.sample_rate), soaked, paced)
    typer.echo(json.dumps(asdict(found), indent=1) if as_json else "\n".join(lines(found)))
    if not found.as_offline:
        raise typer.Exit(1)


def _duration(text: str | None, option: str) -> float | None:
    try:
        return None if text is None else duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def measure(bundle: str, threads: int, seconds: float) -> Costs:
    """Run all measurements.

    Raises:
        BundleError: as `edgecodec.load`.
    """
    from ..bundle import read_bundle
    from ..codec import Codec
    from ..sessions import Sessions

    checked = read_bundle(bundle)
    sessions = Sessions(checked, "cpu", threads)
    codec, m = Codec(checked, sessions), checked.manifest
    seconds = max(round(seconds * m.frame_rate), 1) / m.frame_rate
    audio = _babble(round(seconds * m.frame_rate) * codec.frame_size, codec.sample_rate)
    stages = codec.stages()
    codes = codec.encode(audio, stages=stages)
    load_seconds, peak = _fresh_processes(bundle, threads, seconds)
    return Costs(
        bundle=m.name,
        threads=threads,
        kbps=codec.bitrates[stages - 1],
        encode_speed=seconds / _median(lambda: codec.encode(audio, stages=stages)),
        decode_speed=seconds / _median(lambda: codec.decode(codes)),
        frame_ms=1000 * codec.frame_size / codec.sample_rate,
        hot=measure_pace(codec, audio, stages, packets=_HOT_FRAMES, paced=False),
        paced=measure_pace(
            codec, audio, stages, packets=max(1, round(min(seconds, _PACED_SECONDS) * m.frame_rate)), paced=True
        ),
        packets=[
            measure_pace(codec, audio, stages, packets=_HOT_FRAMES // n, frames_per_packet=n, paced=False)
            for n in _PACKET_FRAMES
            if n * codec.frame_size <= len(audio)
        ],
        stages=[_stage_cost(sessions, audio, n) for n in _some_stage_counts(codec.max_stages)],
        load_seconds=load_seconds,
        peak_mb=peak / 1e6 if peak else None,
    )


def _babble(samples: int, sample_rate: int) -> NDArray[np.float32]:
    """[samples]: harmonics and noise; cost does not depend on what is said."""
    import numpy as np

    t = np.arange(samples) / sample_rate
    tones = sum(np.sin(2 * np.pi * 150 * k * t) / k for k in range(1, 11))
    noise = np.random.default_rng(0).standard_normal(len(t))
    return (0.1 * tones * np.sin(2 * np.pi * 2 * t) + 0.01 * noise).astype(np.float32)


def _median(work: Callable[[], object], repeats: int = _REPEATS) -> float:
    """Seconds of one run, after one that warms up."""
    work()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def _some_stage_counts(most: int) -> list[int]:
    return sorted({min(2**i, most) for i in range(8)} | {most})


def _stage_cost(sessions: Sessions, audio: NDArray[np.float32], stages: int) -> StageCost:
    def cost(frames: int, repeats: int) -> float:
        return 1e6 * _median(lambda: sessions.quantize(latents[:, :frames], stages), repeats)

    latents = sessions.analyze(audio[None], sessions.zero_state("encoder", 1))[0]
    block = min(latents.shape[1], _BLOCK_FRAMES)
    return StageCost(stages, cost(1, _HOT_FRAMES), cost(block, _REPEATS) / block)


def _fresh_processes(bundle: str, threads: int, seconds: float) -> tuple[float, int]:
    """Median seconds of import and load, and the peak memory in bytes, of a new Python each time."""
    command = [sys.executable, "-c", _START, bundle, str(threads), str(seconds)]
    results = []
    for _ in range(_STARTS):
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        took, peak = done.stdout.split()
        results.append((float(took), int(peak)))
    return statistics.median(took for took, _ in results), max(peak for _, peak in results)


def _lines(c: Costs) -> list[str]:
    return [
        f"{c.bundle}, {c.threads} thread{'s' * (c.threads > 1)}, {c.kbps:g} kbps",
        f"offline      encode {c.encode_speed:.0f} × real time, decode {c.decode_speed:.0f} × real time",
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
