"""The HTML report of a study: the table and its rules, curves, the residual stage by stage, and sound to compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import soundfile
from edgecodec.evaluation.charts import curves, loudest, rate_distortion
from edgecodec.evaluation.measures import MEASURES
from edgecodec.evaluation.page import page, paragraphs, player, side_by_side, table
from edgecodec.evaluation.quality import Estimate
from edgecodec.evaluation.quality import Row as ScoredRow
from edgecodec.evaluation.score_tables import Cells

from .costs import TURNS
from .figures import LISTENING_SECONDS, ORIGINAL, Audio, Figures
from .rows import Row, to_csv
from .table import COLUMNS, gains, mean_at, rules
from .table import table as judged

Key = tuple[str, int]  # variant and seed

METHOD = (
    "Every variant saw the same crops in the same order, from the same seed, for the same number of steps; it was then "
    "exported, and everything but the training was measured on the bundle, in onnxruntime.",
    "Effective bits are log2 of the perplexity of the codes of a stage over all frames measured, summed over "
    "the stages: what codes could carry if stages did not repeat each other. Entries that no frame chose are dead; "
    "few frames cannot choose all entries of a large codebook.",
    "PESQ-WB and ESTOI are scored at 16 kHz and made for speech. Points are means over clips and seeds; bars reach "
    "from the lowest to the highest seed, and say nothing of other clips.",
    f"Costs: {TURNS} turns, in each of which every bundle encodes and decodes the same two seconds on one thread, in "
    "an order that turns round. Ratios are medians of those within a turn; milliseconds are of this machine as it was.",
)


@dataclass(frozen=True)
class Report:
    """What the page tells of: rows as in the CSV, figures and folders of the runs, in the order of the study."""

    title: str
    facts: str
    notes: Mapping[str, str]
    rows: Sequence[Row]
    figures: Mapping[Key, Figures]
    folders: Mapping[Key, Path]

    def html(self) -> str:
        """The page."""
        return page(
            self.title,
            self.facts,
            [
                "<h2>Side by side</h2>",
                f"<div class='wide'>{_words(self.rows)}</div>",
                "<details><summary>The rules that the words follow</summary>",
                paragraphs(rules()),
                "</details>",
                *self._gains(),
                *self._notes(),
                "<h2>By bitrate</h2>",
                f"<div class='charts'>{''.join(f'<figure>{chart}</figure>' for chart in charts(self.rows))}</div>",
                "<h2>Stage by stage, and step by step</h2>",
                f"<div class='charts'>{''.join(f'<figure>{chart}</figure>' for chart in self._inner_charts())}</div>",
                *self._listen(),
                "<h2>All numbers</h2>",
                f"<details><summary>{len(self.rows)} rows</summary><div class='wide'>{table(_all_cells(self.rows))}"
                "</div></details>",
                "<h2>How this was measured</h2>",
                paragraphs(METHOD),
            ],
        )

    def _notes(self) -> list[str]:
        lines = [f"<li><b>{escape(name)}</b>: {escape(note)}</li>" for name, note in self.notes.items() if note]
        return ["<ul>", *lines, "</ul>"] if lines else []

    def _gains(self) -> list[str]:
        """Of studies in noise, what is gained over it."""
        cells = gains(self.rows)
        heading = f"<h2>Gains over speech in noise at {self.rows[0].snr_db or 0:g} dB</h2>"
        return [heading, f"<div class='wide'>{table(cells)}</div>"] if cells else []

    def _inner_charts(self) -> list[str]:
        """Of the first seed of each variant: what is left, what is used, and how it trained."""
        first = self._first_seeds()
        norms = {key[0]: f.training.norms for key, f in first.items() if f.training.norms}
        left = {
            k[0]: [(0, 1.0), *((s.stages, s.residual_norm / f.latent_norm) for s in f.stages)] for k, f in first.items()
        }
        use = {k[0]: [(s.stages, 100 * s.perplexity / f.codebook_size) for s in f.stages] for k, f in first.items()}
        found = [
            curves(left, "Norm of the residual / of the latents", "stages", log=True),
            curves(use, "Codebook use: perplexity / entries, %", "stage"),
        ]
        return [*found, curves(norms, "Gradient norm before clipping", "step", log=True)] if norms else found

    def _listen(self) -> list[str]:
        """The clip of every variant at more and more stages."""
        intro = (
            f"The first {LISTENING_SECONDS} s of one clip, more and more stages decoded. Starting a player stops the "
            "other, and goes on where that was."
        )
        parts = ["<h2>Progressive listening</h2>", paragraphs([intro], "muted")]
        original: Audio | None = None
        for key, figures in self._first_seeds().items():
            sounds = self.folders[key] / "listening"
            if original is None:
                original = _read(sounds / ORIGINAL)
                shown = player(0, "Original", original, figures.sample_rate, loudest(original))
                parts.append(f"<div class='sounds'>{shown}</div>")
            players = [
                player(
                    0,
                    f"{key[0]}, {n} stage{'s' * (n > 1)}, {figures.stages[n - 1].kbps:.3g} kbps",
                    _read(sounds / f"{n}.flac"),
                    figures.sample_rate,
                    loudest(original),
                )
                for n in figures.listening
            ]
            parts += [
                f"<h3>{escape(key[0])}</h3>",
                paragraphs([residual_line(figures)], "muted"),
                f"<div class='sounds'>{''.join(players)}</div>",
            ]
        return parts

    def _first_seeds(self) -> dict[Key, Figures]:
        found: dict[str, tuple[Key, Figures]] = {}
        for key, figures in self.figures.items():
            found.setdefault(key[0], (key, figures))
        return dict(found.values())


def residual_line(figures: Figures) -> str:
    """The norm that is left of the latents after every stage, in words."""
    left = [f"{100 * stage.residual_norm / figures.latent_norm:.0f}" for stage in figures.stages]
    return f"norm of the residual, % of the latents', after each stage: {' '.join(left)}"


def picture(rows: Sequence[Row]) -> str:
    """The curves that tell most, as one SVG file."""
    return side_by_side(charts(rows, ("pesq_wb", "estoi")))


def charts(rows: Sequence[Row], measures: Sequence[str] = tuple(MEASURES)) -> list[str]:
    """Each measure, and the distortion of the latents, over the bitrate: a line a variant, as SVG."""
    scored = list(_scored(rows))
    drawn = [rate_distortion(scored, name, MEASURES[name]) for name in measures]
    variants = list(dict.fromkeys(row.variant for row in rows))
    own = {name: [row for row in rows if row.variant == name] for name in variants}
    energy = {
        name: [(_kbps(of, n), mean_at(of, n, "distortion") or 0.0) for n in _counts(of)] for name, of in own.items()
    }
    return [*drawn, curves(energy, "Energy left of the latents (lower is better)", "kbps", log=True)]


def _scored(rows: Sequence[Row]) -> list[ScoredRow]:
    """As evaluate's charts take them: means over seeds, from the lowest to the highest."""
    found = []
    for name in dict.fromkeys(row.variant for row in rows):
        own = [row for row in rows if row.variant == name]
        for n in _counts(own):
            if mean_at(own, n, "estoi") is not None:
                estimates = {measure: _over_seeds(own, n, measure) for measure in MEASURES}
                found.append(ScoredRow(name, "speech", own[0].clips, n, _kbps(own, n), None, None, estimates))
    return found


def _over_seeds(rows: Sequence[Row], stages: int, name: str) -> Estimate:
    values = [value for row in rows if row.stages == stages if (value := getattr(row, name)) is not None]
    if len(values) < 2:
        return Estimate(values[0] if values else None, None, None, len(values))
    return Estimate(sum(values) / len(values), min(values), max(values), len(values))


def _counts(rows: Sequence[Row]) -> list[int]:
    return sorted({row.stages for row in rows})


def _kbps(rows: Sequence[Row], stages: int) -> float:
    return next(row.kbps for row in rows if row.stages == stages)


def _words(rows: Sequence[Row]) -> str:
    """The table: under each word its numbers, in small print."""
    lines = "".join(
        f"<tr><td>{escape(name)}</td>"
        + "".join(f"<td><b>{escape(cell.word)}</b><small>{escape(cell.numbers)}</small></td>" for cell in cells)
        + "</tr>"
        for name, cells in judged(rows).items()
    )
    head = "".join(f"<th>{escape(heading)}</th>" for heading in ("variant", *(column.heading for column in COLUMNS)))
    return f"<table class='words'><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def _all_cells(rows: Sequence[Row]) -> Cells:
    return [line.split(",") for line in to_csv(rows).splitlines()]


def _read(path: Path) -> Audio:
    audio: Audio = soundfile.read(path, dtype="float32")[0]
    return audio
