"""Streamed shards: from real servers, in bounded memory, weighted as indexed data are, whatever is wrong with them."""

import io
import json
import logging
import re
import tarfile
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
from edgecodec.corpus.shards import MEMBER_BYTES, expand_braces, open_shard, read_samples
from edgecodec.errors import ConfigError, DataError
from edgecodec.evaluation.clips import find_clips
from edgecodec.files.tar_members import HEADER_BYTES
from edgecodec_training import stream_reader
from edgecodec_training.data import Batches, BatchSource, BatchSpec, DataConfig, Prefetched
from edgecodec_training.streamed_data import StreamedBatches, open_batches

RATE = 16_000
SPEC = BatchSpec(sample_rate=RATE, samples=4800, batch_size=4, seed=1)
PLAIN = DataConfig(shuffle_minutes=0.5, noise_chance=0.0, gain_db=(0.0, 0.0))


def audio_file(audio: np.ndarray, rate: int, kind: str = "FLAC") -> bytes:
    data = io.BytesIO()
    soundfile.write(data, audio, rate, format=kind)
    return data.getvalue()


def write_shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def level(value: float, seconds: float = 2.0) -> bytes:
    """A recording that can be told from others by its level."""
    return audio_file(np.full(round(seconds * RATE), value), RATE)


def stream(
    shards: list[str | Path], config: DataConfig = PLAIN, first_step: int = 0, **changes: int
) -> StreamedBatches:
    return StreamedBatches([str(shard) for shard in shards], config, replace(SPEC, **changes), first_step=first_step)


def levels(batches: BatchSource, count: int) -> np.ndarray:
    """The loudest sample, with its sign, of each crop of so many batches."""
    crops = np.concatenate([batches[step].heard[:, 0] for step in range(count)])
    return np.take_along_axis(crops, np.abs(crops).argmax(axis=1)[:, None], axis=1)[:, 0].round(2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six shards of five clips of real speech each, as WAV, FLAC and Ogg Vorbis, half of them with JSON."""
    folder = tmp_path_factory.mktemp("corpus")
    speech, rate = soundfile.read(Path(__file__).parents[1] / "audio" / "speech_es.flac", dtype="float32")
    for number in range(6):
        members = {}
        for i in range(5):
            kind = ("WAV", "FLAC", "OGG")[(number + i) % 3]
            start = rate * i // 2
            members[f"clips/{number}-{i}.{kind.lower()}"] = audio_file(speech[start : start + 3 * rate], rate, kind)
            if i % 2:
                note = {"seconds": 3.0, "kind": "speech", "bandwidth_hz": "8000"}
                members[f"clips/{number}-{i}.json"] = json.dumps(note).encode()
        write_shard(folder / f"shard-{number}.tar", members)
    return folder


class Server(ThreadingHTTPServer):
    """Serves a folder, notes what is asked for, and breaks off every answer after `most` bytes."""

    def __init__(self, folder: Path, *, most: int = 2**40, ranges: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.most, self.ranges = most, ranges
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted and self.server.ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : start + self.server.most])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[object]:
    servers: list[Server] = []

    def start(folder: Path, **settings: object) -> Server:
        server = Server(folder, **settings)  # type: ignore[arg-type]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_pattern_of_urls_is_streamed(corpus: Path, serve: type[Server]) -> None:
    server = serve(corpus)
    batches = open_batches(
        [server.url + "/shard-{0..5}.tar"], DataConfig(), BatchSpec(sample_rate=24_000, samples=9600, batch_size=4)
    )
    assert isinstance(batches, StreamedBatches)
    with closing(batches):
        for step in range(5):
            batch = batches[step].heard
            assert batch.shape == (4, 1, 9600) and batch.dtype == np.float32
            assert np.isfinite(batch).all() and (np.abs(batch).max(axis=2) > 0.01).all() and np.abs(batch).max() < 0.991
    assert sorted(server.asked[:6]) == [f"/shard-{i}.tar" for i in range(6)]


def test_a_broken_connection_goes_on_where_it_stopped(corpus: Path, serve: type[Server]) -> None:
    server = serve(corpus, most=100_000)
    with open_shard(f"{server.url}/shard-0.tar") as web, (corpus / "shard-0.tar").open("rb") as file:
        assert list(read_samples(web)) == list(read_samples(file))
    assert len(server.asked) > 3
    server.ranges = False
    with pytest.raises(DataError, match="cannot go on in the middle"), open_shard(f"{server.url}/shard-0.tar") as web:
        list(read_samples(web))


def test_an_object_store_is_streamed(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from moto.server import ThreadedMotoServer
    from s3fs import S3FileSystem

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        store = S3FileSystem()
        store.mkdir("speech")
        for path in corpus.iterdir():
            store.put(str(path), f"speech/{path.name}")
        remote, local = (stream(expand_braces(place + "/shard-{0..5}.tar")) for place in ("s3://speech", str(corpus)))
        with closing(remote), closing(local):
            for step in range(3):
                assert np.array_equal(remote[step], local[step])
        with closing(stream(["s3://speech/shard-9.tar"])) as missing, pytest.raises(DataError, match=r"s3://.*shard-9"):
            missing[0]
    finally:
        server.stop()


def test_commands_are_streamed_and_must_succeed(corpus: Path) -> None:
    shards = expand_braces(f"pipe:cat {corpus}/shard-{{0..5}}.tar")
    assert len(shards) == 6
    with closing(stream(shards)) as piped, closing(stream(expand_braces(f"{corpus}/shard-{{0..5}}.tar"))) as local:
        assert np.array_equal(piped[0], local[0])
    for command, message in (
        ("exit 3", "pipe:exit 3: .*status 3"),
        ("echo x", "pipe:echo x: "),
        ("cat /dev/zero", "0 clips"),
    ):
        with closing(stream([f"pipe:{command}"])) as failing, pytest.raises(DataError, match=message):
            failing[0]
    late = f"pipe:cat {corpus}/shard-0.tar; exit 3"
    with pytest.raises(OSError, match="status 3"), open_shard(late) as output:
        list(read_samples(output))


def test_memory_is_bounded(corpus: Path) -> None:
    config = DataConfig(shuffle_minutes=0.5, noise_chance=0.5)
    with closing(stream(sorted(corpus.iterdir()), config)) as batches:  # 90 seconds
        held = []
        for step in range(100):
            batches[step]
            held.append(batches.buffered_seconds)
            buffer = batches.readers[0].buffer
            assert buffer.held <= 30 * RATE
    assert max(held) <= 30.0 and np.median(held) > 10.0


def test_noise_counts_into_the_bound_and_is_mixed_in(tmp_path: Path) -> None:
    members = {f"s{i}.flac": level(0.25) for i in range(10)}
    for i in range(10):
        members |= {f"n{i}.flac": level(-0.5), f"n{i}.json": b'{"kind": "music"}'}
    shard = write_shard(tmp_path / "a.tar", members)
    config = DataConfig(
        kind_weights={"speech": 1.0},
        noise_chance=1.0,
        noise_snr_db=(6.0206, 6.0206),
        gain_db=(0.0, 0.0),
        shuffle_minutes=0.4,
        longest_seconds=2.0,
    )
    with closing(stream([shard], config)) as batches:
        middle = np.concatenate([batches[step].heard[:, 0, 2400] for step in range(50)])
        assert batches.buffered_seconds <= 24.0
        assert 1 <= len(batches.readers[0].buffer.noises) <= 2  # an eighth of 24 s
    assert (middle > 0).all()  # only speech is drawn
    assert np.median(middle) == pytest.approx(0.25 - 0.125, abs=0.02)  # with noise 6 dB below it


def test_the_order_is_that_of_the_seed(corpus: Path) -> None:
    shards: list[str | Path] = sorted(corpus.iterdir())

    def start(**changes: int) -> np.ndarray:
        config = DataConfig(shuffle_minutes=0.5, threads=changes.pop("threads", 0))
        with closing(stream(shards, config, **changes)) as batches:
            return np.stack([batches[step].heard for step in range(8)])

    assert np.array_equal(start(), start())
    assert np.array_equal(start(threads=3), start(threads=3))
    assert not np.array_equal(start(), start(seed=2))
    assert not np.array_equal(start(), start(first_step=1000))


def test_ranks_read_different_shards_and_together_all(corpus: Path, serve: type[Server]) -> None:
    parts, config = [], DataConfig(shuffle_minutes=10.0)
    for rank in range(2):
        server = serve(corpus)
        with closing(stream(expand_braces(server.url + "/shard-{0..5}.tar"), config, rank=rank, ranks=2)) as batches:
            assert batches[0].heard.shape == (2, 1, 4800)
        parts.append(server.asked[:3])
    assert sorted(parts[0] + parts[1]) == [f"/shard-{i}.tar" for i in range(6)]


def test_ranks_share_the_samples_of_shards_that_are_too_few(tmp_path: Path) -> None:
    values = [-0.8, -0.6, -0.4, -0.2, 0.2, 0.4, 0.6, 0.8]
    shard = write_shard(tmp_path / "a.tar", {f"{i}.flac": level(value) for i, value in enumerate(values)})
    parts = []
    for rank in range(2):
        with closing(stream([shard], rank=rank, ranks=2)) as batches:
            parts.append(set(levels(batches, 30)))
    assert parts == [set(np.float32(values[0::2])), set(np.float32(values[1::2]))]
    with pytest.raises(ConfigError, match="batch_size = 4 cannot be split evenly over 3"):
        stream([shard], ranks=3)


def test_clips_are_drawn_as_indexed_ones_are(tmp_path: Path) -> None:
    notes = {"full": {}, "long": {}, "narrow": {"bandwidth_hz": 4000}, "music": {"kind": "music"}, "no": {"kind": "no"}}
    values = {"full": 0.2, "long": 0.4, "narrow": 0.6, "music": 0.8, "no": -0.5}
    members = {}
    for copy in range(5):
        for name, note in notes.items():
            seconds = 8.0 if name == "long" else 2.0
            members[f"{copy}-{name}.flac"] = level(values[name], seconds)
            members[f"{copy}-{name}.json"] = json.dumps(note | {"seconds": seconds}).encode()
    shard = write_shard(tmp_path / "a.tar", members)
    config = DataConfig(
        kind_weights={"speech": 2.0, "music": 1.0},
        longest_seconds=4.0,
        noise_chance=0.0,
        gain_db=(0.0, 0.0),
        shuffle_minutes=0.5,
    )
    indexed = levels(Batches(find_clips([shard], RATE), config, SPEC), 500)
    with closing(stream([shard], config)) as batches:
        streamed = levels(batches, 500)
    expected = {"full": 4, "long": 8, "narrow": 2, "music": 2, "no": 0}  # of 16
    for name, value in values.items():
        for seen in (indexed, streamed):
            assert (seen == np.float32(value)).mean() == pytest.approx(expected[name] / 16, abs=0.04), name


def test_what_cannot_be_read_is_skipped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = {f"{i}.flac": level(0.5) for i in range(20)}
    bad = {
        "garbage.flac": b"no audio",
        "empty.wav": b"",
        "silent.wav": audio_file(np.zeros(0), RATE, "WAV"),
        "nan.wav": audio_file(np.full(800, np.nan), RATE, "WAV"),
        "wide.wav": audio_file(np.zeros((800, 17)), RATE, "WAV"),
    }
    notes = [
        b"[]",
        b"{",
        b"[" * 100_000,
        b'{"bandwidth_hz": NaN}',
        b'{"seconds": "soon"}',
        b'"' + b" " * 1_000_000 + b'"',
    ]
    for i, note in enumerate(notes):
        bad |= {f"note{i}.flac": level(-0.5), f"note{i}.json": note}
    whole = write_shard(tmp_path / "whole.tar", good | bad)
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole.read_bytes()[:3000])
    with caplog.at_level(logging.WARNING), closing(stream([whole, cut, tmp_path / "missing.tar"], seed=1)) as batches:
        assert set(levels(batches, 60)) == {np.float32(0.5)}
        reader = batches.readers[0]
        assert reader.skipped >= 13
    counts = [int(re.findall(r"skipped (\d+) unreadable", message)[0]) for message in caplog.messages]
    assert counts[:4] == [1, 2, 4, 8] and all(count & (count - 1) == 0 for count in counts)


def test_hostile_shards_cannot_fill_the_memory(tmp_path: Path) -> None:
    def sparse(path: Path, kind: bytes, size: int) -> Path:
        member = tarfile.TarInfo("huge.wav")
        member.size, member.type = size, kind
        with path.open("wb") as file:
            file.write(member.tobuf())
            file.truncate(len(member.tobuf()) + size)
            file.seek(0, io.SEEK_END)
            file.write(write_shard(tmp_path / "fine.tar", {"fine.flac": level(0.5)}).read_bytes())
        return path

    large = sparse(tmp_path / "large.tar", tarfile.REGTYPE, MEMBER_BYTES + 512)
    with large.open("rb") as file:
        assert [(s.key, bool(s.audio)) for s in read_samples(file)] == [("huge", False), ("fine", True)]
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        header = sparse(tmp_path / "header.tar", kind, 64 * HEADER_BYTES)
        with header.open("rb") as file, pytest.raises(DataError, match="tar headers of more than"):
            list(read_samples(file))
            assert file.tell() < 3 * HEADER_BYTES


def test_links_and_pickles_are_left_alone(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.tar", {"a.flac": level(0.5), "a.pickle": b"\x80\x04.", "b.pyd": b"\x80\x04."})
    with tarfile.open(shard, "a") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo("link.wav")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    with shard.open("rb") as file:
        assert [sample.key for sample in read_samples(file)] == ["a"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"a.flac": b"no audio", "b.flac": b"nor here"},
            r"gave 0 clips, and 2 could not be read, the last: .*a\.tar: b: ",
        ),
        ({"a.txt": b"text"}, "1 shards gave 0 clips"),
        ({"a.flac": level(0.5), "a.json": b'{"kind": "bell"}'}, "every clip has weight 0"),
    ],
)
def test_a_stream_that_gives_nothing_ends(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    with closing(stream([write_shard(tmp_path / "a.tar", members)])) as batches:
        for _ in range(2):
            with pytest.raises(DataError, match=message):
                batches[0]


def test_a_run_survives_shards_that_are_gone_but_not_all(
    tmp_path: Path, serve: type[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_reader, "LONGEST_PAUSE", 0.01)
    write_shard(tmp_path / "shard-11.tar", {f"{i}.flac": level(0.5) for i in range(50)})  # the first, with these seeds
    server = serve(tmp_path)
    with closing(stream(expand_braces(server.url + "/shard-{05..14}.tar"), seed=13)) as batches:
        assert set(levels(batches, 200)) == {np.float32(0.5)}
        assert batches.readers[0].skipped >= 9
    message = r"20 shards in a row gave nothing, the last: .*404"
    shards = expand_braces(server.url + "/shard-{00..39}.tar")
    with closing(stream(shards, seed=0)) as batches, pytest.raises(DataError, match=message):
        levels(batches, 200)


def test_what_cannot_be_opened_is_named(tmp_path: Path, serve: type[Server]) -> None:
    server = serve(tmp_path)
    for shard, message in (
        (f"{server.url}/missing-0.tar", r"missing-0\.tar: .*404"),
        ("http://127.0.0.1:9/a.tar", r"127\.0\.0\.1:9/a\.tar: .*refused"),
        ("nosuch://a.tar", r"nosuch://a\.tar: .*nosuch"),
        (f"file://{tmp_path}/b.tar", r"b\.tar"),
    ):
        with closing(stream([shard])) as batches, pytest.raises(DataError, match=message):
            batches[0]
    with pytest.raises(DataError, match="every clip has weight 0"):
        stream(["a.tar"], DataConfig(kind_weights={}))


def test_sources_choose_between_index_and_stream(corpus: Path, speech_folder: Path, serve: type[Server]) -> None:
    pattern = f"{corpus}/shard-{{0..5}}.tar"
    indexed = open_batches([pattern, speech_folder], DataConfig(), SPEC)
    assert isinstance(indexed, Batches) and len(indexed.clips) == 33
    ahead = open_batches([pattern], DataConfig(threads=2), replace(SPEC, rank=1, ranks=2))
    assert isinstance(ahead, Prefetched) and ahead[0].heard.shape == (2, 1, 4800)
    with pytest.raises(DataError, match=r"no such file or folder: .*shard-6\.tar"):
        open_batches([f"{corpus}/shard-{{0..6}}.tar"], DataConfig(), SPEC)
    server = serve(corpus)
    url = f"{server.url}/shard-0.tar"
    mixed = open_batches([url, pattern], PLAIN, SPEC)
    assert isinstance(mixed, StreamedBatches)
    with closing(mixed):
        assert mixed[0].heard.shape == (4, 1, 4800)
    with pytest.raises(DataError, match="only tar shards can be streamed"):
        open_batches([url, speech_folder], PLAIN, SPEC)


def test_braces_are_those_of_a_shell(tmp_path: Path) -> None:
    assert expand_braces("https://x/a-{08..11}.tar") == [f"https://x/a-{i:02d}.tar" for i in range(8, 12)]
    assert expand_braces("{a,b}/{0..1}.tar") == ["a/0.tar", "a/1.tar", "b/0.tar", "b/1.tar"]
    assert expand_braces("pipe:awk '{print}' x") == ["pipe:awk '{print}' x"]
    literal = tmp_path / "a{0,1}.tar"
    literal.touch()
    assert expand_braces(literal) == [str(literal)]
    with pytest.raises(DataError, match="brace"):
        expand_braces("shard-{0..1.tar")


def test_a_stream_that_is_dropped_stops_reading(corpus: Path) -> None:
    batches = stream(sorted(corpus.iterdir()), replace(PLAIN, threads=2))
    batches[0]
    threads = list(batches.readers)
    del batches
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
