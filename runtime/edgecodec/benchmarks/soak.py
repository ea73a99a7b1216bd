"""A day of audio through the whole chain, to see that nothing grows, drifts or changes.

A clip is repeated without a seam. All codes and samples are compared with those of whole clips: from the second pass
on, a causal network has forgotten how the first one began.

    offline   |--- clip ---|--- clip ---|
    stream    |--- clip ---|--- clip ---|--- clip ---|--- clip ---|...
                 equals 1     equals 2     equals 2     equals 2
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..progress import Progress, silent
from .paced import Pace, babble, measure_pace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..codec import Codec

_FRAMES_PER_PACKET = 36
_CLIP_SECONDS = 30.0
_SETTLING_SECONDS = 60.0  # of audio, after which memory should not grow
_SLOPE_SECONDS = 600.0
_MEMORY_SAMPLES = 1000


@dataclass(frozen=True)
class Growth:
    """Resident memory in MB (10**6 bytes), from the end of the first minute of audio, or tenth of a shorter soak."""

    begin: float
    end: float
    most: float  # above `begin`, at any time
    slope: float | None  # MB per hour of audio, least squares; None for less than ten minutes


@dataclass(frozen=True)
class Soak:
    """What `soak` found. `different_*` and `drift` should be zero."""

    bundle: str
    kbps: float
    seconds: float  # of audio
    speed: float  # seconds of audio per second
    packets: int
    frames_per_packet: int
    different_codes: int  # frames whose codes are not the offline ones
    different_audio: int  # frames whose samples are not
    drift: int  # samples that came out beyond those that went in and the decoder's delay
    worst_packet_ms: float
    worst_compute_ms: float  # the most processor time of a packet: what waiting for other programs adds is not in it
    packet_ms: float  # its duration
    memory: Growth | None  # None where it cannot be known
    paced: Pace | None  # one frame at a time

    @property
    def as_offline(self) -> bool:
        """Whether nothing came out that differs from the offline codec, too early or too late."""
        return not (self.different_codes or self.different_audio or self.drift)


def soak(codec: Codec, seconds: float, paced_seconds: float | None = None, *, progress: Progress = silent) -> Soak:
    """Pass so much audio through encoder, bytes and decoder: fast, then so long at the pace of live audio."""
    import numpy as np

    size, frame_rate = codec.frame_size, codec.manifest.frame_rate
    frames = max(1, round(min(_CLIP_SECONDS, seconds / 3) * frame_rate))
    clip = babble(frames * size, codec.sample_rate)
    stages = codec.stages()
    codes, decoded = _offline(codec, clip, stages)
    form, encoder = codec.packet_format(), codec.encoder_stream(stages=stages, frames_per_packet=_FRAMES_PER_PACKET)
    decoder = codec.decoder_stream()

    step, late = _FRAMES_PER_PACKET * size, codec.manifest.held
    packets = max(2, round(seconds * frame_rate / _FRAMES_PER_PACKET))
    doubled = np.concatenate([clip, np.resize(clip, step)])  # so that no block has a seam
    between = max(1, packets // _MEMORY_SAMPLES)
    heard = np.zeros(0, np.float32)  # short of a frame
    memory: list[tuple[float, float]] = []
    coded = played = pushed = came = different_codes = different_audio = 0
    worst = worst_compute = 0.0
    begin = time.perf_counter()
    for i in range(packets):
        # The first block is a sample short: every later one leaves a rest behind, as devices' blocks do.
        at = pushed % len(clip)
        block = doubled[at : at + step - (i == 0)]
        start, start_compute = time.perf_counter(), time.process_time()
        data = [form.to_bytes(packet) for packet in encoder.push(block)]
        if i == packets - 1:
            data += [form.to_bytes(packet) for packet in encoder.flush()]
        arrived = [form.from_bytes(packet) for packet in data]
        pieces = [decoder.push(packet) for packet in arrived]
        if i == packets - 1:
            pieces.append(decoder.flush())
        worst = max(worst, time.perf_counter() - start)
        worst_compute = max(worst_compute, time.process_time() - start_compute)
        pushed += len(block)
        for packet in arrived:
            where, inside = _places(coded, packet.frames, frames), _inside(coded, packet.frames, pushed - late, size)
            different_codes += int((inside & (packet.codes[0] != codes[:, where]).any(axis=0)).sum())
            coded += packet.frames
        heard = np.concatenate([heard, *pieces])
        whole = len(heard) // size
        where, inside = _places(played, whole, frames), _inside(played, whole, pushed - late, size)
        different_audio += int((inside & (heard[: whole * size].reshape(-1, size) != decoded[where]).any(axis=1)).sum())
        came, played, heard = came + sum(map(len, pieces)), played + whole, heard[whole * size :]
        if i % between == 0:
            memory.append((pushed / codec.sample_rate, resident_mb() or 0.0))
            progress("seconds of audio", pushed / codec.sample_rate, seconds)
    elapsed = time.perf_counter() - begin
    return Soak(
        bundle=codec.manifest.name,
        kbps=codec.bitrates[stages - 1],
        seconds=pushed / codec.sample_rate,
        speed=pushed / codec.sample_rate / elapsed,
        packets=packets,
        frames_per_packet=_FRAMES_PER_PACKET,
        different_codes=different_codes,
        different_audio=different_audio,
        drift=came - codec.frames(pushed) * size,
        worst_packet_ms=1000 * worst,
        worst_compute_ms=1000 * worst_compute,
        packet_ms=1000 * step / codec.sample_rate,
        memory=_growth(memory) if resident_mb() is not None else None,
        paced=None
        if paced_seconds is None
        else measure_pace(codec, clip, stages, packets=max(1, round(paced_seconds * frame_rate)), paced=True),
    )


def resident_mb() -> float | None:
    """Resident memory of this process in MB, or None where the system does not tell."""
    try:
        if sys.platform == "linux":
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        told = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, check=True)
        return int(told.stdout) * 1024 / 1e6
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None


def _offline(codec: Codec, clip: NDArray[np.float32], stages: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Two passes of the clip: codes [lines, 2 * frames] and the samples of each frame [2 * frames, frame_size].

    A third one comes after them, for codecs that look ahead.
    """
    import numpy as np

    from ..packets import Packet

    codes = codec.encode(np.tile(clip, 3), stages=stages)
    stream, frames = codec.decoder_stream(), 2 * len(clip) // codec.frame_size
    audio = np.concatenate([stream.push(Packet(0, codes, layout=codec.manifest.layout)), stream.flush()])
    size = codec.frame_size
    return codes[0, :, :frames], audio[: frames * size].reshape(-1, size)


def _places(first: int, count: int, frames: int) -> NDArray[np.int64]:
    """Where frames `first`, `first` + 1, … of the stream are in the two passes of `frames` frames each."""
    import numpy as np

    at = np.arange(first, first + count)
    return np.where(at < frames, at, frames + at % frames)


def _inside(first: int, count: int, samples: int, size: int) -> NDArray[np.bool_]:
    """Which of `count` frames from `first` on end within so many samples: the flush pads with zeros."""
    import numpy as np

    inside: NDArray[np.bool_] = (first + np.arange(count) + 1) * size <= samples
    return inside


def _growth(memory: list[tuple[float, float]]) -> Growth:
    import numpy as np

    seconds, mb = np.array(memory).T
    settled = seconds >= min(_SETTLING_SECONDS, seconds[-1] / 10)
    seconds, mb = seconds[settled], mb[settled]
    told = seconds[-1] - seconds[0] >= _SLOPE_SECONDS
    slope = float(np.polyfit(seconds / 3600, mb, 1)[0]) if told else None
    return Growth(begin=float(mb[0]), end=float(mb[-1]), most=float(mb.max() - mb[0]), slope=slope)
