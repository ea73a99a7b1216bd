"""An .edgc file and the bundle that it names: opening, checking one against the other, and the coder of its chunks."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from ..bitstream import MAX_PACKET, Header, Reader
from ..bundle import shipped_bundles
from ..chunk_coder import ChunkCoder
from ..codec import Codec, load
from ..entropy_model import NO_MODEL
from ..errors import BitstreamError
from ..samples import check_channels
from ..sessions import Device
from .output import OutputFile

_CHUNK_SECONDS = 1.0  # at most: what one damaged chunk costs, and what a pipe waits for


def make_header(codec: Codec, sample_rate: int, channels: int, stages: int, gain: int = 0) -> Header:
    """The header of a file of at most so many stages, with chunks of a second; `gain` as in `Header`."""
    check_channels(channels)
    m = codec.manifest
    frames = min(255, max(1, int(_CHUNK_SECONDS * m.frame_rate)))
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
        model=codec.bundle.model_fingerprint,
        gain=gain,
    )


def chunk_coder(codec: Codec, header: Header) -> ChunkCoder:
    """What makes and reads the chunks of a file of this codec."""
    return ChunkCoder(header, None if header.model == NO_MODEL else codec.bundle.predictor)


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
    if header.model not in (NO_MODEL, codec.bundle.model_fingerprint):
        raise BitstreamError(
            f"its codes are told by an entropy model ({header.model.hex()}) that bundle {m.name!r} does not have; "
            "give the bundle that made it with --bundle"
        )


@contextmanager
def open_edgc(source: str) -> Iterator[BinaryIO]:
    """An .edgc file for reading, `-` for standard input."""
    with ExitStack() as stack:
        if source == "-" and sys.stdin is None:
            raise BitstreamError("standard input: closed")
        try:
            file: BinaryIO = sys.stdin.buffer if source == "-" else stack.enter_context(Path(source).open("rb"))
        except OSError as error:
            raise BitstreamError(f"{source}: {error.strerror}") from None
        yield file


def checked_whole(file: BinaryIO) -> BinaryIO:
    """A file at its start again, found sound to its end; a pipe is copied to a temporary file first."""
    if not file.seekable():
        file = _copied(file)
    reader = Reader(file)
    for _ in reader:
        if reader.damage:
            break
    if reader.damage:
        raise BitstreamError(f"{reader.damage[0]}; refused (--strict)")
    file.seek(0)
    return file


def load_named(header: Header, device: Device = "cpu", threads: int = 1) -> Codec:
    """The shipped bundle that a file names; never a path, for the name comes from the file."""
    if header.bundle not in shipped_bundles():
        raise BitstreamError(f"made with bundle {header.bundle!r}, which is not shipped; give its folder with --bundle")
    return load(header.bundle, device=device, threads=threads)


def input_name(source: str) -> str:
    """What to call an input in messages."""
    return "standard input" if source == "-" else os.fspath(source)


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
