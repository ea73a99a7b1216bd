"""The jitter buffer: packets as a network delivers them, in the order and at the pace of a loudspeaker.

It knows no clock and no socket: both ends of it are told the time. Per packet it compares

    transit   arrival - sequence * duration: its least value of late is the network at its best (`base`)
    target    how much later than that packets should be played: nearly all of the recent ones are there by then
    delay     how much later the packet that is due would be played, were it played now

and once the difference has held for a while, puts one packet's time of concealment in (delay too short: jitter grew, or
the receiver's clock is fast) or leaves one packet out, blended into the next (delay too long: jitter fell, or the
sender's clock is fast). So drift of the clocks never lets it grow or starve.

A packet whose sequence is far from all others is a stray, held back until others show what it is: late by more than the
buffer holds, if packets near the old sequence go on coming; else the first of a new start (RFC 3550, appendix A.1).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..packets import SEQUENCE_MODULUS, Packet

MAX_TARGET = 0.3  # seconds
_LONGEST = 2.0  # seconds of packets that it holds; a packet that is further from the others is a stray
_PROBATION = 0.2  # seconds for which strays from before the others must come alone; of later ones two are enough
_WINDOW = 5.0  # seconds of arrivals that it looks back on
_SHARE = 98  # percent of packets that should be there in their turn
_MARGIN = 0.008  # seconds on top: arrival and playing are no exact clocks either
_SETTLE = 1.0  # seconds for which a delay must have been wrong
_SEEN = 1024  # sequences by which a duplicate is told from a late packet


@dataclass(frozen=True)
class Turn:
    """What to play now: `packet`; concealment (recovered from `following` where that is there); or silence (wait).

    skip: decode `packet` and `following`, and play both in the time of one.
    """

    kind: Literal["wait", "play", "lost", "hold", "skip"]
    packet: Packet | None = None
    following: Packet | None = None


@dataclass(frozen=True)
class JitterStatistics:
    """Packets by what became of them, and times in milliseconds."""

    received: int
    lost: int  # not there in their turn
    late: int  # came after their turn, or as a stray
    duplicates: int
    held: int  # turns put in to play later
    skipped: int  # packets left out to play earlier
    resyncs: int  # jumps in the sequence, taken as a new start: what is between is not lost
    jitter_ms: float  # mean deviation (RFC 3550, 6.4.1)
    target_ms: float
    delay_ms: float


class JitterBuffer:
    """Bounded: never more than `_LONGEST` seconds of packets.

    Args:
        duration: seconds per packet.
    """

    def __init__(self, duration: float) -> None:
        self._duration = duration
        self._capacity = math.ceil(_LONGEST / duration)
        self._packets: dict[int, Packet] = {}
        self._transits: deque[float] = deque(maxlen=max(32, math.ceil(_WINDOW / duration)))
        self._delays: deque[float] = deque(maxlen=max(4, math.ceil(_SETTLE / duration)))
        self._seen: deque[int] = deque(maxlen=_SEEN)
        self._strays: deque[tuple[Packet, float]] = deque(maxlen=self._capacity)
        self._highest: int | None = None  # sequence with its cycles
        self._first = 0  # since the last new start
        self._before = 0  # packets that were sent before that
        self._due: int | None = None
        self._base = 0.0
        self._ahead = 0.0  # so much later, that the packet after a lost one is there to recover it
        self._target = duration + _MARGIN
        self._last_transit: float | None = None
        self._jitter = self._delay = 0.0
        self._received = self._lost = self._late = self._duplicates = self._held = self._skipped = self._resyncs = 0

    def __len__(self) -> int:
        return len(self._packets)

    @property
    def highest(self) -> int:
        """The highest sequence received, with its cycles; -1 before the first."""
        return -1 if self._highest is None else self._highest

    @property
    def expected(self) -> int:
        """Packets sent since the first, as far as known; a jump in the sequence counts as none."""
        return self._before + (0 if self._highest is None else self._highest - self._first + 1)

    @property
    def statistics(self) -> JitterStatistics:
        """What became of the packets."""
        return JitterStatistics(
            received=self._received,
            lost=self._lost,
            late=self._late,
            duplicates=self._duplicates,
            held=self._held,
            skipped=self._skipped,
            resyncs=self._resyncs,
            jitter_ms=1000 * self._jitter,
            target_ms=1000 * self._target,
            delay_ms=1000 * self._delay,
        )

    def put(self, packet: Packet, now: float) -> None:
        """A packet has arrived; `now` in seconds of any steady clock, the same as in `take`."""
        number = self._unwrapped(packet.sequence)
        if number in self._seen:
            self._duplicates += 1
        elif self._highest is not None and abs(number - self._highest) > self._capacity:
            self._put_stray(packet, now, ahead=number > self._highest)
        else:
            self._drop_strays()
            self._admit(packet, number, now)

    def take(self, now: float) -> Turn:
        """What to play next; call it once per packet's duration."""
        if self._due is None:
            if not self._packets:
                return Turn("wait")
            first = min(self._packets)
            if now < self._base + first * self._duration + self._target:
                return Turn("wait")
            self._due = first
        self._delay = now - self._base - self._due * self._duration
        self._delays.append(self._delay)
        packet, following = self._packets.get(self._due), self._packets.get(self._due + 1)
        settled = len(self._delays) == self._delays.maxlen
        if settled and max(self._delays) < self._target - self._duration:
            return self._hold()
        if packet is None and not self._packets and self._delay < self._target:
            return self._hold()
        too_late = settled and min(self._delays) > self._target + self._duration
        if packet is not None and following is not None and too_late:
            self._packets.pop(self._due)
            self._packets.pop(self._due + 1)
            self._due += 2
            self._skipped += 1
            self._delays.clear()
            return Turn("skip", packet, following)
        self._due += 1
        if packet is None:
            self._lost += 1
            return Turn("lost", None, following)
        self._packets.pop(self._due - 1)
        return Turn("play", packet, following)

    def _admit(self, packet: Packet, number: int, now: float) -> None:
        self._seen.append(number)
        self._received += 1
        self._ahead = self._duration if packet.previous is not None else 0.0
        if self._highest is None:
            self._highest = self._first = number
        self._highest = max(self._highest, number)
        self._measure(number, now)
        if self._due is not None and number < self._due:
            self._late += 1
            return
        self._packets[number] = packet
        while len(self._packets) > self._capacity:
            self._packets.pop(min(self._packets))
            self._due = min(self._packets)

    def _put_stray(self, packet: Packet, now: float, *, ahead: bool) -> None:
        """Hold back a packet that is far from all others, and start anew with it and its like once that is clear."""
        if self._strays:
            distances = [_distance(packet.sequence, stray.sequence) for stray, _ in self._strays]
            if not all(distances):
                self._duplicates += 1
                return
            if abs(distances[-1]) > self._capacity:
                self._drop_strays()
        self._strays.append((packet, now))
        if len(self._strays) < 2 or not (ahead or now - self._strays[0][1] >= _PROBATION):
            return
        self._restart()
        for stray, arrived in self._strays:
            self._admit(stray, self._unwrapped(stray.sequence), arrived)
        self._strays.clear()

    def _drop_strays(self) -> None:
        self._received += len(self._strays)
        self._late += len(self._strays)
        self._strays.clear()

    def _hold(self) -> Turn:
        self._held += 1
        self._delays.clear()
        return Turn("hold")

    def _restart(self) -> None:
        self._before = self.expected
        self._packets.clear()
        self._transits.clear()
        self._delays.clear()
        self._seen.clear()
        self._highest = self._due = self._last_transit = None
        self._resyncs += 1

    def _unwrapped(self, sequence: int) -> int:
        return sequence if self._highest is None else self._highest + _distance(sequence, self._highest)

    def _measure(self, number: int, now: float) -> None:
        transit = now - number * self._duration
        if self._last_transit is not None:
            self._jitter += (abs(transit - self._last_transit) - self._jitter) / 16
        self._last_transit = transit
        self._transits.append(transit)
        self._base = min(self._transits)
        spread = float(np.percentile(self._transits, _SHARE)) - self._base
        self._target = min(MAX_TARGET, max(spread, self._duration / 2) + _MARGIN + self._ahead)


def _distance(sequence: int, other: int) -> int:
    """By how much `sequence` is after `other`, which may have cycles: the way around is the shorter one."""
    half = SEQUENCE_MODULUS // 2
    return (sequence - other + half) % SEQUENCE_MODULUS - half
