"""int8 products in the linear layers of somebody else's codec, with ranges found on sound that runs through it.

What `int8` does for frame blocks, for the transformers of adapted codecs: one frame of Mimi moves 100 MB of their
weights, which is most of its time on one core.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from edgecodec.errors import ExportError
from numpy.typing import NDArray
from torch import nn

from ..int8 import LEAST_WEIGHTS, inputs_of, replace_layers
from .adapted import AdaptedCodec

_MOST_ROWS = 4096  # of inputs that a layer's range is found on


@torch.no_grad()
def use_int8(codec: AdaptedCodec, clips: Iterable[NDArray[np.float32]], *, least: int = LEAST_WEIGHTS) -> None:
    """Give linear layers of `least` weights or more int8 form; clips are `[channels, samples]` of whole frames.

    Raises:
        ExportError: no layer that is large enough, or no clip.
    """
    parts = {"encoder": codec.encoder, "decoder": codec.decoder}
    layers = {
        f"{part}.{name}": layer
        for part, network in parts.items()
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear) and layer.weight.numel() >= least
    }
    if not layers:
        raise ExportError(f"{codec.architecture} has no linear layer that is large enough to gain from int8")
    seen = inputs_of(layers, codec, (torch.from_numpy(clip)[None] for clip in clips), codec.contract.max_stages)
    replace_layers(codec, {name: inputs[:: -(-len(inputs) // _MOST_ROWS)] for name, inputs in seen.items()})
