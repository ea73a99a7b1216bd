"""Golden vectors: audio, codes and decoded audio that an export recorded, and the check of a runtime against them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bundle import Bundle
from .codec import Codec
from .errors import BitstreamError, BundleError
from .manifest import Manifest
from .npz import read_npz

MAX_BYTES = 64 << 20  # of one array
# Another processor rounds differently, and a near tie may then fall the other way (and change later stages with it).
LEAST_EQUAL_CODES = 0.99
MOST_DECODED_ERROR = 5e-3  # of full scale; a number that int8 rounds the other way counts for 2e-3 at most


@dataclass(frozen=True)
class GoldenResult:
    """One stage count: the fraction of equal codes, and the largest difference of decoded audio (from golden codes)."""

    stages: int
    equal_codes: float
    decoded_error: float

    @property
    def passed(self) -> bool:
        """Whether this is the same codec, up to the rounding of another processor."""
        return self.equal_codes >= LEAST_EQUAL_CODES and self.decoded_error <= MOST_DECODED_ERROR


def verify(codec: Codec) -> list[GoldenResult]:
    """Encode and decode the golden vectors of the codec's bundle, at every stage count that they hold.

    Raises:
        BundleError: golden vectors that are missing, altered, or contradict the manifest.
    """
    arrays = read_golden(codec.bundle)
    audio = arrays["audio"]
    results = []
    for stages in sorted(int(name[6:]) for name in arrays if name.startswith("codes_")):
        codes, decoded = arrays[f"codes_{stages}"], arrays[f"decoded_{stages}"]
        ours = codec.encode(audio, stages=stages)
        again = codec.decode(codes, samples=audio.shape[2])
        results.append(GoldenResult(stages, float((ours == codes).mean()), float(np.abs(again - decoded).max())))
    return results


def read_golden(bundle: Bundle) -> dict[str, NDArray[Any]]:
    """The arrays `audio` [1, C, samples] and, for each n, `codes_<n>` [1, lines, T] and `decoded_<n>` as `audio`."""
    where = bundle.path / bundle.manifest.golden.file
    try:
        arrays = read_npz(bundle.golden(), lambda name: True, MAX_BYTES)
    except BitstreamError as error:
        raise BundleError(f"{where}: not golden vectors: {error}") from None
    for name in arrays:
        if not re.fullmatch(r"audio|(codes|decoded)_[1-9]\d{0,2}", name):
            raise BundleError(f"{where}: holds {name[:60]!r}, which is no golden vector")
    _check_shapes(arrays, bundle.manifest, str(where))
    return arrays


def _check_shapes(arrays: dict[str, NDArray[Any]], m: Manifest, where: str) -> None:
    audio = arrays.get("audio")
    if (
        audio is None
        or audio.dtype != np.float32
        or audio.ndim != 3
        or audio.shape[:2] != (1, m.channels)
        or not audio.size
    ):
        raise BundleError(f"{where}: no float32 audio [1, {m.channels}, samples]")
    frames = m.frames(audio.shape[2])
    stages = {name.partition("_")[2] for name in arrays if name != "audio"}
    if not stages:
        raise BundleError(f"{where}: no codes")
    for n in stages:
        codes, decoded = arrays.get(f"codes_{n}"), arrays.get(f"decoded_{n}")
        shape = (1, m.layout.lines(int(n)), frames)
        if codes is None or decoded is None or codes.dtype != np.int64 or codes.shape != shape:
            raise BundleError(f"{where}: codes_{n} must be int64 {list(shape)}, with decoded_{n}")
        if int(n) > m.quantizer.max_stages or decoded.dtype != np.float32 or decoded.shape != audio.shape:
            raise BundleError(f"{where}: decoded_{n} must be float32 {list(audio.shape)}, n within the bundle's stages")
