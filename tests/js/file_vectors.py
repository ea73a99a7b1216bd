"""Files, sound and damaged, and what the Python runtime finds in them."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import edgecodec
import numpy as np
from edgecodec.bitstream import Header, Reader, Writer
from edgecodec.chunk_coder import ChunkCoder
from edgecodec.chunks import Chunk
from edgecodec.edgc_header import read_header
from edgecodec.files.edgc import chunk_coder
from edgecodec.files.encoding import Rate
from edgecodec.files.in_memory import decode_clip, encode_clip
from edgecodec.layout import Layout
from edgecodec.packets import Packet
from store import BUNDLES, TESTS, Store, clip, codes_json, flipped, random_codes, said


def file_vectors(store: Store) -> list[dict[str, Any]]:
    """Files of the shipped bundle, at fixed stage counts and of variable rate, and what they hold."""
    codec, audio = edgecodec.load(BUNDLES["speech"]), clip()
    rates = [("speech", Rate(stages=n), audio[None]) for n in (1, 2, 4, 8, 16)]
    rates += [("speech", Rate(stages=3), np.stack([audio, audio[::-1]])), ("speech", Rate(kbps=3.0), audio[None])]
    made = []
    for name, rate, sound in rates:
        data = encode_clip(codec, sound, rate)
        made.append(
            {
                "bundle": name,
                "stages": rate.stages,
                "audio": [store.put(row) for row in sound],
                "file": store.put(data),
                "codes": [codes_json(packet.codes) for packet in packets_of(codec, data)],
                "decoded": store.put(decode_clip(codec, data)),
            }
        )
    older = TESTS / "runtime" / "version1.edgc"
    tiny = edgecodec.load(BUNDLES["tiny"])
    reader = Reader(io.BytesIO(older.read_bytes()))
    packets = [packet for packet in reader if isinstance(packet, Packet)]
    made.append(
        {
            "bundle": "tiny",
            "stages": None,
            "file": store.put(older.read_bytes()),
            "codes": [codes_json(packet.codes) for packet in packets],
            "samples": reader.samples,
            "older": replace(reader.header, version=1).to_bytes().hex(),
            "decoded": store.put(decode_clip(tiny, older.read_bytes())) if fits(tiny, reader.header) else None,
        }
    )
    return made


def fits(codec: edgecodec.Codec, header: Header) -> bool:
    """Whether a file is of this codec and its rate, so that nothing is resampled."""
    return header.fingerprint == codec.fingerprint and header.sample_rate == codec.sample_rate


def packets_of(codec: edgecodec.Codec, data: bytes) -> list[Packet]:
    """The packets of a file."""
    reader = Reader(io.BytesIO(data))
    return chunk_coder(codec, reader.header).decode([item for item in reader if isinstance(item, Chunk)])


def damage_vectors(store: Store) -> list[dict[str, Any]]:
    """A sound file spoilt in many ways, and what the reader finds in each."""
    rng, data = np.random.default_rng(2), many_chunks()
    size = int.from_bytes(data[5:7], "little")
    ways: list[bytes] = [data, data[:size], data[:-1], data[:-21], data + b"x", data[:200] + data[260:]]
    ways += [data[:150] + bytes(rng.integers(0, 256, 400).astype(np.uint8)) + data[150:], data + data[size:]]
    for _ in range(150):
        at, end = sorted(rng.integers(size, len(data), 2).tolist())
        kind = rng.integers(4)
        if kind == 0:
            ways.append(flipped(data, at))
        elif kind == 1:
            ways.append(data[:at] + data[end:])
        elif kind == 2:
            ways.append(data[:at])
        else:
            ways.append(data[:at] + data[at:end][::-1] + data[end:])
    return [{"file": store.put(way), "found": verdict(way)} for way in ways]


def many_chunks() -> bytes:
    """Forty chunks of five frames, told at even frequencies."""
    rng = np.random.default_rng(3)
    header = Header(bytes(range(8)), "näme", 8000, 16, 44_100, 2, 4, 5, 5)
    file, coder = io.BytesIO(), ChunkCoder(header)
    with Writer(file, header) as writer:
        for i in range(40):
            codes = random_codes(rng, Layout(), 2, 1 + i % 4, 5 if i < 39 else 2, 5)
            writer.write(coder.encode([Packet(i, codes)])[0])
        writer.samples = 15_000
    return file.getvalue()


def verdict(data: bytes) -> dict[str, Any]:
    """What the reader says of a file, straight on and from chunk 7 on."""
    found = []
    for first in (0, 7):
        reader = Reader(io.BytesIO(data))
        if first:
            reader.skip_to(first)
        items = [[item.sequence, item.frames, item.stages] for item in reader]
        found.append([items, reader.damage, reader.samples, reader.lost_at_end, reader.passed])
    return {"from0": found[0], "from7": found[1]}


def refused_headers() -> list[list[str]]:
    """Beginnings of files that are refused, and why."""
    data = many_chunks()
    size = int.from_bytes(data[5:7], "little")
    bad = [
        b"",
        b"ED",
        b"RIFF....",
        b"ECDC....",
        b"\x93NUMPY",
        data[:6],
        data[: size - 1],
        data[:4] + b"\x03" + data[5:],
    ]
    bad += [data[:4] + b"\0" + data[5:], *(flipped(data[:size], i) for i in range(4, size))]
    return [[spoilt.hex(), said(read_header, io.BytesIO(spoilt).read)] for spoilt in bad]
