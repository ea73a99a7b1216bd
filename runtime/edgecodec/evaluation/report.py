"""The HTML report of an evaluation: one file with charts, tables, spectrograms and players that needs nothing else."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib import metadata

from .. import Codec
from .charts import codebook_chart, loudest, rate_distortion
from .page import page, paragraphs, player, table
from .quality import EXAMPLE_SECONDS, Evaluation, Example, Row
from .score_tables import codebook_cells, measures_of, score_cells

METHOD = (
    "Every figure is a mean over clips with its 95 % interval (percentile bootstrap over clips): other clips of the "
    "same kind would likely give a mean in there. Intervals that overlap may still hide a difference on every clip.",
    "PESQ-WB (1 to 4.6) and ESTOI (0 to 1), which are made for speech, are scored at 16 kHz; ViSQOL (1 to 5) at 16 kHz "
    "for speech and 48 kHz for others; DNSMOS (1 to 5) at 16 kHz without the original; SI-SDR, mel distance and STFT "
    "distance at the rate of the bundle. Measures disagree about sound that was made up plausibly: listen, too.",
    "Bitrates count the bits of codes or packets, without containers and network headers; those of classical codecs "
    "are measured. RTF (“encode ×” and “decode ×”) is seconds of audio per second of compute, whole clips, one thread "
    "of this machine as it was loaded.",
)


@dataclass(frozen=True)
class Report:
    """What the report tells of, besides the evaluation: the bundle, and notes on what could not be measured."""

    codec: Codec
    evaluation: Evaluation
    notes: Sequence[str] = ()

    def html(self) -> str:
        """The page."""
        rows = self.evaluation.rows
        kinds = list(dict.fromkeys(row.kind for row in rows))
        return page(
            f"{self.codec.manifest.name}: how it sounds, by bitrate",
            self._facts(),
            [
                *(_scores(kind, [row for row in rows if row.kind == kind]) for kind in kinds),
                self._listen(),
                self._codebooks(),
                "<h2>How this was measured</h2>",
                paragraphs([*METHOD, *self.notes]),
            ],
        )

    def _facts(self) -> str:
        m = self.codec.manifest
        latency = 1000 * (m.latency.buffering + m.latency.algorithmic) / m.sample_rate
        return (
            f"{m.sample_rate / 1000:g} kHz, {m.quantizer.max_stages} stages of {m.quantizer.codebook_size} entries, "
            f"{m.frame_rate:g} frames a second, {latency:.1f} ms of buffering and algorithmic latency. Scored on "
            f"{self.evaluation.seconds:.0f} s of audio by edgecodec {metadata.version('edgecodec')} on "
            f"{platform.machine()}."
        )

    def _listen(self) -> str:
        if not self.evaluation.examples:
            return ""
        nyquist = self.codec.sample_rate / 2000
        intro = (
            f"The first {EXAMPLE_SECONDS} s at most. Spectrograms reach from 0 to {nyquist:g} kHz, and 80 dB down from "
            "the loudest sound of the original. Starting a player stops the other, and goes on where that was."
        )
        clips = "\n".join(
            f"<h3>{escape(example.name)} <span class='muted'>({escape(example.kind)})</span></h3>\n"
            f"<div class='sounds'>{''.join(self._sounds(i, example))}</div>"
            for i, example in enumerate(self.evaluation.examples)
        )
        return f"<h2>Listen</h2>\n<p class='muted'>{escape(intro)}</p>\n{clips}"

    def _sounds(self, clip: int, example: Example) -> Iterator[str]:
        reference = loudest(example.original)
        for label, audio in {"Original": example.original, **example.decoded}.items():
            yield player(clip, label, audio, self.codec.sample_rate, reference)

    def _codebooks(self) -> str:
        uses = self.evaluation.codebooks
        intro = (
            f"{self.evaluation.frames:,} frames of all clips at all stages. Perplexity: as many entries, used evenly, "
            "would carry as much. A few frames cannot use all entries."
        )
        return (
            f"<h2>Codebook use</h2>\n{paragraphs([intro], 'muted')}\n<figure>{codebook_chart(uses)}</figure>\n"
            f"<details><summary>As a table</summary><div class='wide'>{table(codebook_cells(uses))}</div></details>"
        )


def _scores(kind: str, rows: Sequence[Row]) -> str:
    charts = "".join(
        f"<figure>{rate_distortion(rows, name, measure)}</figure>" for name, measure in measures_of(rows).items()
    )
    return (
        f"<h2>{escape(kind.capitalize())}, {rows[0].clips} clip{'s' * (rows[0].clips > 1)}</h2>\n"
        f"<div class='charts'>{charts}</div>\n<div class='wide'>{table(score_cells(rows))}</div>"
    )
