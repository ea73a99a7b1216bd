"""One HTML page with charts, tables and players that needs nothing else: what the reports are made of."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from html import escape
from importlib import resources
from string import Template

import soundfile

from .charts import spectrogram
from .compared_codecs import Audio
from .score_tables import Cells

CHART_WIDTH = 450  # pixels, with a margin


def page(title: str, facts: str, body: Sequence[str]) -> str:
    """The page: `title` and `facts` are text, `body` is HTML."""
    return Template(_template()).substitute(title=escape(title), facts=escape(facts), body="\n".join(body))


def paragraphs(texts: Sequence[str], kind: str = "") -> str:
    """A paragraph each; `kind` is a class of the page's style."""
    mark = f' class="{kind}"' if kind else ""
    return "\n".join(f"<p{mark}>{escape(text)}</p>" for text in texts)


def table(cells: Cells) -> str:
    """The first line holds the headings; what stands in square brackets is small print."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in cells[0])
    body = "".join(f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in line)}</tr>" for line in cells[1:])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def player(clip: int, label: str, audio: Audio, sample_rate: int, reference: float) -> str:
    """A spectrogram, 80 dB down from the magnitude `reference`, and a player.

    `label` is a name and, after a comma, a setting. Players of one `clip` take turns at one position.
    """
    name, _, setting = label.partition(", ")
    return (
        f"<figure><figcaption><b>{escape(name)}</b> {escape(setting)}</figcaption>"
        f"<img alt='Spectrogram: {escape(label)}' src='{_data('image/png', spectrogram(audio, reference))}'>"
        f"<audio controls preload='metadata' data-clip='{clip}' aria-label='{escape(label)}' "
        f"src='{_data('audio/flac', _flac(audio, sample_rate))}'></audio></figure>"
    )


def side_by_side(charts: Sequence[str]) -> str:
    """Charts as one SVG file, light or dark as its reader is."""
    style = _template().partition(":root {")[2].partition("* {")[0]  # the colours of the page
    points = [float(height) for chart in charts for height in re.findall(r'<svg[^>]* height="([\d.]+)pt"', chart)]
    box = f"0 0 {CHART_WIDTH * len(charts)} {4 / 3 * max(points) + 2:.0f}"
    placed = "".join(chart.replace("<svg", f'<svg x="{CHART_WIDTH * i}"', 1) for i, chart in enumerate(charts))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}"><style>:root {{{style}</style>{placed}</svg>\n'
    )


def _template() -> str:
    return resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")


def _cell(text: str) -> str:
    """Escaped, the interval in small print."""
    return re.sub(r"(\[.*\])", r"<small>\1</small>", escape(text))


def _flac(audio: Audio, sample_rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, audio.clip(-1, 1), sample_rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
