"""Golden vectors: audio, codes and decoded audio that an export recorded, and the check of a runtime against them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .bundle import Bundle
from .code_coder import CodeCoder
from .errors import BitstreamError, BundleError
from .manifest import Manifest
from .npz import read_npz

MAX_BYTES = 64 << 20  # of all arrays
LONGEST_SECONDS = 10.0  # of audio; an export writes 0.4
# Another processor rounds differently, and a near tie may then fall the other way (and change later stages with it).
LEAST_EQUAL_CODES = 0.99
MOST_DECODED_ERROR = 5e-3  # of full scale; a number that int8 rounds the other way counts for 2e-3 at most


class Coder(Protocol):
    """A codec, as far as golden vectors need it: `Codec` is one, and asks them itself when it is loaded."""

    @property
    def bundle(self) -> Bundle:
        """Whose golden vectors they are."""

    def encode(self, audio: ArrayLike, *, stages: int | None = None) -> NDArray[np.int64]:
        """Audio to codes, as `Codec.encode`."""

    def decode(self, codes: ArrayLike, samples: int | None = None) -> NDArray[np.float32]:
        """Codes to audio, as `Codec.decode`."""

    def code_coder(self) -> CodeCoder:
        """How codes become few bytes, as `Codec.code_coder`."""


@dataclass(frozen=True)
class GoldenResult:
    """One stage count: the fraction of equal codes, and the largest difference of decoded audio (from golden codes)."""

    stages: int
    equal_codes: float
    decoded_error: float
    coded_equal: bool = True  # what the entropy model makes of the golden codes; true where there is none

    @property
    def passed(self) -> bool:
        """Whether this is the same codec, up to the rounding of another processor; the entropy model never rounds."""
        return self.coded_equal and self.equal_codes >= LEAST_EQUAL_CODES and self.decoded_error <= MOST_DECODED_ERROR


def verify(codec: Coder) -> list[GoldenResult]:
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
        equal, error = float((ours == codes).mean()), float(np.abs(again - decoded).max())
        results.append(GoldenResult(stages, equal, error, _coded_equal(codec.code_coder(), codes, arrays, stages)))
    return results


def coded(coder: CodeCoder, codes: NDArray[np.int64], stages: int) -> dict[str, NDArray[Any]]:
    """What the entropy model makes of codes: `intervals_<n>`, bytes `coded_<n>`, and where stages end in them."""
    body = coder.encode(codes)
    return {
        f"intervals_{stages}": coder.intervals(codes).astype(np.int32),
        f"coded_{stages}": np.frombuffer(body.data, np.uint8),
        f"ends_{stages}": np.array(body.ends, np.int32),
    }


def _coded_equal(coder: CodeCoder, codes: NDArray[np.int64], golden: dict[str, NDArray[Any]], stages: int) -> bool:
    """Whether an entropy model does what it did, to the bit, and back."""
    if f"coded_{stages}" not in golden:
        return True
    if any(not np.array_equal(array, golden.get(name, ())) for name, array in coded(coder, codes, stages).items()):
        return False
    body = golden[f"coded_{stages}"].tobytes()
    return np.array_equal(coder.decode([body], stages, codes.shape[2], mixed=False)[0], codes)


def read_golden(bundle: Bundle) -> dict[str, NDArray[Any]]:
    """The arrays `audio` [1, C, samples] and, for each n, `codes_<n>` [1, lines, T] and `decoded_<n>` as `audio`.

    Where the bundle has an entropy model, also what `coded` makes of the codes.
    """
    where = bundle.path / bundle.manifest.golden.file
    try:
        arrays = read_npz(bundle.golden(), lambda name: True, MAX_BYTES)
    except BitstreamError as error:
        raise BundleError(f"{where}: not golden vectors: {error}") from None
    for name in arrays:
        if not re.fullmatch(r"audio|(codes|decoded|intervals|coded|ends)_[1-9]\d{0,2}", name):
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
    if audio.shape[2] > LONGEST_SECONDS * m.sample_rate or not np.isfinite(audio).all():
        raise BundleError(f"{where}: audio of more than {LONGEST_SECONDS:g} s, or that is not finite")
    frames = m.frames(audio.shape[2])
    stages = {name.partition("_")[2] for name in arrays if name.startswith(("codes_", "decoded_"))}
    if not stages:
        raise BundleError(f"{where}: no codes")
    for n in stages:
        codes, decoded = arrays.get(f"codes_{n}"), arrays.get(f"decoded_{n}")
        shape = (1, m.layout.lines(int(n)), frames)
        if codes is None or decoded is None or codes.dtype != np.int64 or codes.shape != shape:
            raise BundleError(f"{where}: codes_{n} must be int64 {list(shape)}, with decoded_{n}")
        if int(n) > m.quantizer.max_stages or decoded.dtype != np.float32 or decoded.shape != audio.shape:
            raise BundleError(f"{where}: decoded_{n} must be float32 {list(audio.shape)}, n within the bundle's stages")
        if not np.isfinite(decoded).all():
            raise BundleError(f"{where}: decoded_{n} is not finite")
