"""The published weights against numbers that the tests of transformers hold: `make published`. It needs the network.

The clips are those of these tests: the first and the last row of the dataset librispeech_asr_dummy as it lies on the
hub (16 kHz, mono), and 45 s of a speech, past the window of Mimi's attention. transformers resamples them with
librosa, which calls soxr at its high quality, as is done here; newer versions of its datasets package resample with
FFmpeg, so that a code here and there may differ. Most numbers were recorded on GPUs, some of them with products of 10
bits (TF32): near ties were decided differently there.

Of codes, a share must be equal: the chance of one code is 1 in 1,024, so that even half of them would be no accident.
A sum says less, and the end counts in it: transformers fills up the last frame layer by layer, here the audio is
filled up with zeros. So a sum may be off by what its check allows, and by one frame.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from edgecodec.errors import CheckpointError
from edgecodec_export.adapters import catalogue, dac, encodec, mimi
from edgecodec_export.adapters.adapted import AdaptedCodec
from edgecodec_export.adapters.sources import Published, read_published
from numpy.typing import NDArray
from torch import Tensor

SPEECH = ("hf-internal-testing/librispeech_asr_dummy", "clean/validation-00000-of-00001.parquet")
LONG = ("hf-internal-testing/dummy-audio-samples", "obama_first_45_secs.mp3")
CLIPS = ("first", "last", "long")
Clip = tuple[NDArray[np.float32], int]  # samples [N] and their rate in Hz
_SHOWN = 6  # numbers of a line


class MissingError(Exception):
    """Something that the check needs could not be had; the message is one line."""


@dataclass(frozen=True)
class Codes:
    """The first codes of a clip, `[stages, time]`."""

    clip: str
    expected: Sequence[Sequence[int]]
    equal: float  # the least share
    again: bool = False  # codes of what the codes of all stages decode to

    def found(self, codec: AdaptedCodec, latents: Tensor) -> tuple[bool, str]:
        """Whether they are there, and the line that says so."""
        contract, stages = codec.contract, len(self.expected)
        if self.again:
            latents = codec.quantizer.decode(codec.quantizer.encode(latents, contract.max_stages))
        lines = codec.quantizer.encode(latents, stages)[0, contract.side :]
        widths = list(contract.stage_widths or (1,) * contract.max_stages)[:stages]
        rows = [part.T.flatten().tolist() for part in lines.split(widths)]
        of, same = 0, 0
        for row, expected in zip(rows, self.expected, strict=True):
            of += len(expected)
            same += sum(a == b for a, b in zip(row, expected, strict=False))
        said = f"{stages} stages of the {self.clip} clip: expected {_some(self.expected[0])}, found {_some(rows[0])}"
        return same >= self.equal * of, f"{said}; {same} of {of} codes equal, {self.equal:.0%} needed"


@dataclass(frozen=True)
class Sum:
    """The sum of all codes of a clip, or of its first blocks one by one."""

    clip: str
    stages: int
    expected: Sequence[int]
    off: float  # by which share it may differ, besides one frame
    blocks: bool = False

    def found(self, codec: AdaptedCodec, latents: Tensor) -> tuple[bool, str]:
        """Whether it is that, and the line that says so."""
        lines = codec.quantizer.encode(latents, self.stages)[0, codec.contract.side :]
        frames = lines.shape[1]
        sums = lines.sum(0)[: len(self.expected)].tolist() if self.blocks else [int(lines.sum())]
        allowed = self.off + (0 if self.blocks else 1 / frames)
        apart = max(abs(a - b) / b for a, b in zip(sums, self.expected, strict=False))
        said = f"sum of {self.stages} stages of the {self.clip} clip: expected {_some(self.expected)}"
        complete = len(sums) == len(self.expected)
        return complete and apart <= allowed, f"{said}, found {_some(sums)}; {apart:.2%} off, {allowed:.2%} allowed"


@dataclass(frozen=True)
class Model:
    """A published model, how it is adapted, and what is known of it."""

    source: str
    adapt: Callable[[Published], AdaptedCodec]
    checks: Sequence[Codes | Sum]


def _encodec(found: Published) -> AdaptedCodec:
    return encodec.from_transformers(found.config, found.weights, start="exact")


def _mimi(found: Published) -> AdaptedCodec:
    return mimi.from_transformers(found.config, found.weights)


def _dac(found: Published) -> AdaptedCodec:
    return dac.from_transformers(found.config, found.weights)


# EnCodec: codes as transformers has tested them since its pull request 39431, sums as before it; at 24 kHz it changed
# nothing that they depend on, at 48 kHz it cuts the same chunks of 48,000 samples but for the last.
# Mimi: sums within 0.3 %, as transformers tests them.
# DAC: codes of what was quantized already, as transformers tests them since its pull request 39313, which could not
# reproduce the means of all codes that were tested before. Later recordings differ from those in 2 of the 15 codes of
# the first stage at 16 kHz and at 24 kHz, in none at 44.1 kHz.
MODELS = (
    Model(
        "hf:facebook/encodec_24khz",
        _encodec,
        [
            Codes(
                "first",
                [
                    [62, 835, 835, 835, 835, 835, 835, 835, 408, 408],
                    [1007, 1007, 1007, 544, 424, 424, 1007, 424, 302, 424],
                    [786, 678, 821, 786, 36, 36, 786, 212, 937, 937],
                    [741, 741, 741, 993, 741, 1018, 993, 919, 741, 741],
                ],
                equal=0.9,
            ),
            Sum("last", 2, [371_955], off=0.02),
            Sum("last", 32, [6_659_962], off=0.02),
        ],
    ),
    Model(
        "hf:facebook/encodec_48khz",
        catalogue.adapt,
        [
            Codes(
                "first",
                [
                    [214, 214, 214, 214, 214, 118, 214, 214, 214, 214],
                    [989, 989, 611, 77, 77, 989, 976, 976, 976, 77],
                ],
                equal=0.9,
            ),
            Sum("last", 2, [144_259, 146_765, 156_435, 176_871], off=0.02, blocks=True),
        ],
    ),
    Model(
        "hf:kyutai/mimi",
        _mimi,
        [
            Sum("last", 8, [426_176], off=0.003),
            Sum("last", 32, [1_795_819], off=0.003),
            Sum("long", 8, [4_621_433], off=0.003),
            Sum("long", 32, [18_446_927], off=0.003),
        ],
    ),
    Model(
        "hf:descript/dac_16khz",
        _dac,
        [
            Codes(
                "first",
                [[804, 25, 536, 52, 834, 867, 388, 653, 484, 706, 301, 305, 752, 25, 40]],
                equal=0.8,
                again=True,
            )
        ],
    ),
    Model(
        "hf:descript/dac_24khz",
        _dac,
        [
            Codes(
                "first",
                [[252, 851, 919, 204, 239, 360, 90, 103, 851, 876, 160, 160, 103, 234, 665]],
                equal=0.8,
                again=True,
            )
        ],
    ),
    Model(
        "hf:descript/dac_44khz",
        _dac,
        [
            Codes(
                "first",
                [
                    [698, 315, 105, 315, 330, 105, 105, 698, 315, 481, 330, 93, 629, 315, 105],
                    [30, 232, 249, 881, 962, 365, 56, 881, 186, 402, 311, 521, 558, 778, 254],
                    [1022, 22, 361, 491, 233, 419, 909, 456, 456, 471, 420, 569, 455, 491, 16],
                ],
                equal=0.9,
                again=True,
            )
        ],
    ),
)


@dataclass
class Clips:
    """The clips by name: of files that were given, else of the hub, once each."""

    files: dict[str, Path] = field(default_factory=dict)
    _read: dict[str, Clip] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Clip:
        if name in self.files:
            return _decoded(self.files[name])
        if name not in self._read:
            self._read |= {"long": _decoded(_downloaded(*LONG))} if name == "long" else ends(_downloaded(*SPEECH))
        return self._read[name]


def ends(parquet: Path) -> dict[str, Clip]:
    """The first and the last clip of a dataset's file, whose column `audio` holds FLAC files as bytes."""
    try:
        from pyarrow import ArrowException  # type: ignore[import-not-found,unused-ignore]
        from pyarrow.parquet import read_table  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise MissingError(f"{parquet.name}: reading it needs pyarrow, which `make published` installs") from None
    try:
        rows = read_table(parquet, columns=["audio"])["audio"]
        found = {name: rows[i].as_py()["bytes"] for name, i in (("first", 0), ("last", -1))}
    except (ArrowException, OSError, KeyError, IndexError, TypeError) as error:
        raise MissingError(f"{parquet.name}: no rows with audio in it: {_line(error)}") from None
    return {name: _decoded(io.BytesIO(content)) for name, content in found.items()}


def _decoded(file: Path | io.BytesIO) -> Clip:
    try:
        audio, rate = soundfile.read(file, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        raise MissingError(_line(error)) from None
    return audio.mean(axis=1), rate


def _downloaded(dataset: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(dataset, file, repo_type="dataset"))
    except (OSError, ValueError) as error:  # as huggingface-hub raises them: no network, no such file, no permission
        raise MissingError(f"dataset {dataset} cannot be had: {_line(error)}") from None


def latents_of(codec: AdaptedCodec, clip: Clip) -> Tensor:
    """Latents `[1, T, D]` of a whole clip, the same in all channels, filled up with zeros to whole frames."""
    contract, (audio, rate) = codec.contract, clip
    if rate != contract.sample_rate:
        audio = soxr.resample(audio, rate, contract.sample_rate, quality="HQ")
    audio = np.pad(audio, (0, -len(audio) % contract.frame_size))
    return codec.encode_latents(torch.from_numpy(audio).expand(1, contract.channels, -1))


@torch.no_grad()
def passes(model: Model, clips: Clips) -> bool:
    """Check one model and print a line for each number; only a line of what is missing where it cannot be had."""
    try:
        found = read_published(model.source)
    except CheckpointError as error:
        print(f"{_line(error)}: FAIL", flush=True)
        return False
    name = f"{model.source}@{found.origin['revision'][:8]}" if "revision" in found.origin else model.source
    try:
        codec = model.adapt(found)
    except CheckpointError as error:
        not_yet = "not adapted" in str(error)
        print(f"{name}: not adapted" if not_yet else f"{_line(error)}: FAIL", flush=True)
        return not_yet
    good, latents = True, dict[str, Tensor]()
    for check in model.checks:
        try:
            if check.clip not in latents:
                latents[check.clip] = latents_of(codec, clips[check.clip])
            same, said = check.found(codec, latents[check.clip])
        except MissingError as error:
            same, said = False, str(error)
        print(f"{name}: {said}: {'pass' if same else 'FAIL'}", flush=True)
        good &= same
    return good


def main(arguments: Sequence[str] | None = None, models: Sequence[Model] = MODELS) -> int:
    """Check the models that are asked for; 1 if one failed or could not be had."""
    parser = argparse.ArgumentParser(description="Published weights against numbers in the tests of transformers.")
    parser.add_argument("--only", metavar="NAME", help="models with this in their names")
    parser.add_argument(
        "--audio",
        metavar="CLIP=FILE",
        action="append",
        default=[],
        help=f"a file in place of a clip that is downloaded ({', '.join(CLIPS)}); FILE alone is the first",
    )
    options = parser.parse_args(arguments)
    files = {}
    for given in options.audio:
        clip, _, file = given.rpartition("=")
        if clip not in ("", *CLIPS):
            parser.error(f"--audio {given}: clips are {', '.join(CLIPS)}")
        files[clip or CLIPS[0]] = Path(file)
    chosen = [model for model in models if options.only is None or options.only in model.source]
    if not chosen:
        parser.error(f"--only {options.only}: none of {', '.join(model.source for model in models)}")
    clips = Clips(files)
    good = [passes(model, clips) for model in chosen]
    return int(not all(good))


def _some(numbers: Sequence[int]) -> str:
    shown = " ".join(map(str, numbers[:_SHOWN]))
    return shown + (" …" if len(numbers) > _SHOWN else "")


def _line(error: Any) -> str:
    return " ".join(str(error).split())[:200]


if __name__ == "__main__":
    sys.exit(main())
