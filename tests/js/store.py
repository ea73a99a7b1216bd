"""A folder of vectors, and what makes them: clips, random codes, bytes that are spoilt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgecodec
import numpy as np
import soundfile
from edgecodec.layout import Layout
from numpy.typing import NDArray

TESTS = Path(__file__).parents[1]
PACKAGE = TESTS.parent / "runtime" / "js"
BUNDLES = {
    "speech": TESTS.parent / "models" / "edgecodec_models" / "speech",
    **{name: TESTS / "runtime" / f"{name}_bundle" for name in ("tiny", "paths", "wide")},
}
SECONDS = 2.5


@dataclass
class Store:
    """A folder of files, and their names as JSON has them."""

    folder: Path
    files: int = 0

    def put(self, data: bytes | NDArray[np.float32]) -> str:
        """The name of a new file of bytes, or of samples as float32."""
        self.files += 1
        name = f"{self.files}.bin"
        (self.folder / name).write_bytes(data if isinstance(data, bytes) else data.astype("<f4").tobytes())
        return name


def clip(samples: int | None = None) -> NDArray[np.float32]:
    """Real speech at 24 kHz, where it is loud."""
    audio, rate = soundfile.read(TESTS / "audio" / "speech_ro.flac", dtype="float32")
    start = int(1.6 * rate)
    return audio[start : start + (samples or int(SECONDS * rate))]


def whole_clip() -> NDArray[np.float32]:
    """Real speech at 24 kHz, of six seconds and a half."""
    audio, _ = soundfile.read(TESTS / "audio" / "speech_es.flac", dtype="float32")
    return audio


def codes_json(codes: NDArray[np.int64]) -> dict[str, Any]:
    """Codes [streams, lines, frames]."""
    return {"shape": list(codes.shape), "data": codes.ravel().tolist()}


def random_codes(
    rng: np.random.Generator, layout: Layout, streams: int, stages: int, frames: int, bits: int
) -> NDArray[np.int64]:
    """Codes [streams, lines, frames] of any numbers that fit."""
    codes = rng.integers(0, 1 << bits, (streams, layout.lines(stages), frames))
    codes[:, : layout.side] = rng.integers(0, 256, codes[:, : layout.side].shape)
    return codes


def flipped(data: bytes, at: int) -> bytes:
    """The same bytes, one of them another."""
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


def said(call: Callable[..., object], *args: object) -> str | None:
    """What a refusal says, or None where nothing is refused."""
    try:
        call(*args)
    except edgecodec.EdgecodecError as error:
        return str(error)
    return None
