"""What `encode`, `decode` and `codes` do with folders and lists of files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .options import say
from .progress import progress_display

if TYPE_CHECKING:
    from ..corpus.files import FileResult, FileTask
    from ..corpus.inputs import Input
    from ..corpus.job import Summary
    from ..corpus.pool import Work

_SOME_FAILED = 3  # exit code: the other results are there


@dataclass(frozen=True)
class Many:
    """What the options say about many files."""

    source: str
    folder: str
    listed: str | None
    recursive: bool
    include: Sequence[str]
    exclude: Sequence[str]
    workers: int | None
    dry_run: bool
    force: bool
    as_json: bool

    @classmethod
    def of(
        cls,
        source: str,
        target: str | None,
        *,
        listed: str | None,
        recursive: bool,
        include: Sequence[str] | None,
        exclude: Sequence[str] | None,
        workers: int | None,
        dry_run: bool,
        force: bool,
        as_json: bool,
    ) -> Many | None:
        """None where one file is meant."""
        if listed is not None:
            if target is not None:
                raise typer.BadParameter("give OUT only: the list names what goes in", param_hint="--list")
            return cls(source, source, listed, True, include or (), exclude or (), workers, dry_run, force, as_json)
        if target is None:
            raise typer.BadParameter("say where to write", param_hint="OUT")
        if not Path(source).is_dir():
            for name, given in (("--recursive", recursive), ("--include", include), ("--exclude", exclude)):
                if given:
                    raise typer.BadParameter(f"{source} is no folder", param_hint=name)
            if dry_run or workers is not None:
                raise typer.BadParameter("goes with a folder or --list", param_hint="--workers, --dry-run")
            return None
        return cls(source, target, None, recursive, include or (), exclude or (), workers, dry_run, force, as_json)

    def inputs(self, suffixes: Collection[str]) -> list[Input]:
        """The files that go in."""
        from ..corpus.inputs import in_folder, in_list

        if self.listed is not None:
            return in_list(self.listed)
        return in_folder(
            self.source,
            suffixes,
            include=self.include,
            exclude=self.exclude,
            recursive=self.recursive,
            without=Path(self.folder),
        )

    def carry_out(
        self,
        work: Work[FileTask, FileResult],
        settings: Mapping[str, Any],
        verb: str,
        suffix: str,
        suffixes: Collection[str],
    ) -> None:
        """Make a file with `suffix` of each input, and say what came of it; exit code 3 where some failed."""
        from ..corpus import pool
        from ..corpus.inputs import targets
        from ..corpus.job import FAILURES, Job, run

        found = self.inputs(suffixes)
        job = Job(work, found, targets(found, suffix), Path(self.folder), settings, self.force)
        if self.dry_run:
            self._say_plan(job)
            return
        workers = self.workers or pool.usable_cores()
        with progress_display() as progress:
            summary = run(
                job,
                runner=lambda work, tasks: pool.run(work, tasks, workers),
                note=lambda name, text: typer.echo(f"edgecodec: {name}: {text}", err=True),
                progress=progress,
            )
        say(_summary_line(verb, summary), summary.as_data(), self.as_json)
        if summary.failures:
            typer.echo(f"edgecodec: why, for each: {Path(self.folder) / FAILURES}", err=True)
            raise typer.Exit(_SOME_FAILED)

    def _say_plan(self, job: Any) -> None:
        from ..corpus.job import plan, settings_of
        from ..corpus.journal import read_journal

        todo, rows, failures = plan(job, read_journal(job.folder, settings_of(job)))
        lines = [f"{task.name} -> {task.target}" for task in todo]
        lines += [f"{name}: {reason}" for name, reason in failures.items()]
        lines.append(f"{len(todo)} files to do, {len(rows)} done before, {len(failures)} that cannot be")
        data = {"todo": {task.name: task.target for task in todo}, "kept": sorted(rows), "failures": failures}
        say("\n".join(lines), data, self.as_json)


def _summary_line(verb: str, summary: Summary) -> str:
    text = (
        f"{verb} {summary.made} of {summary.files} files, {summary.seconds / 3600:.3g} h of sound, "
        f"in {summary.elapsed:.1f} s: {summary.speed:.0f} × real time"
    )
    if summary.made:
        text += f", {summary.as_data()['kbps']:.2f} kbps"
    if summary.kept:
        text += f"; {summary.kept} were done before"
    if summary.failures:
        text += f"; {len(summary.failures)} failed"
    return text
