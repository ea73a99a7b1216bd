"""Which adapter makes a codec of what was found."""

from __future__ import annotations

from edgecodec.errors import CheckpointError

from . import dac, encodec, mimi, snac
from .adapted import AdaptedCodec
from .encodec import Start
from .sources import Published


def adapt(found: Published, start: Start | None = None) -> AdaptedCodec:
    """The codec of a published checkpoint.

    Args:
        found: what was read.
        start: for EnCodec's causal model, how a clip starts; None for its default.

    Raises:
        CheckpointError: a configuration that is not known, tensors that do not fit, a start for a kind that has one.
    """
    config, weights, original = found.config, found.weights, found.layout == "original"
    if found.kind == "encodec":
        options = {} if start is None else {"start": start}
        return (
            encodec.from_original(weights, config, **options)
            if original
            else encodec.from_transformers(config, weights, **options)
        )
    if start is not None:
        raise CheckpointError(f"{weights.where}: --start is EnCodec's, {found.kind} starts in one way")
    if found.kind == "mimi":
        return mimi.from_original(weights) if original else mimi.from_transformers(config, weights)
    if found.kind == "dac":
        return dac.from_original(config, weights) if original else dac.from_transformers(config, weights)
    return snac.from_original(config, weights)
