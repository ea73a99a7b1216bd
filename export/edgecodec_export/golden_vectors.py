"""Golden vectors: what a codec makes of a short clip, by which any runtime proves itself; see `edgecodec.golden`."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from edgecodec.codec import Codec
from edgecodec.golden import coded

from .audio import Audio, channels_of

GOLDEN = "golden.npz"
GOLDEN_SECONDS = 0.4
GOLDEN_STAGES = (1, 2, 4, 8)  # and all


def golden_vectors(codec: Codec, audio: Audio) -> bytes:
    """What the codec makes of a short clip: `audio` [1, C, samples], `codes_<n>` and `decoded_<n>` for several n."""
    both = channels_of(audio, codec.channels)[None]
    arrays: dict[str, Any] = {"audio": both}
    for n in sorted({min(n, codec.max_stages) for n in (*GOLDEN_STAGES, codec.max_stages)}):
        arrays[f"codes_{n}"] = codec.encode(both, stages=n)
        arrays[f"decoded_{n}"] = codec.decode(arrays[f"codes_{n}"], samples=len(audio))
        if codec.manifest.entropy is not None:
            arrays |= coded(codec.code_coder(), arrays[f"codes_{n}"], n)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()
