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
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..codebook_use import CodebookCounts, CodebookUse
from ..durable import claimed_file, new_file
from ..errors import EdgecodecError, reason_of
from ..progress import Progress, silent
from . import pool
from .code_shards import write_index
from .journal import Journal, Source, open_journal
from .tasks import Result, Task, identity

MANIFEST, FAILURES = "manifest.csv", "failures.csv"

Note = Callable[[str, str], None]
"""Told a file's name, and what the user should hear of it."""

Outcomes = Generator["pool.Outcome[Task, Result]", None, None]
Runner = Callable[["pool.Work[Task, Result]", Iterator[Task]], Outcomes]
"""Does tasks: the processes of `pool.run`, or a cluster. Closing it ends them."""


@dataclass(frozen=True)
class Job:
    """Results to make in a folder."""

    work: pool.Work[Task, Result]
    tasks: Sequence[Task]
    folder: Path
    settings: Mapping[str, Any]  # all that makes a result what it is, but for its inputs
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
    codes: CodebookCounts | None = None  # of what was encoded

    @property
    def speed(self) -> float:
        """Seconds of audio per second."""
        return self.seconds / self.elapsed if self.elapsed else 0.0

    @property
    def stage_use(self) -> list[CodebookUse]:
        """How the codebooks were used by what was encoded."""
        return self.codes.use() if self.codes is not None else []

    def count(self, codes: CodebookCounts | None) -> None:
        """Count the codes of one more result."""
        if self.codes is None or codes is None:
            self.codes = self.codes or codes
        else:
            self.codes.join(codes)

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
            "stage_use": self.codes.as_data() if self.codes is not None else [],
            "failures": self.failures,
        }


@dataclass(frozen=True)
class Plan:
    """What a job will do."""

    todo: Sequence[Task]
    kept: Mapping[str, Result]  # by task: what was done before
    refused: Mapping[str, str]  # by input


def plan(job: Job, journal: Journal) -> Plan:
    """What is to be done, what is done, and what cannot be."""
    todo, kept, refused = [], {}, {}
    for task in job.tasks:
        result = journal.result_of(task.name, identity(task.inputs))
        if result is not None:
            kept[task.name] = result
        elif not job.force and not journal.is_ours(task.name) and _is_there(task.target):
            reason = f"{task.name} exists, and was not made so; -f replaces it"
            refused.update({one.name: reason for one in task.inputs})
        else:
            todo.append(task)
    return Plan(todo, kept, refused)


def run(job: Job, *, runner: Runner, note: Note, progress: Progress = silent) -> Summary:
    """Do what is to be done; manifest and failures are written at the end, also where the job is interrupted.

    Raises:
        EdgecodecError: a folder that cannot be written or in which another job is at work.
    """
    start, summary = time.perf_counter(), Summary(files=sum(len(task.inputs) for task in job.tasks))
    with open_journal(job.folder, settings_of(job)) as journal:
        planned = plan(job, journal)
        results = dict(planned.kept)
        summary.failures = dict(planned.refused)
        for known in planned.kept.values():
            summary.kept += len(known.rows)
            summary.failures |= known.failures
        sources: dict[str, Source] = {}

        def begun() -> Iterator[Task]:
            for task in planned.todo:
                try:
                    Path(task.target).parent.mkdir(parents=True, exist_ok=True)
                except OSError as error:
                    summary.failures |= {one.name: reason_of(error) for one in task.inputs}
                    continue
                sources[task.name] = identity(task.inputs)
                journal.begin(task.name)
                yield task

        try:
            with closing(runner(job.work, begun())) as outcomes:
                for outcome in outcomes:
                    task, result = outcome.task, outcome.result
                    if result is None:
                        reason = outcome.failure or "failed"
                        result = Result((), {one.name: one.without_path(reason) for one in task.inputs})
                    else:
                        journal.end(task.name, sources[task.name], result)
                        results[task.name] = result
                        summary.made += len(result.rows)
                        summary.seconds += sum(row["seconds"] for row in result.rows)
                        summary.bytes += Path(task.target).stat().st_size
                        summary.count(result.use)
                    summary.failures |= result.failures
                    for name, texts in [*result.notes.items(), *((n, (f,)) for n, f in result.failures.items())]:
                        for text in texts:
                            note(name, text)
                    summary.elapsed = time.perf_counter() - start
                    finished = summary.made + summary.kept + len(summary.failures)
                    progress(f"files ({summary.speed:.0f} × real time)", min(finished, summary.files), summary.files)
        finally:
            summary.elapsed = time.perf_counter() - start
            _clear([task for task in planned.todo if task.name in sources and task.name not in results])
            _write_tables(job.folder, results, summary.failures)
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


def _write_tables(folder: Path, results: Mapping[str, Result], failures: Mapping[str, str]) -> None:
    rows = [{"name": row["name"], "target": name, **row} for name, result in results.items() for row in result.rows]
    if any(name.endswith(".tar") for name in results):
        write_index(folder, results)
    write_table(folder / MANIFEST, sorted(rows, key=lambda row: (row["name"], row["target"])))
    write_table(folder / FAILURES, [{"name": name, "reason": reason} for name, reason in sorted(failures.items())])


def _clear(tasks: Iterable[Task]) -> None:
    """Remove what workers left that were killed."""
    for task in tasks:
        target = Path(task.target)
        if target.parent.is_dir():
            with suppress(OSError), claimed_file(target):
                pass


def _is_there(target: str) -> bool:
    try:
        return os.path.lexists(target)
    except (OSError, ValueError):
        return False
