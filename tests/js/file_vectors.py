"""Files, sound and damaged, and what the Python runtime finds in them."""

from __future__ import annotations

import io
import zlib
from dataclasses import replace
from typing import Any

import edgecodec
import numpy as np
from edgecodec.bitstream import Header, Reader, Writer
from edgecodec.chunk_coder import ChunkCoder
from edgecodec.chunks import Chunk
from edgecodec.edgc_header import read_header
from edgecodec.files.edgc import chunk_coder, make_header
from edgecodec.files.encoding import FILE_WINDOW, ChunkStream, Rate
from edgecodec.files.in_memory import decode_clip
from edgecodec.layout import Layout
from edgecodec.manifest import Effort
from edgecodec.packets import Packet
from numpy.typing import NDArray
from store import BUNDLES, TESTS, Store, clip, codes_json, flipped, random_codes, said, whole_clip


def file_vectors(store: Store) -> list[dict[str, Any]]:
    """Files at fixed stage counts and of variable rate, and what they hold."""
    audio, made = clip(), []
    stereo = np.stack([audio, audio[::-1]])
    wishes: list[tuple[str, dict[str, Any], NDArray[np.float32]]] = [
        *(("speech", {"stages": n}, audio[None]) for n in (1, 2, 4, 8, 16)),
        ("speech", {"stages": 3}, stereo),
        ("speech", {"bitrate": 4.5, "constant": True}, audio[None]),
        *(("speech", {"bitrate": kbps}, audio[None]) for kbps in (0.75, 3, 11.9)),
        ("speech", {}, stereo[:, :30_000]),
        ("speech", {"bitrate": 2.9, "window": 1}, audio[None]),
        ("speech", {"bitrate": 1.5, "effort": "best"}, whole_clip()[None]),
        ("speech", {"quality": 1}, stereo[:, :30_000]),
        ("speech", {"quality": 9.5, "effort": "live"}, audio[None]),
        *((name, {"bitrate": kbps}, stereo) for name in ("tiny", "paths") for kbps in (3.1, 7.5)),
        *(("wide", {"bitrate": kbps}, stereo) for kbps in (5, 12)),
        *((name, {"quality": 5}, audio[None]) for name in ("tiny", "paths", "wide")),
        ("speech", {"stages": 4, "gain": 20}, stereo / 10),
        ("speech", {"bitrate": 2, "gain": 7}, audio[None] / 3),
        ("wide", {"bitrate": 5, "gain": 60}, stereo / 1000),
    ]
    for name, wish, sound in wishes:
        codec = edgecodec.load(BUNDLES[name])
        data = encoded(codec, sound, **wish)
        made.append(
            {
                "bundle": name,
                "options": wish,
                "fixed": "stages" in wish or "constant" in wish,
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
            "options": None,
            "file": store.put(older.read_bytes()),
            "codes": [codes_json(packet.codes) for packet in packets],
            "samples": reader.samples,
            "older": replace(reader.header, version=1).to_bytes().hex(),
            "decoded": store.put(decode_clip(tiny, older.read_bytes())) if fits(tiny, reader.header) else None,
        }
    )
    return made


def encoded(
    codec: edgecodec.Codec,
    audio: NDArray[np.float32],
    *,
    effort: Effort = "fast",
    window: float = FILE_WINDOW,
    gain: int = 0,
    **wish: Any,
) -> bytes:
    """The bytes of a file of audio [channels, samples] as `encode_clip` makes them, with a window and a gain in dB."""
    rate = Rate.of(codec, **wish)
    header = replace(make_header(codec, codec.sample_rate, len(audio), rate.stages or codec.max_stages), gain=gain)
    stream = ChunkStream(codec, header, chunk_coder(codec, header), rate, effort=effort, window=window)
    file = io.BytesIO()
    with Writer(file, header) as writer:
        for chunk in stream.push(audio * np.float32(header.amplitude)) + stream.flush():
            writer.write(chunk)
        writer.samples = audio.shape[1]
    return file.getvalue()


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


def refused_headers() -> list[list[str | None]]:
    """Beginnings of files that are refused, and why; those with a gain of 1 and 60 dB are not."""
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
    bad += [longer(data[:size], more) for more in (b"\1", b"\x3c", b"\0", b"\x3d", b"\xff", b"\1\1", b"\0\1", b"\1\0")]
    older = replace(read_header(io.BytesIO(data).read), version=1).to_bytes()
    bad += [longer(older, b"\1"), longer(older, b"\0")]
    return [[spoilt.hex(), said(read_header, io.BytesIO(spoilt).read)] for spoilt in bad]


def longer(header: bytes, more: bytes) -> bytes:
    """A header with more bytes before its checksum, sound but for them."""
    body = header[:5] + (len(header) + len(more)).to_bytes(2, "little") + header[7:-4] + more
    return body + zlib.crc32(body).to_bytes(4, "little")
