"""What a live page has kept of all that went through it, beside what Python makes of the same."""

from __future__ import annotations

import base64
import io

import edgecodec
import numpy as np
from edgecodec.bitstream import Reader
from edgecodec.files.edgc import chunk_coder
from edgecodec.files.in_memory import decode_clip

SECONDS = 20  # of live sound, in which each of these stage counts has its turn
STAGES = [8, 1, 16, 4, 11]
SIZE = 2  # frames of a packet, as the page has them unless something else is chosen
# What went into the encoder and what came out, as base64 of samples and of codes behind their stage count.
OBSERVED = """async () => {
  const { input, codes } = await window.observed.client.call("observed");
  const base64 = (data) => {
    const bytes = new Uint8Array(data.buffer);
    let text = "";
    for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
    return btoa(text);
  };
  return { input: base64(input), codes: base64(Int32Array.from(codes.flatMap((own) => [own.length, ...own]))) };
}"""


def codes_of_page(observed: dict[str, str], stages: list[int]) -> list[np.ndarray]:
    """Codes of each frame that a page made of speech at these stage counts: they are Python's."""
    input_ = np.frombuffer(base64.b64decode(observed["input"]), np.float32)
    assert np.abs(input_).max() > 0.05  # speech, not silence
    codes = _split(np.frombuffer(base64.b64decode(observed["codes"]), np.int32))
    assert {len(frame) for frame in codes} >= set(stages)
    assert len(codes) == len(input_) // (320 * SIZE) * SIZE >= 60  # of 1,500, on a machine that others use as well
    ours = _coded(input_, codes)
    equal = np.concatenate([a == b for a, b in zip(codes, ours, strict=True)])
    print(f"{equal.mean():.2%} of {len(equal)} codes equal, {_decided_alike(codes, ours):.3%} decided alike")
    assert _decided_alike(codes, ours) >= 0.999
    assert _decided_alike(codes[1:], ours) < 0.9  # those of a frame late
    return codes


def holds(codes: list[np.ndarray], file: bytes) -> bool:
    """Whether a recording that began soon after the first frame holds most of these codes."""
    recorded = codes_of_file(file)
    begins = [begin for begin in range(200) if np.array_equal(codes[begin], recorded[0])]  # silent frames are alike
    same = any(all(map(np.array_equal, codes[begin:], recorded)) for begin in begins)
    return same and len(recorded) > 0.5 * len(codes)


def _decided_alike(codes: list[np.ndarray], ours: list[np.ndarray]) -> float:
    """Share of equal codes, of those up to the first in each frame that differs.

    A near tie falls the other way on wasm about twice in 20 s. The stages behind it code another rest, so that one tie
    can take 16 codes with it, and a share of all codes would say where ties fell rather than how many.
    """
    decided = alike = 0
    for theirs, own in zip(codes, ours, strict=False):
        equal = theirs[: len(own)] == own[: len(theirs)]
        same = len(equal) if equal.all() else int(equal.argmin())
        alike += same
        decided += min(same + 1, len(equal))
    return alike / decided


def _split(written: np.ndarray) -> list[np.ndarray]:
    """Codes of each frame, of numbers in which each frame's count comes before them."""
    frames, at = [], 0
    while at < len(written):
        frames.append(written[at + 1 : at + 1 + written[at]])
        at += 1 + written[at]
    return frames


def _coded(audio: np.ndarray, codes: list[np.ndarray]) -> list[np.ndarray]:
    """What Python's encoder makes of the same audio at the same stage counts."""
    codec = edgecodec.load("speech")
    stream, made = codec.encoder_stream(stages=8, after_silence=True), []
    for i, frame in enumerate(codes):
        stream.stages = len(frame)
        made += stream.push(audio[320 * i : 320 * (i + 1)])
    return [packet.codes.ravel() for packet in made]


def codes_of_file(data: bytes) -> list[np.ndarray]:
    """Codes of each frame of a file of one channel."""
    codec = edgecodec.load("speech")
    assert len(decode_clip(codec, data)[0]) > 0
    reader = Reader(io.BytesIO(data))
    packets = chunk_coder(codec, reader.header).decode(list(reader))
    assert not reader.damage
    return [frame[frame >= 0] for packet in packets for frame in packet.codes[0].T]
