"""The inference form of every quantizer: stages of a scored lookup, and the search for the best codes.

Stage i picks the entry with the highest score of what earlier stages left over, and subtracts that entry's vector. The
exported ONNX graphs run this form.

The nearest entry of one stage is not always the one that later stages complete best. A plain RVQ therefore follows
several paths at once, and keeps the one whose sum ends nearest: the M-best search of multi-stage VQ (LeBlanc et al.
1993, Efficient search and design procedures for robust multi-stage VQ of LPC parameters at 4 kb/s). It costs the
encoder a few more lookups, and the decoder nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class LookupTables(NamedTuple):
    """The numbers of a search: S stages, K entries, latents of D, code vectors of d dimensions.

    Where several `paths` are kept (see `QuantizerConfig`), the score of an entry is half of what it takes off the
    squared error, so that scores add up along a path.

    Where there are `scales`, each entry is its scale times whole numbers from -127 to 127: bundles store it so.
    """

    project: Tensor | None  # [S, D, d], None when d == D and there is nothing to project
    score: Tensor  # [S, d, K]
    bias: Tensor  # [S, K]
    table: Tensor  # [S, K, D]
    paths: tuple[int, ...] = ()
    scales: Tensor | None = None  # [S, K, 1]

    def kept(self, wanted: Sequence[int] = ()) -> list[int]:
        """How many paths there are after each stage, of the `paths` or of so many wanted ones: if there can be."""
        stages, entries, _ = self.table.shape
        counts = [1]
        for most in wanted or (*self.paths, *[1] * stages)[:stages]:
            counts.append(min(most, counts[-1] * entries))
        return counts[1:]

    def macs(self) -> int:
        """Multiply-accumulates of one frame's search, all stages: a lookup for each path that reaches a stage."""
        lookup = self.score[0].numel() + (0 if self.project is None else self.project[0].numel())
        return lookup * sum([1, *self.kept()[:-1]])


@torch.no_grad()
def search(tables: LookupTables, latents: Tensor, kept: Sequence[int]) -> Tensor:
    """Codes `[B, stages, T]` of latents `[B, T, D]`: those of the best path, of `kept[i]` kept after stage i."""
    residual = latents.reshape(-1, 1, latents.shape[2])  # [N, paths, D], N = B * T
    merit = residual[..., :1] * 0  # [N, paths, 1], sum of the scores along each path
    codes = residual[..., :0].long()  # [N, paths, stages so far]
    for stage, paths in enumerate(kept):
        query = residual if tables.project is None else residual @ tables.project[stage]
        scores = merit + query @ tables.score[stage] + tables.bias[stage]  # [N, paths, K]
        best = scores.flatten(1).topk(paths)
        path, entry = best.indices // scores.shape[2], best.indices % scores.shape[2]
        along = path[:, :, None]
        codes = torch.cat([codes.take_along_dim(along, dim=1), entry[:, :, None]], dim=2)
        residual = residual.take_along_dim(along, dim=1) - tables.table[stage][entry]
        merit = best.values[:, :, None]
    return codes[:, 0].T.reshape(len(kept), *latents.shape[:2]).transpose(0, 1)


@torch.no_grad()
def look_up(tables: LookupTables, codes: Tensor) -> Tensor:
    """Latents `[B, T, D]` of codes `[B, stages, T]`: the sum of their entries."""
    return sum(
        (tables.table[stage][codes[:, stage]] for stage in range(codes.shape[1])),
        start=torch.zeros((), device=codes.device),
    )
