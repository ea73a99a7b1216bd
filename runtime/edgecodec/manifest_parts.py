"""What a manifest is made of: facts about the quantizer, states, delays and files of a bundle."""

from __future__ import annotations

from typing import Annotated

import msgspec

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_State = Annotated[int, msgspec.Meta(ge=0, le=1 << 24)]
_Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]


class QuantizerFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Kind (`rvq`, `vq`, `pq`, `gumbel`), entries per codebook, and stages trained."""

    kind: Text
    codebook_size: Annotated[int, msgspec.Meta(ge=2, le=65536)]
    max_stages: Annotated[int, msgspec.Meta(ge=1, le=128)]

    @property
    def code_bits(self) -> int:
        """Bits that one code takes in a packet: ⌈log2(codebook_size)⌉."""
        return (self.codebook_size - 1).bit_length()


class StateSizes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Floats that each graph carries from call to call, per stream."""

    encoder: _State
    decoder: _State


class Latency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Samples: `buffering` until a frame is full, `algorithmic` by which decoded audio lags behind the input."""

    buffering: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    algorithmic: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)]


class Lookahead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What each graph holds back until the last call of a stream: frames of latents, samples of audio."""

    encoder: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 0
    decoder: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] = 0


class StartFrames(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The least frames of each graph's first call in a stream, unless that is also the last."""

    encoder: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1
    decoder: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1


def held_back(ahead: Lookahead, start: StartFrames, frame_size: int) -> int:
    """Samples that the graphs of a stream hold back: until their first calls are full, and by their lookahead."""
    first = max(start.encoder, start.decoder + ahead.encoder) - 1
    return max(ahead.encoder * frame_size + ahead.decoder, first * frame_size)


class PartSizes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One number for each part of the codec: parameters, or multiply-accumulates per second of audio."""

    encoder: _Size
    decoder: _Size
    quantizer: _Size


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the bundle: plain name, SHA-256 in hex, and bytes."""

    file: Text
    sha256: Text
    bytes: Annotated[int, msgspec.Meta(ge=1, le=256 << 20)]


class GraphFiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The four graphs."""

    encoder: FileEntry
    quantizer_encode: FileEntry
    quantizer_decode: FileEntry
    decoder: FileEntry
