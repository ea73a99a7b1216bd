"""Two machines on one: sender and receiver over loopback, with loss, disorder and garbage in between."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import edgecodec
import numpy as np
import pytest
import soundfile
from edgecodec.live.endpoints import FileSink, FileSource
from edgecodec.live.priority import realtime_priority
from edgecodec.network.receiver import Receiver
from edgecodec.network.rtp import MAX_DATAGRAM, Announcement, Goodbye, parse
from edgecodec.network.sender import Sender
from edgecodec.network.sockets import receiving_socket, sending_socket
from rig import free_port, is_audio, matched, speech


class Pair:
    """A sender of speech.wav and a receiver into out.wav, with `network` (data, index) -> datagrams in between."""

    def __init__(self, codec: edgecodec.Codec, folder: Path, seconds: float, **options) -> None:
        self.codec, self.folder, self.options = codec, folder, options
        speech(folder / "speech.wav", seconds, codec.sample_rate)
        self.audio = soundfile.read(folder / "speech.wav", dtype="float32")[0]

    def run(
        self,
        network: Callable[[bytes, int], list[bytes]] = lambda data, _: [data],
        cue: Callable[[Sender], None] = lambda _: None,
    ) -> tuple[dict, np.ndarray]:
        """Both snapshots as {"sent": …, "received": …}, and what came out."""
        codec, sock = self.codec, receiving_socket("127.0.0.1", free_port(), 0.1)
        relay = Relay(sock.getsockname(), network)
        source = FileSource(str(self.folder / "speech.wav"), codec.sample_rate, codec.frame_size)
        sink = FileSink(str(self.folder / "out.wav"), codec.sample_rate, force=True)
        options = {"stages": codec.max_stages} | self.options
        out = sending_socket(*relay.address)
        sender = Sender(codec, source, out, "relay", **options)
        receiver = Receiver(codec, sock, sink)
        threads = [threading.Thread(target=worker.run, args=(threading.Event(),)) for worker in (receiver, sender)]
        with relay, sock, out:
            with realtime_priority():  # as where there are devices: packets come in time on a busy machine, too
                for thread in threads:
                    thread.start()
            cue(sender)
            for thread in threads:
                thread.join(60)
                assert not thread.is_alive()
        source.close()
        sink.close()
        played, _ = soundfile.read(self.folder / "out.wav", dtype="float32")
        return {"sent": sender.snapshot(), "received": receiver.snapshot()}, played


class Relay:
    """A network: passes datagrams on, as `network` says, and replies back."""

    def __init__(self, target: tuple, network: Callable[[bytes, int], list[bytes]]) -> None:
        self._inside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._inside.bind(("127.0.0.1", 0))
        self._outside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._outside.connect(target)
        self._network, self._sender, self._done = network, None, False
        self.address = self._inside.getsockname()
        self._threads = [threading.Thread(target=side) for side in (self._forth, self._back)]

    def __enter__(self) -> Relay:
        for sock in (self._inside, self._outside):
            sock.settimeout(0.05)
        with realtime_priority():
            for thread in self._threads:
                thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done = True
        for thread in self._threads:
            thread.join()
        self._inside.close()
        self._outside.close()

    def _forth(self) -> None:
        index = 0
        while not self._done:
            try:
                data, self._sender = self._inside.recvfrom(4096)
            except OSError:
                continue
            for passed in self._network(data, index):
                with contextlib.suppress(ConnectionRefusedError):  # the receiver has left after the first goodbye
                    self._outside.send(passed)
            index += 1

    def _back(self) -> None:
        while not self._done:
            try:
                reply = self._outside.recv(4096)
            except OSError:
                continue
            self._inside.sendto(reply, self._sender)


def test_speech_arrives_as_the_offline_codec_makes_it(codec: edgecodec.Codec, tmp_path: Path) -> None:
    pair = Pair(codec, tmp_path, 3)
    found, played = pair.run()
    sent, received = found["sent"], found["received"]
    assert received.packets.received == sent.packets
    assert received.packets.lost <= 2
    assert received.datagrams.garbage == received.datagrams.foreign == 0
    assert sent.largest < MAX_DATAGRAM
    assert sent.reports >= 2
    assert sent.lost == 0
    offline = codec.decode(codec.encode(pair.audio, stages=codec.max_stages), samples=len(pair.audio))[0, 0]
    assert matched(offline, played, codec.sample_rate) >= 0.95


def test_loss_is_counted_on_both_sides_and_recovered_by_redundancy(codec: edgecodec.Codec, tmp_path: Path) -> None:
    dropped = []

    def lossy(data: bytes, index: int) -> list[bytes]:
        if is_audio(data) and index % 10 == 9:
            dropped.append(index)
            return []
        return [data]

    found, _ = Pair(codec, tmp_path, 3, redundancy=2).run(lossy)
    received = found["received"]
    assert received.packets.received == found["sent"].packets - len(dropped)
    gone = received.packets.lost - received.packets.late  # what a busy machine holds up counts as both
    assert gone == pytest.approx(len(dropped), abs=3)
    assert received.recovered >= 0.8 * len(dropped)
    assert found["sent"].lost >= 0.6 * len(dropped)  # as of the last report
    assert found["sent"].lost_share == pytest.approx(0.1, abs=0.06)


def test_disorder_and_duplicates(codec: edgecodec.Codec, tmp_path: Path) -> None:
    held: list[bytes] = []

    def disorder(data: bytes, index: int) -> list[bytes]:
        if not is_audio(data):
            return [data]
        if index % 7 == 3 and not held:
            held.append(data)
            return []
        passed = [data, data, *held]
        held.clear()
        return passed

    pair = Pair(codec, tmp_path, 3)
    found, played = pair.run(disorder)
    packets = found["received"].packets
    assert packets.duplicates >= 0.8 * packets.received
    assert packets.received >= found["sent"].packets - 1
    assert packets.lost <= 0.05 * packets.received
    offline = codec.decode(codec.encode(pair.audio, stages=codec.max_stages), samples=len(pair.audio))[0, 0]
    assert matched(offline, played, codec.sample_rate) >= 0.9


def test_garbage_in_between_changes_nothing(codec: edgecodec.Codec, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    injected = []

    def noisy(data: bytes, index: int) -> list[bytes]:
        junk = [rng.bytes(int(rng.integers(0, 1500))), data[: len(data) // 2], b"", data[:1] + b"\xff" + data[2:]]
        injected.append(len(junk))
        return [*junk, data, Goodbye(12345).to_bytes()]

    pair = Pair(codec, tmp_path, 3)
    found, played = pair.run(noisy)
    packets, others = found["received"].packets, found["received"].datagrams
    assert packets.received == found["sent"].packets
    assert packets.resyncs == 0
    assert others.garbage + others.foreign >= sum(injected) - 5 * 5  # the first come before there is a stream
    offline = codec.decode(codec.encode(pair.audio, stages=codec.max_stages), samples=len(pair.audio))[0, 0]
    assert matched(offline, played, codec.sample_rate) >= 0.95


def test_the_bitrate_changes_on_the_run(codec: edgecodec.Codec, tmp_path: Path) -> None:
    counts: set[int] = set()
    stream = Announcement.of(codec, 0, 2)

    def network(data: bytes, index: int) -> list[bytes]:
        if is_audio(data):
            counts.add(stream.packet(parse(data)).stages)
        return [data]

    def cue(sender: Sender) -> None:
        for stages in (2, 1, 1000, -5):
            time.sleep(0.5)
            sender.stages = stages
        assert sender.stages == 1

    found, _ = Pair(codec, tmp_path, 3).run(network, cue)
    assert counts == {1, 2, codec.max_stages}
    assert found["received"].stages == 1
    assert found["received"].datagrams.garbage == 0
    assert found["received"].packets.received == found["sent"].packets


def test_a_variable_rate_that_repeats(codec: edgecodec.Codec, tmp_path: Path) -> None:
    """Coded packets of frames of unequal stage counts, one in eight lost."""
    coded: list[bool] = []

    def lossy(data: bytes, index: int) -> list[bytes]:
        if not is_audio(data):
            return [data]
        coded.append(parse(data).coded)
        return [] if len(coded) % 8 == 3 else [data]

    pair = Pair(codec, tmp_path, 6, stages=4, frames_per_packet=4, redundancy=2, variable=True)
    found, played = pair.run(lossy)
    sent, received = found["sent"], found["received"]
    assert sum(coded) > 0.8 * len(coded)
    assert received.datagrams.garbage == received.datagrams.foreign == 0
    assert received.recovered >= 0.8 * len(coded) / 8 - 1
    assert received.redundancy in (1, 2)
    assert 2.7 <= sent.kbps <= 4.4  # 3 of its own, and what repeats; 4.5 at fixed width
    assert received.kbps == pytest.approx(sent.kbps, rel=0.1)
    offline = codec.decode(codec.encode(pair.audio, stages=4), samples=len(pair.audio))[0, 0]
    assert matched(offline, played, codec.sample_rate) >= 0.6  # other codes, and losses


def test_a_codec_that_looks_ahead(tmp_path: Path) -> None:
    """Stereo codes with lines beside the stages, one packet in eight lost: every packet is answered in its turn."""
    codec = edgecodec.load(Path(__file__).parents[1] / "runtime" / "wide_bundle")
    pair = Pair(codec, tmp_path, 2.0, redundancy=2)
    snapshots, played = pair.run(lambda data, index: [] if is_audio(data) and index % 8 == 3 else [data])
    received = snapshots["received"]
    assert received.stages == codec.max_stages
    assert received.redundancy == 2
    assert received.recovered > 5
    expected = codec.decode(codec.encode(pair.audio, stages=codec.max_stages), samples=len(pair.audio))[0, 0]
    spectrum = np.fft.rfft(played, 1 << 16) * np.fft.rfft(expected, 1 << 16).conj()
    at = int(np.fft.irfft(spectrum).argmax())  # the receiver waits for what may come late
    heard = played[at : at + len(expected)]
    assert len(heard) > 0.9 * len(expected)
    assert np.corrcoef(heard, expected[: len(heard)])[0, 1] > 0.5  # what was recovered is coarser


@pytest.mark.parametrize("goodbye", [True, False], ids=["goodbye", "silence"])
def test_who_stays_hears_the_next_stream(codec: edgecodec.Codec, tmp_path: Path, goodbye: bool, monkeypatch) -> None:
    """Two senders one after the other, over real sockets; the first says goodbye, or dies."""
    monkeypatch.setattr("edgecodec.network.receiver._SILENT", 1.0)
    port, seconds = free_port(), 1.5
    speech(tmp_path / "speech.wav", seconds, codec.sample_rate)
    sock = receiving_socket("127.0.0.1", port, 0.1)
    sink = FileSink(str(tmp_path / "out.wav"), codec.sample_rate, force=True)
    receiver, stop, waited = Receiver(codec, sock, sink, stay=True), threading.Event(), []
    with sock:
        thread = threading.Thread(target=receiver.run, args=(stop,))
        thread.start()
        for streams in (1, 2):
            source = FileSource(str(tmp_path / "speech.wav"), codec.sample_rate, codec.frame_size)
            with sending_socket("127.0.0.1", port) as out:
                held = out if goodbye else Mute(out)
                Sender(codec, source, held, "here", stages=codec.max_stages).run(threading.Event())
            source.close()
            until(lambda number=streams: receiver.snapshot().streams == number)
            until(lambda: receiver.snapshot().sender is None)
            waited.append(receiver.snapshot())
            assert thread.is_alive()
        stop.set()
        thread.join(30)
        assert not thread.is_alive()
    sink.close()
    assert [found.streams for found in waited] == [1, 2]
    assert all(found.packets.received > 0.9 * seconds / (found.packet_ms / 1000) for found in waited)
    assert 2 * 0.9 * seconds < soundfile.info(tmp_path / "out.wav").duration < 2 * seconds + 4


class Mute:
    """A socket that says no goodbye."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def send(self, data: bytes) -> int:
        return len(data) if isinstance(parse(data), Goodbye) else self._sock.send(data)

    def __getattr__(self, name: str) -> object:
        return getattr(self._sock, name)


def until(true: Callable[[], bool]) -> None:
    limit = time.monotonic() + 30
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.02)
