"""What two machines send each other, datagram by datagram: all that is valid, and all that is not."""

from __future__ import annotations

import base64
import contextlib
import socket
import struct
import threading
from dataclasses import replace
from pathlib import Path

import edgecodec
import numpy as np
import pytest
import soundfile
from edgecodec import BitstreamError, Packet
from edgecodec.errors import NetworkError
from edgecodec.live.endpoints import FileSink
from edgecodec.network.receiver import Receiver
from edgecodec.network.rtp import Announcement, AudioDatagram, Goodbye, Report, parse
from edgecodec.network.secure import Seal, find_key
from edgecodec.network.sender import Sender
from edgecodec.network.sockets import parse_address, receiving_socket, sending_socket
from hypothesis import given, settings
from hypothesis import strategies as st
from rig import free_port, is_audio

TINY = Path(__file__).parents[1] / "runtime" / "tiny_bundle"
FACTS = Announcement(7, bytes(8), "speech", 24000, 320, 2, 10, 16)


@given(st.binary(max_size=1500))
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_something_or_refused(data: bytes) -> None:
    try:
        found = parse(data)
    except BitstreamError:
        return
    assert isinstance(found, AudioDatagram | Announcement | Report | Goodbye)
    if isinstance(found, AudioDatagram):
        with contextlib.suppress(BitstreamError):
            FACTS.packet(found)


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_a_receiver_survives_any_datagram(codec: edgecodec.Codec, data: st.DataObject) -> None:
    """Whole ones, spoiled ones and noise, in any order, from the right sender and from another."""
    m = codec.manifest
    frames = -(-8 // m.quantizer.code_bits)
    stream = Announcement.of(codec, 9, frames)
    codes = np.zeros((1, 1, frames), np.int64)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        receiver = Receiver(codec, sock, FileSink("/dev/null", codec.sample_rate))
        audio = st.integers(0, 65535).map(lambda n: stream.datagram(Packet(n, codes, codes if n % 2 else None), n))
        whole = st.one_of(
            audio,
            st.just(stream.to_bytes()),
            st.builds(lambda n: Goodbye(n).to_bytes(), st.integers(0, 2**32 - 1)),
            st.just(Report(9, 0.5, 3, 7, 9).to_bytes()),
        )
        spoiled = st.tuples(whole, st.integers(0, 60), st.integers(0, 255)).map(
            lambda t: t[0][: t[1]] + bytes([t[2]]) + t[0][t[1] + 1 :]
        )
        sent = data.draw(st.lists(st.one_of(whole, spoiled, st.binary(max_size=100)), max_size=40))
        # Replies go to port 9 of this machine, where nobody listens.
        for index, datagram in enumerate(sent):
            receiver._take_in(datagram, ("127.0.0.1", 9 if index % 5 else 10), index * 0.01)
        snapshot = receiver.snapshot()
        accounted = snapshot.packets.received + snapshot.packets.duplicates
        accounted += sum((snapshot.datagrams.garbage, snapshot.datagrams.foreign, snapshot.datagrams.refused))
        assert accounted <= len(sent)
        if receiver._heard is not None:
            assert len(receiver._heard.buffer) <= receiver._heard.buffer._capacity


def test_reports_go_on_counting_losses_after_a_jump(codec: edgecodec.Codec) -> None:
    """Three seconds in which nothing came through, and a network that loses every fifth packet before and after."""
    m = codec.manifest
    frames = -(-8 // m.quantizer.code_bits)
    stream = Announcement.of(codec, 9, frames)
    codes = np.zeros((1, 1, frames), np.int64)
    second = round(1 / stream.packet_seconds)
    numbers = [n for n in range(12 * second) if not 4 * second <= n < 7 * second]
    reports, lost = [], 0
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        receiving_socket("127.0.0.1", free_port(), 5.0) as sender,
    ):
        receiver = Receiver(codec, sock, FileSink("/dev/null", codec.sample_rate))
        receiver._take_in(stream.to_bytes(), sender.getsockname(), 0.0)
        for n in numbers:
            if n % 5 == 2:
                lost += 1
                continue
            before = receiver._heard and receiver._heard.reported
            datagram = stream.datagram(Packet(n, codes), n)
            receiver._take_in(datagram, sender.getsockname(), n * stream.packet_seconds)
            if before is not None and receiver._heard.reported != before:
                reports.append((parse(sender.recv(2048)), lost))
    assert receiver.snapshot().packets.resyncs == 1
    assert len(reports) >= 8
    for report, lost_so_far in reports:
        assert isinstance(report, Report)
        assert report.lost == pytest.approx(lost_so_far, abs=2)
    assert [report.lost_share for report, _ in reports[-3:]] == pytest.approx([0.2, 0.2, 0.2], abs=0.05)


@pytest.mark.parametrize(("stages", "redundancy"), [(1, 0), (8, 0), (8, 2), (16, 16), (3, 1)])
def test_audio_packets_say_all_in_twelve_bytes(stages: int, redundancy: int) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 1024, (1, stages, 2))
    previous = rng.integers(0, 1024, (1, redundancy, 2)) if redundancy else None
    data = FACTS.datagram(Packet(65535, codes, previous), 65535)
    assert len(data) == 12 + -(-stages * 20 // 8) + -(-redundancy * 20 // 8)
    found = parse(data)
    assert (found.stream, found.sequence, found.timestamp) == (7, 65535, 65535 * 640)
    back = FACTS.packet(found)
    assert np.array_equal(back.codes, codes)
    assert previous is None if back.previous is None else np.array_equal(back.previous, previous)


@pytest.mark.parametrize("redundancy", [0, 2])
def test_coded_packets_say_their_stages_themselves(codec: edgecodec.Codec, redundancy: int) -> None:
    stream = Announcement.of(codec, 7, 4)
    audio = soundfile.read(Path(__file__).parents[1] / "audio" / "speech_es.flac", dtype="float32")[0]
    encoder = codec.encoder_stream(stages=4, frames_per_packet=4, redundancy=redundancy, variable=True)
    coded = []
    for number, packet in enumerate(encoder.push(audio[:24000])):
        found = parse(stream.datagram(packet, number))
        coded.append(found.coded)
        assert found.redundancy == packet.repeated_stages
        back = stream.packet(found)
        assert np.array_equal(back.codes, packet.codes)
        assert packet.previous is None if back.previous is None else np.array_equal(back.previous, packet.previous)
        if found.coded:
            with pytest.raises(BitstreamError, match="coded"):
                FACTS.packet(found)
    assert sum(coded) > 0.8 * len(coded)  # all but those whose frames happen to be alike, and unlikely


def test_another_entropy_model_is_refused_by_name(codec: edgecodec.Codec) -> None:
    stream = replace(Announcement.of(codec, 7, 4), model=b"another1")
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        receiving_socket("127.0.0.1", free_port(), 5.0) as sender,
    ):
        receiver = Receiver(codec, sock, FileSink("/dev/null", codec.sample_rate))
        receiver._take_in(stream.to_bytes(), sender.getsockname(), 0.0)
        answer = parse(sender.recv(2048))
    assert isinstance(answer, Goodbye)
    assert f"entropy model {b'another1'.hex()}" in answer.reason
    assert receiver.snapshot().datagrams.refused == 1


class Door:
    """A receiver, and sources that knock at its port at times that the test says."""

    HOME = ("127.0.0.1", 9)  # a port where nobody listens for reports

    def __init__(self, codec: edgecodec.Codec, seal: Seal | None = None) -> None:
        self._codec, self._codes = codec, np.zeros((1, 1, 4), np.int64)
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.receiver = Receiver(codec, self._sock, FileSink("/dev/null", codec.sample_rate), seal=seal)

    def __enter__(self) -> Door:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def announce(self, stream: int, address: tuple = HOME, at: float = 0.0) -> None:
        self.receiver._take_in(Announcement.of(self._codec, stream, 4).to_bytes(), address, at)

    def sound(self, stream: int, numbers: list[int], address: tuple = HOME, at: float = 0.0) -> None:
        announcement = Announcement.of(self._codec, stream, 4)
        for i, n in enumerate(numbers):
            data = announcement.datagram(Packet(n % 65536, self._codes), n)
            self.receiver._take_in(data, address, at + i * announcement.packet_seconds)

    @property
    def heard(self) -> int | None:
        return self.receiver._heard and self.receiver._heard.announcement.stream


def test_nobody_is_heard_before_sound_came_in_sequence(codec: edgecodec.Codec) -> None:
    with Door(codec) as door:
        door.sound(1, [0, 1, 2, 3])  # nobody announced it
        door.announce(1)
        door.announce(2)
        door.sound(1, [7, 7, 8, 8, 90, 91, 300])
        door.sound(2, [5, 6], ("127.0.0.1", 10))  # another address than the one that announced it
        door.sound(2, [65534, 65535])
        assert door.heard is None
        assert door.receiver.snapshot().sender is None
        door.sound(2, [65535])
        assert door.heard is None
        door.sound(2, [65537])
        assert door.heard == 2
        assert door.receiver.snapshot().packets.received == 3  # those of its probation too
        door.sound(1, [13, 14, 15, 16])
        assert door.heard == 2


def test_a_stream_with_sound_replaces_a_silent_one(codec: edgecodec.Codec) -> None:
    """A sender that crashed and came back, one whose address changed, and one that sends a packet in four seconds."""
    with Door(codec) as door:
        door.announce(1)
        door.sound(1, [0, 1, 2])
        door.announce(2, at=0.2)
        door.sound(2, [0, 1, 2, 3], at=0.3)
        assert door.heard == 1
        door.sound(2, [50, 51, 52], at=2.0)
        assert door.heard == 2
        moved = ("127.0.0.1", 10)
        door.announce(2, moved, at=3.6)
        door.sound(2, [90, 91, 92], moved, at=3.7)
        assert door.receiver._heard.sender == moved
        for second in (4, 8, 12):
            door.announce(3, at=second)
            door.sound(3, [second], at=second + 0.1)
            assert door.heard == 2


def test_goodbye_is_believed_from_the_sender_alone(codec: edgecodec.Codec) -> None:
    with Door(codec) as door:
        door.announce(1)
        door.sound(1, [0, 1, 2])
        for stream, address in ((1, ("127.0.0.1", 10)), (2, Door.HOME)):
            door.receiver._take_in(Goodbye(stream).to_bytes(), address, 0.5)
            assert not door.receiver._heard.ended
        door.receiver._take_in(Goodbye(1).to_bytes(), Door.HOME, 0.5)
        assert door.receiver._heard.ended


def test_forged_announcements_take_no_memory(codec: edgecodec.Codec) -> None:
    with Door(codec) as door:
        for stream in range(2000):
            door.announce(stream, ("10.0.0.1", stream))
        assert len(door.receiver._candidates._known) <= 32
        door.announce(5000)
        door.sound(5000, [0, 1, 2])
        assert door.heard == 5000


def test_a_stream_that_was_let_in_cannot_flood(codec: edgecodec.Codec) -> None:
    """Ten thousand packets in a second are no more work than one stream; what is real then is heard."""
    with Door(codec) as door:
        door.announce(1)
        door.sound(1, [0, 1, 2])
        stream = Announcement.of(codec, 1, 4)
        looked_at, packet = [], Announcement.packet
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Announcement, "packet", lambda self, data: looked_at.append(0) or packet(self, data))
            for n in range(10_000):
                data = stream.datagram(Packet(n % 65536, np.zeros((1, 1, 4), np.int64)), n)
                door.receiver._take_in(data, Door.HOME, 1 + n / 10_000)
        assert len(looked_at) * stream.packet_seconds < 3 + 2 * 2 + 1  # a burst, and twice as much as can be played
        assert door.receiver.snapshot().datagrams.flooding == 10_000 - len(looked_at)
        before = door.receiver.snapshot().packets.received
        door.sound(1, list(range(10_000, 10_100)), at=4.0)
        assert door.receiver.snapshot().packets.received + door.receiver.snapshot().packets.late >= before + 98


def test_those_who_knock_share_an_allowance_of_their_own(codec: edgecodec.Codec) -> None:
    with Door(codec) as door:
        door.announce(1)
        door.sound(1, [0, 1, 2])
        for stream in range(2, 30):
            door.announce(stream, at=5.0)
        for i in range(200):
            for stream in range(2, 30):  # numbers that never belong together
                door.sound(stream, [i * 50], at=5 + i / 1000)
        flooding = door.receiver.snapshot().datagrams.flooding
        assert flooding > 4000
        door.sound(1, [3, 4, 5], at=5.2)
        assert door.heard == 1 and door.receiver.snapshot().datagrams.flooding == flooding
        door.announce(77, at=30.0)
        door.sound(77, [0, 1, 2], at=30.0)
        assert door.heard == 77


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
def test_no_real_network_exceeds_the_allowance(codec: edgecodec.Codec, times: int) -> None:
    """Every packet comes twice; or two seconds are held back, and come at once."""
    with Door(codec) as door:
        stream = Announcement.of(codec, 1, 4)
        door.announce(1)
        second = round(1 / stream.packet_seconds)
        for n in range(20 * second):
            at = n * stream.packet_seconds
            for _ in range(times):
                door.sound(1, [n], at=8.0 if times == 1 and 6 < at < 8 else at)
        found = door.receiver.snapshot()
    assert found.datagrams.flooding == 0
    assert found.packets.received + found.packets.late >= 20 * second


def sealed_stream(codec: edgecodec.Codec, seal: Seal) -> list[bytes]:
    """An announcement and four packets, as they go over the wire."""
    stream = Announcement.of(codec, 77, 4)
    sound = [stream.datagram(Packet(n, np.zeros((1, 1, 4), np.int64)), n) for n in range(4)]
    return [seal.close(data) for data in (stream.to_bytes(), *sound)]


def test_with_a_key_nothing_else_comes_in(codec: edgecodec.Codec) -> None:
    key = bytes(range(30))
    wire = sealed_stream(codec, Seal(key))
    open_stream = Announcement.of(codec, 5, 4)
    with Door(codec, Seal(key)) as door:
        door.announce(5)
        door.sound(5, [0, 1, 2, 3])  # nobody sealed them
        strangers = sealed_stream(codec, Seal(bytes(30)))
        spoiled = [data[:-1] + bytes([data[-1] ^ 1]) for data in wire]
        short = [data[:9] for data in wire]
        for data in (*strangers, *spoiled, *short, b"", b"x", open_stream.to_bytes()):
            door.receiver._take_in(data, Door.HOME, 0.0)
        assert door.heard is None
        assert door.receiver.snapshot().datagrams.garbage == 5 + 5 + 5 + 5 + 3
        for _ in range(2):  # and each counts once
            for data in wire:
                door.receiver._take_in(data, Door.HOME, 0.0)
        assert door.heard == 77
        assert door.receiver.snapshot().packets.received == 4
        assert door.receiver.snapshot().packets.duplicates == 0
        door.receiver._take_in(Goodbye(77).to_bytes(), Door.HOME, 0.1)
        assert not door.receiver._heard.ended


def test_nothing_sealed_shows_what_it_holds(codec: edgecodec.Codec) -> None:
    plain = Announcement.of(codec, 77, 4).to_bytes()
    sealed = Seal(bytes(range(30))).close(plain)
    assert codec.fingerprint in plain
    assert codec.fingerprint not in sealed
    assert len(sealed) == len(plain) + 14


@pytest.mark.parametrize(
    "text", ["", "secret", "ff" * 29, base64.b64encode(bytes(31)).decode(), "zz" * 30, "\u00e9" * 40, "ff" * 9000]
)
def test_what_is_no_key_is_refused_and_never_shown(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    monkeypatch.setenv("EDGECODEC_KEY", text)
    for where in (path, None):
        with pytest.raises(NetworkError, match="30 random bytes") as caught:
            find_key(where)
        assert not text or text not in str(caught.value)
    with pytest.raises(NetworkError, match="No such file"):
        find_key(tmp_path / "none")


def test_keys_of_files_and_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = bytes(range(30))
    monkeypatch.delenv("EDGECODEC_KEY", raising=False)
    assert find_key(None) is None
    for text in (key.hex(), base64.b64encode(key).decode() + "\n"):
        (tmp_path / "key").write_text(text)
        assert find_key(tmp_path / "key") == key
        monkeypatch.setenv("EDGECODEC_KEY", text)
        assert find_key(None) == key


def test_announcements_of_versions_without_an_entropy_model() -> None:
    data = FACTS.to_bytes()
    body = data[8 : 30 + len(FACTS.bundle)]  # what follows is the model, and padding
    body += bytes(-len(body) % 4)
    assert parse(data[:2] + struct.pack(">H", 1 + len(body) // 4) + data[4:8] + body) == FACTS


class Silence:
    """A microphone that has as much silence as is wanted at once."""

    name, is_device, overruns, resampling = "silence", True, 0, 0.0

    def start(self) -> None:
        pass

    def read(self) -> np.ndarray:
        return np.zeros(1 << 16, np.float32)


class Heads:
    """A socket that keeps the first bytes of what is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.sent.append(data[:12])

    def recv(self, _: int) -> bytes:
        raise BlockingIOError


def test_timestamps_go_on_where_sequences_wrap() -> None:
    """65 536 packets of 16 samples and more."""
    codec, sock = edgecodec.load(TINY), Heads()
    seconds = 65_600 * 2 * codec.frame_size / codec.sample_rate
    Sender(codec, Silence(), sock, "nowhere", stages=1, frames_per_packet=2, seconds=seconds).run(threading.Event())
    heads = [struct.unpack(">BBHII", head) for head in sock.sent if is_audio(head)]
    assert [head[2] for head in heads] == [n % 65536 for n in range(len(heads))]
    assert [head[3] for head in heads] == [n * 2 * codec.frame_size for n in range(len(heads))]
    assert len(heads) > 65_590


def test_timestamps_wrap_at_their_own_size() -> None:
    codes = np.zeros((1, 1, 2), np.int64)
    assert parse(FACTS.datagram(Packet(5, codes), 6_710_887)).timestamp == 6_710_887 * 640 - 2**32


def test_packets_that_no_path_carries_whole_are_refused(codec: edgecodec.Codec) -> None:
    with pytest.raises(edgecodec.BitrateError, match="1200"):
        Announcement(1, bytes(8), "x", 24000, 320, 100, 10, 16).datagram(Packet(0, np.zeros((1, 16, 100), np.int64)), 0)
    with pytest.raises(edgecodec.BitrateError, match="4 frames or more"):
        Announcement(1, bytes(8), "x", 8000, 16, 1, 2, 4)


def test_control_packets_come_back_as_they_were() -> None:
    for what in (FACTS, Report(7, 0.25, 12, 65540, 33), Goodbye(7), Goodbye(7, "another bundle")):
        data = what.to_bytes()
        assert len(data) % 4 == 0
        assert parse(data) == what


def test_addresses() -> None:
    assert parse_address("host") == ("host", 5004)
    assert parse_address("host:7") == ("host", 7)
    assert parse_address("::1") == ("::1", 5004)
    assert parse_address("[::1]:7") == ("::1", 7)
    assert parse_address("[::1]") == ("::1", 5004)
    for wrong in ("", "host:", "host:none", "host:70000", "[::1]7", ":7"):
        with pytest.raises(NetworkError, match=r"not HOST, HOST:PORT or \[IPV6\]:PORT"):
            parse_address(wrong)
    with receiving_socket("127.0.0.1", free_port(), 0.1) as sock, pytest.raises(NetworkError, match="in use"):
        receiving_socket("127.0.0.1", sock.getsockname()[1], 0.1)
    with pytest.raises(NetworkError, match=r"no\.such\.host\.invalid"):
        sending_socket("no.such.host.invalid", 5004)
