"""Which adapter makes a codec of what was found."""

from __future__ import annotations

from edgecodec.errors import CheckpointError

from . import encodec
from .adapted import AdaptedCodec
from .sources import Published


def adapt(found: Published) -> AdaptedCodec:
    """The codec of a published checkpoint.

    Raises:
        CheckpointError: a kind without an adapter, a configuration it does not know, tensors that do not fit.
    """
    if found.kind == "encodec":
        if found.layout == "original":
            return encodec.from_original(found.weights)
        return encodec.from_transformers(found.config, found.weights)
    raise CheckpointError(
        f"{found.weights.where}: {found.kind} is recognised, but not adapted yet; encodec (24 kHz) is"
    )
