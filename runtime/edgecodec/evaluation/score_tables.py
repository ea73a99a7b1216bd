"""Tables of scores and of codebook use: Markdown that reads well as text, and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from ..codebook_use import CodebookUse
from .frame_locking import locking_measure
from .measures import MEASURES, Measure
from .mos import mos_measures
from .quality import Estimate, Row

Cells = list[list[str]]  # the first line holds the headings


def measures_of(rows: Sequence[Row]) -> dict[str, Measure]:
    """The measures that the rows have, in order."""
    known = MEASURES | mos_measures("speech") | mos_measures("music") | locking_measure(1)
    return {name: measure for name, measure in known.items() if any(name in row.measures for row in rows)}


def score_cells(rows: Sequence[Row]) -> Cells:
    """A line a row, means with their 95 % intervals; codec and kind are named where there are several."""
    codecs, kinds = len({row.codec for row in rows}) > 1, len({row.kind for row in rows}) > 1
    measures = measures_of(rows)
    cells = [
        [
            *(["codec"] if codecs else []),
            *(["kind"] if kinds else []),
            "kbps",
            "stages",
            *(measure.heading for measure in measures.values()),
            "encode ×",
            "decode ×",
        ]
    ]
    for row in rows:
        cells.append(
            [
                *([row.codec] if codecs else []),
                *([row.kind] if kinds else []),
                f"{row.kbps:.3g}",
                "-" if row.stages is None else str(row.stages),
                *(_interval(row.measures.get(name), measure.digits) for name, measure in measures.items()),
                *("-" if rtf is None else f"{rtf:.0f}" for rtf in (row.encode_rtf, row.decode_rtf)),
            ]
        )
    return cells


def mean_cells(rows: Sequence[Mapping[str, Any]]) -> Cells:
    """A line a row of a manifest's quality table: means only, of the measures that it has."""
    kinds = len({row["kind"] for row in rows}) > 1
    measures = {name: measure for name, measure in MEASURES.items() if any(name in row for row in rows)}
    cells = [[*(["kind"] if kinds else []), "kbps", "stages", *(measure.heading for measure in measures.values())]]
    for row in rows:
        means = (_number(row.get(name), measure.digits) for name, measure in measures.items())
        cells.append([*([row["kind"]] if kinds else []), f"{row['kbps']:.3g}", str(row["stages"] or "vary"), *means])
    return cells


def codebook_cells(uses: Sequence[CodebookUse]) -> Cells:
    """A line a stage."""
    lines = [[str(u.stage), f"{u.used} of {u.size}", f"{u.fraction:.1%}", f"{u.perplexity:.0f}"] for u in uses]
    return [["stage", "entries used", "share", "perplexity"], *lines]


def markdown(cells: Cells) -> list[str]:
    """Lines of an aligned Markdown table."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 1) + ":" for w in widths) + "|")
    return lines


def score_csv(rows: Sequence[Row]) -> str:
    """A line a row, with mean, interval and count of every measure in columns of their own."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    facts = ("codec", "kind", "clips", "stages", "kbps", "encode_rtf", "decode_rtf")
    measures = measures_of(rows)
    writer.writerow(
        [*facts, *(column for name in measures for column in (name, f"{name}_low", f"{name}_high", f"{name}_n"))]
    )
    for row in rows:
        values: list[Any] = [getattr(row, fact) for fact in facts]
        for name in measures:
            estimate = row.measures.get(name, Estimate(None, None, None, 0))
            values += [estimate.mean, estimate.low, estimate.high, estimate.n]
        writer.writerow(values)
    return file.getvalue()


def _interval(estimate: Estimate | None, digits: int) -> str:
    if estimate is None:
        return "-"
    mean = _number(estimate.mean, digits)
    return mean if estimate.low is None else f"{mean} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
