"""Which EnCodec a configuration says: one of three kinds, and its sizes.

| kind | published as | convolutions | normalised by |
|---|---|---|---|
| causal | 24 kHz | see only the past | weight norm |
| chunked | 48 kHz, stereo | see a chunk of a second | GroupNorm over the chunk, and the chunk's loudness |
| symmetric | 32 kHz, of MusicGen | see both sides | weight norm |
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from edgecodec.errors import CheckpointError
from torch import Tensor

from .adapted import Contract
from .weights import Weights

EncodecKind = Literal["causal", "chunked", "symmetric"]
DEFAULTS: dict[str, Any] = {  # of transformers, which are the 24 kHz model's
    "sampling_rate": 24_000,
    "audio_channels": 1,
    "use_causal_conv": True,
    "norm_type": "weight_norm",
    "normalize": False,
    "chunk_length_s": None,
    "overlap": None,
    "pad_mode": "reflect",
    "trim_right_ratio": 1.0,
    "upsampling_ratios": [8, 5, 4, 2],
    "num_filters": 32,
    "num_residual_layers": 1,
    "dilation_growth_rate": 2,
    "kernel_size": 7,
    "last_kernel_size": 7,
    "residual_kernel_size": 3,
    "compress": 2,
    "num_lstm_layers": 2,
    "hidden_size": 128,
    "codebook_size": 1024,
    "codebook_dim": 128,
    "use_conv_shortcut": True,
    "target_bandwidths": [1.5, 3.0, 6.0, 12.0, 24.0],
}
STEREO_48_KHZ: dict[str, Any] = {  # what the original's file does not say, beyond `DEFAULTS`
    "sampling_rate": 48_000,
    "audio_channels": 2,
    "use_causal_conv": False,
    "norm_type": "time_group_norm",
    "normalize": True,
    "chunk_length_s": 1.0,
    "overlap": 0.01,
    "target_bandwidths": [3.0, 6.0, 12.0, 24.0],
}
LEARNING = [r"quantizer\.layers\.\d+\.codebook\.(inited|cluster_size|embed_avg)"]  # of training, no part of the codec
_MONO = {"norm_type": "weight_norm", "normalize": False, "chunk_length_s": None, "audio_channels": 1}
_TRAITS: dict[EncodecKind, dict[str, Any]] = {
    "causal": {"use_causal_conv": True} | _MONO,
    "chunked": {"use_causal_conv": False, "norm_type": "time_group_norm", "normalize": True, "audio_channels": 2},
    "symmetric": {"use_causal_conv": False} | _MONO,
}


def kind_of(c: dict[str, Any], where: str) -> EncodecKind:
    """The kind of a whole configuration.

    Raises:
        CheckpointError: none of the three.
    """
    unlike = {kind: [key for key in traits if c[key] != traits[key]] for kind, traits in _TRAITS.items()}
    nearest = min(unlike, key=lambda kind: len(unlike[kind]))
    if unlike[nearest]:
        key = unlike[nearest][0]
        raise CheckpointError(
            f"{where}: EnCodec with {key} = {c[key]!r:.60} is not adapted; the nearest that is, the {nearest} model, "
            f"has {_TRAITS[nearest][key]!r}"
        )
    return nearest


def completed(config: dict[str, Any], where: str) -> dict[str, Any]:
    """A configuration with its defaults, if all sizes are in range.

    Raises:
        CheckpointError: what cannot be a size, or is at odds with the rest.
    """
    c = DEFAULTS | {key: value for key, value in config.items() if key in DEFAULTS}
    counts = [c[key] for key, value in DEFAULTS.items() if isinstance(value, int) and not isinstance(value, bool)]
    ratios, rates = c["upsampling_ratios"], c["target_bandwidths"]
    plain = all(type(n) is int and 0 < n <= 1 << 20 for n in counts)
    if not (plain and isinstance(ratios, list) and all(type(r) is int and 1 < r <= 64 for r in ratios) and ratios):
        raise CheckpointError(f"{where}: config.json holds a size that is no whole number in range")
    if not (isinstance(rates, list) and rates and all(isinstance(r, int | float) and 0 < r < 1000 for r in rates)):
        raise CheckpointError(f"{where}: config.json: target_bandwidths must list kbps")
    if c["codebook_dim"] != c["hidden_size"]:
        raise CheckpointError(f"{where}: codebooks of {c['codebook_dim']} dimensions for latents of {c['hidden_size']}")
    if c["trim_right_ratio"] != 1 or c["pad_mode"] not in ("reflect", "constant"):
        raise CheckpointError(
            f"{where}: trim_right_ratio {c['trim_right_ratio']!r:.60} with pad_mode {c['pad_mode']!r:.60} is not "
            "adapted, only 1.0 with reflect or constant"
        )
    return c


def codebooks(c: dict[str, Any], weights: Weights) -> Tensor:
    """`[S, K, D]`, as many stages as the highest of the bandwidths takes."""
    frame_rate = math.ceil(c["sampling_rate"] / math.prod(c["upsampling_ratios"]))
    bits = math.log2(c["codebook_size"])
    stages = max(1, int(1000 * c["target_bandwidths"][-1] // (frame_rate * bits)))
    shape = (c["codebook_size"], c["codebook_dim"])
    return torch.stack([weights.take(f"quantizer.layers.{i}.codebook.embed", *shape) for i in range(stages)])


def contract(c: dict[str, Any], stages: int, **promises: Any) -> Contract:
    """The sizes that a model without chunks has, and what else it promises."""
    frame_size = math.prod(c["upsampling_ratios"])
    return Contract(c["sampling_rate"], frame_size, c["hidden_size"], c["codebook_size"], stages, **promises)


def facts(c: dict[str, Any]) -> dict[str, Any]:
    """Sizes for the manifest."""
    return {key: c[key] for key in ("num_filters", "upsampling_ratios", "num_lstm_layers")}
