"""What a bundle costs on this machine, measured through the API that applications use.

Paced frames come at the rate of live audio, with sleep in between, and at the priority of live threads: caches cool and
clocks drop, so that each frame takes longer than in a tight loop. That is what a live stream sees.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from .paced import Pace, babble, measure_pace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..sessions import Device, Sessions

_STARTS = 5  # fresh processes
_PACED_SECONDS = 5.0
_HOT_FRAMES, _HOT_SECONDS = 1000, 20.0  # whichever is less
_PACKET_FRAMES = (2, 4, 8)
_REPEATS, _PATIENCE = 5, 10.0  # of whole clips, as long as they take fewer seconds together
_BLOCK_FRAMES = 750
_START = """
import sys, time
begin = time.perf_counter()
import edgecodec
codec = edgecodec.load(sys.argv[1], device=sys.argv[2], threads=int(sys.argv[3]))
seconds = time.perf_counter() - begin
import numpy as np
audio = np.random.default_rng(0).uniform(-0.1, 0.1, int(float(sys.argv[4]) * codec.sample_rate))
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
    device: str
    threads: int
    kbps: float
    encode_speed: float
    decode_speed: float
    file_encode_speeds: dict[str, float]  # as files of that mean bitrate, with everything on, by effort
    file_decode_speed: float
    frame_ms: float  # duration of a frame
    hot: Pace  # frame by frame
    paced: Pace
    packets: list[Pace]  # hot, of more frames each
    stages: list[StageCost]
    load_seconds: float  # import and load, in a fresh process
    peak_mb: float | None  # of a process that loads, encodes and decodes the clip; None where it cannot be known


def measure(bundle: str, *, device: Device = "cpu", threads: int = 1, seconds: float = 10.0) -> Costs:
    """Run all measurements.

    Args:
        bundle: as for `edgecodec.load`, as are `device` and `threads`.
        device: where the graphs run.
        threads: of the CPU.
        seconds: length of the clip, and at most of the paced frames.

    Raises:
        BundleError: as `edgecodec.load`. DeviceError: likewise.
    """
    import numpy as np

    from ..bundle import read_bundle
    from ..codec import Codec
    from ..files.encoding import Rate
    from ..files.in_memory import decode_clip, encode_clip
    from ..manifest import EFFORTS
    from ..sessions import Sessions
    from ..trial import try_out

    checked = read_bundle(bundle)
    try_out(checked)
    sessions = Sessions(checked, device, threads)
    codec, m = Codec(checked, sessions), checked.manifest
    seconds = max(round(seconds * m.frame_rate), 1) / m.frame_rate
    audio = babble(round(seconds * m.frame_rate) * codec.frame_size, codec.sample_rate)
    stages = codec.stages()
    codes = codec.encode(audio, stages=stages)
    rate = Rate(kbps=codec.bitrates[stages - 1])
    channels = np.repeat(audio[None], codec.channels, axis=0)
    file = encode_clip(codec, channels, rate)
    hot = max(1, min(_HOT_FRAMES, round(_HOT_SECONDS * m.frame_rate)))
    load_seconds, peak = _fresh_processes(bundle, sessions.device, threads, seconds)
    return Costs(
        bundle=m.name,
        device=sessions.device,
        threads=threads,
        kbps=codec.bitrates[stages - 1],
        encode_speed=seconds / _median(lambda: codec.encode(audio, stages=stages)),
        decode_speed=seconds / _median(lambda: codec.decode(codes)),
        file_encode_speeds={
            effort: seconds / _median(partial(encode_clip, codec, channels, rate, effort=effort)) for effort in EFFORTS
        },
        file_decode_speed=seconds / _median(lambda: decode_clip(codec, file)),
        frame_ms=1000 * codec.frame_size / codec.sample_rate,
        hot=measure_pace(codec, audio, stages, packets=hot, paced=False),
        paced=measure_pace(
            codec, audio, stages, packets=max(1, round(min(seconds, _PACED_SECONDS) * m.frame_rate)), paced=True
        ),
        packets=[
            measure_pace(codec, audio, stages, packets=max(1, hot // n), frames_per_packet=n, paced=False)
            for n in _PACKET_FRAMES
            if n * codec.frame_size <= len(audio)
        ],
        stages=[_stage_cost(sessions, audio, n, hot) for n in _some_stage_counts(codec.max_stages)],
        load_seconds=load_seconds,
        peak_mb=peak / 1e6 if peak else None,
    )


def _median(work: Callable[[], object], repeats: int = _REPEATS) -> float:
    """Seconds of one run, after one that warms up."""
    work()
    times: list[float] = []
    while len(times) < repeats and sum(times) < _PATIENCE:
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def _some_stage_counts(most: int) -> list[int]:
    return sorted({min(2**i, most) for i in range(8)} | {most})


def _stage_cost(sessions: Sessions, audio: NDArray[np.float32], stages: int, repeats: int) -> StageCost:
    import numpy as np

    def cost(frames: int, repeats: int) -> float:
        return 1e6 * _median(lambda: sessions.quantize(latents[:, :frames], stages), repeats)

    both = np.repeat(audio[None, None], sessions.manifest.channels, axis=1)
    latents = sessions.analyze(both, sessions.zero_state("encoder", 1), last=True)[0]
    block = min(latents.shape[1], _BLOCK_FRAMES)
    return StageCost(stages, cost(1, repeats), cost(block, _REPEATS) / block)


def _fresh_processes(bundle: str, device: str, threads: int, seconds: float) -> tuple[float, int]:
    """Median seconds of import and load, and the peak memory in bytes, of a new Python each time."""
    command = [sys.executable, "-c", _START, bundle, device, str(threads), str(seconds)]
    results = []
    for _ in range(_STARTS):
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        took, peak = done.stdout.split()
        results.append((float(took), int(peak)))
    return statistics.median(took for took, _ in results), max(peak for _, peak in results)
