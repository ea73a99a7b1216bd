"""Files and folders that are replaced whole: at every instant the old or the new one is complete on the disk.

    write             .edgecodec-<12 hex of the name's SHA-256>-<number>.tmp beside it, locked while its writer lives
    flush             fsync of it, and of every file and folder in it
    file              rename over the old one
    folder            exchange with the old one where the system can (Linux, macOS), which then goes; else two renames:
                      the old one to .NAME.edgecodec-old, the new one to NAME
    flush             fsync of the folder around it

A process that is killed leaves at most the temporary one, or an old folder by its other name. The next replacement of
the same name takes the place of the one, and `settle` gives the other its name again. Only standard modules: a test
kills a process at each of these system calls.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import itertools
import os
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl

_ABANDONED = 86_400  # seconds after which a temporary one is nobody's, where there are no locks
_ATTEMPTS = 100
_OLD = ".edgecodec-old"
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS
_AT_FDCWD = -100
_AT_ONCE = ContextVar("at once", default=True)


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """The path of an empty file beside `target`, which takes its place if nothing fails; else nothing is left of it."""
    with claimed_file(target) as temporary:
        yield temporary
        put_file(temporary, target)


@contextmanager
def claimed_file(target: Path) -> Iterator[Path]:
    """The path of an empty file beside `target`, for `put_file`; nothing is left of it, or of one before it."""
    temporary, lock = _claim(target, folder=False)
    try:
        yield temporary
    finally:
        _drop(temporary, lock)


@contextmanager
def new_folder(target: Path, *, beside: Path | None = None) -> Iterator[Path]:
    """An empty folder beside `target`, which takes its place if nothing fails; else nothing is left of it.

    `beside`: a folder on the same disk to write in, where that of `target` does not exist yet.
    """
    settle(target)
    temporary, lock = _claim((beside or target.parent) / target.name, folder=True)
    try:
        yield temporary
        _flush_tree(temporary)
        target.parent.mkdir(parents=True, exist_ok=True)
        _put_folder(temporary, target)
    finally:
        _drop(temporary, lock)


@contextmanager
def flushed_later() -> Iterator[None]:
    """Files put in their places in the meantime are not waited for: whoever counts on one calls `flush` on it first."""
    before = _AT_ONCE.set(False)
    try:
        yield
    finally:
        _AT_ONCE.reset(before)


def put_file(temporary: Path, target: Path) -> None:
    """Put a finished file of the same folder in the place of another, or where none is.

    A file that is replaced leaves its mode and, where that is allowed, its owner to the new one. One with several names
    keeps them: its content is overwritten, and until that is done the new one stands by, for `finish_copy`.
    """
    try:
        before = target.stat()
    except FileNotFoundError:
        before = None
    linked = before is not None and before.st_nlink > 1
    if linked or _AT_ONCE.get():
        flush(temporary)
    if linked:
        with temporary.open("rb") as new, target.open("r+b") as old:
            _reserve(old, os.fstat(new.fileno()).st_size)
        temporary.replace(_beside(target, ".new"))
        flush(target.parent)
        finish_copy(target)
        return
    if before is not None:
        if hasattr(os, "chown"):
            with suppress(OSError):  # another's file
                os.chown(temporary, before.st_uid, before.st_gid)
        temporary.chmod(stat.S_IMODE(before.st_mode))
    temporary.replace(target)
    if _AT_ONCE.get():
        flush(target.parent)


def finish_copy(target: Path) -> None:
    """Overwrite a file of several names with the new content that stands by, if any does."""
    complete = _beside(target, ".new")
    if not complete.is_file():
        return
    if target.is_file():
        with complete.open("rb") as new, target.open("r+b") as old:
            shutil.copyfileobj(new, old)
            old.truncate()
        flush(target)
        complete.unlink()
    else:
        complete.replace(target)
    flush(target.parent)


def _reserve(file: BinaryIO, size: int) -> None:
    """See that the disk has room before anything is overwritten, where it can tell."""
    if not hasattr(os, "posix_fallocate") or not size:
        return
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise


def settle(folder: Path) -> None:
    """Give a folder its name again, where a process was killed between two renames; never fails."""
    if not folder.name:  # the current folder
        return
    old = _old(folder)
    with suppress(OSError):
        if not old.is_dir():
            return
        if folder.exists():
            shutil.rmtree(old)
        else:
            old.rename(folder)
            flush(folder.parent)


def settle_within(folder: Path) -> None:
    """`settle` for every folder in a folder."""
    for old in folder.glob(f".*{_OLD}"):
        settle(folder / old.name[1 : -len(_OLD)])


def flush(path: Path) -> None:
    """See that a file's bytes, or a folder's names, are on the disk. Not every file system can; errors of disks count.

    Windows flushes files that are open for writing only, and no folders.
    """
    windows = os.name == "nt"
    if windows and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0) if windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def _beside(target: Path, suffix: str) -> Path:
    """A name of bounded length for what stands in for `target`."""
    return target.with_name(f".edgecodec-{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:12]}{suffix}")


def _old(folder: Path) -> Path:
    """Where the old folder stands between two renames."""
    return folder.with_name(f".{folder.name}{_OLD}")


def _claim(target: Path, *, folder: bool) -> tuple[Path, int]:
    """A new temporary file or folder for `target`, and its lock, -1 where there is none."""
    for number in itertools.count():
        path = _beside(target, f"-{number}.tmp")
        while _clear(path):
            try:
                descriptor = _make(path, folder=folder)
            except FileExistsError:  # somebody else was faster
                continue
            if descriptor < 0:
                return path, descriptor
            if _lock(descriptor, wait=True) is None:
                os.close(descriptor)
                return path, -1
            if _is_open_as(path, descriptor):
                return path, descriptor
            os.close(descriptor)  # who cleared up in between took it for abandoned
    raise AssertionError("numbers do not end")


def _make(path: Path, *, folder: bool) -> int:
    if folder:
        path.mkdir()
        return os.open(path, os.O_RDONLY) if os.name != "nt" else -1
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    if os.name == "nt":  # an open file cannot be renamed there
        os.close(descriptor)
        return -1
    return descriptor


def _lock(descriptor: int, *, wait: bool) -> bool | None:
    """Whether the lock is ours now; None where there are no locks."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


def _clear(path: Path) -> bool:
    """Delete what a killed process left under a temporary name; False where it is somebody's."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return True
    descriptor = -1
    try:
        if os.name != "nt":
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        ours = _lock(descriptor, wait=False)
        if ours is False or (ours is None and time.time() - status.st_mtime < _ABANDONED):
            return False
        if ours and not _is_open_as(path, descriptor):
            return not path.exists()
        _delete(path)
    except OSError:  # a link, or what belongs to another user
        return False
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return True


def _drop(path: Path, lock: int) -> None:
    """Delete what is left under a temporary name of ours, and not what another writer has put there since."""
    with suppress(OSError):
        if lock >= 0:
            os.close(lock)
            _clear(path)
        else:
            _delete(path)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_open_as(path: Path, descriptor: int) -> bool:
    """Whether a name still stands for an open file or folder."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _flush_tree(folder: Path) -> None:
    for where, _, names in os.walk(folder, topdown=False):
        for name in names:
            if not Path(where, name).is_symlink():
                flush(Path(where, name))
        flush(Path(where))


def _put_folder(temporary: Path, target: Path) -> None:
    """Put a finished folder in the place of another, or where none is; `temporary` is the old one then, or gone."""
    if target.exists() and _exchange(temporary, target):
        flush(target.parent)
        return
    old = _old(target)
    for attempt in range(_ATTEMPTS):
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
        try:
            temporary.rename(target)
            break
        except OSError as error:  # who came in between gave the old one its name again
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or attempt + 1 == _ATTEMPTS:
                settle(target)
                raise
    flush(target.parent)
    if temporary.parent != target.parent:
        flush(temporary.parent)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change names at once, where the system can."""
    first, second = os.fsencode(one), os.fsencode(other)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            return bool(libc.renamex_np(first, second, _EXCHANGE) == 0)
        if sys.platform == "linux":
            return bool(libc.renameat2(_AT_FDCWD, first, _AT_FDCWD, second, _EXCHANGE) == 0)
    except (OSError, AttributeError, TypeError):  # a C library without it
        pass
    return False
