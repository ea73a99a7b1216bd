"""Sudden death: a process is killed at every system call of a replacement, and the old or the new is whole."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest
from edgecodec import durable
from edgecodec.durable import claimed_file, finish_copy, new_file, new_folder, settle, settle_within
from edgecodec.errors import EdgecodecError
from edgecodec.files.output import open_output
from replaced import MARK, NEW

OLD = b"old"
CALLS = (
    "access,faccessat,faccessat2,openat,read,write,close,newfstatat,mkdir,rename,renameat,renameat2,unlink,unlinkat,"
    "rmdir,fsync,ftruncate,fallocate,flock,chmod,chown,lseek,copy_file_range,sendfile,ioctl"
)


def begin(folder: Path, kind: str) -> Path:
    """A folder with an old target in it, and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    target = folder / "target"
    if kind == "folder":
        target.mkdir()
        for name in ("a", "b"):
            (target / name).write_bytes(OLD)
    else:
        target.write_bytes(OLD)
    if kind == "links":
        (folder / "other").hardlink_to(target)
    return target


def traced(folder: Path, target: Path, kind: str, plain: bool, *options: str) -> list[str]:
    """The system calls of a replacement in a process of its own, as strace writes them, one file a process."""
    script = Path(__file__).with_name("replaced.py")
    logs = folder.parent / "strace"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir()
    command = [sys.executable, "-I", "-S", script, durable.__file__, kind, target, *(["plain"] if plain else [])]
    strace = ["env", "--ignore-signal=USR1", "strace", "-ff", "-o", logs / "calls", "-e", f"trace={CALLS}", *options]
    subprocess.run([*strace, *command], check=False, capture_output=True)
    (lines,) = (lines for log in logs.iterdir() if MARK in (lines := log.read_text()))
    return lines.splitlines()


def content(target: Path, kind: str) -> bytes:
    """What stands at the target; all of it is of one kind."""
    if kind != "folder":
        return target.read_bytes()
    contents = {path.read_bytes() for path in target.iterdir()}
    assert len(list(target.iterdir())) == 2 and len(contents) == 1
    return contents.pop()


@pytest.mark.parametrize(
    ("kind", "plain"), [("file", False), ("links", False), ("folder", False), ("folder", True)]
)  # fmt: skip
def test_a_kill_at_every_system_call(need, tmp_path: Path, kind: str, plain: bool) -> None:
    need(lambda: which("strace") is not None, "strace")
    folder = tmp_path / "work"
    target = begin(folder, kind)
    calls = traced(folder, target, kind, plain)
    first, last = (number for number, line in enumerate(calls, start=1) if MARK in line)
    assert content(target, kind) == NEW and len(list(folder.iterdir())) == 1 + (kind == "links")
    found = []
    names = [line.partition("(")[0] for line in calls]
    for number in range(first, last):
        target = begin(folder, kind)
        one = f"inject={names[number]}:signal=USR1:when={names[: number + 1].count(names[number])}"  # counted by name
        killed = traced(folder, target, kind, plain, "-e", one)
        assert "killed by SIGUSR1" in killed[-1], (calls[number], killed[-1])
        if plain and not target.exists():
            settle(target)
        try:
            assert content(target, kind) in (OLD, NEW)
        except AssertionError:
            assert kind == "links"  # the new one stands by whole
            finish_copy(target)
        found.append(content(target, kind))
        with new_folder(target) if kind == "folder" else claimed_file(target) as partial:  # the next run clears up
            for name in ("a", "b") if kind == "folder" else ():
                (partial / name).write_bytes(OLD)
        if kind == "links":
            finish_copy(target)
            assert content(target, kind) == (folder / "other").read_bytes()
        assert len(list(folder.iterdir())) == 1 + (kind == "links"), (number, list(folder.iterdir()))
    assert len(found) > 15 and found[0] == OLD and found[-1] == NEW  # the kills came before and after


@pytest.mark.parametrize("kind", ["file", "links", "folder"])
def test_everything_is_on_the_disk_before_it_has_its_name(need, tmp_path: Path, kind: str) -> None:
    need(lambda: which("strace") is not None, "strace")
    target = begin(tmp_path / "work", kind)
    lines = traced(tmp_path / "work", target, kind, False, "-y")
    renamed = next(number for number, line in enumerate(lines) if line.startswith("rename"))
    flushed = [line for line in lines[:renamed] if line.startswith("fsync")]
    wanted = ("/a>", "/b>", ".tmp>") if kind == "folder" else (".tmp>",)
    assert all(any(name in line for line in flushed) for name in wanted), flushed
    assert any(line.startswith("fsync") and f"{target.parent}>" in line for line in lines[renamed:])


def test_what_a_living_writer_holds_stays(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with new_file(target) as one:
        one.write_bytes(b"one")
        with new_file(target) as other:
            assert other != one and one.exists()
            other.write_bytes(b"other")
        assert target.read_bytes() == b"other"
    assert target.read_bytes() == b"one" and list(tmp_path.iterdir()) == [target]


def test_a_temporary_name_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(OLD)
    with claimed_file(tmp_path / "target") as temporary:
        name = temporary.name
    (tmp_path / name).symlink_to(tmp_path / "precious")
    with new_file(tmp_path / "target") as temporary:
        temporary.write_bytes(NEW)
    assert (tmp_path / "precious").read_bytes() == OLD and (tmp_path / "target").read_bytes() == NEW


def test_folders_that_lost_their_names_get_them_again(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f".{name}.edgecodec-old").mkdir()
    (tmp_path / "two").mkdir()
    settle_within(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    settle(Path())  # the current folder has no name


def test_a_file_that_fails_leaves_nothing(tmp_path: Path) -> None:
    for error in (EdgecodecError, KeyboardInterrupt):
        with pytest.raises(error), new_file(tmp_path / "target") as temporary:
            temporary.write_bytes(NEW)
            raise error
        with pytest.raises(error), new_folder(tmp_path / "target") as folder:
            (folder / "a").write_bytes(NEW)
            raise error
    assert not list(tmp_path.iterdir())


def test_output_takes_the_place_of_what_a_killed_run_left(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from edgecodec.files.output import open_output\n"
        "with open_output(sys.argv[1]) as output:\n"
        "    output.file.write(b'half'); output.file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    target = tmp_path / "out.edgc"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code, str(target)], check=False)
        [left] = tmp_path.iterdir()
        assert left.name.endswith("-0.tmp")
    with open_output(str(target)) as output:
        output.file.write(NEW)
    assert target.read_bytes() == NEW and list(tmp_path.iterdir()) == [target]


def test_without_locks_only_what_is_old_is_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "_lock", lambda descriptor, wait: None)
    with claimed_file(tmp_path / "target") as temporary:
        pass
    for age, number in itertools.product((0, 90_000), (1,)):
        temporary.write_bytes(OLD)
        os.utime(temporary, (1e9, temporary.stat().st_mtime - age))
        with new_file(tmp_path / "target") as mine:
            assert (mine == temporary) == (age > 0), number
        assert temporary.exists() == (age == 0)
