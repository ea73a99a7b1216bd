"""Two bundles, bitrates or devices beside each other: what is faster here, by how much, and how sure that is.

Every figure of time is seconds of compute per second of audio, so that codecs of different frames compare. A and B run
in turns in one process (`pairs`). Where both are one bundle on one device they share the sessions: the same graphs
loaded twice differ by a few per cent, by where in memory they came to lie.

One thread is measured by its processor time. On a busy machine the wall clock would not do: work that ends within a
slice of the scheduler seems undisturbed, and work that takes little longer several times as slow.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, product
from typing import Literal

import numpy as np

from ..bundle import read_bundle
from ..codec import Codec
from ..progress import Progress, silent
from ..sessions import Device, Sessions
from .energy import EnergyMeter
from .matrix_limit import NUMBERS, matrix_limit
from .paced import babble, stolen_seconds
from .pairs import Paired, Work, in_turns

FRAMES_PER_CALL = (1, 2, 4, 8, 64)  # 64 are a block: more are cut into such
_PATIENCE = 10.0  # seconds of pairs, for each figure
_RUN_FRAMES = 24  # frames of a live run, whose median call counts
_ENERGY_SECONDS = 0.2  # of a run whose energy is read: the counters move every millisecond
_PARTS = ("encoder", "quantizer", "decoder")

Clock = Literal["processor", "wall"]
_CLOCKS: dict[Clock, Callable[[], float]] = {"processor": time.thread_time, "wall": time.perf_counter}


@dataclass(frozen=True)
class Subject:
    """What is to be compared. No bitrate: that which the bundle takes by itself."""

    bundle: str
    bitrate: float | None = None
    device: Device = "cpu"


@dataclass(frozen=True)
class Facts:
    """What a subject turned out to be."""

    bundle: str
    fingerprint: str
    device: str
    precision: str
    stages: int
    kbps: float
    frame_ms: float
    mmacs_per_second: dict[str, float]  # millions of multiply-accumulates per second of audio; quantizer: all stages


@dataclass(frozen=True)
class Row:
    """Seconds of compute per second of audio."""

    work: str  # encode, decode: of the whole clip; live: encode and decode, packet by packet, in a tight loop
    threads: int
    frames_per_call: int | None  # None for whole clips
    clock: Clock  # processor: time of the one thread that computes; wall: of several, or where none tells that finely
    took: Paired


@dataclass(frozen=True)
class PartRow:
    """A part of the codec on one thread, in calls of so many frames; the quantizer searches all of its stages.

    Shares are of the best that this machine did in a product of matrices. None where the graphs do not run on the CPU.
    """

    part: str
    frames_per_call: int
    took: Paired
    share_a: float | None
    share_b: float | None


@dataclass(frozen=True)
class Comparison:
    """All that was measured."""

    a: Facts
    b: Facts
    seconds: float  # of the clip
    rows: list[Row]
    parts: list[PartRow]
    matrix_limits: dict[str, float]  # multiply-accumulates per second of one thread, by precision; the best seen
    streams_per_core: tuple[float, float] | None  # live ones of A and of B, by the tight loop; None without one thread
    energy: Paired | None  # joules per second of audio, of the whole processor, to encode and decode the clip
    energy_note: str | None  # why there is none
    stolen: float | None  # of the processors' time meanwhile, what a virtual machine's host gave to others
    verdict: list[str]


class _Side:
    """One of the two on some threads: its codec, a clip of its sample rate, and the clock for both."""

    def __init__(self, subject: Subject, codec: Codec, sessions: Sessions, seconds: float) -> None:
        self.codec, self.sessions = codec, sessions
        self.clock: Clock = "wall"
        self.stages = codec.stages(bitrate=subject.bitrate)
        frames = max(1, round(seconds * codec.manifest.frame_rate))
        self.audio = babble(frames * codec.frame_size, codec.sample_rate)
        self.seconds, self.frames = len(self.audio) / codec.sample_rate, frames

    def facts(self) -> Facts:
        m = self.codec.manifest
        return Facts(
            bundle=m.name,
            fingerprint=self.codec.fingerprint.hex(),
            device=self.codec.device,
            precision=m.precision,
            stages=self.stages,
            kbps=m.bitrate(self.stages),
            frame_ms=1000 / m.frame_rate,
            mmacs_per_second={part: getattr(m.macs_per_second, part) / 1e6 for part in _PARTS},
        )

    def encode(self) -> Work:
        return self._per_second(lambda: self.codec.encode(self.audio, stages=self.stages))

    def decode(self) -> Work:
        codes = self.codec.encode(self.audio, stages=self.stages)
        return self._per_second(lambda: self.codec.decode(codes))

    def live(self, frames: int) -> Work:
        """Packet by packet through encoder and decoder; the median of a few packets, one stream from run to run."""
        encoder = self.codec.encoder_stream(stages=self.stages, frames_per_packet=frames, after_silence=True)
        decoder = self.codec.decoder_stream(after_silence=True)
        size, packets = frames * self.codec.frame_size, max(1, _RUN_FRAMES // frames)
        blocks = cycle([self.audio[i : i + size] for i in range(0, len(self.audio) - size + 1, size)])

        def one() -> None:
            for packet in encoder.push(next(blocks)):
                decoder.push(packet)

        return lambda: statistics.median(self._timed(one) for _ in range(packets)) / (size / self.codec.sample_rate)

    def part(self, name: str, frames: int) -> Work:
        """The graph of a part alone."""
        m, s = self.codec.manifest, self.sessions
        audio = np.repeat(self.audio[None, None, : frames * m.frame_size], m.channels, axis=1)
        latents = s.analyze(audio, s.zero_state("encoder", 1), last=True)[0]
        quantized = s.latents(s.quantize(latents, m.quantizer.max_stages))
        works: dict[str, Callable[[], object]] = {
            "encoder": lambda: s.analyze(audio, s.zero_state("encoder", 1), last=True),
            "quantizer": lambda: s.quantize(latents, m.quantizer.max_stages),
            "decoder": lambda: s.synthesize(quantized, s.zero_state("decoder", 1), last=True),
        }
        calls = max(1, _RUN_FRAMES // frames)
        return lambda: statistics.median(self._timed(works[name]) for _ in range(calls)) * m.frame_rate / frames

    def energy(self, meter: EnergyMeter) -> Work:
        """Joules per second of audio."""

        def joules() -> float:
            before, begin, clips = meter.read(), time.perf_counter(), 0
            while time.perf_counter() - begin < _ENERGY_SECONDS:
                self.codec.decode(self.codec.encode(self.audio, stages=self.stages))
                clips += 1
            return meter.joules_since(before) / (clips * self.seconds)

        return joules

    def share(self, part: str, took: float, limits: dict[str, float]) -> float | None:
        """Of the limit in the numbers that a part computes in, what it does in so much time."""
        if self.codec.device != "cpu":
            return None
        numbers = "int8" if self.codec.manifest.precision == "int8" and part != "quantizer" else "fp32"
        return float(getattr(self.codec.manifest.macs_per_second, part) / took / limits[numbers])

    def _per_second(self, work: Callable[[], object]) -> Work:
        return lambda: self._timed(work) / self.seconds

    def _timed(self, work: Callable[[], object]) -> float:
        """Seconds of it."""
        clock = _CLOCKS[self.clock]
        begin = clock()
        work()
        return clock() - begin


def compare(
    a: Subject,
    b: Subject,
    *,
    threads: Sequence[int] = (1,),
    seconds: float = 10.0,
    meter: EnergyMeter | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Measure both in turns.

    Args:
        a: one,
        b: and the other.
        threads: of the CPU, each measured; the parts on one always.
        seconds: length of the clip.
        meter: of energy; by default that of this machine.
        progress: told how far it is.

    Raises:
        BundleError: as `edgecodec.load`. DeviceError: likewise. BitrateError: one that a bundle does not offer.
    """
    began, stolen = time.perf_counter(), stolen_seconds()
    meter = meter or EnergyMeter()
    counts = list(dict.fromkeys(threads))
    sides = {n: _sides(a, b, n, seconds) for n in {*counts, 1}}
    first = sides[1]
    frames = [n for n in FRAMES_PER_CALL if n <= min(side.frames for side in first)]
    steps = len(counts) * (2 + len(frames)) + len(_PARTS) * 2
    rows: list[Row] = []
    for n in counts:
        for work, size in [("encode", None), ("decode", None), *(("live", size) for size in frames)]:
            progress("measured", len(rows), steps)
            rows.append(Row(work, n, size, sides[n][0].clock, _took(sides[n], work, size)))
    took: dict[tuple[str, int], Paired] = {}
    limits: dict[str, float] = dict.fromkeys(NUMBERS, 0.0)
    for name, size in product(_PARTS, sorted({1, frames[-1]})):
        progress("measured", len(rows) + len(took), steps)
        limits = {numbers: max(limits[numbers], matrix_limit(numbers)) for numbers in NUMBERS}
        took[name, size] = in_turns(*(side.part(name, size) for side in first), patience=_PATIENCE)
    energy, note = _energy(first, meter)
    now = stolen_seconds()
    whole = (time.perf_counter() - began) * (os.cpu_count() or 1)
    return Comparison(
        a=first[0].facts(),
        b=first[1].facts(),
        seconds=seconds,
        rows=rows,
        parts=[_part_row(*key, pair, first, limits) for key, pair in took.items()],
        matrix_limits=limits,
        streams_per_core=_streams_per_core(rows),
        energy=energy,
        energy_note=note,
        stolen=None if stolen is None or now is None else (now - stolen) / whole,
        verdict=[*verdict(rows), *([] if energy is None else [_energy_verdict(energy)])],
    )


def verdict(rows: Sequence[Row]) -> list[str]:
    """In words, a line for each thread count: clips, and the live frame."""
    said = []
    for n in dict.fromkeys(row.threads for row in rows):
        found = {(row.work, row.frames_per_call): row.took for row in rows if row.threads == n}
        texts = [found["encode", None].text("encodes", "encoding"), found["decode", None].text("decodes", "decoding")]
        if ("live", 1) in found:
            texts.append(found["live", 1].text("does a live frame", "a live frame"))
        said.append(f"{n} thread{'s' * (n > 1)}: {', '.join(texts)}")
    return said


def _energy_verdict(energy: Paired) -> str:
    interval = f"({energy.low:.2f} to {energy.high:.2f})"
    if not energy.differ:
        return f"no difference in energy {interval}"
    return f"A takes {energy.ratio:.2f} × the energy of B {interval}"


def _sides(a: Subject, b: Subject, threads: int, seconds: float) -> tuple[_Side, _Side]:
    loaded: dict[tuple[str, Device], tuple[Codec, Sessions]] = {}

    def side(subject: Subject) -> _Side:
        key = subject.bundle, subject.device
        if key not in loaded:
            bundle = read_bundle(subject.bundle)
            sessions = Sessions(bundle, subject.device, threads)
            loaded[key] = Codec(bundle, sessions), sessions
        return _Side(subject, *loaded[key], seconds)

    both = side(a), side(b)
    # Processor time: 100 ns or less on Linux and macOS, 16 ms on Windows.
    alone = threads == 1 and all(one.codec.device == "cpu" for one in both) and sys.platform in ("linux", "darwin")
    for one in both:
        one.clock = "processor" if alone else "wall"
    return both


def _took(sides: tuple[_Side, _Side], work: str, frames: int | None) -> Paired:
    works = {
        "encode": lambda side: side.encode(),
        "decode": lambda side: side.decode(),
        "live": lambda side: side.live(frames),
    }
    return in_turns(*(works[work](side) for side in sides), patience=_PATIENCE)


def _part_row(part: str, frames: int, took: Paired, sides: tuple[_Side, _Side], limits: dict[str, float]) -> PartRow:
    shares = [side.share(part, each, limits) for side, each in zip(sides, (took.a, took.b), strict=True)]
    return PartRow(part, frames, took, *shares)


def _energy(sides: tuple[_Side, _Side], meter: EnergyMeter) -> tuple[Paired | None, str | None]:
    if meter.lacks:
        return None, meter.lacks
    try:
        return in_turns(*(side.energy(meter) for side in sides), patience=_PATIENCE), None
    except (OSError, ValueError, ZeroDivisionError):
        return None, "exposed, and does not count"


def _streams_per_core(rows: Sequence[Row]) -> tuple[float, float] | None:
    for row in rows:
        if (row.work, row.threads, row.frames_per_call) == ("live", 1, 1):
            return 1 / row.took.a, 1 / row.took.b
    return None
