"""int8 products in the linear layers of somebody else's codec, with ranges found on sound that runs through it.

What `int8` does for frame blocks, for the transformers of adapted codecs: one frame of Mimi moves 100 MB of their
weights, which is most of its time on one core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from edgecodec.errors import ExportError
from numpy.typing import NDArray
from torch import Tensor, nn

from ..int8 import LEAST_WEIGHTS, STAGES_KEPT, Int8Linear
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
    for name, inputs in _inputs_of(layers, codec, clips).items():
        parent, _, own = name.rpartition(".")
        setattr(codec.get_submodule(parent), own, Int8Linear(layers[name], inputs))


def _inputs_of(
    layers: dict[str, nn.Linear], codec: AdaptedCodec, clips: Iterable[NDArray[np.float32]]
) -> dict[str, Tensor]:
    """What the layers see, [N, in], while clips are encoded, and decoded from several stage counts."""
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}
    hooks = [layer.register_forward_pre_hook(_recorder(seen[name])) for name, layer in layers.items()]
    stages = sorted({max(1, round(share * codec.contract.max_stages)) for share in STAGES_KEPT})
    try:
        for clip in clips:
            latents = codec.encode_latents(torch.from_numpy(clip)[None])
            for count in stages:
                codec.decode_latents(codec.quantizer.decode(codec.quantizer.encode(latents, count)))
    finally:
        for hook in hooks:
            hook.remove()
    if not all(seen.values()):
        raise ExportError("int8 finds its ranges on sound, and there is none")
    rows = {name: torch.cat(inputs) for name, inputs in seen.items()}
    return {name: inputs[:: -(-len(inputs) // _MOST_ROWS)] for name, inputs in rows.items()}


def _recorder(kept: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kept.append(inputs[0].flatten(0, -2).clone())

    return record
