"""What coding costs in CPU time of one thread: `coding_speed.py AUDIO [BUNDLE]`, a minute of speech.

Files with everything on, at two bitrates, as × real time; and what packets take to be coded and read again, without
the networks. Medians, and the least of many for packets, whose times are too short for a busy machine.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import edgecodec
import numpy as np
from edgecodec.files.at_codec_rate import AtCodecRate
from edgecodec.files.audio import open_audio
from edgecodec.files.encoding import Rate
from edgecodec.files.in_memory import decode_clip, encode_clip
from edgecodec.packet_coder import PacketCoder

KBPS, REPEATS = (3.0, 6.0), 5
PACKET_FRAMES, PACKETS = (4, 8), 200


def seconds(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def main(path: str, bundle: str = "speech") -> None:
    codec = edgecodec.load(bundle)
    with open_audio(path) as audio:
        clip = np.concatenate([*AtCodecRate(audio, codec.sample_rate, mono=True).blocks()], axis=1)
    length = clip.shape[1] / codec.sample_rate
    for kbps in KBPS:
        rate = Rate(kbps=kbps)
        file = encode_clip(codec, clip, rate, effort="best")
        works = {
            "decode": lambda file=file: decode_clip(codec, file),
            "encode fast": lambda rate=rate: encode_clip(codec, clip, rate),
            "encode best": lambda rate=rate: encode_clip(codec, clip, rate, effort="best"),
        }
        for name, work in works.items():
            print(f"{kbps:g} kbps, {name}: {length / statistics.median(seconds(work) for _ in range(REPEATS)):.0f} ×")
    coder, stages = PacketCoder(codec.code_coder(), codec.max_stages), codec.stages(bitrate=KBPS[-1])
    codes = codec.encode(clip, stages=stages)
    for frames in PACKET_FRAMES:
        packets = [codes[:, :, i : i + frames].copy() for i in range(0, PACKETS * frames, frames)]
        coded = [coder.encode(packet) for packet in packets]
        encode = min(seconds(lambda packet=packet: coder.encode(packet)) for packet in packets for _ in range(REPEATS))
        decode = min(
            seconds(lambda n=frames, data=data: coder.decode(data, n)) for data in coded for _ in range(REPEATS)
        )
        print(
            f"packets of {frames} frames, {stages} stages: {1000 * encode:.2f} ms to code, {1000 * decode:.2f} to read"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
