"""One command over many files: what is to be done, what was done before, who does the rest, and what came of it.

    inputs  ->  plan: done | to do  ->  workers  ->  journal  ->  manifest.csv, failures.csv

A job that is ended, however suddenly, goes on where it stopped: results are whole or not there, and the journal knows
which are. What one file cannot give does not stop the others.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..durable import claimed_file, new_file
from ..errors import EdgecodecError, one_line
from ..progress import Progress, silent
from . import pool
from .files import FileResult, FileTask
from .inputs import Input
from .journal import Journal, identity, open_journal

MANIFEST, FAILURES = "manifest.csv", "failures.csv"

Note = Callable[[str, str], None]
"""Told a file's name, and what the user should hear of it."""

Outcomes = Generator["pool.Outcome[FileTask, FileResult]", None, None]
Runner = Callable[["pool.Work[FileTask, FileResult]", Iterator[FileTask]], Outcomes]
"""Does tasks: the processes of `pool.run`, or a cluster. Closing it ends them."""


@dataclass(frozen=True)
class Job:
    """Results to make in a folder, one of each input."""

    work: pool.Work[FileTask, FileResult]
    inputs: Sequence[Input]
    targets: Sequence[str]  # below the folder
    folder: Path
    settings: Mapping[str, Any]  # all that makes a result what it is, but for its input
    force: bool = False  # replace files that no job has made


@dataclass
class Summary:
    """What a job did."""

    files: int = 0  # in all
    made: int = 0
    kept: int = 0  # from an earlier run
    seconds: float = 0.0  # of audio, of what was made
    elapsed: float = 0.0
    bytes: int = 0  # of what was made
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def speed(self) -> float:
        """Seconds of audio per second."""
        return self.seconds / self.elapsed if self.elapsed else 0.0

    def as_data(self) -> dict[str, Any]:
        """The numbers, for JSON."""
        return {
            "files": self.files,
            "made": self.made,
            "kept": self.kept,
            "failed": len(self.failures),
            "hours": self.seconds / 3600,
            "elapsed_seconds": self.elapsed,
            "speed": self.speed,
            "bytes": self.bytes,
            "kbps": self.bytes * 8 / self.seconds / 1000 if self.seconds else None,
            "failures": self.failures,
        }


def plan(job: Job, journal: Journal) -> tuple[list[FileTask], dict[str, dict[str, Any]], dict[str, str]]:
    """What is to be done, the rows of what is done, and why some of it cannot be; each by name."""
    todo, rows, failures = [], {}, {}
    for one, target in zip(job.inputs, job.targets, strict=True):
        path = job.folder / target
        try:
            row = journal.row_of(target, identity(one.path))
            there = path.exists() or path.is_symlink()
        except (OSError, ValueError) as error:
            failures[one.name] = one_line(getattr(error, "strerror", None) or error)
            continue
        if row is not None:
            rows[one.name] = row
        elif there and not job.force and not journal.is_ours(target):
            failures[one.name] = f"{target} exists, and was not made so; -f replaces it"
        else:
            todo.append(FileTask(one.path, one.name, str(path)))
    return todo, rows, failures


def run(job: Job, *, runner: Runner, note: Note, progress: Progress = silent) -> Summary:
    """Do what is to be done; manifest and failures are written at the end, also where the job is interrupted.

    Raises:
        EdgecodecError: a folder that cannot be written or in which another job is at work.
    """
    start, summary = time.perf_counter(), Summary(files=len(job.inputs))
    target_of = {one.name: target for one, target in zip(job.inputs, job.targets, strict=True)}
    with open_journal(job.folder, settings_of(job)) as journal:
        todo, rows, summary.failures = plan(job, journal)
        summary.kept = len(rows)
        sources: dict[str, list[int]] = {}

        def begun() -> Iterator[FileTask]:
            for task in todo:
                try:
                    sources[task.name] = identity(task.source)
                    Path(task.target).parent.mkdir(parents=True, exist_ok=True)
                except OSError as error:
                    summary.failures[task.name] = one_line(error.strerror or error)
                    continue
                journal.begin(target_of[task.name])
                yield task

        try:
            with closing(runner(job.work, begun())) as outcomes:
                for outcome in outcomes:
                    task, done = outcome.task, outcome.result
                    target = target_of[task.name]
                    if done is None:
                        reason = (outcome.failure or "failed").removeprefix(f"{one_line(task.source)}: ")
                        summary.failures[task.name] = reason
                        note(task.name, reason)
                    else:
                        rows[task.name] = {"target": target, **done.row}
                        journal.end(target, sources[task.name], rows[task.name])
                        summary.made += 1
                        summary.seconds += done.row["seconds"]
                        summary.bytes += Path(task.target).stat().st_size
                        for text in done.notes:
                            note(task.name, text)
                    summary.elapsed = time.perf_counter() - start
                    finished = summary.made + summary.kept + len(summary.failures)
                    progress(f"files ({summary.speed:.0f} × real time)", finished, summary.files)
        finally:
            summary.elapsed = time.perf_counter() - start
            summary.failures |= {name: str(row["damage"]) for name, row in rows.items() if row.get("damage")}
            _clear(job, journal, todo, rows)
            write_table(job.folder / MANIFEST, [{"name": name, **rows[name]} for name in sorted(rows)])
            write_table(
                job.folder / FAILURES,
                [{"name": name, "reason": reason} for name, reason in sorted(summary.failures.items())],
            )
    return summary


def settings_of(job: Job) -> str:
    """A short name of all that makes a result what it is, but for its input."""
    return hashlib.sha256(json.dumps(job.settings, sort_keys=True).encode()).hexdigest()[:16]


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, whole or not at all; without rows, none is there. Names may be bytes that are no UTF-8."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    try:
        with new_file(path) as temporary:
            temporary.write_bytes(text.getvalue().encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise EdgecodecError(f"{path}: {error.strerror}") from None


def _clear(job: Job, journal: Journal, todo: Sequence[FileTask], rows: Mapping[str, Any]) -> None:
    """Remove what workers left that were killed."""
    for task in todo:
        target = Path(task.target)
        if (
            task.name not in rows
            and journal.is_ours(target.relative_to(job.folder).as_posix())
            and target.parent.is_dir()
        ):
            try:
                with claimed_file(target):
                    pass
            except OSError:
                continue
