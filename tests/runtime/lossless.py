"""Hours of codes to chunks and back, each code compared: `python tests/runtime/lossless.py --hours 10`.

Codes are those of real speech, cut into seconds at random places, with every stage count in turn: one for all frames,
then counts that change at random from frame to frame. Every tenth batch has another layout, as adapted codecs have
them, with random codes and a model that was never trained.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path

import edgecodec
import numpy as np
import soundfile
from edgecodec.chunk_coder import ChunkCoder
from edgecodec.edgc_header import Header
from edgecodec.entropy_model import EntropyModel
from edgecodec.files.edgc import chunk_coder, make_header
from edgecodec.layout import Layout
from edgecodec.packets import Packet
from test_code_coder import random_arrays, random_codes

AUDIO = Path(__file__).parents[1] / "audio"
BATCH = 64  # chunks
LAYOUTS = [(Layout(), 4, 16, 1), (Layout(1, (1, 2, 4)), 3, 256, 2), (Layout(2, (3, 3)), 2, 1000, 1)]


@dataclass
class Tally:
    """What was found."""

    frames: int = 0
    codes: int = 0
    wrong: int = 0
    chunks: int = 0
    unlike: int = 0  # chunks of other bytes when they are encoded alone
    size: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"encode": 0.0, "decode": 0.0})


def real_codes(codec: edgecodec.Codec) -> np.ndarray:
    """All stages' codes [lines, T] of the clips."""
    clips = [soundfile.read(path, dtype="float32")[0] for path in sorted(AUDIO.glob("*.flac"))]
    return np.concatenate([codec.encode(clip, stages=codec.max_stages)[0] for clip in clips], axis=1)


def counts_of(rng: np.random.Generator, turn: int, frames: int, most: int) -> np.ndarray:
    """Stage counts [frames]: in even turns one for all, else random ones up to it."""
    stages = 1 + turn // 2 % most
    return np.full(frames, stages) if turn % 2 == 0 else rng.integers(1, stages + 1, frames)


def speech_batch(rng: np.random.Generator, turn: int, codes: np.ndarray, size: int) -> list[Packet]:
    """A second each, from anywhere in the codes; the last one is shorter."""
    packets = []
    for i in range(BATCH):
        frames = size if i < BATCH - 1 else int(rng.integers(1, size + 1))
        places = (rng.integers(codes.shape[1]) + np.arange(frames)) % codes.shape[1]
        counts = counts_of(rng, turn + 2 * i * (turn % 4 > 1), frames, len(codes))
        packets.append(Packet(i, Layout().cut(codes[None][:, :, places], counts[None])))
    return packets


def other_batch(rng: np.random.Generator, turn: int) -> tuple[ChunkCoder, list[Packet]]:
    """Another layout, its codes random."""
    layout, stages, entries, streams = LAYOUTS[turn % len(LAYOUTS)]
    model = EntropyModel(random_arrays(stages, entries, turn))
    header = Header(
        fingerprint=bytes(8),
        bundle="other",
        codec_rate=8000,
        frame_size=16,
        sample_rate=8000,
        channels=streams,
        stages=stages,
        code_bits=(entries - 1).bit_length(),
        frames_per_packet=50,
        layout=layout,
        model=b"untaught",
    )
    packets = []
    for i in range(BATCH):
        own = 1 + int(rng.integers(stages))
        codes = random_codes(layout, streams, own, 50, entries, bool(i % 2), int(rng.integers(1 << 30)))
        packets.append(Packet(i, codes, layout=layout))
    return ChunkCoder(header, model), packets


def check(coder: ChunkCoder, packets: list[Packet], tally: Tally) -> None:
    """Encode and decode a batch, and one chunk of it alone."""
    begin = time.process_time()
    chunks = coder.encode(packets)
    encoded = time.process_time()
    again = coder.decode(chunks)
    tally.seconds["encode"] += encoded - begin
    tally.seconds["decode"] += time.process_time() - encoded
    for packet, chunk, back in zip(packets, chunks, again, strict=True):
        own = packet.codes[:, : back.codes.shape[1]]
        tally.codes += int((packet.codes >= 0).sum())
        tally.wrong += int((own != back.codes).sum() + (packet.codes[:, back.codes.shape[1] :] >= 0).sum())
        tally.frames += packet.frames
        tally.size += len(chunk.body)
    tally.chunks += len(chunks)
    one = tally.chunks % len(packets)
    tally.unlike += coder.encode([packets[one]])[0] != chunks[one]


def main() -> None:
    """Say how it went; exit code 1 where a code came back wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, tally, begin = np.random.default_rng(options.seed), Tally(), time.perf_counter()
    codec = edgecodec.load("speech")
    codes, rate = real_codes(codec), codec.manifest.frame_rate
    header = make_header(codec, codec.sample_rate, 1, codec.max_stages)
    coder, turn, others = chunk_coder(codec, header), 0, Tally()
    while tally.frames < options.hours * 3600 * rate:
        check(coder, speech_batch(rng, turn, codes, header.frames_per_packet), tally)
        if turn % 10 == 9:
            check(*other_batch(rng, turn // 10), others)
        turn += 1
        if turn % 50 == 0:
            print(f"{tally.frames / rate / 3600:.2f} h, codes wrong: {tally.wrong + others.wrong}", flush=True)
    hours = tally.frames / rate / 3600
    print(f"{hours:.2f} h of speech, {tally.chunks} chunks, {tally.codes} codes, {tally.size} bytes")
    print(f"other layouts: {others.chunks} chunks, {others.codes} codes, {others.size} bytes")
    speeds = ", ".join(f"{what} {hours * 3600 / seconds:.0f} x" for what, seconds in tally.seconds.items())
    print(
        f"codes wrong: {tally.wrong + others.wrong}; chunks unlike those encoded alone: {tally.unlike + others.unlike}"
    )
    print(f"codes and bytes alone, CPU time: {speeds} real time; {time.perf_counter() - begin:.0f} s in all")
    if tally.wrong or others.wrong or tally.unlike or others.unlike:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
