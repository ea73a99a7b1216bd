"""Tensors of a checkpoint by name: each is taken with the shape that is expected, and none may be left over."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from edgecodec.errors import CheckpointError
from torch import Tensor

_NORMED = (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1"))


class Weights:
    """The tensors of one checkpoint. What does not fit is a CheckpointError that says which, and what was expected."""

    def __init__(self, tensors: Mapping[str, Tensor], where: str) -> None:
        self.where = where  # for messages
        self._tensors = dict(tensors)
        self._taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    @property
    def names(self) -> frozenset[str]:
        """All names."""
        return frozenset(self._tensors)

    def renamed(self, rules: Iterable[tuple[str, str]]) -> Weights:
        """The same tensors, every name rewritten by the first regular expression that matches all of it."""
        compiled = [(re.compile(pattern), new) for pattern, new in rules]
        tensors: dict[str, Tensor] = {}
        for name, tensor in self._tensors.items():
            new = next((m.expand(to) for pattern, to in compiled if (m := pattern.fullmatch(name))), name)
            if new in tensors:
                raise CheckpointError(f"{self.where}: two tensors for {new}")
            tensors[new] = tensor
        return Weights(tensors, self.where)

    def take(self, name: str, *shape: int) -> Tensor:
        """A tensor as float32, which must have this shape (-1: any length)."""
        tensor = self._tensors.get(name)
        if tensor is None:
            raise CheckpointError(f"{self.where}: lacks the tensor {name} {list(shape)}")
        fits = tensor.ndim == len(shape) and all(
            want in (-1, have) for want, have in zip(shape, tensor.shape, strict=True)
        )
        if not fits:
            raise CheckpointError(f"{self.where}: {name} is {list(tensor.shape)}, expected {list(shape)}")
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise CheckpointError(f"{self.where}: {name} must hold finite floating-point numbers")
        self._taken.add(name)
        return tensor.detach().float().clone()

    def kernel(self, prefix: str, *shape: int) -> Tensor:
        """The weight of a convolution, plain or in either spelling of weight normalisation.

        w = g · v / ‖v‖, the norm over all axes but the first (Salimans and Kingma 2016, arXiv:1602.07868).
        """
        for gain, direction in _NORMED:
            if f"{prefix}.{gain}" in self:
                v = self.take(f"{prefix}.{direction}", *shape)
                g = self.take(f"{prefix}.{gain}", shape[0], *[1] * (len(shape) - 1))
                norm: Tensor = torch.linalg.vector_norm(v, dim=tuple(range(1, v.ndim)), keepdim=True)
                return g * v / norm
        return self.take(f"{prefix}.weight", *shape)

    def finish(self, ignored: Sequence[str] = ()) -> None:
        """Refuse what nobody took, but for names that match one of these regular expressions."""
        left = [n for n in sorted(self._tensors.keys() - self._taken) if not any(re.fullmatch(i, n) for i in ignored)]
        if left:
            raise CheckpointError(
                f"{self.where}: {len(left)} tensors belong to no part of the model, first {left[0]} "
                f"{list(self._tensors[left[0]].shape)}: the configuration is of another model"
            )
