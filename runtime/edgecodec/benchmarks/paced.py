"""Frames one by one through the whole chain, in a tight loop or at the pace of live audio, and what each took."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..live.priority import realtime_priority

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..codec import Codec

_WARMING = 20  # packets that are not counted


@dataclass(frozen=True)
class Pace:
    """Milliseconds to encode a packet and decode it, as `live` does."""

    packets: int
    frames_per_packet: int
    p50: float
    p99: float
    worst: float
    late: int  # packets that took longer than they last
    drift: float  # by how much the last packet began later than it should; 0 in a tight loop
    stolen: (
        float | None
    )  # of the processors' time meanwhile, what a virtual machine's host gave to others; None: unknown


def measure_pace(
    codec: Codec,
    audio: NDArray[np.float32],
    stages: int,
    *,
    packets: int,
    frames_per_packet: int = 1,
    paced: bool,
) -> Pace:
    """Pass `audio` [samples], at least a packet of it and repeated as needed, packet by packet.

    Paced packets have the priority that live ones have.
    """
    encoder = codec.encoder_stream(stages=stages, frames_per_packet=frames_per_packet, after_silence=True)
    decoder = codec.decoder_stream(after_silence=True)
    size = frames_per_packet * codec.frame_size
    period, whole = size / codec.sample_rate, len(audio) // size
    times: list[float] = []
    drift, began, stolen = 0.0, time.perf_counter(), stolen_seconds()
    with realtime_priority() if paced else contextlib.nullcontext():
        due = time.perf_counter()
        for i in range(packets + _WARMING):
            block = audio[i % whole * size :][:size]
            due += period
            if paced:
                time.sleep(max(0.0, due - time.perf_counter()))
            begin = time.perf_counter()
            for packet in encoder.push(block):
                decoder.push(packet)
            times.append(1000 * (time.perf_counter() - begin))
            drift = 1000 * (begin - due) if paced else 0.0
    share = None
    if stolen is not None and (now := stolen_seconds()) is not None:
        share = (now - stolen) / ((time.perf_counter() - began) * (os.cpu_count() or 1))
    times = sorted(times[min(_WARMING, packets // 4) :])
    return Pace(
        packets=packets,
        frames_per_packet=frames_per_packet,
        p50=statistics.median(times),
        p99=times[min(len(times) - 1, round(0.99 * len(times)))],
        worst=times[-1],
        late=sum(took > 1000 * period for took in times),
        drift=drift,
        stolen=share,
    )


def babble(samples: int, sample_rate: int) -> NDArray[np.float32]:
    """[samples]: harmonics and noise; cost does not depend on what is said."""
    import numpy as np

    t = np.arange(samples) / sample_rate
    tones = sum(np.sin(2 * np.pi * 150 * k * t) / k for k in range(1, 11))
    noise = np.random.default_rng(0).standard_normal(len(t))
    return (0.1 * tones * np.sin(2 * np.pi * 2 * t) + 0.01 * noise).astype(np.float32)


def stolen_seconds() -> float | None:
    """Of all processors, since the start of the system ("steal" in proc_stat(5))."""
    try:
        with Path("/proc/stat").open(encoding="ascii") as file:
            return int(file.readline().split()[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return None
