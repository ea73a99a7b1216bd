"""The HTML report of an evaluation: one file with charts, tables, spectrograms and players that needs nothing else."""

from __future__ import annotations

import base64
import io
import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib import metadata, resources
from string import Template

import soundfile

from .. import Codec
from .charts import codebook_chart, loudest, rate_distortion, spectrogram
from .compared_codecs import Audio
from .quality import EXAMPLE_SECONDS, Evaluation, Example, Row
from .score_tables import Cells, codebook_cells, measures_of, score_cells

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
        template = Template(resources.files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
        evaluation = self.evaluation
        kinds = list(dict.fromkeys(row.kind for row in evaluation.rows))
        return template.substitute(
            title=escape(f"{self.codec.manifest.name}: how it sounds, by bitrate"),
            facts=escape(self._facts()),
            scores="\n".join(_scores(kind, [row for row in evaluation.rows if row.kind == kind]) for kind in kinds),
            listen=self._listen(),
            frames=f"{evaluation.frames:,}",
            codebook_chart=codebook_chart(evaluation.codebooks),
            codebook_table=_table(codebook_cells(evaluation.codebooks)),
            method="\n".join(f"<p>{escape(text)}</p>" for text in (*METHOD, *self.notes)),
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
            name, _, setting = label.partition(", ")
            yield (
                f"<figure><figcaption><b>{escape(name)}</b> {escape(setting)}</figcaption>"
                f"<img alt='Spectrogram: {escape(label)}' src='{_data('image/png', spectrogram(audio, reference))}'>"
                f"<audio controls preload='metadata' data-clip='{clip}' aria-label='{escape(label)}' "
                f"src='{_data('audio/flac', _flac(audio, self.codec.sample_rate))}'></audio></figure>"
            )


def _scores(kind: str, rows: Sequence[Row]) -> str:
    charts = "".join(
        f"<figure>{rate_distortion(rows, name, measure)}</figure>" for name, measure in measures_of(rows).items()
    )
    return (
        f"<h2>{escape(kind.capitalize())}, {rows[0].clips} clip{'s' * (rows[0].clips > 1)}</h2>\n"
        f"<div class='charts'>{charts}</div>\n<div class='wide'>{_table(score_cells(rows))}</div>"
    )


def _table(cells: Cells) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in cells[0])
    body = "".join(f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in line)}</tr>" for line in cells[1:])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(text: str) -> str:
    """Escaped, the interval in small print."""
    return re.sub(r"(\[.*\])", r"<small>\1</small>", escape(text))


def _flac(audio: Audio, sample_rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, audio.clip(-1, 1), sample_rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
