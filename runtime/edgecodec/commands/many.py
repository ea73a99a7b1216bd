"""What `encode`, `decode` and `codes` do with folders and lists of files."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import DataError
from .options import say
from .progress import progress_display

if TYPE_CHECKING:
    from ..codec import Codec
    from ..corpus.inputs import Input
    from ..corpus.job import Job, Runner, Summary
    from ..corpus.pool import Work
    from ..corpus.tasks import Result, Task
    from ..files.encoding import Rate
    from ..manifest import Effort

_SOME_FAILED = 3  # exit code: the other results are there


@dataclass(frozen=True)
class Files:
    """What the options say about which files, and how."""

    listed: str | None
    recursive: bool
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    workers: int | None
    dry_run: bool
    ray: str | None = None  # the cluster that does it
    threads: int = 1  # of each worker there
    gpu: bool = False  # for each


@dataclass(frozen=True)
class Many:
    """A command over many files."""

    source: str
    folder: str
    files: Files
    force: bool
    as_json: bool

    @classmethod
    def of(cls, source: str, target: str | None, files: Files, *, force: bool, as_json: bool) -> Many | None:
        """None where one file is meant."""
        from ..files.audio import AUDIO_SUFFIXES

        if files.listed is not None:
            if target is not None:
                raise typer.BadParameter("give OUT only: the list names what goes in", param_hint="--list")
            return cls(source, source, files, force, as_json)
        if target is None:
            raise typer.BadParameter("say where to write", param_hint="OUT")
        if Path(source).is_dir() or is_shards(source):
            if Path(target).suffix.lower() in (".edgc", *AUDIO_SUFFIXES) and not Path(target).is_dir():
                raise DataError(f"{source}: a folder, and {target} names a file: give a folder to write into")
            return cls(source, target, files, force, as_json)
        given = {"--recursive": files.recursive, "--include": files.include, "--exclude": files.exclude}
        given |= {"--dry-run": files.dry_run, "--workers": files.workers, "--ray": files.ray}
        for name, value in given.items():
            if value:
                raise typer.BadParameter(f"goes with many files; {source} is no folder", param_hint=name)
        return None

    @property
    def is_shards(self) -> bool:
        """Whether what goes in is tar shards of recordings."""
        return self.files.listed is None and is_shards(self.source)

    def inputs(self, suffixes: Collection[str]) -> list[Input]:
        """The files that go in."""
        from ..corpus.inputs import Input, in_folder, in_list
        from ..corpus.shards import expand_braces

        if self.is_shards:
            return [Input(shard, shard) for shard in expand_braces(self.source)]
        if self.files.listed is not None:
            return in_list(self.files.listed)
        found = in_folder(
            self.source,
            suffixes,
            include=self.files.include,
            exclude=self.files.exclude,
            recursive=self.files.recursive,
            without=Path(self.folder),
        )
        if not found:
            below = "" if self.files.recursive else "; --recursive looks into the folders below, too"
            raise DataError(f"{self.source}: a folder without such files ({' '.join(sorted(suffixes))}){below}")
        return found

    def one_each(self, suffix: str, suffixes: Collection[str]) -> list[Task]:
        """A task for each file."""
        from ..corpus.tasks import one_each

        if self.is_shards:
            raise typer.BadParameter("shards go with encode --format webdataset or parquet", param_hint="IN")
        return one_each(self.inputs(suffixes), Path(self.folder), suffix)

    def encode(
        self,
        codec: Codec,
        rate: Rate,
        effort: Effort,
        mono: bool,
        gain: int | None,
        form: Any,
        shard_bytes: int,
        settings: Mapping[str, Any],
    ) -> None:
        """Encode all to files of codes, each to one of its own, or many to one."""
        from ..corpus.code_shards import NAMES, EncodeShards
        from ..corpus.files import EncodeFiles
        from ..corpus.tasks import grouped, shard_each
        from ..files.audio import INPUT_SUFFIXES

        if form not in NAMES:  # a file for each
            self.carry_out(
                EncodeFiles(codec, rate, effort, mono, gain),
                settings,
                "encoded",
                self.one_each(f".{form}", INPUT_SUFFIXES),
            )
            return
        assert rate.stages is not None
        found, name = self.inputs(INPUT_SUFFIXES), NAMES[form]
        if self.is_shards:
            tasks = shard_each(found, Path(self.folder), Path(name).suffix)
        else:
            tasks = grouped(found, Path(self.folder), name, shard_bytes)
        self.carry_out(EncodeShards(codec, rate.stages, effort, mono, form), settings, "encoded", tasks)

    def carry_out(
        self,
        work: Work[Task, Result],
        settings: Mapping[str, Any],
        verb: str,
        tasks: Sequence[Task],
    ) -> None:
        """Do what is to be done, and say what came of it; exit code 3 where some failed."""
        from ..corpus.job import FAILURES, Job, run

        job = Job(work, tasks, Path(self.folder), settings, self.force)
        if self.files.dry_run:
            self._say_plan(job)
            return
        with progress_display() as progress:
            summary = run(
                job,
                runner=self._runner(),
                note=lambda name, text: typer.echo(f"edgecodec: {name}: {text}", err=True),
                progress=progress,
            )
        say(_summary_line(verb, summary), summary.as_data(), self.as_json)
        if summary.failures:
            typer.echo(f"edgecodec: why, for each: {Path(self.folder) / FAILURES}", err=True)
            raise typer.Exit(_SOME_FAILED)

    def _runner(self) -> Runner:
        from ..corpus import pool
        from ..corpus.cluster import Cluster
        from ..corpus.tasks import is_short

        files = self.files
        if files.ray is not None:
            return Cluster(files.ray, files.workers, files.threads, int(files.gpu)).run
        workers = files.workers or pool.usable_cores()
        return lambda work, tasks: pool.run(work, tasks, workers, is_short)

    def _say_plan(self, job: Job) -> None:
        from ..corpus.job import plan, settings_of
        from ..corpus.journal import read_journal

        planned = plan(job, read_journal(job.folder, settings_of(job)))
        pairs = [(one.name, task.target) for task in planned.todo for one in task.inputs]
        kept = sorted(row["name"] for result in planned.kept.values() for row in result.rows)
        lines = [f"{name} -> {target}" for name, target in pairs]
        lines += [f"{name}: {reason}" for name, reason in planned.refused.items()]
        lines.append(f"{len(pairs)} files to do, {len(kept)} done before, {len(planned.refused)} that cannot be")
        say("\n".join(lines), {"todo": dict(pairs), "kept": kept, "failures": dict(planned.refused)}, self.as_json)


def is_shards(source: str) -> bool:
    """Whether a source is tar shards: a path, a URL or a `pipe:` command, or a pattern of several."""
    from ..corpus.inputs import is_shard

    return is_shard(source)


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
    if uses := summary.stage_use:
        shares = " ".join(f"{use.codes / uses[0].codes:.0%}".rstrip("%") for use in uses)
        bits = " ".join(f"{use.bits:.1f}" for use in uses)
        text += f"\nstages 1 to {uses[-1].stage}: {shares} % of frames have them; a code tells {bits} bits"
        text += f" of {math.log2(uses[0].size):.3g}"
    return text
