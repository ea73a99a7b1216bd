"""Whose stream is played: strangers knock at an open port, and one datagram is quickly forged.

    announcement -> candidate -> three packets of sound that belong together -> admitted
                                          ... unless another stream is being heard

RFC 3550 (appendix A.1) puts a source on probation until two packets came in sequence; here networks may lose some of
them and turn others round. It must also name our bundle, and its codes must be ones that the codec can have made. A
stream from which nothing comes any more makes room for one with sound: a sender that crashed and came back is another
source, and so is one whose address changed.

Who was let in may still flood. So there is an allowance for what is unpacked at all, in seconds of sound: one for the
stream that is heard, and one for all that knock.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from ..packets import SEQUENCE_MODULUS, Packet
from .rtp import Announcement, AudioDatagram
from .sockets import Address

_PROBATION = 3  # packets that belong together
_LONG, _LONG_PROBATION = 0.2, 2  # seconds; of packets that last longer, so many are enough
_NEAR = 5  # packets; those that belong together are no further apart
STALE = 1.0  # seconds without a packet, after which a stream makes room for another
_CANDIDATES = 32  # at a time: forged ones push each other out, not memory
_FASTER = 2.0  # than it plays: a network may double what it carries
_BURST, _BURST_PACKETS = 3.0, 4  # seconds that it may hold back and then bring at once; and as many packets at least


class Allowance:
    """How much sound may come: a packet beyond what a real stream can bring is not looked at."""

    def __init__(self) -> None:
        self._used, self._at = 0.0, 0.0  # seconds of sound that count still, and when that was

    def takes(self, seconds: float, now: float) -> bool:
        """Whether a packet that lasts so long is within it, and counts from now on."""
        self._used = max(0.0, self._used - _FASTER * max(0.0, now - self._at))
        self._at = now
        if self._used + seconds > max(_BURST, _BURST_PACKETS * seconds):
            return False
        self._used += seconds
        return True


@dataclass
class Candidate:
    """A source that announced itself, and its packets that belong together, with their times: they will be played."""

    announcement: Announcement
    packets: list[tuple[Packet, float]] = field(default_factory=list)

    def take(self, packet: Packet, now: float) -> bool:
        """Keep a valid packet; whether the probation is over."""
        apart = [(packet.sequence - kept.sequence + _NEAR) % SEQUENCE_MODULUS - _NEAR for kept, _ in self.packets]
        if any(distance > _NEAR for distance in apart):
            self.packets.clear()
        if all(apart):  # else it came twice
            self.packets.append((packet, now))
        long = self.announcement.packet_seconds > _LONG
        return len(self.packets) >= (_LONG_PROBATION if long else _PROBATION)


class Candidates:
    """Sources on probation, by address and stream; the one heard of longest ago goes first."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[Address, int], Candidate] = OrderedDict()

    def announce(self, announcement: Announcement, sender: Address) -> None:
        """A source that has our bundle; a second announcement that says something else begins anew."""
        key = sender, announcement.stream
        known = self._known.get(key)
        if known is None or known.announcement != announcement:
            self._known[key] = Candidate(announcement)
        self._known.move_to_end(key)
        while len(self._known) > _CANDIDATES:
            self._known.popitem(last=False)

    def of(self, datagram: AudioDatagram, sender: Address) -> Candidate | None:
        """The source of a packet, if it announced itself."""
        return self._known.get((sender, datagram.stream))

    def drop(self, sender: Address, stream: int) -> None:
        """A source that was admitted."""
        self._known.pop((sender, stream), None)
