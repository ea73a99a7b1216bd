"""A whole study: every variant with every seed, one after the other, then costs, CSV, table and report.

    OUT/runs/…         see `runs`
    OUT/costs.json     what the bundles cost beside each other
    OUT/study.csv      all numbers (see `rows`)
    OUT/study.md       the table, made of the CSV (see `table`)
    OUT/study.html     the report

All variants come with the first seed before any comes with the second, so that a study that is stopped early has a
table of all.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from edgecodec.durable import new_file
from edgecodec.errors import ConfigError, EdgecodecError
from edgecodec.progress import Progress, silent

from .costs import kept_costs
from .figures import Figures
from .plan import Study
from .report import Report, residual_line
from .rows import Row, from_csv, rows_of, to_csv
from .runs import Place, Run, Tell
from .table import markdown


@dataclass(frozen=True)
class Outcome:
    """What a study came to: rows as the CSV has them, the table in Markdown, residuals by variant, what failed."""

    rows: list[Row]
    table: str
    residuals: dict[str, str]
    failed: dict[str, str]
    report: Path


def run_study(
    study: Study,
    place: Place,
    *,
    only: Sequence[str] = (),
    train: bool = True,
    tell: Tell = lambda what: None,
    progress: Progress = silent,
) -> Outcome:
    """Do what is not done yet, and write the results.

    Args:
        study: what is compared.
        place: where audio is, and where the results go.
        only: these variants alone are trained and measured; the results are of all that is measured.
        train: False to do nothing but the results, of what is measured.
        tell: told what goes on.
        progress: of the costs.

    Raises:
        ConfigError: variants that the study has not, or OUT holds runs of other settings.
        EdgecodecError: nothing is measured.
        KeyboardInterrupt: after what was going on was saved.
    """
    if unknown := sorted(set(only) - set(study.variants)):
        raise ConfigError(f"no variant is called {unknown[0]!r}; there are {', '.join(study.variants)}")
    runs = [Run(study, name, seed, place) for seed in study.seeds for name in study.variants]
    runs = [run for run in runs if not run.finished or run.seed == study.seeds[0]]
    failed: dict[str, str] = {}
    for run in runs:
        if train and (not only or run.variant in only):
            try:
                run.complete(tell)
            except ConfigError:
                raise
            except EdgecodecError as error:  # it diverged, or its graphs do not agree: that is a result, too
                failed[run.name] = str(error)
                tell(f"{run.name}: failed: {error}")
    found = {(run.variant, run.seed): (run, figures) for run in runs if (figures := run.figures()) is not None}
    if not found:
        raise EdgecodecError(f"{place.out}: nothing is measured" + "".join(f"; {k}: {v}" for k, v in failed.items()))
    return _results(study, place, found, failed, progress)


def _results(
    study: Study,
    place: Place,
    found: dict[tuple[str, int], tuple[Run, Figures]],
    failed: dict[str, str],
    progress: Progress,
) -> Outcome:
    """Write what stands beside the runs; variants in the order of the study."""
    order = list(study.variants)
    keys = sorted(found, key=lambda key: (order.index(key[0]), study.seeds.index(key[1])))
    figures = {key: found[key][1] for key in keys}
    firsts = {key[0]: found[key][0] for key in reversed(keys)}
    codecs = {name: firsts[name].codec() for name in order if name in firsts}
    reference = study.measured_beside if study.measured_beside in codecs else next(iter(codecs))
    costs = kept_costs(place.out / "costs.json", codecs, reference, progress)
    text = to_csv(rows_of(figures, costs.by_variant))
    rows = from_csv(text, "study.csv")
    words = markdown(rows)
    report = Report(
        study.title,
        _facts(list(figures.values()), reference),
        {name: study.variants[name].note for name in codecs},
        rows,
        figures,
        {key: found[key][0].folder for key in keys},
    )
    for name, content in (("study.csv", text), ("study.md", f"{words}\n"), ("study.html", report.html())):
        with new_file(place.out / name) as partial:
            partial.write_text(content, encoding="utf-8")
    residuals = {name: residual_line(next(f for key, f in figures.items() if key[0] == name)) for name in codecs}
    return Outcome(rows, words, residuals, failed, place.out / "study.html")


def _facts(figures: Sequence[Figures], reference: str) -> str:
    """Steps, hours, machine, and what was scored."""
    steps = sorted({f.steps for f in figures})
    hours = sum(f.seconds for f in figures) / 3600
    machines = ", ".join(sorted({f.machine for f in figures if f.machine}))
    first = figures[0]
    return (
        f"{len(figures)} runs of {' and '.join(f'{n:,}' for n in steps)} steps, {hours:.2f} h of training on "
        f"{machines or 'another machine'}. Scored on {first.clips} clips of speech, {first.frames:,} frames; costs are "
        f"ratios to {reference}. edgecodec {metadata.version('edgecodec')} on {platform.machine()}."
    )
