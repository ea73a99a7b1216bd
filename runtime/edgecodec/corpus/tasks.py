"""What a worker is given and gives back: files that become one file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from ..codebook_use import CodebookCounts
from ..errors import EdgecodecError
from .inputs import Input

_SHORT_BYTES = 1 << 18  # a minute of MP3 at 32 kbps, six minutes of .edgc

Row = dict[str, Any]
"""Facts about what was made of one input, for the manifest; all have `name`, `seconds`, `channels` and `samples`."""


@dataclass(frozen=True)
class Task:
    """Make the file `target`, a path, of these inputs. `name` is what it is called below the folder of the results."""

    name: str
    target: str
    inputs: tuple[Input, ...]


@dataclass(frozen=True)
class Result:
    """What was made of the inputs of a task, and why nothing of others; notes for the user, by input."""

    rows: Sequence[Row]
    failures: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    use: CodebookCounts | None = None  # of codebooks, by what was encoded


def one_each(inputs: Sequence[Input], folder: Path, suffix: str) -> list[Task]:
    """A task for each input: its name with another suffix, added where two would be called the same.

    Raises:
        EdgecodecError: two results of one name.
    """
    short = [str(PurePath(one.name).with_suffix(suffix)) for one in inputs]
    often = Counter(short)
    names = [one.name + suffix if often[name] > 1 else name for one, name in zip(inputs, short, strict=True)]
    twice = next((name for name, number in Counter(names).items() if number > 1), None)
    if twice is not None:
        raise EdgecodecError(f"two files would become {twice}")
    return [Task(name, str(folder / name), (one,)) for one, name in zip(inputs, names, strict=True)]


def grouped(inputs: Sequence[Input], folder: Path, form: str, most_bytes: int) -> list[Task]:
    """A task for as many inputs in a row as have so many bytes together; `form` makes a name of its number."""
    groups: list[list[Input]] = []
    room = 0
    for one, ((size, _),) in ((one, identity([one])) for one in inputs):
        if not groups or size > room:
            groups.append([])
            room = most_bytes
        groups[-1].append(one)
        room -= max(size, 0)
    names = [form.format(number) for number in range(len(groups))]
    return [Task(name, str(folder / name), tuple(group)) for name, group in zip(names, groups, strict=True)]


def identity(inputs: Iterable[Input]) -> list[list[int]]:
    """What tells that inputs are the same as before: of each its size and the time of its last change, in ns.

    Of one that is not there, or is no file, nothing is known.
    """
    found = []
    for one in inputs:
        try:
            status = Path(one.path).stat()
            found.append([status.st_size, status.st_mtime_ns])
        except (OSError, ValueError):
            found.append([-1, -1])
    return found


def is_short(task: Task) -> bool:
    """Whether a task is done within some seconds, by the size of its inputs; where none is known it may take long."""
    sizes = [size for size, _ in identity(task.inputs)]
    return min(sizes, default=-1) >= 0 and sum(sizes) <= _SHORT_BYTES


def shard_each(shards: Sequence[Input], folder: Path, suffix: str) -> list[Task]:
    """A task for each shard that goes in; what comes out has its last name."""
    last = [Input(one.path, PurePath(one.name.partition("?")[0]).name) for one in shards]
    return one_each(last, folder, suffix)
