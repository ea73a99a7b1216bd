"""The processes of a run, through Lightning Fabric: one, or as many as torchrun started, on one node or several.

A run is the same run on any number of processes. A step's batch is drawn whole and split, rank 0 taking the first
rows; gradients are averaged, and codebooks learn from sums over all ranks (k-means, EMA, use, restart), so that every
process holds the same weights without ever sending them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from edgecodec.errors import DeviceError
from torch import Tensor

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def _alone(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Ranks:
    """This process's place among `count`, and what it needs of the others: the sum of a tensor over all of them."""

    rank: int = 0
    count: int = 1
    sum: Callable[[Tensor], Tensor] = _alone

    @classmethod
    def of(cls, fabric: Fabric) -> Ranks:
        """The ranks of a launched Fabric."""
        if fabric.world_size == 1:
            return cls()
        return cls(fabric.global_rank, fabric.world_size, lambda x: fabric.all_reduce(x.clone(), reduce_op="sum"))  # type: ignore[arg-type,return-value]

    @property
    def first(self) -> bool:
        """Whether this process is the one that logs, validates and saves."""
        return self.rank == 0

    def mean(self, x: Tensor) -> Tensor:
        """Mean of a tensor over the ranks."""
        return self.sum(x) / self.count if self.count > 1 else x

    def rows(self, x: Tensor, indices: Tensor) -> Tensor:
        """Rows `[M, d]` at `indices` of all ranks' `[N, d]` in a row: `[M, d]`, the same on every rank."""
        if self.count == 1:
            return x[indices]
        mine = indices // len(x) == self.rank
        return self.sum(torch.where(mine[:, None], x[indices % len(x)], x.new_zeros(())))


ALONE = Ranks()


def on_first_rank() -> bool:
    """Whether this process is the only one, or torchrun's first: known before it joins the others."""
    return os.environ.get("RANK", "0") == "0"


def launch(device: str = "cpu", *, mixed_precision: bool = False) -> Fabric:
    """Join the processes that torchrun started (gloo on CPUs, NCCL on GPUs), or stand alone.

    Args:
        device: `cpu`, `cuda` (under torchrun, each process takes the GPU of its local rank) or `cuda:N`.
        mixed_precision: bfloat16 where `Fabric.autocast` is entered.

    Raises:
        DeviceError: no such device, or none that this torch sees.
    """
    from lightning_fabric import Fabric

    kind, _, number = device.partition(":")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise DeviceError(f"no device {device!r}: cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise DeviceError("this torch sees no CUDA device: train with --device cpu")
    if number and int(number) >= torch.cuda.device_count():
        raise DeviceError(f"no {device}: this torch sees {torch.cuda.device_count()} CUDA devices, counted from 0")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    fabric = Fabric(
        accelerator=kind,
        devices=[int(number)] if number and here == 1 else here,
        num_nodes=int(os.environ.get("WORLD_SIZE", 1)) // here,
        precision="bf16-mixed" if mixed_precision else "32-true",
    )
    fabric.launch()
    return fabric
