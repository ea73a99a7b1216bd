"""What is scored: a bundle at a stage count and, beside it, the classical codecs that this machine has.

Opus comes with libsndfile. Speex comes as the programs `speexenc` and `speexdec` (Debian: `apt-get install speex`).
"""

from __future__ import annotations

import io
import math
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from .. import Codec
from ..errors import EdgecodecError
from ..files.encoding import Rate
from ..files.in_memory import decode_clip, encode_clip
from ..manifest import Effort

Audio = NDArray[np.float32]  # [samples]

UNCODED = "noisy input"
OPUS_BITRATES = (6, 9, 12, 16, 24, 32)  # kbps asked for; Opus begins at 6
OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)  # Hz that it codes
SPEEX_RATE = 16_000  # Hz, wideband
SPEEX_FRAME = 320  # samples
SPEEX_BITRATES = (4.0, 6.0, 8.0, 10.0, 12.8, 16.8, 20.8, 24.0, 28.0)  # kbps, at qualities 0, 1, 2, …; in whole bytes
_TWO_PAGES = 6 * SPEEX_RATE  # samples


@dataclass(frozen=True)
class Coded:
    """A clip after coding: audio of the original's length and rate, aligned with it; its bits; seconds of compute."""

    audio: Audio
    bits: float
    encode_seconds: float | None = None
    decode_seconds: float | None = None


class ComparedCodec(Protocol):
    """A codec at one bitrate. `label` tells its settings apart; `stages` is None where there are none."""

    @property
    def name(self) -> str:
        """Name of the codec, the same at every bitrate."""

    @property
    def label(self) -> str:
        """Name of the codec and its setting."""

    @property
    def stages(self) -> int | None:
        """Stage count."""

    def __call__(self, audio: Audio, sample_rate: int) -> Coded:
        """Encode and decode a clip."""


@dataclass(frozen=True)
class BundleCodec:
    """A bundle at a stage count; its bits are those of its nominal bitrate."""

    codec: Codec
    stages: int
    effort: Effort = "best"  # of files too, which are encoded with less unless they are asked for it

    @property
    def name(self) -> str:
        """Name of the bundle."""
        return self.codec.manifest.name

    @property
    def kbps(self) -> float:
        """Nominal bitrate."""
        return self.codec.bitrates[self.stages - 1]

    @property
    def label(self) -> str:
        """For instance `speech, 6 kbps`."""
        return f"{self.name}, {self.kbps:g} kbps"

    def __call__(self, audio: Audio, sample_rate: int) -> Coded:
        """Encode and decode a clip at the rate of the bundle; both are timed."""
        begin = time.perf_counter()
        codes = self.codec.encode(audio, stages=self.stages, effort=self.effort)
        middle = time.perf_counter()
        decoded = self.codec.decode(codes, samples=len(audio))[0, 0]
        end = time.perf_counter()
        return Coded(decoded, 1000 * self.kbps * len(audio) / sample_rate, middle - begin, end - middle)


@dataclass(frozen=True)
class VariableBundleCodec:
    """A bundle as files have it: stage counts that vary, all bytes of a file counted, and their mean in kbps."""

    codec: Codec
    kbps: float
    effort: Effort = "best"
    stages = None

    @property
    def name(self) -> str:
        """Name of the bundle, and that it is variable."""
        return f"{self.codec.manifest.name}, files"

    @property
    def label(self) -> str:
        """For instance `speech, files, 6 kbps`."""
        return f"{self.name}, {self.kbps:g} kbps"

    def __call__(self, audio: Audio, sample_rate: int) -> Coded:
        """Through a file in memory; both directions are timed."""
        begin = time.perf_counter()
        channels = np.tile(audio, (self.codec.channels, 1))
        data = encode_clip(self.codec, channels, Rate(kbps=self.kbps), effort=self.effort)
        middle = time.perf_counter()
        decoded = decode_clip(self.codec, data)[0]
        end = time.perf_counter()
        return Coded(decoded, 8 * len(data), middle - begin, end - middle)


@dataclass(frozen=True)
class Uncoded:
    """What the codecs hear, as 16-bit samples: how it scores where noise is behind it."""

    name = label = UNCODED
    stages = None

    def __call__(self, audio: Audio, sample_rate: int) -> Coded:
        """The clip as it is."""
        return Coded(audio, 16 * len(audio))


@dataclass(frozen=True)
class Opus:
    """Opus as libsndfile codes it: variable bitrate, frames of 20 ms, the bandwidth and mode that it finds best."""

    kbps: int
    name = "Opus"
    stages = None

    @property
    def label(self) -> str:
        """For instance `Opus, 6 kbps`."""
        return f"Opus, {self.kbps:g} kbps"

    def __call__(self, audio: Audio, sample_rate: int) -> Coded:
        """Through an Ogg file in memory; libsndfile removes the pre-skip."""
        rate = sample_rate if sample_rate in OPUS_RATES else OPUS_RATES[-1]
        level = (256 - self.kbps) / 250  # libsndfile's compression level: 0 is 256 kbps a channel, 1 is 6
        file = io.BytesIO()
        soundfile.write(
            file, _resampled(audio, sample_rate, rate), rate, format="OGG", subtype="OPUS", compression_level=level
        )
        bits = 8 * sum(ogg_packets(file.getvalue())[2:])
        file.seek(0)
        decoded, _ = soundfile.read(file, dtype="float32")
        return Coded(_fitted(_resampled(decoded, rate, sample_rate), len(audio)), bits)


@dataclass(frozen=True)
class Speex:
    """Speex wideband at a constant bitrate and full complexity, by `speexenc` and `speexdec`."""

    quality: int
    name = "Speex"
    stages = None

    @property
    def label(self) -> str:
        """For instance `Speex, 6 kbps`."""
        return f"Speex, {SPEEX_BITRATES[self.quality]:g} kbps"

    def __call__(self, audio: Audio, sample_rate: int) -> Coded:
        """Through files.

        `speexdec` removes the delay of the codec only where an Ogg stream has more than one page, and then cuts the
        end: silence after the clip makes a second page. The bits are those of the clip's own packets.
        """
        original = _resampled(audio, sample_rate, SPEEX_RATE)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            soundfile.write(folder / "in.wav", np.pad(original, (0, _TWO_PAGES)), SPEEX_RATE, subtype="PCM_16")
            _run(
                "speexenc", "--wideband", "--comp", "10", "--quality", str(self.quality), "in.wav", "a.spx", cwd=folder
            )
            _run("speexdec", "a.spx", "out.wav", cwd=folder)
            packets = ogg_packets((folder / "a.spx").read_bytes())[2:]
            decoded, _ = soundfile.read(folder / "out.wav", dtype="float32")
        bits = 8 * sum(packets[: math.ceil(len(original) / SPEEX_FRAME)])
        decoded = _fitted(decoded, len(original))
        return Coded(_fitted(_resampled(decoded, SPEEX_RATE, sample_rate), len(audio)), bits)


def classical_codecs(highest_kbps: float) -> tuple[list[ComparedCodec], list[str]]:
    """Opus and Speex, from their lowest bitrate to the first that reaches `highest_kbps`; and what is missing here."""
    codecs: list[ComparedCodec] = []
    missing = []
    if "OPUS" in soundfile.available_subtypes("OGG"):
        codecs += [Opus(OPUS_BITRATES[i]) for i in _reaching(highest_kbps, OPUS_BITRATES)]
    else:
        missing.append("Opus is not scored: this libsndfile lacks it; pip install --force-reinstall soundfile")
    if shutil.which("speexenc") and shutil.which("speexdec"):
        codecs += [Speex(i) for i in _reaching(highest_kbps, SPEEX_BITRATES)]
    else:
        missing.append("Speex is not scored: it needs speexenc and speexdec; apt-get install speex")
    return codecs, missing


def ogg_packets(data: bytes) -> list[int]:
    """Bytes of each packet of an Ogg stream (RFC 3533, section 6), the headers of the codec included.

    Raises:
        EdgecodecError: anything but Ogg pages.
    """
    return list(_ogg_packets(data))


def _ogg_packets(data: bytes) -> Iterator[int]:
    """A page is 27 bytes, of which the last is a count; so many lacing values; then their sum in bytes.

    A packet is the sum of values of 255 and of the one below that ends it; it may go on in the next page.
    """
    position = size = 0
    while position < len(data):
        if data[position : position + 4] != b"OggS":
            raise EdgecodecError("an encoder wrote something else than Ogg pages")
        lacing = data[position + 27 : position + 27 + data[position + 26]]
        for value in lacing:
            size += value
            if value < 255:
                yield size
                size = 0
        position += 27 + len(lacing) + sum(lacing)


def _reaching(highest: float, bitrates: tuple[float, ...]) -> range:
    return range(min(sum(kbps < highest for kbps in bitrates) + 1, len(bitrates)))


def _resampled(audio: Audio, source_rate: int, target_rate: int) -> Audio:
    return audio if source_rate == target_rate else np.asarray(soxr.resample(audio, source_rate, target_rate))


def _fitted(audio: Audio, samples: int) -> Audio:
    return np.pad(audio, (0, max(0, samples - len(audio))))[:samples]


def _run(*command: str, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EdgecodecError(f"{command[0]} failed: {' '.join(done.stderr.split())[-200:]}")
