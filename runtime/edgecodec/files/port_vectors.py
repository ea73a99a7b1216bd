"""Vectors for ports: a clip and all that a codec makes of it on the way, as arrays that any language reads.

audio -> latents, states of the first frames -> codes -> audio        for whole clips, at several stage counts
audio -> packets, their stage count changed in mid-stream -> one lost, one recovered -> audio
audio -> an .edgc file of fixed stages, and one of variable rate
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codec import Codec
from ..sessions import Sessions
from .audio import Resampler, open_audio
from .encoding import Rate
from .in_memory import decode_clip, encode_clip

SECONDS = 3.0
_STAGES = 1, 2, 4, 8  # and all
_STATES = 5  # frames after which states are shown
_FRAMES, _REDUNDANCY = 2, 2  # of the stream's packets

Arrays = dict[str, NDArray[Any]]


def port_vectors(codec: Codec, audio: NDArray[np.float32]) -> Arrays:
    """What the codec makes of audio [channels, samples] at its rate, the channels of one stream."""
    found: Arrays = {"audio": audio[None]}
    found |= _of_clips(codec, audio)
    m = codec.manifest
    if m.start_frames.encoder == m.start_frames.decoder == 1 and not (m.lookahead.encoder or m.lookahead.decoder):
        found |= _of_states(codec, audio)
    return found | _of_streams(codec, audio) | _of_files(codec, audio)


def to_npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """A zip of .npy arrays, nothing compressed."""
    buffer = io.BytesIO()
    named: dict[str, Any] = dict(arrays)
    np.savez(buffer, **named)
    return buffer.getvalue()


def to_json(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """For each array its type, its shape, and its bytes in base64: little-endian, the last index fastest."""
    twin = {}
    for name, array in arrays.items():
        plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        data = base64.b64encode(plain.tobytes()).decode()
        twin[name] = {"type": array.dtype.name, "shape": list(array.shape), "base64": data}
    return json.dumps(twin, indent=1).encode()


def _of_clips(codec: Codec, audio: NDArray[np.float32]) -> Arrays:
    """`latents` [1, T, D]; `codes_<n>` [1, lines, T] and `decoded_<n>` [1, C, samples] of n stages."""
    stream = codec.latent_stream(channels=len(audio))
    found: Arrays = {"latents": np.concatenate([stream.push(audio), stream.flush()], axis=1)}
    for n in sorted({min(n, codec.max_stages) for n in (*_STAGES, codec.max_stages)}):
        found[f"codes_{n}"] = codes = codec.encode(audio, stages=n)
        found[f"decoded_{n}"] = codec.decode(codes, samples=audio.shape[1])
    return found


def _of_states(codec: Codec, audio: NDArray[np.float32]) -> Arrays:
    """`encoder_states` and `decoder_states` [frames, size] after each of the first frames, one frame a call."""
    sessions, size = Sessions(codec.bundle, "cpu", 1), codec.frame_size
    encoder, decoder = (sessions.zero_state(graph, 1) for graph in ("encoder", "decoder"))
    states: dict[str, list[NDArray[np.float32]]] = {"encoder_states": [], "decoder_states": []}
    for start in range(0, min(_STATES * size, audio.shape[1] // size * size), size):
        latents, encoder = sessions.analyze(audio[None, :, start : start + size], encoder)
        codes = sessions.quantize(latents, codec.max_stages)
        _, decoder = sessions.synthesize(sessions.latents(codes), decoder)
        states["encoder_states"].append(encoder[0].copy())
        states["decoder_states"].append(decoder[0].copy())
    return {name: np.stack(each) for name, each in states.items()}


def _of_streams(codec: Codec, audio: NDArray[np.float32]) -> Arrays:
    """`packets`, one behind the other, with `packet_ends` and `packet_stages`; `heard` without those that are `lost`.

    Half-way the stage count changes. Of the lost ones the first is recovered from its successor; of the two in a row
    that follow, the first is concealed and the second recovered.
    """
    high, low = min(4, codec.max_stages), min(2, codec.max_stages)
    encoder = codec.encoder_stream(
        stages=high, channels=len(audio), frames_per_packet=_FRAMES, redundancy=min(_REDUNDANCY, low)
    )
    middle = audio.shape[1] // 2
    packets = encoder.push(audio[:, :middle])
    encoder.stages = low
    packets += encoder.push(audio[:, middle:]) + encoder.flush()
    form, third = codec.packet_format(channels=len(audio)), len(packets) // 3
    data = [form.to_bytes(packet) for packet in packets]
    lost = sorted({third, 2 * third, 2 * third + 1} & set(range(1, len(packets) - 1)))
    decoder, heard = codec.decoder_stream(channels=len(audio)), []
    for i, packet in enumerate(packets):
        following = None if i + 1 in (*lost, len(packets)) else packets[i + 1]
        sound = decoder.conceal(following) if i in lost else decoder.push(packet)
        heard.append(sound.reshape(len(audio), -1))
    heard.append(decoder.flush().reshape(len(audio), -1))
    return {
        "packets": np.frombuffer(b"".join(data), np.uint8),
        "packet_ends": np.cumsum([len(one) for one in data]),
        "packet_stages": np.array([packet.stages for packet in packets]),
        "lost": np.array(lost, np.int64),
        "heard": np.concatenate(heard, axis=1),
    }


def _of_files(codec: Codec, audio: NDArray[np.float32]) -> Arrays:
    """`edgc_fixed` and `edgc_variable`, bytes of files, and `edgc_fixed_decoded`, … [C, samples]."""
    rates = {"fixed": Rate(stages=min(4, codec.max_stages)), "variable": Rate.of(codec, quality=5.0)}
    found: Arrays = {}
    for name, rate in rates.items():
        data = encode_clip(codec, audio, rate)
        found[f"edgc_{name}"] = np.frombuffer(data, np.uint8)
        found[f"edgc_{name}_decoded"] = decode_clip(codec, data)
    return found


def read_clip(codec: Codec, path: str) -> NDArray[np.float32]:
    """The first seconds of an audio file at the codec's rate, [channels of one stream, samples].

    Raises:
        AudioError: audio that cannot be read.
    """
    with open_audio(path) as reader:
        heard = reader.read(round(SECONDS * reader.sample_rate))
        audio = Resampler(reader.sample_rate, codec.sample_rate, reader.channels).push(heard, last=True)
    return np.ascontiguousarray(np.resize(audio, (codec.channels, audio.shape[1])))
