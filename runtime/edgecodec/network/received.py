"""What a receiver tells of its stream."""

from __future__ import annotations

from dataclasses import dataclass

from ..live.meters import Percentiles
from .jitter import JitterStatistics


@dataclass(frozen=True)
class Counters:
    """Datagrams that were no packet of the stream."""

    garbage: int = 0  # nothing that we know
    foreign: int = 0  # of a stream that was not accepted
    refused: int = 0  # announcements of another bundle
    flooding: int = 0  # sound beyond what a stream can have


@dataclass(frozen=True)
class ReceiveSnapshot:
    """A stream that is received, at one moment."""

    sink: str
    sender: str | None  # None while it waits for one
    streams: int  # heard so far; what follows is of the last one
    bundle: str
    seconds: float  # of sound
    stages: int
    redundancy: int
    kbps: float  # codes alone, as received so far
    played_db: float
    packets: JitterStatistics
    recovered: int  # lost packets that their successor repeated
    datagrams: Counters
    decode: Percentiles
    packet_ms: float
    underruns: int
    notice: str | None
