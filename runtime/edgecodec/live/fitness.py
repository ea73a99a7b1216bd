"""Whether a bundle is fit for live sound: how late it comes, and whether frames are coded faster than they last."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace

import numpy as np

from ..codec import Codec
from ..packets import Packet

LATEST_MS = 400.0  # of the codec alone; beyond it talk is no longer possible (ITU-T G.114)
MOST_OF_A_FRAME = 0.8  # that coding it may take; the rest is for everything else
_FRAMES, _PATIENCE = 10, 1.0  # to measure, and seconds after which fewer must do


@dataclass(frozen=True)
class Fitness:
    """What live sound through a codec costs, in milliseconds; 0 for what a command does not do."""

    bundle: str
    frame_ms: float  # how long a frame lasts
    encode_ms: float
    decode_ms: float
    buffering_ms: float
    algorithmic_ms: float

    def complaint(self) -> str | None:
        """One line that says what is not fit, with figures; None where all is."""
        took, wrong = self.encode_ms + self.decode_ms, []
        late = self.buffering_ms + self.algorithmic_ms
        if late > LATEST_MS:
            parts = f"{self.buffering_ms:.0f} buffering, {self.algorithmic_ms:.0f} algorithmic"
            wrong.append(f"it comes {late:.0f} ms late ({parts})")
        if took > MOST_OF_A_FRAME * self.frame_ms:
            wrong.append(f"a frame of {self.frame_ms:.1f} ms takes {took:.1f} ms here")
        return f"{self.bundle} is not fit for live sound: {' and '.join(wrong)}" if wrong else None


def measure_fitness(
    codec: Codec, stages: int, *, variable: bool = False, encoding: bool = True, decoding: bool = True
) -> Fitness:
    """Code a few frames of noise as live sound does; takes about a second at most.

    Args:
        codec: whose bundle it is.
        stages: to code with.
        variable: whether the rate is.
        encoding: whether the command encodes; if not, one frame is encoded, to have one to decode.
        decoding: whether the command decodes.
    """
    m = codec.manifest
    encoder = codec.encoder_stream(stages=stages, after_silence=True, variable=variable)
    decoder = codec.decoder_stream(after_silence=True) if decoding else None
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, (_FRAMES + 1, codec.frame_size))
    packets: list[Packet] = []
    begin, encode, decode = time.perf_counter(), [], []
    for i, block in enumerate(noise):
        start = time.perf_counter()
        if encoding or not packets:
            packets = encoder.push(block)
        coded = time.perf_counter()
        if decoder is not None:
            for packet in packets:
                decoder.push(replace(packet, sequence=i))
        end = time.perf_counter()
        encode.append(coded - start)
        decode.append(end - coded)
        if end - begin > _PATIENCE and len(encode) > 1:
            break
    encode_ms, decode_ms = (1000 * statistics.median(times[1:]) for times in (encode, decode))  # the first one warms up
    return Fitness(
        bundle=m.name,
        frame_ms=1000 * m.frame_size / m.sample_rate,
        encode_ms=encode_ms if encoding else 0.0,
        decode_ms=decode_ms if decoding else 0.0,
        buffering_ms=1000 * m.latency.buffering / m.sample_rate,
        algorithmic_ms=1000 * (m.delay + m.ahead) / m.sample_rate,
    )
