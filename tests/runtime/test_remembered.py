"""Keys that the user's cache folder remembers, and that nothing goes wrong without it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from edgecodec.remembered import Remembered, cache_folder, key_of

pytestmark = pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the folder is moved by XDG_CACHE_HOME")
KEYS = [key_of(str(i)) for i in range(6)]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edgecodec" / "found"


def test_the_newest_are_kept_and_bounded(file: Path) -> None:
    found = Remembered("found", 4)
    assert KEYS[0] not in found and not file.exists()
    for key in (*KEYS, KEYS[3]):
        found.add(key)
    assert [key in Remembered("found", 4) for key in KEYS] == [False, False, True, True, True, True]
    assert len(file.read_text().splitlines()) == 5
    assert [path.name for path in file.parent.iterdir()] == ["found"]
    assert file.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "spoilt",
    [b"", b"\xff\xfe", b"edgecodec remembers 2\n", "cut", "long", "line", "folder", "pipe"],
    ids=str,
)
def test_a_damaged_file_holds_nothing_and_is_made_anew(file: Path, spoilt: bytes | str) -> None:
    found = Remembered("found", 4)
    found.add(KEYS[0])
    data = file.read_bytes()
    if spoilt == "folder":
        file.unlink()
        file.mkdir()
    elif spoilt == "pipe":
        file.unlink()
        os.mkfifo(file)
    else:
        kinds = {"cut": data[:-9], "long": data + data.splitlines(True)[1] * 9, "line": data + b"x" * 64 + b"\n"}
        file.write_bytes(spoilt if isinstance(spoilt, bytes) else kinds[spoilt])
    assert KEYS[0] not in found
    found.add(KEYS[1])
    assert (KEYS[1] in found) == (spoilt != "folder")  # which nothing replaces


def test_a_folder_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = Remembered("found")
    found.add(KEYS[0])
    assert KEYS[0] not in found
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which says nothing
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "edgecodec"


def test_what_belongs_to_somebody_else(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Remembered("found")
    found.add(KEYS[0])
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    assert cache_folder() is None and KEYS[0] not in found
    found.add(KEYS[1])
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(file.parents[1]))
    assert KEYS[0] in found and KEYS[1] not in found


def test_keys_of_other_parts_differ() -> None:
    assert len({key_of("ab", "c"), key_of("a", "bc"), key_of("abc"), key_of(b"ab", "c", "")}) == 4
    assert key_of("é", b"\0") == key_of("é".encode(), "\0")
