"""Clips to the bytes of .edgc files and back, in memory: what files do, for those who have arrays."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from ..bitstream import Reader, Writer
from ..codec import Codec
from ..errors import AudioError, BitstreamError
from ..manifest import Effort
from ..samples import as_audio
from .decoding import WHOLE, decoded
from .edgc import check_header, chunk_coder, make_header
from .encoding import ChunkStream, Rate
from .level import amplified, gain_of


def encode_clip(
    codec: Codec, audio: NDArray[np.float32], rate: Rate, *, effort: Effort = "fast", gain: int | None = None
) -> bytes:
    """The bytes of an .edgc file of audio [channels, samples] at the rate of the codec.

    `gain`: dB by which it is made louder in between; by default what quiet audio wants (`level.gain_of`).

    Raises:
        AudioError: no samples, a wrong shape, or samples that are not finite.
    """
    x = as_audio(audio)
    if x.ndim != 2 or not x.size:
        raise AudioError(f"audio must be [channels, samples] and not empty, not of shape {list(x.shape)}")
    gain = gain_of([x], codec.sample_rate) if gain is None else gain
    header = make_header(codec, codec.sample_rate, len(x), rate.stages or codec.max_stages, gain)
    stream = ChunkStream(codec, header, chunk_coder(codec, header), rate, effort=effort)
    file = io.BytesIO()
    with Writer(file, header) as writer:
        for chunk in stream.push(amplified(x, header.amplitude)) + stream.flush():
            writer.write(chunk)
        writer.samples = x.shape[1]
    return file.getvalue()


def decode_clip(codec: Codec, data: bytes) -> NDArray[np.float32]:
    """Audio [channels, samples] of the bytes of a sound .edgc file, at the rate that it restores.

    Raises:
        BitstreamError: another bundle's file, or a damaged one.
    """
    reader = Reader(io.BytesIO(data))
    check_header(codec, reader.header)
    audio = np.concatenate([*decoded(codec, reader, chunk_coder(codec, reader.header), WHOLE)], axis=1)
    if reader.damage or reader.samples is None:
        raise BitstreamError(reader.damage[0] if reader.damage else "no end record")
    return audio[:, : reader.samples]
