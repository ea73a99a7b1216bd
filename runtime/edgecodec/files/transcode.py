"""Audio files to .edgc files and back, in blocks: an hour takes no more memory than a minute."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..bitstream import MAX_PACKET, Header, Reader, Writable, Writer
from ..bundle import shipped_bundles
from ..codec import Codec, load
from ..errors import AudioError, BitstreamError
from ..progress import Progress, silent
from ..sessions import Device
from .audio import AUDIO_SUFFIXES, AudioReader, AudioWriter, Resampler, open_audio
from .output import Output, OutputFile, open_output

_PACKET_SECONDS = 0.48  # what one damaged packet costs; at 6 kbps its 7 bytes of framing are 2 %


@dataclass(frozen=True)
class Report:
    """What encoding or decoding did."""

    seconds: float  # of audio
    sample_rate: int  # Hz, of the audio file
    channels: int  # in the .edgc file
    stages: int  # the most in a packet
    payload_kbps: float  # codes alone, all channels
    file_kbps: float  # the whole .edgc
    file_bytes: int
    speed: float  # seconds of audio per second of compute
    damage: str | None = None  # of the .edgc that was decoded


def encode_file(
    codec: Codec,
    source: str,
    target: str,
    *,
    stages: int,
    mono: bool = False,
    force: bool = False,
    progress: Progress = silent,
) -> Report:
    """Encode an audio file, `-` for WAV on standard input, to an .edgc file, `-` for standard output.

    Raises:
        AudioError: audio that cannot be read. EdgecodecError: output that exists or cannot be written.
    """
    with open_audio(source) as audio, open_output(target, force=force) as output:
        return encode_audio(codec, audio, output.file, stages=stages, mono=mono, progress=progress)


def decode_file(
    source: str,
    target: str,
    *,
    codec: Codec | None = None,
    device: Device = "cpu",
    threads: int = 1,
    strict: bool = False,
    force: bool = False,
    progress: Progress = silent,
) -> Report:
    """Decode an .edgc file, `-` for standard input, to an audio file, `-` for WAV on standard output.

    Without a codec, the shipped bundle that the file names is loaded. A damaged file decodes up to the damage, which
    the report names; with `strict` it is refused, and nothing is written.

    Raises:
        BitstreamError: no .edgc file, another bundle's, one that cannot be read, or nothing to decode.
        EdgecodecError: output as in `encode_file`.
    """
    with open_edgc(source) as file, open_output(target, force=force, suffixes=AUDIO_SUFFIXES) as output:
        try:
            if strict:
                file = _checked_whole(file)
            reader = Reader(file)
            return decode_packets(
                codec or _load_named(reader.header, device, threads), reader, output, progress=progress
            )
        except BitstreamError as error:
            raise BitstreamError(f"{_input_name(source)}: {error}") from None


def roundtrip_file(
    codec: Codec,
    source: str,
    target: str,
    *,
    stages: int,
    mono: bool = False,
    force: bool = False,
    progress: Progress = silent,
) -> tuple[Report, Report]:
    """Encode and decode a file; the .edgc between them is temporary. Errors as in `encode_file`."""
    with (
        open_audio(source) as audio,
        open_output(target, force=force, suffixes=AUDIO_SUFFIXES) as output,
        tempfile.TemporaryFile() as file,
    ):
        edgc = OutputFile("the temporary .edgc file", file)
        encoded = encode_audio(codec, audio, edgc, stages=stages, mono=mono, progress=progress)
        edgc.seek(0)
        return encoded, decode_packets(codec, Reader(file), output, progress=progress)


def encode_audio(
    codec: Codec, audio: AudioReader, file: Writable, *, stages: int, mono: bool = False, progress: Progress = silent
) -> Report:
    """Encode all blocks of `audio` into `file`, to which nothing is written before there is audio."""
    start = time.perf_counter()
    blocks = audio.blocks()
    first = next(blocks, None)
    if first is None:
        raise AudioError(f"{audio.name}: holds no samples")
    channels = 1 if mono else audio.channels
    header = make_header(codec, audio.sample_rate, channels, stages)
    stream = codec.encoder_stream(stages=stages, channels=channels, frames_per_packet=header.frames_per_packet)
    resampler = Resampler(audio.sample_rate, codec.sample_rate, channels)
    samples = 0
    total = None if audio.samples is None else audio.samples / audio.sample_rate
    with Writer(file, header) as writer:
        for block in chain([first], blocks):
            mixed = block.mean(axis=0, keepdims=True, dtype=np.float32) if mono else block
            for packet in stream.push(resampler.push(mixed)):
                writer.write(packet)
            samples += block.shape[1]
            progress("seconds encoded", samples / audio.sample_rate, total)
        last = resampler.push(np.zeros((channels, 0), np.float32), last=True)
        for packet in stream.push(last) + stream.flush():
            writer.write(packet)
        writer.samples = samples
    return _report(header, samples, writer, time.perf_counter() - start)


def decode_packets(codec: Codec, reader: Reader, output: Output, *, progress: Progress = silent) -> Report:
    """Decode all packets of `reader` into `output`, at the rate and length of the audio that was encoded."""
    start = time.perf_counter()
    header = reader.header
    check_header(codec, header)
    samples = 0
    # One block is held back: only the end record says where the last one ends.
    held = np.zeros((header.channels, 0), np.float32)
    with AudioWriter(output, header.sample_rate, header.channels) as writer:
        for block in _decoded(codec, reader):
            writer.write(held)
            samples += held.shape[1]
            held = block
            progress("seconds decoded", samples / header.sample_rate, None)
        if reader.damage is None and reader.samples is not None:
            rest = reader.samples - samples
            # Two resamplers may round their lengths against each other by a sample or two.
            slack = 2 + 2 * header.sample_rate // header.codec_rate
            if rest < 0 or rest > held.shape[1] + slack:
                reader.damage = "the end record contradicts the packets"
            else:
                held = np.pad(held[:, :rest], ((0, 0), (0, max(0, rest - held.shape[1]))))
        samples += held.shape[1]
        if not samples:
            raise BitstreamError(reader.damage or "holds no audio")
        writer.write(held)
    return _report(header, samples, reader, time.perf_counter() - start, reader.damage)


def make_header(codec: Codec, sample_rate: int, channels: int, stages: int) -> Header:
    """The header of a file at this stage count, with packets of half a second."""
    m = codec.manifest
    frames = min(255, max(1, int(_PACKET_SECONDS * m.frame_rate)))
    while frames > 1 and codec.packet_format(channels=channels).payload_size(stages, frames) > MAX_PACKET:
        frames //= 2
    return Header(
        fingerprint=codec.fingerprint,
        bundle=m.name,
        codec_rate=m.sample_rate,
        frame_size=m.frame_size,
        sample_rate=sample_rate,
        channels=channels,
        stages=stages,
        code_bits=m.quantizer.code_bits,
        frames_per_packet=frames,
        stream_channels=m.channels,
        layout=m.layout,
    )


def check_header(codec: Codec, header: Header) -> None:
    """Refuse a file that another bundle made, naming both."""
    m = codec.manifest
    if header.fingerprint != codec.fingerprint:
        raise BitstreamError(
            f"made with bundle {header.bundle!r} ({header.fingerprint.hex()}), "
            f"not with {m.name!r} ({codec.fingerprint.hex()}); give the right one with --bundle"
        )
    ours = (m.sample_rate, m.frame_size, m.quantizer.code_bits, m.channels, m.layout)
    theirs = (header.codec_rate, header.frame_size, header.code_bits, header.stream_channels, header.layout)
    if theirs != ours or header.stages > codec.max_stages:
        raise BitstreamError(f"the header contradicts bundle {m.name!r}")


@contextmanager
def open_edgc(source: str) -> Iterator[BinaryIO]:
    """An .edgc file for reading, `-` for standard input."""
    with ExitStack() as stack:
        try:
            file: BinaryIO = sys.stdin.buffer if source == "-" else stack.enter_context(Path(source).open("rb"))
        except OSError as error:
            raise BitstreamError(f"{source}: {error.strerror}") from None
        yield file


def _decoded(codec: Codec, reader: Reader) -> Iterator[NDArray[np.float32]]:
    """Audio [channels, samples] at the file's rate, the delay removed."""
    header = reader.header
    stream = codec.decoder_stream(channels=header.channels)
    resampler = Resampler(header.codec_rate, header.sample_rate, header.channels)
    skip = stream.delay
    pending: NDArray[np.float32] | None = None  # one packet back: the resampler must be told which is the last
    for packet in reader:
        if pending is not None:
            yield resampler.push(pending)
        audio = stream.push(packet).reshape(header.channels, -1)
        pending = audio[:, skip:]
        skip = max(0, skip - audio.shape[1])
    if pending is not None:
        rest = stream.flush().reshape(header.channels, -1)[:, skip:]
        yield resampler.push(np.concatenate([pending, rest], axis=1), last=True)


def _checked_whole(file: BinaryIO) -> BinaryIO:
    """A file at its start again, found sound to its end; a pipe is copied to a temporary file first."""
    if not file.seekable():
        file = _copied(file)
    reader = Reader(file)
    for _ in reader:
        pass
    if reader.damage is not None:
        raise BitstreamError(f"{reader.damage}; refused (--strict)")
    file.seek(0)
    return file


def _copied(file: BinaryIO) -> BinaryIO:
    """A temporary file of all that a pipe holds, at its start."""
    copy = tempfile.TemporaryFile()  # noqa: SIM115 (closed when it is collected)
    output = OutputFile("a temporary copy of the input", copy)
    while True:
        try:
            piece = file.read(1 << 16)
        except OSError as error:
            raise BitstreamError(f"cannot read: {error.strerror or error}") from None
        if not piece:
            output.seek(0)
            return copy
        output.write(piece)


def _load_named(header: Header, device: Device, threads: int) -> Codec:
    """The shipped bundle that a file names; never a path, for the name comes from the file."""
    if header.bundle not in shipped_bundles():
        raise BitstreamError(f"made with bundle {header.bundle!r}, which is not shipped; give its folder with --bundle")
    return load(header.bundle, device=device, threads=threads)


def _input_name(source: str) -> str:
    return "standard input" if source == "-" else os.fspath(source)


def _report(header: Header, samples: int, file: Reader | Writer, elapsed: float, damage: str | None = None) -> Report:
    seconds = samples / header.sample_rate
    return Report(
        seconds=seconds,
        sample_rate=header.sample_rate,
        channels=header.channels,
        stages=header.stages,
        payload_kbps=file.payload_bytes * 8 / seconds / 1000,
        file_kbps=file.bytes * 8 / seconds / 1000,
        file_bytes=file.bytes,
        speed=seconds / elapsed,
        damage=damage,
    )
