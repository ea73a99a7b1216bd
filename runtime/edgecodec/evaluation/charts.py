"""Pictures of a report: rate-distortion curves and codebook use as SVG, spectrograms as PNG.

The SVG goes into the page itself and takes its colours from the page's CSS variables, so that it is light or dark with
it: matplotlib draws in the stand-in colours below.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter
from PIL import Image

from ..codebook_use import CodebookUse
from .compared_codecs import UNCODED, Audio
from .measures import Measure, stft
from .quality import Row

INK, GRID = "#010101", "#020202"
LINES = tuple(f"#0{i}0{i}0{i}" for i in "3456789a")  # the first four: the bundle, its files, Opus, Speex
VARIABLES = {INK: "var(--ink)", GRID: "var(--grid)"} | {stand_in: f"var(--line{i})" for i, stand_in in enumerate(LINES)}
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">")
_FEW = 4  # names that a legend inside has room for
TICKS = (0.75, 1.5, 3, 6, 12, 24)  # kbps
SPECTROGRAM_DB = 80  # below the loudest
SPECTROGRAM_BANDS = 160  # rows of the picture
SPECTROGRAM_COLUMNS = 400
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "edgecodec",  # ids of clips, which are random without it: the same figures give the same page
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


def rate_distortion(rows: Sequence[Row], name: str, measure: Measure) -> str:
    """A measure over the bitrate, a line a codec, as SVG: the bundle with a band, others with bars, of 95 %."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 3.1), layout="constrained")
        axes = figure.subplots()
        rows, uncoded = [r for r in rows if r.codec != UNCODED], [r for r in rows if r.codec == UNCODED]
        codecs = list(dict.fromkeys(row.codec for row in rows))
        for i, codec in enumerate(codecs):
            _line(axes, [row for row in rows if row.codec == codec], name, i)
        for row in uncoded:
            if (mean := row.measures[name].mean) is not None:
                axes.axhline(mean, color=INK, linestyle="--", linewidth=1, label=UNCODED)
        axes.set_title(f"{measure.heading} ({'higher' if measure.higher_is_better else 'lower'} is better)")
        axes.set_xlabel("kbps")
        _bitrate_axis(axes, [row.kbps for row in rows])
        _add_legend(figure, axes)
        return _svg(figure)


def curves(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    title: str,
    across: str,
    *,
    wide: bool = False,
    log: bool = False,
) -> str:
    """Points (x, y) joined, a line a name, as SVG; `log` of y."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 3.1), layout="constrained")
        axes = figure.subplots()
        for i, (name, points) in enumerate(lines.items()):
            marker = MARKERS[i % len(MARKERS)] if len(points) <= 40 else None
            x, y = np.array(points, float).T if points else ([], [])
            axes.plot(x, y, color=LINES[i % len(LINES)], marker=marker, markersize=4, linewidth=1.2, label=name)
        axes.set_title(title)
        axes.set_xlabel(across)
        if log:
            axes.set_yscale("log")
        _add_legend(figure, axes)
        return _svg(figure)


def codebook_chart(uses: Sequence[CodebookUse]) -> str:
    """Share of entries used, and perplexity as a share of the entries, of every stage, as SVG."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(14.8, 3.2), layout="constrained")
        axes = figure.subplots()
        stages = np.array([u.stage for u in uses])
        for shift, colour, label, shares in (
            (-0.2, LINES[0], "entries used", [100 * u.fraction for u in uses]),
            (0.2, LINES[1], "perplexity / entries", [100 * u.perplexity / u.size for u in uses]),
        ):
            axes.bar(stages + shift, shares, 0.38, color=colour, label=label)
        axes.set_xlabel("stage")
        axes.set_xlim(0.4, len(uses) + 0.6)
        axes.set_ylabel("%")
        axes.set_ylim(0, 105)
        axes.xaxis.set_major_locator(FixedLocator(list(stages)))
        axes.grid(visible=False, axis="x")
        figure.legend(loc="outside upper left", ncols=2)
        return _svg(figure)


def spectrogram(audio: Audio, loudest: float) -> bytes:
    """PNG of `[samples]`: time to the right, 0 Hz to Nyquist upwards, 80 dB below the magnitude `loudest`."""
    magnitudes = np.abs(stft(audio, 512)).T[::-1]
    decibels = 20 * np.log10(np.maximum(magnitudes / max(loudest, 1e-9), 1e-9))
    grey = np.clip(255 * (1 + decibels / SPECTROGRAM_DB), 0, 255).astype(np.uint8)
    picture = Image.fromarray(grey).resize((SPECTROGRAM_COLUMNS, SPECTROGRAM_BANDS), Image.Resampling.BOX)
    palette = matplotlib.colormaps["magma"](np.arange(256), bytes=True)[:, :3]
    picture.putpalette(palette.tobytes())
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def loudest(audio: Audio) -> float:
    """The largest magnitude in the spectrogram of a clip."""
    return float(np.abs(stft(audio, 512)).max())


def _line(axes: Axes, rows: Sequence[Row], name: str, i: int) -> None:
    points = sorted((row.kbps, e.mean, e.low, e.high) for row in rows if (e := row.measures[name]).mean is not None)
    if not points:
        return
    kbps, mean, low, high = np.array(points, float).T  # intervals of one clip, None, are NaN here and not drawn
    colour = LINES[i % len(LINES)]
    axes.plot(kbps, mean, color=colour, marker=MARKERS[i % len(MARKERS)], markersize=4.5, label=rows[0].codec)
    if i == 0:
        axes.fill_between(kbps, low, high, color=colour, alpha=0.2, linewidth=0)
    else:
        axes.vlines(kbps, low, high, color=colour, linewidth=1)


def _add_legend(figure: Figure, axes: Axes) -> None:
    """Inside where a few lines have names; below, and the picture as much taller, where they would hide each other."""
    handles, _ = axes.get_legend_handles_labels()
    if len(handles) > _FEW:
        figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(handles) // 3))
        figure.legend(loc="outside lower center", fontsize=8, ncols=3)
    elif len(handles) > 1:
        axes.legend()


def _bitrate_axis(axes: Axes, kbps: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_xlim(min(kbps) / 1.15, max(kbps) * 1.15)
    axes.xaxis.set_major_locator(FixedLocator([t for t in TICKS if min(kbps) / 1.1 < t < max(kbps) * 1.1]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _svg(figure: Figure) -> str:
    """The `<svg>` element alone, without ids of groups, which would repeat from picture to picture."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None})
    text = file.getvalue()
    text = re.sub(r'<g id="[^"]*"', "<g", text[text.index("<svg") :])
    for stand_in, variable in VARIABLES.items():
        text = text.replace(stand_in, variable)
    return text
