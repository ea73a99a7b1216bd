"""Codebooks without networks: k-means on latents, stage by stage, as the classical quantizers are made.

    latents -> stage 1's k-means -> what it left over -> stage 2's k-means -> ...

Stages that exist are refitted where they lie: entries with d numbers, as learned projections make them, fill a plane of
d dimensions in the latents' D, and what is to be said in d numbers is found in that plane again. A slice of a product
quantizer is such a plane, too, so that every kind is refitted in one way.

Fresh codebooks are those of Lloyd's algorithm in scikit-learn. Its `MiniBatchKMeans` took longer for a worse result
where it was tried: 10^5 latents of 80 numbers, 1024 entries, 0.305 of the energy left where Lloyd's left 0.303.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from edgecodec.errors import ExportError
from edgecodec.progress import Progress, silent
from edgecodec_training.codebook_search import LookupTables
from numpy.typing import NDArray

Floats = NDArray[np.float32]
FreshKind = Literal["vq", "rvq", "pq"]

ITERATIONS = 12  # of Lloyd's algorithm; more gain little, and chance begins to be learned
THOROUGH = 60
ADAPTATIONS = 4  # of centres that lie well already
PRIOR = 16.0  # frames: the relevance factor of MAP adaptation that is usual
_FLAT = 3e-3  # of the largest spread of a stage's entries: directions with less are none


class Plane(NamedTuple):
    """Where a stage's entries lie: `origin + coordinates @ directions.T`."""

    origin: Floats  # [D]
    directions: Floats  # [D, d], orthonormal

    def coordinates(self, vectors: Floats) -> Floats:
        """Of vectors [N, D], or of what is nearest to them in the plane: [N, d]."""
        return np.asarray((vectors - self.origin) @ self.directions, np.float32)

    def vectors(self, coordinates: Floats) -> Floats:
        """[N, d] to [N, D]."""
        return np.asarray(self.origin + coordinates @ self.directions.T, np.float32)


def plane_of(entries: Floats) -> Plane:
    """The plane of a stage's entries [K, D]; all of the space where that is no plane of at most half its dimensions."""
    size, dim = entries.shape
    origin = entries.mean(axis=0)
    _, spreads, directions = np.linalg.svd(entries - origin, full_matrices=False)
    rank = int((spreads > _FLAT * spreads[0]).sum()) if spreads[0] > 0 else dim
    if rank > dim // 2 or rank >= size - 1:
        return whole_space(dim)
    return Plane(origin, np.ascontiguousarray(directions[:rank].T))


def whole_space(dim: int) -> Plane:
    """All D dimensions."""
    return Plane(np.zeros(dim, np.float32), np.eye(dim, dtype=np.float32))


def slice_of(dim: int, stage: int, stages: int) -> Plane:
    """The numbers of the latents that a product quantizer's stage has."""
    width = dim // stages
    return Plane(np.zeros(dim, np.float32), np.eye(dim, dtype=np.float32)[:, stage * width : (stage + 1) * width])


def k_means(points: Floats, size: int, *, seed: int = 0, thorough: bool = False) -> Floats:
    """`size` centres [K, d] of points [N, d], by Lloyd's algorithm from random points; N is K or more.

    `thorough`: from points that lie apart (k-means++), and to its end. In few dimensions centres move slowly.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # points that are equal: fewer centres are needed
        start, most = ("k-means++", THOROUGH) if thorough else ("random", ITERATIONS)
        found = KMeans(size, init=start, n_init=1, max_iter=most, random_state=seed).fit(points)
    return cast(Floats, found.cluster_centers_.astype(np.float32))


def adapted(points: Floats, start: Floats, prior: float) -> Floats:
    """Centres [K, d] moved from `start` towards the points [N, d] that are nearest to them.

    Lloyd's algorithm where each centre counts as `prior` points that lie where it began, as in MAP adaptation (Reynolds
    et al. 2000, "Speaker verification using adapted Gaussian mixture models"): where points are few,
    centres stay, and those that have none stay where they were.
    """
    centres = start
    for _ in range(ADAPTATIONS):
        codes = nearest(points, centres)
        sums = torch.zeros(start.shape).index_add_(0, torch.from_numpy(codes), torch.from_numpy(points)).numpy()
        hits = np.bincount(codes, minlength=len(start))[:, None]
        moved = (prior * start + sums) / np.maximum(prior + hits, 1e-12)
        centres = np.where(hits > 0, moved, start).astype(np.float32)
    return centres


def nearest(points: Floats, centres: Floats) -> NDArray[np.int64]:
    """The index of the nearest centre [K, d] of each point [N, d]."""
    bias = 0.5 * np.square(centres).sum(axis=1)
    parts = np.array_split(points, max(1, len(points) >> 14))  # of all of them, scores would fill the memory
    return np.concatenate([(part @ centres.T - bias).argmax(axis=1) for part in parts])


def refitted(latents: Floats, vectors: Floats, *, prior: float = PRIOR, progress: Progress = silent) -> LookupTables:
    """Stages of a codec fitted to latents [N, D]: `vectors` [S, K, D] are those that it has, and are begun from."""
    planes = [plane_of(entries) for entries in vectors]
    starts = [plane.coordinates(entries) for plane, entries in zip(planes, vectors, strict=True)]

    def book(points: Floats, stage: int) -> Floats:
        return adapted(points, starts[stage], prior)

    return _fitted(latents, planes, book, progress)


def fresh(
    latents: Floats, kind: FreshKind, size: int, stages: int, *, seed: int = 0, progress: Progress = silent
) -> LookupTables:
    """The classical baseline: codebooks of latents [N, D] alone, from random members.

    Raises:
        ExportError: stages that the kind cannot have, or fewer latents than entries.
    """
    dim = latents.shape[1]
    if kind == "vq" and stages != 1:
        raise ExportError(f"vq has one stage, not {stages}")
    if kind == "pq" and dim % stages:
        raise ExportError(f"pq splits the {dim} numbers of latents into equal slices: {stages} stages cannot have them")
    if len(latents) < size:
        raise ExportError(f"{len(latents)} frames of audio cannot fit {size} entries a stage: give more --data")
    planes = [slice_of(dim, i, stages) if kind == "pq" else whole_space(dim) for i in range(stages)]
    return _fitted(latents, planes, lambda points, stage: k_means(points, size, seed=seed + stage), progress)


def _fitted(
    latents: Floats, planes: list[Plane], book: Callable[[Floats, int], Floats], progress: Progress
) -> LookupTables:
    """Each stage's `book(points, stage)` [K, d], of what those before it left over."""
    residual, books = latents.copy(), []
    for stage, plane in enumerate(planes):
        points = plane.coordinates(residual)
        books.append(book(points, stage))
        residual -= plane.vectors(books[-1][nearest(points, books[-1])])
        progress("fitted stages", stage + 1, len(planes))
    return _tables(planes, books)


def _tables(planes: list[Plane], books: list[Floats]) -> LookupTables:
    """The search in the planes: |x - o - U c|^2 is least where (x U) c - (o U) c - |c|^2 / 2 is largest."""
    dim, width = planes[0].directions.shape[0], max(book.shape[1] for book in books)
    table = torch.stack([torch.from_numpy(plane.vectors(book)) for plane, book in zip(planes, books, strict=True)])
    if width == dim:
        return LookupTables(None, table.transpose(1, 2), -0.5 * table.square().sum(dim=2), table)
    project, score, bias = [], [], []
    for plane, book in zip(planes, books, strict=True):
        missing = width - book.shape[1]
        project.append(np.pad(plane.directions, ((0, 0), (0, missing))))
        score.append(np.pad(book, ((0, 0), (0, missing))).T)
        bias.append(-0.5 * np.square(book).sum(axis=1) - book @ (plane.origin @ plane.directions))
    projections, scores, biases = (torch.from_numpy(np.stack(part)) for part in (project, score, bias))
    return LookupTables(projections, scores, biases, table)
