"""Codes as plain arrays, for language models and other tools: `.npz` (no pickle) or `.safetensors`, and back to .edgc.

| name | what |
|---|---|
| `codes` | integers [B, n_stages, T]: channels of the audio, stages (lines, where a frame has more), frames |
| `codec`, `fingerprint` | the bundle: its name, and 16 hex digits that name its graphs |
| `sample_rate`, `frame_rate` | Hz of the codec, code frames a second |
| `input_rate`, `samples`, `channels` | Hz, samples per channel and channels of the audio that was encoded |
| `gain` | dB by which that was made louder in between, where it was |

In `.npz` each is an array; in `.safetensors` (https://huggingface.co/docs/safetensors) `codes` is the tensor, and the
others stand as texts in the header's `__metadata__`. Only `codes` is needed on the way back. Where a frame has fewer
stages than others, -1 stands in place of the last ones; then the integers are signed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bitstream import Reader, Writer
from ..chunk_coder import ChunkCoder
from ..codec import Codec
from ..edgc_header import MAX_GAIN
from ..entropy_model import NO_MODEL
from ..errors import BitstreamError
from ..layout import MISSING
from ..manifest import Effort
from ..npz import read_npz
from ..packets import SEQUENCE_MODULUS, Packet
from .at_codec_rate import AtCodecRate
from .audio import AudioReader
from .decoding import packets_of
from .edgc import check_header, chunk_coder, load_named, make_header, open_edgc
from .output import open_output

SUFFIXES = (".npz", ".safetensors")
MAX_BYTES = 1 << 30  # of a file of codes: 1,000 hours at 6 kbps
_SMALL_BYTES, _MOST_INFLATION = 16 << 20, 32  # codes hold information: deflated, they do not grow by more
_FRAMES_TOGETHER = 1024  # that are searched in one go
_FACTS = ("codec", "fingerprint", "sample_rate", "frame_rate", "input_rate", "samples", "channels", "gain")
_COUNTS = ("input_rate", "samples", "channels", "gain")


@dataclass(frozen=True)
class CodeArrays:
    """Codes [B, n_stages, T] and what is known about them."""

    codes: NDArray[np.integer[Any]]
    facts: Mapping[str, str | int | float]


def codes_of_edgc(source: str, stages: int | None = None, codec: Codec | None = None) -> CodeArrays:
    """All codes of an .edgc file, the first `stages` of each frame; -1 in place of stages that a frame does not have.

    Codes that an entropy model tells need the bundle: `codec`, by default the shipped one that the file names.

    Raises:
        BitstreamError: a damaged file, no codes, fewer stages than asked for, or another bundle's file.
    """
    with open_edgc(source) as file:
        try:
            reader = Reader(file)
            header = reader.header
            if codec is None and header.model != NO_MODEL:
                codec = load_named(header)
            if codec is not None:
                check_header(codec, header)
            coder = ChunkCoder(header) if codec is None else chunk_coder(codec, header)
            packets = list(packets_of(reader, coder))
        except BitstreamError as error:
            raise BitstreamError(f"{source}: {error}") from None
    if reader.damage:
        raise BitstreamError(f"{source}: {reader.damage[0]}; decode plays what is left")
    if not packets:
        raise BitstreamError(f"{source}: holds no codes")
    most = max(packet.stages for packet in packets)
    if stages is not None and not 1 <= stages <= most:
        raise BitstreamError(f"{source}: has frames of up to {most} stages: give -q {most} or less")
    lines = header.layout.lines(most if stages is None else stages)
    joined = np.concatenate([_padded(packet.codes[:, :lines], lines) for packet in packets], axis=2)
    facts: dict[str, str | int | float] = {
        "codec": header.bundle,
        "fingerprint": header.fingerprint.hex(),
        "sample_rate": header.codec_rate,
        "frame_rate": header.codec_rate / header.frame_size,
        "input_rate": header.sample_rate,
        "samples": int(reader.samples or 0),
        "channels": header.channels,
        **({"gain": header.gain} if header.gain else {}),
    }
    return CodeArrays(joined.astype(_smallest_type(joined, header.code_bits)), facts)


def codes_of_audio(
    codec: Codec, audio: AudioReader, *, stages: int, effort: Effort = "fast", mono: bool = False
) -> CodeArrays:
    """The codes of an audio file, as many stages in every frame.

    Raises:
        AudioError: audio that cannot be read.
    """
    source = AtCodecRate(audio, codec.sample_rate, mono=mono)
    stream = codec.latent_stream(channels=source.channels, long_calls=True)
    variable = codec.variable_rate(channels=source.channels, effort=effort)
    parts: list[NDArray[np.int64]] = []
    ahead: list[NDArray[np.float32]] = []

    def search() -> None:
        latents = np.concatenate(ahead, axis=1)
        ahead.clear()
        if latents.shape[1]:
            parts.append(variable.search(latents).codes(np.full(latents.shape[:2], stages)))

    for block in source.blocks():
        ahead.append(stream.push(block))
        if sum(latents.shape[1] for latents in ahead) >= _FRAMES_TOGETHER:
            search()
    ahead.append(stream.flush())
    search()
    codes = np.concatenate(parts, axis=2)
    facts: dict[str, str | int | float] = {
        "codec": codec.manifest.name,
        "fingerprint": codec.fingerprint.hex(),
        "sample_rate": codec.sample_rate,
        "frame_rate": codec.sample_rate / codec.frame_size,
        "input_rate": source.sample_rate,
        "samples": source.samples,
        "channels": source.channels,
    }
    return CodeArrays(codes.astype(_smallest_type(codes, codec.manifest.quantizer.code_bits)), facts)


def write_arrays(arrays: CodeArrays, target: str, *, source: str | None = None, force: bool = False) -> None:
    """Write `.npz` or `.safetensors`, by the suffix; whole or not at all."""
    buffer = io.BytesIO()
    if Path(target).suffix.lower() == ".safetensors":
        from safetensors.numpy import save

        buffer.write(save({"codes": np.ascontiguousarray(arrays.codes)}, {k: str(v) for k, v in arrays.facts.items()}))
    else:
        named: dict[str, Any] = {name: np.array(fact) for name, fact in arrays.facts.items()}
        np.savez_compressed(buffer, codes=arrays.codes, **named)
    with open_output(target, force=force, suffixes=SUFFIXES, source=source) as output:
        output.file.write(buffer.getvalue())


def read_arrays(source: str) -> CodeArrays:
    """Read `.npz` or `.safetensors`, by what the file holds.

    Raises:
        BitstreamError: a file that is neither, too large, damaged, or without integer codes.
    """
    path = Path(source)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BitstreamError(f"{source}: larger than {MAX_BYTES >> 20} MiB")
        data = path.read_bytes()
    except OSError as error:
        raise BitstreamError(f"{source}: {error.strerror}") from None
    values = _from_npz(source, data) if data[:2] == b"PK" else _from_safetensors(source, data)
    codes = values.pop("codes", None)
    if codes is None:
        raise BitstreamError(f"{source}: holds no array named codes")
    if codes.dtype.kind not in "iu" or codes.ndim not in (2, 3) or not codes.size:
        raise BitstreamError(
            f"{source}: codes must be integers [B, n_stages, T], not {codes.dtype} {list(codes.shape)}"
        )
    return CodeArrays(codes.reshape(-1, *codes.shape[-2:]), values)


def write_edgc(codec: Codec, arrays: CodeArrays, target: str, *, source: str, force: bool = False) -> None:
    """Write codes as an .edgc file of this codec.

    Raises:
        BitstreamError: codes that another codec made, or that this one cannot have made; a length beyond the codes.
    """
    facts = arrays.facts
    if facts.get("fingerprint", codec.fingerprint.hex()) != codec.fingerprint.hex():
        raise BitstreamError(
            f"{source}: made with bundle {str(facts.get('codec', '?'))[:60]!r} ({str(facts['fingerprint'])[:16]}), "
            f"not with {codec.manifest.name!r} ({codec.fingerprint.hex()}); give the right one with --bundle"
        )
    codes = codec.check_codes(arrays.codes)
    rate = int(facts.get("input_rate", codec.sample_rate))
    held = max(codes.shape[2] * codec.frame_size - codec.delay, 0) * rate // codec.sample_rate
    samples = int(facts.get("samples", held))
    if not 0 <= samples <= held + 2:
        raise BitstreamError(f"{source}: says {samples} samples, its codes hold {held}")
    layout = codec.manifest.layout
    channels = int(facts.get("channels", len(codes) * codec.channels))
    if codec.manifest.streams(channels) != len(codes):
        raise BitstreamError(f"{source}: says {channels} channels, its codes are {len(codes)} streams")
    header = make_header(codec, rate, channels, layout.stages(codes.shape[1]), int(facts.get("gain", 0)))
    size = header.frames_per_packet
    coder = chunk_coder(codec, header)
    with open_output(target, force=force, source=source) as output, Writer(output.file, header) as writer:
        for number, start in enumerate(range(0, codes.shape[2], size)):
            own = codes[:, :, start : start + size]
            writer.write(coder.encode([Packet(number % SEQUENCE_MODULUS, own, layout=layout)])[0])
        writer.samples = samples


def _padded(codes: NDArray[np.int64], lines: int) -> NDArray[np.int64]:
    return np.pad(codes, ((0, 0), (0, lines - codes.shape[1]), (0, 0)), constant_values=MISSING)


def _smallest_type(codes: NDArray[np.int64], bits: int) -> type[np.integer[Any]]:
    """Unsigned where every frame has all stages, as other tools expect."""
    if codes.min() == MISSING:
        return np.int16 if bits < 16 else np.int32
    return np.uint8 if bits <= 8 else np.uint16


def _from_npz(source: str, data: bytes) -> dict[str, Any]:
    try:
        most = min(MAX_BYTES, _SMALL_BYTES + _MOST_INFLATION * len(data))
        found = read_npz(data, lambda name: name == "codes" or name in _FACTS, most)
        values = {name: array if name == "codes" else array.item() for name, array in found.items()}
    except (BitstreamError, ValueError) as error:
        raise BitstreamError(f"{source}: {error}") from None
    return _numbers(source, values)


def _from_safetensors(source: str, data: bytes) -> dict[str, Any]:
    if data[8:9] != b"{":
        raise BitstreamError(f"{source}: neither .npz nor .safetensors")
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        values: dict[str, Any] = {name: array for name, array in load(data).items() if name == "codes"}
        size = int.from_bytes(data[:8], "little")
        values |= {k: v for k, v in json.loads(data[8 : 8 + size]).get("__metadata__", {}).items() if k in _FACTS}
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BitstreamError(f"{source}: damaged: {' '.join(str(error).split())[:120]}") from None
    return _numbers(source, values)


def _numbers(source: str, values: dict[str, Any]) -> dict[str, Any]:
    """The values with those that are numbers as such."""
    try:
        values |= {name: int(values[name]) for name in _COUNTS if name in values}
    except (TypeError, ValueError, OverflowError):
        raise BitstreamError(f"{source}: {', '.join(_COUNTS)}: one is no number in range") from None
    rate, channels, gain = (
        values.get(name, usual) for name, usual in (("input_rate", 1000), ("channels", 1), ("gain", 0))
    )
    if not (1000 <= rate <= 768_000 and 1 <= channels <= 255 and 0 <= gain <= MAX_GAIN):
        raise BitstreamError(f"{source}: {', '.join(_COUNTS)}: one is no number in range")
    return values
