"""The limits of plain vector quantization, measured on a codec's latents beside what theory says of them.

- One codebook of K entries leaves a distortion ∝ K^(-2/d) of vectors of d numbers, once entries lie dense (Zador 1982,
  "Asymptotic quantization error of continuous signals"; Gersho & Gray 1992): each bit a number takes off
  6 dB, and a stage of 10 bits has 1/8 of a bit for each of 80 numbers.
- The search for the nearest entry takes K·d multiplications.

Both are lines where both axes are logarithmic, and their slopes are the exponents. Numbers of the latents are taken
along their principal directions, from the largest on. Where few directions hold most of the energy, the first entries
are spent on those: the distortion falls faster then than by the theory, which holds for many entries.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from edgecodec.durable import new_file
from edgecodec.errors import ExportError
from edgecodec.progress import Progress, silent
from edgecodec_training.codebook_search import LookupTables

from .codebook_fitting import Floats, k_means, nearest
from .quantizer_graphs import quantizer_encode_graph
from .refit import Latents

DIMENSIONS = (1, 2, 4, 8, 16, 32)  # and all
SIZES = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
LEAST_FITTED = 32  # entries from which on the slope is fitted
FRAMES_AN_ENTRY = 20  # at least, that codebooks are fitted to
MOST_FRAMES = 40_000
SEARCHED = ((64, 8), (256, 8), (1024, 8), (4096, 8), (64, 80), (256, 80), (1024, 80), (4096, 80))  # K, d
SEARCHED_FRAMES, SEARCHES = 256, 7


@dataclass(frozen=True)
class Distortion:
    """Of vectors of `dimensions` numbers: the share of energy left at each size; and the line's exponents."""

    dimensions: int
    sizes: list[int]
    left: list[float]
    exponent: float
    theory: float


@dataclass(frozen=True)
class Search:
    """Microseconds a frame of the search among `size` entries of `dimensions` numbers."""

    size: int
    dimensions: int
    microseconds: float


@dataclass(frozen=True)
class Limits:
    """What was measured; `search_exponent` is that of K among the most numbers, of which theory says 1."""

    distortions: list[Distortion]
    searches: list[Search]
    search_exponent: float
    frames: int

    def facts(self) -> dict[str, Any]:
        """As JSON has them."""
        return asdict(self)

    def lines(self) -> list[str]:
        """As text."""
        return [
            *(
                f"d = {d.dimensions}: distortion ∝ K^{d.exponent:.3f} (theory {d.theory:.3f}), "
                f"{100 * d.left[-1]:.2f} % left at {d.sizes[-1]} entries"
                for d in self.distortions
            ),
            f"search ∝ K^{self.search_exponent:.2f} (theory 1), {self.searches[-1].microseconds:.1f} µs a frame at "
            f"{self.searches[-1].size} entries of {self.searches[-1].dimensions} numbers",
        ]


def measured_limits(latents: Latents, *, seed: int = 0, progress: Progress = silent) -> Limits:
    """The limits on latents; distortions are those of audio that was not learned from.

    Raises:
        ExportError: too few frames.
    """
    learned, scored = (part[:MOST_FRAMES] for part in latents)
    distortions = distortions_of(learned, scored, seed=seed, progress=progress)
    searches = [_search_time(size, dimensions) for size, dimensions in SEARCHED]
    return Limits(distortions, searches, search_exponent(searches), len(learned))


def search_exponent(searches: Sequence[Search]) -> float:
    """Of K, among the most numbers: there the fixed cost of a score, whatever d is, weighs least."""
    most = max(search.dimensions for search in searches)
    found = [search for search in searches if search.dimensions == most]
    return slope([search.size for search in found], [search.microseconds for search in found])


def distortions_of(learned: Floats, scored: Floats, *, seed: int = 0, progress: Progress = silent) -> list[Distortion]:
    """Energy that single codebooks of latents [N, D] leave of others [M, D], by how many numbers are coded."""
    sizes = [size for size in SIZES if size * FRAMES_AN_ENTRY <= len(learned)]
    if len([size for size in sizes if size >= LEAST_FITTED]) < 2:
        raise ExportError(f"{len(learned)} frames of audio are too few for the limits: give more --data")
    mean = learned.mean(axis=0)
    directions = np.linalg.eigh(np.cov((learned - mean).T))[1][:, ::-1].astype(np.float32)
    points, others = (learned - mean) @ directions, (scored - mean) @ directions
    dim = points.shape[1]
    found: list[Distortion] = []
    wanted = [*(d for d in DIMENSIONS if d < dim), dim]
    for d in wanted:
        left = [_left(others[:, :d], k_means(points[:, :d], size, seed=seed, thorough=True)) for size in sizes]
        fitted = [(size, x) for size, x in zip(sizes, left, strict=True) if size >= LEAST_FITTED]
        found.append(Distortion(d, sizes, left, slope(*zip(*fitted, strict=True)), -2 / d))
        progress("codebooks of so many numbers", len(found), len(wanted))
    return found


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the line through points on logarithmic axes: the exponent of x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def draw(limits: Limits, path: Path) -> None:
    """Both lines, measured and by theory, as a picture; `.svg` or `.png`.

    Raises:
        ExportError: it cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, d in enumerate(limits.distortions):
        colour = f"C{i}"
        label = f"d = {d.dimensions}: {d.exponent:.2f} (theory {d.theory:.2f})"
        left.plot(d.sizes, d.left, "o-", color=colour, markersize=3.5, linewidth=1, label=label)
        theory = [d.left[-1] * (size / d.sizes[-1]) ** d.theory for size in d.sizes]
        left.plot(d.sizes, theory, "--", color=colour, linewidth=0.8)
    left.set(xscale="log", yscale="log", xlabel="entries K", ylabel="energy left", title="Distortion ∝ K^(-2/d)")
    left.set_ylim(top=1.5)
    left.legend(fontsize=7, title="exponents", title_fontsize=7)
    for dimensions, marker in ((d, "os"[i % 2]) for i, d in enumerate(sorted({s.dimensions for s in limits.searches}))):
        found = [s for s in limits.searches if s.dimensions == dimensions]
        products = [s.size * s.dimensions for s in found]
        right.plot(products, [s.microseconds for s in found], marker, label=f"d = {dimensions}")
    last = limits.searches[-1]
    ends = sorted(s.size * s.dimensions for s in limits.searches)
    theory = [last.microseconds * n / (last.size * last.dimensions) for n in ends]
    right.plot(ends, theory, "--", color="grey", linewidth=0.8, label="theory: 1")
    right.set(xscale="log", yscale="log", xlabel="K·d", ylabel="µs a frame")
    right.set_title(f"Search: ∝ K^{limits.search_exponent:.2f} at d = {last.dimensions} (theory K·d)")
    right.legend(fontsize=7)
    try:
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "limits"}), new_file(path) as partial:
            form = path.suffix[1:]
            figure.savefig(partial, format=form, dpi=150, metadata={"Date": None} if form == "svg" else None)
    except OSError as error:
        raise ExportError(f"{path}: {error.strerror or error}") from None


def _left(points: Floats, centres: Floats) -> float:
    error = points - centres[nearest(points, centres)]
    return float(np.square(error, dtype=np.float64).sum() / np.square(points, dtype=np.float64).sum())


def _search_time(size: int, dimensions: int) -> Search:
    """Of the exported graph of one stage, the least of several calls."""
    table = torch.randn(1, size, dimensions, generator=torch.Generator().manual_seed(0))
    tables = LookupTables(None, table.transpose(1, 2), -0.5 * table.square().sum(dim=2), table)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    graph = quantizer_encode_graph(tables).SerializeToString()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    latents = np.random.default_rng(0).standard_normal((1, SEARCHED_FRAMES, dimensions), np.float32)
    times = []
    for _ in range(SEARCHES):
        begin = time.perf_counter()
        session.run(None, {"latents": latents, "n_stages": np.array(1)})
        times.append(time.perf_counter() - begin)
    return Search(size, dimensions, 1e6 * min(times) / SEARCHED_FRAMES)
