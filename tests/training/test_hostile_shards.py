"""Tar archives of strangers: what honest programs write is read, and the rest is refused at once."""

from __future__ import annotations

import io
import tarfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from edgecodec.corpus.shards import read_samples
from edgecodec.errors import DataError
from edgecodec.evaluation.clips import find_clips
from edgecodec.files.tar_members import HEADER_BYTES, MOST_BYTES, TarReader

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus" / "shard"


def archive(members: list[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT, **headers: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format, pax_headers=headers) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def read(data: bytes, *, seekable: bool = False) -> list[tuple[str, bytes]]:
    tar = TarReader(io.BytesIO(data), seekable=seekable)
    return [(member.name, tar.content(member, member.size)) for member in tar]


MEMBERS = [
    ("a.flac", b"abc"), ("empty.wav", b""), ("e" * 150 + "/" + "d" * 150 + ".wav", b"x" * 512), ("é/ü.json", b"{}"),
    ("d" * 90 + "/" + "e" * 60, b"y" * 1025),
]  # fmt: skip


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("seekable", [False, True])
def test_what_tar_programs_write_is_read(format: int, seekable: bool) -> None:
    assert read(archive(MEMBERS, format), seekable=seekable) == MEMBERS
    assert read(archive(MEMBERS, tarfile.PAX_FORMAT, comment="x" * 80_000), seekable=seekable) == MEMBERS


def test_offsets_are_those_of_the_bytes() -> None:
    data = archive([("large.wav", bytes(1 << 20)), *MEMBERS])
    for seekable in (False, True):
        found = {m.name: data[m.offset : m.offset + m.size] for m in TarReader(io.BytesIO(data), seekable=seekable)}
        assert found == {"large.wav": bytes(1 << 20)} | dict(MEMBERS)


def header(size: bytes, kind: bytes = b"0", name: bytes = b"a.wav") -> bytes:
    head = bytearray(name.ljust(124, b"\0") + size.ljust(12, b"\0") + bytes(20) + kind).ljust(512, b"\0")
    head[148:156] = b"%06o\0 " % (sum(head) + 8 * 32)
    return bytes(head)


BAD = {
    "empty": b"", "short": bytes(100), "text": b"x" * 1024, "gzip": b"\x1f\x8b" + bytes(2000),
    "2 ** 60": header(b"\x80\0\0\0" + (1 << 60).to_bytes(8, "big")), "below zero": header(b"\xff" * 11 + b"\0"),
    "no number": header(b"9999"), "a little too large": header(b"\x80\0\0\0" + (MOST_BYTES + 1).to_bytes(8, "big")),
    "a cut member": header(b"1000") + bytes(100), "a cut header": header(b"0") + b"x" * 100,
    "long names": header(b"%o" % (HEADER_BYTES + 1), b"L") + bytes(HEADER_BYTES + 512),
    "headers in a row": (header(b"0", b"L") * 50) + header(b"0"),
    "pax length": header(b"20", b"x") + b"99 path=x\n".ljust(512, b"\0"),
    "pax zero": header(b"20", b"x") + b"0 path=abcdefgh\n".ljust(512, b"\0"),
    "pax size": header(b"13", b"x") + b"11 size=-1\n".ljust(512, b"\0") + header(b"0"),
    "pax large": header(b"33", b"x") + b"27 size=9999999999999999999\n"[:27].ljust(512, b"\0") + header(b"0"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("seekable", [False, True])
def test_others_are_refused(what: str, seekable: bool) -> None:
    with pytest.raises(DataError) as refusal:
        read(BAD[what], seekable=seekable)
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize("case", sorted(CORPUS.glob("*tar*")), ids=lambda path: path.name)
def test_files_that_once_hung(case: Path) -> None:
    begun = time.process_time()
    with pytest.raises(DataError), case.open("rb") as file:
        list(read_samples(file))
    with pytest.raises(DataError):
        find_clips([case.parent / case.name], 16_000)
    assert time.process_time() - begun < 2


def test_many_pax_keys_take_no_time() -> None:
    data = archive([("a.wav", b"x")], **{f"k{i}": "v" * 8 for i in range(4000)})
    begun = time.process_time()
    assert read(data) == [("a.wav", b"x")]
    assert time.process_time() - begun < 1


def test_links_are_passed_over_however_many(tmp_path: Path) -> None:
    kinds = (b"1", b"2", b"3", b"5", b"6")
    data = b"".join(header(b"7777", kind) for kind in kinds * 20) + archive([("b.wav", b"x")])
    assert read(data) == [("b.wav", b"x")]
    with tarfile.open(tmp_path / "loop.tar", "w") as tar:
        for name in ("a.json", "b.json"):  # extracting either of them never ended
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.LNKTYPE, "b.json" if name == "a.json" else "a.json"
            tar.addfile(member)
    with pytest.raises(DataError, match="no audio"):
        find_clips([tmp_path / "loop.tar"], 16_000)


def test_compressed_shards_are_refused_before_they_are_inflated(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bomb.tar", "w:gz") as tar:
        member = tarfile.TarInfo("a.json")
        member.size = 64 << 20
        tar.addfile(member, io.BytesIO(bytes(member.size)))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"bomb\.tar: compressed: shards are plain tar files"):
        find_clips([tmp_path / "bomb.tar"], 16_000)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_indexed_shards_are_decoded_from_their_offsets(tmp_path: Path) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.full(16_000, 0.25), 16_000, format="WAV")
    (tmp_path / "a.tar").write_bytes(archive([("x.json", b"{}"), ("x.wav", file.getvalue())]))
    [clip] = find_clips([tmp_path], 16_000)
    assert clip.read(16_000).mean() == pytest.approx(0.25, abs=1e-3)
