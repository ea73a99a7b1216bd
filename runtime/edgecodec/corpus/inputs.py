"""The files of a folder or of a list, in one order, and what each is called in what comes of it."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from ..errors import DataError, one_line


@dataclass(frozen=True)
class Input:
    """One file: where it is, and its name below the folder that all are in, with forward slashes."""

    path: str
    name: str

    def without_path(self, reason: str) -> str:
        """A reason without the path that it may begin with: what it is said of stands before it."""
        return reason.removeprefix(f"{one_line(self.path)}: ")


def is_shard(path: str) -> bool:
    """Whether an input is a tar of recordings: a file, a URL, or a command that writes one."""
    return path.startswith("pipe:") or path.partition("?")[0].endswith(".tar")


def in_folder(
    folder: str,
    suffixes: Collection[str],
    *,
    include: Collection[str] = (),
    exclude: Collection[str] = (),
    recursive: bool = True,
    without: Path | None = None,
) -> list[Input]:
    """The files of a folder by name; those whose name begins with a dot are left out, and what is no regular file.

    A folder below that cannot be read counts as a file that cannot, so that it is heard of.

    Args:
        folder: where to look.
        suffixes: of files that count.
        include: patterns as a shell has them, of whole names below the folder or of the last part: files that count,
            whatever their suffixes.
        exclude: patterns of files that do not.
        recursive: look into folders below, too; links to folders are not followed.
        without: a folder that is left out.

    Raises:
        DataError: a folder that cannot be read.
    """
    return sorted(_found(folder, suffixes, include, exclude, recursive, without), key=lambda one: one.name)


def in_list(file: str) -> list[Input]:
    """The files that a list names, one a line; `-` is standard input. Lines that are empty are passed over.

    Relative paths, without `..`, are names as they stand; others are names below the root.

    Raises:
        DataError: a list that cannot be read.
    """
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from None
    paths = [os.fsdecode(line) for line in data.splitlines() if line.strip()]
    found = {Input(path, _name_of(path)).name: Input(path, _name_of(path)) for path in paths}
    return sorted(found.values(), key=lambda one: one.name)


def _found(
    folder: str,
    suffixes: Collection[str],
    include: Collection[str],
    exclude: Collection[str],
    recursive: bool,
    without: Path | None,
) -> Iterator[Input]:
    unread: list[Path] = []

    def refused(error: OSError) -> None:
        if Path(error.filename) == Path(folder):
            raise DataError(f"{folder}: {error.strerror}") from None
        unread.append(Path(error.filename))

    left_out = None if without is None else without.resolve()
    for place, folders, files in os.walk(folder, onerror=refused):
        folders[:] = [name for name in folders if not name.startswith(".")] if recursive else []
        if left_out is not None and left_out.parent == Path(place).resolve():
            folders[:] = [name for name in folders if name != left_out.name]
        for file in files:
            path = Path(place, file)
            name = path.relative_to(folder).as_posix()
            fits = _matches(name, include) if include else path.suffix.lower() in suffixes
            if fits and not file.startswith(".") and not _matches(name, exclude) and not _is_special(path):
                yield Input(str(path), name)
    for path in unread:
        yield Input(str(path), path.relative_to(folder).as_posix())


def _is_special(path: Path) -> bool:
    """Whether it is a pipe, a socket or a device; a link to nothing is none."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _matches(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) or fnmatchcase(name.rpartition("/")[2], pattern) for pattern in patterns)


def _name_of(path: str) -> str:
    pure = PurePath(path)
    if pure.is_absolute() or ".." in pure.parts:
        pure = PurePath(os.path.abspath(path))  # noqa: PTH100  (links stay as they are named)
        pure = pure.relative_to(pure.anchor)
    return pure.as_posix()
