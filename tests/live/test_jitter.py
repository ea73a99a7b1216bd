"""The jitter buffer on networks made of numbers: jitter, loss, reordering, duplicates, drift, silence and jumps."""

from __future__ import annotations

import numpy as np
import pytest
from edgecodec import Packet
from edgecodec.network.jitter import MAX_TARGET, JitterBuffer

T = 0.02  # seconds per packet


def packet(sequence: int, *, redundant: bool = False) -> Packet:
    codes = np.full((1, 1, 1), sequence)
    return Packet(sequence % 65536, codes, codes if redundant else None)


def play(arrivals: list[tuple[float, int]], turns: int, pace: float = T, **options) -> tuple[JitterBuffer, list]:
    """Feed packets (time, number) and take a turn every `pace` seconds; the buffer and (kind, number) per turn."""
    buffer, waiting, story = JitterBuffer(T), sorted(arrivals, key=lambda arrival: arrival[0]), []
    for turn in range(turns):
        now = turn * pace
        while waiting and waiting[0][0] <= now:
            at, number = waiting.pop(0)
            buffer.put(packet(number, **options), at)
        taken = buffer.take(now)
        story.append((taken.kind, None if taken.packet is None else int(taken.packet.codes[0, 0, 0])))
    return buffer, story


def test_a_perfect_network_is_played_in_order_and_soon() -> None:
    buffer, story = play([(0.1 + T * i, i) for i in range(200)], 150)
    assert [number for kind, number in story if kind == "play"] == list(
        range(len([1 for k, _ in story if k == "play"]))
    )
    assert {kind for kind, _ in story} == {"wait", "play"}
    s = buffer.statistics
    assert s.lost == s.late == s.held == s.skipped == 0
    assert s.delay_ms < 60


def test_jitter_and_reordering_within_the_target_lose_nothing_and_more_jitter_means_more_delay() -> None:
    delays = []
    for jitter in (0.005, 0.03, 0.08):
        rng = np.random.default_rng(1)
        arrivals = [(0.1 + T * i + jitter * rng.random(), i) for i in range(2000)]
        buffer, story = play(arrivals, 1950)
        played = [number for kind, number in story if kind in ("play", "skip")]
        assert played == sorted(played)
        s = buffer.statistics
        assert s.lost + s.late <= 0.03 * 2000
        delays.append(s.delay_ms)
        assert s.target_ms <= 1000 * jitter + 30
    assert delays == sorted(delays)


def test_duplicates_are_counted_and_played_once() -> None:
    arrivals = [(0.1 + T * i + extra, i) for i in range(300) for extra in (0, 0.001, 0.3)]
    buffer, story = play(arrivals, 250)
    played = [number for kind, number in story if kind == "play"]
    assert played == sorted(set(played))
    assert buffer.statistics.duplicates >= 2 * 230
    assert buffer.statistics.late == 0


def test_losses_are_concealed_in_place_and_recovered_when_the_next_is_there() -> None:
    lost = set(range(50, 1000, 10))
    arrivals = [(0.1 + T * i, i) for i in range(1000) if i not in lost]
    buffer = JitterBuffer(T)
    with_following = total = 0
    for turn in range(900):
        while arrivals and arrivals[0][0] <= turn * T:
            at, number = arrivals.pop(0)
            buffer.put(packet(number, redundant=True), at)
        taken = buffer.take(turn * T)
        if taken.kind == "lost":
            total += 1
            with_following += taken.following is not None
    assert total >= 80
    assert with_following >= 0.95 * total
    s = buffer.statistics
    assert s.held <= 1
    assert s.skipped == 0
    assert buffer.expected == s.received + len([i for i in lost if i <= buffer.highest])


@pytest.mark.parametrize("ppm", [-2000, -300, 300, 2000])
def test_drifting_clocks_neither_grow_nor_starve_it(ppm: int) -> None:
    """Almost three minutes in which the receiver's clock is slow or fast; a bad sound card is off by 300 ppm."""
    rng = np.random.default_rng(2)
    turns = 8000
    arrivals = [(0.1 + T * i + 0.005 * rng.random(), i) for i in range(turns)]
    buffer, waiting, delays = JitterBuffer(T), arrivals, []
    at = 0
    for turn in range(turns - 200):
        now = turn * T * (1 + ppm / 1e6)
        while at < turns and waiting[at][0] <= now:
            buffer.put(packet(waiting[at][1]), waiting[at][0])
            at += 1
        buffer.take(now)
        delays.append(buffer.statistics.delay_ms)
        assert len(buffer) < 10
    s = buffer.statistics
    slips = abs(ppm) / 1e6 * turns
    assert abs((s.skipped if ppm > 0 else s.held) - slips) <= 4
    assert (s.held if ppm > 0 else s.skipped) <= 2
    assert s.lost + s.late <= 0.01 * turns
    assert max(delays[100:]) < 100


def test_a_network_that_becomes_slower_and_faster_again() -> None:
    def transit(i: int) -> float:
        return 0.25 if 1000 <= i < 2000 else 0.05

    buffer, story = play([(0.1 + T * i + transit(i), i) for i in range(3000)], 2900)
    s = buffer.statistics
    assert s.lost < 30
    assert [kind for kind, _ in story[-500:]].count("play") > 490  # and it has settled
    assert s.delay_ms < 80


def test_the_target_and_the_memory_are_bounded() -> None:
    rng = np.random.default_rng(3)
    buffer = JitterBuffer(T)
    for i in range(20_000):  # nobody plays, and packets come from anywhere
        buffer.put(packet(int(rng.integers(0, 65536)) if i % 2 else i), rng.random() * 100)
        assert len(buffer) <= 101
    assert buffer.statistics.target_ms <= 1000 * MAX_TARGET + 30
    for turn in range(1000):
        buffer.take(100 + turn * T)
    assert len(buffer) == 0


@pytest.mark.parametrize("jump", [40_000, 25_000, 150], ids=["back", "ahead", "ahead by three seconds"])
def test_a_jump_is_a_new_start(jump: int) -> None:
    """Sequences go round at 65536, so that 40 000 ahead are 25 536 back."""
    arrivals = [(0.1 + T * i, i if i < 100 else jump + i) for i in range(300)]
    buffer, story = play(arrivals, 290)
    s = buffer.statistics
    assert (s.resyncs, s.late) == (1, 0)
    assert s.lost * T <= 0.2  # while it is not clear yet
    heard = [number for _, number in story if number is not None]
    assert heard[:101] == [*range(100), jump + 100]  # nothing is missing
    assert heard[-1] > jump + 250


@pytest.mark.parametrize("first", [0, 65_500], ids=["", "where sequences wrap"])
@pytest.mark.parametrize(
    "late", [[100], list(range(100, 120)), [100, 140, 180]], ids=["one", "a burst", "here and there"]
)
def test_packets_that_come_seconds_late_disturb_nothing(first: int, late: list[int]) -> None:
    arrivals = [(0.1 + T * i + (3 if i in late else 0), first + i) for i in range(400)]
    buffer, story = play(arrivals, 390)
    s = buffer.statistics
    assert (s.resyncs, s.lost, s.late) == (0, len(late), len(late))
    turns = [kind for kind, _ in story][[kind for kind, _ in story].index("play") :]
    assert turns.count("lost") == len(late)
    assert set(turns) <= {"play", "lost", "hold", "skip"}
    assert turns.count("hold") <= 1  # the end of a burst, where nothing at all is there
    assert buffer.expected == s.received  # for all came in the end


def test_one_packet_from_far_ahead_disturbs_nothing() -> None:
    arrivals = [(0.1 + T * i, i) for i in range(300)] + [(2.105, 9000), (2.106, 9000), (4.105, 30_000)]
    buffer, story = play(arrivals, 290)
    s = buffer.statistics
    assert (s.resyncs, s.lost, s.held, s.duplicates, s.late) == (0, 0, 0, 1, 2)
    assert {kind for kind, _ in story} == {"wait", "play"}


def test_losses_before_and_after_a_jump_are_all_counted() -> None:
    lost = {*range(20, 100, 10), *range(125, 300, 10)}
    arrivals = [(0.1 + T * i, i if i < 100 else 20_000 + i) for i in range(300) if i not in lost]
    buffer, _ = play(arrivals, 400)
    assert buffer.statistics.resyncs == 1
    assert buffer.expected - buffer.statistics.received == len(lost)


def test_sequences_wrap() -> None:
    buffer, story = play([(0.1 + T * i, 65_500 + i) for i in range(100)], 100)
    assert [number for kind, number in story if kind == "play"][:50] == list(range(65_500, 65_550))
    assert buffer.statistics.lost == 0
